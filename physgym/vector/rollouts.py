"""Rollouts: episodes with the environments' own samplers, spread over the workers of a pool."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
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


class Rollouts:
    """Hands out chunks of episodes to workers, large enough that messages cost little; puts their samples together.

    Args:
        pool: The workers.
        episodes: Index, seed and, if there are some, options of each episode.
        limits: The other fields of a `Rollout`.
        settle: Deals with what is no sample; gives the error that ends a chunk.
    """

    def __init__(
        self,
        pool: WorkerPool,
        episodes: Iterable[Episode],
        limits: Mapping[str, Any],
        settle: Callable[[Worker, Message | Fault], PhysGymError | None],
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
        self._asked: dict[int, deque[tuple[float, int]]] = {worker.index: deque() for worker in pool.workers}

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
                    yield chunk, error
                continue
            if reply.last:
                self._adapt(worker)
            yield from self._parts(reply)
            self._feed()
        if self._left or next(self._source, None) is not None:
            raise self._fault or WorkerError("no worker is left to run the episodes")

    def _chunk_under_way(self, worker: Worker, reply: Message | Fault) -> int:
        """First episode of the chunk that a worker has not completed."""
        request = reply.request if isinstance(reply, Fault) and reply.request is not None else None
        if request is None and worker.requests:
            request = worker.requests[0]
        return self._chunk_of[request.episodes[0][0]] if isinstance(request, Rollout) else -1

    def _feed(self) -> None:
        """Give every worker that has room its next chunk."""
        earliest = min(self._order.values(), default=self._begun)
        for worker in sorted(self._pool.workers, key=lambda worker: len(worker.requests)):
            room = CHUNKS_PER_WORKER if isinstance(worker, RemoteWorker) else 1
            if isinstance(worker, RemoteWorker) and worker.gone:
                continue
            if len(worker.requests) >= room or self._begun - earliest >= CHUNKS_AHEAD * len(self._pool.workers):
                continue
            chunk: list[Any] = []
            size = 0
            for entry in self._source:
                episode, seed = entry[:2]
                if type(episode) is not int or type(seed) is not int or episode in self._chunk_of:
                    raise ConfigError(f"episodes must be pairs of different integers, not {(episode, seed)}")
                chunk.append([episode, seed] if len(entry) == 2 else [episode, seed, dict(entry[2])])
                size += 0 if len(entry) == 2 else _nbytes(entry[2])
                if len(chunk) >= self._size or size >= CHUNK_BYTES:
                    break
            if not chunk:
                return
            first = chunk[0][0]
            self._order[first], self._left[first] = self._begun, len(chunk)
            self._begun += 1
            self._chunk_of.update(dict.fromkeys([entry[0] for entry in chunk], first))
            self._asked[worker.index].append((time.monotonic(), len(chunk)))
            self._pool.post(worker, Rollout(chunk, **self._limits))
            if isinstance(worker, LocalWorker):
                return  # it has run already

    def _adapt(self, worker: Worker) -> None:
        """Choose the size of chunks by the time that the last one took."""
        asked = self._asked[worker.index]
        begun, size = asked.popleft()
        now = time.monotonic()
        # a chunk begins when the one before it ends
        took = now - max(begun, self._ended.get(worker.index, 0.0))
        self._ended[worker.index] = now
        wanted = int(CHUNK_SECONDS / max(took / size, 1e-6))
        self._size = max(1, min(wanted, 2 * self._size, LARGEST_CHUNK))

    def _parts(self, reply: RolloutResult) -> Iterator[tuple[int, RolloutResult]]:
        """The part of a reply that belongs to each chunk, without samples that came before a worker was restarted."""
        named = _first_named(reply)
        if named is None:
            return
        first = self._chunk_of[named]
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
        complete = not self._left[first]
        if complete:
            del self._left[first], self._order[first]
        yield first, replace(reply, last=complete)


def _nbytes(options: Mapping[str, Any]) -> int:
    """Bytes of the arrays in the options of an episode."""
    sizes = (_nbytes(x) if isinstance(x, Mapping) else getattr(x, "nbytes", 0) for x in options.values())
    return sum(sizes)


def _first_named(reply: RolloutResult) -> int | None:
    """An episode that a reply has something of; None if it is empty."""
    columns = [reply.episodes]
    if reply.parameters is not None:
        columns.append(reply.parameters.episodes)
    if reply.rejected is not None:
        columns.append(reply.rejected.episodes)
    named = [int(column[0]) for column in columns if len(column)] + [entry[0] for entry in reply.ended]
    return named[0] if named else None


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
