"""Rollouts: episodes with the environments' own samplers, spread over the workers of a pool."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from physgym.errors import ConfigError, PhysGymError, WorkerError
from physgym.spaces import Array
from physgym.vector.pool import Fault, LocalWorker, RemoteWorker, Worker, WorkerPool
from physgym.vector.wire import Message, Parameters, Rejected, Rollout, RolloutResult

CHUNKS_PER_WORKER = 2  # of episodes: one that runs and one that waits, so that no worker idles between them
CHUNK_SECONDS = 0.05  # episodes are handed out in chunks that take about so long
LARGEST_CHUNK = 1024
CHUNK_BYTES = 16 << 20  # of the options of its episodes, which may hold stored samples
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


class Quota:
    """How many samples are still wanted, and how many those episodes will give that are under way.

    Args:
        wanted: Samples of all episodes together; None for no end.

    Attributes:
        missing: Samples that have not arrived; infinite where there is no end.
        length: Samples of an episode, the mean over those that have ended; None before the first one.
    """

    def __init__(self, wanted: int | None) -> None:
        self.missing = math.inf if wanted is None else float(wanted)
        self.length: float | None = None
        self._ended = self._given = 0
        self._left: dict[int, int] = {}  # episodes to come, by chunk
        self._partly: dict[int, int] = {}  # samples of these that came already, by chunk

    def begin(self, chunk: int, episodes: int) -> None:
        """Take note that a chunk was handed out."""
        self._left[chunk], self._partly[chunk] = episodes, 0

    def take(self, chunk: int, samples: int, ended: Sequence[Any]) -> None:
        """Take note of samples and of episodes that ended, as in a `RolloutResult`."""
        self.missing -= samples
        kept = sum(entry[2] for entry in ended)
        self._left[chunk] -= len(ended)
        self._partly[chunk] += samples - kept
        self._ended, self._given = self._ended + len(ended), self._given + kept
        if ended:
            self.length = self._given / self._ended

    def end(self, chunk: int) -> None:
        """Take note that a chunk is complete."""
        self._left.pop(chunk, None)
        self._partly.pop(chunk, None)

    def uncovered(self) -> float:
        """How many samples will be missing when the episodes under way have ended, by the mean length of others."""
        if self.length is None or math.isinf(self.missing):
            return self.missing
        length = self.length
        return self.missing - sum(max(0.0, n * length - self._partly[chunk]) for chunk, n in self._left.items())

    def room(self, *, ahead: bool) -> int:
        """How many episodes more to hand out at once.

        Args:
            ahead: To a worker that is busy. That is done while the samples of all episodes under way, as far as their
                lengths are known, do not suffice: the end is left to workers that are free.
        """
        if math.isinf(self.missing):
            return LARGEST_CHUNK
        if self.missing <= 0:
            return 0
        if self.length is None:
            return 0 if ahead else LARGEST_CHUNK
        episodes = self.uncovered() / max(self.length, 1e-3)
        return min(LARGEST_CHUNK, int(episodes) if ahead else math.ceil(episodes))


class Rollouts:
    """Hands out chunks of episodes to workers, large enough that messages cost little; puts their samples together.

    Args:
        pool: The workers.
        episodes: Index, seed and, if there are some, options of each episode.
        limits: The other fields of a `Rollout`.
        settle: Deals with what is no sample; gives the error that ends a chunk.
        wanted: How many samples are wanted, those of the first episodes; None for all. No worker makes a step that
            cannot be wanted: an episode that begins while k samples are missing ends with its k-th one.
    """

    def __init__(
        self,
        pool: WorkerPool,
        episodes: Iterable[Episode],
        limits: Mapping[str, Any],
        settle: Callable[[Worker, Message | Fault], PhysGymError | None],
        wanted: int | None = None,
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
        self._quota = Quota(wanted)

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
            yield from self._parts(chunk, reply)
            self._feed()
        if self._quota.missing <= 0:
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
            if len(worker.requests) >= room or self._begun - earliest >= CHUNKS_AHEAD * len(self._pool.workers):
                continue
            most = min(self._size, self._quota.room(ahead=bool(worker.requests)))
            if most < 1:
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
            self._asked[worker.index].append(_Asked(time.monotonic(), len(chunk), first))
            limit = 0 if math.isinf(self._quota.missing) else int(self._quota.missing)
            self._quota.begin(first, len(chunk))
            self._pool.post(worker, Rollout(chunk, **self._limits, limit=limit, made=worker.made))
            if isinstance(worker, LocalWorker):
                return  # it has run already

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

    def _parts(self, first: int, reply: RolloutResult) -> Iterator[tuple[int, RolloutResult]]:
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
        if reply.last:
            self._quota.end(first)
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
