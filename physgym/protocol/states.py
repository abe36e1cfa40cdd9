"""The states of a connection: who may send what when. Every legal move stands in this module.

It knows nothing of bytes, nor of which end this process is: both ends go through the same states.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from physgym.errors import ProtocolError
from physgym.protocol.ledger import Ledger, Pending
from physgym.protocol.messages import (
    REPLIES,
    Assignment,
    Attach,
    Attached,
    Call,
    CallResult,
    Challenge,
    Close,
    Closed,
    Failure,
    GiveInputs,
    Hello,
    Message,
    Predict,
    Prediction,
    Ready,
    Refusal,
    Reset,
    Results,
    Role,
    Rollout,
    RolloutResult,
    ScenePart,
    ServiceAnswer,
    ServiceRequest,
    Step,
    WatchScenes,
    Welcome,
    WorkerOffer,
)


class Moves(NamedTuple):
    """The messages that may be sent in a state.

    Attributes:
        parent: Kinds of messages that the parent may send.
        worker: Those that the worker may send.
    """

    parent: frozenset[type[Any]]
    worker: frozenset[type[Any]]


NOTHING: frozenset[type[Any]] = frozenset()
REQUESTS = frozenset(REPLIES)
UNANSWERED = frozenset({WatchScenes, GiveInputs})  # what the parent says, and no worker answers
SAYS = REQUESTS | UNANSWERED  # the parent, at any time while it may ask
PARENT = Role.PARENT


def _kinds(*kinds: type[Any]) -> frozenset[type[Any]]:
    return frozenset(kinds)


# The legal moves. What a connection does once it is ready depends on the oldest request without its last reply; the
# parent may send further ones ahead.
MOVES: dict[str, Moves] = {
    # state           what the parent may send         what the worker may send
    "challenge": Moves(_kinds(Challenge), NOTHING),
    "hello": Moves(NOTHING, _kinds(Hello)),
    "welcome": Moves(_kinds(Welcome), NOTHING),
    "building": Moves(NOTHING, _kinds(Ready, Failure, WorkerOffer, ServiceRequest)),
    "assigned": Moves(NOTHING, _kinds(Ready, Failure)),
    "offering": Moves(_kinds(Assignment, Refusal), NOTHING),
    "requesting": Moves(NOTHING, _kinds(ServiceRequest)),
    "answering": Moves(_kinds(ServiceAnswer), NOTHING),
    "idle": Moves(SAYS, NOTHING),
    "attaching": Moves(SAYS, _kinds(Attached, Failure, Predict)),
    "resetting": Moves(SAYS, _kinds(Results, Failure, Predict, ScenePart)),
    "stepping": Moves(SAYS, _kinds(Results, Failure, Predict, ScenePart)),
    "rolling out": Moves(SAYS, _kinds(RolloutResult, Failure, Predict, ScenePart)),
    "calling": Moves(SAYS, _kinds(CallResult, Failure, Predict)),
    "asking": Moves(SAYS | {Prediction}, NOTHING),
    "closing": Moves(SAYS, _kinds(Closed, Failure)),
    "closed": Moves(NOTHING, NOTHING),
}
# Close is the last request: the parent sends no other one while it is unanswered, nor wishes for frames.
MOVES_BEFORE_CLOSE = {state: Moves(moves.parent - SAYS, moves.worker) for state, moves in MOVES.items()}
# The states that follow on the messages before the connection is ready.
OPENING: dict[tuple[str, type[Any]], str] = {
    ("challenge", Challenge): "hello",
    ("hello", Hello): "welcome",
    ("welcome", Welcome): "building",
    ("building", Ready): "idle",
    ("building", Failure): "closed",
    ("building", WorkerOffer): "offering",
    ("building", ServiceRequest): "answering",
    ("requesting", ServiceRequest): "answering",
    ("answering", ServiceAnswer): "requesting",
    ("offering", Assignment): "assigned",
    ("offering", Refusal): "closed",
    ("assigned", Ready): "idle",
    ("assigned", Failure): "closed",
}
# The states in which requests are answered.
SERVING: dict[type[Any], str] = {
    Attach: "attaching",
    Reset: "resetting",
    Step: "stepping",
    Rollout: "rolling out",
    Call: "calling",
    Close: "closing",
}
IDLE, STEPPING = MOVES["idle"], MOVES["stepping"]
_UNREADY = frozenset(
    {"challenge", "hello", "welcome", "building", "offering", "assigned", "requesting", "answering", "closed"}
)


class Conversation:
    """The course of a connection, as far as it matters for what may be said next.

    Attributes:
        ledger: The requests without their last reply.
        asking: Whether a `Predict` waits for its `Prediction`.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.asking = False
        self._opening = "challenge"  # the state before the connection is ready and after it is closed, "" in between
        self._ending = False  # whether Close is unanswered
        self._moves = MOVES["challenge"]  # of the present state

    @property
    def state(self) -> str:
        """Return the state, a key of `MOVES`."""
        if self._opening:
            return self._opening
        if self.asking:
            return "asking"
        pending = self.ledger.pending
        return SERVING[type(pending[0].request)] if pending else "idle"

    @property
    def ready(self) -> bool:
        """Return whether requests may be sent and answered."""
        return not self._opening

    def allows(self, kind: type[Any], sender: Role) -> bool:
        """Return whether an end may send such a message now. Every message, on every path, is subject to this."""
        return kind in (self._moves.parent if sender is PARENT else self._moves.worker)

    def expected(self, kind: type[Any]) -> int:
        """Return the sequence number of the next message, if it is of this kind."""
        if kind in REQUESTS:
            return self.ledger.next_sequence
        if kind in UNANSWERED:  # what is answered differs at both ends; what was asked does not
            return self.ledger.sequence
        pending = self.ledger.pending
        return pending[0].sequence if pending else 0

    def check(self, kind: type[Any], sender: Role, sequence: int | None = None) -> None:
        """Check that an end may send such a message now, with this sequence number.

        Raises:
            ProtocolError: It may not.
        """
        if not self.allows(kind, sender):
            waiting = ", ".join(request.kind.__name__ for request in self.ledger.pending) or "nothing"
            state = self.state if self.state in _UNREADY else "ready"
            raise ProtocolError(
                f"the {sender.value} may not send {kind.__name__} in state {state!r} with {waiting} unanswered"
            )
        if sequence is not None and sequence != self.expected(kind):
            raise ProtocolError(f"{kind.__name__} has sequence number {sequence} instead of {self.expected(kind)}")

    def advance(self, message: Message, sequence: int) -> None:
        """Note a legal message with its sequence number."""
        kind = type(message)
        if self._opening:
            following = OPENING[self._opening, kind]
            self._opening = following if following in _UNREADY else ""
            if isinstance(message, Ready):
                self.ledger.count = message.count
        elif kind is Predict or kind is Prediction:
            self.asking = kind is Predict
        elif kind in UNANSWERED or kind is ScenePart:
            return
        elif kind in REQUESTS:
            self.ledger.open(message, sequence)
            self._ending = self._ending or kind is Close
        else:
            answered = self.ledger.answer(message)
            if answered is not None and answered.kind is Close:
                self._opening = "closed"
        self._moves = (MOVES_BEFORE_CLOSE if self._ending else MOVES)[self.state]

    def begin_step(self, request: Message, sequence: int | None = None) -> int | None:
        """Note a step of all environments, as `advance` does in more time.

        Args:
            request: The step.
            sequence: Its sequence number, if it has one already.

        Returns:
            The sequence number; None, and nothing is noted, if it is another one than the request should have.
        """
        ledger = self.ledger
        following = (ledger.sequence + 1) & 0xFFFFFFFF
        if sequence is not None and sequence != following:
            return None
        ledger.sequence = following
        if not ledger.pending:
            self._moves = STEPPING
        ledger.pending.append(Pending(following, request))
        return following

    def end_step(self, sequence: int | None = None) -> int | None:
        """Note the whole answer to a step of all environments, as `advance` does in more time.

        Args:
            sequence: Its sequence number, if it has one already.

        Returns:
            The sequence number; None, and nothing is noted, if another one or another answer is due.
        """
        pending = self.ledger.pending
        oldest = pending[0]
        if oldest.unanswered is not None or type(oldest.request) is not Step:
            return None
        if sequence is not None and sequence != oldest.sequence:
            return None
        pending.popleft()
        self._moves = (MOVES_BEFORE_CLOSE if self._ending else MOVES)[self.state] if pending else IDLE
        return oldest.sequence
