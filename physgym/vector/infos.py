"""Infos of many environments as one dictionary, batched as Gymnasium's vector environments batch them.

Every key gets an array with one element per environment and a mask ``_key`` of those that have it. A worker sends the
infos of its environments as columns where all have the same keys and kinds of values, which is the usual case and much
cheaper than a dictionary each; else as they are.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from physgym.errors import ProtocolError
from physgym.spaces import Array

Info: TypeAlias = dict[str, Any]
# local indices of the environments, and either their infos or columns of them
Infos: TypeAlias = tuple[list[int], list[Info] | dict[str, Any]]

FINAL = "final_obs"  # Gymnasium keeps these as objects, dictionaries too
_SCALARS = (int, float, bool)


def pack(infos: dict[int, Info]) -> Infos | None:
    """Infos by environment in the form in which they travel; None if all are empty."""
    if not infos:
        return None
    values = list(infos.values())
    columns = _columns(values)
    return list(infos), values if columns is None else columns


def _columns(infos: list[Info]) -> dict[str, Any] | None:
    """One column per key; None unless all have the same keys, each with values of one kind."""
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


def _column(values: list[Any]) -> Any:
    kind = type(values[0])
    if any(type(value) is not kind for value in values):
        return None
    if kind in _SCALARS or issubclass(kind, np.number):
        try:
            return np.array(values, kind)
        except OverflowError:
            return None
    if kind is np.ndarray:
        shape, dtype = values[0].shape, values[0].dtype
        if dtype.hasobject or any(value.shape != shape or value.dtype != dtype for value in values):
            return None
        return np.stack(values).astype(dtype, copy=False)  # stacked they have the machine's byte order
    if issubclass(kind, np.ndarray):
        return None
    if issubclass(kind, dict):
        return _columns(values)
    return values  # objects: strings, None, lists


def merge(batch: Info, infos: Infos | None, size: int, offset: int = 0, places: dict[int, int] | None = None) -> None:
    """Add infos of some environments to those of a batch.

    Args:
        batch: What is there already; changed in place.
        infos: As `pack` gives them.
        size: Number of environments in the batch.
        offset: Place in the batch of the environment with local index 0.
        places: Place in the batch of each local index, instead of `offset`.
    """
    if infos is None:
        return
    local, content = infos
    rows = [index + offset if places is None else places[index] for index in local]
    if isinstance(content, dict):
        # a slice writes faster than an index array, and is the usual case
        whole = len(rows) == rows[-1] - rows[0] + 1 and rows == sorted(rows)
        _merge_columns(batch, content, size, rows, slice(rows[0], rows[-1] + 1) if whole else rows)
    else:
        for row, info in zip(rows, content, strict=True):
            _merge_one(batch, info, size, row)


def _merge_columns(batch: Info, columns: dict[str, Any], size: int, rows: list[int], where: Any) -> None:
    for key, column in columns.items():
        if isinstance(column, dict):
            target = batch.setdefault(key, {})
            _merge_columns(target, column, size, rows, where)
        elif isinstance(column, np.ndarray):
            if key not in batch:
                batch[key] = np.zeros((size, *column.shape[1:]), column.dtype)
            batch[key][where] = column
        else:
            if key not in batch:
                batch[key] = np.full(size, None, object)
            for row, value in zip(rows, column, strict=True):
                batch[key][row] = value
        _mark(batch, key, size, where)


def _merge_one(batch: Info, info: Info, size: int, row: int) -> None:
    for key, value in info.items():
        if isinstance(value, dict) and key != FINAL:
            _merge_one(batch.setdefault(key, {}), value, size, row)
        else:
            if key not in batch:
                batch[key] = _empty_like(value, size, key)
            batch[key][row] = value
        _mark(batch, key, size, row)


def _empty_like(value: Any, size: int, key: str) -> Array:
    kind = type(value)
    if key != FINAL and (kind in _SCALARS or issubclass(kind, np.number)):
        return np.zeros(size, value.dtype if kind is np.timedelta64 else kind)  # Gymnasium drops the unit and fails
    if key != FINAL and isinstance(value, np.ndarray):
        return np.zeros((size, *value.shape), value.dtype)
    return np.full(size, None, object)


def _mark(batch: Info, key: str, size: int, where: Any) -> None:
    mask = f"_{key}"
    if mask not in batch:
        batch[mask] = np.zeros(size, np.bool_)
    batch[mask][where] = True


def check(infos: Any, count: int) -> Infos | None:
    """Infos that came over the wire.

    Raises:
        ProtocolError: They have not the form that `pack` gives.
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
    if isinstance(column, np.ndarray):
        return len(column) if column.ndim else -1
    return len(column) if isinstance(column, list) else -1
