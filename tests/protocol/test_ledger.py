"""Requests, their replies and what is left of them."""

from __future__ import annotations

from dataclasses import replace

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
    actions,
    arrays,
    asked,
    assert_same,
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


# --- what is left of requests


def test_the_environments_in_flight_are_those_of_unanswered_steps():
    parent, worker = opened()
    assert parent.ledger.envs_in_flight() == set()
    for request in (Step(0, [2, 0], stream=True), Call("call", "x"), Step(1, [1], stream=True)):
        feed(worker, joined(parent.send(request)))
    for end in (parent, worker):
        assert end.ledger.envs_in_flight() == {0, 1, 2}
        assert len(end.ledger) == 3
    feed(parent, joined(worker.send(Results([0], arrays(1), last=False))))
    assert parent.ledger.envs_in_flight() == {1, 2}
    feed(parent, joined(worker.send(Results([2], arrays(1)))))
    assert parent.ledger.envs_in_flight() == {1}
    assert parent.ledger.rests()[0] == Call("call", "x")
    feed(parent, joined(worker.send(Failure(-1, "m:E", "", ""))))
    feed(parent, joined(worker.send(Results([1]))))
    assert parent.ledger.envs_in_flight() == worker.ledger.envs_in_flight() == set()
    assert parent.ledger.rests() == []
    feed(worker, joined(parent.send(Step(0, stream=True))))
    assert parent.ledger.envs_in_flight() == {0, 1, 2}


def test_a_step_in_lockstep_is_not_in_flight():
    parent, _ = asked(Step(0), Step(1, [2, 0]))
    assert parent.ledger.envs_in_flight() == set()


def test_the_rest_of_a_step_has_the_actions_of_its_environments():
    parent, worker = asked(Step(1, [2, 0, 1], actions(3), [np.arange(6).reshape(3, 2), ["c", "a", "b"]], stream=True))
    feed(parent, joined(worker.send(Results([0], arrays(1), last=False))))
    rest = Step(1, [2, 1], [actions(3)[0][[0, 2]]], [np.arange(6).reshape(3, 2)[[0, 2]], ["c", "b"]], stream=True)
    for end in (parent, worker):
        assert_same(end.ledger.rests(), [rest])
    parent.send(Call("call", "x"))
    assert_same(parent.ledger.rests(), [rest, Call("call", "x")])


def test_the_rest_of_a_step_of_all_environments_can_be_asked_for():
    parent, worker = asked(Step(0, None, actions(3), [None, ["a", "b", "c"]], stream=True))
    assert parent.ledger.rests()[0] is parent.ledger.pending[0].request
    feed(parent, joined(worker.send(Results([1], arrays(1), last=False))))
    (rest,) = parent.ledger.rests()
    assert_same(rest, Step(0, [0, 2], [actions(3)[0][[0, 2]]], [None, ["a", "c"]], stream=True))
    another, again = opened()
    assert_same(feed(again, joined(another.send(rest))), [rest])


def test_the_rest_of_a_rollout_has_the_episodes_that_have_not_ended():
    parent, worker = asked(Rollout([[5, 50], [6, 60, {"x": 1}], [7, 70]], 10, 3), Rollout([[8, 80]], 10, 3))
    part = RolloutResult(column(5, 6), column(0, 0), samples(2), [[5, 1, 1, 0.0, {}]], False)
    feed(parent, joined(worker.send(part)))
    for end in (parent, worker):
        assert end.ledger.rests() == [Rollout([[6, 60, {"x": 1}], [7, 70]], 10, 3), Rollout([[8, 80]], 10, 3)]
        assert end.ledger.samples == 2


def test_the_samples_of_ended_episodes_count_towards_all_limits():
    first, second = Rollout([[5, 0], [6, 0]], 10, 3, limit=3), Rollout([[7, 0]], 10, 3, limit=9, made=1)
    parent, worker = asked(first, second)
    ended = [[5, 2, 2, 0.0, {}]]
    feed(parent, joined(worker.send(RolloutResult(column(5, 5), column(0, 1), samples(2), ended, False))))
    again = [replace(first, episodes=[[6, 0]], limit=1, made=2), replace(second, limit=7, made=3)]
    assert parent.ledger.rests() == again
    # those of the episode under way come again
    feed(parent, joined(worker.send(RolloutResult(column(6), column(0), samples(1), [], True))))
    assert parent.ledger.rests() == again[1:]
    assert parent.ledger.samples == 3
    ended = [[7, 8, 8, 0.0, {}]]
    feed(parent, joined(worker.send(RolloutResult(column(*[7] * 8), column(*range(8)), samples(8), ended, True))))
    assert parent.ledger.rests() == []


def test_a_failure_leaves_the_request_with_what_was_unanswered():
    parent, worker = opened()
    requests = [Step(0, [0, 2], stream=True), Call("call", "x"), Step(1)]
    for request in requests:
        feed(worker, joined(parent.send(request)))
    data = joined(worker.send(Results([2], arrays(1), last=False)))
    for _ in requests:
        data += joined(worker.send(Failure(-1, "m:E", "", "")))
    assert len(feed(parent, data)) == 4
    _, *failed = [pending.rest() for pending in parent.ledger.answered]  # the first reply was a part
    assert failed == [Step(0, [0], stream=True), Call("call", "x"), Step(1)]
    assert not worker.ledger.answered
    assert not parent.ledger.pending
