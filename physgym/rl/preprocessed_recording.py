"""`preprocess_recording`: a recording of an environment, rewritten as an agent sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.recordings import ACTED, ACTION, FLAGS, INFO, OBSERVATION, REWARD, is_recording
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.recorded_steps import fields_of, places_of
from physgym.rl.recordings import Recordings, open_recordings, recorded_spaces
from physgym.rl.transition_log import Columns
from physgym.sample import Field, SampleSpec
from physgym.spaces import Array, to_json
from physgym.storage.location import Location, place

BLOCK = 512  # rows that are read at once


def preprocess_recording(
    recording: Recordings,
    path: str | Path,
    preprocessing: Preprocessing | Sequence[str | Mapping[str, Any]],
    *,
    mode: Mode = "training",
    every: int | None = None,
) -> SampleDataset:
    """Write a recording of an environment again, as it would have been recorded within wrappers.

    Observations, actions and rewards are those of the agent, to the bit; all else stays. So an autoencoder, or anything
    that reads a dataset, learns from the pictures that an agent will see.

    Args:
        recording: The recording, see `physgym.rl.recordings.open_recordings`.
        path: Folder of the new dataset, which is there as a whole or not at all.
        preprocessing: The wrappers.
        mode: Which part of the recording to read, and which one is written.
        every: Rows of a file; by default as many as fit.

    Returns:
        The new dataset.

    Raises:
        ConfigError: It is no recording, does not say its spaces, or a wrapper cannot be applied to rows.
        DatasetError: Something is at `path` already, or the disk refuses.
        SampleError: An action is none that the agent can choose.
    """
    dataset = open_recordings(recording, mode)
    if not is_recording(dataset.spec):
        raise ConfigError(f"{places_of(dataset)} is no recording; make one with physgym.Recorder")
    raw = recorded_spaces(dataset)
    observation, action = raw[OBSERVATION], raw[ACTION]
    if observation is None or action is None:
        raise ConfigError(f"{places_of(dataset)} does not say its spaces; record again")
    config = preprocessing.config if isinstance(preprocessing, Preprocessing) else preprocessing
    applied = Preprocessing(config, observation, action)
    seen, chosen = (
        Columns(name, space)
        for name, space in zip((OBSERVATION, ACTION), applied.spaces(observation, action), strict=True)
    )
    said = {f"{one.name}_space": to_json(one.space) for one in (seen, chosen)}
    if isinstance(place(path), Location):
        raise ConfigError(f"{path}: write it to a folder, and upload that")
    folder = absolute(path)
    if folder.exists():
        raise DatasetError(f"{folder} is there already; choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with creating(folder) as made:
            writer = SampleWriter(
                made,
                _spec(dataset.spec, seen, chosen),
                mode=mode,
                source={**dataset.source, "preprocessing": applied.config},
                max_rows=every,
                nonfinite="allow",  # what is not finite was allowed when it was recorded
                attributes={"spaces": json.dumps(said)},
            )
            with writer:
                for rows, columns in _blocks(dataset, applied, chosen):
                    writer.append(columns, **rows)
    except OSError as error:
        raise DatasetError(f"cannot write {folder}: {error.strerror or error}. Nothing of it is left") from error
    return SampleDataset(folder, mode)


def _spec(stored: SampleSpec, seen: Columns, chosen: Columns) -> SampleSpec:
    """Return the fields of a recording within wrappers, in the order in which a `Recorder` has them."""
    fields = [Field(leaf.path, leaf.shape, leaf.dtype, "input", feeds=leaf.path) for leaf in seen.leaves]
    fields += [Field(leaf.path, leaf.shape, leaf.dtype, "input", mask=ACTED) for leaf in chosen.leaves]
    own = {*fields_of(stored, OBSERVATION), *fields_of(stored, ACTION)}
    return SampleSpec(fields + [field for name, field in stored.items() if name not in own])


def _blocks(
    dataset: SampleDataset, applied: Preprocessing, chosen: Columns
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """Yield the index and the columns of rows, some at a time."""
    index = {name: dataset.index(name) for name in ("step", "seed", "env")} | {"episode": dataset.episodes}
    earned = [name for name in dataset.spec if name in (REWARD, ACTED, *FLAGS) or name.startswith(f"{INFO}/")]
    rewards = applied.rewards(dataset.read(0, len(dataset), earned), index["episode"], index["step"])
    for start in range(0, len(dataset), BLOCK):
        part = slice(start, min(start + BLOCK, len(dataset)))
        stored = dataset.read(part.start, part.stop)
        acted = stored[ACTED]
        columns = {name: value for name, value in stored.items() if name.split("/")[0] not in (OBSERVATION, ACTION)}
        columns |= applied.observations(stored) | {REWARD: rewards[part]}
        for leaf in chosen.leaves:
            columns[leaf.path] = np.zeros((len(acted), *leaf.shape), leaf.dtype)
            columns[leaf.path][acted] = applied.actions({leaf.path: stored[leaf.path][acted]})
        yield {name: values[part] for name, values in index.items()}, columns
