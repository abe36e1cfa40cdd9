"""Exceptions of environments, made again from the messages of their workers."""

from __future__ import annotations

import sys
from typing import Any

from physgym.errors import PhysGymError, WorkerError, first_argument
from physgym.protocol.messages import Failure

_ERRORS: dict[tuple[type[Any], ...], type[Any]] = {}


def remote_error(message: Failure, env: int | None, place: str, envs: tuple[int, ...] = ()) -> WorkerError:
    """Return the exception that an environment raised, as a `WorkerError` that is one of the original class as well.

    Classes are looked up among modules that are imported already; nothing is imported because a worker says so.
    """
    kind = message.error.rpartition(":")[2]
    doing = f" in {message.doing}" if message.doing else ""
    text = f"{place} raised {kind}{doing}: {message.message}\n\nTraceback in the worker:\n{message.traceback}"
    arguments = {"remote_traceback": message.traceback, "env_indices": envs if env is None else (env,)}
    found = _error_class(message.error)
    if found is not WorkerError and any(base.__module__ == PhysGymError.__module__ for base in found.__bases__[1:]):
        at = doing if env is None else ""  # no other environment is named
        text = f"{place}{at}: {message.message}"  # says itself what to do
    try:
        return _make_error(found, text, arguments)
    except Exception:  # noqa: BLE001 - a class that cannot be made without its constructor
        return WorkerError(text, **arguments)  # type: ignore[arg-type]


def _make_error(kind: type[Any], text: str, arguments: dict[str, Any]) -> WorkerError:
    """Return an exception without the constructor of its class, which may want anything."""
    new = next(
        vars(base)["__new__"] for base in kind.__mro__ if base.__module__ == "builtins" and "__new__" in vars(base)
    )
    error: WorkerError = new(kind, text)
    error.args = (text,)
    for name, value in arguments.items():
        setattr(error, name, value)
    return error


def _error_class(name: str) -> type[Any]:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # a module's own __getattr__ might import something
    if not isinstance(found, type) or not issubclass(found, Exception) or issubclass(WorkerError, found):
        return WorkerError
    bases = (found,) if issubclass(found, WorkerError) else (WorkerError, found)
    if bases not in _ERRORS:
        described = {"__module__": found.__module__, "__str__": first_argument}
        try:
            _ERRORS[bases] = type(found.__name__, bases, described)
        except Exception:  # noqa: BLE001 - a class that allows no subclass, or not of this kind
            _ERRORS[bases] = WorkerError
    return _ERRORS[bases]
