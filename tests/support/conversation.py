"""A session that holds every message, and both ends of a connection in memory."""

from __future__ import annotations

import copy
import struct
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol import codec
from physgym.protocol.connection import Connection
from physgym.protocol.messages import (
    MESSAGE_TYPES,
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
    Parameters,
    Predict,
    Prediction,
    Ready,
    Refusal,
    Rejected,
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
from physgym.protocol.step_reports import StepReports

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


def reports(number: int, *places: int) -> StepReports:
    """Return reports of so many steps, of which those at some places were rejected."""
    rewards, solver = np.linspace(-1, 1, number), np.linspace(0.5, 1, number)
    network = np.full(number, NAN, np.float64)
    return StepReports(rewards, solver, network, column(*places), [f"reason {place} ä" for place in places])


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
    (Role.PARENT, WatchScenes([2, 0], 0.1)),
    (Role.PARENT, Reset(1, [None, 7, 2**70], [True, False, True], {"gravity": np.float32(9.81)})),
    (Role.WORKER, ScenePart(2, 1, 3, b"a frame's middle")),
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
    (Role.PARENT, Rollout([[5, 1], [6, 2]], 4, 3, limit=7, reports=True)),
    (
        Role.WORKER,
        RolloutResult(
            column(5, 5, 5, 6),
            column(0, 1, 2, 0),
            samples(2),
            [[5, 3, 2, -0.5, {0: "reason"}, "terminated"]],
            False,
            parameters(5, 6),
            rejected(6),
            reports(4, 0, 3),
        ),
    ),
    (Role.PARENT, GiveInputs(2, [["push", 2.5], ["stop", True], ["tip", [0.5, -0.0, 1e300]]])),
    (Role.WORKER, RolloutResult(column(6), column(1), samples(0), [], False, None, None, reports(1, 0))),
    (
        Role.WORKER,
        RolloutResult(
            column(6, 6),
            column(2, 3),
            samples(2),
            [],
            True,
            None,
            None,
            replace(reports(2), inputs=[[0, "push", 2.5], [0, "stop", True], [1, "tip", [0.5, -0.0, 1e300]]]),
        ),
    ),
    (Role.PARENT, Call("set", "gravity", [1, 2, 3])),
    (Role.WORKER, Failure(-1, "m:E", "text", "", "gravity")),
    (Role.PARENT, Close()),
    (Role.WORKER, Closed()),
]
OPENED = 4  # messages until the worker is ready
REQUESTS = {Attach, Reset, Step, Rollout, Call, Close}
SAYS = REQUESTS | {WatchScenes, GiveInputs}


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
    header = {"magic": b"PG", "version": codec.VERSION, "code": MESSAGE_TYPES.index(kind), **other}
    return codec.HEADER.pack(*header.values(), sequence, len(body) if length is None else length) + body


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
        if a.dtype.names is None:
            assert a.tobytes() == b.tobytes()
        for name in a.dtype.names or ():  # what lies between fields is nobody's, and NumPy does not always copy it
            assert_same(a[name], b[name])
    elif isinstance(a, np.random.Generator):
        assert_same(a.bit_generator.state, b.bit_generator.state)
    elif type(a) in (*MESSAGE_TYPES, Parameters, Rejected, StepReports):
        assert_same(content(a), content(b))
    elif isinstance(a, float | complex):
        assert np.array(a).tobytes() == np.array(b).tobytes()
    else:
        assert a == b


def state_of(connection: Connection) -> Any:
    ledger = connection.ledger
    pending = [(request.sequence, id(request.request), request.unanswered) for request in ledger.pending]
    return connection.state, pending, ledger.sequence


def copy_of(connection: Connection) -> Connection:
    """Return an end in the same state, before the next frame."""
    twin = Connection(connection.role)
    twin.agreement = connection.agreement
    twin.conversation = copy.copy(connection.conversation)
    twin.ledger = twin.conversation.ledger = copy.copy(connection.ledger)
    twin.ledger.pending = deque(map(copy.copy, connection.ledger.pending))
    return twin


BIG = Ready(
    2,
    {
        **DESCRIPTION,
        "action_space": walk.to_json(spaces.Discrete(2)),
        "observation_space": walk.to_json(spaces.Box(-1, 1, (180, 180), np.float64)),
    },
)


EXAMPLES: dict[type[Any], Any] = {type(message): message for _, message in SESSION} | {
    Results: Results(None, arrays(3)),
    Reset: Reset(0, [None] * 3, [True] * 3),
    Rollout: Rollout([[5, 2**63], [8, 1, {"gravity": 1.0}]], 10, 3),
    CallResult: CallResult([1, 2, 3]),
    RolloutResult: RolloutResult(column(), column(), samples(0), [[5, 1, 0, 0.0, {}], [8, 0, 0, 0.0, {}]], True),
    Step: Step(0),
    WorkerOffer: WorkerOffer(2, "host", {"packages": {"numpy": "2"}, "codes": {}}),
    Assignment: Assignment({"worker": 1}, [{"make": "env", "env": "CartPole-v1", "arguments": {}}]),
    Refusal: Refusal("other versions"),
    ServiceRequest: ServiceRequest("release", {"lease": "1-00"}),
    ServiceAnswer: ServiceAnswer("", {"port": 9091}),
    Failure: Failure(-1, "m:E", "text", ""),
}
ANSWERS = {Failure, Predict}
STEPS = ANSWERS | {ScenePart}
LEGAL: dict[str, tuple[int, list[Any], set[type[Any]], set[type[Any]]]] = {
    # state: messages of the session so far, then these; what the parent may send, what the worker
    "challenge": (0, [], {Challenge}, set()),
    "hello": (1, [], set(), {Hello}),
    "welcome": (2, [], {Welcome}, set()),
    "building": (3, [], set(), {Ready, Failure, WorkerOffer, ServiceRequest}),
    "offering": (3, [WorkerOffer], {Assignment, Refusal}, set()),
    "assigned": (3, [WorkerOffer, Assignment], set(), {Ready, Failure}),
    "refused": (3, [WorkerOffer, Refusal], set(), set()),
    "answering": (3, [ServiceRequest], {ServiceAnswer}, set()),
    "requesting": (3, [ServiceRequest, ServiceAnswer], set(), {ServiceRequest}),
    "ready": (4, [], SAYS, set()),
    "watched": (4, [WatchScenes], SAYS, set()),
    "given inputs": (4, [Step, GiveInputs], SAYS, {Results} | STEPS),
    "attaching": (4, [Attach], SAYS, {Attached} | ANSWERS),
    "resetting": (4, [Reset], SAYS, {Results} | STEPS),
    "stepping": (4, [Step], SAYS, {Results} | STEPS),
    "stepping, a frame half sent": (4, [Step, ScenePart, WatchScenes], SAYS, {Results} | STEPS),
    "calling": (4, [Call], SAYS, {CallResult} | ANSWERS),
    "rolling out": (4, [Rollout], SAYS, {RolloutResult} | STEPS),
    "asking": (4, [Step, Predict], SAYS | {Prediction}, set()),
    "answered": (4, [Step, Predict, Prediction], SAYS, {Results} | STEPS),
    "pipelined": (4, [Call, Step], SAYS, {CallResult} | ANSWERS),
    "closing": (4, [Close], set(), {Closed, Failure}),
    "closing, step unanswered": (4, [Step, Close], set(), {Results} | STEPS),
    "closing, asking": (4, [Step, Predict, Close], {Prediction}, set()),
    "closed": (4, [Close, Closed], set(), set()),
    "closed by failure": (4, [Close, Failure], set(), set()),
    "not built": (3, [Failure], set(), set()),
}
SENDERS = {kind: sender for sender, message in SESSION for kind in [type(message)]} | {
    WorkerOffer: Role.WORKER,
    Assignment: Role.PARENT,
    Refusal: Role.PARENT,
    ServiceRequest: Role.WORKER,
    ServiceAnswer: Role.PARENT,
}


def brought_to(name: str) -> dict[Role, Connection]:
    ends = {role: Connection(role) for role in Role}
    number, further, _, _ = LEGAL[name]
    for sender, message in SESSION[:number]:
        tell(ends, sender, message)
    for kind in further:
        tell(ends, SENDERS[kind], EXAMPLES[kind])
    return ends


PLACE = {Challenge: 0, Hello: 1, Welcome: 2}  # else after Ready and, for replies, their request
PLACE |= dict.fromkeys((Ready, WorkerOffer, Assignment, Refusal, ServiceRequest, ServiceAnswer), 3)
REQUEST_OF = {reply: request for request, reply in REPLIES.items()} | {Failure: Call, Predict: Call, ScenePart: Step}


def expecting(kind: type[Any]) -> tuple[Connection, int]:
    """An end that would take such a message, and the sequence number it wants."""
    ends = {role: Connection(role) for role in Role}
    for sender, message in SESSION[: PLACE.get(kind, OPENED)]:
        tell(ends, sender, message)
    if kind in (Assignment, Refusal):
        tell(ends, Role.WORKER, EXAMPLES[WorkerOffer])
    if kind is ServiceAnswer:
        tell(ends, Role.WORKER, EXAMPLES[ServiceRequest])
    if kind in REQUEST_OF:
        tell(ends, Role.PARENT, EXAMPLES[REQUEST_OF[kind]])
    if kind is Prediction:
        tell(ends, Role.PARENT, EXAMPLES[Step])
        tell(ends, Role.WORKER, EXAMPLES[Predict])
    receiver = ends[other_than(SENDERS[kind])]
    return receiver, receiver.conversation.expected(kind)


def refused(kind: type[Any], body: bytes, match: str | None = None) -> None:
    receiver, sequence = expecting(kind)
    before = state_of(receiver)
    with pytest.raises(ProtocolError, match=match):
        feed(receiver, frame(kind, body, sequence=sequence))
    assert state_of(receiver) == before
