"""Commands for the curves of trainings: to look at them, and to send them to a server that was away."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app
from physgym.errors import ConfigError
from physgym.files import short

LOOK = 10.0  # seconds for finding curves below a folder
UNSENT = 1  # exit status where a server has not got everything
Session = Annotated[
    Path,
    typer.Argument(metavar="SESSION", help="Session folder, or any folder with curves below it.", show_default=False),
]


@app.command()
def tensorboard(
    session: Session,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port on this machine; by default 6006, or the next one that is free."),
    ] = None,
) -> None:
    """Show the curves of sessions in TensorBoard, until Ctrl-C.

    Only this machine can open the page. The command prints the address to open in a browser; from another machine
    forward the port: ssh -L 6006:127.0.0.1:6006 HOST.

    Examples: physgym tensorboard sessions/beam

    physgym tensorboard sessions --port 6010
    """
    folder = _folder_with_events(session)
    from tensorboard import program  # type: ignore[import-untyped]

    board = program.TensorBoard()
    # one process, which ends with this command
    options = ["--logdir", str(folder), "--host", "127.0.0.1", "--load_fast", "false"]
    board.configure(("", *options, *(["--port", str(port)] if port is not None else [])))
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        where = f"--port {port}" if port is not None else "the ports from 6006 on"
        raise ConfigError(
            f"{where}: TensorBoard cannot listen there: {error.msg}. Name another one, or leave --port out"
        ) from error
    print(f"curves of {short(folder)}: {address} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)


def _folder_with_events(session: Path) -> Path:
    """Return the folder to show of a session, or of what has sessions below it.

    Raises:
        ConfigError: It has no curves for TensorBoard.
    """
    if not session.is_dir():
        raise ConfigError(f"there is no folder {session}")
    folder = session / "stats" if (session / "stats").is_dir() else session
    if not any("tfevents" in file.name and file.stat().st_size for file in _files_below(folder)):
        tables = next((file for file in _files_below(folder) if file.name == "epochs.csv"), None)
        there = "" if tables is None else f"; it has tables, {short(tables)}"
        raise ConfigError(
            f"{session} has no curves for TensorBoard{there}. A training writes them where stats.loggers names "
            "tensorboard, from its first batch on"
        )
    return folder.absolute()


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those below it; no links are followed.

    Raises:
        ConfigError: There are so many that nobody waits for the end.
    """
    until = time.monotonic() + LOOK
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)
        if time.monotonic() > until:
            raise ConfigError(f"{folder} has no curves that are found within {LOOK:g} s; name the session itself")


@app.command()
def sync(session: Session) -> None:
    """Send curves that MLflow or W&B do not have yet.

    They are missing if the server was away, or if they were to be sent later. Nothing is sent twice; what a server
    refuses for good is named. Exit status 1: something is still to be sent.

    Example: physgym sync sessions/beam
    """
    from physgym.training.journal import journals_below, record_count
    from physgym.training.sending import send_journal

    if not session.is_dir():
        raise ConfigError(f"there is no folder {session}")
    journals = journals_below(session)
    if not journals:
        raise ConfigError(
            f"{session} has nothing that could be sent: no training with mlflow or wandb in stats.loggers has run there"
        )
    unsent = False
    for journal in journals:
        try:
            state = send_journal(journal)
        except BlockingIOError as error:  # as a training that runs
            print(f"{short(journal)}: {error}", file=sys.stderr)
            unsent = True
            continue
        print(f"{short(journal)}: the server has {state.sent} of {record_count(journal)} records")
        if state.left_out:
            print(f"  {state.left_out} of them were refused, and are left out: {state.refused}", file=sys.stderr)
        if not state.whole:
            print(f"  they cannot be sent now: {state.problem}", file=sys.stderr)
            unsent = True
    if unsent:
        raise typer.Exit(UNSENT)
