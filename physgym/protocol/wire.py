"""The wire protocol between a vector env and its workers: frames, messages, states. No sockets here.

A frame is a header of 16 bytes and a body::

    offset  size  field
    0       2     magic, b"PG"
    2       1     version of the protocol
    3       1     type of the message
    4       4     sequence number, little-endian; a reply carries that of its request
    8       8     length of the body in bytes, little-endian, bounded

The parent opens with `Challenge`; the worker proves itself with `Hello`, challenges in turn, and gets `Welcome`. Once
its environments exist it sends `Ready`, which describes spaces and sample fields. From then on the parent asks
(`Attach`, `Reset`, `Step`, `Rollout`, `Call`, `Close`) and the worker answers each request, in order, with its reply or
with `Failure`; the replies to steps and rollouts may come in several parts. While a request is served the worker may
ask `Predict`, and waits for `Prediction`. Arrays of steps, resets and rollouts have the fixed layout that follows from
the spaces, or lie in shared memory; everything variable is msgpack. Nothing in a frame is ever executed.

`Connection` is one end of it: `send` turns a message into buffers, `get_buffer` and `buffer_updated` turn received
bytes, however chunked, into messages.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, TypeAlias, get_args

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol import batched_infos as batching
from physgym.protocol.batched_infos import Infos
from physgym.protocol.buffers import SLOTS, Buffer, Layout, results_layout
from physgym.protocol.msgpack_values import (
    MAX_DESCRIBED,
    check_size,
    decode_plain,
    decode_space,
    decode_value,
    encode_value,
    space_size,
)
from physgym.sample import Role as FieldRole
from physgym.sample import Sample, SampleSpec, fields_of
from physgym.simulation import NonFinite
from physgym.spaces import Array, Leaf

MAGIC = b"PG"
VERSION = 4
HEADER = struct.Struct("<2sBBIQ")
MAX_BODY = 1 << 30
MAX_BODY_BEFORE_READY = 1 << 24  # descriptions of spaces may list bounds
MAX_BODY_BEFORE_WELCOME = 1 << 10
INPUT_SIZE = 1 << 16  # received at once; longer bodies are received straight into their own memory

_ROWS = struct.Struct("<BBHI")  # head of Step and of its replies: slot, flags, unused, number of rows
_ALL = 0xFFFFFFFF  # number of rows: every environment of the worker
_STREAM, _LAST, _INLINE = 1, 2, 4
_INDEX = np.dtype("<u4")
_ENDINGS = ("terminated", "truncated", "cut")
_SLOT_LIMIT = 256  # a slot is one byte
_DESCRIBED = frozenset(
    {
        "observation_space", "observation_spaces", "action_space", "sample_space", "sample_fields", "parameter_space",
        "parameter_fields", "metadata", "render_mode", "max_episode_steps",
    }
)  # fmt: skip


class Role(Enum):
    """Which end of a connection this is."""

    PARENT = "parent"
    WORKER = "worker"


# --- messages


@dataclass(frozen=True, slots=True)
class Challenge:
    """Parent: prove that you know the token, for this nonce."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker: who I am, the proof, and a nonce for which the parent is to prove itself."""

    worker: int
    pid: int
    nonce: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """Parent: my own proof."""

    proof: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker: my environments exist, and this is what they look like.

    Attributes:
        count: Number of environments in this worker.
        description: JSON data: spaces, fields of samples and parameters, metadata, render mode.
    """

    count: int
    description: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attach:
    """Parent: use the shared memory that you were started with; your rows begin at `first`.

    Attributes:
        rows: Number of environments of all workers.
        first: Index of the worker's first one.
        slots: Number of sets of results.
        size: Bytes of the memory.
    """

    rows: int
    first: int
    slots: int
    size: int


@dataclass(frozen=True, slots=True)
class Attached:
    """Worker: it is mapped."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Parent: reset the environments where mask is true, and put what they return into a slot."""

    slot: int
    seeds: list[int | None]
    mask: list[bool]
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Parent: step environments.

    Attributes:
        slot: Where the results belong.
        rows: Local indices of the environments, in the order in which to step them; None for all.
        actions: Leaves of shape (rows, *leaf shape); None if they lie in shared memory.
        objects: What does not lie in the arrays, if anything: per leaf of the action space None or one value per row
            (an array where they have another dtype than the space, a list where each is of its own kind).
        stream: Whether to answer in parts as environments finish.
    """

    slot: int
    rows: list[int] | None = None
    actions: list[Array] | None = None
    objects: list[Any] = field(default_factory=list)
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Results:
    """Worker: what steps or a reset gave.

    Attributes:
        rows: Local indices of the environments; None for all.
        arrays: Observations (leaves), rewards, terminations, truncations, each with a batch axis; None if they lie in
            shared memory.
        infos: As `physgym.protocol.batched_infos.pack` gives them, None if all are empty.
        objects: One list per observation leaf of variable size, one value per row.
        failures: Environments that raised; their rows mean nothing.
        cut: Environments whose episode was cut because their worker had to be started again; their rows of observations
            mean nothing.
        last: Whether this completes the answer.
    """

    rows: list[int] | None = None
    arrays: list[Array] | None = None
    infos: Infos | None = None
    objects: list[list[Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    last: bool = True


@dataclass(frozen=True, slots=True)
class Rollout:
    """Parent: run episodes with the environments' own samplers and send their samples.

    Attributes:
        episodes: Index, seed and, if there are some, options of the reset of each episode.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Fail after so many rejected steps in a row.
        nonfinite: What a sample with a value that is not finite is: "error", "reject" or "allow".
        keep_rejected: Whether to send the samples of rejected steps.
        limit: How many samples are wanted at most; 0 for all of the episodes. The worker ends the rollout with that
            one; the episode under way and those after it do not end.
        made: How many samples the parent has had of the worker when it asked. What the worker has made since, in the
            rollouts before this one, counts towards `limit`.
        goes_on: Whether the rollout before this one stopped in the first episode, by its limit. The worker goes on with
            it where it still can, else it begins the episode anew.
    """

    episodes: list[Any]
    max_steps: int
    max_rejects: int
    nonfinite: str = "error"
    keep_rejected: bool = False
    limit: int = 0
    made: int = 0
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """Samples of rejected steps.

    Attributes:
        episodes: Shape (n,), int64: index of the episode of each.
        steps: Shape (n,), int64: its step in the episode.
        reasons: Why each was rejected.
        samples: Fields of shape (n, *field shape); values need not be finite.
    """

    episodes: Array
    steps: Array
    reasons: list[Any]
    samples: Sample


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of episodes.

    Attributes:
        episodes: Shape (n,), int64: index of each episode.
        values: Parameters of shape (n, *shape).
    """

    episodes: Array
    values: Sample


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """Worker: samples of some episodes, in order; an episode may begin in one part and end in a later one.

    Attributes:
        episodes: Shape (n,), int64: index of the episode of each sample.
        steps: Shape (n,), int64: its step in the episode.
        samples: Fields of shape (n, *field shape).
        ended: What became of each episode that ended: index, number of steps, number of samples, sum of the rewards,
            reasons of rejected steps by step, and, if the worker tells, how it ended: "terminated", "truncated" or
            "cut" (by `max_steps`).
        last: Whether this completes the answer.
        parameters: Those of episodes that have begun, each before or with the first sample of its episode; may be None.
        rejected: Samples of rejected steps, where they were asked for; None if there are none.
    """

    episodes: Array
    steps: Array
    samples: Sample
    ended: list[Any]
    last: bool
    parameters: Parameters | None = None
    rejected: Rejected | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Parent: call a method or read an attribute ("call"), set one ("set") or render ("render").

    Attributes:
        kind: Which of these.
        name: Of the method or attribute.
        args: Arguments; for "set" one value per environment.
        kwargs: Keyword arguments.
        rows: Local indices of the environments, None for all.
    """

    kind: str
    name: str = ""
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    rows: list[int] | None = None


@dataclass(frozen=True, slots=True)
class CallResult:
    """Worker: one result per environment."""

    results: list[Any]


@dataclass(frozen=True, slots=True)
class Predict:
    """Worker, while it serves a request: an environment asks the network for a prediction."""

    env: int
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Parent: the predicted fields, or why there are none."""

    fields: dict[str, Any]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    """Parent: close the environments and end."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Worker: the environments are closed; I end."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Worker: the request failed.

    Attributes:
        env: Index of the environment within this worker, -1 if none in particular.
        error: Module and qualified name of the exception's class, joined by a colon.
        message: Its text.
        traceback: The traceback, as text.
        doing: What was asked of the environment.
    """

    env: int
    error: str
    message: str
    traceback: str
    doing: str = ""


Message: TypeAlias = (
    Challenge | Hello | Welcome | Ready | Attach | Attached | Reset | Step | Results | Rollout | RolloutResult | Call
    | CallResult | Predict | Prediction | Close | Closed | Failure
)  # fmt: skip
# the numbers of docs/protocol.md: a new message gets a new number, and none is ever given again
CODES: dict[type[Any], int] = {
    Challenge: 0,
    Hello: 1,
    Welcome: 2,
    Ready: 3,
    Attach: 4,
    Attached: 5,
    Reset: 6,
    Step: 7,
    Results: 8,
    Rollout: 9,
    RolloutResult: 10,
    Call: 11,
    CallResult: 12,
    Predict: 13,
    Prediction: 14,
    Close: 15,
    Closed: 16,
    Failure: 17,
}
MESSAGE_TYPES: tuple[type[Any], ...] = tuple(CODES)
_UNPROVED = frozenset({Challenge, Hello, Welcome})
REPLIES: dict[type[Any], type[Any]] = {
    Attach: Attached,
    Reset: Results,
    Step: Results,
    Rollout: RolloutResult,
    Call: CallResult,
    Close: Closed,
}
_KINDS = {code: kind for kind, code in CODES.items()}


# In shared memory a step of all environments, and its answer where there is no info, say nothing but "now": these very
# messages take a short way through a connection, since they are what cheap environments are bound by.
BELLS = tuple(Step(slot) for slot in range(SLOTS))
DONE = Results()
_BELL = struct.Struct(HEADER.format + _ROWS.format.lstrip("<"))
_STEP, _RESULTS = CODES[Step], CODES[Results]


# --- layouts


@dataclass(frozen=True)
class Agreement:
    """What both ends know after `Ready`: number of environments and layouts."""

    count: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    sample_spec: SampleSpec | None
    parameter_spec: SampleSpec | None
    parameter_space: spaces.Space[Any] | None
    actions: Layout
    results: Layout
    samples: Layout
    parameters: Layout
    action_leaves: list[Leaf]
    variable_observations: int

    @classmethod
    def from_ready(cls, ready: Ready) -> Agreement:
        """Layouts that follow from a worker's description."""
        observation = walk.from_json(ready.description["observation_space"])
        action = walk.from_json(ready.description["action_space"])
        fields, told = (ready.description[f"{what}_fields"] for what in ("sample", "parameter"))
        spec = None if fields is None else SampleSpec.from_json(fields)
        parameters = None if told is None else SampleSpec.from_json(told)
        drawn = ready.description["parameter_space"]
        seen, done = walk.leaves(observation), walk.leaves(action)
        return cls(
            ready.count,
            observation,
            action,
            spec,
            parameters,
            None if drawn is None else walk.from_json(drawn),
            Layout(done),
            results_layout(Layout(seen)),
            Layout(_leaves(spec)),
            Layout(_leaves(parameters)),
            done,
            sum(leaf.variable for leaf in seen),
        )


def _leaves(spec: SampleSpec | None) -> list[Leaf]:
    return [] if spec is None else [Leaf(field.name, field.shape, field.dtype) for field in spec.values()]


# --- one end of a connection


@dataclass(slots=True)
class Pending:
    """A request without its last reply.

    Attributes:
        sequence: Its sequence number.
        kind: Its class.
        left: Rows or episodes without an answer; None if all environments, or nothing to count.
        limited: Whether its last reply may leave some out, as that of a rollout with a `limit` may.
    """

    sequence: int
    kind: type[Any]
    left: set[int] | None = None
    limited: bool = False


class Connection:
    """The protocol's state at one end, without any input or output.

    Args:
        role: Which end this is.

    Attributes:
        state: "challenge", "hello", "welcome", "building", "ready" or "closed".
        agreement: Layouts, known once `Ready` went by; None before.
        pending: Requests without their last reply, oldest first.
        asking: Whether a `Predict` waits for its `Prediction`.
    """

    OPENING: ClassVar[dict[tuple[str, type[Any]], tuple[Role, str]]] = {
        ("challenge", Challenge): (Role.PARENT, "hello"),
        ("hello", Hello): (Role.WORKER, "welcome"),
        ("welcome", Welcome): (Role.PARENT, "building"),
        ("building", Ready): (Role.WORKER, "ready"),
        ("building", Failure): (Role.WORKER, "closed"),
    }

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = "challenge"
        self.agreement: Agreement | None = None
        self.pending: deque[Pending] = deque()
        self.asking = False
        self._other = Role.WORKER if role is Role.PARENT else Role.PARENT
        self._sequence = 0
        self._input = bytearray(INPUT_SIZE)
        self._view = memoryview(self._input)
        self._start = self._end = 0  # what of the input is filled and not yet used
        self._body: memoryview | None = None  # a body that does not fit into the input
        self._filled = 0
        self._head: tuple[type[Any], int, int] | None = None  # of the frame under way: kind, sequence, length

    @property
    def closing(self) -> bool:
        """Whether the worker has nothing left to answer but `Close`."""
        return self.state == "closed" or (bool(self.pending) and self.pending[0].kind is Close)

    # sending

    def send(self, message: Message) -> list[Buffer]:
        """Buffers to write, one after another, to send a message.

        Raises:
            ProtocolError: The message is not legal in this state, or holds what cannot travel.
        """
        if (message is DONE or message is BELLS[0] or message is BELLS[1]) and (
            bell := self._bell(message)
        ) is not None:
            return [bell]
        kind = type(message)
        self._check(kind, self.role, None)
        encode = _ENCODERS.get(kind)
        try:
            body = [encode_value(_plain(message))] if encode is None else encode(message, self.agreement)
            self._check_content(message)
        except (struct.error, TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            raise ProtocolError(f"a {kind.__name__} holds what cannot travel: {error!r}") from error
        length = sum(map(_nbytes, body))
        if length > MAX_BODY:
            raise ProtocolError(f"a {kind.__name__} of {length} bytes exceeds the limit of {MAX_BODY}")
        # only now: what cannot be sent changes no state
        sequence = self._expected(kind)
        self._advance(message, self.role, sequence)
        return [HEADER.pack(MAGIC, VERSION, CODES[kind], sequence, length), *body]

    def _bell(self, message: Message) -> bytes | None:
        """The frame of one of the short messages, None if it has to take the long way."""
        if self.state != "ready" or self.asking:
            return None
        if message is DONE:
            if self.role is Role.PARENT or not self.pending or self.pending[0].kind is not Step:
                return None
            head = self.pending[0]
            if head.left is not None:
                return None
            self.pending.popleft()
            return _BELL.pack(MAGIC, VERSION, _RESULTS, head.sequence, _ROWS.size, 0, _LAST, 0, _ALL)
        if self.role is Role.WORKER or self.pending:
            return None
        assert isinstance(message, Step)
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        self.pending.append(Pending(sequence, Step))
        return _BELL.pack(MAGIC, VERSION, _STEP, sequence, _ROWS.size, message.slot, 0, 0, _ALL)

    # receiving

    def get_buffer(self) -> memoryview:
        """Where the next received bytes belong; never empty."""
        if self._body is not None:
            return self._body[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == INPUT_SIZE or self._start > INPUT_SIZE // 2:
            rest = self._input[self._start : self._end]
            self._input[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> list[Message]:
        """Take note of bytes put into `get_buffer`; the messages that they complete.

        Raises:
            ProtocolError: The bytes are not a legal frame. The connection must be closed then.
        """
        if self._body is not None:
            self._filled += count
            if self._filled < len(self._body):
                return []
            body, self._body = self._body, None
            return [self._receive(body)]
        self._end += count
        if self._end == _BELL.size and not self._start and self._head is None and (short := self._bell_received()):
            return [short]
        messages: list[Message] = []
        while True:
            if self._head is None:
                if self._end - self._start < 16:
                    return messages
                self._open_frame()
            assert self._head is not None
            length = self._head[2]
            there = self._end - self._start
            if there < length:
                if length > INPUT_SIZE // 2:
                    self._body = _reserve(length)
                    self._body[:there] = self._view[self._start : self._end]
                    self._filled, self._start, self._end = there, 0, 0
                return messages
            # a copy, since arrays of the message are views of it
            copy = bytearray(self._view[self._start : self._start + length])
            self._start += length
            messages.append(self._receive(memoryview(copy)))

    def _bell_received(self) -> Message | None:
        """One of the short messages if the input is exactly that, and legal; what else it is, the long way tells."""
        if self.state != "ready" or self.asking:
            return None
        magic, version, code, sequence, length, slot, flags, unused, number = _BELL.unpack_from(self._input)
        if (magic, version, length, unused, number) != (MAGIC, VERSION, _ROWS.size, 0, _ALL):
            return None
        message: Message
        if self.role is Role.WORKER:
            expected = (self._sequence + 1) & 0xFFFFFFFF
            if code != _STEP or flags or slot >= SLOTS or self.pending or sequence != expected:
                return None
            self._sequence = sequence
            self.pending.append(Pending(sequence, Step))
            message = BELLS[slot]
        else:
            head = self.pending[0] if self.pending else None
            if head is None or head.kind is not Step or head.left is not None or sequence != head.sequence:
                return None
            if code != _RESULTS or flags != _LAST or slot:
                return None
            self.pending.popleft()
            message = DONE
        self._start = self._end = 0
        return message

    def _open_frame(self) -> None:
        magic, version, code, sequence, length = HEADER.unpack_from(self._input, self._start)
        self._start += 16
        if magic != MAGIC:
            raise ProtocolError(f"not a physgym frame: it starts with {magic!r} instead of {MAGIC!r}")
        if version != VERSION:
            raise ProtocolError(
                f"peer speaks version {version} of the protocol, this end {VERSION}; update one of them"
            )
        kind = _KINDS.get(code)
        if kind is None:
            raise ProtocolError(f"unknown message type {code}")
        limit = MAX_BODY
        if self.agreement is None:
            limit = MAX_BODY_BEFORE_READY if self.state == "building" else MAX_BODY_BEFORE_WELCOME
        if length > limit:
            raise ProtocolError(f"a body of {length} bytes exceeds the limit of {limit}")
        self._check(kind, self._other, sequence)  # before memory is spent on the body
        self._head = kind, sequence, length

    def _receive(self, body: memoryview) -> Message:
        assert self._head is not None
        (kind, sequence, _), self._head = self._head, None
        decode = _DECODERS.get(kind)
        message: Message
        if decode is not None:
            assert self.agreement is not None
            try:
                message = decode(body, self.agreement)
            except (TypeError, ValueError) as error:
                raise ProtocolError(f"the body of a {kind.__name__} is wrong: {error}") from error
        else:
            try:
                # who has not proved itself is given no work but to read a few numbers and bytes
                content = decode_plain(body) if kind in _UNPROVED else decode_value(body)
                message = kind(**_checked(kind, content))
            except TypeError as error:
                raise ProtocolError(f"the body of a {kind.__name__} is wrong: {error}") from error
        self._check_content(message)
        self._advance(message, self._other, sequence)
        return message

    # states

    def _expected(self, kind: type[Any]) -> int:
        """The sequence number of the next message, if it is of this kind."""
        if kind in REPLIES:
            return (self._sequence + 1) & 0xFFFFFFFF
        return self.pending[0].sequence if self.pending else 0

    def _check(self, kind: type[Any], sender: Role, sequence: int | None) -> None:
        """Check that `sender` may send such a message now.

        Raises:
            ProtocolError: It may not.
        """
        if self.state != "ready":
            legal = self.OPENING.get((self.state, kind), (None,))[0] is sender
        elif sender is Role.PARENT:
            ending = bool(self.pending) and self.pending[-1].kind is Close
            legal = (kind in REPLIES and not ending) or (kind is Prediction and self.asking)
        elif not self.pending or self.asking:
            legal = False
        else:
            head = self.pending[0]
            legal = kind is REPLIES[head.kind] or kind is Failure or (kind is Predict and head.kind is not Close)
        if not legal:
            waiting = ", ".join(request.kind.__name__ for request in self.pending) or "nothing"
            raise ProtocolError(
                f"the {sender.value} may not send {kind.__name__} in state {self.state!r} with {waiting} unanswered"
            )
        if sequence is not None and sequence != self._expected(kind):
            raise ProtocolError(f"{kind.__name__} has sequence number {sequence} instead of {self._expected(kind)}")

    def _check_content(self, message: Message) -> None:
        """Check a message against the number of environments and against its request.

        Raises:
            ProtocolError: It names what there is not.
        """
        if self.agreement is None:
            return
        count = self.agreement.count
        match message:
            case Results():
                for failure in message.failures:
                    _check_env(failure.env, 0, count)
                _left_of_step(self.pending[0], message, count)
            case RolloutResult():
                _left_of_rollout(self.pending[0], message)
            case Failure():
                _check_env(message.env, -1, count)
            case Predict():
                _check_env(message.env, 0, count)
            case Call():
                number = count if message.rows is None else len(_indices(message.rows, count))
                if message.rows is not None and len(set(message.rows)) != number:
                    raise ProtocolError(f"a Call names environments {message.rows}")
                if message.kind == "set" and len(message.args) != number:
                    raise ProtocolError(f"a Call sets {len(message.args)} values for {number} environments")
            case CallResult():
                left = self.pending[0].left
                number = count if left is None else len(left)
                if len(message.results) != number:
                    raise ProtocolError(f"a CallResult has {len(message.results)} results for {number} environments")
            case Reset():
                ok = len(message.seeds) == len(message.mask) == count and 0 <= message.slot < _SLOT_LIMIT
                ok = ok and all(type(wanted) is bool for wanted in message.mask)
                if not ok or not all(seed is None or type(seed) is int for seed in message.seeds):
                    raise ProtocolError(f"a Reset needs a seed or None, and true or false, for {count} environments")
            case Rollout():
                _check_rollout(message)

    def _advance(self, message: Message, sender: Role, sequence: int) -> None:
        """Note a legal message."""
        kind = type(message)
        if self.state != "ready":
            if isinstance(message, Ready):
                self.agreement = _agree(message)
            self.state = self.OPENING[self.state, kind][1]
        elif kind is Predict or kind is Prediction:
            self.asking = kind is Predict
        elif sender is Role.PARENT:
            self._sequence = sequence
            left = {entry[0] for entry in message.episodes} if isinstance(message, Rollout) else None
            if isinstance(message, (Step, Call)) and message.rows is not None:
                left = set(message.rows)
            self.pending.append(Pending(sequence, kind, left, isinstance(message, Rollout) and message.limit > 0))
        elif getattr(message, "last", True):
            if self.pending.popleft().kind is Close:
                self.state = "closed"
        elif isinstance(message, Results):
            assert self.agreement is not None
            self.pending[0].left = _left_of_step(self.pending[0], message, self.agreement.count)
        elif isinstance(message, RolloutResult):
            self.pending[0].left = _left_of_rollout(self.pending[0], message)


def _reserve(length: int) -> memoryview:
    """Memory for a body, which takes no page before bytes arrive for it."""
    try:
        return memoryview(np.empty(length, np.uint8))  # type: ignore[arg-type]
    except MemoryError as error:
        raise ProtocolError(f"there is no memory for a body of {length} bytes") from error


def _check_env(env: int, lowest: int, count: int) -> None:
    if not lowest <= env < count:
        raise ProtocolError(f"a worker names environment {env} of {count}")


def _check_rollout(request: Rollout) -> None:
    """Check the episodes of a rollout, of which there may be very many."""
    for entry in request.episodes:
        if (
            type(entry) not in (list, tuple)
            or not (len(entry) == 2 or (len(entry) == 3 and type(entry[2]) is dict))
            or type(entry[0]) is not int
            or type(entry[1]) is not int
            or entry[0] < 0
        ):
            raise ProtocolError("Rollout.episodes must be lists of index, seed and, if there are some, options")
    if request.nonfinite not in get_args(NonFinite):
        raise ProtocolError(f"Rollout.nonfinite must be one of {get_args(NonFinite)}")
    if request.limit < 0 or request.made < 0:
        raise ProtocolError("Rollout.limit and Rollout.made must not be negative")


def _left_of_step(request: Pending, results: Results, count: int) -> set[int] | None:
    """Rows of a step or reset that are unanswered after these results.

    Raises:
        ProtocolError: There are none of that name, or the last results leave some out.
    """
    if results.rows is None:
        if request.left is not None or not results.last:
            raise ProtocolError("a part of a Results must name its environments")
        return None
    if request.kind is Reset:
        raise ProtocolError("the answer to a Reset has one part, for all environments")
    rows = set(results.rows)
    left = set(range(count)) if request.left is None else request.left
    infos = set() if results.infos is None else set(results.infos[0])
    if not (rows <= left and infos <= rows and rows.issuperset(results.cut)):
        raise ProtocolError(f"a Results names environments {results.rows}, of which {sorted(left)} are unanswered")
    if not rows.issuperset(failure.env for failure in results.failures):
        raise ProtocolError("a Results reports failures of environments that it does not name")
    if results.last and rows != left:
        raise ProtocolError(f"the last Results leaves out environments {sorted(left - rows)}")
    return left - rows


def _left_of_rollout(request: Pending, result: RolloutResult) -> set[int]:
    """Episodes of a rollout that are unfinished after this result.

    Raises:
        ProtocolError: There are none of that name, or the last result leaves some out.
    """
    assert request.left is not None
    ended = [entry[0] for entry in result.ended]
    named = {*ended, *result.episodes.tolist()}
    if result.parameters is not None:
        named.update(result.parameters.episodes.tolist())
    if result.rejected is not None:
        named.update(result.rejected.episodes.tolist())
    if not named <= request.left or len(set(ended)) != len(ended):
        raise ProtocolError(f"a RolloutResult names episodes {sorted(named - request.left)} that are not under way")
    left = request.left.difference(ended)
    if result.last and left and not request.limited:
        raise ProtocolError(f"the last RolloutResult leaves out {len(left)} episodes")
    return left


def _nbytes(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


def _plain(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}


# --- bodies with a fixed layout


def _encode_rows(first: int, flags: int, rows: list[int] | None) -> bytes:
    if rows is None:
        return _ROWS.pack(first, flags, 0, _ALL)
    return _ROWS.pack(first, flags, 0, len(rows)) + np.array(rows, _INDEX).tobytes()


def _decode_rows(body: memoryview, count: int, known: int) -> tuple[int, int, list[int] | None, memoryview]:
    """Slot, flags, row indices and the rest of a body."""
    if len(body) < _ROWS.size:
        raise ProtocolError("a message ends before its head")
    slot, flags, unused, number = _ROWS.unpack_from(body)
    if unused or flags & ~known:
        raise ProtocolError(f"a message has flags {flags} and {unused}, which mean nothing in it")
    if number == _ALL:
        return slot, flags, None, body[_ROWS.size :]
    end = _ROWS.size + number * _INDEX.itemsize
    if number > count or len(body) < end:
        raise ProtocolError(f"a message names {number} of {count} environments in {len(body)} bytes")
    rows: list[int] = np.frombuffer(body[_ROWS.size : end], _INDEX).tolist()
    if any(row >= count for row in rows) or len(set(rows)) != len(rows):
        raise ProtocolError(f"a message names environments {rows} of {count}")
    return slot, flags, rows, body[end:]


def _decode_objects(objects: Any, leaves: int, number: int) -> list[list[Any]]:
    ok = isinstance(objects, list) and len(objects) in (0, leaves)
    if not ok or not all(isinstance(values, list) and len(values) == number for values in objects):
        raise ProtocolError(f"expected {leaves} lists of {number} values of variable size")
    return objects  # type: ignore[no-any-return]


def _decode_actions(objects: Any, leaves: list[Leaf], number: int) -> list[Any]:
    if not isinstance(objects, list) or len(objects) != len(leaves):
        raise ProtocolError(f"expected values of {len(leaves)} leaves of the action space")
    for leaf, values in zip(leaves, objects, strict=True):
        fits = values is None and not leaf.variable
        if isinstance(values, list):
            fits = len(values) == number
        elif not leaf.variable and isinstance(values, np.ndarray):
            fits = values.shape == (number, *leaf.shape)
        if not fits:
            raise ProtocolError(f"expected {number} actions {leaf.path!r}, got {type(values).__name__}")
    return objects


def _pack(layout: Layout, arrays: list[Array], number: int) -> list[Buffer]:
    parts = layout.pack(arrays)
    if sum(map(_nbytes, parts)) != number * layout.row:
        raise ProtocolError(f"arrays of {sum(map(_nbytes, parts))} bytes do not belong to {number} environments")
    return parts


def _encode_step(message: Step, agreed: Agreement) -> list[Buffer]:
    flags = (_STREAM if message.stream else 0) | (0 if message.actions is None else _INLINE)
    body: list[Buffer] = [_encode_rows(message.slot, flags, message.rows)]
    if message.actions is not None:
        body += _pack(agreed.actions, message.actions, agreed.count if message.rows is None else len(message.rows))
    if message.objects:
        body.append(encode_value(message.objects))
    return body


def _decode_step(body: memoryview, agreed: Agreement) -> Step:
    slot, flags, rows, rest = _decode_rows(body, agreed.count, _STREAM | _INLINE)
    number = agreed.count if rows is None else len(rows)
    actions = None
    if flags & _INLINE:
        end = number * agreed.actions.row
        actions, rest = agreed.actions.unpack(rest[:end], number), rest[end:]
    objects = _decode_actions(decode_value(rest), agreed.action_leaves, number) if rest else []
    return Step(slot, rows, actions, objects, bool(flags & _STREAM))


def _encode_results(message: Results, agreed: Agreement) -> list[Buffer]:
    flags = (_LAST if message.last else 0) | (0 if message.arrays is None else _INLINE)
    body: list[Buffer] = [_encode_rows(0, flags, message.rows)]
    if message.arrays is not None:
        body += _pack(agreed.results, message.arrays, agreed.count if message.rows is None else len(message.rows))
    if message.infos or message.objects or message.failures or message.cut:
        failures = [_plain(failure) for failure in message.failures]
        body.append(encode_value([message.infos, message.objects, failures, message.cut]))
    return body


def _decode_results(body: memoryview, agreed: Agreement) -> Results:
    slot, flags, rows, rest = _decode_rows(body, agreed.count, _LAST | _INLINE)
    if slot:
        raise ProtocolError("a Results names a slot")
    last = bool(flags & _LAST)
    arrays = None
    if flags & _INLINE:
        number = agreed.count if rows is None else len(rows)
        end = number * agreed.results.row
        arrays, rest = agreed.results.unpack(rest[:end], number), rest[end:]
    if not rest:
        return Results(rows, arrays, last=last)
    tail = decode_value(rest)
    if not isinstance(tail, list) or len(tail) != 4 or not isinstance(tail[2], list):
        raise ProtocolError("the tail of a Results is wrong")
    number = agreed.count if rows is None else len(rows)
    return Results(
        rows,
        arrays,
        batching.check(tail[0], agreed.count),
        _decode_objects(tail[1], agreed.variable_observations, number),
        [Failure(**_checked(Failure, failure)) for failure in tail[2]],
        _indices(tail[3], agreed.count),
        last,
    )


def _indices(value: Any, count: int) -> list[int]:
    if not isinstance(value, list) or not all(type(i) is int and 0 <= i < count for i in value):
        raise ProtocolError(f"expected indices of {count} environments")
    return value


def _encode_rollout(message: RolloutResult, agreed: Agreement) -> list[Buffer]:
    told, rejected = message.parameters, message.rejected
    extra = [
        None if told is None else told.episodes,
        None if rejected is None else [rejected.episodes, rejected.steps, rejected.reasons],
    ]
    meta = encode_value([message.episodes, message.steps, message.ended, message.last, *extra])
    body: list[Buffer] = [struct.pack("<I", len(meta)), meta]
    body += _pack_columns(agreed.samples, agreed.sample_spec, message.samples, len(message.steps))
    if told is not None:
        body += _pack_columns(agreed.parameters, agreed.parameter_spec, told.values, len(told.episodes))
    if rejected is not None:
        body += _pack_columns(agreed.samples, agreed.sample_spec, rejected.samples, len(rejected.steps))
    return body


def _pack_columns(layout: Layout, spec: SampleSpec | None, columns: Sample, number: int) -> list[Buffer]:
    return _pack(layout, [] if spec is None else [columns[name] for name in spec], number)


def _decode_rollout(body: memoryview, agreed: Agreement) -> RolloutResult:
    if len(body) < 4:
        raise ProtocolError("a RolloutResult ends before its head")
    end = 4 + int.from_bytes(body[:4], "little")
    if end > len(body):
        raise ProtocolError("a RolloutResult ends within its head")
    head = decode_value(body[4:end])
    if not isinstance(head, list) or len(head) != 6 or not isinstance(head[2], list) or type(head[3]) is not bool:
        raise ProtocolError("the head of a RolloutResult is wrong")
    episodes, steps, ended, last, told, rejected = head
    if not _are_names(episodes, steps):
        raise ProtocolError("episodes and steps of a RolloutResult must be equally long columns of int64")
    if rejected is not None and not (
        isinstance(rejected, list) and len(rejected) == 3 and _are_names(*rejected[:2]) and _are_texts(*rejected[1:])
    ):
        raise ProtocolError("RolloutResult.rejected is wrong")
    if not all(isinstance(entry, list) and len(entry) in (5, 6) and _outcome_fits(*entry) for entry in ended):
        raise ProtocolError("RolloutResult.ended is wrong")
    if told is not None and (not _is_column(told) or len(set(told.tolist())) != len(told)):
        raise ProtocolError("RolloutResult.parameters is wrong")
    rest = body[end:]
    samples, rest = _unpack_columns(agreed.samples, agreed.sample_spec, rest, len(steps))
    parameters = kept = None
    if told is not None:
        values, rest = _unpack_columns(agreed.parameters, agreed.parameter_spec, rest, len(told))
        parameters = Parameters(told, values)
    if rejected is not None:
        fields, rest = _unpack_columns(agreed.samples, agreed.sample_spec, rest, len(rejected[1]))
        kept = Rejected(rejected[0], rejected[1], rejected[2], fields)
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes of arrays are left over")
    return RolloutResult(episodes, steps, samples, ended, last, parameters, kept)


def _unpack_columns(
    layout: Layout, spec: SampleSpec | None, data: memoryview, number: int
) -> tuple[Sample, memoryview]:
    """The columns at the beginning of some bytes, and the rest of these."""
    end = number * layout.row
    names = [] if spec is None else list(spec)
    return dict(zip(names, layout.unpack(data[:end], number), strict=True)), data[end:]


def _is_column(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.int64 and value.ndim == 1


def _are_names(episodes: Any, steps: Any) -> bool:
    return _is_column(episodes) and _is_column(steps) and len(episodes) == len(steps)


def _are_texts(steps: Array, reasons: Any) -> bool:
    return isinstance(reasons, list) and len(reasons) == len(steps) and all(isinstance(why, str) for why in reasons)


def _outcome_fits(episode: Any, steps: Any, kept: Any, reward: Any, rejected: Any, how: Any = _ENDINGS[0]) -> bool:
    numbers = type(episode) is type(steps) is type(kept) is int and min(episode, steps, kept) >= 0
    return numbers and isinstance(reward, (float, np.floating)) and isinstance(rejected, dict) and how in _ENDINGS


_ENCODERS: dict[type[Any], Callable[[Any, Any], list[Buffer]]] = {
    Step: _encode_step,
    Results: _encode_results,
    RolloutResult: _encode_rollout,
}
_DECODERS: dict[type[Any], Callable[[memoryview, Agreement], Any]] = {
    Step: _decode_step,
    Results: _decode_results,
    RolloutResult: _decode_rollout,
}

_FIELD_TYPES: dict[str, tuple[type[Any], ...]] = {
    "str": (str,), "int": (int,), "bytes": (bytes,), "dict[str, Any]": (dict,), "list[Any]": (list,),
    "list[int | None]": (list,), "list[bool]": (list,), "list[int] | None": (list, type(None)),
    "dict[str, Any] | None": (dict, type(None)), "bool": (bool,),
}  # fmt: skip


def _checked(kind: type[Any], content: Any) -> dict[str, Any]:
    """Keyword arguments of a message, each of the type that its class declares."""
    declared = kind.__dataclass_fields__
    if not isinstance(content, dict) or set(content) != set(declared):
        raise ProtocolError(f"the body of a {kind.__name__} must have the keys {sorted(declared)}")
    for name, value in content.items():
        told = declared[name].type
        if not isinstance(value, _FIELD_TYPES[told]) or (type(value) is bool and told == "int"):
            raise ProtocolError(f"{kind.__name__}.{name} is a {type(value).__name__}, not {declared[name].type}")
    return content


def _described_size(described: dict[str, Any]) -> int:
    """Bytes of one value of each space in a description, before any of the spaces is made.

    Raises:
        ValueError: One is too large, or not described as it must be.
    """
    told = [described[f"{name}_space"] for name in ("observation", "action", "sample", "parameter")]
    return sum(space_size(data) for data in (*told, *described["observation_spaces"]) if data is not None)


def _agree(ready: Ready) -> Agreement:
    """The agreement from a description that came over the wire: any fault in it is the peer's."""
    if ready.count < 1:
        raise ProtocolError(f"a worker announces {ready.count} environments")
    try:
        described = ready.description
        if set(described) - {"code"} != _DESCRIBED:
            raise ValueError(f"its keys must be {sorted(_DESCRIBED)}, and maybe code")
        for names in (described.get("code") or {}).values():
            if not all(isinstance(name, str) for name in names):
                raise ValueError("code must be lists of texts")
        if not isinstance(described["metadata"], dict) or len(described["observation_spaces"]) not in (0, ready.count):
            raise ValueError("metadata or observation_spaces are wrong")
        total = _described_size(described)
        for fields in (described["sample_fields"] or [], described["parameter_fields"] or []):
            total += check_size(((field["shape"], field["dtype"]) for field in fields), texts=True)
            if not all(field["role"] in get_args(FieldRole) and isinstance(field["unit"], str) for field in fields):
                raise ValueError("a field has another role, or a unit that is no text")
        if total > MAX_DESCRIBED:
            raise ValueError(f"values of {total} bytes exceed the limit of {MAX_DESCRIBED} for all spaces together")
        for name in ("sample", "parameter"):
            space, fields = described[f"{name}_space"], described[f"{name}_fields"]
            if (space is None) != (fields is None):
                raise ValueError(f"there is either {name}_space or {name}_fields without the other")
            if space is not None:
                pairs = (fields_of(decode_space(space)), _leaves(SampleSpec.from_json(fields)))
                # a worker that describes spaces in the machine's byte order may have fields of the other one
                first, second = ([(x.path, x.shape, x.dtype.newbyteorder("=")) for x in leaves] for leaves in pairs)
                if first != second:
                    raise ValueError(f"{name}_fields are not those of {name}_space")
        seen, *others = (
            walk.leaves(decode_space(data))
            for data in (described["observation_space"], *described["observation_spaces"])
        )
        if any(other != seen for other in others):
            raise ValueError("its environments have different observations")
        decode_space(described["action_space"])
        return Agreement.from_ready(ready)
    except Exception as error:
        # numpy and Gymnasium refuse spaces in many ways
        raise ProtocolError(f"a worker describes its environments wrongly: {error!r}") from error
