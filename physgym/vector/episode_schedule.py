"""Rollouts: episodes with the environments' own samplers, spread over the workers of a pool."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from physgym.batched.env import BATCHED
from physgym.errors import ConfigError, PhysGymError, WaitTimeout, WorkerError
from physgym.protocol.ledger import Ledger, Pending
from physgym.protocol.messages import Message, Rollout, RolloutResult
from physgym.vector.arrivals import Arrivals
from physgym.vector.fleet import WorkerPool
from physgym.vector.inbox import Arrival
from physgym.vector.memory import share_samples
from physgym.vector.quota import LARGEST_CHUNK, Demand, Quota
from physgym.vector.turnover import Turnover
from physgym.vector.workers import Fault, LocalWorker, RemoteWorker, Worker
from physgym.worker.given_inputs import GIVEN

CHUNKS_PER_WORKER = 2  # of episodes: one that runs and one that waits, so that no worker idles between them
CHUNK_SECONDS = 0.05  # episodes are handed out in chunks that take about so long
CHUNK_BYTES = 16 << 20  # of the options of its episodes, which may hold stored samples
LOOK, PAUSE = 0.5, 0.02  # seconds between two looks at who has come: while others work, and while nobody does
CHUNKS_AHEAD = 16  # per worker: how far episodes may run ahead of the earliest one, so that it does not fill the memory

Episode: TypeAlias = tuple[int, int] | tuple[int, int, Mapping[str, Any]]


@dataclass(slots=True, eq=False)
class _Chunk:
    """Episodes that follow one another, run by one worker; the context of the requests for them.

    What is unanswered of these requests, the ledger says. This is the plan: to whom they were given, and what of them
    is to be asked next.

    Attributes:
        episodes: Indices of the episodes.
        place: Of the chunk in the sequence of chunks.
        worker: To whom it was given.
        begun: When that was asked last.
        size: For how many episodes.
        rest: Episodes for which it is to be asked again: it has answered, but stopped before they ended, by its limit.
    """

    episodes: list[int]
    place: int
    worker: Worker
    begun: float = 0.0
    size: int = 0
    rest: list[Any] = field(default_factory=list)

    @property
    def first(self) -> int:
        """Return the index of the first episode, by which the chunk is known."""
        return self.episodes[0]


class EpisodeSchedule:
    """Hands out chunks of episodes to workers, large enough that messages cost little; puts their samples together.

    Args:
        pool: The workers.
        turnover: Those of them that join or leave meanwhile.
        episodes: Index, seed and, if there are some, options of each episode.
        limits: The other fields of a `Rollout`.
        handle_reply: Deals with what is no sample; gives the error that ends a chunk.
        wanted: How many samples are wanted, those of the first episodes; None for all. No worker makes a step that
            cannot be wanted: an episode that begins while k samples are missing stops with its k-th one. Those that
            episodes before it will give are taken to be there; where they give fewer, it continues.
        longest: How many steps an episode has at most, if less than the limit says.
        once: Whether no episode can be made a second time, as in real time: one that a fault has interrupted ends with
            the steps that had come.
    """

    def __init__(
        self,
        pool: WorkerPool,
        turnover: Turnover,
        episodes: Iterable[Episode],
        limits: Mapping[str, Any],
        handle_reply: Callable[[Worker, Message | Fault, Ledger | None], PhysGymError | None],
        wanted: int | Demand | None = None,
        longest: int | None = None,
        *,
        once: bool = False,
    ) -> None:
        self._once = once
        self._pool, self._turnover, self._source, self._handle_reply = pool, turnover, iter(episodes), handle_reply
        self._limits = dict(limits)
        self._chunks: dict[int, _Chunk] = {}  # those that are not complete, by their first episode, in their order
        self._episodes: set[int] = set()  # of these chunks: none may be given twice
        self._begun = 0
        self._arrivals, self._sizes = Arrivals(once=once), _ChunkSizes()
        self._lost: dict[int, list[Any]] = {}  # episodes that nobody runs any more, by the first one of their chunk
        self._given_out = False  # whether there are no further episodes
        self._fault: PhysGymError | None = None
        self._quota = Quota(wanted, min(limits["max_steps"], longest or limits["max_steps"]))

    def run(self) -> Iterator[tuple[int, RolloutResult | PhysGymError]]:
        """Yield samples, as `SocketVectorEnv.rollout` does."""
        for _ in range(CHUNKS_PER_WORKER):
            self._feed()
        for worker, reply, request, ledger in self._replies():
            if self._turnover.renewals.take(worker, reply, request):
                self._feed()
                continue
            if isinstance(reply, Fault) and reply.dead and self._turnover.is_open:
                if self._once:
                    yield from self._cut(worker, reply)
                self._take_back(worker, reply)
                self._feed()
                continue
            if not isinstance(reply, RolloutResult):
                if self._once and isinstance(reply, Fault):
                    yield from self._cut(worker, reply)
                error = self._handle_reply(worker, reply, ledger)
                if error is not None:
                    self._fault = error
                    chunk = _chunk_of(reply)
                    self._quota.end(chunk)
                    yield chunk, error
                elif not isinstance(reply, Fault):
                    self._feed()  # to a worker that was started again, and has said so
                continue
            assert request is not None
            yield from self._new_part(request, reply)
            self._feed()
        if self._quota.met:
            return
        if self._chunks or next(self._source, None) is not None:
            raise self._fault or WorkerError("no worker is left to run the episodes")

    def _replies(self) -> Iterator[Arrival]:
        """Yield the replies of workers; where these come and go, also look who has come."""
        if not self._turnover.is_open and not self._turnover.renewals.wanted:
            yield from self._pool.replies()
            return
        alone_since = looked = time.monotonic()
        while True:
            try:
                for arrival in self._pool.replies(PAUSE if self._turnover.renewals.under_way else LOOK):
                    yield arrival
                    alone_since = time.monotonic()
            except WaitTimeout:
                alone_since = time.monotonic()
                if alone_since - looked >= LOOK:
                    self._pool.look_for_late()  # which no wait as short as this one does
                    looked = alone_since
            else:
                if self._quota.met or (self._given_out and not self._chunks):
                    return
                if not self._turnover.is_open and not self._turnover.renewals.under_way:
                    return
                if self._turnover.is_open and time.monotonic() - alone_since > self._pool.settings.timeout:
                    raise self._nobody_left()
                time.sleep(PAUSE)
            self._feed()

    def _nobody_left(self) -> WorkerError:
        """Return the error of work that waits for workers, of which none has come."""
        said = "".join(f"\n{text}" for text in self._turnover.news())
        return WorkerError(f"there are episodes left, and no worker for {self._pool.settings.timeout:g} s{said}")

    def _take_back(self, worker: Worker, fault: Fault) -> None:
        """Keep the episodes of a worker that is gone, for others."""
        undone: dict[int, list[Any]] = {}
        for pending in fault.unanswered:
            if isinstance(rest := pending.rest(), Rollout) and isinstance(pending.context, _Chunk):
                undone[pending.context.first] = list(rest.episodes)
        for first, chunk in self._chunks.items():
            if chunk.worker is worker:
                self._lost[first] = undone.get(first, chunk.rest)
                chunk.rest = []
        self._turnover.lost(worker)
        self._sizes.forget(worker.index)
        warnings.warn(f"{fault.error}. Others run its episodes again", RuntimeWarning, stacklevel=3)

    def _run_again(self, worker: Worker) -> bool:
        """Give a worker the episodes that another one has left undone, the earliest first; return whether some are."""
        for first in sorted(self._lost, key=lambda one: self._chunks[one].place):
            limit = 0 if self._quota.endless else self._quota.limit(first)
            if limit > 0 or self._quota.endless:
                chunk = self._chunks[first]
                chunk.worker = worker
                self._post(chunk, self._lost.pop(first), limit)
                return True
        return False

    def _feed(self) -> None:
        """Give every worker that has room its next chunk; one that leaves gets none."""
        if self._pool.settings.views.attention:
            self._pool.attend()
        self._turnover.admit()
        self._renew()
        batched = self._pool.description["metadata"].get(BATCHED)  # a worker runs as many episodes side by side
        earliest = next((chunk.place for chunk in self._chunks.values()), self._begun)
        for worker in sorted(self._pool.workers, key=lambda worker: len(worker.ledger.pending)):
            room = CHUNKS_PER_WORKER if isinstance(worker, RemoteWorker) else 1
            if isinstance(worker, RemoteWorker) and worker.gone:
                continue
            if isinstance(worker, LocalWorker) and self._pool.waiting:
                return  # what it has made already may be enough
            owed = len(worker.ledger.pending)
            if owed >= room or self._go_on(worker):
                continue
            if self._turnover.leaves(worker):
                self._turnover.let_go(worker)
                continue
            if isinstance(worker, RemoteWorker) and self._is_worn(worker):
                more = self._lost or not (self._given_out or self._quota.room(ahead=False) < 1)
                if more and not owed:
                    self._turnover.renewals.begin(worker)
                continue
            if self._lost and self._run_again(worker):
                continue
            if self._begun - earliest >= CHUNKS_AHEAD * len(self._pool.workers):
                continue
            size = max(self._sizes.size, len(worker.envs)) if batched else self._sizes.size
            most = min(size, self._quota.room(ahead=owed > 0))
            limit = 0 if self._quota.endless else self._quota.limit(own=self._chunks_before(worker))
            if most < 1 or (limit < 1 and not self._quota.endless):
                continue
            entries = self._taken(min(most, self._turnover.renewals.room(worker)))
            if not entries:
                self._given_out = True
                return
            chunk = _Chunk([entry[0] for entry in entries], self._begun, worker)
            self._begun += 1
            self._chunks[chunk.first] = chunk
            self._episodes.update(chunk.episodes)
            self._quota.begin(chunk.first, len(entries))
            self._post(chunk, entries, limit)
            if isinstance(worker, LocalWorker):
                return  # it has run already

    def _is_worn(self, worker: RemoteWorker) -> bool:
        """Return whether a worker is to be renewed before it gets what is next."""
        most = max((len(entries) for entries in self._lost.values()), default=1)
        return worker.episodes > 0 and self._turnover.renewals.room(worker) < most

    def _renew(self) -> None:
        """Continue with renewals.

        Raises:
            WorkerError: A worker does not start, and restarts do not help.
        """
        for worker, error in self._turnover.renewals.go_on():
            if (final := self._handle_reply(worker, Fault(error, dead=True), None)) is not None:
                raise final

    def _taken(self, most: int) -> list[Any]:
        """Return the next episodes, as a `Rollout` has them."""
        entries: list[Any] = []
        size = 0
        for entry in self._source:
            episode, seed = entry[:2]
            if type(episode) is not int or type(seed) is not int or episode in self._episodes:
                raise ConfigError(f"episodes must be pairs of different integers, not {(episode, seed)}")
            entries.append([episode, seed] if len(entry) == 2 else [episode, seed, dict(entry[2])])
            size += 0 if len(entry) == 2 else _nbytes(entry[2])
            if len(entries) >= most or size >= CHUNK_BYTES:
                break
        return entries

    def _chunks_before(self, worker: Worker) -> list[int]:
        """Return the chunks that a worker runs before the next one: what it makes there counts towards the limit."""
        return [first for first, chunk in self._chunks.items() if chunk.worker is worker]

    def _post(self, chunk: _Chunk, episodes: list[Any], limit: int, *, goes_on: bool = False) -> None:
        chunk.begun, chunk.size = time.monotonic(), max(1, len(episodes))  # a fault may have left nothing but the end
        made = self._pool.taken(chunk.worker)  # those that the limit was computed from
        if isinstance(chunk.worker, RemoteWorker):
            chunk.worker.episodes += 0 if goes_on else len(episodes)
            share_samples(chunk.worker, self._pool.memory, self._pool.agreement)
        request = Rollout(episodes, **self._limits, limit=limit, made=made, goes_on=goes_on)
        self._pool.post(chunk.worker, request, chunk)

    def _go_on(self, worker: Worker) -> bool:
        """Return whether a stopped worker is to continue in its chunk as soon as that is known to be wanted."""
        if self._quota.endless:
            return False
        stopped = next((chunk for chunk in self._chunks.values() if chunk.rest and chunk.worker is worker), None)
        if stopped is None:
            return False
        limit = self._quota.limit(stopped.first)
        if limit > 0:
            rest, stopped.rest = stopped.rest, []
            self._post(stopped, rest, limit, goes_on=True)
        elif not worker.ledger.pending and any(self._quota.limit(first) > 0 for first in self._lost):
            # it waits for episodes that nobody runs any more: these first, and its own anew
            self._lost[stopped.first], stopped.rest = stopped.rest, []
            return False
        return True

    def _new_part(self, request: Pending, reply: RolloutResult) -> Iterator[tuple[int, RolloutResult]]:
        """Yield the new part of a reply; after the restart of a worker not all of it need be new."""
        chunk = request.context
        assert isinstance(chunk, _Chunk)
        if reply.last:
            self._sizes.adapt(chunk.worker.index, chunk.begun, chunk.size)
        reply = self._arrivals.new(reply)
        if reply.reports is not None and len(reply.steps):
            _note_inputs(request.request, reply)
        for entry in reply.ended:
            self._arrivals.end(entry[0])
        self._quota.take(chunk.first, len(reply.steps), reply.lengths)
        if reply.last:
            rest = request.rest()
            assert isinstance(rest, Rollout)
            chunk.rest = rest.episodes
            if chunk.rest:
                reply = replace(reply, last=False)
            else:
                self._complete(chunk)
        yield chunk.first, reply

    def _cut(self, worker: Worker, fault: Fault) -> Iterator[tuple[int, RolloutResult]]:
        """Yield the ends of the episodes that a fault has interrupted, which nobody is asked for again."""
        for pending in (*fault.unanswered, *worker.ledger.pending):
            chunk = pending.context
            if isinstance(chunk, _Chunk) and isinstance(pending.unanswered, set):
                for episode in sorted(pending.unanswered):
                    if (end := self._arrivals.cut(episode)) is not None:
                        pending.unanswered.discard(episode)
                        self._quota.take(chunk.first, 0, end.lengths)
                        yield chunk.first, end
        for chunk in [one for one in self._chunks.values() if one.worker is worker and one.rest]:  # those that wait
            for entry in [*chunk.rest]:
                if (end := self._arrivals.cut(entry[0])) is not None:
                    chunk.rest.remove(entry)
                    self._quota.take(chunk.first, 0, end.lengths)
                    if not chunk.rest:
                        self._complete(chunk)
                    yield chunk.first, replace(end, last=not chunk.rest)

    def _complete(self, chunk: _Chunk) -> None:
        self._quota.end(chunk.first)
        del self._chunks[chunk.first]
        self._episodes.difference_update(chunk.episodes)


def _note_inputs(request: Message, reply: RolloutResult) -> None:
    """Add what a person has changed to the options of its episode, for a worker that begins it again."""
    assert isinstance(request, Rollout)
    assert reply.reports is not None
    known = {entry[0]: entry[2][GIVEN] for entry in request.episodes if len(entry) > 2 and GIVEN in entry[2]}
    if not known:
        return
    for place, *change in reply.reports.inputs:
        known[int(reply.episodes[place])]["changes"].append([int(reply.steps[place]), *change])
    known[int(reply.episodes[-1])]["made"] = int(reply.steps[-1]) + 1


def _chunk_of(reply: Message | Fault) -> int:
    """Return the first episode of the oldest chunk that a fault concerns, -1 if there is none."""
    unanswered = reply.unanswered if isinstance(reply, Fault) else ()
    chunks = (pending.context for pending in unanswered)
    return next((chunk.first for chunk in chunks if isinstance(chunk, _Chunk)), -1)


class _ChunkSizes:
    """Chooses the size of chunks by the time that the last one took."""

    def __init__(self) -> None:
        self.size = 1
        self._ended: dict[int, float] = {}  # when a worker completed its last chunk

    def forget(self, worker: int) -> None:
        """Take note that a worker is gone, whose index nobody has again."""
        self._ended.pop(worker, None)

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
