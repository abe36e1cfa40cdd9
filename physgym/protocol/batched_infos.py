"""Infos of many environments as one dictionary, batched as Gymnasium's vector environments batch them.

Every key gets an array with one element per environment and a mask ``_key`` of those that have it. Where that would
change a value (3 in an array of flags, None in one of numbers, a longer text in one of texts) or is impossible (a text
in an array of numbers), the key gets an array of objects instead, each as its environment gave it.

A worker sends the infos of its environments as columns where all have the same keys and kinds of values, which is the
usual case and much cheaper than a dictionary each; else as they are.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from physgym.errors import ProtocolError
from physgym.spaces import Array

Info: TypeAlias = dict[str, Any]
# local indices of the environments, and either their infos or columns of them
Infos: TypeAlias = tuple[list[int], list[Info] | dict[str, Any]]
# by batch (its identity) and key: rows, what was put there where the batch's array cannot tell, and the batch, which
# lives on with it, so that no other one gets its identity
Origins: TypeAlias = dict[tuple[int, str], list[tuple[list[int], Any, Info]]]

FINAL = "final_obs"  # Gymnasium keeps these as objects, dictionaries too
_SCALARS = (int, float, bool)
_NATIVE = {kind: np.dtype(kind) for kind in _SCALARS}
_COLUMNAR = (bool, int, float, complex, str, bytes, np.generic, np.ndarray)  # what may be an element of an array


def pack_infos(infos: dict[int, Info]) -> Infos | None:
    """Return infos by environment in the form in which they are sent; None if all are empty."""
    if not infos:
        return None
    values = list(infos.values())
    columns = _columns(values)
    return list(infos), values if columns is None else columns


def infos_by_env(infos: Infos | None) -> dict[int, Info]:
    """Return the infos of `pack_infos` by environment."""
    if infos is None:
        return {}
    local, content = infos
    if isinstance(content, dict):
        return {
            row: {key: _element(column, place) for key, column in content.items()} for place, row in enumerate(local)
        }
    return dict(zip(local, content, strict=True))


def _columns(infos: list[Info]) -> dict[str, Any] | None:
    """Return one column per key; None unless all have the same keys, each with values of one kind."""
    first = infos[0]
    keys = tuple(first)
    if any(tuple(info) != keys for info in infos) or FINAL in first:
        return None
    columns: dict[str, Any] = {}
    for key in keys:
        column = _column([info[key] for info in infos])
        if column is None:
            return None
        columns[key] = column
    return columns


def columns_of_batch(infos: Info, size: int) -> dict[str, Any] | None:
    """Return infos that one simulator gives of all its environments as columns, as `pack_infos` would make them.

    Args:
        infos: Values with a row for each environment, with masks ``_key``.
        size: How many environments there are.

    Returns:
        One column per key; None where some environments lack a value, or a value is of all together.
    """
    columns: dict[str, Any] = {}
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not np.all(mask):
            return None
        column: Any
        if isinstance(value, dict):
            column = columns_of_batch(value, size)
        elif type(value) is not np.ndarray or value.shape[:1] != (size,):
            return None
        elif value.ndim > 1 and not value.dtype.hasobject:
            column = value.astype(value.dtype.newbyteorder("="), copy=False)
        else:
            column = _column(list(value))
        if column is None:
            return None
        columns[key] = column
    return columns


def _column(values: list[Any]) -> Any:
    kind = type(values[0])
    if any(type(value) is not kind for value in values):
        return None
    if kind in _SCALARS or issubclass(kind, np.number):
        try:
            column = np.array(values, kind)
        except OverflowError:
            return None
        return (column,) if issubclass(kind, np.generic) and column.dtype in _NATIVE.values() else column
    if kind is np.ndarray:
        shape, dtype = values[0].shape, values[0].dtype
        # a row of a column of numbers is a number, whatever it was
        if not shape or dtype.hasobject or any(value.shape != shape or value.dtype != dtype for value in values):
            return None
        return np.stack(values).astype(dtype, copy=False)  # stacked they have the machine's byte order
    if issubclass(kind, np.ndarray):
        return None
    if issubclass(kind, dict):
        return _columns(values)
    return values  # objects: strings, None, lists


def merge_infos(
    batch: Info,
    infos: Infos | None,
    size: int,
    offset: int = 0,
    places: dict[int, int] | None = None,
    origins: Origins | None = None,
) -> None:
    """Add infos of some environments to those of a batch.

    Args:
        batch: What is there already; changed in place.
        infos: As `pack_infos` gives them.
        size: Number of environments in the batch.
        offset: Place in the batch of the environment with local index 0.
        places: Place in the batch of each local index, instead of `offset`.
        origins: One empty dictionary for all that is merged into a batch, changed in place.
    """
    if infos is None:
        return
    origins = {} if origins is None else origins
    local, content = infos
    rows = [index + offset if places is None else places[index] for index in local]
    if isinstance(content, dict):
        # a slice writes faster than an index array, and is the usual case
        whole = len(rows) == rows[-1] - rows[0] + 1 and rows == sorted(rows)
        _merge_columns(batch, content, size, rows, slice(rows[0], rows[-1] + 1) if whole else rows, origins)
    else:
        for row, info in zip(rows, content, strict=True):
            _merge_one(batch, info, size, row, origins)


def _merge_columns(
    batch: Info, columns: dict[str, Any], size: int, rows: list[int], where: Any, origins: Origins
) -> None:
    for key, column in columns.items():
        known = batch.get(key)
        array = column[0] if isinstance(column, tuple) else column
        if isinstance(column, dict) and (known is None or isinstance(known, dict)):
            _merge_columns(batch.setdefault(key, {}), column, size, rows, where, origins)
        elif isinstance(array, np.ndarray) and (known is None or _alike(known, array.dtype, array.shape[1:])):
            if known is None:
                batch[key] = np.zeros((size, *array.shape[1:]), array.dtype)
            batch[key][where] = array
            if array is not column:
                origins.setdefault((id(batch), key), []).append((rows, array, batch))
        elif isinstance(column, list) and (known is None or _alike(known, np.dtype(object), ())):
            objects = batch.setdefault(key, np.full(size, None, object))
            for row, value in zip(rows, column, strict=True):
                objects[row] = value
        else:
            for place, row in enumerate(rows):
                _put(batch, key, _element(column, place), size, row, origins)
                _mark(batch, key, size, row)
            continue
        _mark(batch, key, size, where)


def _merge_one(batch: Info, info: Info, size: int, row: int, origins: Origins) -> None:
    for key, value in info.items():
        known = batch.get(key)
        if isinstance(value, dict) and key != FINAL and (known is None or isinstance(known, dict)):
            _merge_one(batch.setdefault(key, {}), value, size, row, origins)
        else:
            _put(batch, key, value, size, row, origins)
        _mark(batch, key, size, row)


def _put(batch: Info, key: str, value: Any, size: int, row: int, origins: Origins) -> None:
    """Store a value that is no dictionary; in an array of objects if another array would change it."""
    target = batch.get(key)
    if target is None:
        target = batch[key] = _empty_like(value, size, key)
    if not (isinstance(target, np.ndarray) and _stored(target, row, value)):
        target = batch[key] = _as_objects(batch, key, size, origins)
        target[row] = value
    elif isinstance(value, (np.generic, np.ndarray)) and not value.shape:
        origins.setdefault((id(batch), key), []).append(([row], [value], batch))


def _empty_like(value: Any, size: int, key: str) -> Array:
    kind = type(value)
    if key != FINAL and (kind in _SCALARS or issubclass(kind, np.number)):
        return np.zeros(size, value.dtype if kind is np.timedelta64 else kind)  # Gymnasium drops the unit and fails
    if key != FINAL and isinstance(value, np.ndarray):
        return np.zeros((size, *value.shape), value.dtype)
    return np.full(size, None, object)


def _stored(target: Array, row: int, value: Any) -> bool:
    """Store a value in a row of an array, and say whether it is there unchanged: equal, of its shape and kind."""
    if target.dtype == object and target.ndim == 1:
        target[row] = value
        return True
    if value.__class__ is np.ndarray and _alike(target, value.dtype, value.shape):
        target[row] = value
        return True
    if not isinstance(value, _COLUMNAR) or (
        isinstance(value, np.ma.MaskedArray) and (value.dtype.names or np.ma.is_masked(value))
    ):
        return False
    if isinstance(value, (str, bytes)) and value[-1:] in ("\0", b"\0"):  # which numpy's texts drop
        return False
    array = np.asarray(value)
    if array.shape != target.shape[1:] or _kind(array.dtype) != _kind(target.dtype):
        return False
    with np.errstate(all="ignore"):
        try:
            target[row] = array
        except (TypeError, ValueError):
            return False
    numbers = array.dtype.kind in "fcmM"  # those that have a value which equals nothing
    return bool(np.array_equal(target[row], array, equal_nan=numbers))


def _alike(target: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Return whether values with a dtype and a shape are elements of an array as they are."""
    return isinstance(target, np.ndarray) and target.dtype == dtype and target.shape[1:] == shape


def _kind(dtype: np.dtype[Any]) -> str:
    return "i" if dtype.kind == "u" else dtype.kind


def _as_objects(batch: Info, key: str, size: int, origins: Origins) -> Array:
    """Return the values of a key of a batch as an array of objects."""
    objects = np.full(size, None, object)
    mask = batch.get(f"_{key}")
    there = mask if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ else np.zeros(size, np.bool_)
    for row in np.flatnonzero(there).tolist():
        objects[row] = _of_row(batch, key, row, origins)
    return objects


def _element(column: Any, place: int) -> Any:
    """Return one value of a column."""
    if isinstance(column, dict):
        return {key: _element(part, place) for key, part in column.items()}
    if isinstance(column, tuple):  # of numpy's numbers
        return column[0][place]
    if not isinstance(column, np.ndarray):
        return column[place]
    if column.ndim > 1:
        return column[place].copy()
    return column[place].item() if column.dtype in _NATIVE.values() else column[place]


def _of_row(batch: Info, key: str, row: int, origins: Origins) -> Any:
    """Return a value that one environment gave, from which a batch was made."""
    known = batch[key]
    if isinstance(known, dict):
        there = [inner for inner in known if f"_{inner}" in known and known[f"_{inner}"][row]]
        return {inner: _of_row(known, inner, row, origins) for inner in there}
    if isinstance(known, np.ndarray) and known.dtype != object:
        for rows, values, _ in origins.get((id(batch), key), ()):
            if row in rows:
                return values[rows.index(row)]
    return _element(known, row)


def _mark(batch: Info, key: str, size: int, where: Any) -> None:
    mask = f"_{key}"
    if mask not in batch:
        batch[mask] = np.zeros(size, np.bool_)
    batch[mask][where] = True


def check_infos(infos: Any, count: int) -> Infos | None:
    """Return infos that came over the wire.

    Raises:
        ProtocolError: They have not the form that `pack_infos` gives.
    """
    if infos is None:
        return None
    if not isinstance(infos, tuple) or len(infos) != 2 or not _infos_fit(*infos, count):
        raise ProtocolError("infos have not the form of infos")
    return infos


def _infos_fit(local: Any, content: Any, count: int) -> bool:
    if not isinstance(local, list) or not local or not all(type(i) is int and 0 <= i < count for i in local):
        return False
    if len(set(local)) != len(local):
        return False
    if isinstance(content, dict):
        return _columns_fit(content, len(local))
    return isinstance(content, list) and len(content) == len(local) and all(isinstance(info, dict) for info in content)


def _columns_fit(columns: dict[Any, Any], count: int) -> bool:
    return all(
        _columns_fit(column, count) if isinstance(column, dict) else _length(column) == count
        for column in columns.values()
    )


def _length(column: Any) -> int:
    if isinstance(column, tuple):
        native = len(column) == 1 and isinstance(column[0], np.ndarray) and column[0].dtype in _NATIVE.values()
        return len(column[0]) if native and column[0].ndim == 1 else -1
    if isinstance(column, np.ndarray):
        return len(column) if column.ndim else -1
    return len(column) if isinstance(column, list) else -1
