"""Options declared once: a function takes them, a section of the configuration and a command derive theirs from them.

A declaration is a ``TypedDict`` whose keys are annotated with an `Option`::

    class StreamOptions(TypedDict, total=False):
        max_steps: Annotated[int, Option(1000, "end an episode after so many steps", at_least=1), Flag("max_steps")]

    @takes(StreamOptions)
    def generate(env: EnvLike, **options: Unpack[StreamOptions]) -> None:
        options = complete(StreamOptions, options, "generate")

Type checkers see the names and types; the signature and the docstring that a user sees at run time have defaults and
descriptions too.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Required, TypeVar, cast, get_args, get_origin, get_type_hints

REQUIRED: Any = inspect.Parameter.empty
WIDTH = 120  # characters of a line of a docstring
ENTRY = re.compile(r"^(?P<indent> *)\*\*options: .*\n(?:(?P=indent) +.*\n)*", re.MULTILINE)

Taker = TypeVar("Taker", bound=Callable[..., Any])
Options = TypeVar("Options", bound=Mapping[str, object])


@dataclass(frozen=True)
class Option:
    """Declaration of an option; its name and type are those of the key that it annotates.

    Attributes:
        default: Value where none is given; `REQUIRED` where a function wants one.
        description: Meaning, with units: a clause without a capital letter and a full stop.
        at_least: Smallest value; None for no such limit.
        above: Limit that the value must exceed; None for no such limit.
        configured: Default of the configuration, where it is another than that of the function.
    """

    default: Any
    description: str
    at_least: int | None = None
    above: float | None = None
    configured: Any = None

    @property
    def in_configuration(self) -> Any:
        """Return the default of the configuration."""
        return self.default if self.configured is None else self.configured

    @property
    def sentence(self) -> str:
        """Return the description as a sentence."""
        return f"{self.description[0].upper()}{self.description[1:]}."


@dataclass(frozen=True)
class Flag:
    """Form of an option on the command line.

    Attributes:
        name: Name there, underscores for hyphens.
        help: Its help; by default the description.
        stands_for: Value that a switch stands for; None for an option with a value.
        checked: Whether the command checks the smallest value itself, before it reads the configuration.
    """

    name: str
    help: str = ""
    stands_for: Any = None
    checked: bool = False


@dataclass(frozen=True)
class NamedOption:
    """An option with its name and type.

    Attributes:
        name: Name in Python and in the configuration.
        type: Type of its value in Python.
        option: The declaration.
        flag: Form on the command line; None where it has none.
    """

    name: str
    type: Any
    option: Option
    flag: Flag | None

    @property
    def parameter(self) -> inspect.Parameter:
        """Return the parameter of a function that takes the option."""
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=self.option.default, annotation=self.type
        )


@functools.cache
def options_of(kind: type) -> Mapping[str, NamedOption]:
    """Return the options of a declaration, by name."""
    found = {}
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        found[name] = option_of(name, annotation)
    return types.MappingProxyType(found)


def option_of(name: str, annotation: Any) -> NamedOption:
    """Return the option that an annotation declares.

    Raises:
        TypeError: It has no `Option`.
    """
    if get_origin(annotation) is Required:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is not Annotated:
        raise TypeError(f"{name}: {annotation} is not annotated with an Option")
    kind, *notes = get_args(annotation)
    option = next(note for note in notes if isinstance(note, Option))
    return NamedOption(name, kind, option, next((note for note in notes if isinstance(note, Flag)), None))


def takes(kind: type) -> Callable[[Taker], Taker]:
    """Show the options of a declaration in the signature and docstring of a function or class that takes them.

    The docstring has an entry ``**options``, in place of which the options are listed.
    """

    def with_options(taker: Taker) -> Taker:
        options = options_of(kind).values()
        function: Any = taker.__init__ if isinstance(taker, type) else taker  # type: ignore[misc]
        signature = inspect.signature(function, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        parameters = [*own, *(one.parameter for one in options)]
        function.__signature__ = signature.replace(parameters=parameters)
        if taker.__doc__ and (entry := ENTRY.search(taker.__doc__)):
            listed = "".join(_entry(one, entry["indent"]) for one in options)
            taker.__doc__ = taker.__doc__[: entry.start()] + listed + taker.__doc__[entry.end() :]
        return taker

    return with_options


def _entry(one: NamedOption, indent: str) -> str:
    text = f"{one.name}: {one.option.sentence}"
    wrapped = textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ", break_long_words=False
    )
    return "\n".join(wrapped) + "\n"


def complete(kind: type[Options], given: Options, taker: str) -> Options:
    """Return options with the defaults of those that were not given.

    Args:
        kind: The declaration.
        given: The options that were given.
        taker: Name of the function that takes them, for the error.

    Raises:
        TypeError: There is no such option, or one that is required is missing.
    """
    options = options_of(kind)
    if unknown := [name for name in given if name not in options]:
        raise TypeError(f"{taker}() got an unexpected keyword argument {unknown[0]!r}")
    if missing := [repr(name) for name, one in options.items() if one.option.default is REQUIRED and name not in given]:
        raise TypeError(f"{taker}() misses the keyword arguments {', '.join(missing)}")
    return cast(Options, {name: given.get(name, one.option.default) for name, one in options.items()})
