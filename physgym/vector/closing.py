"""The end of a fleet: workers are asked to close their environments, and waited for."""

from __future__ import annotations

import contextlib
import os
import select
import time
import weakref
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from physgym.errors import PhysGymError, ProtocolError
from physgym.launch.base import Launcher
from physgym.protocol.messages import Close, Failure, Predict, Prediction
from physgym.vector.workers import RemoteWorker, Worker, reported

CLOSE_TIMEOUT = 5.0  # seconds that environments get to close
BUSY_TIMEOUT = 0.2  # seconds that a worker gets to come to the end of what it computes
END_TIMEOUT = 0.5  # seconds that a process gets to end once its environments are closed
CLOSING_POLL = 0.02
CLOSING = "the vector env is being closed"


class Fleet(Protocol):
    """Workers that belong to one process."""

    def disown(self) -> None:
        """Let go of them, without ending them."""


FLEETS: weakref.WeakSet[Fleet] = weakref.WeakSet()


def _let_go() -> None:
    """Let go of all workers in a process that was forked from this one; `physgym.system.children` has the pipes."""
    for fleet in list(FLEETS):
        with contextlib.suppress(Exception):
            fleet.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def release(workers: Sequence[Worker], launcher: Launcher[Any], patience: float, owner: int) -> None:
    """End workers, unless this is a fork of the process to which they belong."""
    if os.getpid() != owner:
        return
    remote = [worker for worker in workers if isinstance(worker, RemoteWorker)]

    def hang_up() -> None:
        for worker in remote:
            worker.hang_up()

    launcher.end([worker.handle for worker in remote if worker.handle is not None], patience, hang_up)
    for worker in remote:
        worker.release()
        worker.handle = None


def close_environments(
    workers: Sequence[RemoteWorker], asking: Collection[RemoteWorker], timeout: float | None
) -> list[PhysGymError]:
    """Ask workers to close their environments, and wait for it.

    Args:
        workers: All of them, also those that have no connection any more.
        asking: Those that wait for a prediction, which will not come.
        timeout: Seconds to wait; by default `CLOSE_TIMEOUT` for environments that close, and `BUSY_TIMEOUT` for workers
            in the middle of something else.

    Returns:
        The errors that environments raised.
    """
    began = time.monotonic()
    return await_closed(
        _ask_to_close(workers, asking),
        began + (CLOSE_TIMEOUT if timeout is None else timeout),
        began + (BUSY_TIMEOUT if timeout is None else timeout),
    )


def _ask_to_close(workers: Sequence[RemoteWorker], asking: Collection[RemoteWorker]) -> list[RemoteWorker]:
    """Ask workers to close; return those that could be asked."""
    asked = []
    for worker in workers:
        if worker.channel is None:
            continue
        if worker.channel.connection.closing:  # it was asked already
            asked.append(worker)
            continue
        with contextlib.suppress(ProtocolError):  # gone, or interrupted in the middle of a message
            if worker in asking:
                worker.channel.send(Prediction({}, CLOSING))
            worker.channel.send(Close())
            asked.append(worker)
    return asked


def await_closed(workers: Sequence[RemoteWorker], until: float, busy_until: float) -> list[PhysGymError]:
    """Wait for workers to close.

    Args:
        workers: The workers.
        until: When to stop waiting for those that close.
        busy_until: When to stop waiting for those that are in the middle of something else.

    Returns:
        The errors that environments raised.
    """
    open_ = {worker.channel.fileno(): worker for worker in workers if worker.channel is not None}
    errors: list[PhysGymError] = []
    poll = select.poll()
    while open_:
        now = time.monotonic()
        for file, worker in list(open_.items()):
            assert worker.channel is not None
            deadline = until if worker.channel.connection.closing else busy_until
            # a dead worker whose environment has forked may still be heard
            if now >= deadline or worker.ended:
                del open_[file]
            else:
                poll.register(file, worker.channel.wants)
        for file in [file for file, _ in poll.poll(CLOSING_POLL * 1000 if open_ else 0)]:
            if file not in open_:
                poll.unregister(file)
            elif _closes(open_[file], errors):
                poll.unregister(file)
                del open_[file]
    return errors


def _closes(worker: RemoteWorker, errors: list[PhysGymError]) -> bool:
    """Take in the messages of a worker that was asked to close; return whether it has closed, or never will."""
    assert worker.channel is not None
    try:
        worker.channel.flush()
        messages = worker.channel.receive()
        if any(isinstance(message, Predict) for message in messages):
            worker.channel.send(Prediction({}, CLOSING))
    except ProtocolError:
        return True
    if worker.channel.connection.state != "closed":
        return False
    if isinstance(messages[-1], Failure):  # an earlier one is that of a request that nobody waits for
        errors.append(reported(worker, messages[-1]).error)
    return True
