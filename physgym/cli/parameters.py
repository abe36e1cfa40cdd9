"""The parameters that commands share: options that arrive as one object, and what the shell completes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from typer.models import ParameterInfo

from physgym.cli.completion import completion_of


def with_values(kind: type[Any], name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each field of a dataclass, whose values it gets together, as one argument.

    Args:
        kind: The dataclass; its fields say what Typer makes of them.
        name: Name of the argument.
    """
    shared = inspect.signature(kind, eval_str=True).parameters

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(**arguments: Any) -> Any:
            values = kind(**{field: arguments.pop(field) for field in shared})
            return command(**arguments, **{name: values})

        own = [p for known, p in parameters_of(command).items() if known != name]
        return with_parameters(called, [*own, *(p.replace(kind=p.KEYWORD_ONLY) for p in shared.values())])

    return decorated


def with_completion(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let the shell complete the arguments and options of a command, by what they are called in its help."""

    @functools.wraps(command)
    def called(**arguments: Any) -> Any:
        return command(**arguments)

    parameters = list(parameters_of(command).values())
    for parameter in parameters:
        for info in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(info, ParameterInfo) and isinstance(info.metavar, str) and info.autocompletion is None:
                info.autocompletion = completion_of(info.metavar)
    return with_parameters(called, parameters)


def parameters_of(command: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a command by their names, with annotations that are no texts."""
    return dict(inspect.signature(command, eval_str=True).parameters)


def with_parameters(command: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> Callable[..., Any]:
    """Say which parameters a function has, of which Typer makes arguments and options; return the function."""
    command.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in command.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return command
