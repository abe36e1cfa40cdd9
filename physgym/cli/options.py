"""Options of commands that stand for keys of the configuration: type, help and default are those of the key."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from physgym.cli.parameters import parameters_of, with_parameters
from physgym.experiment.component_section import Component
from physgym.experiment.config import default_of, field_of, kinds_of
from physgym.generation.options import GenerationOptions
from physgym.options import options_of
from physgym.running.options import RunnerOptions
from physgym.samplers.table import shown_names
from physgym.scene.sinks.table import WITH_RUN, choices_text, titles_of

NUMBERS = (bool, int, float)


@dataclass(frozen=True)
class KeyOption:
    """Option that stands for a key.

    Attributes:
        key: The key, dotted.
        name: Name of the option, underscores for hyphens.
        help: Its help; by default the description of the key.
        stands_for: Value of the key that an option without a value stands for; None for options with a value, and
            True for keys that are true or false.
        shown: Default that the help shows; by default that of the key.
        kind: Type of the value; by default that of the key, a text where there are several.
        checked: Whether the option checks the smallest value itself, as the key would.
    """

    key: str
    name: str
    help: str = ""
    stands_for: Any = None
    shown: str = ""
    kind: type | None = None
    checked: bool = False

    def parameter(self) -> inspect.Parameter:
        """Return the parameter of a function from which Typer makes the option."""
        declared, kinds = field_of(self.key.split(".")), kinds_of(field_of(self.key.split(".")).annotation)
        description = declared.description or self.key
        text = self.help or f"{description[0].upper()}{description[1:]}."
        if self._is_switch():
            option = typer.Option(f"--{self.name.replace('_', '-')}", help=text)
            return _parameter(self.name, Annotated[bool, option], False)
        default = default_of(self.key.split("."))
        shown = self.shown or _shown(default)
        more: dict[str, Any] = {"show_default": shown} if shown else {}
        if self.checked:
            more["min"] = next(one.ge for one in declared.metadata if hasattr(one, "ge"))
        if Component in kinds:
            more["metavar"] = "SAMPLER"
        kind = self.kind or next((kind for kind in NUMBERS if kind in kinds), str)
        return _parameter(self.name, Annotated[kind | types.NoneType, typer.Option(help=text, **more)], None)

    def value(self, given: Any) -> Any:
        """Return the value of the key; None where the option was not given."""
        if not self._is_switch():
            return given
        return (True if self.stands_for is None else self.stands_for) if given else None

    def _is_switch(self) -> bool:
        return self.stands_for is not None or field_of(self.key.split(".")).annotation is bool


def _shown(default: Any) -> str:
    return default if isinstance(default, str) else f"{default:g}" if isinstance(default, NUMBERS) else ""


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_options(*options: KeyOption) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command options; the values that were given arrive as its argument ``given``, by key."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(**arguments: Any) -> Any:
            values = {option.key: option.value(arguments.pop(option.name)) for option in options}
            return command(**arguments, given={key: value for key, value in values.items() if value is not None})

        own = [p for name, p in parameters_of(command).items() if name != "given"]
        first = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        rest = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        return with_parameters(called, [*first, *(option.parameter() for option in options), *rest])

    return decorated


def _either(what: str) -> str:
    """Return the names of samplers in a sentence, all but breed, which needs a training."""
    *names, last = (name for name in shown_names(what) if name != "breed")
    return f"{', '.join(names)} or {last}"


ACTIONS = f"Where actions come from: {_either('actions')}; by default the environment's own sampler, else uniform."
PARAMETERS = (
    f"Where the parameters of episodes come from: {_either('parameters')}; by default the environment draws them."
)


def declared_options(options: type, section: str) -> tuple[KeyOption, ...]:
    """Return the options of a command that a declaration has, each of which stands for a key of a section."""
    return tuple(
        KeyOption(f"{section}.{one.name}", flag.name, flag.help, stands_for=flag.stands_for, checked=flag.checked)
        for one in options_of(options).values()
        if (flag := one.flag) is not None
    )


VIEW = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(titles_of(WITH_RUN)),
        help=f"Show the simulations while they run: {choices_text(WITH_RUN)}.",
    ),
]
GENERATION = (
    KeyOption("dataset.path", "out", "Dataset folder, or s3://bucket/prefix; by default in a new session."),
    KeyOption("dataset.samples", "samples", "Number of samples of the dataset.", shown="1000"),
    KeyOption(
        "dataset.episodes",
        "episodes",
        "Number of episodes. With --samples too, generation ends at the first of both.",
    ),
    KeyOption("seed", "seed", "Seed; equal seeds give equal results.", checked=True),
    KeyOption("sampler.actions", "actions", ACTIONS),
    KeyOption("sampler.parameters", "parameters", PARAMETERS),
    *declared_options(GenerationOptions, "dataset"),
)
WHICH = KeyOption("runner.which", "which", "Checkpoint: last, best, or an epoch that is kept.")
FRAMES = KeyOption("runner.frames", "frames", kind=Path)
RUNNING = (
    KeyOption("runner.steps", "steps", "Number of steps; 0 runs until Ctrl-C.", checked=True),
    WHICH,
    *declared_options(RunnerOptions, "runner"),
    FRAMES,
    KeyOption("runner.actions", "actions", ACTIONS),
    KeyOption("runner.parameters", "parameters", PARAMETERS),
)
REPLAYING = (
    WHICH,
    *(
        option
        for option in declared_options(RunnerOptions, "runner")
        if option.name in ("record", "batch_size", "engine")
    ),
    FRAMES,
    KeyOption("runner.actions", "actions", "With --solver: what gave the actions, if it was a network."),
)


def in_section(given: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return the values of a section, by the names of its keys."""
    return {key.removeprefix(f"{section}."): value for key, value in given.items() if key.startswith(f"{section}.")}
