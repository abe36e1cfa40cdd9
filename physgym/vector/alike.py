"""Comparison of what workers say of their environments: samples of two simulations are not to be mixed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from physgym.code.env_description import CONSTANTS, CONTENTS, FIXED
from physgym.errors import WorkerError
from physgym.launch.base import DialInLauncher, Launcher
from physgym.vector.workers import RemoteWorker

FILES = "files"  # their names, which say nothing where their contents are known
MEANINGS = {
    FIXED: "other arguments (--arg)",
    CONSTANTS: "other constants",
    CONTENTS: "other contents of the files that they read",
    FILES: "other files that they read",
    "classes": "other classes",
    "program": "another program",
}
SHOWN = 200  # characters of a difference


def differing(there: Mapping[str, Any], first: Mapping[str, Any], names: Sequence[str] | None = None) -> list[str]:
    """Return the names of the parts of two descriptions in which they differ, of those that are no spaces.

    Args:
        there: What one worker says, as `Ready.description` has it.
        first: What another one says.
        names: Parts that are compared; None for all.
    """
    ours, theirs = (description.get("code") or {} for description in (first, there))
    names = list(dict.fromkeys([*MEANINGS, *ours, *theirs])) if names is None else names
    known = CONTENTS in ours and CONTENTS in theirs
    return [name for name in names if ours.get(name) != theirs.get(name) and not (name == FILES and known)]


def difference(there: Mapping[str, Any], first: Mapping[str, Any], name: str) -> str:
    """Say how descriptions differ in a part, with the values of both."""
    ours, theirs = ((description.get("code") or {}).get(name, ()) for description in (first, there))
    own = [", ".join(entry for entry in one if entry not in other) for one, other in ((theirs, ours), (ours, theirs))]
    named = [f"{text or 'nothing':.{SHOWN}}" for text in own]
    return f"{MEANINGS.get(name, f'another {name}')} ({named[0]} in place of {named[1]})"


def check_alike(worker: RemoteWorker, first: Mapping[str, Any] | None, than: str, launcher: Launcher[Any]) -> None:
    """Check that a worker that is ready has environments like others.

    Args:
        worker: The worker.
        first: What another one says.
        than: Which one, for the message.
        launcher: Says whether workers with another code are let in.

    Raises:
        WorkerError: They differ.
    """
    assert worker.ready is not None
    assert first is not None
    there = worker.ready.description
    if {**there, "code": None} != {**first, "code": None}:
        raise WorkerError(f"{worker}: its environments have other spaces {than}")
    for name in differing(there, first):
        text = f"{worker}: its environments have {difference(there, first, name)} {than}"
        if name != CONTENTS or not isinstance(launcher, DialInLauncher) or launcher.on_difference == "refuse":
            raise WorkerError(text)
        warnings.warn(f"{text}. It was let in (--on-difference warn)", RuntimeWarning, stacklevel=4)
