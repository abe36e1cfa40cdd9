"""The workers of a vector env as their parent sees them: started, spoken to, watched, started again, ended.

`WorkerPool.replies` is the one loop in which a parent waits. Every wait in it has an end: a reply, the death of the
worker, or the timeout.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from physgym.errors import ClosedError, PhysGymError, ProtocolError, WaitTimeout, WorkerError, WorkerLost
from physgym.limits import LARGER_TIMEOUT
from physgym.placement import EnvFactory
from physgym.protocol.agreement import Agreement
from physgym.protocol.buffers import IDLE, Arena
from physgym.protocol.ledger import Pending
from physgym.protocol.messages import (
    Attach,
    Attached,
    Failure,
    GiveInputs,
    Message,
    Predict,
    Prediction,
    ScenePart,
)
from physgym.protocol.short_frames import STEP_ALL, STEPPED_ALL
from physgym.scene.inputs import InputValue
from physgym.system.descriptors import fill_standard
from physgym.transport.base import PeerGone
from physgym.vector.alike import check_alike
from physgym.vector.closing import END_TIMEOUT, FLEETS, close_environments, release
from physgym.vector.handshake import Handshake
from physgym.vector.inbox import Arrival, Inbox
from physgym.vector.local_group import local_group, no_parts
from physgym.vector.starter import FleetSettings, Starter, shares
from physgym.vector.watch import Watch
from physgym.vector.workers import Fault, LocalWorker, RemoteWorker, Worker, local_fault, reported
from physgym.viewing.views import requests
from physgym.worker.env_group import EnvGroup
from physgym.worker.failures import RequestFailed

POLL = 1.0  # seconds between looks at what no event shows: a dead worker whose environment has forked, a late answer


class WorkerPool:
    """Worker processes, each with its environments and its connection; or none, with the environments in this process.

    Args:
        factories: One callable per environment.
        num_workers: Number of processes; 0 keeps the environments in this process.
        settings: How to start them.
        predict: Answers the predictions for which environments ask, all that wait at the same moment at once.
        memory: Descriptor of the shared memory, None if arrays are sent in messages.
        first: Worker 0 where it was started already, see `physgym.vector.trial`.

    Attributes:
        factories: The callables, those of workers that have joined included.
        workers: The workers, those that have joined included.
        hosts: Those of them that have the environments of the vector env. Others run episodes alone.
        agreement: Layouts of their messages.

    Raises:
        ConfigError: An argument is wrong.
        WorkerError: A worker died or did not answer, or an environment's constructor raised.
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        num_workers: int,
        settings: FleetSettings,
        predict: Callable[[list[Predict]], list[Prediction]],
        memory: int | None,
        first: RemoteWorker | None = None,
    ) -> None:
        self.factories, self.settings, self._predict = list(factories), settings, predict
        self.memory = memory
        self._watch = Watch()
        self._starter = Starter(self.factories, settings, memory, self._watch)
        self._inbox = Inbox()
        self._questions: list[tuple[RemoteWorker, Predict]] = []
        self._attach_request: Attach | None = None  # of the first worker
        self.closed = False
        self.end_text = "the vector env is closed; make a new one"
        self.workers: list[Worker] = []
        FLEETS.add(self)
        fill_standard()  # descriptors below 3 are never ours, nor a worker's
        # a finalizer instead of __del__: it also runs at exit, and holds nothing that keeps this object alive
        self._finalizer = weakref.finalize(self, release, self.workers, self.settings.launcher, 0.0, os.getpid())
        weakref.finalize(self, settings.views.close)
        if num_workers == 0:
            self.workers.append(LocalWorker(self._local_group()))
            self.hosts = tuple(self.workers)
            self.agreement = self._agreed()
            return
        made = [RemoteWorker(index, envs) for index, envs in enumerate(shares(len(self.factories), num_workers))]
        self.workers += made if first is None else [first, *made[1:]]
        self.hosts = tuple(self.workers)
        try:
            self._starter.start([worker for worker in self.workers if isinstance(worker, RemoteWorker)])
            self.agreement = self._agreed()
        except BaseException:
            self.kill()
            raise

    def _agreed(self) -> Agreement:
        first = self.workers[0].ready
        assert first is not None
        return Agreement.from_ready(first)

    def invite(self, index: int, made: Sequence[EnvFactory], place: range | None) -> tuple[RemoteWorker, Handshake]:
        """Start one more worker, which runs episodes, in the place of one that is gone or in a new one; do not wait.

        Returns:
            The worker, and the handshake, which is to be gone on with until it is done. `admit` takes the worker then.

        Raises:
            ConfigError: What makes its environments cannot be sent to it.
            WorkerError: The system refuses.
        """
        place = place or range(len(self.factories), len(self.factories) + len(made))
        self.factories[place.start : place.stop] = made
        worker = RemoteWorker(index, place)
        handshake = self.begin(worker)
        self.workers.append(worker)  # which ends it with the others
        return worker, handshake

    def begin(self, worker: RemoteWorker, seeds: Sequence[int | None] | None = None) -> Handshake:
        """Start a worker that has ended, as `restart` does, without waiting for it. Returns and raises as `invite`."""
        try:
            return self._starter.begin([worker], Watch(), seeds)
        except BaseException:
            self.end(worker)
            raise

    def admit(self, worker: RemoteWorker) -> None:
        """Listen to a worker that has joined, or was started again.

        Raises:
            WorkerError: Its environments differ.
        """
        check_alike(worker, self.description, "than those of the others", self.settings.launcher)
        self._watch.add(worker)
        self.settings.views.environments = len(self.factories)
        self._catch_up(worker)

    def _catch_up(self, worker: RemoteWorker) -> None:
        """Attach a worker that was started later than others, and have it watched as they are."""
        if self._attach_request is not None and worker in self.hosts:
            self._attach(worker)
        self.settings.views.renew()

    def dismiss(self, worker: RemoteWorker) -> None:
        """Close the environments of a worker that owes nothing, and end it."""
        self._warn_of(close_environments([worker], set(), None))
        self.end(worker)
        if worker not in self.hosts:
            self.workers.remove(worker)

    @property
    def local(self) -> bool:
        """Return whether the environments are in this process."""
        return isinstance(self.workers[0], LocalWorker)

    @property
    def description(self) -> dict[str, Any]:
        """Return the description of the environments by the first worker, as at its first start: JSON data."""
        description = self.workers[0].description
        assert description is not None
        return description

    @property
    def waiting(self) -> bool:
        """Return whether there are replies that nobody has taken yet."""
        return bool(self._inbox)

    # --- start

    def _local_group(self) -> EnvGroup:
        mode = self.settings.autoreset_mode
        return local_group(
            self.factories, mode, lambda asked: self._predict([asked])[0], self._look_here, self._take_here
        )

    def _look_here(self) -> bool:
        if self.settings.views.attention:
            self.attend()
        return False

    def _take_here(self, part: ScenePart) -> bool:
        self.settings.views.take(0, part)
        return True

    def attach(self, rows: int, arena: Arena | None) -> None:
        """Have the workers use the shared memory, or an arena of this process.

        Raises:
            WorkerError: One cannot.
        """
        for worker in self.workers:
            if isinstance(worker, LocalWorker):
                assert arena is not None
                worker.group.attach(arena, 0, None)
            elif self.memory is not None:
                assert arena is not None
                self._attach_request = Attach(rows, 0, len(arena.slots), arena.bytes)
                self._attach(worker)
            if arena is not None and self.memory is not None:
                worker.current_env = arena.current_env[worker.index : worker.index + 1]
        for arrival in self.replies():
            if isinstance(arrival.reply, Fault):
                raise arrival.reply.error
            assert isinstance(arrival.reply, Attached)

    def _attach(self, worker: Worker) -> None:
        assert self._attach_request is not None
        self.post(worker, replace(self._attach_request, first=worker.envs.start))

    # --- messages

    def post(self, worker: Worker, message: Message, context: Any = None) -> None:
        """Ask a worker something; `replies` gives its answer.

        Args:
            worker: Whom.
            message: The request.
            context: What it is for; `Arrival.request` has it.

        Raises:
            WorkerError: It is gone.
            ProtocolError: The message cannot be sent; nothing has changed.
        """
        if self.closed:
            raise ClosedError(self.end_text)
        if not isinstance(worker, RemoteWorker):
            assert isinstance(worker, LocalWorker)
            if message is STEP_ALL[0] or message is STEP_ALL[1]:
                self._step_here(worker, message)
            else:
                self._serve(worker, message, context)
            return
        channel = worker.channel
        if channel is None or worker.ready is None:
            raise worker.lost()
        owed = worker.ledger.pending
        if not owed:
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
        if context is not None:
            owed[-1].context = context
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

    def taken(self, worker: Worker) -> int:
        """Return how many samples somebody has taken that came from a worker since it was started."""
        return worker.ledger.samples - self._inbox.samples(worker.ledger)

    def envs_in_flight(self) -> set[int]:
        """Return the environments whose step without lockstep is unanswered, or whose result nobody has taken."""
        found = set(self._inbox.envs_in_flight()) if self._inbox else set()
        for worker in self.workers:
            start, count = worker.envs.start, len(worker.envs)
            for pending in worker.ledger.pending:
                found.update([start + row for row in pending.envs_in_flight(count)])
        return found

    def count_in_flight(self) -> int:
        """Return the number of `envs_in_flight`."""
        waiting = len(list(self._inbox.envs_in_flight())) if self._inbox else 0
        return waiting + sum([worker.ledger.count_in_flight() for worker in self.workers])

    def _step_here(self, worker: LocalWorker, message: Message) -> None:
        """Have all environments of this process make a step; its answer comes as a whole, so that nothing is owed."""
        reply: Message | Fault
        try:
            reply = worker.group.serve(message, no_parts)
            if reply is STEPPED_ALL:
                return
        except RequestFailed as failed:
            reply = local_fault(worker, failed, Pending(0, message))
        self._inbox.append(Arrival(worker, reply, Pending(0, message), worker.ledger))

    def _serve(self, worker: LocalWorker, message: Message, context: Any) -> None:
        ledger = worker.ledger
        request = ledger.open(message, 0)
        request.context = context

        def emit(part: Message) -> None:
            ledger.answer(part)
            self._inbox.append(Arrival(worker, part, request, ledger))

        try:
            reply = worker.group.serve(message, emit)
            if reply is STEPPED_ALL:
                ledger.forget()
            else:
                emit(reply)
        except RequestFailed as failed:
            ledger.forget()
            self._inbox.append(Arrival(worker, local_fault(worker, failed, request), request, ledger))
        except BaseException:  # Ctrl-C: nobody will answer it
            ledger.forget()
            raise

    def replies(self, timeout: float | None = None, *, in_turn: bool = False) -> Iterator[Arrival]:
        """Yield replies as they come, until no worker owes one; where a worker fails, a `Fault` in their place.

        Results that say nothing but that they are there (`STEPPED_ALL`) are left out. A caller that stops
        iterating loses nothing: another call continues where this one stopped.

        Args:
            timeout: Seconds after which to stop; by default each worker has the timeout of the settings.
            in_turn: Wait for one worker after the other. Cheaper where all answers are needed anyway.

        Raises:
            WaitTimeout: `timeout` is over.
        """
        started = now = time.monotonic()
        next_look = started + POLL
        polled = False
        while True:
            if self.closed:
                raise ClosedError(self.end_text)
            while self._inbox:
                arrival = self._inbox.popleft()
                before = time.monotonic()
                yield arrival
                now = time.monotonic()
                self._add_grace(now - before)
            for busy in self.workers:
                if busy.ledger.pending:
                    break
            else:
                return
            if not isinstance(busy, RemoteWorker):
                busy.ledger.forget()  # Ctrl-C came while it was served: nobody will answer
                return
            wait = next_look - now if next_look > now else 0.0
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
            now = time.monotonic()
            if now >= next_look:  # also where the caller took so long that there was no time to wait
                next_look = now + POLL
                self.look_for_late()

    def _take_in(self, worker: RemoteWorker, event: int) -> None:
        """Send a worker what waits, and take what it sends, as far as an event of `select.poll` says so."""
        channel, ledger = worker.channel, worker.ledger
        if channel is None:
            return  # another thread closes the vector env
        worker.unfinished = True
        fault = None
        messages: list[Message] = []
        try:
            sends = event & select.POLLOUT or channel.unsent  # there are descriptors that show nothing but input
            if sends:
                channel.flush()
            if event & ~select.POLLOUT:
                messages = channel.receive()
            if sends:
                self._watch.want(worker)
        except ProtocolError as error:
            messages = list(error.messages)
            fault = self._broken(worker, error)
        if messages and ledger.pending:
            worker.since = time.monotonic()
        for message in messages:
            if message is STEPPED_ALL:
                continue
            if isinstance(message, Predict):
                if fault is None:
                    self._questions.append((worker, message))
                continue
            if isinstance(message, ScenePart):
                self.settings.views.take(worker.envs.start, message)
                continue
            request = ledger.answered.popleft()
            reply = reported(worker, message, request) if isinstance(message, Failure) else message
            self._inbox.append(Arrival(worker, reply, request, ledger))
        if fault is not None:
            self._inbox.append(Arrival(worker, fault, None, ledger))
        worker.unfinished = False

    def attend(self) -> None:
        """Do what viewers wish, before anything more is asked: tell workers whom they watch, or pause."""
        before = time.monotonic()
        self.settings.views.attend(self._tell, lambda: self.closed, self._give)
        self._add_grace(time.monotonic() - before)

    def _tell(self, wanted: Mapping[int, float]) -> None:
        for worker in self.workers:
            wish = requests(wanted, worker.envs)
            if isinstance(worker, LocalWorker):
                worker.group.watch(wish, now=self.settings.views.paused)
            elif isinstance(worker, RemoteWorker) and not worker.gone:
                self._say(worker, wish)

    def _give(self, changes: Sequence[tuple[int, str, InputValue]]) -> None:
        """Hand on what a person has changed in environments."""
        for env, name, value in changes:
            worker = next(one for one in reversed(self.workers) if env in one.envs)  # not one that is gone
            given = GiveInputs(env - worker.envs.start, [[name, value]])
            if isinstance(worker, LocalWorker):
                worker.group.give(given)
            elif isinstance(worker, RemoteWorker) and not worker.gone:
                self._say(worker, given)

    def _add_grace(self, pause: float) -> None:
        """Grant workers the time that the iterating caller has taken."""
        if pause > 1e-3:
            for worker in self.workers:
                worker.since += pause

    def look_for_late(self) -> None:
        """Find workers that have died without an event, or have not answered in time."""
        for worker in self.workers:
            if not isinstance(worker, RemoteWorker) or not worker.ledger.pending:
                continue
            ledger = worker.ledger
            if worker.ended:
                error = worker.death()
            elif time.monotonic() - worker.since >= self.settings.timeout:
                waited = f"no answer for {self.settings.timeout:g} s {worker.activity()}"
                text = f"{worker}: {waited}. If this takes longer, give a larger timeout: {LARGER_TIMEOUT}"
                error = WorkerLost(text, env_indices=worker.concerned())
            else:
                continue
            self._inbox.append(Arrival(worker, self._dead(worker, error), None, ledger))

    def _answer_questions(self) -> None:
        # kept until they are answered: Ctrl-C may end the prediction
        questions = list(self._questions)
        answers = self._predict([question for _, question in questions])
        for (worker, _), answer in zip(questions, answers, strict=True):
            self._questions.pop(0)
            worker.since = time.monotonic()
            self._say(worker, answer)

    def _say(self, worker: RemoteWorker, message: Message) -> None:
        """Send a worker what needs no answer, unless it is gone."""
        if worker.channel is None:
            return
        worker.unfinished = True
        with contextlib.suppress(PeerGone):
            worker.channel.send(message)
            if worker.channel.unsent:
                self._watch.want(worker)
        worker.unfinished = False

    # --- faults

    def _broken(self, worker: RemoteWorker, error: ProtocolError) -> Fault:
        """End a worker whose connection does not continue."""
        if isinstance(error, PeerGone):
            return self._dead(worker, worker.death())
        text = f"{worker} broke the protocol: {error}"
        return self._dead(worker, WorkerError(text, env_indices=tuple(worker.envs)))

    def _dead(self, worker: RemoteWorker, error: WorkerError) -> Fault:
        """End what is left of a worker."""
        unanswered = tuple(worker.ledger.pending)
        self.end(worker)
        return Fault(error, dead=True, unanswered=unanswered)

    def end(self, worker: RemoteWorker) -> None:
        """End a worker at once; it owes nothing any more."""
        self._watch.remove(worker)
        self._questions = [(w, question) for w, question in self._questions if w is not worker]
        if worker.handle is not None:
            self.settings.launcher.end([worker.handle], 0.0)
            worker.handle = None
        worker.release()
        worker.unfinished = False
        worker.ready = None
        if worker.current_env is not None:
            worker.current_env[0] = IDLE

    def restart(self, worker: RemoteWorker, seeds: Sequence[int | None]) -> None:
        """Start a worker again, with new environments that begin with an episode cut off.

        Args:
            worker: Which one; ended if it still runs, and what it owes is forgotten.
            seeds: For the next reset of each of its environments.

        Raises:
            WorkerError: It does not come up.
        """
        self.end(worker)
        try:
            self._starter.start([worker], seeds)
            check_alike(worker, worker.description, "than before its restart", self.settings.launcher)
        except BaseException:
            self.end(worker)
            raise
        self._catch_up(worker)

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
        self.settings.views.close()
        self._inbox.clear()
        if isinstance(self.workers[0], LocalWorker):
            try:
                self.workers[0].group.close()
            except RequestFailed as failed:
                raise local_fault(self.workers[0], failed).error from None
            return
        remote = [worker for worker in self.workers if isinstance(worker, RemoteWorker)]
        failures = close_environments(remote, {worker for worker, _ in self._questions}, timeout)
        self._end_all(END_TIMEOUT)
        self._warn_of(failures)

    def _warn_of(self, failures: Sequence[PhysGymError]) -> None:
        for error in failures:
            how = "The environments of this worker were ended without having closed in full"
            warnings.warn(f"{error}\n\n{how}", RuntimeWarning, stacklevel=4)

    def _end_all(self, patience: float) -> None:
        release(self.workers, self.settings.launcher, patience, os.getpid())
        self._questions.clear()
        self._watch.clear()
        for worker in self.workers:
            worker.current_env = None  # a view of the shared memory, which is to be given back

    def kill(self) -> None:
        """End all workers at once."""
        self.closed = True
        self.settings.views.close()
        if self._finalizer.detach() is not None:
            self._end_all(0.0)

    def disown(self) -> None:
        """Let go of the workers, without ending them, in a fork of the process to which they belong."""
        if self.workers and isinstance(self.workers[0], LocalWorker):
            return  # the environments are copies
        self._finalizer.detach()
        self.closed, self.end_text = (
            True,
            "the vector env belongs to the process that made it, of which this one is a fork; make one here",
        )
        for worker in self.workers:
            if isinstance(worker, RemoteWorker):
                worker.hang_up()
                worker.handle = None
