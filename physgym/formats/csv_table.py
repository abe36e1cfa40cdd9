"""Tables of comma-separated values, which `import_csv` reads: a row per sample, a column per field."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.errors import DatasetError
from physgym.files import absolute
from physgym.formats.columns import asked_roles, refuse_index, refuse_texts, store_columns
from physgym.formats.registry import ImportFormat, ImportOptions
from physgym.sample import FieldRole
from physgym.samplers.parameter_table import HEADER
from physgym.spaces import Array

SUFFIXES = (".csv", ".tsv")
PORTION = 1 << 12  # rows that are texts at a time
INTEGER = re.compile(r"[+-]?[0-9]+")
FLAGS = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
ELEMENT = re.compile(r"(?P<name>.+)\[(?P<index>[0-9]+(?:,[0-9]+)*)\]")
EXACT = 1 << 53  # integers up to here are floats as well


def import_csv(
    source: str | Path,
    path: str | Path,
    *,
    roles: Mapping[str, FieldRole],
    units: Mapping[str, str] | None = None,
    episode: str | None = None,
    step: str | None = None,
    mode: Mode = "training",
    progress: bool = False,
) -> SampleDataset:
    """Store the rows of a table as samples.

    The first line names the columns; a unit may stand behind a name, ``length [m]``. Values are separated by comma,
    semicolon or tab, numbers have a point. A column of integers is int64, one of other numbers float64, one of True and
    False a flag, one without a number a text. Columns ``x[0]``, ``x[1]``, ... or ``map[0,1]`` are one field.

    Args:
        source: The file, in UTF-8.
        path: The new dataset's folder.
        roles: Column to "input", "target" or "additional", which all others are.
        units: Column to unit, in place of that in the table.
        episode: Column that says which episode a row is of; without it each row is an episode of its own.
        step: Column with the step of a row in its episode; by default rows are counted in their order.
        mode: Which part of the dataset to write.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: An argument does not fit the columns, or an input or a target is no number.
        DatasetError: There is no such table, a value is missing or is text among numbers, or `path` holds samples.
    """
    source = absolute(source)
    try:
        columns, found = _columns(source)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read the table {source}: {error}") from error
    arrays = _joined(source.name, columns)
    refuse_index(source, arrays)
    asked_roles(source.name, arrays, roles)
    refuse_texts(arrays, roles)
    store_columns(
        source,
        arrays,
        {"source": {"csv": {"file": source.name}}},
        path,
        roles=roles,
        units={name: unit for name, unit in found.items() if name not in (episode, step)} | {**(units or {})},
        episode=episode,
        step=step,
        mode=mode,
        progress=progress,
    )
    return SampleDataset(path, mode=mode)


def _columns(source: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the columns of a table by name, and their units."""
    with source.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        stream.seek(0)
        delimiter = next((mark for mark in "\t;" if mark in first), ",")
        rows = (row for row in csv.reader(stream, delimiter=delimiter, strict=True) if row)
        header = next(rows, None)
        if header is None:
            raise DatasetError(f"the table {source.name} is empty; its first line names the columns")
        names, units = _names(source.name, header)
        columns = [_NumbersOrTexts(name) for name in names]
        for portion in _portions(rows):
            for number, row in enumerate(portion, columns[0].count + 1):
                if len(row) != len(names):
                    raise DatasetError(
                        f"row {number} of {source.name} has {len(row)} values, the first line has {len(names)}"
                    )
            for i, column in enumerate(columns):
                column.take([row[i].strip() for row in portion])
    if not columns[0].count:
        raise DatasetError(f"the table {source.name} has no rows, so there is nothing to store")
    return {column.name: column.values() for column in columns}, units


def _names(source: str, header: list[str]) -> tuple[list[str], dict[str, str]]:
    names: list[str] = []
    units: dict[str, str] = {}
    for number, text in enumerate(header, 1):
        found = HEADER.fullmatch(text.strip())
        name = (text if found is None else found["name"]).strip()
        if not name:
            raise DatasetError(f"column {number} of {source} has no name in the first line")
        if name in names:
            raise DatasetError(f"{source} has two columns {name!r}; rename one")
        names.append(name)
        if found is not None and found["unit"]:
            element = ELEMENT.fullmatch(name)
            of, unit = (name if element is None else element["name"]), found["unit"].strip()
            if units.setdefault(of, unit) != unit:
                raise DatasetError(f"the columns of {of!r} in {source} have the units {units[of]!r} and {unit!r}")
    return names, units


def _portions(rows: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    while portion := list(itertools.islice(rows, PORTION)):
        yield portion


class _NumbersOrTexts:
    """A column, whose texts become integers, other numbers or flags, if all of them are such.

    Attributes:
        name: Its name.
        count: Rows so far.
    """

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0
        self._parts: list[Array] = []

    def take(self, texts: list[str]) -> None:
        """Take further rows.

        Raises:
            DatasetError: A value is missing, or is no number among numbers, or the other way.
        """
        if "" in texts:
            raise DatasetError(
                f"row {self.count + texts.index('') + 1} of column {self.name!r} is empty; fill it, or drop the row"
            )
        part = self._converted(texts)
        if self._parts and _group(part) != _group(self._parts[0]):
            wrong = next((i for i, text in enumerate(texts) if _group(_value(text)) != _group(self._parts[0])), 0)
            self._refuse(wrong, texts[wrong])
        self._parts.append(part)
        self.count += len(texts)

    def _converted(self, texts: list[str]) -> Array:
        values = [_value(text) for text in texts]
        kinds = {_group(value) for value in values}
        if len(kinds) > 1:
            first = _group(values[0])
            wrong = next(i for i, value in enumerate(values) if _group(value) != first)
            self._refuse(wrong, texts[wrong])
        if kinds == {"U"}:
            return np.array(texts)
        if kinds == {"b"}:
            return np.array(values, np.bool_)
        if all(value.dtype.kind == "i" for value in values):
            return np.array(values, np.int64)
        for value, text in zip(values, texts, strict=True):
            if value.dtype.kind == "i" and abs(int(value)) > EXACT:
                raise DatasetError(f"column {self.name!r} holds {text} among numbers that are no integers: not exact")
        return np.array(values, np.float64)

    def _refuse(self, place: int, text: str) -> None:
        raise DatasetError(
            f"row {self.count + place + 1} of column {self.name!r} is {text!r}, unlike those before it: a column holds "
            "numbers (with a point), flags or texts alone"
        )

    def values(self) -> Array:
        """Return the whole column."""
        if {part.dtype.kind for part in self._parts} == {"i", "f"}:
            for part in self._parts:
                if part.dtype.kind == "i" and (np.abs(part) > EXACT).any():
                    raise DatasetError(
                        f"column {self.name!r} holds integers above 2**53 among other numbers: not exact"
                    )
        return np.concatenate(self._parts)


def _group(value: Any) -> str:
    """Return "n" for numbers, else the kind of their dtype."""
    return "n" if value.dtype.kind in "if" else str(value.dtype.kind)


def _value(text: str) -> Any:
    if text in FLAGS:
        return np.bool_(FLAGS[text])
    try:
        if INTEGER.fullmatch(text):
            return np.int64(int(text))
        number = np.float64(float(text.replace("_", "x")))
    except OverflowError as error:
        raise DatasetError(f"{text} does not fit int64") from error
    except ValueError:
        return np.str_(text)
    if np.isinf(number) and text.lstrip("+-")[0] in "0123456789.":
        raise DatasetError(f"{text} does not fit float64")
    return number


def _joined(source: str, columns: Mapping[str, Array]) -> dict[str, Array]:
    """Return the columns; the columns of an array's elements become that array."""
    found: dict[str, Array] = {}
    parts: dict[str, dict[tuple[int, ...], Array]] = {}
    for name, values in columns.items():
        element = ELEMENT.fullmatch(name)
        if element is None:
            found[name] = values
        else:
            index = tuple(map(int, element["index"].split(",")))
            parts.setdefault(element["name"], {})[index] = values
    for name, elements in parts.items():
        shape = tuple(max(sides) + 1 for sides in zip(*elements, strict=False))
        missing = _first_missing(shape, elements)
        if name in found or missing or {len(index) for index in elements} != {len(shape)}:
            what = f"lacks {name}{list(missing)}" if missing else f"has both {name} and {name}[...], or mixed indices"
            raise DatasetError(f"{source} {what}; an array needs a column for each element")
        if len({_group(values) for values in elements.values()}) > 1:
            raise DatasetError(f"the columns of {name} in {source} hold numbers and others")
        if {values.dtype.kind for values in elements.values()} == {"i", "f"}:
            for index, values in elements.items():
                if values.dtype.kind == "i" and (large := values[np.abs(values) > EXACT]).size:
                    raise DatasetError(
                        f"column {name}[{','.join(map(str, index))}] holds {large[0]} next to columns of numbers that "
                        "are no integers: not exact"
                    )
        stacked = np.stack([elements[index] for index in np.ndindex(*shape)], axis=1)
        found[name] = stacked.reshape(-1, *shape)
    return found


def _first_missing(shape: tuple[int, ...], elements: Collection[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the first index of a shape that is not there, None where all are; a name may say a shape of any size."""
    for number in range(min(math.prod(shape), len(elements) + 1)):
        index: list[int] = []
        for side in reversed(shape):
            number, place = divmod(number, side)
            index.insert(0, place)
        if tuple(index) not in elements:
            return tuple(index)
    return None


class Csv(ImportFormat):
    """Tables of comma-separated values."""

    title = "a table of comma-separated values"
    source = f"a table {' or '.join(SUFFIXES)}"

    def reads(self, source: str) -> bool:
        """Return whether it is a file with such a suffix."""
        return Path(source).suffix.lower() in SUFFIXES and Path(source).is_file()

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store the rows of a table as samples."""
        return import_csv(source, path, **options.keywords)


IMPORT_FORMAT = Csv()
