"""Rollouts in a worker: episodes with the environments' own samplers, whose samples are sent in parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from physgym.episode import ActionGenerator, Transition, episode_policy, require_spec, run_episode
from physgym.errors import ClosedError
from physgym.placement import Env
from physgym.policies import EpisodePolicy
from physgym.protocol.messages import Rollout, RolloutResult
from physgym.protocol.sample_slots import SlotWriter
from physgym.sample import SampleSpec
from physgym.simulation import Simulation
from physgym.worker.failures import RequestFailed
from physgym.worker.guard import Guard
from physgym.worker.reported_steps import ReportedPart
from physgym.worker.rollout_parts import RolloutPart
from physgym.worker.scene_offers import SceneOffers
from physgym.worker.snapshots import SNAPSHOT
from physgym.worker.stepping import Emit
from physgym.worker.variants import Variants

CLOSING_SECONDS = 0.05  # how often a rollout looks whether it is to end
LONGEST_PARAMETERS = 500  # characters of the parameters of an episode in an error


@dataclass(slots=True)
class Running:
    """An episode of a rollout.

    Attributes:
        episode: Its index.
        transitions: Its steps, from the next one on.
        reward: Sum of its rewards.
        kept: Number of its samples.
        rejected: Its rejected steps, and why.
        seed: Its seed.
        begun: What its reset reported, from then on: "parameters", None where there are none.
    """

    episode: int
    transitions: Iterator[Transition]
    seed: int = 0
    begun: Mapping[str, Any] = field(default_factory=dict)
    reward: float = 0.0
    kept: int = 0
    rejected: dict[int, str] = field(default_factory=dict)

    @property
    def doing(self) -> str:
        """Say what is being done, for the text of an error."""
        step = f"step {self.kept + len(self.rejected)}" if self.begun else "the reset"
        given = self.begun.get("parameters")
        parameters = "" if given is None else f", parameters {given}"
        if len(parameters) > LONGEST_PARAMETERS:
            parameters = f"{parameters[:LONGEST_PARAMETERS]} ..."
        return f"{step} of episode {self.episode} (seed {self.seed}{parameters})"


class EpisodeRunner:
    """Runs the episodes of rollouts.

    Args:
        envs: The environments.
        spec: Fields of their samples, None if they declare none.
        parameter_spec: Parameters of an episode, None if there are none.
        guard: Calls the environments.
        ended: Whether the episode of each environment has ended; a rollout ends the current episodes.
        closing: Whether the parent wants to close, which ends a rollout between two steps.
        offers: Frames for those who watch.

    Attributes:
        stopped: The episode in which the limit of the last rollout came, which another rollout may continue with.
        slots: Memory that is shared with the parent, for samples; None without any.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        spec: SampleSpec | None,
        parameter_spec: SampleSpec | None,
        guard: Guard,
        ended: list[bool],
        closing: Callable[[], bool],
        offers: SceneOffers,
    ) -> None:
        self._envs, self._spec, self._parameter_spec, self._offers = envs, spec, parameter_spec, offers
        self._guard, self._ended = guard, ended
        self._closing, self._next_look = closing, 0.0
        self._policies: dict[int, EpisodePolicy] = {}
        self._observed: set[int] = set()  # environments whose observations were checked
        self._generator = ActionGenerator()
        self._samples = 0  # samples of all rollouts, and rejected steps where those are reported
        self.stopped: Running | None = None
        self.slots: SlotWriter | None = None

    def serve(self, request: Rollout, emit: Emit) -> RolloutResult:
        """Run the episodes of a request; return the last part of their samples.

        Args:
            request: What to do.
            emit: Takes the parts before the last one.

        Raises:
            RequestFailed: An environment raised, or a sample does not fit.
        """
        stopped, self.stopped = self.stopped, None
        if not request.goes_on:
            stopped = None
        spec = self._guard(0, "rollout", lambda: self._spec or require_spec(self._envs[0]))
        kind = ReportedPart if request.reports else RolloutPart
        part = kind(spec, self._parameter_spec, request.keep_rejected, self.slots)
        index, doing = 0, "rollout"
        own = [env.unwrapped for env in self._envs if isinstance(env.unwrapped, (Simulation, Variants))]
        try:
            for simulation in own:
                simulation.nonfinite = "allow"  # it is decided here, where the step has a name
            for entry in request.episodes:
                if self._enough(request):
                    break
                episode = entry[0]
                index = episode % len(self._envs)
                self._ended[index] = True  # whatever was going on in this environment is over
                doing = f"rollout of episode {episode}"
                goes_on = stopped is not None and stopped.episode == episode
                running = stopped if goes_on else None
                self._guard(index, doing, self._run_episode, index, entry, request, part, emit, running)
            result: RolloutResult = self._guard(index, doing, part.result, finite=request.nonfinite != "error")
            return result
        except RequestFailed:
            # what came before it is not lost, and may hold an earlier fault
            self._guard(index, doing, part.send, emit, finite=request.nonfinite != "error")
            raise
        finally:
            for simulation in own:
                simulation.nonfinite = "error"

    def _run_episode(
        self, index: int, entry: Sequence[Any], request: Rollout, part: RolloutPart, emit: Emit, running: Running | None
    ) -> None:
        if running is None:
            report: dict[str, Any] = {}
            running = Running(entry[0], self._transitions(index, entry, request, part, report), entry[1], report)
        try:
            self._make_steps(index, running, request, part, emit)
        except Exception as error:
            raise RequestFailed(index, running.doing) from error

    def _make_steps(self, index: int, running: Running, request: Rollout, part: RolloutPart, emit: Emit) -> None:
        """Make the steps of an episode that are left, as far as they are wanted."""
        episode, rejected = running.episode, running.rejected
        for transition in running.transitions:
            running.reward += transition.reward
            if transition.sample is None:
                rejected[transition.step] = transition.rejected
                self._samples += request.reports
                part.reject(episode, transition)
            else:
                running.kept += 1
                self._samples += 1
                part.add(episode, transition)
            if self._offers.watched:
                self._offers.made(index, episode, transition.step, transition.sample)
            if not transition.last and SNAPSHOT in transition.info:
                part.add_snapshot(episode, transition.step, transition.info[SNAPSHOT])
            if transition.last:  # in one part with the last sample, so that both are stored or neither
                outcome = [transition.step + 1, running.kept, running.reward, rejected, transition.ending]
                part.ended.append([episode, *outcome])
            now = time.perf_counter()
            if part.due(now):
                part.send(emit, finite=request.nonfinite != "error")
            if self._enough(request):
                self.stopped = None if transition.last else running
                return
            if now > self._next_look and self._to_close(now):
                raise ClosedError(f"episode {episode} was cut short, since the vector env is being closed")

    def _transitions(
        self, index: int, entry: Sequence[Any], request: Rollout, part: RolloutPart, report: dict[str, Any]
    ) -> Iterator[Transition]:
        """Run an episode from its beginning; note in `report` what its reset reports."""
        episode, seed = entry[0], entry[1]
        options = entry[2] if len(entry) > 2 else None
        first = index not in self._observed
        self._observed.add(index)

        def begun(info: dict[str, Any]) -> None:
            part.begin(episode, info, options)
            report["parameters"] = info.get("parameters")

        return run_episode(
            self._envs[index],
            part.spec,
            seed=seed,
            policy=self._policy(index, episode),
            max_steps=request.max_steps,
            max_rejects=request.max_rejects,
            where=f"episode {episode}",
            check=False,  # as they are gathered
            nonfinite=request.nonfinite,  # type: ignore[arg-type]  # checked by the protocol
            options=options,
            begun=begun,
            generator=self._generator.of(seed),
            check_observations=first,
        )

    def _to_close(self, now: float) -> bool:
        """Look whether the environments are to be closed, and again after a while."""
        self._next_look = now + CLOSING_SECONDS
        return self._closing()

    def _enough(self, request: Rollout) -> bool:
        """Return whether no further sample of a rollout is wanted."""
        return request.limit > 0 and self._samples - request.made >= request.limit

    def _policy(self, index: int, episode: int) -> Any:
        if index not in self._policies:
            self._policies[index] = episode_policy(self._envs[index])
        return self._policies[index](episode)
