"""`SampleChecks`: looks at samples before they are stored, and leaves out those that must not be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from physgym.data.layout import REASON, REJECTED
from physgym.data.mapped_rows import MappedRows
from physgym.data.side_tables import SideTables
from physgym.errors import ConfigError, SampleError
from physgym.sample import NOT_FINITE, Field, SampleSpec, counts_rows
from physgym.simulation import NonFinite
from physgym.spaces import Array


@dataclass(frozen=True)
class PendingBatch:
    """Samples that are being stored.

    Attributes:
        rows: Their columns.
        done: How many of them are stored.
        count: How many there are.
        error: What to raise after that.
        mapped: The partition in whose file they lie already; None where they do not.
        begin: Row of the first one there.
    """

    rows: Mapping[str, Array]
    done: int
    count: int
    error: SampleError | None
    mapped: MappedRows | None = None
    begin: int = 0


class SampleChecks:
    """The rules that samples must keep: finite values, and masks that count rows which are there.

    Args:
        spec: The sample fields.
        counts: The masks that count rows, see `row_counts`.
        nonfinite: What to do with a sample that has a value which is not finite.
        side_tables: Take those that are left out, where rejected samples are stored.

    Attributes:
        discarded: Samples that were left out because they are not finite.
    """

    def __init__(
        self, spec: SampleSpec, counts: Mapping[str, tuple[str, int]], nonfinite: NonFinite, side_tables: SideTables
    ) -> None:
        self._spec, self._counts, self._nonfinite, self._side_tables = spec, counts, nonfinite, side_tables
        self.discarded = 0
        floats = [] if nonfinite == "allow" else [field.name for field in spec.values() if field.dtype.kind in "fc"]
        self._floats = [f"data/{name}" for name in floats]

    def snapshot(self) -> int:
        """Return how many samples were left out."""
        return self.discarded

    def restore(self, state: int) -> None:
        """Take so many samples as left out."""
        self.discarded = state

    def checked(self, rows: Mapping[str, Array], count: int) -> PendingBatch:
        """Return the samples to store: where there is an error, those before the sample that it is about."""
        for name, (field, most) in self._counts.items():
            values = rows[f"data/{name}"][:count]
            wrong = (values < 0) | (values > most)
            if wrong.any():
                first = int(np.argmax(wrong))
                before = self.checked(rows, first)
                error = SampleError(
                    f"{_name(rows, first)}: {name!r} says that {values[first]} rows of {field!r} are there; it has "
                    f"{most}. A mask that is an integer counts the rows from the first one"
                )
                return before if before.error is not None else replace(before, error=error)
        return self._finite(rows, count)

    def pass_all(self, rows: Mapping[str, Array], begin: int, end: int) -> bool:
        """Return whether a few samples are found good at a glance; `checked` looks at the others."""
        if self._counts:
            return False
        for name in self._floats:
            finite = np.isfinite(rows[name][begin:end])
            if 0 in finite.tobytes():  # a third of the time of `all`
                return False
        return True

    def _finite(self, rows: Mapping[str, Array], count: int) -> PendingBatch:
        """Return the samples that are finite, or are allowed not to be."""
        if self._nonfinite == "allow":
            return PendingBatch(rows, 0, count, None)
        for field in self._spec.values():
            values = rows[f"data/{field.name}"][:count]
            if field.dtype.kind not in "fc" or np.isfinite(values).all():
                continue
            finite = np.isfinite(values.reshape(count, -1)).all(1)
            if self._nonfinite == "error":
                first = int(np.argmin(finite))
                before = self._finite(rows, first)
                error = _not_finite(rows, field, first)
                return before if before.error is not None else replace(before, error=error)
            if REJECTED in self._side_tables:
                rejected = {f"rejected/{name}": column[:count][~finite] for name, column in rows.items()}
                reasons = np.full(count - finite.sum(), cut(f"{field.name} is not finite"), REASON)
                self._side_tables[REJECTED].add({**rejected, "rejected/reason": reasons})
            self.discarded += int(count - finite.sum())
            rows, count = {name: column[:count][finite] for name, column in rows.items()}, int(finite.sum())
        return PendingBatch(rows, 0, count, None)


def _not_finite(rows: Mapping[str, Array], field: Field, at: int) -> SampleError:
    bad = np.argwhere(~np.isfinite(rows[f"data/{field.name}"][at]))
    index = tuple(int(i) for i in bad[0])
    return SampleError(NOT_FINITE.format(where=_name(rows, at), name=field.name, count=len(bad), index=index))


def _name(rows: Mapping[str, Array], at: int) -> str:
    return f"episode {rows['index/episode'][at]}, step {rows['index/step'][at]}"


def cut(reason: str) -> bytes:
    """Return a text that fits, without half a character at its end."""
    return reason.encode()[: REASON.itemsize].decode(errors="ignore").encode()


def check_storable(field: Field) -> None:
    """Raise ConfigError if HDF5 cannot hold a field as it is declared."""
    dtype, text = field.dtype, f"{field.name}{field.unit}"
    if dtype.kind not in "biufcSUV" or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise ConfigError(
            f"{field.name} has dtype {dtype}; a dataset holds numbers, flags, and texts and bytes of a fixed length"
        )
    if "\0" in text or text.encode(errors="replace").decode() != text:
        raise ConfigError(f"the name or unit of {field.name!r} is no text that HDF5 can hold; rename it")


def row_counts(spec: SampleSpec) -> dict[str, tuple[str, int]]:
    """Return the masks that count rows: by name the field of the fewest rows that each is of, and how many these are.

    Raises:
        ConfigError: The mask of a field is no field.
    """
    found: dict[str, tuple[str, int]] = {}
    for field in spec.values():
        if field.mask and field.mask not in spec:
            raise ConfigError(
                f"field {field.name!r} has the mask {field.mask!r}, which is no field of the samples; they have "
                f"{list(spec)}. Add that field, or take the mask away"
            )
        if field.mask and counts_rows(field, spec[field.mask]):
            rows = field.shape[0]
            if field.mask not in found or rows < found[field.mask][1]:
                found[field.mask] = (field.name, rows)
    return found
