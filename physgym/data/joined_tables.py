"""The partitions of a dataset as one: their fields, and the tables that belong to the samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physgym.data.layout import ENDINGS, EPISODES
from physgym.data.partition import Partition
from physgym.errors import ConfigError, DatasetError
from physgym.feedback import Declaration
from physgym.sample import Sample, SampleSpec

EPISODE = "episode"


def check_fields(partitions: Sequence[Partition]) -> None:
    """Check that all partitions have the same fields.

    Raises:
        DatasetError: They have not.
    """
    first = partitions[0]
    for part in partitions:
        if part.spec is not first.spec and part.spec != first.spec:
            raise DatasetError(f"{part.path} has other fields than {first.path}: {part.spec.difference(first.spec)}")


def declared_spec(partitions: Sequence[Partition], feedback: Declaration | None) -> SampleSpec:
    """Return the fields with their feedback.

    Args:
        partitions: The partitions; those of a folder that is silent agree with the others.
        feedback: What holds in place of what they declare.

    Raises:
        DatasetError: Folders declare different ones.
        SampleError: The feedback does not fit the fields.
    """
    if feedback is not None:
        return partitions[0].spec.with_feedback(feedback)
    declared: dict[Path, SampleSpec] = {}  # by folder
    for part in partitions:
        if part.spec.feedback:
            declared.setdefault(part.path.parent, part.spec)
    (one, spec), *others = declared.items() or [(partitions[0].path.parent, partitions[0].spec)]
    for other, found in others:
        if found.feedback.declaration != spec.feedback.declaration:
            raise DatasetError(
                f"{one} declares the feedback {spec.feedback}, {other} declares {found.feedback}; open them one by "
                "one, or say which one holds with feedback=..."
            )
    return spec


def joined_endings(partitions: Sequence[tuple[int, Partition]]) -> Sample | None:
    """Return the columns of the table of endings; None where a partition lacks it.

    Args:
        partitions: The partitions, each with the number of its folder.

    Raises:
        ConfigError: Several folders have an episode of one number.
    """
    found = joined([part for _, part in partitions], ENDINGS, f"{ENDINGS}/")
    if found is not None and len({folder for folder, _ in partitions}) > 1:
        _check_episodes(partitions)
    return found


def _check_episodes(partitions: Sequence[tuple[int, Partition]]) -> None:
    known: dict[int, int] = {}
    for folder, part in partitions:
        names = [part.read(f"index/{EPISODE}", 0, part.count)]
        names.append(part.read(f"{ENDINGS}/{EPISODE}", 0, part.tables[ENDINGS].count))
        for episode in np.unique(np.concatenate(names)).tolist():
            if known.setdefault(episode, folder) != folder:
                raise ConfigError(f"several folders have an episode {episode}; open them one by one")


def joined(partitions: Sequence[Partition], table: str, prefix: str) -> Sample | None:
    """Return the columns of a table that begin with a prefix, without it; None where a partition lacks the table.

    Raises:
        DatasetError: The partitions hold different parameters.
    """
    if not all(table in part.tables for part in partitions):
        return None
    first = partitions[0]
    if table == EPISODES and any(part.layout.parameters != first.layout.parameters for part in partitions):
        folders = dict.fromkeys(str(part.path.parent) for part in partitions)
        raise DatasetError(f"{', '.join(folders)} hold different parameters; open them one by one")
    names = [name for name in first.tables[table].columns if name.startswith(prefix)]
    return {
        name.removeprefix(prefix): np.concatenate([p.read(name, 0, p.tables[table].count) for p in partitions])
        for name in names
    }
