"""The tables that belong to the samples, joined over the partitions of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physgym.data.layout import EPISODES
from physgym.data.partition import Partition
from physgym.errors import DatasetError
from physgym.sample import Sample


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
