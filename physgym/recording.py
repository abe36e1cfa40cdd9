"""The record of a session, as seen from the pipelines that are recorded.

What writes it needs the pipelines' own files, so that it stands after them; `physgym` brings both together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from physgym.events import Callback


class SessionRecorder(Protocol):
    """Writer of the record of a training that is made in Python; `physgym.experiment.from_python` is one."""

    def own_session(self, path: str | Path) -> Path:
        """Return the folder of a new training: the wanted one, or one with a number behind it where that is taken."""
        ...

    def recorded(self, trainer: Any, session: Path, callbacks: Iterable[Callback]) -> AbstractContextManager[None]:
        """Write the record of a training with its callbacks, from its beginning to its end, into its session."""
        ...


_providers: list[Callable[[], SessionRecorder]] = []


def set_session_recorder(provider: Callable[[], SessionRecorder]) -> None:
    """Register what gives the recorder.

    Args:
        provider: Returns it; called once it is needed.
    """
    _providers[:] = [provider]


def session_recorder() -> SessionRecorder:
    """Return the recorder of sessions."""
    return _providers[-1]()
