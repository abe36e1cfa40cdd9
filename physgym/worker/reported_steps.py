"""Parts of a rollout whose request wants reports of all steps, rejected ones included."""

from __future__ import annotations

import bisect
import math
from dataclasses import replace
from typing import Any

import numpy as np

from physgym.episode import Transition
from physgym.protocol.messages import RolloutResult
from physgym.protocol.step_reports import StepReports
from physgym.worker.given_inputs import GIVEN
from physgym.worker.rollout_parts import ROLLOUT_SECONDS, SIGN_OF_LIFE, RolloutPart

SECONDS = "physgym/seconds"  # key of an info: what the solver and the network took for the step
UNKNOWN = (math.nan, math.nan)


class StepLog:
    """Names and reports of steps, in their order."""

    def __init__(self) -> None:
        self._names: list[tuple[int, int]] = []
        self._numbers: list[tuple[float, float, float]] = []  # reward, seconds of solver and network
        self._rejected: list[int] = []
        self._reasons: list[str] = []
        self._inputs: list[list[Any]] = []  # place, name and value of what a person changed

    def __len__(self) -> int:
        return len(self._names)

    def add(self, episode: int, transition: Transition) -> None:
        """Take a step."""
        if transition.sample is None:
            self._rejected.append(len(self._names))
            self._reasons.append(transition.rejected)
        if GIVEN in transition.info:
            self._inputs += ([len(self._names), *change] for change in transition.info[GIVEN])
        self._names.append((episode, transition.step))
        self._numbers.append((transition.reward, *transition.info.get(SECONDS, UNKNOWN)))

    def cut(self, episode: int, step: int) -> None:
        """Forget a step and all steps after it."""
        place = self._names.index((episode, step))
        before = bisect.bisect_left(self._rejected, place)
        del self._names[place:], self._numbers[place:], self._rejected[before:], self._reasons[before:]
        self._inputs = [change for change in self._inputs if change[0] < place]

    def onto(self, part: RolloutResult) -> RolloutResult:
        """Return a part of a rollout with these steps in place of the steps of its samples."""
        episodes, steps = np.array(self._names, np.int64).reshape(-1, 2).T.copy()
        rewards, solver, network = np.array(self._numbers, np.float64).reshape(-1, 3).T.copy()
        rejected = np.array(self._rejected, np.int64)
        reports = StepReports(rewards, solver, network, rejected, self._reasons, self._inputs)
        return replace(part, episodes=episodes, steps=steps, reports=reports)


class ReportedPart(RolloutPart):
    """Samples of a rollout that wait to be sent, with reports of all steps."""

    def _clear(self) -> None:
        """Begin the next part."""
        super()._clear()
        self._log = StepLog()

    def add(self, episode: int, transition: Transition) -> None:
        """Take a step that gave a sample.

        Raises:
            SampleError: The sample does not fit its declaration.
        """
        super().add(episode, transition)
        self._log.add(episode, transition)

    def reject(self, episode: int, transition: Transition) -> None:
        """Take a rejected step."""
        super().reject(episode, transition)
        self._log.add(episode, transition)

    def due(self, now: float) -> bool:
        """Return whether it is time to send it.

        Args:
            now: The time, of `time.perf_counter`.
        """
        return len(self._log) >= self._most or now - self._since > (ROLLOUT_SECONDS if len(self._log) else SIGN_OF_LIFE)

    def result(self, *, last: bool = True, finite: bool) -> RolloutResult:
        """Return the message.

        Args:
            last: Whether it completes the answer.
            finite: Whether all samples are known to be good as they are.

        Raises:
            SampleError: A value is not finite; what is left then is what came before it.
        """
        return self._log.onto(super().result(last=last, finite=finite))

    def _cut(self, row: int) -> None:
        """Forget a sample, and all steps from it on."""
        self._log.cut(self._episodes[row], self._steps[row])
        super()._cut(row)
