"""The flags of commands that run a configuration: changes to the file, and what to do with uncommitted changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from physgym.cli.app import config_of
from physgym.cli.parameters import with_values

if TYPE_CHECKING:
    from physgym.experiment.config import Edits
    from physgym.experiment.provenance import Origin
    from physgym.experiment.schema import Config

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.SUB=VALUE]...",
        help="Keys to change, such as training.epochs=20; physgym keys lists them.",
        show_default=False,
    ),
]


SHORT = ("-y", "-h", "-v", "-q")  # options of one letter


@dataclass(frozen=True)
class Flags:
    """Values of the flags."""

    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU.")] = False
    mini: Annotated[bool, typer.Option("--mini", help="Use the first 100 samples only, for a quick try.")] = False
    no_logging: Annotated[
        bool, typer.Option("--no-logging", help="Keep nothing: no session, no checkpoints, no curves.")
    ] = False
    allow_dirty_repo: Annotated[
        bool,
        typer.Option(
            "--allow-dirty-repo", help="Run with uncommitted changes, or without a repository; keeps nothing."
        ),
    ] = False
    save_diff: Annotated[
        bool, typer.Option("--save-diff", help="Run with uncommitted changes, and keep them with the session.")
    ] = False
    allow_changed_code: Annotated[
        bool,
        typer.Option(
            "--allow-changed-code",
            help="Continue even if the code of the simulation has changed; both codes are recorded.",
        ),
    ] = False
    y: Annotated[bool, typer.Option("--y", "-y", help="Do not ask.")] = False
    find_replace: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD NEW ...", help="Replace texts in the configuration file before it is read."),
    ] = None
    delete: Annotated[
        list[str] | None, typer.Option(metavar="KEY ...", help="Leave keys of the file out.", show_default=False)
    ] = None
    modify: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY VALUE", help="Replace the value of a key, or a whole section, in YAML."),
    ] = None

    def edits(self, overrides: Sequence[str] | None, values: Mapping[str, Any] | None = None) -> Edits:
        """Return the changes to the configuration file: of the flags, overrides, and values by key."""
        from physgym.experiment.config import Edits

        return Edits(
            find_replace=self.find_replace or (),
            delete=self.delete or (),
            modify=self.modify or (),
            overrides=overrides or (),
            cpu=self.cpu,
            mini=self.mini,
            values=values or {},
        )

    def load(self, source: Path, overrides: Sequence[str] | None, values: Mapping[str, Any] | None = None) -> Config:
        """Return the configuration of a file or of a session, with the changes.

        Raises:
            ConfigError: It is wrong.
        """
        from physgym.experiment.config import load_config

        return load_config(config_of(source), self.edits(overrides, values))

    def origin(
        self,
        source: Path | None,
        overrides: Sequence[str] | None,
        values: Mapping[str, Any] | None = None,
        *,
        checked: bool = True,
        keep_diff: bool = False,
    ) -> tuple[Origin, bool]:
        """Return the origin of a run of that configuration, and whether the run is logged.

        Args:
            source: The configuration.
            overrides: Changed keys.
            values: Values by key that options give.
            checked: Whether uncommitted changes matter.
            keep_diff: Whether changes are kept, as what is resumed has kept its own.

        Raises:
            ConfigError: The repository is missing or has changes that nobody allowed.
        """
        from physgym.experiment.provenance import Origin
        from physgym.experiment.repository import check_repository, find_repository
        from physgym.experiment.settings import read_settings

        repository = find_repository()
        settings = read_settings(None if repository is None else repository.root)
        keep = self.save_diff or keep_diff or (settings.uncommitted == "save-diff" and not self.allow_dirty_repo)
        log = not self.no_logging and (
            not checked
            or check_repository(
                repository, allow_dirty=self.allow_dirty_repo, save_diff=keep, yes=self.y, settings=settings
            )
        )
        file = None if source is None else config_of(source)
        allowed = self.allow_changed_code
        edits = self.edits(overrides, values).record()
        return Origin.here(file, edits, save_diff=keep and log, allow_changed_code=allowed), log


class Command(TyperCommand):
    """A command whose options ``--find-replace``, ``--delete`` and ``--modify`` take several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give each of several values an option of its own, as the parser wants it."""
        return super().parse_args(ctx, _spread(args))


def _spread(args: Sequence[str]) -> list[str]:
    spread: list[str] = []
    rest = list(args)
    while rest:
        option = rest.pop(0)
        if option == "--":
            return [*spread, option, *rest]
        spread.append(option)
        if option not in ("--find-replace", "--delete", "--modify"):
            continue
        taken = 0
        while rest and not (rest[0].startswith("--") or rest[0] in SHORT) and _takes(option, taken, rest[0]):
            spread += [rest.pop(0)] if not taken else [option, rest.pop(0)]
            taken += 1
    return spread


def _takes(option: str, taken: int, value: str) -> bool:
    """Return whether a value after so many others still belongs to an option."""
    if option == "--modify":
        return taken < 2
    return option == "--find-replace" or not taken or "=" not in value  # what has one is an override, no key


with_flags = with_values(Flags, "flags")
