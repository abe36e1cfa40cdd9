"""`store_columns`: columns of another file format, a row per sample, as samples of a new dataset; `checksum`."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from physgym.casting import CastError, as_array, as_dtype
from physgym.data.description import Description, Mode
from physgym.data.layout import INDEX
from physgym.data.times import time_attribute
from physgym.errors import ConfigError, DatasetError
from physgym.formats.new_folder import importing
from physgym.formats.side_columns import side_columns
from physgym.progress import Progress
from physgym.sample import Field, FieldRole, SampleSpec
from physgym.spaces import Array

CHUNK_BYTES = 1 << 24  # bytes that are read and written at a time
LOOKED_AT = 256  # rows
log = logging.getLogger(__name__)


def checksum(values: Array, before: int = 0) -> int:
    """Return the sum of an array's bytes, and of those before it."""
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, before)


def store_columns(
    source: str | Path,
    arrays: dict[str, Any],
    described: Mapping[str, Any],
    path: str | Path,
    *,
    roles: Mapping[str, FieldRole],
    units: Mapping[str, str],
    episode: str | Array | None,
    step: str | Array | None,
    mode: Mode,
    progress: bool,
) -> None:
    """Store columns as samples, a portion at a time.

    Args:
        source: What an error calls their origin.
        arrays: The columns by name, each with a row per sample: arrays, or what has their ``shape``, ``dtype`` and
            slices of rows. What `side_arrays` gives belongs to a dataset that was exported.
        described: What an export says of itself: "fields", "source", "parameters", "time_step" and "metadata".
        path: The new dataset's folder.
        roles: Field name to "input", "target" or "additional".
        units: Field name to unit.
        episode: The episode of each row, or the name of the column that holds it.
        step: The step of each row in its episode, or the name of the column that holds it.
        mode: Part of the dataset to write.
        progress: Whether to show how far it is.

    Raises:
        ConfigError: `roles` or `units` name no field, `episode` or `step` no column, or a role does not exist.
        DatasetError: There are no columns or no rows, the lengths differ, an episode and step is there twice, or `path`
            holds samples already.
    """
    index: dict[str, Array | None] = {name: arrays.pop(f"index/{name}", None) for name in INDEX}
    if isinstance(episode, str) and isinstance(step, str) and episode == step:
        raise ConfigError(f"episode and step both name the column {episode!r}; name one column for each")
    for name, given in (("episode", episode), ("step", step)):
        if isinstance(given, str) and given in {**(roles or {}), **(units or {})}:
            raise ConfigError(
                f"the column {given!r} says the {name} of each row, and is no field then; leave it out of the roles "
                "and units, or give the table a copy of it under another name"
            )
        if given is not None:
            index[name] = column_of_names(name, given, arrays)
    tables = side_columns(arrays, described)
    if not arrays:
        raise DatasetError(f"{source} holds no arrays")
    refuse_index(source, set(arrays) - {data["name"] for data in described.get("fields", [])})
    shapes = {name: value.shape for name, value in (arrays | index).items() if value is not None}
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise DatasetError(f"the arrays must have a row per sample, the same number of rows; their shapes: {shapes}")
    if not next(iter(shapes.values()))[0]:
        raise DatasetError(f"the arrays have no rows, so there is nothing to store; their shapes: {shapes}")
    if wrong := {name: str(value.dtype) for name, value in arrays.items() if value.dtype.kind not in "biufcSU"}:
        raise DatasetError(f"a field holds numbers, flags, texts or bytes, not {wrong}; leave out these arrays")
    spec = _spec(arrays, described, roles or {}, units or {})
    count = next(iter(shapes.values()))[0]
    if index["episode"] is None:
        if index["step"] is not None:
            raise ConfigError(
                "steps are given without the episodes in which they are, so that they would be those of an "
                "episode each: name the column of episodes as well (episode=, --episode)"
            )
        index["episode"] = np.arange(count)
        log.warning("%s", assumption(count, _overlapping(arrays)))
    elif index["step"] is None:
        index["step"] = _counted(np.asarray(index["episode"]))
    filled = {name: np.zeros(count, INDEX[name]) if value is None else value for name, value in index.items()}
    at_once = max(1, CHUNK_BYTES // max(1, spec.nbytes))
    with (
        importing(
            path,
            spec,
            mode=mode,
            source=described.get("source"),
            parameters=tables.spec,
            rejected=tables.rejected is not None,
            endings=bool(tables.endings),
            attributes=time_attribute(described.get("time_step")),
        ) as writer,
        Progress(count, f"import to {path}", "sample", enabled=progress) as bar,
    ):
        _keep_words(writer.path, described.get("metadata", {}))
        tables.write(writer)
        for start in range(0, count, at_once):
            rows = slice(start, start + at_once)
            where = {name: value[rows] for name, value in filled.items()}
            writer.append({name: arrays[name][rows] for name in spec}, **where)
            bar.update(len(where["step"]))


def _keep_words(folder: Path, words: Mapping[str, str]) -> None:
    """Write metadata of an export, such as its recorded split, before the samples; those that are there stay."""
    if words:
        found = Description.read(folder)
        Description(found.modes, found.constants, metadata={**words, **found.metadata}).write(folder)


def asked_roles(source: str, names: Mapping[str, Any], roles: Mapping[str, Any] | None) -> None:
    """Raise ConfigError where nothing says what is input and target."""
    if not roles:
        raise ConfigError(
            f"nothing says what the network gets and what it predicts: --role NAME=input --role NAME=target; {source} "
            f"has the columns {', '.join(names)}"
        )


def refuse_index(source: str | Path, names: Iterable[str]) -> None:
    """Raise DatasetError where columns are named as parts of an exported dataset are, which they are not."""
    if taken := sorted(name for name in names if name.startswith("index/")):
        raise DatasetError(
            f"{Path(source).name} has the columns {taken}; what begins with index/ names episodes, steps and "
            "parameters of an exported dataset, which it does not hold. Give these columns other names, and say which "
            "are episodes and steps: --episode COLUMN --step COLUMN"
        )


def refuse_texts(arrays: Mapping[str, Any], roles: Mapping[str, FieldRole]) -> None:
    """Raise ConfigError where a column of texts is to be an input or a target."""
    for name, role in roles.items():
        if name in arrays and role != "additional" and arrays[name].dtype.kind in "SU":
            text = arrays[name][:1].ravel().tolist()[0]
            raise ConfigError(f"{name} is to be {role}, and holds texts such as {text!r}, where numbers are wanted")


def assumption(count: int, overlapping: list[str]) -> str:
    """Return what an import without a column of episodes says."""
    text = (
        f"nothing says which rows belong together, so that each of the {count} rows is an episode of its own, and "
        "a split puts neighbours into different parts. Name the column of episodes: episode=... (physgym import "
        "--episode COLUMN)"
    )
    if overlapping:
        text += (
            f". The rows of {', '.join(overlapping)} overlap, as windows of one series do: split that way, training "
            "and validation share values"
        )
    return text


def column_of_names(what: str, given: str | Array, arrays: dict[str, Array]) -> Array:
    """Return the column of episodes or steps that an argument gives.

    Raises:
        ConfigError: There is no such array, or it holds no integers.
    """
    if isinstance(given, str):
        if given not in arrays:
            raise ConfigError(f"{what}={given!r} names none of the arrays {sorted(arrays)}")
        given = arrays.pop(given)[:]  # of a column that is read when it is needed
    column = whole_array(what, given)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    with np.errstate(invalid="ignore"):  # a number that is too large differs below
        whole = column.astype(np.int64) if column.dtype.kind in "iuf" and np.isfinite(column).all() else None
    if column.ndim != 1 or whole is None or (whole != column).any():
        raise ConfigError(f"{what} must be integers of shape (n,), not {column.dtype} {column.shape}")
    return whole


def _counted(episodes: Array) -> Array:
    """Return the steps of rows that are counted within each episode, in their order."""
    order = np.argsort(episodes, kind="stable")
    begins = np.flatnonzero(np.diff(episodes[order], prepend=episodes[order[0]] - 1))
    counts = np.diff(np.append(begins, len(episodes)))
    steps = np.empty(len(episodes), np.int64)
    steps[order] = np.arange(len(episodes)) - np.repeat(begins, counts)
    return steps


def _overlapping(arrays: Mapping[str, Array]) -> list[str]:
    """Return the fields whose rows are windows of one series, each a step after the one before, by the first rows."""
    found = []
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[1] < 2 or len(array) < 3:
            continue
        some = np.asarray(array[:LOOKED_AT])
        shifted = (some[1:, :-1] == some[:-1, 1:]).reshape(len(some) - 1, -1).all(1)
        varies = (some[1:] != some[:-1]).reshape(len(some) - 1, -1).any(1)
        if (shifted & varies).mean() > 0.5:
            found.append(name)
    return found


def whole_array(name: str, value: Any) -> Array:
    """Return an array as it is, of which no value is missing.

    Raises:
        DatasetError: Values are missing, or it is no array.
    """
    try:
        return as_dtype(value, value.dtype if isinstance(value, np.ndarray) else as_array(value).dtype)
    except (CastError, ValueError, TypeError, RuntimeError) as error:
        raise DatasetError(f"{name} {error}") from error


def _spec(
    arrays: Mapping[str, Array], described: Mapping[str, Any], roles: Mapping[str, FieldRole], units: Mapping[str, str]
) -> SampleSpec:
    for label, table in (("roles", roles), ("units", units)):
        if unknown := sorted(set(table) - set(arrays)):
            raise ConfigError(f"{label} names {unknown}; there are the arrays {sorted(arrays)}")
    if wrong := {name: role for name, role in roles.items() if role not in get_args(FieldRole)}:
        raise ConfigError(f"roles: {wrong} is none of {get_args(FieldRole)}")
    known = {data["name"]: Field.from_json(data) for data in described.get("fields", [])}
    order = [*(name for name in known if name in arrays), *(name for name in arrays if name not in known)]
    forms = {name: (arrays[name].shape[1:], arrays[name].dtype.newbyteorder("=")) for name in order}
    fields = [known.get(name, Field(name, *forms[name], "additional")) for name in order]
    return SampleSpec(
        [
            replace(
                field,
                shape=forms[field.name][0],
                dtype=forms[field.name][1],
                role=roles.get(field.name, field.role),
                unit=units.get(field.name, field.unit),
            )
            for field in fields
        ]
    )
