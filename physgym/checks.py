"""Checks of arguments: integers, positive numbers, one of several choices; the same answer and text for everybody.

An integer is one of Python, NumPy or torch. True, 3.0 and "3" are none.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def is_integer(value: Any, least: int | None = None) -> TypeIs[int]:
    """Return whether a value is an integer, and not below the least one."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return least is None or number >= least


def integer(name: str, value: Any, least: int | None = None, most: int | None = None, *, hint: str = "") -> int:
    """Return an argument that must be an integer in a range, as one of Python.

    Args:
        name: Name of the argument.
        value: Its value.
        least: The least one that is allowed.
        most: The largest one that is allowed.
        hint: End of the error of one that is too small, such as "; leave it out for one per core".

    Raises:
        ConfigError: It is no such integer.
    """
    if not is_integer(value):
        raise ConfigError(f"{name} must be an integer, not {value!r}")
    number = operator.index(value)
    at_least(name, number, least, hint=hint)
    if most is not None and number > most:
        raise ConfigError(f"{name} must be at most {most}, not {number}")
    return number


def integers(name: str, value: Any, least: int | None = None) -> int | list[int]:
    """Return an argument that is one integer or several, as one of Python or a list of them.

    Raises:
        ConfigError: One of them is no integer, or too small.
    """
    if is_integer(value) or not isinstance(value, Iterable):
        return integer(name, value, least)
    return [integer(name, one, least) for one in value]


def integer_list(name: str, value: Any, least: int | None = None) -> list[int]:
    """Return an argument that is one integer or several, as a list of them.

    Raises:
        ConfigError: One of them is no integer, or too small.
    """
    return [integer(name, one, least) for one in (value if isinstance(value, Iterable) else [value])]


def at_least(name: str, number: float, least: float | None, *, hint: str = "") -> None:
    """Raise ConfigError where a number is too small, or is not a number at all."""
    try:
        good = least is None or bool(number >= least)
    except (TypeError, ValueError):  # a text, an array
        good = False
    if not good:
        given = number if is_real(number) else repr(number)
        rule = f"not be negative, got {given}" if least == 0 else f"be at least {least}, not {given}"
        raise ConfigError(f"{name} must {rule}{hint}")


def positive(name: str, number: float) -> float:
    """Return an argument that must be a positive, finite number.

    Raises:
        ConfigError: It is not.
    """
    try:
        good = bool(0 < number < math.inf) and not isinstance(number, bool)
    except (TypeError, ValueError):  # a text, an array
        good = False
    if not good:
        raise ConfigError(f"{name} must be positive and finite, not {number if is_real(number) else repr(number)}")
    return number


def finite(name: str, number: float) -> float:
    """Return an argument that must be a finite number.

    Raises:
        ConfigError: It is not.
    """
    if not is_real(number) or not math.isfinite(number):
        raise ConfigError(f"{name} must be a finite number, not {number!r}")
    return float(number)


def fraction(name: str, number: float) -> float:
    """Return an argument that must be a number from 0 to 1.

    Raises:
        ConfigError: It is not.
    """
    if not is_real(number) or not 0 <= number <= 1:
        raise ConfigError(f"{name} must lie between 0 and 1, not {number!r}")
    return float(number)


def mapping(name: str, value: Any, example: str) -> Mapping[str, Any]:
    """Return an argument that must be a mapping of texts, as a dictionary.

    Args:
        name: Name of the argument.
        value: Its value; None for an empty one.
        example: A right one, for the error.

    Raises:
        ConfigError: It is none, or has a key that is no text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} must be a mapping of names, as {example}, not {value!r}")
    return dict(value)


def flag(name: str, value: Any) -> bool:
    """Return an argument that must be true or false; a text such as "no" is neither.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{name} must be true or false, not {value!r}")
    return bool(value)


def is_real(value: Any) -> bool:
    """Return whether a value is a real number of Python or NumPy; True is none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def one_of(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ConfigError where an argument is none of its choices."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {choices}, not {value!r}")
