"""The samples on which the network of a session is measured where nobody names others: those that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.errors import CheckpointError, ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.dataset_plan import (
    DatasetFolders,
    held_out_folder,
    open_dataset,
    split_samples,
    validation_part,
)
from physgym.experiment.evaluate import open_part, recorded_split
from physgym.experiment.networks import by_python
from physgym.experiment.record import read_config, read_record
from physgym.experiment.references import get
from physgym.experiment.session import CONFIG
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


def unseen_samples(session: Path) -> SessionSamples:
    """Return the test part of a session's samples; else those that its training validates on; else all of them.

    Raises:
        ConfigError: The session has no samples.
        DatasetError: They are gone or damaged.
    """
    folder = dataset_of(session)
    split = recorded_split(session, folder)
    try:
        return SessionSamples(open_part(folder, "test", split), "the test part", unseen=True)
    except ConfigError:  # there is none
        pass
    held = _validation_of_program(session, folder) if by_python(session) else _validation(session, folder)
    if held is not None:
        return SessionSamples(held, "the validation part", unseen=True)
    return SessionSamples(open_part(folder, None, split), "the training samples", unseen=False)


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
