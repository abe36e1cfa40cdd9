"""The workers of a vector env as their parent sees them: started, spoken to, watched, started again, ended.

`WorkerPool.replies` is the one loop in which a parent waits. Every wait in it has an end: a reply, the death of the
worker, or the timeout.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import secrets
import select
import socket
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode

from physgym import errors
from physgym.errors import (
    ClosedError,
    ConfigError,
    PhysGymError,
    ProtocolError,
    SharedProcess,
    WaitTimeout,
    WorkerError,
)
from physgym.launch import processes as process
from physgym.launch.pickling import dump
from physgym.launch.processes import Handle
from physgym.placement import EnvFactory
from physgym.protocol.agreement import Agreement
from physgym.protocol.buffers import IDLE, SLOTS, Arena
from physgym.protocol.messages import (
    Attach,
    Attached,
    Close,
    Failure,
    Hello,
    Message,
    Predict,
    Prediction,
    Ready,
    Results,
    Role,
    Rollout,
    RolloutResult,
    Step,
)
from physgym.protocol.short_frames import STEPPED_ALL
from physgym.system import process_tree as tree
from physgym.system.children import Lifeline
from physgym.system.descriptors import fill_standard
from physgym.transport.auth import admit, challenge
from physgym.transport.base import Channel, PeerGone
from physgym.transport.sockets import SocketChannel
from physgym.transport.tcp import TcpListener
from physgym.transport.unix import socket_pair
from physgym.worker.env_group import Host, RequestFailed, failure
from physgym.worker.main import Boot, build_all, run, served

CLOSE_TIMEOUT = 5.0  # seconds that environments get to close
BUSY_TIMEOUT = 0.2  # seconds that a worker gets to come to the end of what it computes
END_TIMEOUT = 0.5  # seconds that a process gets to end once its environments are closed
POLL = 1.0  # seconds between looks at what no event shows: a dead worker whose environment has forked, a late answer
HANDSHAKE_POLL = 0.1
CLOSING_POLL = 0.02
STRANGERS = 64  # connections at a time that have not proved to be workers
STRANGER_SECONDS = 10.0

NO_ANSWER = "{worker}: no answer for {timeout:g} s {doing}. Raise timeout= if this takes longer"
NOT_READY = "{worker}: not ready after {timeout:g} s. Raise timeout= if environments take long to build"
GONE = "{worker} {how} {doing}. Anything it wrote to stderr stands above"
TORN = "{worker} was interrupted in the middle of a message and had to be ended; call restart_workers() and reset"
IS_GONE = "{worker} is gone since an earlier error; call restart_workers() and reset, or close this vector env"
CLOSED = "the vector env is closed; make a new one"
FOREIGN = "the vector env belongs to the process that made it, of which this one is a fork; make one here"
NOT_CLOSED = "{error}\n\nThe environments of this worker were ended without having closed in full"
CLOSING = "the vector env is being closed"
ALONE_HERE = (
    "num_workers=0 puts {count} environments into this process, but they declare physgym.single: one environment per "
    "process. Leave num_workers out, or make one environment"
)
UNSENDABLE = (
    "an env factory cannot be sent to a worker: {error}. Open files, locks and the like inside of it, or use {fork}"
)


@dataclass(frozen=True)
class Settings:
    """How workers are started.

    Attributes:
        autoreset_mode: What happens when an episode ends.
        context: Start method.
        transport: "unix" or "tcp".
        port: TCP port, 0 for a free one.
        timeout: Seconds to wait for an answer.
    """

    autoreset_mode: AutoresetMode
    context: str
    transport: str
    port: int
    timeout: float


@dataclass(frozen=True)
class Fault:
    """What went wrong in a worker, in place of its reply.

    Attributes:
        error: To be raised.
        dead: Whether the worker is gone.
        request: The request that failed, as far as it is unanswered; None if the worker is gone with all of them.
    """

    error: PhysGymError
    dead: bool
    request: Message | None = None


class Worker:
    """A worker.

    Args:
        index: Which one this is.
        envs: Indices of its environments.

    Attributes:
        requests: Requests without their last reply, oldest first.
        since: When it was last heard of or began to owe an answer.
        torn: Whether a message is half sent or half taken in: still so afterwards where Ctrl-C came in between.
        made: How many samples of rollouts came from it since it was started.
    """

    def __init__(self, index: int, envs: range) -> None:
        self.index = index
        self.envs = envs
        self.slice = slice(envs.start, envs.stop)
        self.requests: deque[Message] = deque()
        self.since = 0.0
        self.torn = False
        self.made = 0
        self.doing: Any = None  # view of its element of `Arena.doing`
        self.ready: Ready | None = None
        self.description: dict[str, Any] | None = None  # as it was at the first start

    @property
    def name(self) -> str:
        """Its environments in words."""
        last = self.envs.stop - 1
        return f"environments {self.envs.start}-{last}" if last > self.envs.start else f"environment {last}"

    def activity(self) -> str:
        """What it is doing, as far as that is known from here."""
        asked = type(self.requests[0]).__name__.lower() if self.requests else ""
        env = IDLE if self.doing is None else int(self.doing[0])
        if env != IDLE:
            return f"in {asked or 'a call'} of environment {env}"
        if self.ready is None:
            return "while it built its environments"
        return f"with a {asked} to answer" if asked else "while it was idle"

    def concerned(self) -> tuple[int, ...]:
        """The environment that it is busy with if that is known, else all of its environments."""
        env = IDLE if self.doing is None else int(self.doing[0])
        return tuple(self.envs) if env == IDLE else (env,)


class RemoteWorker(Worker):
    """A worker process."""

    handle: Handle | None = None
    lifeline: Lifeline | None = None
    channel: Channel | None = None

    def __init__(self, index: int, envs: range) -> None:
        super().__init__(index, envs)
        self.poll = select.poll()

    def __str__(self) -> str:
        pid = "not started" if self.handle is None else f"pid {self.handle.pid}"
        return f"worker {self.index} ({pid}, {self.name})"

    @property
    def gone(self) -> bool:
        """Whether it has to be started again before it can be asked anything."""
        return self.channel is None or self.ready is None

    def hang_up(self) -> None:
        """Let go of the connection: an idle worker ends."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def release(self) -> None:
        """Let go of everything but the process, which the kernel then ends."""
        self.hang_up()
        if self.lifeline is not None:
            self.lifeline.close()


class LocalWorker(Worker):
    """All environments in this very process.

    Args:
        host: The environments.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(0, range(host.count))
        self.host = host
        self.ready = Ready(host.count, host.describe())

    def __str__(self) -> str:
        return f"this process ({self.name})"


def _release(workers: Sequence[Worker], patience: float, owner: int) -> None:
    """End workers, unless this is a fork of the process to which they belong."""
    if os.getpid() != owner:
        return
    remote = [worker for worker in workers if isinstance(worker, RemoteWorker)]
    handles = [worker.handle for worker in remote if worker.handle is not None]
    known = process.families(handles) if patience else []
    for worker in remote:
        worker.hang_up()
    process.reap(handles, patience, known)
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
        self._poll = select.poll()
        self._by_file: dict[int, RemoteWorker] = {}
        self._inbox: deque[tuple[Worker, Message | Fault]] = deque()
        self._questions: list[tuple[RemoteWorker, Predict]] = []
        self._arena: tuple[int, int] | None = None  # rows, size
        self.closed = False
        self.end_text = CLOSED
        self.workers: list[Worker] = []
        _POOLS.add(self)
        fill_standard()  # descriptors below 3 are never ours, nor a worker's
        # a finalizer instead of __del__: it also runs at exit, and holds nothing that keeps this object alive
        self._finalizer = weakref.finalize(self, _release, self.workers, 0.0, os.getpid())
        if num_workers == 0:
            self.workers.append(LocalWorker(self._local_host()))
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
    def waiting(self) -> bool:
        """Whether there are replies that nobody has taken yet."""
        return bool(self._inbox)

    # --- start

    def _local_host(self) -> Host:
        count = len(self._factories)
        try:
            envs, folders = build_all(self._factories, 0, count, ALONE_HERE)
        except RequestFailed as failed:
            error = failed.__cause__ or failed
            if isinstance(error, SharedProcess):
                raise error from None
            raise remote_error(
                failure(failed.env, error, failed.doing), failed.env, f"environment {failed.env}"
            ) from error
        return Host(
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
            self._handshake(workers, listener, deadline)
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
        payload = b"" if self.settings.context == "fork" else boot.to_line() + _pickled(factories)
        ours = theirs = None
        try:
            worker.lifeline = Lifeline()
            if listener is None:
                ours, theirs = socket_pair()
                worker.channel = SocketChannel(ours, Role.PARENT)
        except OSError as error:
            raise WorkerError(process.NO_DESCRIPTORS.format(index=worker.index, error=error.strerror)) from error
        with contextlib.closing(theirs) if theirs is not None else contextlib.nullcontext():
            self._run(worker, boot, payload, factories, theirs)
        worker.ready = None
        worker.since = time.monotonic()
        if worker.channel is not None:
            with contextlib.suppress(PeerGone):  # killed already, which shows when it is read
                challenge(worker.channel)
            self._watch(worker)

    def _run(
        self,
        worker: RemoteWorker,
        boot: Boot,
        payload: bytes,
        factories: list[EnvFactory],
        theirs: socket.socket | None,
    ) -> None:
        lifeline = worker.lifeline
        assert lifeline is not None
        memory = -1 if self.memory is None else self.memory
        worker.handle = process.start(
            self.settings.context,
            index=worker.index,
            mark=boot.mark,
            payload=payload,
            # what is forked lets go of the ends of this process, see `_let_go`
            run=lambda: run(boot, lambda: factories, lifeline.read, theirs, memory),
            target=served,
            lifeline=lifeline,
            sock=theirs,
            memory=self.memory,
        )

    def _watch(self, worker: RemoteWorker) -> None:
        assert worker.channel is not None
        self._by_file[worker.channel.fileno()] = worker
        worker.poll = select.poll()
        for poll in (worker.poll, self._poll):
            poll.register(worker.channel.fileno(), select.POLLIN)

    def _want(self, worker: RemoteWorker, events: int) -> None:
        assert worker.channel is not None
        for poll in (worker.poll, self._poll):
            poll.modify(worker.channel.fileno(), events)

    def _forget(self, worker: RemoteWorker) -> None:
        if worker.channel is not None and self._by_file.pop(worker.channel.fileno(), None) is not None:
            self._poll.unregister(worker.channel.fileno())

    def _handshake(self, workers: Sequence[RemoteWorker], listener: TcpListener | None, deadline: float) -> None:
        strangers: dict[int, tuple[Channel, float]] = {}
        poll = select.poll()
        if listener is not None:
            poll.register(listener.fileno(), select.POLLIN)
        for worker in workers:
            if worker.channel is not None:
                poll.register(worker.channel.fileno(), select.POLLIN)
        try:
            while any(worker.ready is None for worker in workers):
                # a worker that dies before it dials shows by its process alone, hence the short waits
                for file, _ in poll.poll(HANDSHAKE_POLL * 1000):
                    if file in self._by_file:
                        self._greeted(self._by_file[file])
                    elif file in strangers:
                        self._identify(strangers, file, poll, workers)
                    elif listener is not None and (channel := listener.accept()) is not None:
                        while len(strangers) >= STRANGERS:  # who has said nothing for longest makes room
                            self._dismiss(strangers, next(iter(strangers)), poll)
                        strangers[channel.fileno()] = channel, time.monotonic()
                        poll.register(channel.fileno(), select.POLLIN)
                        with contextlib.suppress(PeerGone):  # which shows when it is read
                            challenge(channel)
                now = time.monotonic()
                for worker in workers:
                    assert worker.handle is not None
                    if worker.channel is None and worker.handle.poll() is not None:
                        raise self._death(worker).error
                for file, (_, since) in list(strangers.items()):
                    if now - since > STRANGER_SECONDS:
                        self._dismiss(strangers, file, poll)
                late = ", ".join(str(worker) for worker in workers if worker.ready is None)
                if late and now >= deadline:
                    raise WorkerError(NOT_READY.format(worker=late, timeout=self.settings.timeout))
        finally:
            for channel, _ in strangers.values():
                channel.close()

    @staticmethod
    def _dismiss(strangers: dict[int, tuple[Channel, float]], file: int, poll: Any) -> None:
        """Close the connection of somebody who has not proved to be a worker."""
        channel, _ = strangers.pop(file)
        poll.unregister(file)
        channel.close()

    def _greeted(self, worker: RemoteWorker) -> None:
        """Go on with the handshake of a worker that has connected."""
        assert worker.channel is not None
        messages, fault = self._receive(worker)
        if fault is not None:
            raise fault.error
        for message in messages:
            if isinstance(message, Hello):
                try:
                    admitted = message.worker == worker.index and admit(worker.channel, message, self._token)
                except PeerGone as gone:  # it died since it greeted
                    raise self._death(worker).error from gone
                if not admitted:
                    raise WorkerError(f"{worker} could not prove that it is this worker")
            elif isinstance(message, Ready):
                if message.count != len(worker.envs):
                    raise WorkerError(f"{worker} announces {message.count} environments")
                worker.ready = message
                worker.description = worker.description or message.description
            elif isinstance(message, Failure):
                raise self.reported(worker, message).error

    def _identify(
        self, strangers: dict[int, tuple[Channel, float]], file: int, poll: Any, workers: Sequence[RemoteWorker]
    ) -> None:
        """Read a greeting; whoever is not one of our workers is disconnected and forgotten."""
        channel, _ = strangers[file]
        try:
            messages = channel.receive()
            if not messages:
                return
            hello = messages[0]
            assert isinstance(hello, Hello)
            worker = next((w for w in workers if w.index == hello.worker and w.channel is None), None)
            if worker is None or not admit(channel, hello, self._token):
                raise ProtocolError("a stranger")
        except ProtocolError:
            self._dismiss(strangers, file, poll)
            return
        del strangers[file]
        worker.channel = channel
        self._watch(worker)

    def attach(self, rows: int, arena: Arena | None) -> None:
        """Have the workers use the shared memory, or an arena of this process.

        Raises:
            WorkerError: One cannot.
        """
        for worker in self.workers:
            if isinstance(worker, LocalWorker):
                assert arena is not None
                worker.host.attach(arena, 0, 0)
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
            raise WorkerError(IS_GONE.format(worker=worker), env_indices=tuple(worker.envs))
        if not worker.requests:
            worker.since = time.monotonic()
        worker.torn = True
        try:
            channel.send(message)
            if channel.unsent:
                self._want(worker, select.POLLIN | select.POLLOUT)
        except PeerGone:
            pass  # shows when its answer is awaited, where it can be dealt with
        except ProtocolError:
            worker.torn = False
            raise
        worker.requests.append(message)
        worker.torn = False

    def mend(self) -> list[tuple[RemoteWorker, Fault]]:
        """End workers whose connection Ctrl-C left in an undefined state; they are told as faults."""
        torn = [worker for worker in self.workers if isinstance(worker, RemoteWorker) and worker.torn]
        return [
            (worker, self._dead(worker, WorkerError(TORN.format(worker=worker), env_indices=tuple(worker.envs))))
            for worker in torn
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
            emit(worker.host.serve(message, emit))
        except RequestFailed as failed:
            fault = self._local_fault(worker, failed)
            self._inbox.append((worker, Fault(fault.error, dead=False, request=message)))

    def _local_fault(self, worker: LocalWorker, failed: RequestFailed) -> Fault:
        cause = failed.__cause__ or failed
        fault = self.reported(worker, failure(failed.env, cause, failed.doing))
        fault.error.__cause__ = cause
        return fault

    def replies(
        self, timeout: float | None = None, *, in_turn: bool = False
    ) -> Iterator[tuple[Worker, Message | Fault]]:
        """The loop: replies as they come, until no worker owes one; where a worker fails, a `Fault` in their place.

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
            for file, event in events or self._poll.poll(0 if in_turn else wait * 1000):
                remote = self._by_file.get(file)
                if remote is not None:
                    self._take_in(remote, event)
            if self._questions:
                self._answer_questions()
            if wait and time.monotonic() >= next_look:
                next_look = time.monotonic() + POLL
                self._look_for_late()

    def _busy(self) -> RemoteWorker | None:
        """A worker that owes an answer, if there is one."""
        for worker in self.workers:
            if worker.requests:
                assert isinstance(worker, RemoteWorker)
                return worker
        return None

    def _take_in(self, worker: RemoteWorker, event: int) -> None:
        """Note what a worker sends."""
        worker.torn = True
        messages, fault = self._receive(worker, event)
        if messages:
            worker.since = time.monotonic()
        for message in messages:
            if message is STEPPED_ALL:
                worker.requests.popleft()
            elif isinstance(message, Predict):
                self._questions.append((worker, message))
            else:
                reply = self.reported(worker, message) if isinstance(message, Failure) else message
                self._progress(worker, message)
                self._inbox.append((worker, reply))
        if fault is not None:
            self._inbox.append((worker, fault))
        worker.torn = False

    def _progress(self, worker: Worker, reply: Message) -> None:
        """Keep in a worker's requests what is still unanswered."""
        if isinstance(reply, RolloutResult):
            worker.made += len(reply.steps)
            _count_ended(worker, sum(entry[2] for entry in reply.ended))
        if getattr(reply, "last", True):
            worker.requests.popleft()
            return
        request = worker.requests[0]
        if isinstance(reply, Results):
            assert isinstance(request, Step)
            done = set(reply.rows or ())
            rows = range(len(worker.envs)) if request.rows is None else request.rows
            worker.requests[0] = replace(request, rows=[row for row in rows if row not in done])
        elif isinstance(reply, RolloutResult):
            assert isinstance(request, Rollout)
            ended = {entry[0] for entry in reply.ended}
            worker.requests[0] = replace(request, episodes=[e for e in request.episodes if e[0] not in ended])

    def _excuse(self, pause: float) -> None:
        """Whoever iterates over replies may take its time; no worker is to blame for that."""
        if pause > 1e-3:
            for worker in self.workers:
                worker.since += pause

    def _look_for_late(self) -> None:
        """Find workers that have died without an event, or have not answered in time."""
        for worker in self.workers:
            if not isinstance(worker, RemoteWorker) or not worker.requests or worker.channel is None:
                continue
            if worker.handle is not None and worker.handle.poll() is not None:
                self._inbox.append((worker, self._death(worker)))
            elif time.monotonic() - worker.since >= self.settings.timeout:
                text = NO_ANSWER.format(worker=worker, timeout=self.settings.timeout, doing=worker.activity())
                error = WorkerError(text, env_indices=worker.concerned())
                self._inbox.append((worker, self._dead(worker, error)))

    def _receive(self, worker: RemoteWorker, event: int = select.POLLIN) -> tuple[list[Message], Fault | None]:
        channel = worker.channel
        if channel is None:
            return [], None
        try:
            if event & select.POLLOUT:
                channel.flush()
                if not channel.unsent:
                    self._want(worker, select.POLLIN)
            return (channel.receive() if event & ~select.POLLOUT else []), None
        except PeerGone:
            return [], self._death(worker)
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
            worker.torn = True
            with contextlib.suppress(PeerGone):
                worker.channel.send(answer)
                if worker.channel.unsent:
                    self._want(worker, select.POLLIN | select.POLLOUT)
            worker.torn = False

    # --- faults

    def _death(self, worker: RemoteWorker) -> Fault:
        status, deadline = None, time.monotonic() + 1.0
        while worker.handle is not None and (status := worker.handle.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        text = GONE.format(worker=worker, how=process.exit_text(status), doing=worker.activity())
        return self._dead(worker, WorkerError(text, env_indices=worker.concerned()))

    def _dead(self, worker: RemoteWorker, error: WorkerError) -> Fault:
        """End what is left of a worker."""
        self.end(worker)
        return Fault(error, dead=True)

    def end(self, worker: RemoteWorker) -> None:
        """End a worker at once; its requests are kept for whoever wants to ask them again."""
        self._forget(worker)
        self._questions = [(w, question) for w, question in self._questions if w is not worker]
        if worker.handle is not None:
            process.reap([worker.handle], 0.0)
            worker.handle = None
        worker.release()
        worker.torn = False
        worker.made = 0
        worker.ready = None
        if worker.doing is not None:
            worker.doing[0] = IDLE

    def reported(self, worker: Worker, message: Failure) -> Fault:
        """What a worker reported, as an error."""
        env = worker.envs[message.env] if 0 <= message.env < len(worker.envs) else None
        place = str(worker) if env is None else f"environment {env}"
        error = remote_error(message, env, place, tuple(worker.envs))
        return Fault(error, dead=False, request=worker.requests[0] if worker.requests else None)

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
                self.workers[0].host.close()
            except RequestFailed as failed:
                raise self._local_fault(self.workers[0], failed).error from None
            return
        began = time.monotonic()
        failures = self._await_closed(
            self._ask_to_close(),
            began + (CLOSE_TIMEOUT if timeout is None else timeout),
            began + (BUSY_TIMEOUT if timeout is None else timeout),
        )
        self._end_all(END_TIMEOUT)
        for error in failures:
            warnings.warn(NOT_CLOSED.format(error=error), RuntimeWarning, stacklevel=4)

    def _ask_to_close(self) -> list[RemoteWorker]:
        """Ask the workers to close; those that could be asked."""
        asked = []
        asking = {id(worker) for worker, _ in self._questions}
        for worker in self.workers:
            if not isinstance(worker, RemoteWorker) or worker.channel is None:
                continue
            with contextlib.suppress(ProtocolError):  # gone, or interrupted in the middle of a message
                if id(worker) in asking:
                    worker.channel.send(Prediction({}, CLOSING))
                worker.channel.send(Close())
                asked.append(worker)
        return asked

    def _await_closed(self, workers: Sequence[RemoteWorker], until: float, busy_until: float) -> list[PhysGymError]:
        """Wait for workers to close.

        Args:
            workers: Which ones.
            until: When to stop waiting for those that close.
            busy_until: When to stop waiting for those that are in the middle of something else.

        Returns:
            What environments raised.
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
                if now >= deadline or (worker.handle is not None and worker.handle.poll() is not None):
                    del open_[file]
                else:
                    poll.register(file, select.POLLIN | (select.POLLOUT if worker.channel.unsent else 0))
            for file in [file for file, _ in poll.poll(CLOSING_POLL * 1000 if open_ else 0)]:
                if file not in open_:
                    poll.unregister(file)
                elif self._closes(open_[file], errors):
                    poll.unregister(file)
                    del open_[file]
        return errors

    def _closes(self, worker: RemoteWorker, errors: list[PhysGymError]) -> bool:
        """Take in what a worker says that was asked to close; whether it has closed, or will not any more."""
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
            errors.append(self.reported(worker, messages[-1]).error)
        return True

    def _end_all(self, patience: float) -> None:
        _release(self.workers, patience, os.getpid())
        self._questions.clear()
        self._by_file.clear()
        self._poll = select.poll()
        for worker in self.workers:
            worker.requests.clear()
            worker.doing = None  # a view of the shared memory, which is to be given back

    def kill(self) -> None:
        """End all workers at once."""
        self.closed = True
        if self._finalizer.detach() is not None:
            self._end_all(0.0)

    def disown(self) -> None:
        """In a fork of the process to which the workers belong: let go of them, without ending them."""
        if self.workers and isinstance(self.workers[0], LocalWorker):
            return  # the environments are copies
        self._finalizer.detach()
        self.closed, self.end_text = True, FOREIGN
        for worker in self.workers:
            if isinstance(worker, RemoteWorker):
                worker.hang_up()
                worker.handle = None
            worker.requests.clear()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _let_go() -> None:
    """In a process that was forked from this one; `physgym.system.children` lets go of the lifelines."""
    for pool in list(_POOLS):
        with contextlib.suppress(Exception):
            pool.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _pickled(factories: list[EnvFactory]) -> bytes:
    try:
        return dump(factories)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ConfigError(UNSENDABLE.format(error=error, fork='context="fork"')) from error


_ERRORS: dict[tuple[type[Any], ...], type[Any]] = {}


def remote_error(message: Failure, env: int | None, place: str, envs: tuple[int, ...] = ()) -> WorkerError:
    """The exception that an environment raised: a `WorkerError` that is an instance of the original class as well.

    Classes are looked up among modules that are imported already; nothing is imported because a worker says so.
    """
    kind = message.error.rpartition(":")[2]
    doing = f" in {message.doing}" if message.doing else ""
    text = f"{place} raised {kind}{doing}: {message.message}\n\nTraceback in the worker:\n{message.traceback}"
    arguments = {"remote_traceback": message.traceback, "env_indices": envs if env is None else (env,)}
    found = _error_class(message.error)
    if found is not WorkerError and any(base.__module__ == PhysGymError.__module__ for base in found.__bases__[1:]):
        text = f"{place}: {message.message}"  # says itself what to do
    try:
        return _made(found, text, arguments)
    except Exception:  # noqa: BLE001 - a class that cannot be made without its constructor
        return WorkerError(text, **arguments)  # type: ignore[arg-type]


def _count_ended(worker: Worker, samples: int) -> None:
    """Note in the limits of requests what episodes gave that ended, which do not run again if the worker restarts."""
    if samples:
        for place, request in enumerate(worker.requests):
            if isinstance(request, Rollout) and request.limit:
                limit = max(1, request.limit - samples)
                worker.requests[place] = replace(request, limit=limit, made=request.made + samples)


def _made(kind: type[Any], text: str, arguments: dict[str, Any]) -> WorkerError:
    """An exception without the constructor of its class, which may want anything."""
    new = next(
        vars(base)["__new__"] for base in kind.__mro__ if base.__module__ == "builtins" and "__new__" in vars(base)
    )
    error: WorkerError = new(kind, text)
    error.args = (text,)
    for name, value in arguments.items():
        setattr(error, name, value)
    return error


def _error_class(name: str) -> type[Any]:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # a module's own __getattr__ might import something
    if not isinstance(found, type) or not issubclass(found, Exception) or issubclass(WorkerError, found):
        return WorkerError
    bases = (found,) if issubclass(found, WorkerError) else (WorkerError, found)
    if bases not in _ERRORS:
        described = {"__module__": found.__module__, "__str__": errors.first_argument}
        try:
            _ERRORS[bases] = type(found.__name__, bases, described)
        except Exception:  # noqa: BLE001 - a class that allows no subclass, or not of this kind
            _ERRORS[bases] = WorkerError
    return _ERRORS[bases]
