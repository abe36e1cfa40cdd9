"""Gathering of the batches of an epoch: by the consumer itself, or by a thread ahead of it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

from physgym.errors import DatasetError
from physgym.loading.epoch_reader import Chunk

WAIT = 1.0  # seconds after which a waiting thread looks whether the other one still lives
STOP = 10.0  # seconds to wait for the thread's last gather


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


class Ahead:
    """Gathers ahead in a thread of its own, at most so many chunks."""

    def __init__(self, chunks: Iterator[Chunk], ahead: int) -> None:
        self._chunks, self._ahead = chunks, ahead
        self._changed = threading.Condition()
        self._ready: deque[Chunk] = deque()  # the first one is being handed out
        self._error: BaseException | None = None
        self._stopped = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="physgym-loader", daemon=True)
        self._thread.start()

    def get(self, index: int) -> Chunk:
        """Return the chunk that holds a batch; the batches are asked for in order.

        Raises:
            BaseException: What the thread raised when it gathered this chunk.
        """
        with self._changed:
            while True:
                while self._ready and index >= self._ready[0].first + self._ready[0].batches:
                    self._ready.popleft()
                    self._changed.notify_all()
                if self._ready:
                    return self._ready[0]
                if self._error is not None:
                    raise self._error
                if not self._thread.is_alive():
                    raise DatasetError("the thread that gathers samples has died")
                self._changed.wait(WAIT)

    def stop(self) -> None:
        """Do nothing: no thread runs."""
        if self._process != os.getpid():
            return  # a fork has left the thread behind, and maybe the lock locked
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():  # as when it collects garbage
            self._thread.join(STOP)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while len(self._ready) > self._ahead and not self._stopped:
                        self._changed.wait(WAIT)
                    if self._stopped:
                        return
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                with self._changed:
                    self._ready.append(chunk)
                    del chunk  # so that its memory is free when its last batch is, not after the next gather
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            with self._changed:
                self._error = error
                self._changed.notify_all()
