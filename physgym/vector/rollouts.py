"""Rollouts: episodes with the environments' own samplers, spread over the workers of a pool."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from physgym.errors import ConfigError, PhysGymError, WorkerError
from physgym.vector.pool import Fault, LocalWorker, RemoteWorker, Worker, WorkerPool
from physgym.vector.wire import Message, Rollout, RolloutResult

CHUNKS_PER_WORKER = 2  # of episodes: one that runs and one that waits, so that no worker idles between them
CHUNK_SECONDS = 0.05  # episodes are handed out in chunks that take about so long
LARGEST_CHUNK = 128
CHUNKS_AHEAD = 16  # per worker: how far episodes may run ahead of the earliest one, so that it does not fill the memory


class Rollouts:
    """Hands out chunks of episodes to workers, large enough that messages cost little; puts their samples together.

    Args:
        pool: The workers.
        episodes: Index and seed of each episode.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Fail after so many rejected steps in a row.
        settle: Deals with what is no sample; gives the error that ends a chunk.
    """

    def __init__(
        self,
        pool: WorkerPool,
        episodes: Iterable[tuple[int, int]],
        max_steps: int,
        max_rejects: int,
        settle: Callable[[Worker, Message | Fault], PhysGymError | None],
    ) -> None:
        self._pool, self._source, self._settle = pool, iter(episodes), settle
        self._limits = {"max_steps": max_steps, "max_rejects": max_rejects}
        self._chunk_of: dict[int, int] = {}  # first episode of the chunk, by episode under way
        self._left: dict[int, int] = {}  # episodes to come, by first episode of the chunk
        self._order: dict[int, int] = {}  # place of a chunk in the sequence
        self._begun = 0
        self._seen: dict[int, int] = {}  # last step received of an episode under way
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
            for episode, seed in self._source:
                if type(episode) is not int or type(seed) is not int or episode in self._chunk_of:
                    raise ConfigError(f"episodes must be pairs of different integers, not {(episode, seed)}")
                chunk.append([episode, seed])
                if len(chunk) >= self._size:
                    break
            if not chunk:
                return
            first = chunk[0][0]
            self._order[first], self._left[first] = self._begun, len(chunk)
            self._begun += 1
            self._chunk_of.update((episode, first) for episode, _ in chunk)
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
        if not len(reply.steps) and not reply.ended:
            return
        first = self._chunk_of[int(reply.episodes[0]) if len(reply.steps) else reply.ended[0][0]]
        if len(reply.steps):
            # only the first episode of a part can have begun in an earlier one, only the last can go on in a later one
            begun, going_on = int(reply.episodes[0]), int(reply.episodes[-1])
            last_step = int(reply.steps[-1])
            if begun in self._seen:
                new = (reply.episodes != begun) | (reply.steps > self._seen[begun])
                samples = {name: column[new] for name, column in reply.samples.items()}
                reply = replace(reply, episodes=reply.episodes[new], steps=reply.steps[new], samples=samples)
            self._seen[going_on] = max(last_step, self._seen.get(going_on, -1))
        for episode, *_ in reply.ended:
            del self._chunk_of[episode]
            self._seen.pop(episode, None)
            self._left[first] -= 1
        complete = not self._left[first]
        if complete:
            del self._left[first], self._order[first]
        yield first, replace(reply, last=complete)
