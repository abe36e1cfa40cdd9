"""Runs the calls of a vector env: one at a time, from its requests to the last answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from physgym.errors import (
    ClosedError,
    ConfigError,
    NoPendingCallError,
    PendingCallError,
    PhysGymError,
    ProtocolError,
    SampleError,
    WorkerError,
    WrongType,
)
from physgym.protocol.ledger import Ledger, Pending
from physgym.protocol.messages import Attached, CallResult, Message, Results, Step
from physgym.vector.calls import ABANDONED, MOVES, MethodCall, OpenCall, State, StreamCall
from physgym.vector.fleet import WorkerPool
from physgym.vector.recovery import Recovery
from physgym.vector.renewals import Renewals
from physgym.vector.workers import Fault, RemoteWorker, Worker, reported

T = TypeVar("T")
IDLE, SEND = State.IDLE, State.SEND  # an enumeration takes longer to ask


class CallRunner:
    """Runs calls on the workers of a fleet.

    Args:
        fleet: The workers.
        recovery: Deals with faults.
        none: Stands in where no call is under way.
        stream: The call whose environments step without lockstep.
        renewals: Of workers, which a rollout may have left without an end.

    Attributes:
        state: Where the present call is.
        number: How many calls there were.
    """

    def __init__(
        self, fleet: WorkerPool, recovery: Recovery, none: OpenCall, stream: StreamCall, renewals: Renewals
    ) -> None:
        self._fleet, self._recovery, self._none, self._stream = fleet, recovery, none, stream
        self._renewals = renewals
        self._views = fleet.settings.views
        self.state = IDLE
        self._call = none
        self._errors: list[PhysGymError] = []
        self.number = 0

    # --- states

    def _move(self, state: State, call: OpenCall) -> None:
        assert state in MOVES[self.state], f"a call does not go from {self.state} to {state}"
        self.state, self._call = state, call

    def opened(self, call: OpenCall) -> None:
        """Take note that the requests of a call are out."""
        assert call.state in MOVES[self.state], f"a call does not go from {self.state} to {call.state}"
        self.state, self._call = call.state, call

    def interrupt(self) -> None:
        """Leave the present call in the middle: the answers to come are forgotten."""
        self._move(State.INTERRUPTED, self._none)

    def finish(self) -> None:
        """Take note that no answer is owed any more."""
        self._move(IDLE, self._none)

    def check_open(self) -> None:
        """Check that the vector env was not closed.

        Raises:
            ClosedError: It was.
        """
        if self._fleet.closed:
            raise ClosedError(self._fleet.end_text)

    # --- a call

    def begin(self, name: str, call: OpenCall) -> None:
        """Make sure that a call can begin, and begin to send its requests.

        Args:
            name: What the caller called.
            call: The call.

        Raises:
            ClosedError: The vector env was closed.
            PendingCallError: Another call is under way.
            WorkerError: A worker is gone and does not come up again.
        """
        if self._fleet.closed or self.state is not IDLE:
            self._make_way(name)
        if self._views.attention:
            self._fleet.attend()
        self.number += 1
        self._errors = []
        call.begin()
        if self._renewals.ended and name != "rollout":
            self._bring_back()
        if self._recovery.on_error == "restart":
            for worker in self._fleet.workers:
                if isinstance(worker, RemoteWorker) and worker.gone and worker not in self._renewals.ended:
                    self._errors += self._recovery.deal_with(worker, Fault(worker.lost(), dead=True), self._none)
        self._move(call.posting, self._none)
        if self._errors:
            self.raise_errors()

    def _make_way(self, name: str) -> None:
        """Drop a call that was interrupted, so that another one can begin."""
        self.check_open()
        if self.state is SEND:
            text = f"{name} while results of send are still to come; take them with recv, or reset"
            raise PendingCallError(text, "send")
        if self.state not in ABANDONED:
            state = self.state.value
            text = f"Calling `{name}_async` while waiting for a pending call to `{state}` to complete"
            raise PendingCallError(text, state)
        self._drain()

    def _drain(self) -> None:
        """Wait for the answers to a call that was interrupted, and forget them."""
        self.interrupt()
        unfinished = self._fleet.end_unfinished()
        self._fleet.forget()
        for _ in self._fleet.replies():
            pass
        self.finish()
        self._stream.forget()
        if unfinished and self._recovery.on_error != "restart":
            raise unfinished[0][1].error

    def post(self, requests: Iterable[tuple[Worker, Message]]) -> None:
        """Send the requests of a call.

        Raises:
            WorkerError: A worker is gone.
            WrongType: A request holds what cannot be sent.
        """
        for worker, message in requests:
            try:
                self._fleet.post(worker, message)
            except ProtocolError as error:
                raise WrongType(f"{type(message).__name__} to {worker}: {error}") from error

    def in_flight(self) -> set[int]:
        """Return the environments that were sent an action whose result was not received."""
        return self._fleet.envs_in_flight() | self._stream.ready_envs()

    def count_in_flight(self) -> int:
        """Return the number of environments `in_flight`."""
        return self._fleet.count_in_flight() + self._stream.ready

    def send(self, requests: Iterable[tuple[Worker, Step]]) -> None:
        """Send steps of the stream call.

        Args:
            requests: For whom they are, and the messages.

        Raises:
            WorkerError: A worker is gone.
            WrongType: An action cannot be sent.
        """
        if self._views.attention:
            self._fleet.attend()
        before = self.state
        self._move(self._stream.posting, self._none)
        for worker, message in requests:
            try:
                self._fleet.post(worker, message)
            except ProtocolError as error:
                if before is SEND or self.count_in_flight():
                    self.opened(self._stream)
                else:
                    self.finish()
                raise WrongType(f"the actions of {worker}: {error}") from error
        self.opened(self._stream)

    def run(self, wait: Callable[[], T], begin: Callable[..., None], *args: Any) -> T:
        """Run a call to its end; where it is interrupted (Ctrl-C), no later one may take its answers.

        Args:
            wait: Waits for the answers and returns the result.
            begin: Sends the requests.
            *args: Arguments of `begin`.
        """
        try:
            begin(*args)
            return wait()
        except PendingCallError:
            raise  # of another call, which is as it was
        except BaseException:
            if self.state is not IDLE:
                self.interrupt()
            raise

    def wait(self, call: OpenCall, timeout: float | None, *, in_turn: bool) -> None:
        """Collect the answers to the call that was begun.

        Args:
            call: Which one that has to be.
            timeout: Seconds after which to stop.
            in_turn: Wait for one worker after the other. That saves system calls, but lets predictions wait.

        Raises:
            NoPendingCallError: It was not begun.
            WaitTimeout: The time is over; it can be waited for again.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        if self._fleet.closed or self.state is not call.state:
            self.check_open()
            name = call.state.value
            raise NoPendingCallError(f"Calling `{name}_wait` without any prior call to `{name}_async`.", name)
        for arrival in self._fleet.replies(timeout, in_turn=in_turn and timeout is None):
            self._handle_reply(arrival.worker, arrival.reply, arrival.ledger)
        self._move(IDLE, self._none)
        if self._errors:
            self.raise_errors()

    def wait_for_some(self, number: int, in_flight: int, timeout: float | None) -> None:
        """Collect results of the stream call, those included that are there already.

        Args:
            number: Of how many environments at least.
            in_flight: How many are in flight now.
            timeout: Seconds after which to stop.

        Raises:
            WaitTimeout: The time is over; nothing is lost.
            WorkerError: A worker died or did not answer, or an environment raised. What others returned is kept.
        """
        storing = False
        try:
            replies = self._fleet.replies(timeout)
            while not self._errors and (self._stream.ready < number or self._fleet.waiting):
                arrival = next(replies, None)
                if arrival is None:
                    break
                storing = True
                self._handle_reply(arrival.worker, arrival.reply, arrival.ledger)
                storing = False
        except BaseException:
            # Ctrl-C while a result was put in its place, or was handed on: the caller will not receive it
            if storing or self.count_in_flight() != in_flight:
                self.interrupt()
            raise
        if self._errors:
            self.land()
            self.raise_errors()

    def land(self) -> None:
        """Finish the stream call if nothing is in flight."""
        if self.state is SEND and not self.count_in_flight():
            self.finish()

    # --- answers

    def _handle_reply(self, worker: Worker, reply: Message | Fault, ledger: Ledger | None) -> None:
        """Take an answer, or deal with a fault."""
        if isinstance(reply, Results):
            self._call.take(worker, reply)
            if reply.failures:
                self._take_failures(worker, reply, ledger)
        elif isinstance(reply, CallResult):
            assert isinstance(self._call, MethodCall)
            self._call.take_values(worker, reply)
        elif isinstance(reply, Fault):
            self._errors += self._recovery.deal_with(worker, reply, self._call, ledger)
        else:
            assert isinstance(reply, Attached)  # of a worker that was started again

    def _take_failures(self, worker: Worker, results: Results, ledger: Ledger | None) -> None:
        errors = [reported(worker, failure).error for failure in results.failures]
        if not self._recovery.restarts_worker(worker):
            self._errors += errors
            return
        again = Pending(0, self._call.again(worker, [failure.env for failure in results.failures]))
        fault = Fault(errors[0], dead=False, unanswered=(again,))
        self._errors += self._recovery.deal_with(worker, fault, self._call, ledger)

    def handle_rollout_reply(
        self, worker: Worker, reply: Message | Fault, ledger: Ledger | None
    ) -> PhysGymError | None:
        """Deal with what is no sample of a rollout; return the error that ends the worker's chunk, if it does.

        Args:
            worker: From whom it is.
            reply: The reply, or a fault.
            ledger: That of the connection over which it came; None for the present one.
        """
        if isinstance(reply, Fault) and not reply.dead and isinstance(reply.error, (SampleError, ConfigError)):
            return reply.error  # running it again would give the same
        self._handle_reply(worker, reply, ledger)
        errors, self._errors = self._errors, []
        return errors[0] if errors else None

    def raise_errors(self) -> NoReturn:
        """Raise the first of the errors that were noted, with the others as notes."""
        first, *others = self._errors
        self._errors = []
        for other in others:
            first.add_note(f"At the same time: {other}")
            if isinstance(first, WorkerError) and isinstance(other, WorkerError):
                first.env_indices = tuple(dict.fromkeys((*first.env_indices, *other.env_indices)))
        try:
            raise first
        finally:
            del first, others  # else the error holds this frame, and with it the vector env, until the next collection

    def restart_gone(self) -> None:
        """Start workers again that are gone since an earlier error.

        Raises:
            WorkerError: One does not come up.
        """
        self.check_open()
        if self.state in ABANDONED:
            self._drain()
        self._bring_back()
        for worker in self._fleet.workers:
            if not isinstance(worker, RemoteWorker) or not worker.gone:
                continue
            self._fleet.restart(worker, [None] * len(worker.envs))
            replies = self._fleet.replies()
            while worker.ledger.pending or self._fleet.waiting:
                arrival = next(replies, None)
                if arrival is None:
                    break
                self._handle_reply(arrival.worker, arrival.reply, arrival.ledger)
            if self._errors:
                self.raise_errors()

    def _bring_back(self) -> None:
        """Start workers that a rollout has left ended, since they were to be renewed; all others are idle.

        Raises:
            WorkerError: One does not come up.
        """
        self._renewals.bring_back()
        for arrival in self._fleet.replies():
            self._handle_reply(arrival.worker, arrival.reply, arrival.ledger)
        if self._errors:
            self.raise_errors()
