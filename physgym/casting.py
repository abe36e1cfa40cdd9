"""The one rule for arrays that change their dtype: the kind must fit, and no value may be destroyed.

Kinds are those of numpy's "same_kind" rule, where signed and unsigned integers count as one. A value is destroyed where
an integer is not held exactly, where a finite number becomes infinite, or where a text is cut. Rounding a float is
neither: float64 becomes float32 without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.errors import SampleError
from physgym.spaces import Array

# texts say what a value does wrong; callers say whose value it is
VALUE = "has values that {want} cannot hold, the first {value} of dtype {got} at index {index}"
FIELD = "field {name!r} for {whose} {error}"
NO_NUMBER = "is not a number: {error}"

LARGEST_SHOWN = 256  # bits of an integer that is written out
_FLOAT = np.dtype(np.float64)


class CastError(ValueError):
    """An array cannot be had with a dtype; the text says what it does wrong, such as "has dtype <U3, which ..."."""


def as_dtype(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return an array with a dtype, or the array itself where it has it already.

    Args:
        value: An array, or what numpy makes one of.
        dtype: The dtype wanted, its byte order included.

    Raises:
        CastError: The kind does not fit, a value would be destroyed, or values are missing.
    """
    if type(value) is np.ndarray and value.dtype == dtype:  # as nearly always
        return value
    array = as_array(value, dtype)
    if array.dtype.kind in "fc" and dtype.kind in "fc" and isinstance(value, (list, tuple)):
        _check_integers(value, dtype)  # which numpy has rounded next to a float
    if array.dtype == dtype:
        return array
    if array.dtype == object and isinstance(value, (int, list, tuple)) and dtype.kind in "iufc":
        whole = array.ravel().tolist()
        if whole and all(isinstance(one, int) for one in whole):  # some have more than 64 bits
            _check_integers(value, dtype)
            return array.astype(dtype)
    if not _fits(array.dtype, dtype):
        raise CastError(f"has dtype {array.dtype}, which does not convert to {dtype} without losing its kind")
    with np.errstate(all="ignore"):  # an overflow becomes inf, which is reported below
        changed = array.astype(dtype)
    if (lost := _lost(array, changed)) is not None and lost.any():
        index = tuple(int(i) for i in np.argwhere(lost)[0])
        raise CastError(VALUE.format(value=repr(array[index].item()), got=array.dtype, index=index, want=dtype))
    return changed


def as_array(value: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """Return what numpy makes of a value, of any dtype.

    Args:
        value: An array, or what numpy makes one of.
        dtype: The one that is wanted of it, for the message about missing values.

    Raises:
        CastError: Values are missing, or it is no array.
    """
    if count := _missing(value):
        want = "an array without a mask" if dtype is None else f"an array of dtype {dtype}"
        raise CastError(
            f"is a masked array with {count} missing values, which {want} cannot keep; fill them, and give the mask "
            "separately"
        )
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, TypeError, RuntimeError) as error:  # the last one of tensors with a gradient
        raise CastError(f"is not an array: {error}") from error
    if array.dtype.kind in "SU" and isinstance(value, (list, tuple, str, bytes)):
        _check_texts(value, str if array.dtype.kind == "U" else bytes)
    elif array.dtype.kind == "f" and isinstance(value, (list, tuple)) and value and _are_integers(value):
        array = np.array(value, object)  # numpy makes floats of integers of which some need 64 bits without a sign
        if all(0 <= integer < 2**64 for integer in array.ravel().tolist()):
            return array.astype(np.uint64)
    return array


def as_arrays(fields: Mapping[str, Any], whose: str) -> dict[str, Array]:
    """Return what numpy makes of fields, each of its own dtype.

    Args:
        fields: Values by name.
        whose: To whom they are given, for a message.

    Raises:
        SampleError: Values are missing, or one is no array.
    """
    found = {}
    for name, value in fields.items():
        try:
            found[name] = as_array(value)
        except CastError as error:
            raise SampleError(FIELD.format(name=name, whose=whose, error=error)) from error
    return found


def as_field(value: Any, dtype: np.dtype[Any], name: str, whose: str) -> Array:
    """Return the value of a field as an array with a dtype, or the array itself where it has it already.

    Args:
        value: As of `as_dtype`.
        dtype: The dtype of the field.
        name: Its name.
        whose: To whom it is given, for a message.

    Raises:
        SampleError: As `as_dtype`; the text names the field.
    """
    try:
        return as_dtype(value, dtype)
    except CastError as error:
        raise SampleError(FIELD.format(name=name, whose=whose, error=error)) from error


def as_number(value: Any) -> float:
    """Return a number as Python's float.

    Args:
        value: A number, a scalar or array without axes, or an object that knows itself as a float (a fraction).

    Raises:
        CastError: It is something else, or a float cannot hold it.
    """
    if value.__class__ is float:
        return value
    if not isinstance(value, (np.ndarray, np.generic, str, bytes, complex, int)) and hasattr(value, "__float__"):
        try:
            return float(value)
        except (ValueError, OverflowError, TypeError, RuntimeError) as error:
            raise CastError(NO_NUMBER.format(error=error)) from error
    array = as_dtype(value, _FLOAT)
    if array.shape:
        raise CastError(NO_NUMBER.format(error=f"it has shape {array.shape}"))
    return float(array)


def value_text(value: Any) -> str:
    """Return a value as a message names it: a very large integer, which Python may not write out, by its size."""
    if isinstance(value, int) and value.bit_length() > LARGEST_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def _missing(value: Any) -> int:
    """Return the number of missing values: of a list, too, whose masks numpy would drop."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(value).sum())
    return sum(map(_missing, value)) if isinstance(value, (list, tuple)) else 0


def _fits(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    if "V" in (source.kind, target.kind):  # of a structured dtype no field is looked at
        return False
    if target.kind in "SU":  # numpy writes any number as a text
        return source.kind == target.kind
    integers = source.kind in "iu" and target.kind in "iu"
    return integers or bool(np.can_cast(source, target, "same_kind"))


def _check_integers(value: Any, dtype: np.dtype[Any], index: tuple[int, ...] = ()) -> None:
    """Raise CastError where a value, or one in nested lists, is an integer that a dtype does not hold exactly."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            _check_integers(part, dtype, (*index, place))
    elif isinstance(value, (int, np.integer)) and not _holds(dtype, int(value)):
        got = value.dtype if isinstance(value, np.integer) else "int (Python's)"
        raise CastError(VALUE.format(value=value_text(int(value)), got=got, index=index, want=dtype))


def _holds(dtype: np.dtype[Any], integer: int) -> bool:
    try:
        with np.errstate(all="ignore"):
            real = dtype.type(integer if dtype.kind in "iu" else float(integer)).real
    except OverflowError:
        return False
    return bool(np.isfinite(real)) and int(real) == integer


def _check_texts(value: Any, kind: type[Any]) -> None:
    """Raise CastError where a text, or one in nested lists, does not become an element of an array of this kind."""
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_texts(part, kind)
    elif isinstance(value, np.ndarray) and value.dtype.kind == ("U" if kind is str else "S"):
        return
    elif not isinstance(value, kind):
        raise CastError(f"is a list of texts, or of bytes, with {value!r} among them")  # of which numpy has made a text
    elif value[-1:] in ("\0", b"\0"):
        raise CastError(
            f"has the text {value!r}, which ends with a NUL character: numpy and HDF5 drop it. Leave it out"
        )


def _are_integers(value: Any) -> bool:
    """Return whether nested lists hold nothing but integers."""
    if isinstance(value, (list, tuple)):
        return all(map(_are_integers, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iu"
    return isinstance(value, (int, np.integer))


def _lost(before: Array, after: Array) -> Array | None:
    """Return the places where a cast destroyed a value; None where it cannot."""
    if np.can_cast(before.dtype, after.dtype, "safe") and not (before.dtype.kind in "iu" and after.dtype.kind in "fc"):
        return None  # but for large integers, which numpy calls safe in a float64
    if before.dtype.kind in "fc":
        lost: Array = np.isfinite(before) & ~np.isfinite(after)
        return lost
    if before.dtype.kind in "iu" and after.dtype.kind in "iu":
        # a wrapped number differs in value, or, between int64 and uint64, in sign alone
        lost = (after.astype(before.dtype) != before) | ((after < 0) != (before < 0))
        return lost
    if before.dtype.kind in "iu":
        return _inexact(before, after)
    if before.dtype.kind in "SU":
        lost = after.astype(before.dtype) != before
        return lost
    if before.dtype.kind in "mM":
        lost = (after.astype(before.dtype) != before) & ~np.isnat(before)
        return lost
    return None


def _inexact(integers: Array, floats: Array) -> Array:
    """Return the places where floats, or complex numbers, do not hold integers exactly."""
    real = floats.real.astype(np.longdouble) if floats.dtype.kind == "c" else floats.astype(np.longdouble)
    # a long double holds 64 bits of mantissa here; where it is a plain double, compare as Python's integers
    if np.finfo(np.longdouble).nmant >= 63:
        lost: Array = real != integers.astype(np.longdouble)
        return lost
    flat = [not np.isfinite(r) or int(r) != int(i) for r, i in zip(real.ravel(), integers.ravel(), strict=True)]
    return np.array(flat, bool).reshape(integers.shape)
