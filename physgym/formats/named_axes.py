"""Arrays with named axes, as of netCDF, as columns with a row per sample: `rows_of`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.errors import ConfigError
from physgym.spaces import Array

log = logging.getLogger(__name__)
STORED = "biufcSU"  # kinds of dtypes of samples


@dataclass(frozen=True)
class NamedAxes:
    """An array with named axes, whose values are read when they are needed.

    Attributes:
        dims: Names of its axes.
        shape: Their lengths.
        dtype: dtype of what `read` returns.
        read: Returns the values at an index of integers and slices, one for each axis.
        unit: Physical unit, empty if none.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[tuple[Any, ...]], Array]
    unit: str = ""

    def whole(self) -> Array:
        """Return all values."""
        return self.read((slice(None),) * len(self.dims))


@dataclass(frozen=True)
class RowAxes:
    """The axes that count samples: that of the episodes, that of their steps, or one of both.

    Attributes:
        episodes: Name and length; an empty name for a single episode.
        steps: Name and length; an empty name for a single step.
    """

    episodes: tuple[str, int]
    steps: tuple[str, int]

    @property
    def names(self) -> set[str]:
        """Return the names of the axes."""
        return {self.episodes[0], self.steps[0]} - {""}

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return self.episodes[1] * self.steps[1]


class AxesColumn:
    """An array with named axes as a column: row e * steps + s has the values of episode e at step s.

    Args:
        array: The array; an axis of samples that it lacks repeats its values.
        rows: The axes of samples.
    """

    def __init__(self, array: NamedAxes, rows: RowAxes) -> None:
        self._array, self._rows = array, rows
        rest = tuple(n for dim, n in zip(array.dims, array.shape, strict=True) if dim not in rows.names)
        self.shape, self.dtype, self.ndim = (rows.count, *rest), array.dtype, 1 + len(rest)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(len(self))
        found, steps = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype), self._rows.steps[1]
        if steps == 1:  # at once
            found[...] = self._read(slice(start, stop), 0, self._rows.episodes[0])
            return found
        at = start
        while at < stop:
            episode, step = divmod(at, steps)
            some = min(stop - at, steps - step)
            found[at - start : at - start + some] = self._read(slice(step, step + some), episode, self._rows.steps[0])
            at += some
        return found

    def _read(self, several: slice, other: int, along: str) -> Array:
        """Return the values of several places along an axis, and one along the other; without that axis of all."""
        dims = self._array.dims
        index = tuple(several if dim == along else other if dim in self._rows.names else slice(None) for dim in dims)
        values = self._array.read(index)
        if along not in dims:
            return values
        left = [dim for dim in dims if dim == along or dim not in self._rows.names]
        return np.moveaxis(values, left.index(along), 0)


class ChainedColumn:
    """Columns of several files, one after the other.

    Args:
        columns: The columns, of one shape of a row and one dtype.
    """

    def __init__(self, columns: Sequence[Any]) -> None:
        self._columns, self._bounds = columns, np.cumsum([0, *map(len, columns)])
        self.shape: tuple[int, ...] = (int(self._bounds[-1]), *columns[0].shape[1:])
        self.dtype, self.ndim = columns[0].dtype, len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(len(self))
        parts = [
            column[max(start - begin, 0) : stop - begin]
            for column, begin, end in zip(self._columns, self._bounds, self._bounds[1:], strict=False)
            if start < end and stop > begin
        ]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)


def rows_of(
    source: str,
    arrays: Mapping[str, NamedAxes],
    *,
    roles: Sequence[str],
    episode: str | None,
    step: str | None,
    lengths: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the columns of samples by name, with ``index/episode`` and ``index/step``, and what is the same for all.

    Args:
        source: What an error calls the origin.
        arrays: The arrays by name.
        roles: Names of the arrays that are inputs, targets or additional fields, at least one.
        episode: Name of the axis that counts episodes, or of an array of shape (samples,) that says which it is.
        step: Name of the axis that counts the steps of an episode, or of an array of shape (samples,).
        lengths: Lengths of axes that no array may have.

    Returns:
        The columns, and the arrays without an axis of samples.

    Raises:
        ConfigError: A name is unknown, or the arrays do not have these axes.
    """
    lengths = {**(lengths or {}), **_lengths(source, arrays)}
    if unknown := sorted(set(roles) - set(arrays)):
        raise ConfigError(f"roles names {unknown}; {source} has {_shown(arrays)}")
    if not roles:
        raise ConfigError(
            f"nothing says what the network gets and what it predicts: --role NAME=input --role NAME=target; {source} "
            f"has {_shown(arrays)}"
        )
    named = {what: name for what, name in (("episode", episode), ("step", step)) if name is not None}
    for what, name in named.items():
        if name not in lengths and name not in arrays:
            raise ConfigError(f"{what}={name!r} is no axis and no array; {source} has {_shown(arrays)}")
    columns = [name for name in named.values() if name not in lengths]
    if columns and len(columns) < len(named):
        raise ConfigError(
            f"{columns[0]!r} is an array and {next(n for n in named.values() if n in lengths)!r} an axis; episodes and "
            "steps are two axes, or two arrays with a row per sample"
        )
    if columns or not named:
        leading = {arrays[name].dims[:1] for name in (columns or roles)}
        if len(leading) != 1 or () in leading:
            raise ConfigError(
                f"the first axis of {', '.join(map(repr, columns or roles))} counts the samples, and must be the same; "
                f"{source} has {_shown(arrays)}. Name the axes of episodes and steps (--episode, --step)"
            )
        axis = leading.pop()[0]
        rows = RowAxes((axis, lengths[axis]), ("", 1))
    else:
        rows = RowAxes(*(((name, lengths[name]) if name else ("", 1)) for name in (episode, step)))
    found: dict[str, Any] = {}
    for what, name in named.items():
        if columns:
            found[f"index/{what}"] = AxesColumn(arrays[name], rows)[:]
    if named and not columns:
        found["index/episode"] = np.repeat(np.arange(rows.episodes[1]), rows.steps[1])
        found["index/step"] = np.tile(np.arange(rows.steps[1]), rows.episodes[1])
    constants, left_out = {}, []
    for name, array in arrays.items():
        if name in columns:
            continue
        if array.dtype.kind not in STORED:
            if name in roles:
                raise ConfigError(f"{name!r} has the dtype {array.dtype}; a field holds numbers, flags, texts or bytes")
            left_out.append(f"{name} ({array.dtype})")
        elif rows.names & set(array.dims):
            found[name] = AxesColumn(array, rows)
        elif name in roles:
            raise ConfigError(
                f"{name!r} has the axes {list(array.dims)}, none of which counts samples; {sorted(rows.names)} do"
            )
        else:
            constants[name] = array.whole()
    if left_out:
        log.warning("left out, since samples hold numbers, flags and texts: %s", ", ".join(left_out))
    return found, constants


def _lengths(source: str, arrays: Mapping[str, NamedAxes]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        for dim, length in zip(array.dims, array.shape, strict=True):
            if lengths.setdefault(dim, length) != length:
                raise ConfigError(f"axis {dim!r} of {source} has {lengths[dim]} entries, and {length} in {name!r}")
    return lengths


def _shown(arrays: Mapping[str, NamedAxes]) -> str:
    return ", ".join(f"{name} ({', '.join(array.dims)})" for name, array in arrays.items())
