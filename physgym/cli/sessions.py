"""Commands that list sessions, show them, and run them again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from physgym.cli.app import app
from physgym.errors import ConfigError

DIFFERENT = 1  # exit status of a session that did not come out as before
RETURNS = ("evaluation return", "return")  # of agents: columns where a session has them
LONGEST = 48  # letters of an outcome, which may be an error
PARTS = ("dataset", "networks", "stats")  # of a session, in which there are no sessions
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list", brief=True)
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder with sessions, at any depth.")] = Path("sessions"),
    as_json: AsJson = False,
) -> None:
    """List sessions, the newest first.

    Prints what they did, how they ended, and their last losses.

    Example: physgym list sessions --json
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    found = sorted((_summary(path, folder) for path in _sessions(folder)), key=lambda one: one["started"], reverse=True)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    if not found:
        print(f"no sessions in {folder}")
        return
    returns = [name for name in RETURNS if any(one[name.replace(" ", "_")] is not None for one in found)]
    losses = ("epochs", "validation loss", "loss")
    columns = ("session", "kind", "started", "outcome", *losses, *returns, "description")
    rows = [columns, *(tuple(_cell(one[name.replace(" ", "_")]) for name in columns) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    widths[columns.index("outcome")] = min(LONGEST, widths[columns.index("outcome")])
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = (_cut(cell, width).ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
        print("  ".join([*cells, row[-1]]).rstrip()[:terminal])


def _sessions(folder: Path) -> Iterator[Path]:
    from physgym.experiment.session import RECORD

    for path, folders, files in os.walk(folder):
        if RECORD in files:
            yield Path(path)
            folders[:] = [name for name in folders if name not in PARTS]
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _summary(session: Path, folder: Path) -> dict[str, Any]:
    """Return the line of a session in the list; of a damaged record, that it is damaged."""
    from physgym.experiment.record import read_record, results_of, state

    name = session.name if session == folder else str(session.relative_to(folder))
    try:
        record, outcome = read_record(session), state(session)
    except ConfigError as error:
        nothing = dict.fromkeys(
            ("kind", "epochs", "validation_loss", "loss", *(name.replace(" ", "_") for name in RETURNS))
        )
        return {
            "session": name,
            "path": str(session),
            "started": "",
            "outcome": "damaged",
            "description": str(error),
        } | nothing
    last = record["runs"][-1]
    results = results_of(session, record)
    return {
        "session": name,
        "path": str(session),
        "kind": last["kind"],
        "started": record["runs"][0]["start"],
        "outcome": outcome,
        "epochs": results.get("epoch"),
        "validation_loss": results.get("validation_loss"),
        "loss": results.get("loss"),
        "evaluation_return": results.get("evaluation_return"),
        "return": results.get("return"),
        "description": record["description"],
    }


def _cell(value: Any) -> str:
    from physgym.experiment.report_text import printable

    if isinstance(value, float):
        return f"{value:.4g}"
    text = "-" if value is None else printable(" ".join(str(value).split()))
    # moments as people write them
    return f"{text[:10]} {text[11:16]}" if text[10:11] == "T" and text.endswith("+00:00") else text


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


@app.command(brief=True)
def show(
    target: Annotated[
        Path,
        typer.Argument(metavar="SESSION|CONFIG", help="Session folder, or configuration file.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changed keys of a configuration file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Describe a session, or a configuration with all defaults.

    Of a session: what it did, in which code and on which machine.

    Examples: physgym show sessions/beam

    physgym show examples/beam.yaml training.epochs=20
    """
    from physgym.experiment.record import read_record, state
    from physgym.experiment.report_text import record_text
    from physgym.experiment.yaml_text import to_yaml

    if target.is_dir():
        if overrides:
            raise ConfigError(f"{target} is a session, which nothing changes; show its config.yaml with {overrides[0]}")
        record = read_record(target)
        print(json.dumps(record, indent=1) if as_json else record_text(record, state(target), details=True).rstrip())
        return
    from physgym.experiment.config import load_config

    config = load_config(target, overrides or ()).model_dump()
    print(json.dumps(config, indent=1) if as_json else to_yaml(config).rstrip())


@app.command()
def reproduce(
    session: Annotated[
        Path, typer.Argument(metavar="SESSION", help="Session folder of a completed training.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the new session.", show_default="SESSION-again")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the git worktree with the code that was run.")] = False,
) -> None:
    """Run a session again, and compare the results.

    Takes the commit of the session, with the patch of --save-diff, in a git worktree. Trains by its configuration. Then
    compares metrics, samples and weights. Exit status 0: all equal; 1: not; 2: it cannot be run again.

    Example: physgym reproduce sessions/beam
    """
    from physgym.experiment.reproduce import reproduce as run

    comparison = run(session, out=out, keep=keep)
    print(comparison)
    if not comparison.equal:
        raise typer.Exit(DIFFERENT)
