"""The command that searches for the best values of a configuration's keys."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from physgym.cli.app import INTERRUPTED, app
from physgym.cli.continuing import Begun, begun_session, origin_of
from physgym.cli.flags import Command, Flags, Overrides, with_flags
from physgym.cli.reports import NoReport, write_session_report
from physgym.errors import ConfigError
from physgym.files import short

if TYPE_CHECKING:
    from physgym.experiment.provenance import Origin
    from physgym.experiment.schema import Config
    from physgym.experiment.search.section import SearchSection
    from physgym.experiment.search.study import Found

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Let a Ray cluster run the trials: auto, local, or host:port. Its machines must share the folders.",
    ),
]


@app.command(cls=Command)
@with_flags
def search(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file with a section search.", show_default=False)
    ],
    overrides: Overrides = None,
    *,
    resume: Begun = False,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Work on the same session as other jobs with this option, such as those of an array."
        ),
    ] = False,
    ray: Ray = None,
    no_report: NoReport = False,
    flags: Flags,
) -> None:
    """Search for the best values of keys, by many trainings.

    The session holds a table of the trials, results.csv, the best configuration, best.yaml, plots, and below trials a
    session of each. Ctrl-C and crashes lose nothing: physgym resume SESSION continues.

    Example: physgym search examples/search.yaml search.trials=50 search.workers=4
    """
    from physgym.experiment.search.study import search as run

    settings = flags.load(config, overrides)

    def drive() -> None:
        begun = begun_session(settings, "search") if resume or join else None
        origin, log = origin_of(flags, config, overrides, begun)
        if begun is not None:
            resume_search(begun, settings, origin, ray, lent=join, reported=not no_report)
            return
        _finish(lambda: run(settings, origin, log=log, ray=ray, lent=join), settings, reported=not no_report)

    if not join:
        drive()
        return
    if ray is not None or flags.no_logging:
        raise ConfigError("--join works in a session that all share; leave --ray and --no-logging out")
    _drive_or_lend(settings, drive)


def _drive_or_lend(settings: Config, drive: Callable[[], None]) -> None:
    """Drive a search where nobody else does, and lend its driver processes otherwise, until it is over.

    Args:
        settings: Its configuration.
        drive: Runs it.

    Raises:
        ConfigError: There is no section search.
    """
    from physgym.experiment.search.lent import FOLDER, OVER, lend
    from physgym.experiment.search.pool import environments
    from physgym.experiment.search.study import device_of
    from physgym.experiment.session import check_session
    from physgym.files import try_lock
    from physgym.interrupt import InterruptCounter

    if settings.search is None:
        raise ConfigError("the configuration has no section search")
    session = check_session(settings.session)
    session.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with try_lock(session.with_name(f".{session.name}.lock")) as mine:
            if mine:
                shutil.rmtree(session / FOLDER, ignore_errors=True)  # what an earlier driver has said
                drive()
                return
        with InterruptCounter() as interrupts:
            variables = environments(settings.search.workers, settings.search.threads, device_of(settings))
            ended = lend(session, variables, interrupts)
        if ended == OVER:
            print(f"the search is over: {short(session)}")
            return
        if interrupts.count:
            raise typer.Exit(INTERRUPTED)
        time.sleep(1.0)  # for the next driver to begin


def resume_search(
    session: Path,
    settings: Config,
    origin: Origin,
    ray: str | None = None,
    *,
    lent: bool = False,
    reported: bool = True,
) -> None:
    """Continue with the session of a search."""
    from physgym.experiment.search.study import resume_search as run

    _finish(lambda: run(session, settings, origin, ray=ray, lent=lent), settings, reported=reported)


def _finish(run: Callable[[], Found], settings: Config, *, reported: bool) -> None:
    try:
        found = run()
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'interrupted'}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    assert settings.search is not None  # the search would have refused
    report(found, settings.search)
    if found.session is not None:
        write_session_report(found.session, wanted=reported)


def report(found: Found, section: SearchSection) -> None:
    """Print what a search gave, and how to continue; exit as after Ctrl-C if that ended it."""
    from physgym.experiment.search.report import BEST, RESULTS, summary_of, table_of

    print(summary_of(found.rows))
    if found.best is not None:
        print(table_of(found.rows, section))
    if found.session is not None:
        print(f"session: {short(found.session)}\nresults: {short(found.session / RESULTS)}")
        if found.best is not None:
            where = (short(found.session / "trials" / found.best.name), short(found.session / BEST))
            print("network: {}\nbest:    {}".format(*where))
    if found.timed_out:
        print("the time was over before all trials were begun", file=sys.stderr)
    if found.interrupted:
        if found.session is not None:
            print(f"interrupted; continue with: physgym resume {shlex.quote(short(found.session))}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
