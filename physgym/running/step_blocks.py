"""`StepBlocks`: the steps of a run on their way to its figures and its record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType

import numpy as np

from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.running.field_checks import nonfinite
from physgym.running.next_step_errors import NextStepErrors
from physgym.running.prediction_errors import Errors, compare, stored_error
from physgym.running.run_report import RunReport
from physgym.running.run_step import ERROR, PREDICTION, RunStep
from physgym.sample import Field, SampleSpec, present_in
from physgym.spaces import Array

BLOCK_ROWS, BLOCK_BYTES = 64, 1 << 20  # of steps whose errors are computed, and which are stored, together
BLOCK_SECONDS = 0.2  # or as many as come in this time


class StepBlocks:
    """Takes the steps of a run: computes errors, and stores the steps, block by block.

    Args:
        sample: The fields of a sample that steps have.
        outputs: The predicted fields.
        compare: Whether predictions are compared with the samples that have the same fields.
        following: Outputs that samples do not hold, each with the input of the next step that it is compared with.
        writer: Stores the steps, None to store nothing; its fields are those of `record_fields`.
        window: Keep the figures of so many steps at least, and not of all.

    Raises:
        ConfigError: The mask of a padded field that is compared is not among the fields.
    """

    def __init__(
        self,
        sample: SampleSpec,
        outputs: Sequence[Field],
        *,
        compare: bool,
        following: Mapping[str, str] = MappingProxyType({}),
        writer: SampleWriter | None = None,
        window: int | None = None,
    ) -> None:
        self._compared = [f.name for f in outputs if compare and f.name in sample]
        self._writer, self._window = writer, window
        self._spec, self._following = sample, NextStepErrors(sample, following)
        sides = (*self._compared, *following.values())
        if unknown := {name: mask for name in sides if (mask := sample[name].mask) and mask not in sample}:
            raise ConfigError(
                f"the samples lack the masks of padded fields, {unknown}: their padding would count as errors. Open "
                "them with these fields as well, or do not compare: compare=False"
            )
        needed = {*self._compared, *(sample[name].mask for name in self._compared)}
        kept = [f for f in sample.values() if writer is not None or f.name in needed]
        each = sum(f.nbytes for f in [*kept, *outputs])
        self._size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, each)))
        self._samples = [(f.name, np.empty((self._size, *f.shape), f.dtype)) for f in kept]
        self._predictions = [(f.name, np.empty((self._size, *f.shape), f.dtype)) for f in outputs]
        self._names = {
            name: np.empty(self._size, dtype)
            for name, dtype in (("episode", np.int64), ("step", np.int64), ("seed", np.uint64), ("env", np.int32))
        }
        self._times = np.empty((self._size, 2))
        self._fill, self._since = 0, 0.0
        self._figures: deque[tuple[Array, dict[str, Errors]]] = deque()
        self._kept = 0
        self.nonfinite = 0

    def add(self, step: RunStep) -> None:
        """Take a step; a rejected one is not stored, and nothing is compared with it.

        Raises:
            SampleError: A value does not fit its field.
            DatasetError: The disk refuses a write.
        """
        self._following.add(step)
        sample, prediction = step.transition.sample, step.prediction
        if sample is None or prediction is None:
            return
        i = self._fill
        for name, column in self._samples:
            column[i] = sample[name]
        for name, column in self._predictions:
            column[i] = prediction[name]
        self._times[i] = step.network_seconds, step.solver_seconds
        if self._writer is not None:
            names = self._names
            names["episode"][i], names["step"][i] = step.episode, step.transition.step
            names["seed"][i], names["env"][i] = step.seed, step.env
        self._fill = i + 1
        now = time.monotonic()
        if not i:
            self._since = now
        if i + 1 == self._size or now - self._since > BLOCK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Compute the errors of the steps taken so far, and store these."""
        count, self._fill = self._fill, 0
        if not count:
            return
        samples = {name: column[:count] for name, column in self._samples}
        predictions = {name: column[:count] for name, column in self._predictions}
        if nonfinite(predictions):
            good = np.all([np.isfinite(v.reshape(count, -1)).all(1) for v in predictions.values()], axis=0)
            self.nonfinite += count - int(good.sum())
        with np.errstate(over="ignore", invalid="ignore"):
            errors = {
                name: compare(predictions[name], samples[name], present_in(self._spec, name, samples))
                for name in self._compared
            }
            later = self._following.take()
        if self._writer is not None:
            rows = {
                **samples,
                **{f"{PREDICTION}{name}": value for name, value in predictions.items()},
                **{f"{ERROR}{name}": stored_error(errors[name].relative_l2) for name in self._compared},
            }
            self._writer.append(rows, **{name: column[:count] for name, column in self._names.items()})
        self._figures.append((self._times[:count].copy(), errors | later))
        self._kept += count
        while self._window is not None and self._kept - len(self._figures[0][0]) >= self._window:
            self._kept -= len(self._figures.popleft()[0])

    def summarize(self, report: RunReport) -> None:
        """Put the figures in a report."""
        self.flush()
        report.nonfinite = self.nonfinite
        if not self._figures:
            return
        times = np.concatenate([times for times, _ in self._figures])
        report.network_seconds = times[:, 0]
        report.solver_seconds = times[~np.isnan(times[:, 1]), 1]
        for name in dict.fromkeys(name for _, errors in self._figures for name in errors):
            parts = [errors[name] for _, errors in self._figures if name in errors]
            report.errors[name] = Errors(
                *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Errors))
            )
