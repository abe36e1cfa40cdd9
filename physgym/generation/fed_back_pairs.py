"""Looks at the first samples of a generation: whether they hold what the simulation declares to be fed back."""

from __future__ import annotations

import warnings

import numpy as np

from physgym.feedback_gaps import feedback_fields, feedback_gaps
from physgym.generation.named_samples import NamedSamples, SampleNames, join_names
from physgym.sample import Sample, SampleSpec

ROWS, BYTES = 64, 4 << 20  # that are looked at: a simulation that is wrong is so from its first steps on


class FedBackPairs:
    """The first samples of a generation, of which each output has to be the input that it feeds at the next step.

    Args:
        spec: Their fields.
    """

    def __init__(self, spec: SampleSpec) -> None:
        self._spec, self._fields = spec, feedback_fields(spec)
        self._left = 0
        if self._fields:
            self._left = max(2, min(ROWS, BYTES // sum(spec[name].nbytes for name in self._fields)))
        self._names = SampleNames()
        self._rows: Sample = {name: np.empty((0, *spec[name].shape), spec[name].dtype) for name in self._fields}

    def look(self, samples: NamedSamples) -> None:
        """Look at further samples, as long as there were few; warn once."""
        if not self._left or not len(samples):
            return
        part = slice(self._left)
        names = samples.names.cut(part)
        self._left -= len(names)
        self._names = join_names(self._names, names)
        self._rows = {name: np.concatenate([rows, samples.samples[name][part]]) for name, rows in self._rows.items()}
        gaps = list(map(str, feedback_gaps(self._spec, self._rows, self._names.episodes, self._names.steps)))
        if gaps:
            warnings.warn(". ".join(gaps), UserWarning, stacklevel=2)
        if gaps or not self._left:
            self._left, self._rows = 0, {}
