"""Both ends of the protocol against each other, in memory."""

from __future__ import annotations

import contextlib
import struct

import msgpack
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.vector import wire
from physgym.vector.wire import Connection, Role

OBSERVATION = spaces.Dict({"a": spaces.Box(-1, 1, (2, 3), np.float32), "b": spaces.Discrete(4)})
ACTION = spaces.Box(-1, 1, (2,), np.float64)
FIELDS = [{"name": "x", "shape": [3], "dtype": "<f4", "role": "input", "unit": "m"}]
READY = wire.Ready(
    2,
    {
        "observation_space": walk.to_json(OBSERVATION),
        "action_space": walk.to_json(ACTION),
        "sample_fields": FIELDS,
        "metadata": {},
        "render_mode": None,
        "max_episode_steps": None,
    },
)
HELLO = wire.Hello("secret", 0, 1)


def joined(buffers) -> bytes:
    return b"".join(bytes(part) for part in buffers)


def feed(connection: Connection, data: bytes, chunk: int = 1 << 20) -> list:
    messages = []
    while data:
        target = connection.get_buffer()
        n = min(len(target), chunk, len(data))
        target[:n] = data[:n]
        data = data[n:]
        message = connection.buffer_updated(n)
        if message is not None:
            messages.append(message)
    return messages


def pair() -> tuple[Connection, Connection]:
    parent, worker = Connection(Role.PARENT), Connection(Role.WORKER)
    feed(parent, joined(worker.send(HELLO)))
    feed(parent, joined(worker.send(READY)))
    return parent, worker


def step_result() -> wire.StepResult:
    rng = np.random.default_rng(0)
    return wire.StepResult(
        [rng.normal(size=(2, 2, 3)).astype(np.float32), np.array([1, 3])],
        np.array([0.5, -0.0]),
        np.array([True, False]),
        np.array([False, True]),
        [{"t": (1, 2.5), "array": np.arange(3, dtype=np.int16)}, {}],
    )


def assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        assert np.shape(a) == np.shape(b)
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 15, 16, 17, 64, 1000])
def test_any_chunking_gives_the_same_messages(chunk):
    parent, worker = Connection(Role.PARENT), Connection(Role.WORKER)
    assert feed(parent, joined(worker.send(HELLO)) + joined(worker.send(READY)), chunk) == [HELLO, READY]
    actions = [np.array([[0.1, 0.2], [0.3, 0.4]])]
    (step,) = feed(worker, joined(parent.send(wire.Step(actions))), chunk)
    assert_same(step.actions, actions)
    (result,) = feed(parent, joined(worker.send(step_result())), chunk)
    assert_same(vars(result), vars(step_result()))


def test_rollout_result_keeps_every_bit():
    parent, worker = pair()
    feed(worker, joined(parent.send(wire.Rollout(5, 2**62 + 1, 10, 3))))
    x = np.array([[0.1, np.nextafter(0, 1), -0.0], [1, 2, 3]], np.float32)
    sent = wire.RolloutResult(5, 2**62 + 1, 3, 0.25, {1: "diverged"}, np.array([0, 2]), {"x": x})
    (got,) = feed(parent, joined(worker.send(sent)))
    assert_same(vars(got), vars(sent))


def test_masked_reset_and_calls_travel():
    parent, worker = pair()
    for message in (
        wire.Reset([None, 7], [True, False], {"gravity": np.float32(9.81)}),
        wire.Call("call", "method", [1, (2, "x")], {"big": 2**80}),
    ):
        (got,) = feed(worker, joined(parent.send(message)))
        assert_same(vars(got), vars(message))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | hnp.arrays(
        st.sampled_from([np.float32, np.int8, np.uint64, np.bool_, np.complex128]), hnp.array_shapes(max_side=3)
    )
    | st.sampled_from([np.float32(0.1), np.int64(-3), np.bool_(True)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_values_come_back_with_type_and_bits(value):
    assert_same(wire.decode_value(wire.encode_value(value)), value)


def test_a_value_that_cannot_travel_is_named():
    with pytest.raises(ProtocolError, match=r"type builtins\.object cannot travel"):
        wire.encode_value({"spec": object()})
    with pytest.raises(ProtocolError, match="cannot travel"):
        wire.encode_value(np.array([object()]))


def test_nothing_but_hello_opens():
    with pytest.raises(ProtocolError, match=r"parent may not send Step in state 'start'"):
        Connection(Role.PARENT).send(wire.Step([np.zeros((2, 2))]))
    with pytest.raises(ProtocolError, match="worker may not send Ready"):
        Connection(Role.WORKER).send(READY)


def test_a_reply_needs_its_request():
    parent, worker = pair()
    with pytest.raises(ProtocolError, match="with nothing unanswered"):
        worker.send(step_result())
    frame = joined(parent.send(wire.Close()))
    feed(worker, frame)
    with pytest.raises(ProtocolError, match="worker may not send CallResult in state 'ready' with Close unanswered"):
        worker.send(wire.CallResult([]))


def test_a_worker_cannot_ask_and_a_parent_cannot_answer():
    parent, worker = pair()
    with pytest.raises(ProtocolError):
        worker.send(wire.Close())
    with pytest.raises(ProtocolError):
        parent.send(wire.Closed())


def test_a_reply_with_another_sequence_number_is_refused():
    parent, worker = pair()
    feed(worker, joined(parent.send(wire.Close())))
    reply = bytearray(joined(worker.send(wire.Closed())))
    reply[4] ^= 0xFF
    with pytest.raises(ProtocolError):
        feed(parent, bytes(reply))


def frame(kind: int, body: bytes, *, magic=b"PG", version=1, length=None) -> bytes:
    return wire.HEADER.pack(magic, version, kind, 0, len(body) if length is None else length) + body


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not a physgym frame"),
        (frame(0, b"", version=9), "speaks version 9"),
        (frame(99, b""), "unknown message type 99"),
        (frame(0, b"", length=1 << 40), "exceeds the limit"),
        (frame(0, b"\xc1"), "cannot be decoded"),
        (frame(0, wire.encode_value({"token": "x"})), "must have the keys"),
        (frame(0, wire.encode_value({"token": 1, "worker": 0, "pid": 0})), "Hello.token is a int"),
        (frame(3, b""), "may not send ResetResult"),
    ],
)
def test_garbage_is_refused_with_a_reason(data, text):
    with pytest.raises(ProtocolError, match=text):
        feed(Connection(Role.PARENT), data)


def nested(depth: int) -> bytes:
    body = msgpack.packb(None)
    for _ in range(depth):
        body = msgpack.packb(msgpack.ExtType(3, body))
    return body


@pytest.mark.parametrize("depth", [40, 200, 3000])
def test_deep_nesting_is_refused_before_the_stack_overflows(depth):
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        wire.decode_value(nested(depth))
    assert wire.decode_value(wire.encode_value(((((1,),),),))) == ((((1,),),),)


@pytest.mark.parametrize("dtype", ["(1,", "i4,,", "i4, (", "|O", "O", "i4", "<f999999999", ["<f4"], 7])
def test_hostile_dtypes_are_refused(dtype):
    array = msgpack.ExtType(1, msgpack.packb((dtype, (1,), b"0000")))
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        wire.decode_value(msgpack.packb(array))


def test_a_stranger_may_send_little_before_it_is_known():
    with pytest.raises(ProtocolError, match="exceeds the limit of 1024"):
        feed(Connection(Role.PARENT), frame(0, b"", length=2000))


@pytest.mark.parametrize(
    "change",
    [
        {"observation_space": {"type": "Box"}},
        {"observation_space": None},
        {"action_space": {"type": "Box", "shape": [2], "dtype": "|O", "low": 0, "high": 1}},
        {"sample_fields": [{"name": "x"}]},
        {"sample_fields": []},
    ],
)
def test_a_wrong_description_is_the_workers_fault(change):
    parent, worker = Connection(Role.PARENT), Connection(Role.WORKER)
    feed(parent, joined(worker.send(HELLO)))
    body = wire.encode_value({"count": 2, "description": {**READY.description, **change}})
    with pytest.raises(ProtocolError, match="describes its environments wrongly"):
        feed(parent, frame(1, body))


@given(st.binary(max_size=200), st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_no_body_does_more_than_raise_a_protocol_error(body, kind):
    parent, worker = pair()
    feed(worker, joined(parent.send(wire.Call("call", "x"))))
    data = wire.HEADER.pack(b"PG", 1, kind, 1, len(body)) + body
    with contextlib.suppress(ProtocolError):
        feed(parent, data)


def test_short_arrays_are_refused():
    parent, worker = pair()
    feed(worker, joined(parent.send(wire.Step([np.zeros((2, 2))]))))
    good = joined(worker.send(step_result()))
    header = list(wire.HEADER.unpack(good[:16]))
    for cut in (0, 8, 17, 20, 40):
        fresh, other = pair()
        feed(other, joined(fresh.send(wire.Step([np.zeros((2, 2))]))))
        header[4] = cut
        with pytest.raises(ProtocolError):
            feed(fresh, struct.pack("<2sBBIQ", *header) + good[16 : 16 + cut])


def test_wrong_shapes_are_not_sent():
    parent, _ = pair()
    with pytest.raises(ProtocolError, match="shape"):
        parent.send(wire.Step([np.zeros((2, 3))]))
