"""`SampleBuffer`: samples that wait to be stored, in columns of a fixed size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from physgym.casting import CastError, as_dtype
from physgym.data.layout import SAMPLES, PartitionLayout, row_nbytes
from physgym.data.mapped_rows import MappedRows
from physgym.data.names import TakenNames
from physgym.data.texts import encoded
from physgym.errors import DatasetError
from physgym.sample import SampleSpec
from physgym.spaces import Array


class _Place:
    """Columns that take samples: memory of a buffer, or rows of an open partition.

    Args:
        columns: By dataset name.
        spec: The sample fields.
        limit: Rows that there are.
        mapped: The partition; None for memory.

    Attributes:
        index: Columns of episode, step, seed and environment.
        exact: Those of episode, step and seed as memory, which takes values of exactly its own kind and refuses others.
        fields: Name, column, shape and dtype of each field.
        formed: A number of samples, and the fields with the shape that so many have.
        end: Row behind the last sample that waits.
    """

    __slots__ = ("columns", "end", "exact", "fields", "formed", "index", "limit", "mapped")

    def __init__(self, columns: dict[str, Array], spec: SampleSpec, limit: int, mapped: MappedRows | None) -> None:
        self.columns, self.limit, self.mapped = columns, limit, mapped
        self.index = [columns[f"index/{name}"] for name in ("episode", "step", "seed", "env")]
        self.exact = [column.data for column in self.index[:3]]
        self.fields = [(name, columns[f"data/{name}"], field.shape, field.dtype) for name, field in spec.items()]
        self.formed: tuple[int, list[tuple[str, Array, tuple[int, ...], Any]]] = (-1, [])
        self.end = self.begin

    @property
    def begin(self) -> int:
        """Return the row of the first sample that waits."""
        return 0 if self.mapped is None else self.mapped.table.written

    def fields_of(self, count: int) -> list[tuple[str, Array, tuple[int, ...], Any]]:
        """Return the fields with the shape that so many samples have, and keep them as `formed`."""
        formed = [(name, column, (count, *shape), dtype) for name, column, shape, dtype in self.fields]
        self.formed = count, formed
        return formed


class SampleBuffer:
    """Columns that take samples in the form in which they are stored, and refuse a name that is taken.

    They are memory of its own, or of an open partition, see `MappedRows`: then what waits lies in the file
    already, behind the rows that count.

    Args:
        layout: The layout of the partitions.
        nbytes: Size of the buffer.
        stored: Gives the names of all samples that are taken already, those of the buffer included.

    Attributes:
        row_nbytes: Bytes of a sample with its index.
        size: Samples that it takes at most before they are stored.
        taken: The names that are taken.
    """

    def __init__(
        self, layout: PartitionLayout, nbytes: int, stored: Callable[[], Iterable[tuple[Array, Array]]]
    ) -> None:
        self._spec, self._forms = layout.spec, layout.tables[SAMPLES]
        self.row_nbytes = sum(row_nbytes(form) for form in self._forms.values())
        self.size = max(1, nbytes // self.row_nbytes)
        memory = {name: np.zeros((self.size, *shape), dt) for name, (shape, dt) in self._forms.items()}
        # all that is known of a place is in one object, so that an interrupt finds this one or that one
        self._place = self._own = _Place(memory, layout.spec, self.size, None)
        self._texts = any(field.dtype.kind == "U" for field in layout.spec.values())  # which may not be storable
        self._environments = False  # before one is given, the columns of their numbers hold zeros
        self.taken = TakenNames(stored)

    @property
    def columns(self) -> dict[str, Array]:
        """Return the columns by dataset name."""
        return self._place.columns

    @property
    def mapped(self) -> MappedRows | None:
        """Return the partition in which they lie, None where they are memory of the buffer."""
        return self._place.mapped

    @property
    def begin(self) -> int:
        """Return the row of the first sample that waits."""
        return self._place.begin

    @property
    def end(self) -> int:
        """Return the row behind the last sample that waits."""
        return self._place.end

    @property
    def fill(self) -> int:
        """Return how many samples wait."""
        return self._place.end - self._place.begin

    def has_room(self, count: int) -> bool:
        """Return whether so many samples more fit."""
        place = self._place
        return place.end + count <= place.limit

    def snapshot(self) -> tuple[_Place, int]:
        """Return where samples wait."""
        return self._place, self._place.end

    def restore(self, state: tuple[_Place, int]) -> None:
        """Let these samples wait."""
        place, end = state
        place.end = end
        self._place = place

    def names(self) -> tuple[Array, Array]:
        """Return episodes and steps of the samples that wait."""
        waiting = slice(self.begin, self.end)
        episodes, steps, *_ = self._place.index
        return episodes[waiting], steps[waiting]

    def filled(self) -> dict[str, Array]:
        """Return the columns of the samples that wait."""
        waiting = slice(self.begin, self.end)
        return {name: column[waiting] for name, column in self.columns.items()}

    def clear(self) -> None:
        """Forget the samples that wait; further ones go into the buffer's own memory."""
        self._own.end = 0
        self._place = self._own

    def lend(self, mapped: MappedRows) -> None:
        """Take further samples into the file of a partition; none wait."""
        self._place = _Place(mapped.columns, self._spec, mapped.ready, mapped)

    def put(self, samples: Mapping[str, Any], index: Sequence[Any], count: int) -> bool:
        """Put samples of exactly the right form in the buffer, which has room; return whether they were.

        Args:
            samples: Every field.
            index: Episode, step, seed and environment of each.
            count: How many there are.
        """
        place = self._place
        start, ndarray = place.end, np.ndarray
        at = slice(start, start + count)
        number, fields = place.formed
        if number != count:
            fields = place.fields_of(count)
        episode, step, seed, env = index
        if len(samples) != len(fields) or self._texts or step is None:
            return False
        for name, target, shape, dtype in fields:
            value = samples.get(name)
            if value.__class__ is not ndarray or value.dtype != dtype or value.shape != shape:
                return False
            target[at] = value
        try:
            episodes, steps, seeds = place.exact
            episodes[at], steps[at], seeds[at] = episode, step, seed  # written out: a loop takes longer than the copies
        except (TypeError, ValueError, NotImplementedError):  # other kinds of numbers, or places that are not aligned
            if not _all_held(place.index[:3], index[:3], at, count):
                return False
        if env is not None or self._environments:
            self._environments = True
            if not _all_held(place.index[3:], index[3:], at, count):
                return False
        if count == 1:
            self.taken.take_one(place.index[0].item(start), place.index[1].item(start))
        else:
            self.taken.take(episode, step)
        place.end = start + count
        return True

    def put_one(self, sample: Mapping[str, Any], episode: int, step: int, seed: int, env: int) -> None:
        """Put one sample in the buffer, which has room.

        Raises:
            DatasetError: It does not fit, or its name is taken.
        """
        place = self._place
        i, fields = place.end, place.fields
        if len(sample) != len(fields):
            raise self._other_fields(sample)
        for name, target, shape, dtype in fields:
            value = sample.get(name)
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape or dtype.kind == "U":
                if name not in sample:
                    raise self._other_fields(sample)
                value = as_column(f"data/{name}", value, shape, dtype)
                _check_texts({name: value})
            target[i] = value
        try:
            episodes, steps, seeds, envs = place.index
            episodes[i], steps[i] = operator.index(episode), operator.index(step)
            self._environments = self._environments or env != 0
            seeds[i], envs[i] = operator.index(seed), operator.index(env)
        except (TypeError, OverflowError) as error:
            raise DatasetError(
                f"episode {episode}, step {step}, seed {seed}, env {env} do not name a sample: {error}"
            ) from error
        self.taken.take_one(int(episode), int(step))
        place.end = i + 1

    def put_columns(self, rows: Mapping[str, Array], count: int) -> None:
        """Put the columns of samples, see `as_columns`, in the buffer, which has room; their names are taken."""
        for name, column in rows.items():
            self.columns[name][self.end : self.end + count] = column
        self._place.end += count

    def as_columns(self, samples: Mapping[str, Any], index: Mapping[str, Any], count: int) -> dict[str, Array]:
        """Return samples as columns of the right form.

        Raises:
            DatasetError: They do not fit.
        """
        if samples.keys() != set(self._spec):
            raise self._other_fields(samples)
        self._environments = True
        given = {f"data/{name}": value for name, value in samples.items()}
        given |= {f"index/{name}": value for name, value in index.items()}
        columns = {name: as_column(name, given[name], *form, count) for name, form in self._forms.items()}
        if self._texts:
            _check_texts(columns)
        return columns

    def _other_fields(self, samples: Mapping[str, Any]) -> DatasetError:
        fields = set(self._spec)
        missing, extra = sorted(fields - set(samples)), sorted(set(samples) - fields)
        return DatasetError(f"the samples lack the fields {missing} and have {extra} beyond those of the dataset")


def as_column(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], count: int | None = None) -> Array:
    """Return values as an array of a shape and dtype; with a count, of so many samples.

    Raises:
        DatasetError: They do not fit.
    """
    try:
        column = as_dtype(value, dtype)
    except CastError as error:
        raise DatasetError(f"{name} {error}") from error
    wanted = shape if count is None else (count, *shape)
    if column.shape != wanted:
        who = "it needs" if count is None else f"{count} samples need"
        raise DatasetError(f"{name} has shape {column.shape}; {who} {wanted}")
    return column


def _check_texts(columns: Mapping[str, Array]) -> None:
    """Raise DatasetError if a text cannot be stored as UTF-8."""
    for name, column in columns.items():
        try:
            encoded(column)
        except UnicodeEncodeError as error:
            raise DatasetError(f"{name} has a text that cannot be stored: {error}") from error


def _all_held(targets: Sequence[Array], values: Sequence[Any], at: slice, count: int) -> bool:
    """Copy columns of an index, zeros for None; return whether they fit and the other dtype holds them."""
    for target, value in zip(targets, values, strict=True):
        if value is None:
            target[at] = 0
        elif value.__class__ is not np.ndarray or value.shape != (count,):
            return False
        elif value.dtype == target.dtype:
            target[at] = value
        elif value.dtype.kind not in "iu" or not _held(value, target[at]):
            return False
    return True


def _held(values: Array, target: Array) -> bool:
    """Copy integers; return whether the other dtype holds them."""
    target[:] = values
    return 0 not in (target == values).tobytes()  # a third of the time of `all`
