"""Both ends of the protocol against each other, in memory."""

from __future__ import annotations

import copy
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol import wire
from physgym.protocol.msgpack_values import encode_value
from physgym.protocol.wire import (
    Attach,
    Attached,
    Call,
    CallResult,
    Challenge,
    Close,
    Closed,
    Connection,
    Failure,
    Hello,
    Parameters,
    Predict,
    Prediction,
    Ready,
    Rejected,
    Reset,
    Results,
    Role,
    Rollout,
    RolloutResult,
    Step,
    Welcome,
)
from tests.conftest import label

COUNT = 3
OBSERVATION = spaces.Dict(
    [
        ("image", spaces.Box(-1, 1, (2, 3), np.float32)),
        ("empty", spaces.Box(-1, 1, (0, 2), np.float64)),
        ("mode", spaces.Discrete(4)),
        ("text", spaces.Text(9)),
    ]
)
ACTION = spaces.Dict({"force": spaces.Box(-1, 1, (2,), np.float64), "word": spaces.Text(5)})
FIELDS = [
    {"name": "x", "shape": [3], "dtype": "<f4", "role": "input", "unit": "m"},
    {"name": "y", "shape": [], "dtype": ">i2", "role": "target", "unit": ""},
]
SAMPLE = spaces.Dict([("x", spaces.Box(-9, 9, (3,), np.float32)), ("y", spaces.Box(-9, 9, (), np.int16))])
PARAMETERS = spaces.Dict([("mass", spaces.Box(0, 1, (), np.float64)), ("kind", spaces.MultiDiscrete([2, 3]))])
PARAMETER_FIELDS = [
    {"name": "mass", "shape": [], "dtype": "<f8", "role": "additional", "unit": "kg"},
    {"name": "kind", "shape": [2], "dtype": "<i8", "role": "additional", "unit": ""},
]
DESCRIPTION = {
    "observation_space": walk.to_json(OBSERVATION),
    "observation_spaces": [],
    "action_space": walk.to_json(ACTION),
    "sample_space": walk.to_json(SAMPLE),
    "sample_fields": FIELDS,
    "parameter_space": walk.to_json(PARAMETERS),
    "parameter_fields": PARAMETER_FIELDS,
    "metadata": {"render_fps": 30},
    "render_mode": None,
    "max_episode_steps": 200,
}
READY = Ready(COUNT, DESCRIPTION)
NAN = np.frombuffer(struct.pack("<I", 0x7FC12345), np.float32)[0]  # a NaN with a payload


def arrays(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    image = rng.normal(size=(number, 2, 3)).astype(np.float32)
    image[:, 0, 0], image[:, 0, 1] = NAN, -0.0
    flags = np.arange(number) % 2 == 0
    rewards = rng.normal(size=number)
    return [image, np.zeros((number, 0, 2)), np.arange(number), rewards, flags, ~flags]


def actions(number: int) -> list[np.ndarray]:
    return [np.random.default_rng(number).normal(size=(number, 2))]


def samples(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {"x": rng.normal(size=(number, 3)).astype("<f4"), "y": np.arange(number).astype(">i2")}


def parameters(*episodes: int) -> Parameters:
    number = len(episodes)
    values = {"mass": np.linspace(0, 1, number), "kind": np.arange(2 * number).reshape(number, 2)}
    return Parameters(column(*episodes), values)


def rejected(*episodes: int) -> Rejected:
    steps = column(*range(len(episodes)))
    return Rejected(column(*episodes), steps, [f"reason {i} ä" for i in steps], samples(len(episodes)))


def column(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


FAILED = Failure(2, "builtins:ValueError", "no", "Traceback\n", "reset")
GRAPH = GraphInstance(np.ones((2, 1), np.float32), np.array([1]), np.array([[0, 1]]))
SESSION: list[tuple[Role, Any]] = [
    (Role.PARENT, Challenge(b"n" * 32)),
    (Role.WORKER, Hello(0, 4711, b"m" * 32, b"p" * 32)),
    (Role.PARENT, Welcome(b"q" * 32)),
    (Role.WORKER, READY),
    (Role.PARENT, Attach(6, 3, 2, 4096)),
    (Role.WORKER, Attached()),
    (Role.PARENT, Reset(1, [None, 7, 2**70], [True, False, True], {"gravity": np.float32(9.81)})),
    (
        Role.WORKER,
        Results(None, arrays(3), ([0, 1], {"t": np.array([0.5, -0.0])}), [["a", "b", None]], [FAILED], [1]),
    ),
    (Role.PARENT, Step(0, [2, 0], actions(2), [np.array([[1, 2], [3, 4]]), ["up", ""]], stream=True)),
    (Role.PARENT, Call("call", "method", [1, (2, "x")], {"big": 2**80, "graph": GRAPH})),
    (Role.WORKER, Predict(1, {"x": np.ones(3, ">f8")})),
    (Role.PARENT, Prediction({"y": np.array(2.5)})),
    (Role.WORKER, Results([2], arrays(1), None, [["c"]], last=False)),
    (Role.WORKER, Results([0], arrays(1), ([0], [{"why": "cut", "n": None}]), [["d"]], [], [0])),
    (Role.WORKER, CallResult([np.random.default_rng(3), [GRAPH, float("nan"), 2**100], OBSERVATION])),
    (Role.PARENT, Step(1)),
    (Role.WORKER, Results()),
    (Role.PARENT, Rollout([[5, 2**63], [8, 1]], 10, 3)),
    (Role.WORKER, RolloutResult(column(5, 5), column(0, 2), samples(2), [[5, 3, 2, 0.25, {1: "diverged"}]], False)),
    (Role.WORKER, RolloutResult(column(), column(), samples(0), [[8, 0, 0, 0.0, {}]], True)),
    (Role.PARENT, Rollout([[5, 1, {"parameters": {"mass": 0.5}}], [6, 2], [7, 3, {}]], 10, 3, "reject", True)),
    (
        Role.WORKER,
        RolloutResult(column(5, 6), column(1, 0), samples(2), [], False, parameters(5, 6), rejected(5, 6, 6)),
    ),
    (Role.WORKER, RolloutResult(column(), column(), samples(0), [], False, parameters(7))),
    (
        Role.WORKER,
        RolloutResult(
            column(),
            column(),
            samples(0),
            [[i, 1, 0, 0.0, {}] for i in (5, 6, 7)],
            True,
            None,
            rejected(7),
        ),
    ),
    (Role.PARENT, Call("set", "gravity", [1, 2, 3])),
    (Role.WORKER, Failure(-1, "m:E", "text", "", "gravity")),
    (Role.PARENT, Close()),
    (Role.WORKER, Closed()),
]
OPENED = 4  # messages until the worker is ready
REQUESTS = {Attach, Reset, Step, Rollout, Call, Close}


# --- helpers, also of test_fuzz.py


def joined(buffers: Any) -> bytes:
    return b"".join(bytes(part) for part in buffers)


def feed(connection: Connection, data: bytes, chunks: Any = (1 << 20,)) -> list[Any]:
    """Pass on bytes in pieces of the given sizes, used in turn."""
    messages, turn = [], 0
    view = memoryview(data)
    while view:
        target = connection.get_buffer()
        assert len(target) > 0
        count = min(len(target), chunks[turn % len(chunks)], len(view))
        turn += 1
        target[:count] = view[:count]
        view = view[count:]
        messages += connection.buffer_updated(count)
    return messages


def frame(kind: type[Any], body: bytes = b"", *, sequence: int = 0, length: int | None = None, **other: Any) -> bytes:
    header = {"magic": b"PG", "version": wire.VERSION, "code": wire.MESSAGE_TYPES.index(kind), **other}
    return wire.HEADER.pack(*header.values(), sequence, len(body) if length is None else length) + body


def opened(ready: Ready = READY) -> tuple[Connection, Connection]:
    """Parent and worker that have said everything up to `Ready`."""
    ends = {role: Connection(role) for role in Role}
    for sender, message in [*SESSION[: OPENED - 1], (Role.WORKER, ready)]:
        tell(ends, sender, message)
    return ends[Role.PARENT], ends[Role.WORKER]


def other_than(role: Role) -> Role:
    return Role.WORKER if role is Role.PARENT else Role.PARENT


def tell(ends: dict[Role, Connection], sender: Role, message: Any) -> Any:
    (got,) = feed(ends[other_than(sender)], joined(ends[sender].send(message)))
    return got


def asked(*requests: Any, ready: Ready = READY) -> tuple[Connection, Connection]:
    """Parent and worker after `Ready` and some requests."""
    parent, worker = opened(ready)
    for request in requests:
        feed(worker, joined(parent.send(request)))
    return parent, worker


def content(message: Any) -> Any:
    return [getattr(message, name) for name in message.__slots__]


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert a.shape == b.shape
        assert_same(a.ravel().tolist(), b.ravel().tolist())
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        assert a.dtype.byteorder == b.dtype.byteorder
        assert np.shape(a) == np.shape(b)
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, np.random.Generator):
        assert_same(a.bit_generator.state, b.bit_generator.state)
    elif type(a) in (*wire.MESSAGE_TYPES, Parameters, Rejected):
        assert_same(content(a), content(b))
    elif isinstance(a, float | complex):
        assert np.array(a).tobytes() == np.array(b).tobytes()
    else:
        assert a == b


def state_of(connection: Connection) -> Any:
    return copy.deepcopy((connection.state, connection.pending, connection.asking, connection._sequence))


# --- round trips


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
    assert {type(message) for _, message in SESSION} == set(wire.MESSAGE_TYPES)


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


BIG = Ready(
    2,
    {
        **DESCRIPTION,
        "action_space": walk.to_json(spaces.Discrete(2)),
        "observation_space": walk.to_json(spaces.Box(-1, 1, (180, 180), np.float64)),
    },
)


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
    assert len(data) > number * 8 * 2 * 180 * 180 > wire.INPUT_SIZE
    assert_same(feed(parent, data, chunks), sent)


@pytest.mark.parametrize("length", range(wire.INPUT_SIZE // 2 - 40, wire.INPUT_SIZE // 2 + 40, 7))
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


# --- which message may be sent when

EXAMPLES: dict[type[Any], Any] = {type(message): message for _, message in SESSION} | {
    Results: Results(None, arrays(3)),
    Reset: Reset(0, [None] * 3, [True] * 3),
    Rollout: Rollout([[5, 2**63], [8, 1, {"gravity": 1.0}]], 10, 3),
    CallResult: CallResult([1, 2, 3]),
    RolloutResult: RolloutResult(column(), column(), samples(0), [[5, 1, 0, 0.0, {}], [8, 0, 0, 0.0, {}]], True),
    Step: Step(0),
    Failure: Failure(-1, "m:E", "text", ""),
}
ANSWERS = {Failure, Predict}
LEGAL: dict[str, tuple[int, list[Any], set[type[Any]], set[type[Any]]]] = {
    # state: messages of the session so far, then these; what the parent may send, what the worker
    "challenge": (0, [], {Challenge}, set()),
    "hello": (1, [], set(), {Hello}),
    "welcome": (2, [], {Welcome}, set()),
    "building": (3, [], set(), {Ready, Failure}),
    "ready": (4, [], REQUESTS, set()),
    "attaching": (4, [Attach], REQUESTS, {Attached} | ANSWERS),
    "resetting": (4, [Reset], REQUESTS, {Results} | ANSWERS),
    "stepping": (4, [Step], REQUESTS, {Results} | ANSWERS),
    "calling": (4, [Call], REQUESTS, {CallResult} | ANSWERS),
    "rolling out": (4, [Rollout], REQUESTS, {RolloutResult} | ANSWERS),
    "asking": (4, [Step, Predict], REQUESTS | {Prediction}, set()),
    "answered": (4, [Step, Predict, Prediction], REQUESTS, {Results} | ANSWERS),
    "pipelined": (4, [Call, Step], REQUESTS, {CallResult} | ANSWERS),
    "closing": (4, [Close], set(), {Closed, Failure}),
    "closing, step unanswered": (4, [Step, Close], set(), {Results} | ANSWERS),
    "closing, asking": (4, [Step, Predict, Close], {Prediction}, set()),
    "closed": (4, [Close, Closed], set(), set()),
    "closed by failure": (4, [Close, Failure], set(), set()),
    "not built": (3, [Failure], set(), set()),
}
SENDERS = {kind: sender for sender, message in SESSION for kind in [type(message)]}


def brought_to(name: str) -> dict[Role, Connection]:
    ends = {role: Connection(role) for role in Role}
    number, further, _, _ = LEGAL[name]
    for sender, message in SESSION[:number]:
        tell(ends, sender, message)
    for kind in further:
        tell(ends, SENDERS[kind], EXAMPLES[kind])
    return ends


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_legal_is_sent_and_received(name):
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        for kind in legal:
            assert type(tell(brought_to(name), role, EXAMPLES[kind])) is kind


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_illegal_is_not_sent_and_changes_nothing(name):
    ends = brought_to(name)
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        before = state_of(ends[role])
        for kind in set(wire.MESSAGE_TYPES) - legal:
            with pytest.raises(ProtocolError, match=f"the {role.value} may not send {kind.__name__} in state"):
                ends[role].send(EXAMPLES[kind])
            assert state_of(ends[role]) == before
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        for kind in sorted(legal, key=str)[:1]:
            assert type(tell(ends, role, EXAMPLES[kind])) is kind


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_illegal_is_refused_by_its_header_alone(name):
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        for kind in set(wire.MESSAGE_TYPES) - legal:
            ends = brought_to(name)
            receiver = ends[other_than(role)]
            with pytest.raises(ProtocolError, match=f"the {role.value} may not send {kind.__name__}"):
                feed(receiver, frame(kind, length=100))


@pytest.mark.parametrize("role", Role)
def test_an_end_does_not_take_its_own_messages(role):
    for number, (sender, message) in enumerate(SESSION):
        ends = {end: Connection(end) for end in Role}
        for earlier in SESSION[:number]:
            tell(ends, *earlier)
        if sender is role:
            data = joined(ends[role].send(message))
            with pytest.raises(ProtocolError, match="may not send"):
                feed(ends[role], data)


# --- what cannot be sent


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
    monkeypatch.setattr(wire, "_pack", lambda layout, arrays, number: layout.pack(arrays))
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
    monkeypatch.setattr(wire, "MAX_BODY", 1000)
    with pytest.raises(ProtocolError, match="exceeds the limit of 1000"):
        parent.send(Call("call", "x" * 1000))
    assert feed(worker, joined(parent.send(Call("call", "x")))) == [Call("call", "x")]


def test_samples_travel_by_name_whatever_their_order():
    parent, worker = asked(Rollout([[0, 0]], 1, 1))
    turned = dict(reversed(samples(2).items()))
    sent = RolloutResult(column(0, 0), column(0, 1), turned, [[0, 2, 2, 0.0, {}]], True)
    (got,) = feed(parent, joined(worker.send(sent)))
    assert_same(got.samples, samples(2))


# --- requests, replies, questions


def test_a_step_is_answered_in_parts_and_then_the_next_request():
    parent, worker = asked(Step(0, stream=True), Call("call", "x"))
    for rows, last in (([1], False), ([0], False), ([2], True)):
        assert [request.kind for request in parent.pending] == [Step, Call]
        with pytest.raises(ProtocolError):
            worker.send(CallResult([1, 2, 3]))
        feed(parent, joined(worker.send(Results(rows, arrays(1), last=last))))
    assert [request.kind for request in parent.pending] == [Call]
    feed(parent, joined(worker.send(CallResult([1, 2, 3]))))
    assert not parent.pending
    assert not worker.pending


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
    assert [request.kind for request in parent.pending] == [Step]


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
    numbers = [wire.HEADER.unpack(request[0])[3] for request in requests]
    assert numbers == [1, 2, 3]
    feed(worker, b"".join(map(joined, requests)))
    replies = [worker.send(message) for message in (Results(None), CallResult([1, 2, 3]), Closed())]
    assert [wire.HEADER.unpack(reply[0])[3] for reply in replies] == numbers


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
    parent._sequence = worker._sequence = 2**32 - 1
    feed(worker, joined(parent.send(Call("call", "x"))))
    assert worker.pending[0].sequence == 0
    assert feed(parent, joined(worker.send(CallResult([1, 2, 3])))) == [CallResult([1, 2, 3])]


# --- what is wrong with a description


def described(**changes: Any) -> Any:
    return {**DESCRIPTION, **changes}


BOX = walk.to_json(spaces.Box(-1, 1, (2,), np.float32))
DISCRETE = walk.to_json(spaces.Discrete(3))


def nested_space(depth: int) -> Any:
    space: Any = BOX
    for _ in range(depth):
        space = {"type": "Tuple", "spaces": [space]}
    return space


WRONG_SPACES = [
    None,
    [],
    {},
    {"type": "Box"},
    {"type": ["Box"]},
    {"type": "Unknown"},
    {**BOX, "dtype": "|O"},
    {**BOX, "dtype": "(1,"},
    {**BOX, "dtype": "i4, ("},
    {**BOX, "dtype": "<U9"},
    {**BOX, "dtype": None},
    {**BOX, "dtype": 7},
    {**BOX, "shape": 2},
    {**BOX, "shape": [-2]},
    {**BOX, "shape": [2.0]},
    {**BOX, "shape": ["2"]},
    {**BOX, "shape": [1] * 65},
    {**BOX, "shape": [2**40]},
    {**BOX, "shape": [2**16, 2**16]},
    {**BOX, "shape": [2**62] * 64},
    {**BOX, "low": "a"},
    {**BOX, "low": []},
    {**BOX, "low": 2**2000},
    {**BOX, "dtype": "|u1", "low": 300},
    {**DISCRETE, "n": 2**70},
    {**DISCRETE, "n": 0},
    {**DISCRETE, "dtype": "(1,"},
    {**DISCRETE, "dtype": "<f4"},
    {"type": "MultiBinary", "n": 2**40},
    {"type": "MultiBinary", "n": [2**20, 2**20]},
    {"type": "MultiBinary", "n": "many"},
    {"type": "MultiDiscrete", "nvec": [2**70], "start": [0], "dtype": "<i8"},
    {"type": "Dict", "spaces": 5},
    {"type": "Dict", "spaces": "ab"},
    {"type": "Dict", "spaces": [[["unhashable"], BOX]]},
    {"type": "Tuple", "spaces": [BOX, None]},
    {"type": "Text", "max_length": 3, "min_length": 5, "charset": "a"},
    {"type": "Text", "max_length": 3, "min_length": 0, "charset": 5},
    {"type": "Graph", "nodes": {**BOX, "shape": [2**40]}, "edges": None},
    {"type": "Sequence", "space": {**BOX, "shape": [2**40]}, "stack": False},
    {"type": "OneOf", "spaces": [{**BOX, "shape": [2**40]}]},
    nested_space(400),
]
WRONG_FIELDS = [
    {},
    5,
    [5],
    [{}],
    [{"name": "x"}],
    [{**FIELDS[0], "name": 3}],
    [{**FIELDS[0], "name": ".."}],
    [FIELDS[0], FIELDS[0]],
    [{**FIELDS[0], "shape": [-3]}],
    [{**FIELDS[0], "shape": [1.5]}],
    [{**FIELDS[0], "shape": 3}],
    [{**FIELDS[0], "shape": [2**40, 2**40]}],
    [{**FIELDS[0], "dtype": "O"}],
    [{**FIELDS[0], "dtype": "O,O"}],
    [{**FIELDS[0], "dtype": "<U0"}],
    [{**FIELDS[0], "dtype": "V0"}],
    [{**FIELDS[0], "dtype": None}],
    [{**FIELDS[0], "dtype": "(1,"}],
    [{**FIELDS[0], "role": "secret"}],
    [{**FIELDS[0], "role": ["input"]}],
    [{**FIELDS[0], "unit": 5}],
]
WRONG = [
    *(described(observation_space=space) for space in WRONG_SPACES),
    *(described(action_space=space) for space in WRONG_SPACES),
    *(described(observation_spaces=[DESCRIPTION["observation_space"]] * 2 + [space]) for space in WRONG_SPACES),
    *(described(sample_fields=fields) for fields in WRONG_FIELDS),
    *(described(parameter_fields=fields) for fields in WRONG_FIELDS),
    *(described(parameter_space=space) for space in WRONG_SPACES),
    described(sample_space=None),
    described(parameter_fields=None),
    described(sample_space=walk.to_json(PARAMETERS)),
    described(parameter_fields=PARAMETER_FIELDS[:1]),
    described(observation_spaces=[BOX, BOX, BOX]),
    described(observation_spaces=[DESCRIPTION["observation_space"]]),
    described(observation_spaces=None),
    described(metadata=None),
    described(further=1),
    *({k: v for k, v in DESCRIPTION.items() if k != key} for key in DESCRIPTION),
    {},
]


@pytest.mark.parametrize("description", WRONG, ids=lambda value: "")
def test_a_wrong_description_is_refused_without_spending_memory(description):
    parent = brought_to("building")[Role.PARENT]
    body = encode_value({"count": COUNT, "description": description})
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="describes its environments wrongly"):
            feed(parent, frame(Ready, body))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
    assert parent.state == "building"
    assert parent.agreement is None


@pytest.mark.parametrize("count", [0, -1])
def test_a_worker_has_environments(count):
    with pytest.raises(ProtocolError, match=f"announces {count} environments"):
        feed(brought_to("building")[Role.PARENT], frame(Ready, encode_value({"count": count, "description": {}})))


# --- hostile bodies

BY_FIELDS = [kind for kind in wire.MESSAGE_TYPES if kind not in wire._DECODERS]
PLACE = {Challenge: 0, Hello: 1, Welcome: 2, Ready: 3}  # else after Ready and, for replies, their request
REQUEST_OF = {reply: request for request, reply in wire.REPLIES.items()} | {Failure: Call, Predict: Call}


def expecting(kind: type[Any]) -> tuple[Connection, int]:
    """An end that would take such a message, and the sequence number it wants."""
    ends = {role: Connection(role) for role in Role}
    for sender, message in SESSION[: PLACE.get(kind, OPENED)]:
        tell(ends, sender, message)
    if kind in REQUEST_OF:
        tell(ends, Role.PARENT, EXAMPLES[REQUEST_OF[kind]])
    if kind is Prediction:
        tell(ends, Role.PARENT, EXAMPLES[Step])
        tell(ends, Role.WORKER, EXAMPLES[Predict])
    receiver = ends[other_than(SENDERS[kind])]
    return receiver, receiver._expected(kind)


def refused(kind: type[Any], body: bytes, match: str | None = None) -> None:
    receiver, sequence = expecting(kind)
    before = state_of(receiver)
    with pytest.raises(ProtocolError, match=match):
        feed(receiver, frame(kind, body, sequence=sequence))
    assert state_of(receiver) == before


@pytest.mark.parametrize("kind", BY_FIELDS)
def test_bodies_with_other_fields_or_types_are_refused(kind):
    fields = wire._plain(EXAMPLES[kind])
    receiver, sequence = expecting(kind)
    assert_same(feed(receiver, frame(kind, encode_value(fields), sequence=sequence)), [EXAMPLES[kind]])
    for body in (b"", b"\xc1", encode_value(fields)[:-1], encode_value(fields) + b"\x00"):
        refused(kind, body, "cannot be decoded")
    wrong: list[Any] = [None, 5, [], [fields], {**fields, "more": 1}, {**fields, 7: 1}]
    for body in wrong:
        refused(kind, encode_value(body), "must have the keys")
    for name in fields:
        refused(kind, encode_value({key: value for key, value in fields.items() if key != name}), "must have the keys")
        # before Welcome no extension type is even decoded
        text = "cannot be decoded" if kind in wire._UNPROVED else rf"{kind.__name__}\.{name} is a complex"
        refused(kind, encode_value({**fields, name: 1j}), text)


def head(*values: int, rows: Any = ()) -> bytes:
    return struct.pack("<BBHI", *values) + np.array(rows, "<u4").tobytes()


ALL = 0xFFFFFFFF
GOOD_ACTIONS = actions(3)[0].tobytes()
WRONG_STEPS = {
    b"": "ends before its head",
    head(0, 0, 0, ALL)[:-1]: "ends before its head",
    head(0, 2, 0, ALL): "flags",
    head(0, 8, 0, ALL): "flags",
    head(0, 0, 1, ALL): "flags",
    head(0, 0, 0, 4, rows=[0, 1, 2, 0]): "names 4 of 3 environments",
    head(0, 0, 0, ALL - 1): "names 4294967294 of 3 environments",
    head(0, 0, 0, 2, rows=[0]): "names 2 of 3 environments",
    head(0, 0, 0, 1, rows=[3]): r"names environments \[3\] of 3",
    head(0, 0, 0, 2, rows=[1, 1]): r"names environments \[1, 1\] of 3",
    head(0, 4, 0, ALL): "expected 48 bytes of arrays, got 0",
    head(0, 4, 0, ALL) + GOOD_ACTIONS[:-1]: "expected 48 bytes of arrays, got 47",
    head(0, 4, 0, ALL) + GOOD_ACTIONS + b"\x00": "expected values of 2 leaves",
    head(0, 4, 0, ALL) + GOOD_ACTIONS + b"\xc1": "cannot be decoded",
    head(0, 0, 0, ALL) + encode_value({}): "expected values of 2 leaves",
    head(0, 0, 0, ALL) + encode_value([["a"] * 3]): "expected values of 2 leaves",
    head(0, 0, 0, ALL) + encode_value([None, ["a", "b"]]): "expected 3 actions 'word', got list",
    head(0, 0, 0, ALL) + encode_value([None, "abc"]): "expected 3 actions 'word', got str",
    head(0, 0, 0, ALL) + encode_value([None, None]): "expected 3 actions 'word', got None",
    head(0, 0, 0, ALL) + encode_value([[1, 2], ["a"] * 3]): "expected 3 actions 'force', got list",
    head(0, 0, 0, ALL) + encode_value([np.zeros((3, 1)), ["a"] * 3]): "expected 3 actions 'force', got ndarray",
}


@pytest.mark.parametrize(("body", "text"), WRONG_STEPS.items(), ids=lambda value: "")
def test_steps_with_wrong_bodies_are_refused(body, text):
    refused(Step, body, text)


GOOD_ARRAYS = b"".join(array.tobytes() for array in arrays(3))


def results(*tail: Any) -> bytes:
    return head(0, 2, 0, ALL) + encode_value(list(tail))


PLAIN_FAILURE = wire._plain(FAILED)
WRONG_RESULTS = {
    b"": "ends before its head",
    head(1, 2, 0, ALL): "names a slot",
    head(0, 3, 0, ALL): "flags",
    head(0, 2, 9, ALL): "flags",
    head(0, 0, 0, ALL): "must name its environments",
    head(0, 2, 0, 1, rows=[1]): "leaves out environments",
    head(0, 2, 0, 9, rows=range(9)): "names 9 of 3",
    head(0, 6, 0, ALL) + GOOD_ARRAYS[:-1]: "bytes of arrays",
    head(0, 6, 0, ALL) + GOOD_ARRAYS + b"\x00": "tail of a Results",
    results(): "tail of a Results",
    results(None, [], []): "tail of a Results",
    results(None, [], {}, []): "tail of a Results",
    results(None, [["a"]], [], []): "expected 1 lists of 3",
    results(None, [], [None], []): "must have the keys",
    results(None, [], [{}], []): "must have the keys",
    results(None, [], [{**PLAIN_FAILURE, "env": "0"}], []): "Failure.env is a str",
    results(None, [], [{**PLAIN_FAILURE, "env": 3}], []): "names environment 3 of 3",
    results(None, [], [{**PLAIN_FAILURE, "env": -1}], []): "names environment -1 of 3",
    results(None, [], [], [3]): "expected indices",
    results(None, [], [], [-1]): "expected indices",
    results(None, [], [], [True]): "expected indices",
    results(None, [], [], None): "expected indices",
    results(5, [], [], []): "infos",
    results(([0], [{}, {}]), [], [], []): "infos",
    results(([3], [{}]), [], [], []): "infos",
    results(([0, 0], [{}, {}]), [], [], []): "infos",
    results(([], []), [], [], []): "infos",
    results(([0], [5]), [], [], []): "infos",
    results(([0, 1], {"x": np.zeros(3)}), [], [], []): "infos",
    results(([0, 1], {"x": np.array(3)}), [], [], []): "infos",
    results(([0, 1], {"x": "ab"}), [], [], []): "infos",
    results(([0, 1], {"x": {"y": [1]}}), [], [], []): "infos",
}


@pytest.mark.parametrize(("body", "text"), WRONG_RESULTS.items(), ids=lambda value: "")
def test_results_with_wrong_bodies_are_refused(body, text):
    refused(Results, body, text)


def rollout(meta: Any, data: bytes = b"", told: Any = None, apart: Any = None) -> bytes:
    body = encode_value([*meta, told, apart])
    return struct.pack("<I", len(body)) + body + data


WRONG_ROLLOUTS = {
    b"": "ends before its head",
    b"\x01\x00\x00": "ends before its head",
    b"\xff\xff\xff\xff": "ends within its head",
    struct.pack("<I", 100) + encode_value([column(), column(), [], False]): "ends within its head",
    struct.pack("<I", 0): "cannot be decoded",
    rollout([column(), column(), []]): "head of a RolloutResult",
    rollout([column(), column(), {}, True]): "head of a RolloutResult",
    rollout([column(), column(), [], False, None]): "head of a RolloutResult",
    rollout([column(), column(), [], False], told=[5]): "parameters is wrong",
    rollout([column(), column(), [], False], told=column(5)[None]): "parameters is wrong",
    rollout([column(), column(), [], False], bytes(48), told=column(5, 5)): "parameters is wrong",
    rollout([column(), column(), [], False], bytes(23), told=column(5)): "bytes of arrays",
    rollout([column(), column(), [], False], bytes(25), told=column(5)): "bytes of arrays",
    rollout([column(), column(), [], False], bytes(24), told=column(6)): r"episodes \[6\] that are not under way",
    rollout([column(), column(), [], False], apart={}): "rejected is wrong",
    rollout([column(), column(), [], False], apart=[column(5), column(0)]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), column(), [""]]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), column(0), []]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), column(0), [1]]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), 0, [""]]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(13), apart=[column(5), column(0), [""]]): "bytes of arrays",
    rollout([column(), column(), [], False], bytes(14), apart=[column(6), column(0), [""]]): "not under way",
    rollout([column(), column(), [], 1]): "head of a RolloutResult",
    rollout([column(5), column(), [], False]): "equally long columns",
    rollout([[5], [0], [], False]): "equally long columns",
    rollout([column(), None, [], False]): "wrong|equally long",
    rollout([np.array(5), np.array(5), [], False]): "wrong|equally long",
    rollout([np.array([5.0]), column(0), [], False]): "equally long columns",
    rollout([column(5)[None], column(0)[None], [], False]): "equally long columns",
    rollout([column(5), column(0), [], False]): "bytes of arrays",
    rollout([column(), column(), [], False], b"\x00"): "bytes of arrays",
    rollout([column(6), column(0), [], False], bytes(14)): r"episodes \[6\] that are not under way",
    rollout([column(), column(), [], True]): "leaves out 2 episodes",
    **{
        rollout([column(), column(), [ended], False]): "ended is wrong"
        for ended in (
            (5,),
            [5],
            [None, 0, 0, 0.0, {}],
            [5, -1, 0, 0.0, {}],
            [5, 0, None, 0.0, {}],
            [5, 0, 0, "0", {}],
            [5, 0, 0, 0.0, []],
        )
    },
    rollout([column(), column(), [[6, 0, 0, 0.0, {}]], False]): r"episodes \[6\] that are not under way",
}


@pytest.mark.parametrize(("body", "text"), WRONG_ROLLOUTS.items(), ids=lambda value: "")
def test_rollout_results_with_wrong_bodies_are_refused(body, text):
    refused(RolloutResult, body, text)


WRONG_CONTENTS = [
    Reset(0, [None] * 2, [True] * 3),
    Reset(0, [None] * 3, [True] * 4),
    Reset(0, ["1"] * 3, [True] * 3),
    Reset(0, [None] * 3, [None] * 3),
    Reset(256, [None] * 3, [True] * 3),
    Rollout([5], 1, 1),
    Rollout([[5]], 1, 1),
    Rollout([[5, None]], 1, 1),
    Rollout([{}], 1, 1),
    Rollout([[5, 1, []]], 1, 1),
    Rollout([[5, 1]], 1, 1, ""),
    CallResult([]),
    CallResult([1] * 4),
    Failure(3, "m:E", "", ""),
    Failure(-2, "m:E", "", ""),
    Failure(2**70, "m:E", "", ""),
    Predict(-1, {}),
    Predict(3, {}),
]


@pytest.mark.parametrize("message", WRONG_CONTENTS, ids=label)
def test_right_types_with_wrong_contents_are_refused(message):
    refused(type(message), encode_value(wire._plain(message)))


@pytest.mark.parametrize("kind", wire.MESSAGE_TYPES)
@pytest.mark.parametrize("depth", [33, 400, 3000])
def test_deep_nesting_ends_no_process(kind, depth):
    body = msgpack.packb(None)
    for _ in range(depth):
        body = msgpack.packb(msgpack.ExtType(3, body))
    too_long = len(body) > 1024 and kind in (Challenge, Hello, Welcome)
    begin = {Step: head(0, 0, 0, ALL), Results: head(0, 2, 0, ALL), RolloutResult: struct.pack("<I", len(body))}
    refused(kind, begin.get(kind, b"") + body, "exceeds the limit" if too_long else "cannot be decoded")


# --- headers and lengths


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not a physgym frame"),
        (frame(Challenge, version=9), "speaks version 9 of the protocol, this end 4"),
        (frame(Challenge, version=1), "speaks version 1"),
        (frame(Challenge, code=99), "unknown message type 99"),
        (frame(Challenge, code=18), "unknown message type 18"),
        (frame(Challenge, sequence=1), "has sequence number 1 instead of 0"),
        (frame(Hello), "the parent may not send Hello in state 'challenge' with nothing unanswered"),
    ],
)
def test_garbage_is_refused_with_a_reason(data, text):
    with pytest.raises(ProtocolError, match=text):
        feed(Connection(Role.WORKER), data)


LIMITS = {Challenge: 1 << 10, Hello: 1 << 10, Welcome: 1 << 10, Ready: 1 << 24, Step: 1 << 30, Results: 1 << 30}


@pytest.mark.parametrize("kind", wire.MESSAGE_TYPES)
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
    monkeypatch.setattr(wire, "_reserve", lambda length: reserved.append(length) or memoryview(bytearray(length)))
    parent, worker = opened()
    for kind in wire.MESSAGE_TYPES:
        with pytest.raises(ProtocolError):
            feed(copy_of(parent), frame(kind, length=1 << 24))
        if kind not in REQUESTS:
            with pytest.raises(ProtocolError):
                feed(copy_of(worker), frame(kind, length=1 << 24, sequence=1))
    assert not reserved
    feed(copy_of(worker), frame(Step, length=1 << 24, sequence=1))
    assert reserved == [1 << 24]


def copy_of(connection: Connection) -> Connection:
    twin = Connection(connection.role)
    twin.state, twin.agreement, twin.asking = connection.state, connection.agreement, connection.asking
    twin.pending, twin._sequence = copy.deepcopy(connection.pending), connection._sequence
    return twin


def test_a_legal_frame_takes_memory_as_it_arrives_not_as_it_is_declared():
    _, worker = opened()
    process = psutil.Process()
    before = process.memory_info().rss
    feed(worker, frame(Step, length=wire.MAX_BODY, sequence=1) + bytes(100_000))
    assert process.memory_info().rss - before < 50_000_000


def test_a_body_for_which_there_is_no_memory_ends_the_connection_alone(monkeypatch):
    def exhausted(*arguments: Any) -> Any:
        raise MemoryError

    _, worker = opened()
    monkeypatch.setattr(wire.np, "empty", exhausted)
    with pytest.raises(ProtocolError, match="no memory for a body of 1000000 bytes"):
        feed(worker, frame(Step, length=1_000_000, sequence=1))
