"""References to objects of a module among arguments: functions and other objects that no JSON data can hold.

In a configuration, in ``env_kwargs`` and in what a dataset records ``{"$object": "module:name"}`` stands for the
object; what is written down is this text, and what is made with the arguments gets the object.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from physgym.errors import ConfigError

KEY = "$object"
FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def with_objects(value: Any, where: str) -> Any:
    """Return a value with the objects in place of the references in it; nothing is called.

    Args:
        value: Data, in which sections and lists are looked through.
        where: Name of the value, for errors.

    Raises:
        ConfigError: A reference has another form, its module cannot be imported, or has no such object.
    """
    if isinstance(value, Mapping):
        if KEY in value:
            return _found(value, where)
        return {name: with_objects(one, f"{where}.{name}") for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(with_objects(one, f"{where}.{place}") for place, one in enumerate(value))
    return value


def _found(reference: Mapping[str, Any], where: str) -> Any:
    text = reference[KEY]
    if len(reference) > 1 or not isinstance(text, str) or not FORM.fullmatch(text):
        raise ConfigError(
            f"{where}: {dict(reference)} is no reference to an object; write {{{KEY}: module:name}}, and nothing else "
            "in it"
        )
    module, _, names = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"{where}: importing {module!r} failed: {type(error).__name__}: {error}") from error
    for name in names.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"{where}: {module} has no {names!r}")
        found = getattr(found, name)
    return found
