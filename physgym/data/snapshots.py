"""Snapshots of a dataset: states of its simulation on the way through episodes, in files next to its partitions.

The file ``snapshots/MODE/EPISODE/STEP.npz`` (uncompressed) holds the state just before a step. Samples do not depend on
it, and a reader of samples need not know of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from physgym.checks import integer
from physgym.data import constants
from physgym.data.description import Mode
from physgym.errors import ConfigError, DatasetError
from physgym.files import read_regular, write_atomically
from physgym.spaces import Array
from physgym.storage.location import Location, place

FOLDER = "snapshots"
STATE, CODE, SECONDS, NAME, SEED = "state/", "code", "step_seconds", "name", "seed"
LARGEST = 1 << 34  # bytes
Taken: TypeAlias = tuple[int, int, int, Mapping[str, Array]]  # episode, step after which it was taken, seed, state


@dataclass(frozen=True)
class Snapshot:
    """A state of a simulation within an episode.

    Attributes:
        episode: The episode.
        step: The step before which it was.
        seed: Seed of the episode.
        state: What `Simulation.state` gave.
        code: Hash of the code of the simulation.
        step_seconds: Time of a step in s; None where the simulation does not say it.
        file: Where it is stored.
    """

    episode: int
    step: int
    seed: int
    state: Mapping[str, Array]
    code: str
    step_seconds: float | None
    file: Path


def left_snapshots(folders: Sequence[Path], mode: Mode) -> list[str]:
    """Return what an export says that it leaves out: ["snapshots"] where samples of a mode have some."""
    return ["snapshots"] if any((folder / FOLDER / mode).is_dir() for folder in folders) else []


def check_snapshots(every: int | None, path: str | Path | Location | None) -> int | None:
    """Return after how many steps a state is to be stored.

    Args:
        every: What was asked for; None for no states.
        path: The dataset that they are to be stored in.

    Raises:
        ConfigError: It is no number of steps, or there is no folder for the files.
    """
    if every is None:
        return None
    if path is None:
        raise ConfigError("snapshots are stored next to the samples of a dataset; give path, or leave snapshots out")
    if isinstance(place(path), Location):
        raise ConfigError(
            f"snapshots are files next to a dataset on the disk, and {path} is none; generate into a folder, or leave "
            "snapshots out"
        )
    return integer("snapshots", every, 1)


class SnapshotWriter:
    """Writes snapshots of a part of a dataset.

    A snapshot is stored no later than the sample of the step that it follows, and none is that follows the last stored
    sample: which there are depends on nothing but the samples.

    Args:
        folder: The dataset.
        mode: The part.
        code: Hash of the code of the simulation.
        step_seconds: Time of a step in s, if the simulation says it.
    """

    def __init__(self, folder: Path, mode: Mode, code: str, step_seconds: float | None) -> None:
        self._folder = folder / FOLDER / mode
        self._said = {CODE: np.array(code), SECONDS: np.array(np.nan if step_seconds is None else step_seconds)}
        self._waiting: list[Taken] = []

    def add(self, taken: Sequence[Taken], last: tuple[int, int]) -> None:
        """Store snapshots up to the name of a sample; later ones wait for the samples that follow.

        Args:
            taken: New snapshots.
            last: Episode and step of the last sample that is to be stored.

        Raises:
            DatasetError: The disk refuses.
        """
        self._waiting += taken
        due = [one for one in self._waiting if one[:2] <= last]
        self._waiting = [one for one in self._waiting if one[:2] > last]
        for episode, step, seed, state in due:
            file = self._folder / str(episode) / f"{step + 1}.npz"
            held = {f"{STATE}{name}": value for name, value in state.items()}
            held |= {NAME: np.array([episode, step + 1], np.int64), SEED: np.array(seed, np.uint64)}
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, constants.encode({**held, **self._said}), durable=False)
            except OSError as error:
                raise DatasetError(f"cannot write the snapshot {file}: {error.strerror or error}") from error


def snapshot_steps(folder: Path, mode: str, episode: int) -> list[int]:
    """Return the steps of an episode before which there is a snapshot, ascending."""
    files = (folder / FOLDER / mode / str(episode)).glob("*.npz")
    return sorted(int(file.stem) for file in files if file.stem.isdecimal())


def snapshot_files(folder: Path, mode: str) -> list[Path]:
    """Return the files of all snapshots of a part."""
    return [file for file in (folder / FOLDER / mode).glob("*/*.npz") if file.stem.isdecimal()]


def read_snapshot(folder: Path, mode: str, episode: int, step: int) -> Snapshot:
    """Return the snapshot before a step.

    Raises:
        DatasetError: There is none, its file is damaged, or another step has it.
    """
    file = folder / FOLDER / mode / str(episode) / f"{step}.npz"
    try:
        found = constants.decode(read_regular(file, LARGEST), file)
        state = {name.removeprefix(STATE): value for name, value in found.items() if name.startswith(STATE)}
        seconds, name = float(found[SECONDS]), found[NAME].tolist()
        if name != [episode, step]:
            raise ValueError(f"it is of {name}")
        seconds_known = None if np.isnan(seconds) else seconds
        return Snapshot(episode, step, int(found[SEED]), state, str(found[CODE]), seconds_known, file)
    except (OSError, KeyError, TypeError, ValueError, DatasetError) as error:
        raise DatasetError(
            f"{file} is no readable snapshot. Delete it: its episode is replayed from its seed"
        ) from error
