"""Rollouts: episodes with the environments' own samplers, spread over the workers of a pool."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from physgym.errors import ConfigError, PhysGymError, WorkerError
from physgym.protocol.messages import Message, Rollout, RolloutResult
from physgym.vector.arrivals import Arrivals
from physgym.vector.fleet import WorkerPool
from physgym.vector.quota import LARGEST_CHUNK, Demand, Quota
from physgym.vector.workers import Fault, LocalWorker, RemoteWorker, Worker

CHUNKS_PER_WORKER = 2  # of episodes: one that runs and one that waits, so that no worker idles between them
CHUNK_SECONDS = 0.05  # episodes are handed out in chunks that take about so long
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


@dataclass(slots=True)
class _Chunk:
    """Episodes that follow one another, run by one worker.

    Attributes:
        first: Index of the first one.
        place: Of the chunk in the sequence of chunks.
        unfinished: How many have not ended.
        entries: The episodes, where it may stop before its end.
    """

    first: int
    place: int
    unfinished: int
    entries: list[Any] = field(default_factory=list)


class EpisodeSchedule:
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
        self._chunks: dict[int, _Chunk] = {}  # by their first episode, in their order
        self._chunk_of: dict[int, _Chunk] = {}  # by episode under way
        self._stopped: dict[int, int] = {}  # first episode of a chunk that has stopped, and with which worker
        self._begun = 0
        self._arrivals, self._sizes = Arrivals(), _ChunkSizes()
        self._fault: PhysGymError | None = None
        self._asked: dict[int, deque[_Asked]] = {worker.index: deque() for worker in pool.workers}
        self._quota = Quota(wanted, min(limits["max_steps"], longest or limits["max_steps"]))

    def run(self) -> Iterator[tuple[int, RolloutResult | PhysGymError]]:
        """Yield samples, as `SocketVectorEnv.rollout` does."""
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
                done = self._asked[worker.index].popleft()
                self._sizes.adapt(worker.index, done.begun, done.size)
            yield from self._parts(worker, chunk, reply)
            self._feed()
        if self._quota.met:
            return
        if self._chunks or next(self._source, None) is not None:
            raise self._fault or WorkerError("no worker is left to run the episodes")

    def _chunk_under_way(self, worker: Worker, reply: Message | Fault) -> int:
        """Return the first episode of the chunk that a worker has not completed, -1 if there is none."""
        request = reply.request if isinstance(reply, Fault) and reply.request is not None else None
        if request is None and worker.requests:
            request = worker.requests[0]
        if not isinstance(request, Rollout):
            return -1
        # the first episodes of the request may have ended before the fault
        under_way = (self._chunk_of[entry[0]].first for entry in request.episodes if entry[0] in self._chunk_of)
        return next(under_way, -1)

    def _feed(self) -> None:
        """Give every worker that has room its next chunk."""
        earliest = next((chunk.place for chunk in self._chunks.values()), self._begun)
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
            most = min(self._sizes.size, self._quota.room(ahead=bool(worker.requests)))
            # what the worker makes before counts towards the limit
            own = [asked.chunk for asked in self._asked[worker.index]]
            limit = 0 if self._quota.endless else self._quota.limit(own=own)
            if most < 1 or (limit < 1 and not self._quota.endless):
                continue
            entries = self._taken(most)
            if not entries:
                return
            chunk = _Chunk(entries[0][0], self._begun, len(entries), [] if self._quota.endless else entries)
            self._begun += 1
            self._chunks[chunk.first] = chunk
            self._chunk_of.update(dict.fromkeys([entry[0] for entry in entries], chunk))
            self._quota.begin(chunk.first, len(entries))
            self._post(worker, chunk.first, entries, limit)
            if isinstance(worker, LocalWorker):
                return  # it has run already

    def _taken(self, most: int) -> list[Any]:
        """Return the next episodes, as a `Rollout` has them."""
        entries: list[Any] = []
        size = 0
        for entry in self._source:
            episode, seed = entry[:2]
            if type(episode) is not int or type(seed) is not int or episode in self._chunk_of:
                raise ConfigError(f"episodes must be pairs of different integers, not {(episode, seed)}")
            entries.append([episode, seed] if len(entry) == 2 else [episode, seed, dict(entry[2])])
            size += 0 if len(entry) == 2 else _nbytes(entry[2])
            if len(entries) >= most or size >= CHUNK_BYTES:
                break
        return entries

    def _post(self, worker: Worker, first: int, chunk: list[Any], limit: int, *, goes_on: bool = False) -> None:
        self._asked[worker.index].append(_Asked(time.monotonic(), len(chunk), first))
        made = worker.made - self._pool.untaken(worker)  # those that the limit was computed from
        self._pool.post(worker, Rollout(chunk, **self._limits, limit=limit, made=made, goes_on=goes_on))

    def _go_on(self, worker: Worker) -> bool:
        """Whether a worker has stopped in a chunk, in which it is to go on as soon as that is known to be wanted."""
        stopped = (first for first, index in self._stopped.items() if index == worker.index)
        for first in sorted(stopped, key=lambda first: self._chunks[first].place):
            limit = self._quota.limit(first)
            if limit > 0:
                del self._stopped[first]
                chunk = [entry for entry in self._chunks[first].entries if entry[0] in self._chunk_of]
                self._post(worker, first, chunk, limit, goes_on=True)
            return True
        return False

    def _parts(self, worker: Worker, first: int, reply: RolloutResult) -> Iterator[tuple[int, RolloutResult]]:
        """Yield the part of a reply that is new, which that after the restart of a worker need not be."""
        reply, chunk = self._arrivals.new(reply), self._chunks[first]
        for entry in reply.ended:
            del self._chunk_of[entry[0]]
            self._arrivals.end(entry[0])
        chunk.unfinished -= len(reply.ended)
        self._quota.take(first, len(reply.steps), reply.ended)
        if reply.last and chunk.unfinished:
            self._stopped[first] = worker.index
            reply = replace(reply, last=False)
        elif reply.last:
            self._quota.end(first)
            del self._chunks[first]
        yield first, reply


class _ChunkSizes:
    """Chooses the size of chunks by the time that the last one took."""

    def __init__(self) -> None:
        self.size = 1
        self._ended: dict[int, float] = {}  # when a worker completed its last chunk

    def adapt(self, worker: int, begun: float, size: int) -> None:
        """Take note that a worker has just completed a chunk of so many episodes, for which it was asked before."""
        now = time.monotonic()
        # a chunk begins when the one before it ends
        took = now - max(begun, self._ended.get(worker, 0.0))
        self._ended[worker] = now
        wanted = int(CHUNK_SECONDS / max(took / size, 1e-6))
        self.size = max(1, min(wanted, 2 * self.size, LARGEST_CHUNK))


def _nbytes(options: Mapping[str, Any]) -> int:
    """Return the bytes of the arrays in the options of an episode."""
    sizes = (_nbytes(x) if isinstance(x, Mapping) else getattr(x, "nbytes", 0) for x in options.values())
    return sum(sizes)
