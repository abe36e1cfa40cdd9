"""Samples of a rollout that wait to be sent: the parts of its answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.casting import CastError, as_dtype
from physgym.episode import Transition
from physgym.errors import SampleError
from physgym.protocol.messages import Parameters, Rejected, RolloutResult
from physgym.protocol.sample_slots import PART_BYTES, SlotWriter, rows_of_part
from physgym.sample import SampleSpec, flat_items
from physgym.spaces import Array
from physgym.worker.sample_columns import SampleColumns
from physgym.worker.stepping import Emit

ROLLOUT_SECONDS = 0.05  # samples are written to disk at the other end: a part that is older is sent
SIGN_OF_LIFE = 1.0  # a rollout whose steps give no samples still answers so often


class TakenStates:
    """States of simulations that wait to be sent.

    Attributes:
        entries: Episode, step after which it was, and arrays by name of each, in their order.
        nbytes: Bytes of these arrays.
    """

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.nbytes = 0

    def add(self, episode: int, step: int, state: Mapping[str, Array]) -> None:
        """Take the state after a step."""
        self.entries.append([episode, step, dict(state)])
        self.nbytes += sum(value.nbytes for value in state.values())

    def cut(self, episode: int, step: int) -> None:
        """Forget the states of a step and of all steps after it."""
        self.entries = [one for one in self.entries if (one[0], one[1]) < (episode, step)]


class RolloutPart:
    """Samples of a rollout that wait to be sent.

    Args:
        spec: Their fields.
        parameter_spec: Parameters of an episode, None if there are none.
        keep_rejected: Whether to keep the samples of rejected steps.
        slots: Memory that is shared with the parent, for the samples; None without any.

    Attributes:
        ended: What became of each episode that ended, as in a `RolloutResult`.
    """

    def __init__(
        self,
        spec: SampleSpec,
        parameter_spec: SampleSpec | None,
        keep_rejected: bool,
        slots: SlotWriter | None = None,
    ) -> None:
        self.spec, self._keep_rejected, self._most = spec, keep_rejected, rows_of_part(spec.nbytes)
        if slots is not None:
            slots.begin()
        self._samples = SampleColumns(spec, self._most, slots=slots)  # memory costs something where it is written first
        self._parameters = None if parameter_spec is None else SampleColumns(parameter_spec, of="parameters")
        self._clear()

    def _clear(self) -> None:
        """Begin the next part, in memory of its own: where the parent is in this process, it has the old one."""
        self.ended: list[Any] = []
        self._episodes: list[int] = []
        self._steps: list[int] = []
        self._samples = self._samples.following()
        self._begun: list[int] = []
        self._parameters = None if self._parameters is None else self._parameters.following()
        self._rejected = SampleColumns(self.spec, min(16, self._most))
        self._names_rejected: list[tuple[int, int, str]] = []
        self._snapshots = TakenStates()
        self._since = time.perf_counter()

    def begin(self, episode: int, info: Any, options: Mapping[str, Any] | None) -> None:
        """Take the parameters from the info of an episode's reset.

        Raises:
            SampleError: There are none, they do not fit their declaration, or are not those that were asked for.
        """
        if self._parameters is None:
            return
        if not isinstance(info, dict) or "parameters" not in info:
            raise SampleError(
                'the environment declares a parameter_space, but the info of its reset has no "parameters". Return '
                "them there, or take parameter_space away"
            )
        self._parameters.add(info["parameters"], episode)
        if options is not None and "parameters" in options:
            got = self._parameters.last()
            for name, asked in flat_items(options["parameters"]):
                if name not in got or not _is_asked(got[name], asked):
                    shown = got.get(name, "none")
                    raise SampleError(
                        f'episode {episode}: parameter {name!r} was to be {asked}, info["parameters"] has {shown}. '
                        'Use options["parameters"] in reset, and report what is used'
                    )
        self._begun.append(episode)

    def add(self, episode: int, transition: Transition) -> None:
        """Take a sample.

        Raises:
            SampleError: It does not fit its declaration.
        """
        self._samples.add(transition.sample, episode, transition.step)  # type: ignore[arg-type]  # it has one
        self._episodes.append(episode)
        self._steps.append(transition.step)

    def reject(self, episode: int, transition: Transition) -> None:
        """Take the sample of a rejected step if it is asked for and fits."""
        if not self._keep_rejected or transition.rejected_sample is None:
            return
        try:
            self._rejected.add(transition.rejected_sample, episode, transition.step)
        except SampleError:
            return  # a solver that failed need not have one
        self._names_rejected.append((episode, transition.step, transition.rejected))

    def add_snapshot(self, episode: int, step: int, state: Mapping[str, Array]) -> None:
        """Take the state after a step."""
        self._snapshots.add(episode, step, state)

    def due(self, now: float) -> bool:
        """Return whether it is time to send it.

        Args:
            now: The time, of `time.perf_counter`.
        """
        if now - self._since > (ROLLOUT_SECONDS if self._steps else SIGN_OF_LIFE):
            return True
        if len(self._steps) + len(self._names_rejected) >= self._most:
            return True
        return self._snapshots.nbytes > PART_BYTES

    def send(self, emit: Emit, *, finite: bool) -> None:
        """Send what there is, as `result` gives it, and start again.

        Raises:
            SampleError: As `result`, after what came before was sent.
        """
        try:
            emit(self.result(last=False, finite=finite))
        except SampleError:
            emit(self.result(last=False, finite=True))
            raise
        finally:
            self._clear()

    def result(self, *, last: bool = True, finite: bool) -> RolloutResult:
        """Return the message.

        Args:
            last: Whether it completes the answer.
            finite: Whether all samples are known to be good as they are.

        Raises:
            SampleError: A value is not finite; what is left then is what came before it.
        """
        if not finite and (row := self._samples.nonfinite()) is not None:
            sample = {name: column[row] for name, column in self._samples.result().items()}
            episode, step = self._episodes[row], self._steps[row]
            self._cut(row)
            self.spec.check_finite(sample, f"episode {episode}, step {step}")
        parameters = rejected = None
        if self._begun:
            assert self._parameters is not None
            parameters = Parameters(np.array(self._begun, np.int64), self._parameters.result())
        if self._names_rejected:
            episodes, steps, reasons = zip(*self._names_rejected, strict=True)
            names = (np.array(episodes, np.int64), np.array(steps, np.int64), list(reasons))
            rejected = Rejected(*names, self._rejected.result())
        return RolloutResult(
            np.array(self._episodes, np.int64),
            np.array(self._steps, np.int64),
            self._samples.result(),
            self.ended,
            last,
            parameters,
            rejected,
            snapshots=self._snapshots.entries or None,
            slot=self._samples.sent(),
        )

    def _cut(self, row: int) -> None:
        """Forget a sample and all samples after it."""
        episode = self._episodes[row]
        self.ended = list(itertools.takewhile(lambda entry: entry[0] != episode, self.ended))
        self._snapshots.cut(episode, self._steps[row])
        del self._episodes[row:], self._steps[row:]
        self._samples.cut(row)


def _is_asked(used: Array, asked: Any) -> bool:
    """Return whether a parameter is as requested, as far as its dtype can hold that."""
    try:
        return np.array_equal(used, as_dtype(asked, used.dtype))
    except CastError:
        return False
