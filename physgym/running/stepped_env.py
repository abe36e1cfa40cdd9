"""`SteppedEnv`: an environment of this process with the network next to it, or inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from physgym.episode import Transition, episode_policy, require_spec, run_episode
from physgym.placement import Env
from physgym.policies import ActionPolicy, EpisodePolicy
from physgym.running.field_checks import check_network_fields, nonfinite
from physgym.running.run_plan import RunPlan
from physgym.running.run_step import RunStep
from physgym.running.surrogate import SurrogateEnv
from physgym.running.timed_predictor import TimedPredictor
from physgym.running.worker_report import prediction_user
from physgym.sample import SampleSpec, declaration
from physgym.samplers import Sampler
from physgym.samplers.base import draw_parameters
from physgym.simulation import Simulation
from physgym.worker.folders import Folder


class SteppedEnv:
    """An environment that steps in this process, ready for the episodes of a plan.

    Args:
        env: The environment; a surrogate gets the network.
        plan: The episodes.
        predictor: The network.
        folder: The working folder of the environment.

    Attributes:
        env: The same.
        spec: The fields of a step's sample; without those that a surrogate predicts.
        surrogate: Whether the environment is one.
        policy: What gives the actions of an episode of the plan.
        parameters: What draws the parameters of such an episode; None where the environment does.
        parameter_spec: The fields of the parameters.

    Raises:
        ConfigError: The network does not fit the simulation.
        SampleError: The environment declares no samples.
    """

    def __init__(self, env: Env, plan: RunPlan, predictor: TimedPredictor, folder: Folder) -> None:
        self.env, self._predictor, self._folder, self._compare = env, predictor, folder, plan.compare
        self._sampled = require_spec(env)
        check_network_fields(predictor.predictor, self._sampled)
        inner: Any = env.unwrapped
        self.surrogate = isinstance(inner, SurrogateEnv)
        self.spec = self._sampled
        if self.surrogate:
            inner.predictor = predictor.prepared
            outputs = predictor.predictor.outputs
            self.spec = SampleSpec([f for f in self._sampled.values() if f.name not in outputs])
        elif hasattr(inner, "predictor"):
            inner.predictor = predictor.prepared.predict
        self._apply = prediction_user(env) if plan.apply else None
        self._timed = _Timed(env)
        self.policy = self.policies(plan.actions, plan.part_seed)
        space = declaration(env, "parameter_space")
        self.parameter_spec = SampleSpec.parameters_of(env)
        self.parameters = draw_parameters(plan.parameters, space, self.parameter_spec, plan.part_seed, str(env))
        if plan.stored_episodes is not None and self.parameters is None:
            plan.stored_episodes.use_parameters(space)

    def policies(self, sampler: Sampler | None, seed: int) -> EpisodePolicy:
        """Return what gives the actions of an episode by its index.

        Args:
            sampler: Draws them; None leaves it to the environment.
            seed: Its seed.
        """
        return episode_policy(self.env) if sampler is None else sampler.actions(self.env.action_space, seed)

    def episode(
        self,
        episode: int,
        seed: int,
        policy: ActionPolicy,
        options: dict[str, Any] | None,
        begun: Callable[[Mapping[str, Any]], None],
        **limits: Any,
    ) -> Iterator[RunStep]:
        """Run an episode.

        Args:
            episode: Its index.
            seed: Its seed.
            policy: Gives its actions.
            options: What its reset gets.
            begun: Called with the info of the reset.
            limits: As in `physgym.episode.run_episode`.

        Yields:
            Its steps.
        """
        env = self._timed.unwrapped
        if isinstance(env, Simulation):
            env.nonfinite = "error" if limits.get("nonfinite", "error") == "error" else "allow"
        transitions = run_episode(
            self._timed,
            self._sampled,
            seed=seed,
            policy=policy,
            where=f"episode {episode}",
            options=options,
            begun=begun,
            **limits,
        )
        memory: Any = None  # of a recurrent network, of the episode
        while (transition := self._in_folder(transitions)) is not None:
            solver, network, prediction = self._timed.seconds, np.nan, None
            if transition.sample is not None and isinstance(env, SurrogateEnv):
                solver, network, prediction = np.nan, env.network_seconds, dict(env.prediction or {})
                transition.sample = {name: transition.sample[name] for name in self.spec}
            elif transition.sample is not None:
                prediction, network, memory = self._predictor.following(transition.sample, memory)
                if self._apply is not None and not nonfinite(prediction):
                    with self._folder:
                        self._apply(prediction)
            yield RunStep(episode, transition, prediction, solver, network, seed, 0, self._compare, self.spec)

    def _in_folder(self, transitions: Iterator[Transition]) -> Transition | None:
        """Make the next step in the working folder of the environment."""
        with self._folder:
            return next(transitions, None)


class _Timed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes the time of every step."""

    seconds = 0.0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        start = time.perf_counter()
        result = self.env.step(action)
        self.seconds = time.perf_counter() - start
        return result
