"""Program that sends a journal to a server: while a training writes it, or afterwards.

``python -m physgym.training.sending JOURNAL`` sends until its standard input has something, or ends, which says that
the training has ended; then it sends what is left, tries that once, and ends with status 0 if the server has got
everything.
"""

from __future__ import annotations

import importlib
import logging
import os
import select
import sys
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError
from physgym.files import lock
from physgym.interrupt import leave_signals_to_parent
from physgym.training.journal import STATE, JournalHead, JournalReader, SentState, companion
from physgym.training.tracker import RecordRefused, RunIsGone, Tracker

log = logging.getLogger(__name__)

TOGETHER = 500  # records that are sent at once
PAUSE = 0.5  # seconds between two looks at the journal
LONGEST_PAUSE = 60.0  # seconds between two attempts, at the most
LONGEST_TEXT = 240  # signs of a problem
UNSENT = 1  # exit status


class Sending:
    """A journal on its way to a server.

    Args:
        journal: The file.

    Attributes:
        state: How much the server has got.

    Raises:
        ConfigError: It is no journal, or its tracker cannot be imported.
        BlockingIOError: Another process sends it.
    """

    def __init__(self, journal: Path) -> None:
        head = JournalHead.read(journal)
        if head is None:
            raise ConfigError(f"{journal} is no journal of physgym")
        self._journal, self._head = journal, head
        self._lock = os.open(journal, os.O_RDONLY)
        if lock(self._lock, journal, warn=False) == "taken":
            os.close(self._lock)
            raise BlockingIOError(f"another process sends {journal}; wait for it")
        self.state = SentState.read(companion(journal, STATE), head.run)
        self._reader = JournalReader(journal, self.state.sent)
        self._tracker: Tracker | None = None

    def close(self) -> None:
        """Let others send it."""
        os.close(self._lock)

    def send(self) -> bool:
        """Send some of what is there; return whether that was all.

        Raises:
            Exception: What the tracker raises; `state` has the problem as well.
        """
        try:
            if self.state.whole and not self._reader.records(1):
                return True
            tracker = self._begun()
            if found := self._reader.records(TOGETHER):
                self.state.whole = False
                try:
                    tracker.send([record for record, _ in found])
                    self._count(len(found), found[-1][1])
                except RecordRefused:
                    self._send_each(tracker, found)
        except Exception as error:
            self._note_problem(error)
            raise
        return len(found) < TOGETHER

    def end(self) -> None:
        """Send all that is left, and end the run.

        Raises:
            Exception: What the tracker raises; `state` has the problem as well.
        """
        while not self.send():
            pass
        if self.state.whole:
            return
        try:
            tracker = self._begun()
            tracker.end()
        except Exception as error:
            self._note_problem(error)
            raise
        self.state.whole = True
        self._save()

    def _begun(self) -> Tracker:
        """Return the tracker, whose run is open."""
        if self._tracker is None:
            tracker = tracker_class(self._head.tracker)(self._head.arguments, self._journal.parent)
            try:
                tracker.begin(self._head, self.state.remote)
            except RunIsGone:
                self.state.sent, self.state.left_out, self.state.whole = 0, 0, False
                self._reader = JournalReader(self._journal, 0)
                tracker.begin(self._head, None)
            self._tracker = tracker
            self._save()
        return self._tracker

    def _send_each(self, tracker: Tracker, found: list[tuple[dict[str, Any], int]]) -> None:
        for record, end in found:
            try:
                tracker.send([record])
            except RecordRefused as error:
                self.state.left_out, self.state.refused = self.state.left_out + 1, str(error)
            self._count(1, end)

    def _count(self, records: int, end: int) -> None:
        """Note that the server has got some records more, which end at a byte."""
        self._reader.go_on(end)
        self.state.sent, self.state.problem = self.state.sent + records, ""
        self._save()

    def _save(self) -> None:
        if self._tracker is not None:
            self.state.remote = dict(self._tracker.remote)
        self.state.write(companion(self._journal, STATE))

    def _note_problem(self, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_TEXT]
        log.warning("%s", text)
        if text != self.state.problem:
            self.state.problem = text
            self._save()


def tracker_class(name: str) -> type[Tracker]:
    """Return the class that a journal names.

    Raises:
        ConfigError: There is none, or it is no tracker.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"the tracker {name} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise ConfigError(f"{name} is no Tracker of physgym.training.tracker")
    return found


def send_journal(journal: Path) -> SentState:
    """Send what a server has not got of a journal, and return how much it has now, and what the problem is.

    Raises:
        ConfigError: It is no journal, or its tracker cannot be imported.
        BlockingIOError: Another process sends it.
    """
    sending = Sending(journal)
    try:
        sending.end()
    except Exception:  # noqa: BLE001 - whatever a library raises is in the state
        return sending.state
    finally:
        sending.close()
    return sending.state


def _has_ended(wait: float) -> bool:
    """Wait for the end of the training, at the most so many seconds; return whether it came."""
    return bool(select.select([sys.stdin], [], [], wait)[0])


def main() -> None:
    """Send the journal that the first argument names."""
    leave_signals_to_parent()
    sending = Sending(Path(sys.argv[1]))
    pause, ended = 0.0, False
    while True:
        ended = _has_ended(pause)
        try:
            if ended:
                sending.end()
                sys.exit(0)
            pause = PAUSE if sending.send() else 0.0
        except Exception:  # noqa: BLE001 - whatever a library raises is noted, and the values are sent later
            if ended or _has_ended(0.0):  # in the midst of an attempt
                sys.exit(UNSENT)
            pause = min(LONGEST_PAUSE, 2 * max(PAUSE, pause))


if __name__ == "__main__":
    main()
