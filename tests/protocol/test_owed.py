"""What a ledger says is unanswered, against a model that keeps its own count of what was asked and what came."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from physgym.errors import ProtocolError
from physgym.protocol.messages import Call, CallResult
from tests.support.conversation import arrays, asked, assert_same, feed, joined, opened, samples
from tests.support.owed import MOVES, Model


@pytest.mark.slow
@given(MOVES)
@settings(max_examples=150, deadline=None)
def test_what_is_unanswered_is_what_was_asked_and_has_not_come(moves):
    (parent, worker), model, replies = opened(), Model(arrays, samples), 0
    for name, *arguments in moves:
        if (message := model.move(name, *arguments)) is None:
            continue
        if name == "ask":
            feed(worker, joined(parent.send(message)))
        else:
            feed(parent, joined(worker.send(message)))
            replies += 1
        for end in (parent, worker):  # as a death at this moment would leave it
            assert_same(end.ledger.rests(), model.rests())
            assert end.ledger.samples == model.samples
        assert parent.ledger.envs_in_flight() == model.envs_in_flight()
    assert len(parent.ledger.answered) == replies
    assert not worker.ledger.answered


def test_a_failure_says_what_of_its_request_had_not_come():
    (parent, worker), model = opened(), Model(arrays, samples)
    for kind in ("stream", "rollout"):
        feed(worker, joined(parent.send(model.ask(kind, [2, 0, 1], False, 0))))
        feed(parent, joined(worker.send(model.answer(1, False, 2))))
        feed(parent, joined(worker.send(model.fail())))
        assert_same(parent.ledger.answered[-1].rest(), model.failed[-1])
    assert not parent.ledger.pending


def test_what_it_is_for_stays_with_a_request():
    parent, worker = asked(Call("call", "x"), Call("call", "y"))
    parent.ledger.pending[1].context = "why"
    for _ in range(2):
        feed(parent, joined(worker.send(CallResult([1, 2, 3]))))
    assert [request.context for request in parent.ledger.answered] == [None, "why"]


def test_messages_before_an_illegal_one_are_not_lost():
    parent, worker = asked(Call("call", "x"), Call("call", "y"))
    data = joined(worker.send(CallResult([1, 2, 3])))
    with pytest.raises(ProtocolError) as caught:
        feed(parent, data + b"garbage that is as long as a header")
    assert caught.value.messages == [CallResult([1, 2, 3])]
    assert parent.ledger.rests() == [Call("call", "y")]
    assert len(parent.ledger.answered) == 1
