"""The console application, and what its commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from physgym._version import __version__
from physgym.cli.logs import with_saying
from physgym.cli.parameters import with_completion
from physgym.errors import ConfigError, DatasetError
from physgym.experiment.yaml_text import read_yaml
from physgym.files import absolute

USAGE, INTERRUPTED = 2, 130

# commands by what one wants to do, as `physgym --help` shows them
TASKS = {
    "Begin": ("new", "demo", "check", "doctor", "keys", "schema"),
    "Make datasets": ("generate", "drive", "import", "export", "data", "info"),
    "Train": ("train", "resume", "search", "reproduce"),
    "Use a trained network": ("run", "replay", "evaluate", "serve-model"),
    "Look at simulations and samples": ("view", "watch"),
    "Sessions": ("list", "show", "compare", "report", "tensorboard", "sync"),
    "Clusters and other machines": ("submit", "worker", "simulators"),
}
ORDER = tuple(name for names in TASKS.values() for name in names)


class _Tasks(TyperGroup):
    """Lists commands by tasks, in the order of work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(self.commands, key=ORDER.index)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with their help, a section for each task."""
        width = max(len(name) for name in ORDER)
        for task, names in TASKS.items():
            with formatter.section(task):
                helps = [self.commands[name].get_short_help_str(formatter.width - width - 6) for name in names]
                rows = [(name.ljust(width), text) for name, text in zip(names, helps, strict=True)]
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it with what it has to say to that."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            print(f"\n{str(interrupt) or 'interrupted'}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


class Commands(typer.Typer):
    """Commands whose arguments the shell completes, and which say as much as is wanted."""

    def command(self, name: str | None = None, *, brief: bool = False, **settings: Any) -> Callable[[Any], Any]:
        """Make a function a command.

        Args:
            name: Name of the command, by default that of the function.
            brief: Whether it ends at once and says nothing but its result.
            settings: Those of Typer.
        """
        registered = super().command(name, **settings)

        def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
            registered(with_completion(function if brief else with_saying(function)))
            return function

        return decorated


app = Commands(
    name="physgym",
    cls=_Tasks,
    help="Numerical simulations and deep learning: generate samples, train on them, run the network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: physgym new NAME, or physgym train examples/spring.yaml. Each command has its own --help.",
)

EnvId = Annotated[str, typer.Argument(metavar="ENV", help='Registered id; "module:id" imports a module first.')]
EnvArguments = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="KEY=VALUE", help="Argument of the environment's constructor; may be repeated."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed; equal seeds give equal results.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"physgym {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def again(*more: str) -> str:
    """Return the typed command with other options behind it, such as ``--resume`` or ``--steps 5``; for a shell."""
    typed, changed = sys.argv[1:], [part for part in more if part.startswith("--")]
    kept = []
    while typed:
        part = typed.pop(0)
        if part in changed:  # its value goes with it
            if part != more[-1] and not more[more.index(part) + 1].startswith("--"):
                typed = typed[1:]
        elif part.partition("=")[0] not in changed:
            kept.append(part)
    return shlex.join(["physgym", *kept, *more])


def pairs_of(pairs: list[str] | None, option: str) -> dict[str, str]:
    """Return the table of options ``name=value``."""
    table: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"{option} {pair!r}: write name=value")
        if key in table:
            raise ConfigError(f"{option} {pair!r}: {key} is given twice, {table[key]!r} before; leave one out")
        table[key] = value
    return table


def lists_of(pairs: list[str] | None, option: str) -> dict[str, str | list[str]]:
    """Return the table of options ``name=value`` that may repeat a name: its values are a list then."""
    table: dict[str, list[str]] = {}
    for pair in pairs or []:
        for key, value in pairs_of([pair], option).items():
            if value in table.setdefault(key, []):
                raise ConfigError(f"{option} {pair!r} is given twice; leave one out")
            table[key].append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in table.items()}


def arguments_of(pairs: list[str] | None) -> dict[str, Any]:
    """Return the constructor arguments of ``--arg key=value``; values are read as YAML."""
    arguments = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--arg {pair!r}: write key=value")
        try:
            arguments[key] = read_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            why = " ".join(str(error).split())
            raise ConfigError(f"--arg {pair!r}: the value is not YAML: {why}") from error
    return arguments


def config_of(path: Path) -> Path:
    """Return the file of a configuration: that of a session if the path is a folder, else the path itself.

    Raises:
        ConfigError: The folder is no session.
    """
    from physgym.experiment.session import CONFIG

    if path.suffix in (".yaml", ".yml"):
        return path
    if not path.exists():
        raise ConfigError(f"there is no {path}; name a YAML file or the folder of a session")
    if not (path / CONFIG).is_file():
        raise ConfigError(f"{path} is not a session: it has no {CONFIG}")
    return path / CONFIG


def check_there(
    *, trained: Path | None = None, stored: Sequence[str | Path] = (), either: str | Path | None = None
) -> None:
    """Check that what a command reads is there, before it imports and builds what takes seconds.

    Args:
        trained: A session or a checkpoint.
        stored: Dataset folders.
        either: A session or a dataset folder.

    Addresses of a storage are left alone.

    Raises:
        ConfigError: There is no such session or checkpoint.
        DatasetError: There is no such dataset.
    """
    for path in stored:
        if _is_missing(path):
            raise DatasetError(f"there is no dataset at {absolute(path)}")
    if trained is not None and _is_missing(trained):
        raise ConfigError(f"there is no checkpoint at {absolute(trained)}, and no session")
    if either is not None and _is_missing(either):
        raise ConfigError(f"there is no {either}: name the folder of a session or of a dataset")


def _is_missing(path: str | Path) -> bool:
    if absolute(path).exists():
        return False
    from physgym.storage.location import scheme_of

    return scheme_of(str(path)) is None
