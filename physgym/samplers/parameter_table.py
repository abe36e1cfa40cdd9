"""`ParameterTable`: parameters of episodes from the rows of a table."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.casting import as_array
from physgym.cube import EXACT, LeafColumns
from physgym.errors import ConfigError
from physgym.files import absolute, read_regular
from physgym.policies import ParameterDraw
from physgym.samplers.base import Sampler
from physgym.samplers.table import named
from physgym.spaces import Array, Leaf

LARGEST = 1 << 30  # bytes of a file
SHOWN = 12  # names in an error
INTEGER = re.compile(r"[+-]?[0-9]+")
HEADER = re.compile(r"(?P<name>.*?)\s*(?:\[(?P<unit>[^\[\]]*[^\[\]\d\s,][^\[\]]*)\])?")


@named(draws=("parameters",), argument="FILE", required=True)
class ParameterTable(Sampler):
    """Parameters from a table: episode i gets row i, and there are as many episodes as rows.

    The columns are found by name. A parameter that is no scalar has one column for each number, ``size[0]``,
    ``size[1]``, ``map[0,1]``; in a table from Python it may also be one column of arrays. A parameter within another
    one is written with its path, ``shape/size``. Behind a name may stand a unit, ``length [m]``, which must be that of
    the simulation.

    Args:
        table: A CSV file (with comma, semicolon or tab between the values and a point in the numbers), a DataFrame, a
            sequence of dictionaries, or a dictionary of columns.
        ignore: Names of columns that are no parameters, such as the number of a case.

    Attributes:
        episodes: Number of rows.

    Raises:
        ConfigError: There is no such file or it is no table: no row, a row of another length, two columns of one name.
    """

    name = "table"

    def __init__(self, table: Any, ignore: str | Sequence[str] = ()) -> None:
        self._what = "the table"
        if isinstance(table, (str, os.PathLike)):
            file = absolute(table)
            self._what = f"the table {file.name}"
            columns: Iterable[tuple[str, Any]] = _read(file, self._what)
        else:
            columns = _columns(table)
        self._units: dict[str, str] = {}
        self._values: dict[str, list[Any]] = {}
        for header, values in columns:
            found = HEADER.fullmatch(header.strip())
            name, unit = (header, None) if found is None else (found["name"], found["unit"])
            if name in self._values:
                raise ConfigError(f"{self._what} has two columns {name!r}; leave one out")
            if unit is not None:
                self._units[name] = unit.strip()
            try:
                if isinstance(values, (Mapping, Set, str, bytes)):
                    raise TypeError
                self._values[name] = list(values)
            except TypeError:
                kind = type(values).__name__
                raise ConfigError(
                    f"{self._what}: column {name!r} is a {kind}, not a list or an array with a value for each row"
                ) from None
        lengths = {len(values) for values in self._values.values()}
        if len(lengths) != 1 or lengths == {0}:
            got = sorted(lengths)
            raise ConfigError(f"{self._what} needs at least one row, and columns of equal length; got {got}")
        self.episodes = self._rows = lengths.pop()
        ignored = [ignore] if isinstance(ignore, str) else list(ignore)
        if unknown := [name for name in ignored if name not in self._values]:
            raise ConfigError(f"{self._what} has no column {_names(unknown)} to ignore; it has {_names(self._values)}")
        for name in dict.fromkeys(ignored):
            del self._values[name]

    def describe(self) -> dict[str, Any]:
        """Return names, number of rows and digest of the values as JSON data; the values are stored by episode."""
        digest = hashlib.sha256()
        for name in sorted(self._values):
            digest.update(repr((name, [_shown(value) for value in self._values[name]])).encode())
        return {
            "sampler": self.name,
            "columns": sorted(self._values),
            "rows": self._rows,
            "sha256": digest.hexdigest(),
        }

    def check_units(self, units: Mapping[str, str]) -> None:
        """Compare the units of the columns, where the table has some, with those of the simulation.

        Args:
            units: Unit by path of the parameter; empty where the simulation declares none.

        Raises:
            ConfigError: One differs.
        """
        for name, unit in self._units.items():
            path = name if name in units else name.partition("[")[0].strip()
            if path in units and unit != units[path]:
                wanted = f"in {units[path]}" if units[path] else "without a unit"
                raise ConfigError(
                    f"{self._what}: column {name!r} is in {unit}, the simulation takes {path!r} {wanted}; convert the "
                    "column"
                )

    def parameters(self, space: spaces.Space[Any], seed: int) -> ParameterDraw:
        """Return a function from the index of an episode to the parameters of its row.

        Raises:
            ConfigError: A column is missing, is no parameter, or has a value that is no number, no value of the
                parameter, or out of bounds; the text names column and row.
        """
        singles = walk.leaf_spaces(space)
        wanted = {leaf.path: self._sources(leaf) for leaf in walk.leaves(space)}
        if missing := [name for names in wanted.values() for name in names if name not in self._values]:
            raise ConfigError(
                f"{self._what} has no column {_names(missing)}; it has {_names(self._values)}, the parameters are "
                f"{_names(wanted)}"
            )
        if unknown := sorted(set(self._values) - {name for names in wanted.values() for name in names}):
            raise ConfigError(
                f"{self._what}: {_names(unknown)} is no parameter; they are {_names(wanted)}. Leave the column out, or "
                f"say ignore={unknown[:SHOWN]}"
            )
        columns = [self._column(leaf, singles[leaf.path], wanted[leaf.path]) for leaf in walk.leaves(space)]
        whole = LeafColumns(space, sum(math.prod(leaf.shape) for leaf in walk.leaves(space)))

        def draw(episode: int) -> Any:
            if episode >= self._rows:
                raise ConfigError(f"{self._what} has {self._rows} rows, so there is no episode {episode}")
            return whole.value(columns, episode)

        return draw

    def _sources(self, leaf: Leaf) -> list[str]:
        """Return the names of the columns of a parameter."""
        if leaf.path in self._values or not leaf.shape:
            return [leaf.path]
        return [f"{leaf.path}[{','.join(map(str, index))}]" for index in np.ndindex(*leaf.shape)]

    def _column(self, leaf: Leaf, single: spaces.Space[Any], names: list[str]) -> Array:
        """Return the values of a parameter, shape (rows, *shape), of its dtype."""
        found = walk.value_range(single)
        if found is None:
            raise ConfigError(
                f"parameter {leaf.path!r} is a {type(single).__name__}, which a table cannot hold; it holds Box, "
                "Discrete, MultiDiscrete and MultiBinary"
            )
        shape = leaf.shape if names == [leaf.path] else ()
        parts = [
            [self._number(name, row, value, shape) for row, value in enumerate(self._values[name])] for name in names
        ]
        values = np.stack([np.asarray(part) for part in parts], axis=-1).reshape(self._rows, *leaf.shape)
        if found.dtype.kind == "f":
            with np.errstate(over="ignore"):
                column = values.astype(found.dtype)
            self._refuse(~np.isfinite(column), names, values, leaf, f"is too large for {found.dtype}", found)
        else:
            column = np.zeros(values.shape, found.dtype)
            whole = (values == np.rint(values)) & (np.abs(values) <= EXACT)
            inside = whole & (values >= found.low) & (values <= found.high)
            self._refuse(~inside, names, values, leaf, "is no value of it: integers from {low} to {high}", found)
            column[...] = values.astype(found.dtype)
        outside = (found.has_low & (column < found.low)) | (found.has_high & (column > found.high))
        self._refuse(outside, names, values, leaf, "is out of bounds, {low} to {high}", found)
        return column

    def _number(self, name: str, row: int, value: Any, shape: tuple[int, ...]) -> Any:
        """Return a value as a finite float64, or an array of them.

        Raises:
            ConfigError: It is something else.
        """
        try:
            if isinstance(value, str) and ("_" in value or not value.strip()):
                raise ValueError  # Python reads 1_000 as a number
            number = as_array(float(value) if isinstance(value, str) else value)
            if isinstance(value, str) and INTEGER.fullmatch(value.strip()) and int(number) != int(value):
                raise ValueError  # float64 has not this integer
            if number.dtype.kind not in "fiub" or number.shape != shape or not np.isfinite(number).all():
                raise ValueError
            if number.dtype.kind in "iu" and ((number > EXACT) | (number < -EXACT)).any():
                raise ValueError
            exact = number.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            wanted = f"finite numbers of shape {shape}" if shape else "a finite number"
            wanted += " that float64 holds exactly" if INTEGER.fullmatch(str(value).strip()) else ""
            raise ConfigError(f"{self._what}: row {row + 1} of column {name!r} is {value!r}, not {wanted}") from None
        return exact

    def _refuse(self, wrong: Array, names: list[str], values: Array, leaf: Leaf, text: str, found: Any) -> None:
        if not wrong.any():
            return
        row, *index = (int(i) for i in np.argwhere(wrong)[0])
        column = names[0] if len(names) == 1 else names[int(np.ravel_multi_index(index, leaf.shape))]
        limits = {key: np.broadcast_to(getattr(found, key), leaf.shape)[tuple(index)] for key in ("low", "high")}
        raise ConfigError(
            f"{self._what}: row {row + 1} of column {column!r} is {values[(row, *index)]:g}, which "
            + text.format(**limits)
        )


def _read(file: Path, what: str) -> list[tuple[str, list[Any]]]:
    """Return header and values of each column of a CSV file."""
    try:
        text = read_regular(file, LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the table {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} is no text in UTF-8; save it as CSV") from None
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in "\t;" if mark in first), ",")
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise ConfigError(f"{what} is no CSV file: {error}") from None
    if not rows:
        raise ConfigError(f"{what} is empty; its first line names the columns")
    header, *body = rows
    for number, row in enumerate(body, 1):
        if len(row) != len(header):
            raise ConfigError(f"{what}: row {number} has {len(row)} values, the first line names {len(header)} columns")
    return [(name, [row[index] for row in body]) for index, name in enumerate(header)]


def _columns(table: Any) -> Iterable[tuple[str, Any]]:
    """Return name and values of each column of a DataFrame, a dictionary of columns or a sequence of dictionaries."""
    if isinstance(table, Mapping):
        return [(str(name), values) for name, values in table.items()]
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):
        names = list(table.columns)
        return [(str(name), list(table[name])) for name in names]
    if isinstance(table, Sequence) and table and all(isinstance(row, Mapping) for row in table):
        names = list(table[0])
        for number, row in enumerate(table, 1):
            if row.keys() != table[0].keys():
                raise ConfigError(f"the table: row {number} has {_names(row)}, row 1 {_names(names)}")
        return [(str(name), [row[name] for row in table]) for name in names]
    raise ConfigError(
        f"a table is a CSV file, a DataFrame, a sequence of dictionaries or a dictionary of columns, not {table!r:.80}"
    )


def _shown(value: Any) -> str:
    """Return a value as text that is the same for the same number, however a table holds it."""
    try:
        return repr(as_array(float(value) if isinstance(value, str) else value).astype(np.float64).tolist())
    except (TypeError, ValueError):
        return repr(str(value))


def _names(names: Iterable[Any]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} others" if len(listed) > SHOWN else ""
    return ", ".join(repr(name) for name in listed[:SHOWN]) + more
