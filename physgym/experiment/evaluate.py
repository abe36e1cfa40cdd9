"""`evaluate`: a network, or a session's, compared with stored samples; and what a training measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.checks import one_of
from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import PARTS, EpisodeSplit, effective_split, has_partitions
from physgym.data.description import Mode
from physgym.data.windows import EpisodeWindows, without_windows
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment import components
from physgym.experiment.config import check_config
from physgym.experiment.dataset_plan import DatasetFolders, dataset_has_samples, episode_split, places
from physgym.experiment.networks import by_python, load_network, trained_network
from physgym.experiment.record import read_config, read_record
from physgym.experiment.schema import Config
from physgym.experiment.session import CONFIG, RECORD
from physgym.experiment.session_samples import dataset_of
from physgym.nn import Predictor
from physgym.nn.devices import as_device
from physgym.nn.metrics import MetricName
from physgym.running.evaluation import (
    EvaluationForm,
    EvaluationReport,
    Unfinished,
    UsualMetrics,
    compare_origins,
    copy_remark,
    evaluate_predictor,
    memory_remark,
)
from physgym.storage.location import Location, place
from physgym.training import Metrics
from physgym.training.argument_checks import check_device

ALL_PARTS: tuple[Mode, ...] = (*PARTS, "prediction")


def evaluate(
    network: Predictor | str | Path,
    data: SampleDataset | EpisodeWindows | str | Path | Sequence[str | Path] | None = None,
    *,
    part: Mode | None = None,
    metrics: Sequence[MetricName] = UsualMetrics,
    worst: int = 5,
    worst_by: str | None = None,
    which: str | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    nonfinite: Unfinished = "raise",
    allow_changed_code: bool = False,
    progress: bool = True,
) -> EvaluationReport:
    """Compare the predictions of a network with stored samples, one by one, in physical units.

    Args:
        network: A `Predictor`, or the folder of a session or of a checkpoint.
        data: The samples, or the folders of a dataset; by default those of the session.
        part: "training", "validation", "test" or "prediction"; by default the test part where there is one, else all
            samples, and of an opened dataset just the samples that it has. For episodes the split that the dataset or
            the session records.
        metrics: Names in `physgym.nn.metrics.METRICS`, "module:function" or such functions of (prediction, target),
            each of shape (n, *shape), that return shape (n,); or subclasses of `Metric`.
        worst: How many of the worst samples of each field are named.
        worst_by: The metric by which they are the worst; by default relative_l2, else the first one that a single
            sample has.
        which: Which checkpoint of a session: "last", "best", an epoch or a name; by default the one that runs use.
        device: Where to compute, such as "cuda" or "auto"; by default that of the configuration, or of the predictor.
        batch_size: Samples that are predicted at once.
        nonfinite: What to do with a sample whose prediction or target is not finite: "raise", or "leave_out" of the
            metrics of that field, and count it.
        allow_changed_code: Whether the samples may be of other code of the simulation than what the network learned
            from; it is said then.
        progress: Whether to show how far it is.

    Returns:
        The figures by "metric/field", their components and units, and the worst samples; as a text it is a table.

    Raises:
        ConfigError: A field or a metric does not fit, there is no such part, or an argument is out of range.
        ChangedCode: The samples are of other code.
        CheckpointError: There is no such checkpoint, or it is damaged.
        DatasetError: The samples are missing or damaged.
        SampleError: A prediction or a target is not finite.
    """
    found = [_metric(one) for one in metrics] if not isinstance(metrics, str) else metrics
    form = EvaluationForm(found, worst, worst_by, batch_size, nonfinite)
    session = None if isinstance(network, Predictor) else Path(network)
    if device is not None:
        check_device(device)
    samples = samples_for(session, data, part)
    predictor = network if isinstance(network, Predictor) else network_for(Path(network), which, device)
    if device is not None:
        predictor.to(as_device(device))
    remarks = compare_origins(predictor, samples, allow_changed_code=allow_changed_code)
    report = evaluate_predictor(predictor, samples, form, progress=progress)
    remarks += [*memory_remark(predictor), *copy_remark(predictor, samples)]
    return replace(report, remarks=(*report.remarks, *remarks))


def _metric(one: MetricName) -> MetricName:
    """Return a metric that is named as ``module:attr``; others as they are."""
    if isinstance(one, str) and components.REFERENCE.fullmatch(one):
        found: MetricName = components.find(one, {}, "metrics")
        return found
    return one


def build_metrics(config: Config, predictor: Predictor) -> list[Metrics]:
    """Return the callback of the metrics and test sets that a configuration names; none where it names none.

    A test set is the test part of its dataset if there is one, else all of it.
    """
    section, tests = config.training, {}
    if not section.metrics and not section.test:
        return []
    trained = None if config.dataset.path is None else all_named(places(config.dataset.path))
    for name, path in section.test.items():
        folder = place(path)
        try:
            dataset = open_part(folder, None, episode_split(config) if all_named(folder) == trained else None)
        except PhysGymError as error:
            hint = ""
            if all_named(folder) == trained and not dataset_has_samples(folder):
                hint = ". This training is to generate it, and has no test part before: physgym generate CONFIG first"
            raise ConfigError(f"training.test.{name}: {error}{hint}") from error
        mini = config.dataset.mini
        tests[name] = dataset if mini is None else dataset.subset(np.arange(min(mini, len(dataset))))
    try:
        return [Metrics([_metric(one) for one in section.metrics], tests, fields=predictor.outputs)]
    except ConfigError as error:
        raise ConfigError(f"training: {error}") from error


def network_for(path: Path, which: str | None, device: torch.device | str | None) -> Predictor:
    """Return the network of a session or a checkpoint; where it was trained need not be there any more."""
    if not (path / CONFIG).is_file() or by_python(path):
        return trained_network(path, which or "last")
    config = check_config(read_config(path), str(path / CONFIG))
    if device is not None:
        config = config.model_copy(update={"device": str(device)})
    return load_network(config, path, which)


def samples_for(session: Path | None, data: Any, part: Mode | None) -> SampleDataset | EpisodeWindows:
    """Return the samples to evaluate on, see `evaluate`."""
    if part is not None:
        one_of("part", part, ALL_PARTS)
    if isinstance(data, (SampleDataset, EpisodeWindows)):
        dataset = without_windows(data)
        if part is None or part == dataset.mode == "prediction":
            return data
        if part == "prediction":
            raise ConfigError("the predictions of a run are a mode of their own: open them with mode='prediction'")
        return data.part(part, None if session is None else recorded_split(session, list(dataset.places)))
    if data is not None and not isinstance(data, (str, Path, Sequence)):
        raise ConfigError(f"samples to evaluate on are a dataset or its folder, not a {type(data).__name__}")
    if data is None:
        if session is None:
            raise ConfigError("a predictor has no samples of its own: name a dataset")
        folder = dataset_of(session)
        if folder == session:
            raise ConfigError(f"{session} is no session with samples of its own: name a dataset (--data)")
    else:
        folder = place(data) if isinstance(data, (str, Path)) else [place(one) for one in data]
    return open_part(folder, part, None if session is None else recorded_split(session, folder))


def recorded_split(session: Path, folder: DatasetFolders) -> EpisodeSplit | None:
    """Return the split that the record of a session has for a dataset; None for another dataset or without a split."""
    if not (session / RECORD).is_file():
        return None
    used = read_record(session)["runs"][-1].get("dataset") or {}
    mine = [place(one) for one in str(used.get("path", "")).split(", ")]
    if used.get("split") is None or all_named(mine) != all_named(folder):
        return None
    return EpisodeSplit.of(used["split"])


def all_named(folders: DatasetFolders) -> list[str]:
    """Return the names of folders, which are the same however the path to them is written."""
    given = folders if isinstance(folders, list) else [folders]
    return [str(one.resolve() if isinstance(one, Path) else one) for one in given]


def open_part(folder: DatasetFolders, part: Mode | None, split: EpisodeSplit | None = None) -> SampleDataset:
    """Open a part of a dataset; by default its test part if it has one, else all samples.

    Args:
        folder: Where it is.
        part: The part.
        split: Division of its episodes, where the dataset itself records none.

    Raises:
        ConfigError: There is no such part.
        DatasetError: There are no samples.
    """
    folders: list[Path | Location] = folder if isinstance(folder, list) else [folder]
    if part == "prediction":
        return SampleDataset(folders, mode=part)
    there = [mode for mode in PARTS if all(has_partitions(one, mode) for one in folders)]
    dataset = SampleDataset(folders, mode=there[0] if there else "training")
    holds = effective_split(dataset.episode_split, split)
    if part is None:
        tested = "test" in there or (holds is not None and holds.test > 0)
        return dataset.part("test", split) if tested else dataset
    return dataset.part(part, split)
