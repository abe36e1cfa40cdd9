"""Modules that describe themselves as JSON, so that a checkpoint can build them again without pickle."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from physgym.errors import ConfigError
from physgym.factories import makes
from physgym.marked_classes import marked_classes
from physgym.nn.wrapped import unwrapped
from physgym.object_references import KEY, with_objects


@runtime_checkable
class Describable(Protocol):
    """A module that knows its constructor arguments.

    Attributes:
        config: The keyword arguments that build the module again, as plain JSON data.
    """

    @property
    def config(self) -> dict[str, Any]: ...  # noqa: D102 - documented above


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_CLASSES: dict[str, type[nn.Module]] = {}
ModuleType = TypeVar("ModuleType", bound=type[nn.Module])


def register(cls: ModuleType) -> ModuleType:
    """Make a module class known by its name; a decorator.

    The class needs a ``config`` property: the constructor's keyword arguments as JSON data. Values that are
    themselves descriptions of modules (see `describe`) arrive in the constructor as modules.

    Raises:
        ConfigError: Another class has this name.
    """
    known = _CLASSES.setdefault(cls.__name__, cls)
    # a module that is imported twice (a notebook, `python -m`) defines the same class again
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"{cls.__name__!r} already names {known.__module__}.{known.__qualname__}; rename the class")
    _CLASSES[cls.__name__] = cls
    return cls


def named_network(cls: ModuleType) -> ModuleType:
    """Register a network of this folder under the name of its class, which configurations know; a decorator."""
    return register(cls)


def named_transform(cls: ModuleType) -> ModuleType:
    """Register a transform of this folder under the name of its class, which configurations know; a decorator."""
    return register(cls)


def registered() -> tuple[str, ...]:
    """Return the names of the classes that `build` knows."""
    return tuple(sorted({*_CLASSES, *_shipped()}))


def _shipped() -> dict[str, str]:
    """Return the registered classes of this folder, imported or not, as module:class by name."""
    return marked_classes(__package__, register.__name__, named_network.__name__, named_transform.__name__)


def network_class(name: str) -> Any:
    """Return the class of a network, or a function that makes one; nothing is called.

    Args:
        name: A registered name, or ``module:attr``.

    Raises:
        ConfigError: There is none of that name, or it is something else.
    """
    shipped = marked_classes(__package__, named_network.__name__)
    if name in _CLASSES:
        return _CLASSES[name]
    if name not in shipped and ":" not in name:
        raise ConfigError(
            f"there is no network {name!r}, but {', '.join(sorted(shipped))}; give your own as module:attr"
        )
    found = with_objects({KEY: shipped.get(name, name)}, "network")
    if not makes(found, (nn.Module,)):
        raise ConfigError(
            f"the network {name} is {found!r}: neither a subclass of torch.nn.Module nor a function that is marked "
            "with @physgym.factory"
        )
    return found


def describe(module: nn.Module) -> dict[str, Any]:
    """Return a module as JSON data: its registered name and constructor arguments; `build` is the inverse.

    One that is compiled or wrapped for parallel computation is described as what it is inside.

    Returns:
        ``{"name": ..., "config": ...}``; ``config`` is None for a module that cannot be built from a description.
    """
    module = unwrapped(module)
    name = type(module).__name__
    if _CLASSES.get(name) is not type(module) or not isinstance(module, Describable):
        return {"name": f"{type(module).__module__}.{type(module).__qualname__}", "config": None}
    config = {key: _described(value) for key, value in module.config.items()}
    return {"name": name, "config": config if _complete(config) else None}


def check_rebuildable(module: nn.Module) -> None:
    """Raise ConfigError if a checkpoint would not know an argument of a registered module, or of one inside it."""
    for one in module.modules():
        name = type(one).__name__
        if _CLASSES.get(name) is not type(one) or not isinstance(one, Describable):
            continue
        arguments = inspect.signature(type(one)).parameters.values()
        needed = [given.name for given in arguments if given.default is given.empty and given.kind in NAMED]
        if lost := [argument for argument in needed if argument not in one.config]:
            raise ConfigError(
                f"{name} takes the arguments {lost}, which its property `config` does not return, so that a checkpoint "
                "could not build it again: let it return the constructor's keyword arguments"
            )


def build(description: Mapping[str, Any]) -> nn.Module:
    """Return the module that `describe` described, with its initial weights.

    Raises:
        ConfigError: The class is not registered, or does not take the described arguments.
    """
    name = description["name"]
    if name not in _CLASSES and name in _shipped():
        importlib.import_module(_shipped()[name].partition(":")[0])
    if name not in _CLASSES:
        raise ConfigError(
            f"{name!r} is not a registered module; there are {list(registered())}. Decorate its class with "
            "`physgym.nn.register`."
        )
    try:
        return _CLASSES[name](**{key: _built(value) for key, value in description["config"].items()})
    except TypeError as error:
        raise ConfigError(f"{name} does not take the described arguments: {error}") from error


def _described(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"module": describe(value)}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    return value


def _built(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"module"}:
        return build(value["module"])
    return [_built(item) for item in value] if isinstance(value, list) else value


def _complete(value: Any) -> bool:
    """Say whether no module inside lacks its description."""
    if isinstance(value, dict) and set(value) == {"module"}:
        return value["module"]["config"] is not None
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(_complete(item) for item in values)
