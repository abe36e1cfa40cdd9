"""The command that writes reports, and the reports that other commands write at their end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from physgym.cli.app import app, check_there
from physgym.errors import PhysGymError
from physgym.files import absolute, short

if TYPE_CHECKING:
    from physgym.report.page import Page

REPORT, RUN_REPORT, EVALUATION_REPORT = "report.html", "report-run.html", "report-evaluate.html"
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report at the end.")]


@app.command()
def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SESSION|DATA", help="Session folder, dataset folder, or s3://bucket/prefix.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write.", show_default="report.html in the session, DATA-report.html here"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Samples that plots are drawn from, and that a network predicts, at most."),
    ] = None,
) -> None:
    """Write a session or a dataset as one HTML file.

    The file has tables, plots and pictures.

    It needs no network and no other file, so you can send it to anybody.

    Examples: physgym report sessions/beam

    physgym report data/beam --out beam.html
    """
    check_there(either=target)
    try:
        from physgym.report.reports import write_report  # which takes seconds

        file = write_report(target, out, samples=samples)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; no report was written, and one that was there is as it was") from None
    print(f"report:  {short(file)}")


def write_at_end(make: Callable[[], Page], file: Path, complete: str = "", *, wanted: bool = True) -> None:
    """Write the report of what has ended well; where it cannot be written, that is said and nothing else.

    Args:
        make: Makes the page.
        file: Where to.
        complete: What to say after Ctrl-C: what is complete without the report; by default the figures printed before.
        wanted: Whether the user wants one.

    Raises:
        KeyboardInterrupt: With that text.
    """
    if not wanted:
        return
    try:
        _write(make, file)
    except KeyboardInterrupt:
        figures = "the figures above are complete, their report was not written; --no-report leaves it out"
        raise KeyboardInterrupt(f"interrupted; {complete or figures}") from None


def _write(make: Callable[[], Page], file: Path) -> None:
    from physgym.experiment.repository import find_repository
    from physgym.experiment.settings import read_settings
    from physgym.report.page import plotly_script

    try:
        repository = find_repository()
        if read_settings(None if repository is None else repository.root).reports == "none":
            return
        plotly_script()  # raises before anything is computed
        size = make().save(absolute(file))
    except PhysGymError as error:
        print(f"no report: {error}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 - what the report is about has ended well, and is kept
        print(f"no report: {type(error).__name__}: {error}", file=sys.stderr)
    else:
        print(f"report:  {short(absolute(file))} ({size})")


def write_session_report(session: Path, *, wanted: bool = True) -> None:
    """Write the report of a session that has ended well, as `write_at_end` does."""

    def make() -> Page:
        from physgym.report.reports import session_report

        return session_report(session, session)

    again = f"physgym report {shlex.quote(short(session))}"
    write_at_end(make, session / REPORT, f"the session is complete but for its report: {again}", wanted=wanted)


def typed() -> str:
    """Return the command as it was typed."""
    from physgym.experiment.report_text import shell_text

    return shell_text(["physgym", *sys.argv[1:]])
