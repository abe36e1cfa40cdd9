"""The layout of a partition: which tables it has, their columns, and the form of a row of each.

The layout is described in docs/reference/format.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from physgym.sample import Field, SampleSpec

FORMAT = "physgym-partition"
KINDS = "biufcSUV"  # of a field's dtype
VERSION = 2
INDEX: dict[str, np.dtype[Any]] = {
    "episode": np.dtype("<i8"),
    "step": np.dtype("<i8"),
    "env": np.dtype("<i4"),
    "seed": np.dtype("<u8"),
}
REASON: np.dtype[Any] = np.dtype("S200")
ENDING: np.dtype[Any] = np.dtype("S10")  # how an episode ended: terminated, truncated or cut
SAMPLES, EPISODES, REJECTED, ENDINGS = "samples", "episodes", "rejected", "endings"
COUNTERS = {SAMPLES: "num_samples", EPISODES: "num_episodes", REJECTED: "num_rejected", ENDINGS: "num_endings"}
MOMENTS = ("mean", "std", "min", "max")
Form = tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype of a row


@dataclass(frozen=True)
class PartitionLayout:
    """The tables of a partition and their columns.

    Attributes:
        spec: Sample fields.
        parameters: Parameters that are stored per episode, None for none.
        rejected: Whether there is a table of rejected samples.
        endings: Whether it is stored how each episode ended.
    """

    spec: SampleSpec
    parameters: SampleSpec | None = None
    rejected: bool = False
    endings: bool = False

    @cached_property
    def tables(self) -> dict[str, dict[str, Form]]:
        """Return the columns of every table: dataset name to the form of a row."""
        index: dict[str, Form] = {f"index/{name}": ((), dtype) for name, dtype in INDEX.items()}
        samples = _fields("data", self.spec) | index
        tables = {SAMPLES: samples}
        if self.parameters is not None:
            names: dict[str, Form] = {f"episodes/{name}": ((), INDEX[name]) for name in ("episode", "seed")}
            tables[EPISODES] = _fields("parameters", self.parameters) | names
        if self.rejected:
            rejected = {f"rejected/{name}": form for name, form in samples.items()}
            tables[REJECTED] = {**rejected, "rejected/reason": ((), REASON)}
        if self.endings:
            number = INDEX["step"]
            tables[ENDINGS] = {
                "endings/episode": ((), INDEX["episode"]),
                "endings/steps": ((), number),
                "endings/how": ((), ENDING),
            }
        return tables

    @cached_property
    def row_nbytes(self) -> int:
        """Return the bytes of a row of all tables together."""
        return sum(row_nbytes(form) for columns in self.tables.values() for form in columns.values())


def _fields(group: str, spec: SampleSpec) -> dict[str, Form]:
    return {f"{group}/{name}": (field.shape, field.dtype) for name, field in spec.items()}


def row_nbytes(form: Form) -> int:
    """Return the bytes of one row of a column."""
    shape, dtype = form
    return math.prod(shape) * dtype.itemsize


def rows_per_page(row: int, page: int) -> int:
    """Return the smallest number of rows that fill whole pages."""
    return page // int(np.gcd(row, page)) if row else 1


def statistics_forms(field: Field) -> dict[str, Form]:
    """Return the datasets of a field's statistics, by name: shape and dtype."""
    return {"count": ((1,), np.dtype("<u8"))} | {moment: (field.shape, np.dtype("<f8")) for moment in MOMENTS}
