"""`Autoregression`: a network that continues from its own predictions, for several trajectories at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.casting import as_field
from physgym.errors import SampleError
from physgym.nn import Predictor
from physgym.running.kept_padding import KeptPadding
from physgym.running.rollout_form import RolloutForm
from physgym.running.timed_predictor import TimedPredictor
from physgym.running.trajectories import Trajectory
from physgym.sample import Sample
from physgym.spaces import Array


@dataclass
class PredictedTrajectory:
    """Predictions for a trajectory, next to what the solver has.

    Attributes:
        trajectory: That of the solver.
        predicted: The outputs, each of shape (horizon, *field shape), from horizon 1 on; NaN after a divergence.
        true: The same of the solver.
        diverged: First horizon at which a prediction is not finite, or cannot be made because the one before it is too
            large for the network; 0 where there is none. From there on the network is not asked any more.
        present: Flags of the values that are there, by output, which broadcast to its shape; None for all.
        seconds: Time of each horizon after the last given state in s, shape (horizon,); None where it is not known.
    """

    trajectory: Trajectory
    predicted: Sample
    true: Sample
    diverged: int
    present: dict[str, Array | None]
    seconds: Array | None

    @property
    def horizon(self) -> int:
        """Return the steps that were compared."""
        return len(next(iter(self.true.values())))

    @property
    def finite(self) -> int:
        """Return the steps before a divergence."""
        return self.diverged - 1 if self.diverged else self.horizon


class Autoregression:
    """Rolls a network out, from the first states of trajectories, under the other inputs that these have.

    What a recurrent network remembers goes with each trajectory; it predicts for one at a time.

    Args:
        predictor: The network.
        form: What it is fed with, and what is compared.
        batch_size: For how many trajectories it predicts at once; 1 gives the bits of a single prediction.
    """

    def __init__(self, predictor: Predictor, form: RolloutForm, batch_size: int = 1) -> None:
        self._predictor, self._form = predictor, form
        self._timed = TimedPredictor(predictor, batch_size)

    def __call__(self, trajectories: Sequence[Trajectory], horizon: int) -> list[PredictedTrajectory]:
        """Predict so many steps, or as many as a trajectory has.

        Raises:
            SampleError: A field of the solver does not fit the network, or is not finite.
        """
        found = [self._begun(one, min(horizon, self._form.horizon(len(one)))) for one in trajectories]
        history = [self._form.begin(one.trajectory.fields) for one in found]
        padding = [self._form.padding(one.trajectory.fields) for one in found]
        memories: list[Any] = [None] * len(found)
        suspect = {i for i, one in enumerate(found) if not self._is_fed_well(one.trajectory)}
        step = 0
        while going := [i for i, one in enumerate(found) if step < one.horizon and not one.diverged]:
            for i in suspect.intersection(going):
                _refuse(found[i].trajectory, self._form.bad_input(found[i].trajectory.fields, step))
            fed = [self._fed(found[i].trajectory, history[i], step) for i in going]
            for i, outputs in zip(going, self._predict(fed, step, going, memories), strict=True):
                if outputs is None:
                    found[i].diverged = step + 1
                else:
                    self._take(found[i], outputs, history[i], padding[i], step)
            step += self._form.predicted
        return found

    def _begun(self, trajectory: Trajectory, horizon: int) -> PredictedTrajectory:
        _refuse(trajectory, self._form.bad_target(trajectory.fields, horizon))
        predicted = {}
        for field in self._form.outputs:
            filling = np.nan if field.dtype.kind in "fc" else 0
            predicted[field.name] = np.full((horizon, *field.shape), filling, field.dtype)
        ends = trajectory.seconds
        seconds = None if ends is None else self._form.seconds(ends, horizon)
        true, present = self._form.true(trajectory.fields, horizon), self._form.present(trajectory.fields, horizon)
        return PredictedTrajectory(trajectory, predicted, true, 0, present, seconds)

    def _is_fed_well(self, trajectory: Trajectory) -> bool:
        """Return whether all that the solver gives the network is finite, or is taken by it as it is."""
        given = [v for name, v in trajectory.fields.items() if name in self._predictor.inputs and v.dtype.kind in "fc"]
        return self._predictor.takes_nonfinite or all(np.isfinite(value).all() for value in given)

    def _fed(self, trajectory: Trajectory, history: Sample, step: int) -> Sample:
        """Return what the network is fed with after so many predicted steps."""
        states = history if self._form.windowed else {name: value[0] for name, value in history.items()}
        return {**states, **self._form.forcing(trajectory.fields, step)}

    def _predict(
        self, fed: Sequence[Sample], step: int, going: Sequence[int], memories: list[Any]
    ) -> list[Sample | None]:
        """Return the outputs for each sample; None where one has become too large for the network."""
        if not self._predictor.recurrent:
            try:
                batch = {name: np.stack([one[name] for one in fed]) for name in self._predictor.inputs}
                outputs = self._timed.predict(batch, finite=False)
                return [{name: value[i] for name, value in outputs.items()} for i in range(len(fed))]
            except SampleError:
                if not step:  # a state of the solver's
                    raise
        return [self._predict_one(one, step, i, memories) for i, one in zip(going, fed, strict=True)]

    def _predict_one(self, fed: Sample, step: int, i: int, memories: list[Any]) -> Sample | None:
        try:
            outputs, memories[i] = self._predictor.predict_from(fed, memories[i], finite=False)
        except SampleError:
            if not step:
                raise
            return None
        return outputs

    def _take(
        self,
        one: PredictedTrajectory,
        outputs: Sample,
        history: Sample,
        padding: Mapping[str, KeptPadding],
        step: int,
    ) -> None:
        """Keep a prediction, and put it into the history, with the padding of the state that it began with."""
        count = min(self._form.predicted, one.horizon - step)
        rows = {name: value if self._form.windowed else value[np.newaxis] for name, value in outputs.items()}
        there = {name: None if all_ is None else all_[step : step + count] for name, all_ in one.present.items()}
        good = np.ones(count, bool)
        for name, value in rows.items():
            one.predicted[name][step : step + count] = value[:count]
            flags, finite = there[name], np.isfinite(value[:count])
            good &= (finite if flags is None else finite | ~flags).reshape(count, -1).all(1)
        if not good.all():
            _refuse(one.trajectory, self._form.bad_input(one.trajectory.fields, step))
            one.diverged = step + int(np.argmin(good)) + 1
            return
        if step + count == one.horizon:  # nothing is fed any more
            return
        try:
            for name, output in self._form.fed.items():
                before = history[name]
                own = padding[name].put_into(rows[output], there[output])
                value = as_field(own, before.dtype, output, "the next step")
                history[name] = np.concatenate([before, value])[-len(before) :]
        except SampleError:
            one.diverged = step + count + 1


def _refuse(trajectory: Trajectory, bad: tuple[str, int] | None) -> None:
    """Raise SampleError where a field of the solver is not finite in a row, which says nothing of the network."""
    if bad is not None:
        name, row = bad
        raise SampleError(
            f"{name!r} of the solver is not finite in episode {trajectory.episode}, step {trajectory.steps[row]}: what "
            "a network predicts from it, or next to it, is no error of the network. Roll out other episodes "
            "(episodes=[...]), or a dataset without such samples (physgym data filter, --where 'isfinite(...)')"
        )
