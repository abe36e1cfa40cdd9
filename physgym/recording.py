"""The record of a session, as seen from the pipelines that are recorded.

What writes it needs the pipelines' own files, so that it stands after them; `physgym` brings both together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol


class SessionRecorder(Protocol):
    """Writer of the record of a training that is made in Python; `physgym.experiment.from_python` is one."""

    def own_session(self, path: str | Path) -> Path:
        """Return the folder of a new training: the wanted one, or one with a number behind it where that is taken."""
        ...

    def recorded(self, trainer: Any, session: Path) -> AbstractContextManager[None]:
        """Write the record of a training, from its beginning to its end, into the folder of its session."""
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
