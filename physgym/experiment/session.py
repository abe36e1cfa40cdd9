"""The folder of a session: its name, its files, and the lock of the process that works in it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from physgym.data.description import LOCK
from physgym.errors import CheckpointError, ConfigError
from physgym.files import lock, short, write_atomically
from physgym.storage.location import local

log = logging.getLogger(__name__)
CONFIG = "config.yaml"
RECORD = "record.json"
INFO = "info.txt"
REPLAY = "replay"  # folder of what an agent has recorded while it learned
MADE = ("dataset", "networks", "stats", "trials", REPLAY)  # folders of results
ATTEMPTS, PAUSE = 5, 0.05  # to get a lock that somebody who looks whether it is taken has for an instant
ATTEMPTS, PAUSE = 5, 0.05  # to get a lock that somebody who looks whether it is taken has for an instant


def check_session(path: str | Path) -> Path:
    """Return the path at which a session can be made.

    Raises:
        ConfigError: It is in S3, or has no name, such as "." and "/".
    """
    wanted = local(path, "a session")
    if Path(path).name in ("", "..") or "\0" in str(wanted):
        raise ConfigError(
            f"{str(path)!r} cannot be the folder of a session, which is one of its own: write a path that ends in a "
            "name, such as sessions/mine"
        )
    return wanted


def new_session(path: str | Path) -> Path:
    """Make the folder of a session; a name already taken gets a suffix, so that nothing is ever overwritten.

    git ignores the folder, so that sessions are no changes of a repository.

    Args:
        path: The wanted folder.

    Returns:
        The folder made: `path`, or `path` with ``-2``, ``-3``, ... behind it, which is said on stderr.

    Raises:
        ConfigError: The folder cannot be made.
    """
    wanted, number = check_session(path), 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # atomic: of two sessions started at once only one gets the name
            write_atomically(folder / ".gitignore", "*\n")
        except FileExistsError as error:
            if not folder.is_dir():
                raise ConfigError(f"cannot make the session folder {folder}: a file of this name exists") from error
            number += 1
        except OSError as error:
            with contextlib.suppress(OSError):  # it may have been made, on a disk that was full then
                folder.rmdir()
            raise ConfigError(f"cannot make the session folder {folder}: {error.strerror}") from error
        else:
            if number > 1:
                print(f"{short(wanted)} is taken; this session is {short(folder)}", file=sys.stderr)
            log.info("new session %s", folder)
            return folder


def is_empty(session: Path) -> bool:
    """Return whether nothing was made in a session yet: no samples, no networks, no curves."""
    own = {CONFIG, RECORD, INFO, ".gitignore", *MADE, *(file.name for file in session.glob("changes-*.patch"))}
    if any(entry.name not in own for entry in session.iterdir()):
        return False
    made = (entry for name in MADE for entry in (session / name).rglob("*"))
    return not any(entry.is_file() and entry.name != LOCK for entry in made)


def discard(session: Path) -> None:
    """Remove a session in which nothing was made; what a user has put there stays, and the folder with it."""
    names = [CONFIG, RECORD, INFO, ".gitignore", *(file.name for file in session.glob("changes-*.patch"))]
    ours = (session / ".gitignore").exists()  # as `new_session` makes one
    with contextlib.suppress(OSError):
        for name in names:
            (session / name).unlink(missing_ok=True)
        for folder in MADE:
            (session / folder / LOCK).unlink(missing_ok=True)
            if (session / folder).is_dir():
                (session / folder).rmdir()
        if ours:
            session.rmdir()


def take_lock(session: Path) -> Any:
    """Lock a session for this process.

    Raises:
        ConfigError: Another process works in it, or it cannot be locked.
    """
    from physgym.training.checkpointing import Lock  # which needs torch

    if not session.is_dir():
        raise ConfigError(f"{session} is no session: there is no such folder")
    for attempt in range(ATTEMPTS):
        try:
            return Lock(session)
        except CheckpointError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise ConfigError(f"cannot work in {session}: {error.__cause__}") from error
            if attempt == ATTEMPTS - 1:
                raise ConfigError(f"another process works in {session}; wait for it, or use another session") from error
            time.sleep(PAUSE)
    raise AssertionError


def is_locked(session: Path) -> bool:
    """Return whether a process works in a session."""
    try:
        descriptor = os.open(session, os.O_RDONLY)
    except OSError:
        return False
    try:
        return lock(descriptor, session, shared=True, warn=False) == "taken"
    except OSError:
        return False
    finally:
        os.close(descriptor)
