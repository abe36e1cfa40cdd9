"""`NextStepErrors`: errors of outputs that samples do not hold, which are inputs of the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from physgym.running.prediction_errors import Errors, compare
from physgym.running.run_step import RunStep
from physgym.sample import SampleSpec, present_in
from physgym.spaces import Array


@dataclass
class _Compared:
    """Predictions of an output, their targets, and the masks of these."""

    predictions: list[Array] = field(default_factory=list)
    targets: list[Array] = field(default_factory=list)
    masks: list[Array] = field(default_factory=list)


class NextStepErrors:
    """Compares the predictions of a step with what the next step of its episode begins with.

    The last step of an episode, and one before a step that is missing or was rejected, is compared with nothing.

    Args:
        spec: The fields of samples.
        targets: Outputs that samples do not hold, each with the input that it is at the next step.
    """

    def __init__(self, spec: SampleSpec, targets: Mapping[str, str]) -> None:
        self._spec, self._targets = spec, dict(targets)
        self._before: RunStep | None = None
        self._compared = {output: _Compared() for output in targets}

    def add(self, step: RunStep) -> None:
        """Take a step, which is what the one before it is compared with."""
        before, self._before = self._before, step
        sample = step.transition.sample
        if before is None or before.prediction is None or sample is None or _place(before, 1) != _place(step, 0):
            return
        for output, name in self._targets.items():
            compared, mask = self._compared[output], self._spec[name].mask
            compared.predictions.append(before.prediction[output])
            compared.targets.append(sample[name])
            if mask:
                compared.masks.append(sample[mask])

    def take(self) -> dict[str, Errors]:
        """Return the errors of what was compared since the last call, by output."""
        found: dict[str, Errors] = {}
        for output, name in self._targets.items():
            compared, self._compared[output] = self._compared[output], _Compared()
            if compared.targets:
                rows = {self._spec[name].mask: np.stack(compared.masks)} if compared.masks else {}
                present = present_in(self._spec, name, rows)
                found[output] = compare(np.stack(compared.predictions), np.stack(compared.targets), present)
        return found


def _place(step: RunStep, further: int) -> tuple[int, int, int, int]:
    """Return episode, seed, number of the simulation, and the number of a step so many steps further."""
    return step.episode, step.seed, step.env, step.transition.step + further
