"""The short frames against the long path: the same bytes, states and refusals, whatever was said before."""

from __future__ import annotations

from copy import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.errors import ProtocolError
from physgym.protocol.connection import Connection
from physgym.protocol.messages import (
    Call,
    CallResult,
    Close,
    Closed,
    Failure,
    Predict,
    Prediction,
    Reset,
    Results,
    Role,
    Step,
)
from physgym.protocol.short_frames import FRAME, STEP_ALL, STEP_BYTES, STEPPED_ALL, STEPPED_BYTES
from tests.support.conversation import arrays, feed, joined, opened, other_than, state_of

SHORT = [*STEP_ALL, STEPPED_ALL]
LONG: list[Any] = [
    Step(0, [2, 0]),
    Step(1, stream=True),
    Call("call", "x"),
    Reset(0, [None] * 3, [True] * 3),
    Close(),
    Results([0], arrays(1), last=False),
    Results([2]),
    Results(None, arrays(3)),
    CallResult([1, 2, 3]),
    Predict(1, {}),
    Prediction({}),
    Failure(-1, "m:E", "", ""),
    Closed(),
]
# the short messages most of the time, so that many of them are legal
MOVES = st.tuples(st.sampled_from(Role), st.sampled_from(SHORT * 4 + LONG))
FORGED = st.tuples(
    st.sampled_from(Role), st.sampled_from([*STEP_BYTES, STEPPED_BYTES]), st.sampled_from([0, 1, 2, 3, 2**32 - 1])
)


class Ends:
    """Parent and worker, by the short way or by the long one."""

    def __init__(self, *, short: bool, sequence: int) -> None:
        self.ends = dict(zip(Role, opened(), strict=True))
        self.short = short
        for end in self.ends.values():
            end.ledger.sequence = sequence

    def said(self, sender: Role, message: Any) -> Any:
        """Return the bytes of a message and the state, or why it is refused; what was received, likewise."""
        try:
            data = joined(self.ends[sender].send(message if self.short else copy(message)))
        except ProtocolError as error:
            return str(error), self.states()
        return data, self.received(other_than(sender), data)

    def received(self, role: Role, data: bytes) -> Any:
        # in two pieces nothing takes the short way
        try:
            messages = feed(self.ends[role], data, [1 << 20] if self.short else [len(data) - 1, 1])
        except ProtocolError as error:
            return str(error)
        return [(type(message), [getattr(message, name) for name in message.__slots__[:1]]) for message in messages]

    def states(self) -> Any:
        return [told(end) for end in self.ends.values()]


def told(end: Connection) -> Any:
    state, pending, sequence = state_of(end)
    kinds = [request.kind for request in end.ledger.pending]
    return state, [(number, unanswered) for number, _, unanswered in pending], sequence, kinds, end.conversation.asking


@given(st.lists(MOVES, max_size=40), st.none() | FORGED, st.sampled_from([0, 2**32 - 2]))
@settings(max_examples=300, deadline=None)
def test_the_short_way_and_the_long_one_agree(moves, forged, sequence):
    short, long = Ends(short=True, sequence=sequence), Ends(short=False, sequence=sequence)
    for sender, message in moves:
        assert short.said(sender, message) == long.said(sender, message)
        assert short.states() == long.states()
    if forged is not None:
        role, (begin, end), number = forged
        data = FRAME.pack(begin, number, end)
        assert short.received(role, data) == long.received(role, data)
        assert short.states() == long.states()


def test_what_is_legal_takes_the_short_way():
    parent, worker = opened()
    for turn in range(4):
        step = STEP_ALL[turn % 2]
        (got,) = feed(worker, joined(parent.send(step)))
        assert got is step
        (got,) = feed(parent, joined(worker.send(STEPPED_ALL)))
        assert got is STEPPED_ALL


def test_a_reset_is_not_answered_by_the_short_message():
    parent, worker = opened()
    feed(worker, joined(parent.send(Reset(0, [None] * 3, [True] * 3))))
    (got,) = feed(parent, joined(worker.send(STEPPED_ALL)))
    assert got == STEPPED_ALL
    assert got is not STEPPED_ALL
