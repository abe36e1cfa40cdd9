"""The wire protocol between a vector env and its workers: frames, messages, states. No sockets here.

A frame is a header of 16 bytes and a body::

    offset  size  field
    0       2     magic, b"PG"
    2       1     version of the protocol
    3       1     type of the message
    4       4     sequence number, little-endian; a reply carries that of its request
    8       8     length of the body in bytes, little-endian, bounded

The worker opens with `Hello` and, once its environments exist, `Ready`, which describes spaces and sample fields.
From then on the parent asks (`Reset`, `Step`, `Rollout`, `Call`, `Close`) and the worker answers each request once, in
order, with the matching reply or `Failure`. Bodies of `Step`, `StepResult`, `ResetResult` and `RolloutResult` hold
arrays in the fixed layout that follows from the spaces; everything variable is msgpack. Nothing in a frame is ever
executed.

`Connection` is one end of it: `send` turns a message into buffers, `get_buffer` and `buffer_updated` turn received
bytes, however chunked, into messages.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, TypeAlias

import msgpack
import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ConfigError, ProtocolError, SampleError
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array, Leaf

MAGIC = b"PG"
VERSION = 1
HEADER = struct.Struct("<2sBBIQ")
MAX_BODY = 1 << 30
MAX_BODY_BEFORE_READY = 1 << 24  # descriptions of spaces may list bounds
MAX_BODY_BEFORE_HELLO = 1 << 10
MAX_NESTED = 32

Buffer: TypeAlias = bytes | bytearray | memoryview
Infos: TypeAlias = list[dict[str, Any]]


class Role(Enum):
    """Which end of a connection this is."""

    PARENT = "parent"
    WORKER = "worker"


# --- values: msgpack with arrays, tuples and numpy scalars

_ARRAY, _SCALAR, _TUPLE, _BIGINT, _COMPLEX = range(1, 6)
_PLAIN_KINDS = "biufcSUmM"
_DTYPE = re.compile(r"[<>|=][biufcSUmM]\d{1,9}(\[\d{0,3}\w{1,2}\])?")


def _encode_other(value: Any) -> msgpack.ExtType:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _PLAIN_KINDS:
        code = _ARRAY if isinstance(value, np.ndarray) else _SCALAR
        array = np.ascontiguousarray(value)
        return msgpack.ExtType(code, msgpack.packb((array.dtype.str, np.shape(value), array.tobytes())))
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, encode_value(list(value)))
    if isinstance(value, int):
        return msgpack.ExtType(_BIGINT, str(int(value)).encode())
    if isinstance(value, complex):
        return msgpack.ExtType(_COMPLEX, struct.pack("<dd", value.real, value.imag))
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, str):
        return str(value)
    raise TypeError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot travel between processes; "
        "use numbers, strings, bytes, arrays, or lists, tuples and dictionaries of them"
    )


class _Decoder:
    """Decodes the extension types of one value, nested no deeper than a person would nest them.

    Each level is a call of msgpack in C, which an endless nest of tuples would run out of stack.
    """

    def __init__(self) -> None:
        self._depth = 0

    def unpack(self, data: Buffer) -> Any:
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise ValueError(f"extension types are nested deeper than {MAX_NESTED}")
        value = msgpack.unpackb(data, ext_hook=self._extension, strict_map_key=False)
        self._depth -= 1
        return value

    def _extension(self, code: int, data: bytes) -> Any:
        if code in (_ARRAY, _SCALAR):
            text, shape, content = msgpack.unpackb(data)
            # numpy would parse a whole language of dtypes, and fail in as many ways
            if not isinstance(text, str) or not _DTYPE.fullmatch(text):
                raise ValueError(f"arrays of dtype {text!r} do not travel")
            array = np.frombuffer(content, text).reshape(shape).copy()
            return array if code == _ARRAY else array[()]
        if code == _TUPLE:
            return tuple(self.unpack(data))
        if code == _BIGINT:
            return int(data)
        if code == _COMPLEX:
            return complex(*struct.unpack("<dd", data))
        raise ValueError(f"unknown extension type {code}")


def encode_value(value: Any) -> bytes:
    """A value as msgpack; numpy arrays and scalars keep dtype, shape and bits, tuples stay tuples.

    Raises:
        ProtocolError: The value holds something that cannot travel.
    """
    try:
        try:
            return _pack(value)
        except OverflowError:  # msgpack ends at 64 bits and does not ask `default` about larger integers
            return _pack(_without_big_ints(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(str(error)) from error


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, default=_encode_other, strict_types=True))


def _without_big_ints(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_big_ints(k): _without_big_ints(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_without_big_ints(item) for item in value])
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return _encode_other(value)
    return value


def decode_value(data: Buffer) -> Any:
    """The value that `encode_value` encoded.

    Raises:
        ProtocolError: The bytes are not such a value.
    """
    try:
        return _Decoder().unpack(data)
    except Exception as error:
        # whatever hostile bytes provoke in a parser is the peer's fault, and ends its connection alone
        raise ProtocolError(f"a message holds a value that cannot be decoded: {error!r}") from error


# --- messages


@dataclass(frozen=True)
class Hello:
    """Worker: who I am. The token proves that the parent started me."""

    token: str
    worker: int
    pid: int


@dataclass(frozen=True)
class Ready:
    """Worker: my environments exist, and this is what they look like.

    Attributes:
        count: Number of environments in this worker.
        description: JSON data: spaces, sample fields, metadata, render mode.
    """

    count: int
    description: dict[str, Any]


@dataclass(frozen=True)
class Reset:
    """Parent: reset the environments where mask is true."""

    seeds: list[int | None]
    mask: list[bool]
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class ResetResult:
    """Worker: observations of all environments (leaves, each with a batch axis), infos of those reset."""

    observations: list[Array]
    infos: Infos


@dataclass(frozen=True)
class Step:
    """Parent: step all environments; actions as leaves with a batch axis."""

    actions: list[Array]


@dataclass(frozen=True)
class StepResult:
    """Worker: what the steps gave.

    Attributes:
        observations: Leaves, each of shape (count, *leaf shape).
        rewards: Shape (count,), float64.
        terminations: Shape (count,), bool.
        truncations: Shape (count,), bool.
        infos: One dictionary per environment.
    """

    observations: list[Array]
    rewards: Array
    terminations: Array
    truncations: Array
    infos: Infos


@dataclass(frozen=True)
class Rollout:
    """Parent: run one episode with the environment's own sampler and send its samples.

    Attributes:
        episode: Index of the episode, returned with the result.
        seed: Seed of the episode.
        max_steps: Truncate after so many steps.
        max_rejects: Fail after so many rejected steps in a row.
    """

    episode: int
    seed: int
    max_steps: int
    max_rejects: int


@dataclass(frozen=True)
class RolloutResult:
    """Worker: the samples of one episode.

    Attributes:
        episode: Index of the episode.
        seed: Seed of the episode.
        num_steps: Steps made.
        total_reward: Sum of the rewards.
        rejected: Reasons of rejected steps, by step.
        steps: Shape (n,), int64: the step of each sample.
        samples: Fields of shape (n, *field shape).
    """

    episode: int
    seed: int
    num_steps: int
    total_reward: float
    rejected: dict[int, str]
    steps: Array
    samples: Sample


@dataclass(frozen=True)
class Call:
    """Parent: call a method or read an attribute ("call"), set one ("set") or render ("render")."""

    kind: str
    name: str = ""
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CallResult:
    """Worker: one result per environment."""

    results: list[Any]


@dataclass(frozen=True)
class Close:
    """Parent: close the environments and end."""


@dataclass(frozen=True)
class Closed:
    """Worker: the environments are closed; I end."""


@dataclass(frozen=True)
class Failure:
    """Worker: the request failed.

    Attributes:
        env: Index of the environment within this worker, -1 if none in particular.
        error: Class name of the exception.
        message: Its text.
        traceback: The traceback, as text.
    """

    env: int
    error: str
    message: str
    traceback: str


Message: TypeAlias = (
    Hello | Ready | Reset | ResetResult | Step | StepResult | Rollout | RolloutResult | Call | CallResult | Close
    | Closed | Failure
)  # fmt: skip
MESSAGE_TYPES: tuple[type[Any], ...] = (
    Hello, Ready, Reset, ResetResult, Step, StepResult, Rollout, RolloutResult, Call, CallResult, Close, Closed, Failure
)  # fmt: skip
REPLIES: dict[type[Any], type[Any]] = {
    Reset: ResetResult,
    Step: StepResult,
    Rollout: RolloutResult,
    Call: CallResult,
    Close: Closed,
}


# --- layouts


class Layout:
    """The bytes of a batch of values: leaf after leaf, each contiguous with the batch axis first.

    Args:
        leaves: The arrays, in order.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.leaves = list(leaves)
        self.row = sum(leaf.nbytes for leaf in self.leaves)

    def pack(self, arrays: Sequence[Array]) -> list[Buffer]:
        """Buffers of the arrays, ready to be sent."""
        return [_contiguous(a, leaf).data.cast("B") for a, leaf in zip(arrays, self.leaves, strict=True) if a.size]

    def unpack(self, data: memoryview, count: int) -> list[Array]:
        """Arrays of shape (count, *leaf shape) over the bytes, without a copy."""
        if len(data) != count * self.row:
            raise ProtocolError(f"expected {count * self.row} bytes of arrays, got {len(data)}")
        arrays, offset = [], 0
        for leaf in self.leaves:
            end = offset + count * leaf.nbytes
            arrays.append(np.frombuffer(data[offset:end], leaf.dtype).reshape(count, *leaf.shape))
            offset = end
        return arrays


def _contiguous(array: Array, leaf: Leaf) -> Array:
    if array.shape[1:] != leaf.shape:
        raise ProtocolError(f"array {leaf.path!r} has shape {array.shape[1:]}, the space says {leaf.shape}")
    return np.ascontiguousarray(array, leaf.dtype)


@dataclass(frozen=True)
class Agreement:
    """What both ends know after `Ready`: number of environments and layouts."""

    count: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    sample_spec: SampleSpec | None
    observations: Layout
    actions: Layout
    samples: Layout

    @classmethod
    def from_ready(cls, ready: Ready) -> Agreement:
        """Layouts that follow from a worker's description."""
        observation = walk.from_json(ready.description["observation_space"])
        action = walk.from_json(ready.description["action_space"])
        fields = ready.description["sample_fields"]
        spec = None if fields is None else SampleSpec.from_json(fields)
        sample_leaves = [] if spec is None else [Leaf(f.name, f.shape, f.dtype) for f in spec.values()]
        return cls(
            ready.count,
            observation,
            action,
            spec,
            Layout(walk.leaves(observation)),
            Layout(walk.leaves(action)),
            Layout(sample_leaves),
        )


# --- one end of a connection

_REWARD, _FLAG = np.dtype("<f8"), np.dtype("?")


class Connection:
    """The protocol's state at one end, without any input or output.

    Args:
        role: Which end this is.

    Attributes:
        agreement: Layouts, known once `Ready` went by; None before.
    """

    WORKER_OPENS: ClassVar[dict[str, tuple[type[Any], ...]]] = {
        "start": (Hello,),
        "greeted": (Ready, Failure),
    }

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = "start"
        self.agreement: Agreement | None = None
        self.pending: deque[tuple[int, type[Any]]] = deque()
        self._sequence = 0
        self._header = bytearray(HEADER.size)
        self._body: bytearray | None = None
        self._filled = 0
        self._kind: type[Any] = Hello
        self._got_sequence = 0

    # sending

    def send(self, message: Message) -> list[Buffer]:
        """Buffers to write, one after another, to send a message.

        Raises:
            ProtocolError: The message is not legal in this state.
        """
        self._advance(type(message), self.role, None, only_check=True)
        body = self._encode(message)
        length = sum(memoryview(part).nbytes for part in body)
        if length > MAX_BODY:
            raise ProtocolError(f"a {type(message).__name__} of {length} bytes exceeds the limit of {MAX_BODY}")
        sequence = self._advance(type(message), self.role, None)  # only now: what cannot be sent changes no state
        header = HEADER.pack(MAGIC, VERSION, MESSAGE_TYPES.index(type(message)), sequence, length)
        if isinstance(message, Ready):
            self.agreement = Agreement.from_ready(message)
        return [header, *body]

    # receiving

    def get_buffer(self) -> memoryview:
        """Where the next received bytes belong; never empty."""
        target = self._header if self._body is None else self._body
        return memoryview(target)[self._filled :]

    def buffer_updated(self, count: int) -> Message | None:
        """Take note of bytes put into `get_buffer`; the message if they complete one.

        Raises:
            ProtocolError: The bytes are not a legal frame. The connection must be closed then.
        """
        self._filled += count
        if self._body is None:
            if self._filled < HEADER.size:
                return None
            self._open_frame()
            self._filled = 0
        assert self._body is not None
        if self._filled < len(self._body):
            return None
        body, self._body, self._filled = self._body, None, 0
        self._advance(self._kind, _other(self.role), self._got_sequence)
        message = self._decode(self._kind, memoryview(body))
        if isinstance(message, Ready):
            self.agreement = _agree(message)
        return message

    def _open_frame(self) -> None:
        magic, version, kind, sequence, length = HEADER.unpack(self._header)
        if magic != MAGIC:
            raise ProtocolError(f"not a physgym frame: it starts with {magic!r} instead of {MAGIC!r}")
        if version != VERSION:
            raise ProtocolError(
                f"peer speaks version {version} of the protocol, this end {VERSION}; update one of them"
            )
        if kind >= len(MESSAGE_TYPES):
            raise ProtocolError(f"unknown message type {kind}")
        limit = MAX_BODY if self.agreement is not None else MAX_BODY_BEFORE_READY
        if self.state == "start":
            limit = MAX_BODY_BEFORE_HELLO
        if length > limit:
            raise ProtocolError(f"a body of {length} bytes exceeds the limit of {limit}")
        self._kind, self._got_sequence = MESSAGE_TYPES[kind], sequence
        self._body = bytearray(length)

    # states

    def _advance(self, kind: type[Any], sender: Role, sequence: int | None, *, only_check: bool = False) -> int:
        """Check that `sender` may send such a message now and note it; returns its sequence number."""
        if sender is Role.WORKER and self.state in self.WORKER_OPENS:
            if kind not in self.WORKER_OPENS[self.state]:
                raise self._illegal(kind, sender)
            if only_check:
                return 0
            self.state = {Hello: "greeted", Ready: "ready", Failure: "closed"}[kind]
            return 0
        if self.state != "ready":
            raise self._illegal(kind, sender)
        if sender is Role.PARENT:
            if kind not in REPLIES:
                raise self._illegal(kind, sender)
            if only_check:
                return 0
            self._sequence = sequence if sequence is not None else (self._sequence + 1) & 0xFFFFFFFF
            self.pending.append((self._sequence, kind))
            return self._sequence
        if not self.pending:
            raise self._illegal(kind, sender)
        expected, request = self.pending[0]
        if kind not in (REPLIES[request], Failure) or (sequence is not None and sequence != expected):
            raise self._illegal(kind, sender)
        if only_check:
            return expected
        self.pending.popleft()
        if kind is Closed:
            self.state = "closed"
        return expected

    def _illegal(self, kind: type[Any], sender: Role) -> ProtocolError:
        waiting = ", ".join(request.__name__ for _, request in self.pending) or "nothing"
        return ProtocolError(
            f"{sender.value} may not send {kind.__name__} in state {self.state!r} with {waiting} unanswered"
        )

    # bodies

    def _encode(self, message: Message) -> list[Buffer]:
        agreed = self.agreement
        match message:
            case Step(actions):
                assert agreed is not None
                return agreed.actions.pack(actions)
            case ResetResult(observations, infos):
                assert agreed is not None
                return [*agreed.observations.pack(observations), encode_value(infos)]
            case StepResult(observations, rewards, terminations, truncations, infos):
                assert agreed is not None
                scalars = [rewards.astype(_REWARD).tobytes(), terminations.tobytes(), truncations.tobytes()]
                tail = encode_value(infos) if any(infos) else b""
                return [*scalars, *agreed.observations.pack(observations), tail]
            case RolloutResult():
                assert agreed is not None
                head = {**vars(message), "samples": None}
                meta = encode_value(head)
                arrays = agreed.samples.pack(list(message.samples.values()))
                return [struct.pack("<I", len(meta)), meta, *arrays]
            case _:
                return [encode_value(vars(message))]

    def _decode(self, kind: type[Any], body: memoryview) -> Message:
        agreed = self.agreement
        if agreed is not None:
            count = agreed.count
            if kind is Step:
                return Step(agreed.actions.unpack(body, count))
            if kind is ResetResult:
                end = count * agreed.observations.row
                return ResetResult(agreed.observations.unpack(body[:end], count), _infos(body[end:], count))
            if kind is StepResult:
                flags, start = count * _REWARD.itemsize, count * (_REWARD.itemsize + 2)
                end = start + count * agreed.observations.row
                if len(body) < end:
                    raise ProtocolError(f"a StepResult of {len(body)} bytes is shorter than {end}")
                return StepResult(
                    agreed.observations.unpack(body[start:end], count),
                    np.frombuffer(body[:flags], _REWARD),
                    np.frombuffer(body[flags : flags + count], _FLAG),
                    np.frombuffer(body[flags + count : start], _FLAG),
                    _infos(body[end:], count),
                )
            if kind is RolloutResult:
                return _decode_rollout(body, agreed)
        try:
            return kind(**_checked(kind, decode_value(body)))  # type: ignore[no-any-return]
        except TypeError as error:
            raise ProtocolError(f"the body of a {kind.__name__} is wrong: {error}") from error


_FIELD_TYPES: dict[str, tuple[type[Any], ...]] = {
    "str": (str,), "int": (int,), "float": (float, int), "dict[str, Any]": (dict,), "list[Any]": (list,),
    "list[int | None]": (list,), "list[bool]": (list,), "dict[str, Any] | None": (dict, type(None)),
    "dict[int, str]": (dict,), "Array": (np.ndarray,), "Sample": (dict, type(None)),
}  # fmt: skip


def _checked(kind: type[Any], content: Any) -> dict[str, Any]:
    """Keyword arguments of a message, each of the type that its class declares."""
    declared = kind.__dataclass_fields__
    if not isinstance(content, dict) or set(content) != set(declared):
        raise ProtocolError(f"the body of a {kind.__name__} must have the keys {sorted(declared)}")
    for name, value in content.items():
        if not isinstance(value, _FIELD_TYPES[declared[name].type]):
            raise ProtocolError(f"{kind.__name__}.{name} is a {type(value).__name__}, not {declared[name].type}")
    return content


def _decode_rollout(body: memoryview, agreed: Agreement) -> RolloutResult:
    if len(body) < 4:
        raise ProtocolError("a RolloutResult ends before its head")
    end = 4 + int.from_bytes(body[:4], "little")
    content = _checked(RolloutResult, decode_value(body[4:end]))
    steps = content["steps"]
    if steps.ndim != 1 or steps.dtype != np.int64:
        raise ProtocolError(f"RolloutResult.steps must be one axis of int64, not {steps.dtype} {steps.shape}")
    names = [] if agreed.sample_spec is None else list(agreed.sample_spec)
    content["samples"] = dict(zip(names, agreed.samples.unpack(body[end:], len(steps)), strict=True))
    return RolloutResult(**content)


def _infos(data: memoryview, count: int) -> Infos:
    infos = decode_value(data) if len(data) else [{} for _ in range(count)]
    if not isinstance(infos, list) or len(infos) != count or not all(isinstance(info, dict) for info in infos):
        raise ProtocolError(f"infos must be a list of {count} dictionaries")
    return infos


def _agree(ready: Ready) -> Agreement:
    """The agreement from a description that came over the wire: any fault in it is the peer's."""
    if ready.count < 1:
        raise ProtocolError(f"a worker announces {ready.count} environments")
    try:
        return Agreement.from_ready(ready)
    except (KeyError, TypeError, ValueError, ConfigError, SampleError) as error:
        raise ProtocolError(f"a worker describes its environments wrongly: {error!r}") from error


def _other(role: Role) -> Role:
    return Role.WORKER if role is Role.PARENT else Role.PARENT
