"""Rollouts of environments that are rows of one vector environment: side by side, and sent in their order."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.batched.env import EXACT, PARAMETERS, BatchedEnv
from physgym.batched.rows import SHOWN, SteppedRows, arrays_of, row_info
from physgym.episode import (
    TOO_MANY_REJECTS,
    ActionGenerator,
    Transition,
    episode_policy,
    require_spec,
    truncated_sample,
)
from physgym.errors import ClosedError, ConfigError, SampleError
from physgym.placement import Env
from physgym.policies import EpisodePolicy
from physgym.protocol.messages import Rollout, RolloutResult
from physgym.protocol.sample_slots import SlotWriter
from physgym.sample import SampleSpec, flat_items
from physgym.spaces import Array
from physgym.worker.batch import RowBatch
from physgym.worker.episodes import CLOSING_SECONDS, Running
from physgym.worker.failures import RequestFailed
from physgym.worker.guard import Guard
from physgym.worker.reported_steps import ReportedPart
from physgym.worker.rollout_parts import RolloutPart
from physgym.worker.scene_offers import SceneOffers
from physgym.worker.stepping import Emit

SAMPLE = "sample"  # key of an info: the fields of all rows


@dataclass(slots=True)
class RowEpisode:
    """An episode that a row runs.

    Attributes:
        entry: Index, seed and, if there are some, options, as of a `Rollout`.
        info: That of its reset; None before it.
        act: Draws its actions; None where the batch does.
        generator: That of its actions.
        step: Of its next step.
        rejects: Rejected steps in a row.
        made: Its steps that were not sent yet.
        over: Whether it has ended.
    """

    entry: Sequence[Any]
    info: dict[str, Any] | None = None
    act: Callable[[Any, np.random.Generator], Any] | None = None
    generator: np.random.Generator | None = None
    step: int = 0
    rejects: int = 0
    made: deque[Transition] = field(default_factory=deque)
    over: bool = False

    @property
    def options(self) -> Mapping[str, Any] | None:
        """Return the options of its reset."""
        return self.entry[2] if len(self.entry) > 2 else None


class _Course:
    """The episodes of a rollout under way.

    Attributes:
        episodes: Those whose steps were not all sent, in their order.
        waiting: Those that have no row yet.
        rows: What each row runs; None where it is idle.
        sent: The first one, as far as it was sent.
    """

    def __init__(self, entries: Sequence[Any], count: int) -> None:
        self.episodes = deque(RowEpisode(entry) for entry in entries)
        self.waiting = deque(self.episodes)
        self.rows: list[RowEpisode | None] = [None] * count
        self.sent: Running | None = None

    @property
    def names(self) -> list[int]:
        """Return the indices of the episodes that are not complete."""
        return [one.entry[0] for one in self.episodes]

    def places(self) -> list[tuple[int, int, Sequence[Any]]]:
        """Return row, step and entry of the first rows that are busy, one more than a message shows."""
        busy = ((row, one.step, one.entry) for row, one in enumerate(self.rows) if one is not None)
        return list(itertools.islice(busy, SHOWN + 1))


class BatchedEpisodes:
    """Runs the episodes of rollouts in the rows of a vector environment.

    A row begins the next episode when its own has ended; where rows can only be reset together, all wait for the last.
    Samples are those that one row after the other would give.

    Args:
        batch: The rows, and what gives the actions of their episodes.
        envs: Each as an environment.
        specs: Fields of their samples, and the parameters of an episode; None for what they do not declare.
        guard: Calls the environments.
        ended: Whether the episode of each environment has ended; a rollout ends the current episodes.
        closing: Whether the parent wants to close, which ends a rollout between two steps.
        offers: Frames for those who watch.

    Attributes:
        stopped: Where the limit of the last rollout came, from where another may continue.
        slots: Memory that is shared with the parent, for samples; None without any.
    """

    def __init__(
        self,
        batch: RowBatch,
        envs: Sequence[Env],
        specs: tuple[SampleSpec | None, SampleSpec | None],
        guard: Guard,
        ended: list[bool],
        closing: Callable[[], bool],
        offers: SceneOffers,
    ) -> None:
        self._rows, self._envs = batch.rows, envs
        self._policy: EpisodePolicy | None = batch.policy
        if self._policy is None and not isinstance(self._rows.venv, BatchedEnv):
            self._policy = episode_policy(envs[0])
        self._spec, self._parameter_spec = specs
        self._guard, self._ended, self._offers = guard, ended, offers
        self._closing, self._next_look = closing, 0.0
        self._samples = 0  # samples of all rollouts that were sent, and rejected steps where those are reported
        self.stopped: _Course | None = None
        self.slots: SlotWriter | None = None

    def serve(self, request: Rollout, emit: Emit) -> RolloutResult:
        """Run the episodes of a request; return the last part of their samples.

        Args:
            request: What to do.
            emit: Takes the parts before the last one.

        Raises:
            RequestFailed: The vector environment raised, or a sample does not fit.
        """
        stopped, self.stopped = self.stopped, None
        spec = self._guard(0, "rollout", self._checked)
        kind = ReportedPart if request.reports else RolloutPart
        part = kind(spec, self._parameter_spec, request.keep_rejected, self.slots)
        course = _Course(request.episodes, self._rows.count)
        if request.goes_on and stopped is not None and stopped.names == course.names:
            course = stopped
        self._ended[:] = [True] * self._rows.count  # whatever was going on is over
        venv = self._rows.venv
        finite = request.nonfinite != "error"
        first = course.names[0] if course.episodes else 0
        try:
            if isinstance(venv, BatchedEnv):
                venv.nonfinite = "allow"  # it is decided here, where the step has a name
            self._guard(0, f"rollout of episode {first} and those after it", self._run, course, request, part, emit)
            result: RolloutResult = self._guard(0, "rollout", part.result, finite=finite)
            return result
        except Exception:
            self._guard(0, "rollout", part.send, emit, finite=finite)  # what came before it is not lost
            raise
        finally:
            if isinstance(venv, BatchedEnv):
                venv.nonfinite = "error"

    def _checked(self) -> SampleSpec:
        """Return the fields of samples.

        Raises:
            SampleError: There are none.
            ConfigError: VectorRows may depend on each other.
        """
        if not self._rows.independence:
            raise ConfigError(
                f"{type(self._rows.venv).__name__} does not declare that its rows are independent, so that an episode "
                "would depend on the others: nothing could make a sample again. Where each row depends on its "
                f'seed, parameters and actions alone, declare metadata["physgym.rows"] = "{EXACT}" (or "rounded", up '
                "to the last bits)"
            )
        if self._rows.mode is AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"{type(self._rows.venv).__name__} resets a row in the step that ends its episode, whose sample is "
                "lost; let it have the autoreset mode DISABLED, or NEXT_STEP"
            )
        return self._spec or require_spec(self._envs[0])

    def _run(self, course: _Course, request: Rollout, part: RolloutPart, emit: Emit) -> None:
        self._fill(course)
        while not self._send(course, request, part, emit):
            if not any(course.rows) and not self._fill(course):
                return
            if self._to_close():
                raise ClosedError("episodes were cut short, since the vector env is being closed")
            self._make_step(course, request)

    # --- what rows do

    def _make_step(self, course: _Course, request: Rollout) -> None:
        """Make a step of all rows, and begin episodes in those that are idle.

        Raises:
            RequestFailed: The vector environment raised; the text names the episodes.
        """
        first, places = course.episodes[0].entry[0], course.places()  # steps are counted before all rows are looked at
        try:
            self._step(course, request)
            self._fill(course)
        except Exception as error:
            named = [f"row {row} at step {step} of episode {entry[0]}, seed {entry[1]}" for row, step, entry in places]
            doing = "; ".join(named[:SHOWN]) + ("; ..." if named[SHOWN:] else "")
            raise RequestFailed(-1, f"rollout of episode {first} and those after it ({doing})") from error

    def _fill(self, course: _Course) -> bool:
        """Give rows that are idle their next episodes; return whether some got one."""
        idle = [row for row, one in enumerate(course.rows) if one is None]
        together = self._rows.mode is not AutoresetMode.DISABLED
        if not course.waiting or not idle or (together and len(idle) < len(course.rows)):
            return False
        begun = {row: course.waiting.popleft() for row in idle[: len(course.waiting)]}
        mask = np.zeros(self._rows.count, np.bool_)
        mask[list(begun)] = True
        if together:
            mask[:] = True
        some = next(iter(begun.values()))
        seeds = [begun.get(row, some).entry[1] for row in range(self._rows.count)]
        observations, infos = self._rows.reset(mask, seeds, self._options(begun))
        infos = arrays_of(infos)
        self._check_columns(PARAMETERS, infos)
        self._observations = observations
        for row, one in begun.items():
            course.rows[row] = one
            one.info = row_info(infos, row, self._rows.count)
            if self._policy is not None:
                one.act, one.generator = self._policy(one.entry[0]), ActionGenerator().of(one.entry[1])
        return True

    def _options(self, begun: Mapping[int, RowEpisode]) -> dict[str, Any] | None:
        """Return the options of a reset of some rows.

        Raises:
            ConfigError: Episodes differ in other options than their parameters.
        """
        given = {row: dict(one.options or {}) for row, one in begun.items()}
        parameters = {row: dict(flat_items(options.pop(PARAMETERS, {}))) for row, options in given.items()}
        several = list(given.values())
        if any(options != several[0] for options in several):
            raise ConfigError(f"rows of a batch begin with the same options but for their parameters, not {several}")
        names = {name: value for values in parameters.values() for name, value in values.items()}
        if not names:
            return several[0] or None
        if any(values.keys() != names.keys() for values in parameters.values()):
            raise ConfigError(f"either all rows of a batch are given the parameters {sorted(names)}, or none")
        columns = {}
        for name, example in names.items():
            columns[name] = np.stack(
                [np.asarray(parameters.get(r, names).get(name, example)) for r in range(self._rows.count)]
            )
        return {**several[0], PARAMETERS: columns}

    def _step(self, course: _Course, request: Rollout) -> None:
        """Make a step of all rows."""
        found = self._rows.step(self._actions(course))
        infos = arrays_of(found.infos)
        self._check_columns(SAMPLE, infos)
        checked = self._check_nonfinite(infos) if request.nonfinite == "reject" else None
        self._observations = [leaf.copy() for leaf in found.observations]
        for row, one in enumerate(course.rows):
            if one is None:
                continue
            transition = self._transition(one, row, found, infos, request, checked)
            one.made.append(transition)
            one.step += 1
            one.rejects = 0 if transition.sample is not None else one.rejects + 1
            one.over = transition.last or one.rejects >= request.max_rejects
            if self._offers.watched:
                self._offers.made(row, one.entry[0], transition.step, transition.sample)
            if one.over:
                course.rows[row] = None

    def _actions(self, course: _Course) -> list[Array]:
        """Return the actions of all rows, as leaves; those of idle rows are like those of another one."""
        space, busy = self._rows.venv.single_action_space, [one for one in course.rows if one is not None]
        venv = self._rows.venv
        if self._policy is None and isinstance(venv, BatchedEnv):
            named = [one or busy[0] for one in course.rows]
            seeds = np.array([one.entry[1] for one in named], np.int64)
            return walk.flatten(space, venv.draw_actions(seeds, np.array([one.step for one in named], np.int64)))
        drawn: list[list[Any]] = []
        for row, one in enumerate(course.rows):
            if one is None:
                drawn.append([])
                continue
            observation = walk.unflatten(
                venv.single_observation_space, iter([leaf[row] for leaf in self._observations])
            )
            assert one.act is not None
            assert one.generator is not None
            drawn.append(walk.flatten(space, one.act(observation, one.generator)))
        some = next(values for values in drawn if values)
        columns = zip(*(values or some for values in drawn), strict=True)
        leaves = walk.leaves(space)
        return [np.array(column, leaf.dtype) for leaf, column in zip(leaves, columns, strict=True)]

    def _check_columns(self, key: str, infos: Mapping[str, Any]) -> None:
        """Check that what an info holds by name has a row for each row: others would get the values of all.

        Raises:
            SampleError: Something has not.
        """
        columns = infos.get(key)
        for name, column in flat_items(columns) if isinstance(columns, dict) else ():
            shape = (len(column),) if isinstance(column, list) else np.shape(column)
            if shape[:1] != (self._rows.count,):
                raise SampleError(
                    f"{type(self._rows.venv).__name__}: infos[{key!r}][{name!r}] has shape {shape}; its first axis is "
                    f"that of the rows, which are {self._rows.count}"
                )

    def _check_nonfinite(self, infos: Mapping[str, Any]) -> Array:
        """Return which rows have a sample with a value that is not finite, shape (rows,)."""
        bad = np.zeros(self._rows.count, np.bool_)
        for _, column in flat_items(infos.get(SAMPLE, {})):
            values = np.asarray(column)
            if values.dtype.kind in "fc":
                bad |= ~np.isfinite(values.reshape(self._rows.count, -1)).all(axis=1)
        return bad

    def _transition(
        self,
        one: RowEpisode,
        row: int,
        found: SteppedRows,
        infos: Mapping[str, Any],
        request: Rollout,
        nonfinite: Array | None,
    ) -> Transition:
        """Return what a step was for the episode of a row."""
        info = row_info(infos, row, self._rows.count)
        terminated, truncated = bool(found.terminations[row]), bool(found.truncations[row])
        last = terminated or truncated or one.step == request.max_steps - 1
        ending = "" if not last else "terminated" if terminated else "truncated" if truncated else "cut"
        sample, rejected, rejected_sample = info.get(SAMPLE), str(info.get("rejected", "") or ""), None
        if sample is None or rejected:
            rejected = rejected or "the step returned no sample"
            sample, rejected_sample = None, info.get("rejected_sample", sample)
        elif nonfinite is not None and nonfinite[row]:
            assert self._spec is not None
            fields = self._spec.nonfinite(self._spec.check(sample, f"episode {one.entry[0]}", finite=False))
            rejected, sample, rejected_sample = f"{', '.join(fields)} not finite", None, sample
        if ending and not terminated and sample is not None and self._spec is not None:
            sample = truncated_sample(sample, self._spec)
        return Transition(
            one.step, None, None, float(found.rewards[row]), last, info, sample, rejected, rejected_sample, ending
        )

    # --- what is sent

    def _send(self, course: _Course, request: Rollout, part: RolloutPart, emit: Emit) -> bool:
        """Put steps into the parts of the answer, in the order of episodes; return whether no more are wanted.

        Raises:
            SampleError: A sample does not fit, or too many in a row were rejected.
        """
        while course.episodes:
            one = course.episodes[0]
            if one.info is None:
                return self._enough(request)
            episode = one.entry[0]
            if course.sent is None:
                course.sent = Running(episode, iter(()))
                part.begin(episode, one.info, one.options)
            while one.made:
                if self._enough(request):
                    self.stopped = course
                    return True
                self._put(course.sent, one.made.popleft(), request, part)
                if part.due(time.perf_counter()):
                    part.send(emit, finite=request.nonfinite != "error")
            if not one.over:
                return self._halted(course, request)
            course.episodes.popleft()
            course.sent = None
        return True

    def _halted(self, course: _Course, request: Rollout) -> bool:
        if self._enough(request):
            self.stopped = course
            return True
        return False

    def _put(self, sent: Running, transition: Transition, request: Rollout, part: RolloutPart) -> None:
        """Put a step of the first episode into a part."""
        sent.reward += transition.reward
        if transition.sample is None:
            sent.rejected[transition.step] = transition.rejected
            self._samples += request.reports
            part.reject(sent.episode, transition)
        else:
            sent.kept += 1
            self._samples += 1
            part.add(sent.episode, transition)
        if transition.last:  # in one part with the last sample, so that both are stored or neither
            outcome = [transition.step + 1, sent.kept, sent.reward, sent.rejected, transition.ending]
            part.ended.append([sent.episode, *outcome])
        if transition.sample is None and self._too_many(sent, transition.step, request):
            where = f"episode {sent.episode}"
            count, reason = request.max_rejects, transition.rejected
            raise SampleError(TOO_MANY_REJECTS.format(where=where, count=count, limit=count, reason=reason))

    def _too_many(self, sent: Running, step: int, request: Rollout) -> bool:
        """Return whether the last so many steps of an episode were all rejected."""
        most = request.max_rejects
        return step + 1 >= most and all(number in sent.rejected for number in range(step - most + 1, step + 1))

    def _enough(self, request: Rollout) -> bool:
        """Return whether no further sample of a rollout is wanted."""
        return request.limit > 0 and self._samples - request.made >= request.limit

    def _to_close(self) -> bool:
        """Look now and then whether the environments are to be closed."""
        now = time.perf_counter()
        if now < self._next_look:
            return False
        self._next_look = now + CLOSING_SECONDS
        return self._closing()
