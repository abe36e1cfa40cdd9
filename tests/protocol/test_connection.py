"""Both ends of the protocol against each other, in memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.errors import ProtocolError
from physgym.protocol import codec, connection
from physgym.protocol.connection import Connection
from physgym.protocol.messages import (
    MESSAGE_TYPES,
    Assignment,
    Call,
    CallResult,
    Challenge,
    Failure,
    Hello,
    Predict,
    Ready,
    Refusal,
    Reset,
    Results,
    Role,
    Rollout,
    RolloutResult,
    ServiceAnswer,
    ServiceRequest,
    Step,
    Welcome,
    WorkerOffer,
)
from tests.conftest import label
from tests.support.conversation import (
    BIG,
    COUNT,
    EXAMPLES,
    FAILED,
    REQUESTS,
    SESSION,
    arrays,
    asked,
    assert_same,
    column,
    copy_of,
    expecting,
    feed,
    frame,
    joined,
    opened,
    other_than,
    reports,
    samples,
    state_of,
)


def replayed(role: Role, chunks: Any) -> list[Any]:
    """What one end of the session receives; what comes between two messages of its own is one stream."""
    ends = {end: Connection(end) for end in Role}
    received, waiting = [], b""
    for sender, message in SESSION:
        if sender is role:
            received += feed(ends[role], waiting, chunks)
            waiting = b""
            feed(ends[other_than(role)], joined(ends[role].send(message)))
        else:
            waiting += joined(ends[sender].send(message))
    return received + feed(ends[role], waiting, chunks)


def said_to(role: Role) -> list[Any]:
    return [message for sender, message in SESSION if sender is not role]


def test_the_session_holds_every_message_type():
    dialled = {WorkerOffer, Assignment, Refusal}  # in place of what others are started with
    dialled |= {ServiceRequest, ServiceAnswer}  # no worker at all
    assert {type(message) for _, message in SESSION} | dialled == set(MESSAGE_TYPES)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 15, 16, 17, 64, 1000, 1 << 16])
def test_every_message_survives_every_chunking(role, chunk):
    assert_same(replayed(role, [chunk]), said_to(role))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.sampled_from(Role))
@settings(max_examples=40, deadline=None)
def test_every_message_survives_irregular_chunks(chunks, role):
    assert_same(replayed(role, chunks), said_to(role))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_step_and_its_results_come_back_bit_by_bit(data):
    parent, worker = opened()
    chunks = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=8))
    rows = data.draw(st.none() | st.lists(st.integers(0, COUNT - 1), unique=True))
    number = COUNT if rows is None else len(rows)
    bits = data.draw(st.binary(min_size=16 * number, max_size=16 * number))
    force = np.frombuffer(bits, np.float64).reshape(number, 2)
    words = data.draw(st.lists(st.text(max_size=5), min_size=number, max_size=number))
    step = Step(data.draw(st.integers(0, 255)), rows, [force], [None, words], data.draw(st.booleans()))
    (got,) = feed(worker, joined(parent.send(step)), chunks)
    assert_same(got, step)
    image = np.frombuffer(data.draw(st.binary(min_size=24 * number, max_size=24 * number)), np.float32)
    results = Results(rows, [image.reshape(number, 2, 3), *arrays(number)[1:]], None, [words])
    (got,) = feed(parent, joined(worker.send(results)), chunks)
    assert_same(got, results)


@pytest.mark.slow
@given(st.lists(st.integers(1, 90_000), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_bodies_larger_than_the_input_buffer_stand_between_small_ones(chunks, number):
    parent, worker = opened(BIG)
    rng = np.random.default_rng(number)
    sent, data = [], b""
    for turn in range(number):
        feed(worker, joined(parent.send(Step(turn))) + joined(parent.send(Call("call", "x"))))
        observations = rng.normal(size=(2, 180, 180))
        flags = np.array([True, False])
        sent += [Results(None, [observations, rng.normal(size=2), flags, ~flags]), CallResult([turn, "x"])]
        data += joined(worker.send(sent[-2])) + joined(worker.send(sent[-1]))
    assert len(data) > number * 8 * 2 * 180 * 180 > connection.INPUT_SIZE
    assert_same(feed(parent, data, chunks), sent)


@pytest.mark.parametrize("length", range(connection.INPUT_SIZE // 2 - 40, connection.INPUT_SIZE // 2 + 40, 7))
@pytest.mark.parametrize("chunk", [1 << 20, 4099])
def test_bodies_as_long_as_half_the_input_buffer_and_about(length, chunk):
    parent, worker = opened()
    calls = [Call("call", "x", ["z" * (length - 40 + i)]) for i in range(4)]
    data = b"".join(joined(parent.send(call)) for call in calls)
    assert feed(worker, data, [chunk]) == calls


def test_messages_stay_as_they_are_when_more_arrive():
    parent, worker = asked(Step(0), Step(1))
    first, second = (Results(None, arrays(3)), Results(None, [a[::-1].copy() for a in arrays(3)]))
    (got,) = feed(parent, joined(worker.send(first)))
    feed(parent, joined(worker.send(second)))
    assert_same(got, first)


UNSENDABLE = [
    Step(0, None, [np.zeros((2, 3))]),
    Step(0, None, [np.zeros((2, 2))]),
    Step(0, [1], [np.zeros((2, 2))]),
    Step(0, None, []),
    Step(0, None, [np.array([["a", "b"]] * 3)]),
    Step(256),
    Step(-1),
    Step(0, [-1]),
    Step(0, None, None, [None, [object()] * 3]),
    Reset(0, [None], [True]),
    Reset(0, [None] * 3, [1, 0, 1]),
    Reset(0, [1.5] * 3, [True] * 3),
    Reset(-1, [None] * 3, [True] * 3),
    Reset(0, [None] * 3, [True] * 3, {"x": {1, 2}}),
    Call("call", "x", [lambda: None]),
    Call("call", "x", ["\ud800"]),
    Rollout([5], 1, 1),
    Rollout([[5, 0.5]], 1, 1),
    Rollout([[-1, 0]], 1, 1),
    Rollout([[1, 0, None]], 1, 1),
    Rollout([[1, 0, {}, {}]], 1, 1),
    Rollout([[1, 0]], 1, 1, "ignore"),
]


@pytest.mark.parametrize("message", UNSENDABLE, ids=label)
def test_what_cannot_travel_is_not_sent_and_changes_nothing(message):
    parent, worker = asked(Call("call", "x"))
    before = state_of(parent)
    with pytest.raises(ProtocolError):
        parent.send(message)
    assert state_of(parent) == before
    assert feed(worker, joined(parent.send(Step(1)))) == [Step(1)]


UNSENDABLE_REPLIES = [
    (Step(0), Results(None, arrays(2))),
    (Step(0), Results(None, arrays(3)[:-1])),
    (Step(0), Results([0], arrays(1))),
    (Step(0), Results(None, arrays(3), last=False)),
    (Step(0), Results([0, 1, 2], None, ([0], [{"x": object()}]))),
    (Step(0), Results(None, None, None, [], [replace(FAILED, env=3)])),
    (Step(0, [0, 1]), Results([0], arrays(1))),
    (Step(0, [0, 1]), Results([2], arrays(1), last=False)),
    (Step(0, [0, 1]), Results(None)),
    (Step(0, [0, 1]), Results([0], None, ([1], [{"x": 1}]), last=False)),
    (Step(0, [0, 1]), Results([0], None, None, [], [replace(FAILED, env=1)], last=False)),
    (Step(0, [0, 1]), Results([0], None, None, [], [], [1], last=False)),
    (Reset(0, [None] * 3, [True] * 3), Results([0, 1, 2], arrays(3))),
    (Call("call", "x"), CallResult([1, 2])),
    (Call("call", "x"), CallResult([1, 2, object()])),
    (Call("call", "x"), Failure(3, "m:E", "", "")),
    (Call("call", "x"), Failure(-2, "m:E", "", "")),
    (Call("call", "x"), Predict(-1, {})),
    (Call("call", "x"), Predict(3, {})),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(1), column(0), {"x": samples(1)["x"]}, [], False)),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(1), column(0), samples(2), [], False)),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(2), column(0), samples(1), [], False)),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(), column(), samples(0), [[2, 1, 0, 0.0, {}]], False)),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(), column(), samples(0), [[1, 1, 0, 0.0, {}]] * 2, True)),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(), column(), samples(0), [], True)),
    (Rollout([[1, 0]], 1, 1), RolloutResult(column(1), column(0), samples(1), [], False, reports=reports(1))),
    (Rollout([[1, 0]], 1, 1, reports=True), RolloutResult(column(1), column(0), samples(1), [], False)),
    (
        Rollout([[1, 0]], 1, 1, reports=True),
        RolloutResult(column(1), column(0), samples(1), [], False, None, None, reports(1, 0)),
    ),
]


@pytest.mark.parametrize(("request_", "reply"), UNSENDABLE_REPLIES, ids=label)
def test_a_reply_that_does_not_fit_its_request_is_not_sent_and_changes_nothing(request_, reply):
    parent, worker = asked(request_)
    before = state_of(worker)
    with pytest.raises(ProtocolError):
        worker.send(reply)
    assert state_of(worker) == before
    assert type(feed(parent, joined(worker.send(EXAMPLES[Failure])))[0]) is Failure


@pytest.mark.parametrize(("request_", "reply"), UNSENDABLE_REPLIES, ids=label)
def test_a_reply_that_does_not_fit_its_request_is_not_taken_either(request_, reply, monkeypatch):
    parent, worker = asked(request_)
    monkeypatch.setattr(worker, "_check_content", lambda message: None)
    monkeypatch.setattr(codec, "pack", lambda layout, arrays, number: layout.pack(arrays))
    try:
        data = joined(worker.send(reply))
    except ProtocolError:
        return  # it cannot even be encoded
    before = state_of(parent)
    with pytest.raises(ProtocolError):
        feed(parent, data)
    assert state_of(parent) == before


def test_a_message_longer_than_the_limit_is_not_sent(monkeypatch):
    parent, worker = opened()
    monkeypatch.setattr(connection, "MAX_BODY", 1000)
    with pytest.raises(ProtocolError, match="exceeds the limit of 1000"):
        parent.send(Call("call", "x" * 1000))
    assert feed(worker, joined(parent.send(Call("call", "x")))) == [Call("call", "x")]


def test_samples_travel_by_name_whatever_their_order():
    parent, worker = asked(Rollout([[0, 0]], 1, 1))
    turned = dict(reversed(samples(2).items()))
    sent = RolloutResult(column(0, 0), column(0, 1), turned, [[0, 2, 2, 0.0, {}]], True)
    (got,) = feed(parent, joined(worker.send(sent)))
    assert_same(got.samples, samples(2))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not a physgym frame"),
        (frame(Challenge, version=9), "speaks version 9 of the protocol, this end 7"),
        (frame(Challenge, version=1), "speaks version 1"),
        (frame(Challenge, code=99), "unknown message type 99"),
        (frame(Challenge, code=len(MESSAGE_TYPES)), f"unknown message type {len(MESSAGE_TYPES)}"),
        (frame(Challenge, sequence=1), "has sequence number 1 instead of 0"),
        (frame(Hello), "the parent may not send Hello in state 'challenge' with nothing unanswered"),
    ],
)
def test_garbage_is_refused_with_a_reason(data, text):
    with pytest.raises(ProtocolError, match=text):
        feed(Connection(Role.WORKER), data)


LIMITS = dict.fromkeys((Challenge, Hello, Welcome), 1 << 10)
LIMITS |= dict.fromkeys((Ready, WorkerOffer, Assignment, Refusal, ServiceRequest, ServiceAnswer), 1 << 24)


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
@pytest.mark.parametrize("beyond", [1, 2**40, 2**63])
def test_lengths_beyond_the_limit_are_refused_by_the_header(kind, beyond):
    limit = LIMITS.get(kind, 1 << 30)
    receiver, sequence = expecting(kind)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=f"exceeds the limit of {limit}"):
            feed(receiver, frame(kind, sequence=sequence, length=limit + beyond))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_no_memory_is_reserved_for_an_illegal_frame(monkeypatch):
    reserved = []
    monkeypatch.setattr(connection, "_reserve", lambda length: reserved.append(length) or memoryview(bytearray(length)))
    parent, worker = opened()
    for kind in MESSAGE_TYPES:
        with pytest.raises(ProtocolError):
            feed(copy_of(parent), frame(kind, length=1 << 24))
        if kind not in REQUESTS:
            with pytest.raises(ProtocolError):
                feed(copy_of(worker), frame(kind, length=1 << 24, sequence=1))
    assert not reserved
    feed(copy_of(worker), frame(Step, length=1 << 24, sequence=1))
    assert reserved == [1 << 24]


def test_a_legal_frame_takes_memory_as_it_arrives_not_as_it_is_declared():
    _, worker = opened()
    process = psutil.Process()
    before = process.memory_info().rss
    feed(worker, frame(Step, length=codec.MAX_BODY, sequence=1) + bytes(100_000))
    assert process.memory_info().rss - before < 50_000_000


def test_a_body_for_which_there_is_no_memory_ends_the_connection_alone(monkeypatch):
    def exhausted(*arguments: Any) -> Any:
        raise MemoryError

    _, worker = opened()
    monkeypatch.setattr(connection.np, "empty", exhausted)
    with pytest.raises(ProtocolError, match="no memory for a body of 1000000 bytes"):
        feed(worker, frame(Step, length=1_000_000, sequence=1))
