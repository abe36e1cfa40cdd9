"""`RolloutRecord`: the predictions of rollouts as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import partition_files
from physgym.data.origins import SURGERY
from physgym.data.times import time_attribute
from physgym.data.writer import SampleWriter, all_or_nothing
from physgym.episode import seeds_of
from physgym.errors import ConfigError, DatasetError
from physgym.nn import Predictor
from physgym.running.autoregression import PredictedTrajectory
from physgym.running.prediction_errors import compare, stored_error
from physgym.running.rollout_form import RolloutForm
from physgym.running.run_step import ERROR, PREDICTION, record_fields, without_additions
from physgym.sample import Field, Sample, SampleSpec
from physgym.samplers import NetworkPolicy
from physgym.scene.declared import METADATA
from physgym.storage.location import Location, place


class RolloutRecord:
    """Stores rollouts step by step, with the mode "prediction".

    A sample is a step of the solver's episode, with its fields; the network's prediction as ``prediction/<output>``,
    NaN after a divergence; and the relative L2 error as ``error/<output>``. An output that samples hold once is there
    as ``next_<name>``.

    Args:
        folder: Dataset folder, or ``s3://bucket/prefix``.
        dataset: The episodes.
        form: How the network is rolled out.
        predictor: The network.
        horizon: Steps that are wanted.

    Raises:
        DatasetError: The folder holds predictions already.
    """

    def __init__(
        self, folder: Path | Location, dataset: SampleDataset, form: RolloutForm, predictor: Predictor, horizon: int
    ) -> None:
        self._form, self._dataset, self._seeds = form, dataset, dict[int, int]()
        self.spec = _fields(dataset.spec, form)
        part, rule = seeds_of(dataset.source, dataset.mode)
        source = {
            **dataset.source,
            "seeds": {"part": part, "rule": rule},
            "network": NetworkPolicy(predictor).describe()["weights"],
            "rollout": {"horizon": horizon},
        }
        source.pop(SURGERY, None)
        self._writer = SampleWriter(
            folder,
            record_fields(self.spec, form.outputs, compare=True),
            mode="prediction",
            source=source,
            parameters=dataset.parameter_spec,
            nonfinite="allow",  # a network may diverge
            attributes=time_attribute(dataset.time_step),
            provenance=dataset.provenance if isinstance(dataset.provenance, dict) else None,
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Complete the dataset after a block; where the block breaks off, nothing of it stays."""
        with all_or_nothing(self._writer):
            if constants := self._dataset.constants:
                self._writer.set_constants(constants)
            if (scene := self._dataset.metadata.get(METADATA)) is not None:
                self._writer.set_scene(scene)
            yield
            self._writer.close()

    def add(self, one: PredictedTrajectory) -> None:
        """Store a rollout.

        Raises:
            DatasetError: The disk refuses a write.
        """
        begin, count, trajectory = self._form.given - 1, one.horizon, one.trajectory
        if not count:
            return
        self._add_parameters(trajectory.episode, trajectory.seed)
        rows: Sample = {name: values[begin : begin + count] for name, values in trajectory.fields.items()}
        rows |= {name: values for name, values in one.true.items() if name not in rows}
        for name, values in one.predicted.items():
            with np.errstate(over="ignore", invalid="ignore"):
                error = stored_error(compare(values, one.true[name], one.present[name]).relative_l2)
            rows |= {f"{PREDICTION}{name}": values, f"{ERROR}{name}": _infinite_from(error, one.finite)}
        named: dict[str, Any] = {"episode": trajectory.episode, "seed": trajectory.seed, "env": trajectory.env}
        kinds = {"episode": np.int64, "seed": np.uint64, "env": np.int32}
        self._writer.append(
            {name: rows[name] for name in self._writer.spec},
            step=trajectory.steps[begin : begin + count],
            **{name: np.full(count, value, kinds[name]) for name, value in named.items()},
        )

    def _add_parameters(self, episode: int, seed: int) -> None:
        stored, numbers = self._dataset.parameters, self._dataset.parameter_episodes
        if stored is None or numbers is None or self._writer.spec is None:
            return
        (rows,) = np.nonzero(numbers == episode)
        values = {name: column[rows[:1]] for name, column in stored.items()}
        if len(rows):
            self._writer.add_parameters(values, episode=np.array([episode]), seed=np.array([seed], np.uint64))


def check_record(folder: str | Path | None, dataset: SampleDataset | None) -> Path | Location | None:
    """Return the place of a record; None where none is wanted.

    Raises:
        ConfigError: The episodes come from several folders, in which a number may mean several episodes.
        DatasetError: There is a record already.
    """
    if folder is None:
        return None
    found = place(folder)
    if dataset is not None and len(dataset.paths) > 1:
        raise ConfigError(
            "a record keeps the numbers of episodes, of which several folders may have the same; merge them"
        )
    if isinstance(found, Path) and partition_files(found, "prediction"):
        raise DatasetError(f"{found} already holds prediction samples. Choose another folder")
    return found


def _fields(spec: SampleSpec, form: RolloutForm) -> SampleSpec:
    """Return the fields of a dataset, and the outputs that it holds once."""
    outputs = {field.name: field for field in form.outputs}
    fields: list[Field] = []
    for field in without_additions(spec).values():
        once = field.feeds == field.name
        fields.append(replace(field, feeds="") if once else field)
    lacking = [name for name in outputs if name not in spec]
    for name in lacking:
        fed = [into for into, output in form.fed.items() if output == name]
        fields.append(replace(outputs[name], feeds=fed[0] if fed else ""))
    return SampleSpec(fields)


def _infinite_from(errors: Any, finite: int) -> Any:
    errors[finite:] = np.inf
    return errors
