"""`RunStep`: one step of a run, and the fields of what a run stores of it.

torch is not imported here, since workers use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from physgym.episode import Transition
from physgym.running.prediction_errors import compare, stored_error
from physgym.sample import Field, Sample, SampleSpec, present_in
from physgym.spaces import Array

PREDICTION, ERROR = "prediction/", "error/"  # prefixes of what a run adds to the fields of a sample


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run.

    Attributes:
        episode: Index of the episode.
        transition: What the simulation did. From a worker, and in a replay without the solver, it has no action, no
            observation and no info; there and in a run of the network alone the sample is all that there is.
        prediction: What the network predicts for the step's inputs; None where the step was rejected.
        solver_seconds: Time of the simulation's step; NaN where no solver ran.
        network_seconds: Time of the prediction, transforms included; its share where it was one of a batch.
        seed: Seed of the episode.
        env: Number of the simulation, in a replay of a dataset that has several.
        compared: Whether the prediction is compared with the sample.
        spec: The fields of the sample, whose masks say what is padding; None where nothing is.
    """

    episode: int
    transition: Transition
    prediction: Sample | None
    solver_seconds: float
    network_seconds: float
    seed: int = 0
    env: int = 0
    compared: bool = True
    spec: SampleSpec | None = None

    @property
    def errors(self) -> dict[str, np.float32]:
        """Return the relative L2 error of each predicted field that the sample has; empty where nothing is compared."""
        sample = self.transition.sample
        if self.prediction is None or sample is None or not self.compared:
            return {}
        return {
            name: relative_error(value, sample[name], self._present(name, sample))
            for name, value in self.prediction.items()
            if name in sample
        }

    def _present(self, name: str, sample: Sample) -> Array | None:
        """Return the flags of the values of a field that are there; None where it is not padded."""
        if self.spec is None or not self.spec[name].mask:
            return None
        mask = self.spec[name].mask
        found = present_in(self.spec, name, {mask: np.asarray(sample[mask])[np.newaxis]})
        return None if found is None else found[0]

    @property
    def fields(self) -> Sample:
        """Return the sample's fields, the predicted ones as ``prediction/<name>``, their errors as ``error/<name>``.

        Empty where the step was rejected.
        """
        if self.prediction is None or self.transition.sample is None:
            return {}
        return {
            **self.transition.sample,
            **{f"{PREDICTION}{name}": value for name, value in self.prediction.items()},
            **{f"{ERROR}{name}": np.asarray(value) for name, value in self.errors.items()},
        }


def record_fields(sample: SampleSpec, outputs: Sequence[Field], *, compare: bool) -> SampleSpec:
    """Return the fields of what a run stores: the sample, the predictions, and errors where they are compared."""
    predicted = [Field(f"{PREDICTION}{f.name}", f.shape, f.dtype, "additional", f.unit) for f in outputs]
    compared = [f for f in outputs if compare and f.name in sample]
    errors = [Field(f"{ERROR}{f.name}", (), np.dtype(np.float32), "additional") for f in compared]
    # a mask that the network predicts, or that was not loaded for a replay, is not stored
    own = [replace(f, mask=f.mask if f.mask in sample else "") for f in sample.values()]
    return SampleSpec([*own, *predicted, *errors])


def without_additions(spec: SampleSpec) -> SampleSpec:
    """Return the fields of a sample alone, where a run stored more."""
    return SampleSpec([f for f in spec.values() if not f.name.startswith((PREDICTION, ERROR))])


def relative_error(prediction: Array, target: Array, present: Array | None = None) -> np.float32:
    """Return the relative L2 error of a prediction as a run stores it.

    Args:
        prediction: Shape of the field.
        target: Same shape.
        present: Flags of the values that are there, which broadcast to that shape; None for all.
    """
    flags = None if present is None else present[np.newaxis]
    with np.errstate(over="ignore", invalid="ignore"):
        error: np.float32 = stored_error(compare(prediction[None], np.asarray(target)[None], flags).relative_l2)[0]
    return error
