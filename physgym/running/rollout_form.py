"""`RolloutForm`: how a network is fed with its own predictions, and what these are compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from physgym.errors import ConfigError
from physgym.feedback import Feedback
from physgym.nn import Predictor
from physgym.running.kept_padding import KeptPadding
from physgym.sample import Field, Sample, SampleSpec, finite_rows, present
from physgym.spaces import Array


class RolloutForm:
    """The rows of a trajectory that a network is given, and those that it predicts.

    A network of single steps is fed with the fields of a row. One of windows (`physgym.SampleDataset.windows`) is fed
    with n rows and predicts m: the rows have an axis of their own before those of the field. Horizon 1 is the first
    step that is predicted; the n given states are compared with nothing.

    Args:
        predictor: The network.
        spec: The fields of the trajectories.
        feedback: What feeds what.

    Attributes:
        fed: Inputs that the network's own outputs are at the next step, each with its output.
        forced: The other inputs, which are those of the trajectory: actions, parameters, forcings.
        targets: Each output with the field that it is compared with.
        given: Rows of the inputs that are fed back.
        predicted: Rows of a prediction.

    Raises:
        ConfigError: No feedback is declared, the network does not predict what it is fed with, or a field is missing
            or has another shape; or it was trained on windows with a stride.
    """

    def __init__(self, predictor: Predictor, spec: SampleSpec, feedback: Feedback) -> None:
        outputs, inputs = predictor.outputs, predictor.inputs
        if not feedback:
            raise ConfigError(
                "no feedback is declared, so which output feeds which input of the next step is not known. Declare it "
                "with the samples, sample_feedback = {'next_state': 'state'}, or say feedback='next_state -> state'"
            )
        stride = 1 if predictor.learned is None else predictor.learned.stride
        if stride != 1:
            raise ConfigError(
                f"the network learned from windows with a stride of {stride}, so that its steps are {stride} of the "
                "samples' ones, and a rollout goes from each sample to the next one. Train it on windows without a "
                "stride, or store every such step alone"
            )
        self.fed = {name: output for output, name in feedback.items() if name in inputs}
        if not self.fed:
            raise ConfigError(
                f"the feedback {feedback} feeds none of the inputs of the network, {list(inputs)}; declare what feeds "
                "them"
            )
        if lacking := [f"{output} (for {name})" for name, output in self.fed.items() if output not in outputs]:
            raise ConfigError(
                f"a rollout needs the outputs {', '.join(lacking)}, and the network predicts {list(outputs)}. Train "
                "one that predicts them too, or change the feedback"
            )
        self.forced = tuple(name for name in inputs if name not in self.fed)
        # what samples lack is what they hold once: the input of the next one
        self.targets = {output: output if output in spec else feedback.get(output, "") for output in outputs}
        lost = [name for name in (*inputs, *outputs) if self.targets.get(name, name) not in spec]
        if lost:
            raise ConfigError(
                f"the samples lack the fields {lost} of the network; they have {list(spec)}. Are they those of another "
                "simulation?"
            )
        padded = [spec[name] for name in (*self.fed, *self.targets.values()) if spec[name].mask]
        if unknown := {field.name: field.mask for field in padded if field.mask not in spec}:
            raise ConfigError(
                f"the samples lack the masks of padded fields, {unknown}: which values are there is not known. Open "
                "them with these fields as well"
            )
        self._late = {output: int(field != output) for output, field in self.targets.items()}
        self._predictor, self._spec = predictor, spec
        first = next(iter(self.fed))
        self.windowed = len(predictor.spec[first].shape) == len(spec[first].shape) + 1
        self.given = self._rows(first, spec[first]) if self.windowed else 1
        self.predicted = self._rows(outputs[0], spec[self.targets[outputs[0]]]) if self.windowed else 1
        self._lengths = {name: self._checked(name, spec[name], (self.given,)) for name in self.fed}
        whole = self.given + self.predicted - 1
        self._lengths |= {name: self._checked(name, spec[name], (self.given, whole)) for name in self.forced}
        for name in outputs:
            self._checked(name, spec[self.targets[name]], (self.predicted,))

    def _rows(self, name: str, field: Field) -> int:
        shape = self._predictor.spec[name].shape
        return shape[0] if len(shape) == len(field.shape) + 1 else 1

    def _checked(self, name: str, field: Field, lengths: Collection[int]) -> int:
        """Return the rows of a field of the network.

        Raises:
            ConfigError: It does not fit the stored one.
        """
        shape = self._predictor.spec[name].shape
        wanted = [(length, *field.shape) for length in sorted(set(lengths))] if self.windowed else [field.shape]
        if shape not in wanted:
            raise ConfigError(
                f"the network was made for {name!r} of shape {shape}; the samples have {field.name!r} of shape "
                f"{field.shape}, and a rollout wants {' or '.join(map(str, wanted))}. Are they those of another "
                "simulation, or of other arguments?"
            )
        return shape[0] if self.windowed else 1

    @property
    def fields(self) -> list[str]:
        """Return the fields of a trajectory that a rollout needs, masks included."""
        masks = [mask for name in (*self.fed, *self.targets.values()) if (mask := self._spec[name].mask)]
        return list(dict.fromkeys([*self.fed, *self.forced, *self.targets.values(), *masks]))

    @property
    def outputs(self) -> list[Field]:
        """Return the predicted fields, each with the shape of one step."""
        return [
            Field(
                name,
                self._spec[field].shape,
                self._predictor.spec[name].dtype,
                "target",
                self._spec[field].unit,
                kind=self._spec[field].kind,
            )
            for name, field in self.targets.items()
        ]

    def rows(self, horizon: int) -> int:
        """Return the rows of a trajectory that so many predicted steps need."""
        blocks = -(-horizon // self.predicted)
        return self.given + blocks * self.predicted - 1 + max(self._late.values())

    def horizon(self, rows: int) -> int:
        """Return the steps that can be predicted, and compared, in a trajectory of so many rows."""
        blocks = (rows - self.given + 1 - max(self._late.values())) // self.predicted
        return max(0, blocks) * self.predicted

    def begin(self, fields: Sample) -> Sample:
        """Return the given rows of the inputs that are fed back, in dtypes of their own: shape (given, *shape)."""
        return {name: np.array(fields[name][: self.given]) for name in self.fed}

    def padding(self, fields: Sample) -> dict[str, KeptPadding]:
        """Return the padding of the last given state, by input that is fed back."""
        last, found = self.given - 1, {}
        for name in self.fed:
            field = self._spec[name]
            mask = fields[field.mask][last] if field.mask else None
            found[name] = KeptPadding.of(self._spec, field, fields[name][last], mask)
        return found

    def forcing(self, fields: Sample, step: int) -> Sample:
        """Return the other inputs for the prediction that begins with a horizon of ``step + 1``."""
        return {
            name: fields[name][step : step + self._lengths[name]] if self.windowed else fields[name][step]
            for name in self.forced
        }

    def true(self, fields: Sample, horizon: int) -> Sample:
        """Return what the solver has in place of each output, from horizon 1 on: shape (horizon, *shape)."""
        return {name: self._compared(fields[field], name, horizon) for name, field in self.targets.items()}

    def present(self, fields: Sample, horizon: int) -> dict[str, Array | None]:
        """Return the flags of the values that each output has there, by its mask; None for all."""
        found: dict[str, Array | None] = {}
        for name, target in self.targets.items():
            field = self._spec[target]
            if not field.mask:
                found[name] = None
                continue
            values = self._compared(fields[field.mask], name, horizon)
            found[name] = present(field, self._spec[field.mask], values)
        return found

    def bad_target(self, fields: Sample, horizon: int) -> tuple[str, int] | None:
        """Return a field with which an output is compared, and its first row that is not finite; None for none."""
        begin = {field: self.given - 1 + self._late[name] for name, field in self.targets.items()}
        return self._not_finite(fields, {field: (first, first + horizon) for field, first in begin.items()})

    def bad_input(self, fields: Sample, step: int) -> tuple[str, int] | None:
        """Return what feeds the network after so many predicted steps, and its first row that is not finite."""
        rows = {name: (step, step + self._lengths[name]) for name in self.forced}
        return self._not_finite(fields, rows if step else dict.fromkeys(self.fed, (0, self.given)) | rows)

    def _not_finite(self, fields: Sample, rows: Mapping[str, tuple[int, int]]) -> tuple[str, int] | None:
        """Return the first field of the solver with a row that is not finite where something is there, and this row."""
        for name, (start, stop) in rows.items():
            needed = [one for one in (name, self._spec[name].mask) if one in fields]
            good = finite_rows(self._spec, name, {one: fields[one][start:stop] for one in needed})
            if not good.all():
                return name, start + int(np.argmin(good))
        return None

    def _compared(self, rows: Array, name: str, horizon: int) -> Array:
        """Return the rows of a field that an output is compared with."""
        begin = self.given - 1 + self._late[name]
        return rows[begin : begin + horizon]

    def seconds(self, ends: Array, horizon: int) -> Array:
        """Return the time from the last given state to each horizon, from the times at which the rows' steps end."""
        begin = self.given - 1
        return ends[begin : begin + horizon] - (ends[begin - 1] if begin else 0.0)
