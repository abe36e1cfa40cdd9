"""The session that a command continues: the same command, typed again, continues where it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.cli.app import config_of
from physgym.errors import ConfigError

if TYPE_CHECKING:
    from physgym.cli.flags import Flags
    from physgym.experiment.provenance import Origin
    from physgym.experiment.schema import Config

Begun = Annotated[
    bool, typer.Option("--resume", help="Continue the session if it exists; for jobs that are run again.")
]


@contextmanager
def beginning() -> Iterator[None]:
    """Say of a command that Ctrl-C ends while it still loads that nothing was written; enclose its imports.

    Raises:
        KeyboardInterrupt: With a text for the user, where one came.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted before anything was written; give the same command again") from None


def begun_session(config: Config, kind: str) -> Path | None:
    """Return the session of a configuration where it was begun, None where it is to be made.

    Of processes that train together the first one looks, and the others hear it.

    Args:
        config: The configuration.
        kind: What the command does, "train" or "search".

    Raises:
        ConfigError: The session is one of another configuration, or of something else.
    """
    from physgym.training.launch import read_launch

    if read_launch().size == 1:
        return _begun(config, kind)
    from physgym.training.ranks import Ranks

    ranks = Ranks(config.device)
    found, fault = None, ""
    if ranks.rank == 0:
        try:
            found = _begun(config, kind)
        except ConfigError as error:
            fault = str(error)
    if fault := ranks.share(fault):
        raise ConfigError(fault)
    shared = ranks.share("" if found is None else str(found))
    return Path(shared) if shared else None


def _begun(config: Config, kind: str) -> Path | None:
    from physgym.experiment.config import load_config
    from physgym.experiment.record import read_record
    from physgym.experiment.session import RECORD, check_session, discard, is_empty

    session = check_session(config.session)
    if not session.is_dir():
        return None
    if not (session / RECORD).exists() and is_empty(session):  # killed before there was a record
        discard(session)
        return None
    last = read_record(session)["runs"][-1]
    if last["kind"] != kind or last.get("from_python"):
        what = "a program in Python" if last.get("from_python") else f"physgym {last['kind']}"
        raise ConfigError(f"--resume: {session} is a session of {what}; name another one with session=FOLDER")
    differing = _differing(load_config(config_of(session)).model_dump(), config.model_dump())
    if differing:
        raise ConfigError(
            f"--resume: {session} was begun with other values of {', '.join(differing)}. Name another "
            f"session, or continue with the old values: physgym resume {session}"
        )
    return session


def _differing(was: Any, now: Any, key: str = "") -> list[str]:
    """Return the keys whose values differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [name for name in {**was, **now} if key or name != "session"]
        return [
            found
            for name in names
            for found in _differing(was.get(name), now.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if was == now else [key]


def origin_of(flags: Flags, source: Path, overrides: list[str] | None, session: Path | None) -> tuple[Origin, bool]:
    """Return the origin of a run, and whether it is logged.

    Args:
        flags: Of the command.
        source: Its configuration.
        overrides: Changed keys.
        session: The session that it continues with; None for a new one.

    Raises:
        ConfigError: The repository is missing or has changes that nobody allowed, or what continues is not to be kept.
    """
    from physgym.experiment.record import read_record

    if session is None:
        return flags.origin(source, overrides)
    last = read_record(session)["runs"][-1]
    # what did not start from a commit need not go on from one
    found, log = flags.origin(source, overrides, checked=last["git"] is not None, keep_diff=last["patch"] is not None)
    if not log:
        raise ConfigError("what is resumed is kept: leave --no-logging and --allow-dirty-repo out, or add --save-diff")
    return found, log
