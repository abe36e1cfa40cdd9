"""The command that says what works on this machine, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app
from physgym.errors import ConfigError

PROBLEMS = 1  # exit status


@app.command(brief=True)
def doctor(
    folder: Annotated[
        Path, typer.Option(help="Folder for sessions and datasets, whose file system is tested.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Test what works on this machine, and say what to do.

    Tests packages, file system, workers, devices, pictures and git. A note is about something optional; a problem keeps
    physgym from working. Exit status 0: no problem; 1: a problem.

    Examples: physgym doctor

    physgym doctor --folder /scratch/me --json
    """
    from physgym.doctor.examination import examination

    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    found = []
    for one in examination(folder.absolute()):
        found.append(one)
        if not as_json:
            print(one.lines(), flush=True)
    if as_json:
        print(json.dumps({"findings": [one.to_json() for one in found]}, indent=1))
    if any(one.state == "problem" for one in found):
        raise typer.Exit(PROBLEMS)
