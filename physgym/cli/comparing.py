"""The command that compares sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app
from physgym.cli.sessions import AsJson
from physgym.errors import ConfigError
from physgym.files import short


@app.command(brief=True)
def compare(
    sessions: Annotated[
        list[Path],
        typer.Argument(
            metavar="SESSION...", help="Session folders, two or more, or trials of a search.", show_default=False
        ),
    ],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the curves into a picture, such as curves.png.")
    ] = None,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            help="Curve to draw; may be repeated.",
            show_default="validation_loss, else the return of an agent, else loss",
        ),
    ] = None,
    minimize: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Metric whose smallest value is the best; may be repeated.")
    ] = None,
    maximize: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Metric whose largest value is the best; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between sessions.

    That is configurations, runs, metrics and times. A star marks the best value of a metric.

    Metrics are those of the last epoch. Which direction is better is known of losses, of physgym's own metrics and of
    what a configuration watches.

    Examples: physgym compare sessions/a sessions/b --plot curves.png

    physgym compare sessions/search/trials/* --curve validation_mae/next_state --json
    """
    from physgym.experiment.compare import compare as run
    from physgym.experiment.compare import plot as draw

    if curve and plot is None:
        raise ConfigError("--curve names what --plot FILE draws; give that as well")
    comparison = run(sessions, minimize=minimize or (), maximize=maximize or ())
    if plot is not None:
        draw(sessions, plot, curve or ())
    if as_json:
        print(json.dumps(comparison.to_json(), indent=1, allow_nan=False))
        return
    print(comparison)
    if plot is not None:
        print(f"\ncurves: {short(plot)}")
