"""Gathering of the batches of an epoch: by the consumer itself, or by a thread ahead of it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from physgym.errors import DatasetError
from physgym.loading.epoch_reader import Chunk

WAIT = 1.0  # seconds after which a waiting thread looks whether the other one still lives
STOP = 10.0  # seconds to wait for the thread's last gather
HAND_OVER = 50e-6  # seconds that a chunk takes from the thread to a consumer that waits for it


class Direct:
    """Gathers when asked."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._chunk: Chunk | None = None

    def get(self, index: int) -> Chunk:
        """Return the chunk that holds a batch; the batches are asked for in order."""
        while self._chunk is None or index >= self._chunk.first + self._chunk.batches:
            self._chunk = None  # gives its memory to the next one
            self._chunk = next(self._chunks)
        return self._chunk

    def stop(self) -> None:
        """Do nothing: no thread runs."""


@dataclass
class Pace:
    """The pace of a consumer, over several epochs.

    Attributes:
        quick: Whether it asked for the last chunk sooner than a chunk could be handed over.
    """

    quick: bool = False


class Ahead:
    """Gathers ahead in a thread of its own, at most so many chunks.

    A quick consumer gathers itself, and the thread pauses until the consumer computes in between: to hand a chunk over
    would take longer than it gains. The chunks are the same, and in the same order.
    """

    def __init__(self, chunks: Iterator[Chunk], ahead: int, pace: Pace) -> None:
        self._chunks, self._ahead, self._pace = chunks, ahead, pace
        self._lock = threading.Lock()
        self._arrived, self._wanted = threading.Condition(self._lock), threading.Condition(self._lock)
        self._current: Chunk | None = None  # the one that is being handed out
        self._given = 0.0  # time at which it was
        self._ready: deque[Chunk] = deque()  # those after it
        self._error: BaseException | None = None
        self._paused, self._gathering, self._stopped = pace.quick, False, False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def get(self, index: int) -> Chunk:
        """Return the chunk that holds a batch; the batches are asked for in order.

        Raises:
            BaseException: What was raised when this chunk was gathered.
        """
        chunk = self._current
        if chunk is None or index >= chunk.first + chunk.batches:
            if chunk is not None:
                self._pace.quick = time.perf_counter() - self._given < HAND_OVER
            self._set_pace()
            chunk = self._current = None  # gives its memory to another one
            while chunk is None:
                if self._has_to_gather(index):
                    self._gather()
                chunk = self._current
            self._given = time.perf_counter()
        return chunk

    def stop(self) -> None:
        """End the thread, and drop what it has gathered."""
        if self._process != os.getpid():
            return  # a fork has left the thread behind, and maybe the lock locked
        with self._lock:
            self._stopped = True
            self._current = None
            self._ready.clear()
            self._wanted.notify()
        if self._thread is not None and self._thread is not threading.current_thread():  # as when it collects garbage
            self._thread.join(STOP)

    def _set_pace(self) -> None:
        """Let the thread pause, or gather what there is room for; it starts when it is needed first."""
        with self._lock:
            paused, self._paused = self._paused, self._pace.quick
            if not (paused and self._paused):
                self._wanted.notify()
        if self._thread is None and not self._paused:
            self._thread = threading.Thread(target=self._run, name="physgym-loader", daemon=True)
            self._thread.start()

    def _has_to_gather(self, index: int) -> bool:
        """Make the chunk that holds a batch the current one when the thread has it; return whether it never will."""
        with self._lock:
            while True:
                while self._ready:
                    chunk = self._ready.popleft()
                    if index < chunk.first + chunk.batches:
                        self._current = chunk
                        return False
                if self._error is not None:
                    raise self._error
                if self._paused and not self._gathering:
                    self._gathering = True
                    return True
                if self._thread is None or not self._thread.is_alive():
                    raise DatasetError("the thread that gathers samples has died")
                self._arrived.wait(WAIT)

    def _run(self) -> None:
        while self._wait_for_turn() and self._gather():
            pass

    def _wait_for_turn(self) -> bool:
        """Wait until the thread has to gather; return whether it has, or has to end."""
        with self._lock:
            while not self._stopped and (
                self._paused or self._gathering or len(self._ready) >= self._ahead + (self._current is None)
            ):
                self._wanted.wait(WAIT)
            self._gathering = not self._stopped
            return self._gathering

    def _gather(self) -> bool:
        """Gather the next chunk; return whether there was one. Errors show where it is asked for."""
        chunk = error = None
        try:
            chunk = next(self._chunks, None)
        except BaseException as raised:  # noqa: BLE001 - raised again where the batch is asked for
            error = raised
        with self._lock:
            self._gathering, self._error = False, error
            if chunk is not None:
                self._ready.append(chunk)
            self._arrived.notify()
        return chunk is not None
