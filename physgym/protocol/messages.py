"""The messages between a vector env and its workers, each with the number that stands for it in a frame.

The parent opens with `Challenge`; the worker proves itself with `Hello`, challenges in turn, and gets `Welcome`. Once
its environments exist it sends `Ready`, which describes spaces and sample fields. From then on the parent asks
(`Attach`, `Reset`, `Step`, `Rollout`, `Call`, `Close`) and the worker answers each request, in order, with its reply or
with `Failure`; the replies to steps and rollouts may come in several parts. While a request is served the worker may
ask `Predict`, and waits for `Prediction`.

A worker that was started on another machine, and knows of no environments, sends `WorkerOffer` in place of `Ready`. It
waits until the parent sends `Assignment` with its environments, or `Refusal`.

A client of a simulator service sends `ServiceRequest` in their place, and the service answers with `ServiceAnswer`.

Three messages need no answer and count for nothing that is owed: with `WatchScenes` the parent says of which
environments it wants pictures, and a worker sends these in `ScenePart`, or leaves them out where the connection has no
room. With `GiveInputs` the parent says what a person changes in an environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from physgym.protocol.batched_infos import Infos
from physgym.protocol.step_reports import StepReports
from physgym.sample import Sample
from physgym.spaces import Array


class Role(Enum):
    """One of the two ends of a connection."""

    PARENT = "parent"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Challenge:
    """Parent: prove that you know the token, for this nonce."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker: its index and process, its proof, and a nonce for which the parent is to prove itself."""

    worker: int
    pid: int
    nonce: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """Parent: its own proof."""

    proof: bytes


@dataclass(frozen=True, slots=True)
class WorkerOffer:
    """Worker that knows of no environments yet: it can host some.

    Attributes:
        count: How many, at most.
        host: Name of its machine.
        versions: Of the packages that matter, by name.
    """

    count: int
    host: str
    versions: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Parent: make these environments.

    Attributes:
        start: What a worker has to know: numbers and texts by name, see `physgym.worker.main.WorkerStart`.
        environments: Descriptions of what makes them, JSON data, one for each.
    """

    start: dict[str, Any]
    environments: list[Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Parent: there is no work for this worker, for a reason that does not pass.

    Attributes:
        reason: Why.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """Client of a simulator service, at the worker's end: do something.

    Attributes:
        action: What, such as "request"; see docs/howto/simulators.md.
        arguments: By name.
    """

    action: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """Simulator service, at the parent's end: what has come of the request.

    Attributes:
        error: Why it was not done; empty where it was.
        values: By name.
    """

    error: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker: the environments exist, and here is their description.

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
    """Worker: the shared memory is mapped."""


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
    """Worker: the results of steps or of a reset.

    Attributes:
        rows: Local indices of the environments; None for all.
        arrays: Observations (leaves), rewards, terminations, truncations, each with a batch axis; None if they lie in
            shared memory.
        infos: As `physgym.protocol.batched_infos.pack_infos` gives them, None if all are empty.
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
        goes_on: Whether the rollout before this one stopped in the first episode, by its limit. The worker continues
            with it where it still can, else it begins the episode again.
        reports: Whether to report every step, rejected ones included; `limit` and `made` count steps then.
    """

    episodes: list[Any]
    max_steps: int
    max_rejects: int
    nonfinite: str = "error"
    keep_rejected: bool = False
    limit: int = 0
    made: int = 0
    goes_on: bool = False
    reports: bool = False


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
        episodes: Shape (n,), int64: index of the episode of each sample; where steps are reported, of each step.
        steps: Shape (n,), int64: its step in the episode.
        samples: Fields of shape (n, *field shape); where steps are reported, of those that were not rejected.
        ended: What became of each episode that ended: index, number of steps, number of samples, sum of the rewards,
            reasons of rejected steps by step, and, if the worker tells, how it ended: "terminated", "truncated" or
            "cut" (by `max_steps`).
        last: Whether this completes the answer.
        parameters: Those of episodes that have begun, each before or with the first sample of its episode; may be None.
        rejected: Samples of rejected steps, where they were asked for; None if there are none.
        reports: Those of all steps that it names, where they were asked for; else None. An episode ends in the part
            that names its last step then.
        snapshots: States of simulations, where their environments give some: episode, step after which, and arrays by
            name of each; None if there are none.
        slot: Where samples are in memory that both ends share, see `physgym.protocol.sample_slots`; None where they
            are sent.
    """

    episodes: Array
    steps: Array
    samples: Sample
    ended: list[Any]
    last: bool
    parameters: Parameters | None = None
    rejected: Rejected | None = None
    reports: StepReports | None = None
    snapshots: list[Any] | None = None
    slot: int | None = None

    @property
    def lengths(self) -> list[int]:
        """Return how many steps are named of each episode that ended, in this part and those before it."""
        return [kept if self.reports is None else steps for _, steps, kept, *_ in self.ended]


@dataclass(frozen=True, slots=True)
class Call:
    """Parent: call a method or read an attribute ("call"), set one ("set"), render ("render"), declare ("scene").

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
class WatchScenes:
    """Parent: send frames of these environments from now on, and of no others; needs no answer.

    Attributes:
        rows: Local indices of the environments, each once; none of them ends it.
        interval: Seconds between two frames of an environment, at least.
    """

    rows: list[int]
    interval: float


@dataclass(frozen=True, slots=True)
class GiveInputs:
    """Parent: a person changes inputs of an environment, at the beginning of its next step; needs no answer.

    Attributes:
        env: Local index of the environment.
        changes: Name and value of each, in the order in which they are made.
    """

    env: int
    changes: list[Any]


@dataclass(frozen=True, slots=True)
class ScenePart:
    """Worker, while it serves a request: a part of a frame of a watched environment; needs no answer.

    The parts of a frame follow one another; other messages may come in between.

    Attributes:
        env: Local index of the environment.
        place: Which part this is, from 0.
        parts: How many parts the frame has.
        data: At most `LARGEST_PART` bytes; those of all parts together are the frame, as a value.
    """

    env: int
    place: int
    parts: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Parent: close the environments and end.

    Attributes:
        again: Whether there is more work, so that the program which keeps the worker running is to start another
            process.
    """

    again: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """Worker: the environments are closed, and it ends."""


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
    | CallResult | Predict | Prediction | Close | Closed | Failure | WatchScenes | ScenePart | GiveInputs | WorkerOffer
    | Assignment | Refusal | ServiceRequest | ServiceAnswer
)  # fmt: skip
# the numbers of docs/reference/protocol.md: a new message gets a new number, and none is ever given again
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
    WatchScenes: 18,
    ScenePart: 19,
    GiveInputs: 20,
    WorkerOffer: 21,
    Assignment: 22,
    Refusal: 23,
    ServiceRequest: 24,
    ServiceAnswer: 25,
}
LARGEST_PART = 1 << 15  # bytes of a frame in one message: few enough to fit where a connection has any room
MESSAGE_TYPES: tuple[type[Any], ...] = tuple(CODES)
REPLIES: dict[type[Any], type[Any]] = {
    Attach: Attached,
    Reset: Results,
    Step: Results,
    Rollout: RolloutResult,
    Call: CallResult,
    Close: Closed,
}


def fields(message: Any) -> dict[str, Any]:
    """Return the fields of a message by name."""
    return {name: getattr(message, name) for name in message.__slots__}
