"""The pass over one epoch, with a thread that gathers ahead."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from physgym.loading.epoch_reader import Chunk
from physgym.loading.prefetch import Ahead, Direct, Pace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Position:
    """The progress of an epoch.

    Attributes:
        epoch: Its number.
        batch: Number of batches that were handed out.
        batches: Number of all batches.
        length: Number of samples.
    """

    epoch: int
    batch: int
    batches: int
    length: int


class Epoch(Iterator["dict[str, Tensor]"]):
    """The batches of one epoch; its thread ends with it, or when it is dropped.

    After an error, and in a process that was forked off, the next call continues at the batch that was due.
    """

    def __init__(
        self, chunks: Callable[[Position], Iterator[Chunk]], position: Position, prefetch: int, pace: Pace
    ) -> None:
        self._chunks, self._position, self._prefetch, self._pace = chunks, position, prefetch, pace
        self._source: Ahead | Direct | None = None
        self._stop: weakref.finalize[[], Epoch] | None = None
        self._closed = False
        self._process = os.getpid()

    def __next__(self) -> dict[str, Tensor]:
        position = self._position
        if self._closed or position.batch >= position.batches:
            self.close()
            raise StopIteration
        if self._source is None or self._process != os.getpid():
            self._process = os.getpid()
            todo = self._chunks(position)
            self._source = Ahead(todo, self._prefetch, self._pace) if self._prefetch else Direct(todo)
            self._stop = weakref.finalize(self, self._source.stop)
        try:
            batch = self._source.get(position.batch).batch(position.batch)
        except BaseException:
            self._release()
            raise
        position.batch += 1
        return batch

    def close(self) -> None:
        """End the epoch and its thread; calling it again does no harm."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        stop, self._stop, self._source = self._stop, None, None
        if stop is not None:
            stop()
