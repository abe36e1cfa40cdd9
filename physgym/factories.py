"""`factory`: the mark of a function that a configuration may call to make a part."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

MARK = "__physgym_factory__"


def factory(function: Function) -> Function:
    """Mark a function as one that makes a part which a configuration names, such as a network.

    A configuration calls classes of the wanted kind, and functions only that are marked: by this decorator, or by a
    return annotation that is such a class.

    Args:
        function: Returns the part.

    Returns:
        The same function.
    """
    setattr(function, MARK, True)
    return function


def makes(found: Any, wanted: tuple[type, ...]) -> bool:
    """Return whether calling an object makes a part: it is a class of the wanted kind, or a marked function."""
    if inspect.isclass(found):
        return issubclass(found, wanted)
    if not callable(found):
        return False
    if getattr(found, MARK, False):
        return True
    if not (inspect.isfunction(found) or inspect.ismethod(found)):
        return False
    try:
        annotated = typing.get_type_hints(found).get("return")
    except Exception:  # noqa: BLE001 - annotations may be anything, and then they mark nothing
        return False
    if annotated is typing.Self and inspect.ismethod(found):
        annotated = found.__self__
    return inspect.isclass(annotated) and issubclass(annotated, wanted)


def takes(found: Any, *names: str) -> bool:
    """Return whether an object is a function of Python whose second parameter has one of some names."""
    if not (inspect.isfunction(found) or inspect.ismethod(found)):
        return False
    parameters = list(inspect.signature(found).parameters)
    return len(parameters) > 1 and parameters[1] in names
