"""`SampleBuffer`: samples that wait to be stored, in columns of a fixed size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from physgym.casting import CastError, as_dtype
from physgym.data.layout import SAMPLES, PartitionLayout, row_nbytes
from physgym.data.names import TakenNames
from physgym.data.texts import encoded
from physgym.errors import DatasetError
from physgym.spaces import Array


class SampleBuffer:
    """Columns that take samples in the form in which they are stored, and refuse a name that is taken.

    Args:
        layout: The layout of the partitions.
        nbytes: Size of the buffer.
        stored: Gives the names of all samples that are taken already, those of the buffer included.

    Attributes:
        row_nbytes: Bytes of a sample with its index.
        columns: By dataset name.
        size: Samples that fit.
        fill: Samples that wait.
        taken: The names that are taken.
    """

    def __init__(
        self, layout: PartitionLayout, nbytes: int, stored: Callable[[], Iterable[tuple[Array, Array]]]
    ) -> None:
        spec, self._forms = layout.spec, layout.tables[SAMPLES]
        self.row_nbytes = sum(row_nbytes(form) for form in self._forms.values())
        self.size, self.fill = max(1, nbytes // self.row_nbytes), 0
        self.columns = {name: np.zeros((self.size, *shape), dt) for name, (shape, dt) in self._forms.items()}
        self._index = [self.columns[f"index/{name}"] for name in ("episode", "step", "seed", "env")]
        self._fields = [
            (name, self.columns[f"data/{name}"], field.shape, field.dtype, field.dtype.kind == "U")
            for name, field in spec.items()
        ]
        self._texts = any(is_text for *_, is_text in self._fields)  # which may not be storable
        self.taken = TakenNames(stored)

    def snapshot(self) -> int:
        """Return how many samples wait."""
        return self.fill

    def restore(self, state: int) -> None:
        """Let so many samples wait."""
        self.fill = state

    def names(self) -> tuple[Array, Array]:
        """Return episodes and steps of the samples that wait."""
        return self._index[0][: self.fill], self._index[1][: self.fill]

    def filled(self) -> dict[str, Array]:
        """Return the columns of the samples that wait."""
        return {name: column[: self.fill] for name, column in self.columns.items()}

    def put(self, samples: Mapping[str, Any], index: Sequence[Any], count: int) -> bool:
        """Put samples of exactly the right form in the buffer, which has room; return whether they were.

        Args:
            samples: Every field.
            index: Episode, step, seed and environment of each.
            count: How many there are.
        """
        start, end = self.fill, self.fill + count
        if len(samples) != len(self._fields) or self._texts or index[1] is None:
            return False
        for name, target, shape, dtype, _ in self._fields:
            value = samples.get(name)
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != (count, *shape):
                return False
            target[start:end] = value
        for target, value in zip(self._index, index, strict=True):
            if value is None:
                target[start:end] = 0
                continue
            if type(value) is not np.ndarray or value.shape != (count,):
                return False
            if value.dtype == target.dtype:
                target[start:end] = value
            elif value.dtype.kind not in "iu" or not _held(value, target[start:end]):
                return False
        if count == 1:
            self.taken.take_one(self._index[0].item(start), self._index[1].item(start))
        else:
            self.taken.take(index[0], index[1])
        self.fill = end
        return True

    def put_one(self, sample: Mapping[str, Any], episode: int, step: int, seed: int, env: int) -> None:
        """Put one sample in the buffer, which has room.

        Raises:
            DatasetError: It does not fit, or its name is taken.
        """
        i = self.fill
        if len(sample) != len(self._fields):
            raise self._other_fields(sample)
        for name, target, shape, dtype, is_text in self._fields:
            value = sample.get(name)
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape or is_text:
                if name not in sample:
                    raise self._other_fields(sample)
                value = as_column(f"data/{name}", value, shape, dtype)
                _check_texts({name: value})
            target[i] = value
        try:
            episodes, steps, seeds, envs = self._index
            episodes[i], steps[i] = operator.index(episode), operator.index(step)
            seeds[i], envs[i] = operator.index(seed), operator.index(env)
        except (TypeError, OverflowError) as error:
            raise DatasetError(
                f"episode {episode}, step {step}, seed {seed}, env {env} do not name a sample: {error}"
            ) from error
        self.taken.take_one(int(episode), int(step))
        self.fill = i + 1

    def put_columns(self, rows: Mapping[str, Array], count: int) -> None:
        """Put the columns of samples, see `as_columns`, in the buffer, which has room; their names are taken."""
        for name, column in rows.items():
            self.columns[name][self.fill : self.fill + count] = column
        self.fill += count

    def as_columns(self, samples: Mapping[str, Any], index: Mapping[str, Any], count: int) -> dict[str, Array]:
        """Return samples as columns of the right form.

        Raises:
            DatasetError: They do not fit.
        """
        if samples.keys() != {name for name, *_ in self._fields}:
            raise self._other_fields(samples)
        given = {f"data/{name}": value for name, value in samples.items()}
        given |= {f"index/{name}": value for name, value in index.items()}
        columns = {name: as_column(name, given[name], *form, count) for name, form in self._forms.items()}
        if self._texts:
            _check_texts(columns)
        return columns

    def _other_fields(self, samples: Mapping[str, Any]) -> DatasetError:
        fields = {name for name, *_ in self._fields}
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


def _held(values: Array, target: Array) -> bool:
    """Copy integers; return whether the other dtype holds them."""
    target[:] = values
    return 0 not in (target == values).tobytes()  # a third of the time of `all`
