"""The workers of a vector env as their parent sees them: started, spoken to, watched, started again, ended.

`WorkerPool.replies` is the one loop in which a parent waits. Every wait in it has an end: a reply, the death of the
worker, or the timeout.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode

from physgym.errors import ClosedError, ProtocolError, SharedProcess, WaitTimeout, WorkerError
from physgym.launch.base import Launcher, Order, no_descriptors
from physgym.placement import EnvFactory
from physgym.protocol.agreement import Agreement
from physgym.protocol.buffers import IDLE, SLOTS, Arena
from physgym.protocol.messages import (
    Attach,
    Attached,
    Failure,
    Message,
    Predict,
    Prediction,
    Role,
    RolloutResult,
)
from physgym.protocol.short_frames import STEPPED_ALL
from physgym.system import process_tree as tree
from physgym.system.children import Lifeline
from physgym.system.descriptors import fill_standard
from physgym.transport.auth import challenge
from physgym.transport.base import PeerGone
from physgym.transport.sockets import SocketChannel
from physgym.transport.tcp import TcpListener
from physgym.transport.unix import socket_pair
from physgym.vector.closing import END_TIMEOUT, close_environments
from physgym.vector.handshake import Handshake
from physgym.vector.remote_errors import remote_error
from physgym.vector.watch import Watch
from physgym.vector.workers import Fault, LocalWorker, RemoteWorker, Worker, reported
from physgym.worker.env_group import EnvGroup
from physgym.worker.failures import RequestFailed
from physgym.worker.main import Boot, build_all

POLL = 1.0  # seconds between looks at what no event shows: a dead worker whose environment has forked, a late answer
CLOSED = "the vector env is closed; make a new one"
FOREIGN = "the vector env belongs to the process that made it, of which this one is a fork; make one here"


@dataclass(frozen=True)
class Settings:
    """Settings of the start of workers.

    Attributes:
        autoreset_mode: What happens when an episode ends.
        launcher: What starts them.
        transport: "unix" or "tcp".
        port: TCP port, 0 for a free one.
        timeout: Seconds to wait for an answer.
    """

    autoreset_mode: AutoresetMode
    launcher: Launcher[Any]
    transport: str
    port: int
    timeout: float


def _release(workers: Sequence[Worker], launcher: Launcher[Any], patience: float, owner: int) -> None:
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


class WorkerPool:
    """Worker processes, each with its environments and its connection; or none, with the environments in this process.

    Args:
        factories: One callable per environment.
        num_workers: Number of processes; 0 keeps the environments in this process.
        settings: How to start them.
        predict: Answers the predictions for which environments ask, all that wait at the same moment at once.
        memory: Descriptor of the shared memory, None if arrays travel in messages.

    Attributes:
        workers: The workers.
        agreement: Layouts of their messages.

    Raises:
        ConfigError: An argument is wrong.
        WorkerError: A worker died or did not answer, or an environment's constructor raised.
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        num_workers: int,
        settings: Settings,
        predict: Callable[[list[Predict]], list[Prediction]],
        memory: int | None,
    ) -> None:
        self._factories, self.settings, self._predict = list(factories), settings, predict
        self.memory = memory
        self._token = secrets.token_bytes(32)
        self._watch = Watch()
        self._inbox: deque[tuple[Worker, Message | Fault]] = deque()
        self._questions: list[tuple[RemoteWorker, Predict]] = []
        self._arena: tuple[int, int] | None = None  # rows, size
        self.closed = False
        self.end_text = CLOSED
        self.workers: list[Worker] = []
        _FLEETS.add(self)
        fill_standard()  # descriptors below 3 are never ours, nor a worker's
        # a finalizer instead of __del__: it also runs at exit, and holds nothing that keeps this object alive
        self._finalizer = weakref.finalize(self, _release, self.workers, self.settings.launcher, 0.0, os.getpid())
        if num_workers == 0:
            self.workers.append(LocalWorker(self._local_group()))
            self.agreement = self._agreed()
            return
        count = len(self._factories)
        bounds = [round(i * count / num_workers) for i in range(num_workers + 1)]
        self.workers += [RemoteWorker(i, range(a, b)) for i, (a, b) in enumerate(itertools.pairwise(bounds))]
        try:
            self._launch([worker for worker in self.workers if isinstance(worker, RemoteWorker)], None)
            self.agreement = self._agreed()
        except BaseException:
            self.kill()
            raise

    def _agreed(self) -> Agreement:
        first = self.workers[0].ready
        assert first is not None
        return Agreement.from_ready(first)

    @property
    def local(self) -> bool:
        """Whether the environments are in this process."""
        return isinstance(self.workers[0], LocalWorker)

    @property
    def description(self) -> dict[str, Any]:
        """Description of the environments by the first worker, as at its first start: JSON data."""
        description = self.workers[0].description
        assert description is not None
        return description

    @property
    def waiting(self) -> bool:
        """Whether there are replies that nobody has taken yet."""
        return bool(self._inbox)

    # --- start

    def _local_group(self) -> EnvGroup:
        count = len(self._factories)
        try:
            alone = (
                "num_workers=0 puts {count} environments into this process, but they declare physgym.single: one "
                "environment per process. Leave num_workers out, or make one environment"
            )
            envs, folders = build_all(self._factories, 0, count, alone)
        except RequestFailed as failed:
            error = failed.__cause__ or failed
            if isinstance(error, SharedProcess):
                raise error from None
            raise remote_error(failed.message(), failed.env, f"environment {failed.env}") from error
        return EnvGroup(
            envs,
            self.settings.autoreset_mode,
            lambda question: self._predict([question])[0],
            folders=folders,
            local=True,
        )

    def _launch(self, workers: Sequence[RemoteWorker], seeds: Sequence[int | None] | None) -> None:
        """Start processes, and wait until each has connected, proved itself and built its environments."""
        listener = TcpListener(self.settings.port) if self.settings.transport == "tcp" else None
        try:
            deadline = time.monotonic() + self.settings.timeout
            for worker in workers:
                self._start(worker, listener, seeds)
            Handshake(workers, listener, self._token, self._watch, self.settings.timeout).run(deadline)
        finally:
            if listener is not None:
                listener.close()

    def _start(self, worker: RemoteWorker, listener: TcpListener | None, seeds: Sequence[int | None] | None) -> None:
        factories = [self._factories[i] for i in worker.envs]
        boot = Boot(
            None if listener is None else listener.address,
            self._token.hex(),
            worker.index,
            worker.envs.start,
            len(self._factories),
            self.settings.autoreset_mode.name,
            self.settings.timeout,
            [str(Path(entry).resolve()) for entry in sys.path],
            None if seeds is None else list(seeds),
            tree.new_mark(),
        )
        ours = theirs = None
        try:
            worker.lifeline = Lifeline()
            if listener is None:
                ours, theirs = socket_pair()
                worker.channel = SocketChannel(ours, Role.PARENT)
        except OSError as error:
            raise no_descriptors(worker.index, error) from error
        with contextlib.closing(theirs) if theirs is not None else contextlib.nullcontext():
            worker.handle = self.settings.launcher.start(Order(boot, factories, worker.lifeline, theirs, self.memory))
        worker.ready = None
        worker.since = time.monotonic()
        if worker.channel is not None:
            with contextlib.suppress(PeerGone):  # killed already, which shows when it is read
                challenge(worker.channel)
            self._watch.add(worker)

    def attach(self, rows: int, arena: Arena | None) -> None:
        """Have the workers use the shared memory, or an arena of this process.

        Raises:
            WorkerError: One cannot.
        """
        for worker in self.workers:
            if isinstance(worker, LocalWorker):
                assert arena is not None
                worker.group.attach(arena, 0, 0)
            elif self.memory is not None:
                agreed = self.agreement
                self._arena = rows, Arena.size(agreed.actions, agreed.results, rows, SLOTS)
                self._attach(worker)
            if arena is not None and (self.memory is not None or self.local):
                worker.doing = arena.doing[worker.index : worker.index + 1]
        for _, reply in self.replies():
            if isinstance(reply, Fault):
                raise reply.error
            assert isinstance(reply, Attached)

    def _attach(self, worker: Worker) -> None:
        assert self._arena is not None
        rows, size = self._arena
        self.post(worker, Attach(rows, worker.envs.start, SLOTS, size))

    # --- messages

    def post(self, worker: Worker, message: Message) -> None:
        """Ask a worker something; `replies` gives its answer.

        Raises:
            WorkerError: It is gone.
            ProtocolError: The message cannot be sent; nothing has changed.
        """
        if self.closed:
            raise ClosedError(self.end_text)
        if isinstance(worker, LocalWorker):
            self._serve(worker, message)
            return
        assert isinstance(worker, RemoteWorker)
        channel = worker.channel
        if channel is None or worker.ready is None:
            raise worker.lost()
        if not worker.requests:
            worker.since = time.monotonic()
        worker.unfinished = True
        try:
            channel.send(message)
            if channel.unsent:
                self._watch.want(worker)
        except PeerGone:
            pass  # shows when its answer is awaited, where it can be dealt with
        except ProtocolError:
            worker.unfinished = False
            raise
        worker.requests.append(message)
        worker.unfinished = False

    def end_unfinished(self) -> list[tuple[RemoteWorker, Fault]]:
        """End workers whose connection Ctrl-C left in the middle of a message; return them with their faults."""
        found = [worker for worker in self.workers if isinstance(worker, RemoteWorker) and worker.unfinished]
        text = (
            "{worker} was interrupted in the middle of a message and had to be ended; call restart_workers() and reset"
        )
        return [
            (worker, self._dead(worker, WorkerError(text.format(worker=worker), env_indices=tuple(worker.envs))))
            for worker in found
        ]

    def forget(self) -> None:
        """Drop replies that nobody has taken."""
        self._inbox.clear()

    def untaken(self, worker: Worker) -> int:
        """Return how many samples came from a worker that nobody has taken yet."""
        parts = (reply for sender, reply in self._inbox if sender is worker)
        return sum(len(part.steps) for part in parts if isinstance(part, RolloutResult))

    def _serve(self, worker: LocalWorker, message: Message) -> None:
        def emit(part: Message) -> None:
            if isinstance(part, RolloutResult):
                worker.made += len(part.steps)
            if part is not STEPPED_ALL:
                self._inbox.append((worker, part))

        try:
            emit(worker.group.serve(message, emit))
        except RequestFailed as failed:
            fault = self._local_fault(worker, failed)
            self._inbox.append((worker, Fault(fault.error, dead=False, request=message)))

    def _local_fault(self, worker: LocalWorker, failed: RequestFailed) -> Fault:
        cause = failed.__cause__ or failed
        fault = reported(worker, failed.message())
        fault.error.__cause__ = cause
        return fault

    def replies(
        self, timeout: float | None = None, *, in_turn: bool = False
    ) -> Iterator[tuple[Worker, Message | Fault]]:
        """Yield replies as they come, until no worker owes one; where a worker fails, a `Fault` in their place.

        Results that say nothing but that they are there (`STEPPED_ALL`) are left out. Whoever stops iterating loses
        nothing: another call goes on where this one was left.

        Args:
            timeout: Seconds after which to stop; by default each worker has the timeout of the settings.
            in_turn: Wait for one worker after the other. Cheaper where all answers are needed anyway.

        Raises:
            WaitTimeout: `timeout` is over.
        """
        started = time.monotonic()
        next_look = started + POLL
        polled = False
        while True:
            if self.closed:
                raise ClosedError(self.end_text)
            while self._inbox:
                worker, reply = self._inbox.popleft()
                before = time.monotonic()
                yield worker, reply
                self._excuse(time.monotonic() - before)
            busy = self._busy()
            if busy is None:
                return
            now = time.monotonic()
            wait = max(0.0, next_look - now)
            if timeout is not None:
                if polled and now >= started + timeout:
                    raise WaitTimeout(f"no answer within {timeout:g} s")
                wait = min(wait, max(0.0, started + timeout - now))
            polled = True
            # where the one that is waited for says nothing for long, the others must not look as if they did not either
            events = busy.poll.poll(wait * 1000) if in_turn else []
            for file, event in events or self._watch.poll.poll(0 if in_turn else wait * 1000):
                remote = self._watch.workers.get(file)
                if remote is not None:
                    self._take_in(remote, event)
            if self._questions:
                self._answer_questions()
            if wait and time.monotonic() >= next_look:
                next_look = time.monotonic() + POLL
                self._look_for_late()

    def _busy(self) -> RemoteWorker | None:
        """Return a worker that owes an answer, None if there is none."""
        for worker in self.workers:
            if worker.requests:
                assert isinstance(worker, RemoteWorker)
                return worker
        return None

    def _take_in(self, worker: RemoteWorker, event: int) -> None:
        """Note what a worker sends."""
        worker.unfinished = True
        messages, fault = self._received(worker, event)
        if messages:
            worker.since = time.monotonic()
        for message in messages:
            if message is STEPPED_ALL:
                worker.requests.popleft()
            elif isinstance(message, Predict):
                self._questions.append((worker, message))
            else:
                reply = reported(worker, message) if isinstance(message, Failure) else message
                worker.note(message)
                self._inbox.append((worker, reply))
        if fault is not None:
            self._inbox.append((worker, fault))
        worker.unfinished = False

    def _excuse(self, pause: float) -> None:
        """Grant workers the time that whoever iterates over replies has taken."""
        if pause > 1e-3:
            for worker in self.workers:
                worker.since += pause

    def _look_for_late(self) -> None:
        """Find workers that have died without an event, or have not answered in time."""
        for worker in self.workers:
            if not isinstance(worker, RemoteWorker) or not worker.requests or worker.channel is None:
                continue
            if worker.ended:
                self._inbox.append((worker, self._dead(worker, worker.death())))
            elif time.monotonic() - worker.since >= self.settings.timeout:
                waited = f"no answer for {self.settings.timeout:g} s {worker.activity()}"
                text = f"{worker}: {waited}. Raise timeout= if this takes longer"
                error = WorkerError(text, env_indices=worker.concerned())
                self._inbox.append((worker, self._dead(worker, error)))

    def _received(self, worker: RemoteWorker, event: int) -> tuple[list[Message], Fault | None]:
        try:
            messages = worker.receive(event)
            if event & select.POLLOUT:
                self._watch.want(worker)
            return messages, None
        except PeerGone:
            return [], self._dead(worker, worker.death())
        except ProtocolError as error:
            text = f"{worker} broke the protocol: {error}"
            return [], self._dead(worker, WorkerError(text, env_indices=tuple(worker.envs)))

    def _answer_questions(self) -> None:
        # kept until they are answered: Ctrl-C may end the prediction
        questions = list(self._questions)
        answers = self._predict([question for _, question in questions])
        for (worker, _), answer in zip(questions, answers, strict=True):
            self._questions.pop(0)
            if worker.channel is None:
                continue
            worker.since = time.monotonic()
            worker.unfinished = True
            with contextlib.suppress(PeerGone):
                worker.channel.send(answer)
                if worker.channel.unsent:
                    self._watch.want(worker)
            worker.unfinished = False

    # --- faults

    def _dead(self, worker: RemoteWorker, error: WorkerError) -> Fault:
        """End what is left of a worker."""
        self.end(worker)
        return Fault(error, dead=True)

    def end(self, worker: RemoteWorker) -> None:
        """End a worker at once; its requests are kept for whoever wants to ask them again."""
        self._watch.remove(worker)
        self._questions = [(w, question) for w, question in self._questions if w is not worker]
        if worker.handle is not None:
            self.settings.launcher.end([worker.handle], 0.0)
            worker.handle = None
        worker.release()
        worker.unfinished = False
        worker.made = 0
        worker.ready = None
        if worker.doing is not None:
            worker.doing[0] = IDLE

    def restart(self, worker: RemoteWorker, seeds: Sequence[int | None]) -> None:
        """Start a worker again, with new environments that begin with an episode cut off.

        Args:
            worker: Which one; ended if it still runs. Its requests are forgotten.
            seeds: For the next reset of each of its environments.

        Raises:
            WorkerError: It does not come up.
        """
        self.end(worker)
        worker.requests.clear()
        try:
            self._launch([worker], seeds)
        except BaseException:
            self.end(worker)
            raise
        assert worker.ready is not None
        if worker.ready.description != worker.description:
            self.end(worker)
            raise WorkerError(f"{worker}: after its restart its environments have other spaces than before")
        if self._arena is not None:
            self._attach(worker)

    # --- end

    def close(self, timeout: float | None = None) -> None:
        """Close the environments and end the workers.

        Args:
            timeout: Seconds after which those that are not done are ended by force; by default `CLOSE_TIMEOUT` for
                environments that close, and `BUSY_TIMEOUT` for workers in the middle of something else.
        """
        self.closed = True
        if self._finalizer.detach() is None:
            return
        self._inbox.clear()
        if isinstance(self.workers[0], LocalWorker):
            try:
                self.workers[0].group.close()
            except RequestFailed as failed:
                raise self._local_fault(self.workers[0], failed).error from None
            return
        remote = [worker for worker in self.workers if isinstance(worker, RemoteWorker)]
        failures = close_environments(remote, {worker for worker, _ in self._questions}, timeout)
        self._end_all(END_TIMEOUT)
        for error in failures:
            text = f"{error}\n\nThe environments of this worker were ended without having closed in full"
            warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _end_all(self, patience: float) -> None:
        _release(self.workers, self.settings.launcher, patience, os.getpid())
        self._questions.clear()
        self._watch.clear()
        for worker in self.workers:
            worker.requests.clear()
            worker.doing = None  # a view of the shared memory, which is to be given back

    def kill(self) -> None:
        """End all workers at once."""
        self.closed = True
        if self._finalizer.detach() is not None:
            self._end_all(0.0)

    def disown(self) -> None:
        """Let go of the workers, without ending them, in a fork of the process to which they belong."""
        if self.workers and isinstance(self.workers[0], LocalWorker):
            return  # the environments are copies
        self._finalizer.detach()
        self.closed, self.end_text = True, FOREIGN
        for worker in self.workers:
            if isinstance(worker, RemoteWorker):
                worker.hang_up()
                worker.handle = None
            worker.requests.clear()


_FLEETS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _let_go() -> None:
    """Let go of all workers in a process that was forked from this one; `physgym.system.children` has the lifelines."""
    for pool in list(_FLEETS):
        with contextlib.suppress(Exception):
            pool.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
