"""The console application, and what its commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from physgym._version import __version__
from physgym.errors import ConfigError
from physgym.experiment.yaml_text import read_yaml

USAGE, INTERRUPTED = 2, 130

ORDER = (
    *("new", "check", "generate", "train", "resume", "search", "reproduce", "run", "replay", "evaluate", "view"),
    *("watch", "drive", "worker", "serve-model", "submit", "simulators"),
    *("list", "show", "compare", "report", "tensorboard", "sync", "schema", "info", "export", "import", "data", "demo"),
)


class _Ordered(TyperGroup):
    """Lists commands in the order of work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(self.commands, key=ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it with what it has to say to that."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            print(f"\n{str(interrupt) or 'interrupted'}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="physgym",
    cls=_Ordered,
    help="Numerical simulations and deep learning: generate samples, train on them, run the network.",
    no_args_is_help=True,
    add_completion=False,
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one.")
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
    table = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"{option} {pair!r}: write name=value")
        table[key] = value
    return table


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
