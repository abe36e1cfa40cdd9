"""`TrainingSession`: the folder of a training, and whether it gets a record."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from physgym.events import Callback
from physgym.recording import session_recorder
from physgym.storage.location import local
from physgym.training.ranks import Ranks


class TrainingSession:
    """The session of a training.

    Args:
        folder: Its folder; None for no session.
        ranks: The processes that train together, of which the first one writes.
        new: Whether it has a folder of its own: one that is taken stays as it is.
        record: Whether the folder gets a record.
        allow_changed_code: Whether it may be continued though the code of its simulation has changed.

    Attributes:
        folder: The folder, None without a session.

    Raises:
        ConfigError: The folder cannot be that of a session.
    """

    def __init__(
        self, folder: str | Path | None, ranks: Ranks, *, new: bool, record: bool, allow_changed_code: bool
    ) -> None:
        if folder is not None and record and new:
            folder = ranks.share(str(session_recorder().own_session(folder)) if ranks.rank == 0 else "")
        self.folder = None if folder is None else Path(folder)
        self.allow_changed_code = allow_changed_code
        self._recorded = record and ranks.rank == 0

    def subfolder(self, name: str) -> Path | None:
        """Return a folder within the session, None without one."""
        return None if self.folder is None else self.folder / name

    def recorded(self, trainer: Any, callbacks: Iterable[Callback]) -> AbstractContextManager[None]:
        """Write the record of a training with its callbacks while it runs, if there is to be one."""
        if self.folder is None or not self._recorded:
            return nullcontext()
        return session_recorder().recorded(trainer, self.folder, callbacks)


def check_session(folder: str | Path | None) -> Path | None:
    """Return the folder of a session as a path on this machine; raise ConfigError for one that is elsewhere."""
    if folder is None:
        return None
    return local(folder, "the session (networks may be in S3: callbacks=[Checkpoints('s3://...')])")
