"""Gathering of the batches of an epoch: by the consumer itself, or by a thread ahead of it."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator

from physgym.errors import DatasetError
from physgym.loading.epoch_reader import Chunk

WAIT = 1.0  # seconds after which a waiting thread looks whether the other one still lives
STOP = 10.0  # seconds to wait for the thread's last gather
HAND_OVER = 50e-6  # seconds that a chunk takes from the thread to a consumer that waits for it
SHORT = 0.1  # part of its time that a consumer may wait for the thread without looking for something better
TRIED, HOLDS = 6, 256  # chunks of a trial of one way, and those for which its result holds
CHANGED = 2.0  # times as much computing as in the trial, after which it holds no more


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


class Pace:
    """The way in which a consumer gets its chunks, over several epochs: from a thread, or gathered by itself.

    Where the consumer never waits, or computes as good as nothing, it is clear which is faster. Elsewhere both are
    tried: a thread gains nothing where Python takes all of the consumer's time, as two threads share the interpreter.

    Attributes:
        alone: Whether the consumer gathers itself.
    """

    def __init__(self) -> None:
        self.alone = False
        self._cycles: list[float] = []  # seconds per batch, in the present way
        self._found: dict[bool, float] = {}  # their medians, in either way
        self._left = 0  # chunks for which what was found is taken to hold
        self._computed = 0.0  # seconds between two batches then

    def note(self, computed: float, waited: float, batches: int) -> None:
        """Take in the time of a chunk, and choose the way of the next one.

        Args:
            computed: Seconds between taking the chunk before and asking for this one.
            waited: Seconds until it was there.
            batches: Number of batches of the chunk before.
        """
        if computed < HAND_OVER or (waited < SHORT * computed and not self.alone):
            self.alone = computed < HAND_OVER
            self._forget()
            return
        if self._left and computed < CHANGED * batches * self._computed:
            self._left -= 1
            return
        if self._left:
            self._forget()
        self._cycles.append((computed + waited) / batches)
        if len(self._cycles) < TRIED:
            return
        self._found[self.alone] = statistics.median(self._cycles)
        self._cycles.clear()
        if len(self._found) == 1:
            self.alone = not self.alone
            return
        self.alone = self._found[True] < self._found[False]
        self._found.clear()
        self._left, self._computed = HOLDS, computed / batches

    def _forget(self) -> None:
        self._cycles.clear()
        self._found.clear()
        self._left = 0


class Ahead:
    """Gathers ahead in a thread of its own, at most so many chunks.

    Where a consumer is faster alone it gathers itself, and the thread pauses, see `Pace`. The chunks are the
    same, in the same order.
    """

    def __init__(self, chunks: Iterator[Chunk], ahead: int, pace: Pace) -> None:
        self._chunks, self._ahead, self._pace = chunks, ahead, pace
        self._lock = threading.Lock()
        self._arrived, self._wanted = threading.Condition(self._lock), threading.Condition(self._lock)
        self._current: Chunk | None = None  # the one that is being handed out
        self._given = 0.0  # time at which it was
        self._ready: deque[Chunk] = deque()  # those after it
        self._error: BaseException | None = None
        self._paused, self._gathering, self._stopped = pace.alone, False, False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def get(self, index: int) -> Chunk:
        """Return the chunk that holds a batch; the batches are asked for in order.

        Raises:
            BaseException: What was raised when this chunk was gathered.
        """
        chunk = self._current
        if chunk is None or index >= chunk.first + chunk.batches:
            batches, asked = 0 if chunk is None else chunk.batches, time.perf_counter()
            self._set_pace()
            chunk = self._current = None  # gives its memory to another one
            chunk = self._following(index)
            given, self._given = self._given, time.perf_counter()
            if batches:
                self._pace.note(asked - given, self._given - asked, batches)
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
            paused, self._paused = self._paused, self._pace.alone
            if not (paused and self._paused):
                self._wanted.notify()
        if self._thread is None and not self._paused:
            self._thread = threading.Thread(target=self._run, name="physgym-loader", daemon=True)
            self._thread.start()

    def _following(self, index: int) -> Chunk:
        """Return the chunk that holds a batch, from the thread or gathered here."""
        while True:
            if self._has_to_gather(index):
                self._gather()
            elif self._current is not None:
                return self._current

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
