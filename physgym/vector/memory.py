"""The memory in which a vector env and its workers keep actions and results."""

from __future__ import annotations

import contextlib
import os
import weakref

from physgym.errors import ConfigError
from physgym.protocol.agreement import Agreement
from physgym.protocol.buffers import Arena
from physgym.protocol.sample_slots import SlotReader
from physgym.system.shared_memory import make_file, reserve
from physgym.vector.workers import RemoteWorker


class SharedMemory:
    """Memory of this process, or memory shared with workers that inherit it.

    Args:
        shared: Whether workers share it.

    Attributes:
        file: Its descriptor; None if it is not shared. It stays open, since workers that are started again inherit it.

    Raises:
        ConfigError: The system refuses.
    """

    def __init__(self, *, shared: bool) -> None:
        self.file = _make() if shared else None
        self._arena: Arena | None = None
        self._close = None if self.file is None else weakref.finalize(self, os.close, self.file)

    def lay_out(self, agreed: Agreement, rows: int, slots: int) -> Arena:
        """Return the arrays of so many environments.

        Args:
            agreed: Layouts of actions and results.
            rows: Number of environments.
            slots: Sets of results that take turns.

        Raises:
            ConfigError: There is not so much memory.
        """
        if self.file is not None:
            reserve(self.file, Arena.size(agreed.actions, agreed.results, rows, slots), rows)
        self._arena = Arena(agreed.actions, agreed.results, rows, slots, self.file)
        return self._arena

    def close(self) -> None:
        """Let go of the memory at once; calling it again does no harm."""
        if self._arena is not None:
            self._arena.release()
        if self._close is not None:
            self._close()


def share_samples(worker: RemoteWorker, file: int | None, agreed: Agreement) -> None:
    """Have the samples of a worker's rollouts stay in shared memory, where that pays; before it is asked for the first.

    Args:
        worker: Which one.
        file: Descriptor of the memory; None if there is none.
        agreed: Layouts of its messages.
    """
    channel = worker.channel
    if file is None or channel is None or channel.connection.slots is not None or not SlotReader.pay(agreed.samples):
        return
    with contextlib.suppress(OSError, ValueError):  # samples travel then
        channel.connection.slots = SlotReader(file, worker.index, agreed.samples)


def _make() -> int:
    try:
        return make_file()
    except OSError as error:
        raise ConfigError(f"cannot make shared memory: {error.strerror}; pass shared_memory=False") from error
