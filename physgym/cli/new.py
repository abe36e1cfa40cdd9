"""The command that writes a package for your own simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app


@app.command(brief=True)
def new(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="Folder to make; its name becomes the package's.")],
    no_git: Annotated[bool, typer.Option("--no-git", help="Make no git repository.")] = False,
) -> None:
    """Write a package for your own simulation.

    It has a simulation, a configuration, tests and a README. It works as it is: its tests pass, its network trains.
    Each place to make it yours is marked.

    Example: physgym new heated_rod
    """
    from physgym.experiment.project import new_project

    made = new_project(name, git=not no_git)
    print(f"{name}: a package with a simulation, a metal rod with heaters, for you to change; see its README.md")
    print("Continue with:")
    for command in (
        f"cd {name}",
        "pip install pytest && pytest",
        f"physgym check {made.package}:{made.env_id}",
        "physgym train config.yaml",
        f"physgym run sessions/{made.package} --frames frames",
    ):
        print(f"  {command}")
    if made.note:
        print(f"git: {made.note}")
