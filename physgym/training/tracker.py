"""`Tracker`: the interface of what sends the values of a training to a server that keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgym.training.journal import JournalHead


class RunIsGone(Exception):
    """The server has not got the run any more, or cannot continue with it: all is sent again, to a new one."""


class RecordRefused(Exception):
    """The server will never take a record, whenever it is sent."""


class Tracker(ABC):
    """Sender of values to a server, or to a local store of the same kind.

    It lives in a process of its own, next to the training, which it can neither stop nor slow. Any error of a method
    means: later. What is sent are the records of a journal, dictionaries with a "step", a "time" in seconds since
    1970, and

    - "values", numbers by the name of the curve, and "axis", a `CurveAxis`; a number that is not finite is a text that
      `float` reads;
    - or "kind" ("image", "file"), "name" and "file", the path of a file that stays;
    - or "kind" ("text"), "name" and "text";
    - or "kind" ("histogram"), "name", "counts" and "edges".

    Args:
        arguments: JSON data, those of the logger's constructor that concern the server.
        folder: Where the tracker may keep files.

    Attributes:
        remote: What finds the run again, JSON data.
    """

    def __init__(self, arguments: Mapping[str, Any], folder: Path) -> None:
        self.arguments, self.folder = dict(arguments), folder
        self.remote: dict[str, Any] = {}

    @abstractmethod
    def begin(self, head: JournalHead, remote: Mapping[str, Any] | None) -> None:
        """Begin a run, or continue with one, and set `remote`; another process may have begun it, or half begun it.

        Args:
            head: Of the journal: what is known of the training.
            remote: What `remote` was when the last record was sent; None for a new run.

        Raises:
            RunIsGone: It cannot be gone on with.
        """

    @abstractmethod
    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records.

        Raises:
            RecordRefused: One of them will never be taken. Where there are several, each is sent again by itself.
        """

    @abstractmethod
    def end(self) -> None:
        """Say that the training has ended, and wait, for a bounded time, until the server has everything."""
