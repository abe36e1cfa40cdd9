"""Env factories as bytes for a worker, also those of a script, a notebook or standard input.

cloudpickle takes functions and classes of ``__main__`` along, since a worker has another ``__main__``. What the
decorators of `functools` make of them it takes for things that can be imported; here they are sent as well.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from physgym.errors import ConfigError
from physgym.launch.base import Order


def dump(value: Any) -> bytes:
    """Return a value as `cloudpickle.loads` reads it.

    Raises:
        Exception: Something in it cannot be pickled; any kind of exception.
    """
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def payload(order: Order) -> bytes:
    """Return all that a process needs to know which shares no memory with this one.

    Raises:
        ConfigError: What makes its environments cannot be pickled.
    """
    try:
        return order.worker_start.to_line() + dump(list(order.factories))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ConfigError(
            f"an env factory cannot be sent to a worker: {error}. Open files, locks and the like inside of it, or use "
            'context="fork"'
        ) from error


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # it has no types
    def reducer_override(self, obj: Any) -> Any:
        """Return how to make an object again, as `pickle.Pickler.reducer_override` has it."""
        if isinstance(obj, functools._lru_cache_wrapper) and not _can_be_imported(obj):
            # made before what it calls, which may know it by name
            parameters = obj.cache_parameters()
            state = {"function": obj.__wrapped__, "attributes": _attributes(obj)}
            return _cache, (parameters["maxsize"], parameters["typed"]), state, None, None, _fill_cache
        if isinstance(obj, functools.cached_property) and type(obj) is functools.cached_property:
            return functools.cached_property, (obj.func,), {"attrname": obj.attrname}, None, None, _name_property
        chooses = isinstance(obj, types.FunctionType) and hasattr(obj, "registry") and hasattr(obj, "dispatch")
        if chooses and not _can_be_imported(obj):
            return _dispatching, (dict(obj.registry), _attributes(obj))
        return super().reducer_override(obj)


def _can_be_imported(obj: Any) -> bool:
    """Return whether a worker finds an object at the place that it names."""
    found: Any = sys.modules.get(str(getattr(obj, "__module__", None)))
    if found is None or found.__name__ == "__main__":
        return False
    for name in str(getattr(obj, "__qualname__", "")).split("."):
        found = getattr(found, name, None)
    return found is obj


def _attributes(obj: Any) -> dict[str, Any]:
    own = ("__wrapped__", "registry", "dispatch", "register", "_clear_cache", "cache_parameters")
    return {name: value for name, value in vars(obj).items() if name not in own}


def _cache(maxsize: int | None, typed: bool) -> Any:
    """Return an empty cache of a function to come; each process has its own."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return call.function(*args, **kwargs)  # type: ignore[attr-defined]

    return functools.lru_cache(maxsize, typed)(call)


def _fill_cache(cache: Any, state: Mapping[str, Any]) -> None:
    cache.__wrapped__.function = state["function"]
    functools.update_wrapper(cache, state["function"])
    cache.__dict__.update(state["attributes"])


def _name_property(found: functools.cached_property[Any], state: Mapping[str, Any]) -> None:
    found.attrname = state["attrname"]


def _dispatching(registry: dict[Any, Callable[..., Any]], attributes: Mapping[str, Any]) -> Any:
    """Return a function that chooses another one by the type of its argument."""
    found = functools.singledispatch(registry.pop(object))
    for kind, function in registry.items():
        found.register(kind, function)
    found.__dict__.update(attributes)
    return found
