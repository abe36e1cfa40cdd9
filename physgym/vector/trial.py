"""The number of workers that is worth its messages, found out by a trial of one environment in a process of its own."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from physgym.errors import WorkerError
from physgym.launch.base import no_descriptors
from physgym.placement import EnvFactory
from physgym.system.cores import usable_cores
from physgym.transport.unix import socket_pair
from physgym.vector.autotune import choose, say_choice
from physgym.vector.closing import CLOSE_TIMEOUT, END_TIMEOUT
from physgym.vector.handshake import Handshake
from physgym.vector.starter import FleetSettings, Starter, shares
from physgym.vector.watch import Watch
from physgym.vector.workers import RemoteWorker
from physgym.worker.trial import KEEP, TRIAL_SECONDS, TRY

LONG_TO_MAKE = 0.05  # seconds, from which an environment that is made is worth a worker
PATIENCE = 1.0  # seconds in which a reset or a step that was begun may come to its end
LOOK = 0.1  # seconds between looks at whether the process lives


class _Gone(Exception):
    """The process of the trial has ended."""


def chosen_by_trial(
    factories: Sequence[EnvFactory], settings: FleetSettings, memory: int | None
) -> tuple[int, RemoteWorker | None]:
    """Return the number of workers for the fastest step of all environments, and say in the log why.

    Args:
        factories: One per environment; all are taken to cost the same.
        settings: How to start workers.
        memory: Descriptor of the shared memory, None if there is none.

    Returns:
        The number, 0 for none, and worker 0 where it was started already and makes its environments, else None.

    Raises:
        ConfigError: What makes the environments cannot be sent to a worker.
        WorkerError: The system refuses to start one.
    """
    cores, num_envs = usable_cores(), len(factories)
    count = min(cores, num_envs)
    worker = RemoteWorker(0, shares(num_envs, count)[0])
    watch = Watch()
    starter = Starter([*factories], settings, memory, watch)
    try:
        ours, theirs = socket_pair()
    except OSError as error:
        raise no_descriptors(0, error) from error
    with ours:
        try:
            with theirs:
                starter.order_trial(worker, theirs)
            talk = _Talk(ours, worker, watch, settings.timeout)
            reason, found = "", None
            try:
                if reason := _to_keep(talk, settings.timeout):
                    ours.sendall(KEEP)
                    say_choice(count, num_envs, reason)
                    return count, worker
                ours.sendall(TRY)
                found = talk.hear(TRIAL_SECONDS + PATIENCE)
            except (_Gone, WorkerError, OSError):
                reason = "the process of the trial ended"
            if found is not None:  # else it is in the middle of a step, or gone
                with contextlib.suppress(_Gone, WorkerError, OSError):
                    talk.hear(CLOSE_TIMEOUT)  # that it has closed its environment
            _end(worker, settings, 0.0 if found is None else END_TIMEOUT)
        except BaseException:
            _end(worker, settings, 0.0)
            raise
    if found is None or "error" in found:
        say_choice(count, num_envs, reason or (found or {}).get("error", "a reset or a step takes long"))
        return count, None
    count = choose(num_envs, found["mean"], found["computing"], cores)
    say_choice(
        count, num_envs, f"a {found['of']} of one takes {found['mean'] * 1e6:.3g} microseconds, on {cores} cores"
    )
    return count, None


def _to_keep(talk: _Talk, timeout: float) -> str:
    """Return why the environment that is being made is one of worker 0, empty for an extra one.

    Raises:
        _Gone: The process has ended.
    """
    if talk.hear(timeout) is None:
        return "importing what makes one takes long"
    made = talk.hear(LONG_TO_MAKE)
    if made is None or made["made"] > LONG_TO_MAKE:
        return f"making one takes more than {LONG_TO_MAKE * 1000:.0f} ms"
    return "one wants a process of its own, or cannot be made" if made["alone"] else ""


def _end(worker: RemoteWorker, settings: FleetSettings, patience: float) -> None:
    if worker.handle is not None:
        settings.launcher.end([worker.handle], patience)
        worker.handle = None
    worker.release()


class _Talk:
    """Lines of JSON from the process of a trial, which at first shakes hands as every worker.

    Args:
        sock: Connected to it.
        worker: The process.
        watch: Has its connection.
        timeout: Seconds until it is ready.
    """

    def __init__(self, sock: socket.socket, worker: RemoteWorker, watch: Watch, timeout: float) -> None:
        assert worker.channel is not None
        self._sock, self._worker, self._read = sock, worker, b""
        self._handshake = Handshake([worker], None, watch, timeout, time.monotonic() + timeout)
        self._poll = select.poll()
        for file in (sock.fileno(), worker.channel.fileno()):
            self._poll.register(file, select.POLLIN)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """Return what it says next; None where that takes longer.

        Raises:
            _Gone: It has ended.
            WorkerError: It has ended in the handshake, or is none of ours.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for file, _ in self._poll.poll(min(left, LOOK) * 1000):
                if file != self._sock.fileno():
                    self._handshake.go_on(0.0)
                elif more := self._sock.recv(4096):
                    self._read += more
                    break
                else:
                    raise _Gone
            if not self._read and self._worker.ended:
                raise _Gone
        line, _, self._read = self._read.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said
