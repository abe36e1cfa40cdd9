"""Rollouts: episodes with the environments' own samplers, spread over the workers of a pool."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from physgym.errors import ConfigError, PhysGymError, WorkerError
from physgym.protocol.messages import Message, Parameters, Rejected, Rollout, RolloutResult
from physgym.spaces import Array
from physgym.vector.fleet import Fault, LocalWorker, RemoteWorker, Worker, WorkerPool

CHUNKS_PER_WORKER = 2  # of episodes: one that runs and one that waits, so that no worker idles between them
CHUNK_SECONDS = 0.05  # episodes are handed out in chunks that take about so long
LARGEST_CHUNK = 1024
CHUNK_BYTES = 16 << 20  # of the options of its episodes, which may hold stored samples
TINY = 1e-6  # of a sample: what comes of means is no sample more
CHUNKS_AHEAD = 16  # per worker: how far episodes may run ahead of the earliest one, so that it does not fill the memory

Episode: TypeAlias = tuple[int, int] | tuple[int, int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chunk that a worker was asked for.

    Attributes:
        begun: When.
        size: Its episodes.
        chunk: The first of these.
    """

    begun: float
    size: int
    chunk: int


@dataclass(slots=True)
class _Given:
    """What a chunk has given.

    Attributes:
        left: Episodes that have not ended.
        samples: Samples that came.
        partly: Those among them of the episode under way.
        complete: Whether nothing more comes.
    """

    left: int
    samples: int = 0
    partly: int = 0
    complete: bool = False


@dataclass(slots=True)
class Demand:
    """How many samples are wanted of all episodes together, which may become more while they run."""

    samples: int


class Quota:
    """How many samples are still wanted, and how many those episodes will give that are under way.

    Episodes are wanted in their order: the last one is wanted as far as those before it do not give enough.

    Args:
        wanted: Samples of all episodes together, maybe as a `Demand`, which may grow; None for no end.
        longest: Samples that an episode gives at most, which is what one is taken to give until the first has ended.

    Attributes:
        length: Samples of an episode, the mean over those that have ended; None before the first one.
    """

    def __init__(self, wanted: int | Demand | None, longest: int) -> None:
        self._demand = Demand(wanted) if isinstance(wanted, int) else wanted
        self._longest = longest
        self.length: float | None = None
        self._ended = self._kept = self._squares = 0
        self._settled = 0  # samples of chunks that are complete, as are all before them
        self._chunks: dict[int, _Given] = {}  # the others, in their order

    @property
    def _wanted(self) -> float:
        return math.inf if self._demand is None else float(self._demand.samples)

    @property
    def endless(self) -> bool:
        """Whether all samples are wanted that there are."""
        return self._demand is None

    @property
    def met(self) -> bool:
        """Whether the samples that are wanted have come."""
        first = next(iter(self._chunks.values()), None)
        return self._settled + (0 if first is None else first.samples) >= self._wanted

    def begin(self, chunk: int, episodes: int) -> None:
        """Take note that a chunk was handed out."""
        self._chunks[chunk] = _Given(episodes)

    def take(self, chunk: int, samples: int, ended: Sequence[Any]) -> None:
        """Take note of samples and of episodes that ended, as in a `RolloutResult`."""
        given, kept = self._chunks[chunk], sum(entry[2] for entry in ended)
        given.samples += samples
        given.left -= len(ended)
        given.partly += samples - kept
        self._ended, self._kept = self._ended + len(ended), self._kept + kept
        self._squares += sum(entry[2] ** 2 for entry in ended)
        if ended:
            self.length = self._kept / self._ended

    def end(self, chunk: int) -> None:
        """Take note that a chunk is complete."""
        if chunk in self._chunks:
            self._chunks[chunk].complete = True
        for first in [*self._chunks]:
            if not self._chunks[first].complete:
                return
            self._settled += self._chunks.pop(first).samples

    def limit(self, chunk: int | None = None, own: Collection[int] = ()) -> int:
        """Return how many samples are wanted for sure, where those before them give as many as may well be.

        Whoever stops there goes on if they give fewer: waiting costs less than steps that nobody wants.

        Args:
            chunk: Of this chunk; None: of one behind all that are under way.
            own: Chunks of which only that counts which they have given.
        """
        return math.ceil(self._missing(2.0, chunk, own) - TINY)

    def _missing(self, caution: float, chunk: int | None = None, own: Collection[int] = ()) -> float:
        """How many samples will be missing when the episodes before a chunk have ended."""
        missing = self._wanted - self._settled
        for first, given in self._chunks.items():
            missing -= given.samples
            if first == chunk:
                break
            missing -= 0 if first in own else self._rest(given, caution)
        return missing

    def _rest(self, given: _Given, caution: float) -> float:
        """How many samples a chunk is still to give: by the mean length of episodes, and some deviations more."""
        if given.complete or not given.left:
            return 0.0
        length = self._longest if self.length is None else self.length
        # an episode that is longer than others goes on for as long again
        rest = length - given.partly if given.partly <= length else min(given.partly, self._longest - given.partly)
        rest = max(0.0, rest) + (given.left - 1) * length
        return rest + caution * self._deviation * math.sqrt(given.left)

    @property
    def _deviation(self) -> float:
        """The standard deviation of the samples of an episode."""
        return math.sqrt(max(0.0, self._squares / self._ended - (self.length or 0.0) ** 2)) if self._ended else 0.0

    def room(self, *, ahead: bool) -> int:
        """How many episodes more to hand out at once.

        Args:
            ahead: To a worker that is busy. That is done while the samples of all episodes under way, as far as their
                lengths are known, do not suffice: the end is left to workers that are free.
        """
        if self.endless:
            return LARGEST_CHUNK
        needed = self._missing(0.0)
        if needed < TINY:
            return 0
        if self.length is None and ahead:
            return 0
        episodes = needed / max(self._longest if self.length is None else self.length, 1e-3)
        return min(LARGEST_CHUNK, int(episodes) if ahead else math.ceil(episodes - TINY))


class Rollouts:
    """Hands out chunks of episodes to workers, large enough that messages cost little; puts their samples together.

    Args:
        pool: The workers.
        episodes: Index, seed and, if there are some, options of each episode.
        limits: The other fields of a `Rollout`.
        settle: Deals with what is no sample; gives the error that ends a chunk.
        wanted: How many samples are wanted, those of the first episodes; None for all. No worker makes a step that
            cannot be wanted: an episode that begins while k samples are missing stops with its k-th one. Those that
            episodes before it will give are taken to be there; where they give fewer, it goes on.
        longest: How many steps an episode has at most, if less than the limit says.
    """

    def __init__(
        self,
        pool: WorkerPool,
        episodes: Iterable[Episode],
        limits: Mapping[str, Any],
        settle: Callable[[Worker, Message | Fault], PhysGymError | None],
        wanted: int | Demand | None = None,
        longest: int | None = None,
    ) -> None:
        self._pool, self._source, self._settle = pool, iter(episodes), settle
        self._limits = dict(limits)
        self._chunk_of: dict[int, int] = {}  # first episode of the chunk, by episode under way
        self._left: dict[int, int] = {}  # episodes to come, by first episode of the chunk
        self._order: dict[int, int] = {}  # place of a chunk in the sequence
        self._begun = 0
        self._seen: dict[int, int] = {}  # last step received of an episode under way
        self._seen_rejected: dict[int, int] = {}  # likewise of the rejected ones
        self._told: set[int] = set()  # episodes under way whose parameters came
        self._size = 1
        self._fault: PhysGymError | None = None
        self._ended: dict[int, float] = {}  # when a worker completed its last chunk
        self._asked: dict[int, deque[_Asked]] = {worker.index: deque() for worker in pool.workers}
        self._quota = Quota(wanted, min(limits["max_steps"], longest or limits["max_steps"]))
        self._entries: dict[int, list[Any]] = {}  # the episodes of a chunk that may stop before its end
        self._stopped: dict[int, int] = {}  # worker with which a chunk has stopped

    def run(self) -> Iterator[tuple[int, RolloutResult | PhysGymError]]:
        """The samples."""
        for _ in range(CHUNKS_PER_WORKER):
            self._feed()
        for worker, reply in self._pool.replies():
            if not isinstance(reply, RolloutResult):
                chunk = self._chunk_under_way(worker, reply)
                error = self._settle(worker, reply)
                if error is not None:
                    self._fault = error
                    if asked := self._asked[worker.index]:
                        asked.popleft()
                    self._quota.end(chunk)
                    yield chunk, error
                continue
            chunk = self._asked[worker.index][0].chunk
            if reply.last:
                self._adapt(worker)
            yield from self._parts(worker, chunk, reply)
            self._feed()
        if self._quota.met:
            return
        if self._left or next(self._source, None) is not None:
            raise self._fault or WorkerError("no worker is left to run the episodes")

    def _chunk_under_way(self, worker: Worker, reply: Message | Fault) -> int:
        """First episode of the chunk that a worker has not completed."""
        request = reply.request if isinstance(reply, Fault) and reply.request is not None else None
        if request is None and worker.requests:
            request = worker.requests[0]
        if not isinstance(request, Rollout):
            return -1
        # the first episodes of the request may have ended before the fault
        under_way = (self._chunk_of[entry[0]] for entry in request.episodes if entry[0] in self._chunk_of)
        return next(under_way, -1)

    def _feed(self) -> None:
        """Give every worker that has room its next chunk."""
        earliest = min(self._order.values(), default=self._begun)
        for worker in sorted(self._pool.workers, key=lambda worker: len(worker.requests)):
            room = CHUNKS_PER_WORKER if isinstance(worker, RemoteWorker) else 1
            if isinstance(worker, RemoteWorker) and worker.gone:
                continue
            if isinstance(worker, LocalWorker) and self._pool.waiting:
                return  # what it has made already may be enough
            if len(worker.requests) >= room or self._go_on(worker):
                continue
            if self._begun - earliest >= CHUNKS_AHEAD * len(self._pool.workers):
                continue
            most = min(self._size, self._quota.room(ahead=bool(worker.requests)))
            # what the worker makes before counts towards the limit
            own = [asked.chunk for asked in self._asked[worker.index]]
            limit = 0 if self._quota.endless else self._quota.limit(own=own)
            if most < 1 or (limit < 1 and not self._quota.endless):
                continue
            chunk: list[Any] = []
            size = 0
            for entry in self._source:
                episode, seed = entry[:2]
                if type(episode) is not int or type(seed) is not int or episode in self._chunk_of:
                    raise ConfigError(f"episodes must be pairs of different integers, not {(episode, seed)}")
                chunk.append([episode, seed] if len(entry) == 2 else [episode, seed, dict(entry[2])])
                size += 0 if len(entry) == 2 else _nbytes(entry[2])
                if len(chunk) >= most or size >= CHUNK_BYTES:
                    break
            if not chunk:
                return
            first = chunk[0][0]
            self._order[first], self._left[first] = self._begun, len(chunk)
            self._begun += 1
            self._chunk_of.update(dict.fromkeys([entry[0] for entry in chunk], first))
            if not self._quota.endless:
                self._entries[first] = chunk
            self._quota.begin(first, len(chunk))
            self._post(worker, first, chunk, limit)
            if isinstance(worker, LocalWorker):
                return  # it has run already

    def _post(self, worker: Worker, first: int, chunk: list[Any], limit: int, *, goes_on: bool = False) -> None:
        self._asked[worker.index].append(_Asked(time.monotonic(), len(chunk), first))
        made = worker.made - self._pool.untaken(worker)  # those that the limit was computed from
        self._pool.post(worker, Rollout(chunk, **self._limits, limit=limit, made=made, goes_on=goes_on))

    def _go_on(self, worker: Worker) -> bool:
        """Whether a worker has stopped in a chunk, in which it is to go on as soon as that is known to be wanted."""
        stopped = (first for first, index in self._stopped.items() if index == worker.index)
        for first in sorted(stopped, key=lambda first: self._order[first]):
            limit = self._quota.limit(first)
            if limit > 0:
                del self._stopped[first]
                chunk = [entry for entry in self._entries[first] if entry[0] in self._chunk_of]
                self._post(worker, first, chunk, limit, goes_on=True)
            return True
        return False

    def _adapt(self, worker: Worker) -> None:
        """Choose the size of chunks by the time that the last one took."""
        asked = self._asked[worker.index]
        begun, size = asked[0].begun, asked[0].size
        asked.popleft()
        now = time.monotonic()
        # a chunk begins when the one before it ends
        took = now - max(begun, self._ended.get(worker.index, 0.0))
        self._ended[worker.index] = now
        wanted = int(CHUNK_SECONDS / max(took / size, 1e-6))
        self._size = max(1, min(wanted, 2 * self._size, LARGEST_CHUNK))

    def _parts(self, worker: Worker, first: int, reply: RolloutResult) -> Iterator[tuple[int, RolloutResult]]:
        """The part of a reply that is new, which that after the restart of a worker need not be."""
        new = _unseen(reply.episodes, reply.steps, self._seen)
        if new is not None:
            samples = {name: column[new] for name, column in reply.samples.items()}
            reply = replace(reply, episodes=reply.episodes[new], steps=reply.steps[new], samples=samples)
        if (rejected := reply.rejected) is not None:
            new = _unseen(rejected.episodes, rejected.steps, self._seen_rejected)
            reply = reply if new is None else replace(reply, rejected=_part_of(rejected, new))
        if (told := reply.parameters) is not None:
            fresh = np.array([episode not in self._told for episode in told.episodes.tolist()], np.bool_)
            self._told.update(told.episodes.tolist())
            if not fresh.all():
                values = {name: column[fresh] for name, column in told.values.items()}
                reply = replace(reply, parameters=Parameters(told.episodes[fresh], values))
        for entry in reply.ended:
            episode = entry[0]
            del self._chunk_of[episode]
            self._seen.pop(episode, None)
            self._seen_rejected.pop(episode, None)
            self._told.discard(episode)
            self._left[first] -= 1
        self._quota.take(first, len(reply.steps), reply.ended)
        if reply.last and self._left[first]:
            self._stopped[first] = worker.index
            reply = replace(reply, last=False)
        elif reply.last:
            self._quota.end(first)
            self._entries.pop(first, None)
            del self._left[first], self._order[first]
        yield first, reply


def _nbytes(options: Mapping[str, Any]) -> int:
    """Bytes of the arrays in the options of an episode."""
    sizes = (_nbytes(x) if isinstance(x, Mapping) else getattr(x, "nbytes", 0) for x in options.values())
    return sum(sizes)


def _unseen(episodes: Array, steps: Array, seen: dict[int, int]) -> Array | None:
    """Which rows of a part did not come before a worker was restarted, None if all are new; takes note of them.

    Only the first episode of a part can have begun in an earlier one, only the last can go on in a later one.
    """
    if not len(steps):
        return None
    begun, going_on, last_step = int(episodes[0]), int(episodes[-1]), int(steps[-1])
    new = None
    if begun in seen:
        new = (episodes != begun) | (steps > seen[begun])
    seen[going_on] = max(last_step, seen.get(going_on, -1))
    return new


def _part_of(rejected: Rejected, rows: Array) -> Rejected:
    reasons = [reason for reason, wanted in zip(rejected.reasons, rows.tolist(), strict=True) if wanted]
    samples = {name: column[rows] for name, column in rejected.samples.items()}
    return Rejected(rejected.episodes[rows], rejected.steps[rows], reasons, samples)
