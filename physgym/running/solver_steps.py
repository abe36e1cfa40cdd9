"""`SolverSteps`: the steps of a run in this process."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from physgym.code.env_description import describe_env
from physgym.code.record import Code
from physgym.code.search import code_of
from physgym.data.constants import as_constants
from physgym.episode import episode_seed
from physgym.placement import Env
from physgym.policies import ActionPolicy
from physgym.running.run_plan import RunPlan
from physgym.running.run_record import RunRecord
from physgym.running.run_step import RunStep
from physgym.running.step_source import SimulationSteps
from physgym.running.stepped_env import SteppedEnv
from physgym.running.surrogate import SurrogateEnv
from physgym.running.timed_predictor import TimedPredictor
from physgym.sample import Sample, declaration
from physgym.scene.declared import described_scene, kept_scene
from physgym.scene.inputs import SceneInput
from physgym.vector.make import env_factories
from physgym.viewing.waiting_inputs import GivenInput
from physgym.worker.folders import Folder
from physgym.worker.given_inputs import give_input, inputs_of, with_inputs
from physgym.worker.stored_actions import StoredActionsFactory
from physgym.worker.variants import ARGUMENTS, Variants


class SolverSteps(SimulationSteps):
    """Gives steps that the simulation, or the network in its place, makes in this process.

    Args:
        plan: The episodes.
        predictor: The network.
        record: Gets the parameters of episodes.
        learned: Record of the code from whose samples the network has learned.

    Raises:
        ConfigError: The id is unknown, or the network does not fit the simulation.
        SampleError: The environment declares no samples.
    """

    def __init__(
        self, plan: RunPlan, predictor: TimedPredictor, record: RunRecord, learned: Mapping[str, Any] | None
    ) -> None:
        super().__init__(plan)
        self._predictor, self._record = predictor, record
        self._running: Iterator[RunStep] | None = None
        self._folder = Folder()
        with self._folder:
            self._every = self._environments()
            try:
                self._present = present = self._ready(self._every.select(0))
                self.check_learned(learned)
            except BaseException:
                self._every.close()
                raise
        # those of all arguments, whose spaces are equal
        self.spec, self.parameter_spec, self.surrogate = present.spec, present.parameter_spec, present.surrogate

    def _environments(self) -> Variants:
        """Return the environments, one for each of the arguments."""
        factories = env_factories(self.plan.env, self.plan.env_kwargs)
        if self.plan.surrogate:
            factories = [functools.partial(SurrogateEnv, factory, self._predictor.prepared) for factory in factories]
        if self.plan.inputs is not None:
            factories = [functools.partial(with_inputs, factory) for factory in factories]
        if self.plan.stored_episodes is not None:
            factories = [StoredActionsFactory(factory) for factory in factories]
        return Variants(factories)

    def _ready(self, env: Env) -> SteppedEnv:
        return SteppedEnv(env, self.plan, self._predictor, self._folder)

    @property
    def env(self) -> Env:
        """Return the environment of the present episode."""
        return self._present.env

    @property
    def inputs(self) -> dict[str, SceneInput]:
        """Return the inputs of a person that the simulation declares, by name."""
        return {} if self.plan.inputs is None else inputs_of(self.env.get_wrapper_attr("described_inputs")())

    def give(self, given: Sequence[GivenInput]) -> None:
        """Have inputs changed at the beginning of the next step."""
        for _, name, value in given:
            give_input(self.env, name, value)

    @property
    def folder(self) -> Folder:
        """Return the working folder of the environments."""
        return self._folder

    @property
    def constants(self) -> Mapping[str, Any]:
        """Return the simulation's constants."""
        if not self.env.has_wrapper_attr("constants"):
            return {}
        found = self.env.get_wrapper_attr("constants")
        return as_constants(found() if callable(found) else found)

    @property
    def scene(self) -> str | None:
        """Return the scene that the simulation declares."""
        return kept_scene(described_scene(self.env))

    @property
    def time_step(self) -> float | None:
        """Return the time of a step of the simulation in s; None where it is not declared."""
        found: float | None = declaration(self._every, "step_seconds")
        return found

    @cached_property
    def code(self) -> Code:
        """Return the code of the simulation."""
        return code_of(self.plan.env, self.plan.env_kwargs, describe_env(self.env))

    def enter(self, index: int) -> SteppedEnv:
        """Return the environment of an episode's arguments, which steps from now on.

        Args:
            index: Of the episode, or of its arguments.
        """
        with self._folder:
            env = self._every.select(index % len(self.plan.env_kwargs))
            if env is not self.env:
                self._present = self._ready(env)
        return self._present

    @property
    def index(self) -> int:
        """Return which of the plan's arguments the environment of the present episode has."""
        return self._every.index

    def options(self, episode: int) -> dict[str, Any] | None:
        """Return what the reset of an episode gets, by its index."""
        draw = self._present.parameters
        return None if draw is None else {"parameters": draw(episode)}

    def steps(self, after: tuple[int, int] | None, limit: int | None) -> Iterator[RunStep]:
        """Return the iterator over the steps under way, or a new one."""
        if self._running is None:
            self._running = self._solve(after)
        return self._running

    def stop(self, error: type[BaseException] | None = None) -> None:
        """Leave the episode under way."""
        self._running = None

    def close(self, error: type[BaseException] | None) -> None:
        """Close the environments."""
        with self._folder:
            self._every.close()

    def _solve(self, after: tuple[int, int] | None) -> Iterator[RunStep]:
        """Yield the steps after one of them."""
        for episode, seed, options in self._episodes(after[0] if after else 0):
            present = self.enter((options or {}).pop(ARGUMENTS, episode))
            for step in self.episode(episode, seed, present.policy(episode), options, **self.plan.limits):
                if after is None or (episode, step.transition.step) > after:
                    yield step
                elif (episode, step.transition.step) == after:
                    self._check_again(after, step.transition.sample)
            if after is not None:
                self._check_again(after, None)  # the episode ended before

    def _check_again(self, name: tuple[int, int], sample: Sample | None) -> None:
        if not self.plan.allow_changed_code:  # by which steps are others
            self._record.check_again(name, sample)

    def _episodes(self, first: int) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
        """Yield the index, the seed and the options for the reset of episodes."""
        stored = self.plan.stored_episodes
        if stored is None:
            for episode in itertools.count(first):
                options = {**(self.options(episode) or {}), **self.plan.given(episode)}
                yield episode, episode_seed(self.plan.part_seed, episode), options or None
        else:
            for episode, seed, options in stored.run(first, len(self.plan.env_kwargs)):
                yield episode, seed, {**options, **(self.options(episode) or {}), **self.plan.given(episode)}

    def episode(
        self, episode: int, seed: int, policy: ActionPolicy, options: dict[str, Any] | None, **limits: Any
    ) -> Iterator[RunStep]:
        """Run an episode in the present environment; its parameters are recorded.

        Args:
            episode: Its index.
            seed: Its seed.
            policy: Gives its actions.
            options: What its reset gets.
            limits: As in `physgym.episode.run_episode`.
        """
        begun = functools.partial(self._record_parameters, episode, seed)
        return self._present.episode(episode, seed, policy, options, begun, **limits)

    def _record_parameters(self, episode: int, seed: int, info: Mapping[str, Any]) -> None:
        if not self._record.stores or self.parameter_spec is None:
            return
        parameters = self.parameter_spec.check(info.get("parameters", {}), f"episode {episode}, parameters")
        self._record.add_parameters(
            {name: value[np.newaxis] for name, value in parameters.items()},
            episode=np.array([episode]),
            seed=np.array([seed], np.uint64),
        )
