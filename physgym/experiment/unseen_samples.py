"""The samples on which the network of a session is measured where nobody names others: those that it has not seen."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.provenance import learned_samples
from physgym.errors import CheckpointError, ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.dataset_plan import (
    DatasetFolders,
    held_out_folder,
    open_dataset,
    split_samples,
    validation_part,
)
from physgym.experiment.evaluate import all_named, open_part, recorded_split
from physgym.experiment.networks import by_python
from physgym.experiment.record import read_config, read_record
from physgym.experiment.references import get
from physgym.experiment.session import CONFIG, RECORD
from physgym.experiment.session_samples import dataset_of
from physgym.storage.location import place
from physgym.training.stored_history import read_history


@dataclass(frozen=True)
class SessionSamples:
    """Samples of a session.

    Attributes:
        dataset: The samples.
        name: What they are, such as "the test part".
        unseen: Whether the network was not trained on them.
    """

    dataset: SampleDataset
    name: str
    unseen: bool


def unseen_samples(session: Path, data: Path | None = None) -> SessionSamples:
    """Return the test part of a session's samples; else those that its training validates on; else all of them.

    Args:
        session: The session.
        data: Dataset in place of the session's; of another one its test part, else its validation part, else all.

    Raises:
        ConfigError: The session has no samples.
        DatasetError: They are gone or damaged.
    """
    folder = dataset_of(session) if data is None else place(str(data))
    split = recorded_split(session, folder)
    try:
        return SessionSamples(open_part(folder, "test", split), "the test part", unseen=True)
    except ConfigError:  # there is none
        pass
    held: SampleDataset | None = None
    if data is None or _is_own(session, folder):
        held = _validation_of_program(session, folder) if by_python(session) else _validation(session, folder)
    else:
        with contextlib.suppress(ConfigError):  # there is none
            held = open_part(folder, "validation", split)
    if held is not None:
        return SessionSamples(held, "the validation part", unseen=True)
    return SessionSamples(open_part(folder, None, split), "the training samples", unseen=False)


def learned_without(session: Path, unseen: SampleDataset) -> SampleDataset | None:
    """Return the samples that the network of a session has learned from, without those that were held out.

    Args:
        session: The session.
        unseen: What `unseen_samples` says that it has not seen.
    """
    learned = learned_samples(session)
    if learned is None or learned.mode != unseen.mode or all_named([*learned.places]) != all_named([*unseen.places]):
        return learned
    rows, held = (one.stored_rows(np.arange(len(one))) for one in (learned, unseen))
    return learned.subset(np.flatnonzero(~np.isin(rows, held)))


def _is_own(session: Path, folder: DatasetFolders) -> bool:
    """Return whether a dataset is the one that a session was trained on."""
    with contextlib.suppress(ConfigError):  # it keeps none
        there = all((session / name).is_file() for name in (RECORD, CONFIG))
        return there and all_named(dataset_of(session)) == all_named(folder)
    return False


def _validation(session: Path, folder: DatasetFolders) -> SampleDataset | None:
    """Return the samples that a configuration validates on; None where there are none."""
    config = check_config(read_config(session), str(session / CONFIG))
    if (held := held_out_folder(config, folder)) is not None:
        return open_dataset(config, held, validation_part(held), mini=config.dataset.mini)
    if config.dataset.produce not in ("before", "first_epoch"):
        return None  # which trains on all that arrives
    return split_samples(config, open_dataset(config, folder, mini=config.dataset.mini), folder)[1]


def _validation_of_program(session: Path, folder: DatasetFolders) -> SampleDataset | None:
    """Return the samples that a training in Python validates on, as far as its record and checkpoints say it."""
    used: Any = read_record(session)["runs"][-1].get("others", {}).get("validation")
    if used is not None:
        return SampleDataset([place(one) for one in str(used["path"]).split(", ")], used.get("mode", "training"))
    dataset = SampleDataset(folder)
    if dataset.episode_split is not None and dataset.episode_split.validation:
        return dataset.part("validation")
    if get(read_config(session), "training", "unroll") is not None:
        return None  # its windows were divided, and not the samples
    try:
        settings = read_history(session)[1]
    except CheckpointError:
        return None
    fraction, seed = settings.get("validation"), settings.get("seed", 0)
    if not fraction:
        return None
    training = dataset if dataset.episode_split is None else dataset.part("training")
    return training.split(float(fraction), int(seed))[1]
