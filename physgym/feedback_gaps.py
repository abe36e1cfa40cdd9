"""Declared feedback, compared with samples: each output of a step has to be the input that it feeds at the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from physgym.sample import SampleSpec, present_in
from physgym.spaces import Array

ROUNDINGS = 16  # of the dtype, relative to the largest value: what is computed twice may differ by as much
LEAST_TOLERANCE = 1e-6  # relative to the largest value: what is smaller spoils no rollout


@dataclass(frozen=True)
class FeedbackGap:
    """An output of steps that is not the input that it is declared to be at the next step.

    Attributes:
        output: The output.
        name: The input.
        episode: Episode of the first pair of steps that differs.
        step: Step of the output there; the input is that of the next step.
        size: Largest difference in these pairs, in the unit of the fields; infinite where one value is not finite.
        largest: Largest value of the component that differs by so much.
        unequal: Number of pairs of steps that differ.
        pairs: Number of pairs of steps that were compared.
        stale: Whether the output is the input of the same step, in all pairs that differ.
    """

    output: str
    name: str
    episode: int
    step: int
    size: float
    largest: float
    unequal: int
    pairs: int
    stale: bool

    def __str__(self) -> str:
        much = "one of them is not finite"
        if np.isfinite(self.size):
            much = f"they differ by up to {self.size:.3g}, where the largest value is {self.largest:.3g}"
        same = f". It is {self.name!r} of the same step, the state before it" if self.stale else ""
        return (
            f"{self.output!r} of a step is declared to be {self.name!r} of the next one (sample_feedback), and is not "
            f"in {self.unequal} of {self.pairs} pairs of steps, first in steps {self.step} and {self.step + 1} of "
            f"episode {self.episode}: {much}{same}. Rollouts feed {self.output!r} to the network as {self.name!r}, and "
            "would be wrong: make both equal in the simulation, or take the declaration back"
        )


def feedback_gaps(spec: SampleSpec, rows: Mapping[str, Array], episodes: Array, steps: Array) -> Iterator[FeedbackGap]:
    """Yield the outputs that are not the inputs that they feed; what rounding explains counts as equal.

    Steps that follow each other in an episode are compared. A rejected step between two others gives no pair with
    them, and nor do fields that samples hold once.

    Args:
        spec: The fields.
        rows: At least the fields of the feedback with their masks, each of shape (n, *field shape).
        episodes: Episode of each row, shape (n,).
        steps: Step of each row, shape (n,), in ascending order within an episode.
    """
    pairs = np.flatnonzero((np.diff(episodes) == 0) & (np.diff(steps) == 1))
    for output, name in spec.feedback.stored.items() if len(pairs) else ():
        given, taken = rows[output][pairs], rows[name][pairs + 1]
        there = np.ones(given.shape, bool)
        for field, place in ((output, pairs), (name, pairs + 1)):
            if (flags := present_in(spec, field, {of: values[place] for of, values in rows.items()})) is not None:
                there = there & flags
        sizes, largest, differs = _compared(given, taken, there)
        which = np.flatnonzero(differs.reshape(len(pairs), -1).any(axis=1))
        if not len(which):
            continue
        first, found = pairs[which[0]], np.where(differs, sizes, -1.0)
        worst = int(np.argmax(found))
        unequal = pairs[which]
        stale = np.array_equal(rows[output][unequal], rows[name][unequal], equal_nan=_is_real(given))
        yield FeedbackGap(
            output,
            name,
            int(episodes[first]),
            int(steps[first]),
            float(found.flat[worst]),
            float(np.broadcast_to(largest, found.shape).flat[worst]),
            len(unequal),
            len(pairs),
            stale,
        )


def feedback_fields(spec: SampleSpec) -> list[str]:
    """Return the fields that `feedback_gaps` needs, by name."""
    stored = spec.feedback.stored
    names = {*stored, *stored.values()}
    masks = {spec[name].mask for name in names}
    return [name for name in spec if name in names or name in masks]


def _compared(given: Array, taken: Array, there: Array) -> tuple[Array, Array, Array]:
    """Return by how much values differ, the largest of each component, and which differ by more than rounding."""
    if given.dtype.kind not in "biufc":
        differs = (given != taken) & there
        return differs.astype(np.float64), np.ones(1), differs
    wide = np.complex128 if given.dtype.kind == "c" else np.float64
    a, b = given.astype(wide), taken.astype(wide)
    same = (given == taken) | (np.isnan(a) & np.isnan(b)) | ~there
    with np.errstate(invalid="ignore"):
        sizes = np.where(same, 0.0, np.abs(a - b))
    sizes[np.isnan(sizes)] = np.inf
    values = np.maximum(*(np.where(np.isfinite(one) & there, np.abs(one), 0.0) for one in (a, b)))
    largest = values.max(axis=0, keepdims=True, initial=0.0)
    tolerance = np.zeros(())
    if _is_real(given):
        rounding = float(np.finfo(given.dtype).eps)
        tolerance = np.maximum(
            max(ROUNDINGS * rounding, LEAST_TOLERANCE) * largest, rounding * largest.max(initial=0.0)
        )
    return sizes, largest, ~same & (sizes > tolerance)


def _is_real(values: Array) -> bool:
    return values.dtype.kind in "fc"
