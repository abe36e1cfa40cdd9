"""Requests, their replies and what is left of them."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import ProtocolError
from physgym.protocol import codec
from physgym.protocol.messages import (
    Call,
    CallResult,
    Close,
    Closed,
    Failure,
    Predict,
    Prediction,
    Results,
    Rollout,
    RolloutResult,
    Step,
)
from tests.support.conversation import (
    arrays,
    asked,
    column,
    feed,
    frame,
    joined,
    opened,
    samples,
)


def test_a_step_is_answered_in_parts_and_then_the_next_request():
    parent, worker = asked(Step(0, stream=True), Call("call", "x"))
    for rows, last in (([1], False), ([0], False), ([2], True)):
        assert [request.kind for request in parent.ledger.pending] == [Step, Call]
        with pytest.raises(ProtocolError):
            worker.send(CallResult([1, 2, 3]))
        feed(parent, joined(worker.send(Results(rows, arrays(1), last=last))))
    assert [request.kind for request in parent.ledger.pending] == [Call]
    feed(parent, joined(worker.send(CallResult([1, 2, 3]))))
    assert not parent.ledger.pending
    assert not worker.ledger.pending


def test_an_environment_is_answered_once():
    parent, worker = asked(Step(0, stream=True))
    data = joined(worker.send(Results([1], arrays(1), last=False)))
    feed(parent, data)
    with pytest.raises(ProtocolError, match=r"names environments \[1\], of which \[0, 2\] are unanswered"):
        feed(parent, data)


def test_a_failure_ends_an_answer_in_parts():
    parent, worker = asked(Rollout([[0, 0], [1, 1]], 5, 1), Step(0))
    part = RolloutResult(column(0), column(0), samples(1), [], False)
    feed(parent, joined(worker.send(part)) + joined(worker.send(Failure(1, "m:E", "", ""))))
    assert [request.kind for request in parent.ledger.pending] == [Step]


def test_questions_come_between_the_parts_of_an_answer():
    parent, worker = asked(Rollout([[0, 0]], 5, 1))
    for turn in range(3):
        (question,) = feed(parent, joined(worker.send(Predict(turn, {"x": np.float32(turn)}))))
        assert question.env == turn
        with pytest.raises(ProtocolError, match="may not send Predict"):
            worker.send(Predict(0, {}))
        # requests may be sent ahead meanwhile, and arrive before the answer
        ahead = joined(parent.send(Step(turn)))
        got = feed(worker, ahead + joined(parent.send(Prediction({}, "no network"))))
        assert got == [Step(turn), Prediction({}, "no network")]
        part = RolloutResult(column(0), column(turn), samples(1), [], False)
        assert len(feed(parent, joined(worker.send(part)))) == 1


def test_replies_carry_the_sequence_numbers_of_their_requests():
    parent, worker = opened()
    requests = [parent.send(Step(0)), parent.send(Call("call", "x")), parent.send(Close())]
    numbers = [codec.HEADER.unpack(request[0])[3] for request in requests]
    assert numbers == [1, 2, 3]
    feed(worker, b"".join(map(joined, requests)))
    replies = [worker.send(message) for message in (Results(None), CallResult([1, 2, 3]), Closed())]
    assert [codec.HEADER.unpack(reply[0])[3] for reply in replies] == numbers


@pytest.mark.parametrize("number", [0, 1, 3, 2**31])
def test_a_sequence_number_out_of_order_is_refused(number):
    parent, worker = asked(Call("call", "x"))
    with pytest.raises(ProtocolError, match=f"Call has sequence number {number} instead of 2"):
        feed(worker, frame(Call, length=5, sequence=number))
    if number != 1:
        with pytest.raises(ProtocolError, match=f"CallResult has sequence number {number} instead of 1"):
            feed(parent, frame(CallResult, length=5, sequence=number))


def test_sequence_numbers_begin_anew_after_the_largest():
    parent, worker = opened()
    parent.ledger.sequence = worker.ledger.sequence = 2**32 - 1
    feed(worker, joined(parent.send(Call("call", "x"))))
    assert worker.ledger.pending[0].sequence == 0
    assert feed(parent, joined(worker.send(CallResult([1, 2, 3])))) == [CallResult([1, 2, 3])]
