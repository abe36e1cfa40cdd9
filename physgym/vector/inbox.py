"""The replies that a fleet has received and that nobody has taken yet.

A ledger changes when a reply is received; an iteration over `WorkerPool.replies` is behind it by what lies here. What a
worker still owes stands in its ledger alone; what the caller has not been given yet is that and the inbox.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from physgym.protocol.ledger import Ledger, Pending
from physgym.protocol.messages import Message, Results, RolloutResult
from physgym.vector.workers import Fault, Worker


class Arrival(NamedTuple):
    """A reply, or a fault in its place.

    Attributes:
        worker: From whom.
        reply: The reply.
        request: What it answers; None where the worker is gone with all of its requests, which the fault has.
        ledger: That of the connection over which it came, which is no longer the worker's once that was started again.
    """

    worker: Worker
    reply: Message | Fault
    request: Pending | None
    ledger: Ledger


class Inbox(deque[Arrival]):
    """Replies that nobody has taken yet, in the order in which they came."""

    def samples(self, ledger: Ledger) -> int:
        """Return how many samples are here that came over the connection of a ledger."""
        parts = (arrival.reply for arrival in self if arrival.ledger is ledger)
        return sum(len(part.steps) for part in parts if isinstance(part, RolloutResult))

    def envs_in_flight(self) -> Iterator[int]:
        """Yield the indices of the environments whose step without lockstep was answered, or failed."""
        for worker, reply, request, _ in self:
            count = len(worker.envs)
            if isinstance(reply, Fault):
                rows = [row for pending in reply.unanswered for row in pending.envs_in_flight(count)]
            elif isinstance(reply, Results) and request is not None and request.is_streamed:
                rows = list(range(count)) if reply.rows is None else reply.rows
            else:
                continue
            yield from (worker.envs[row] for row in rows)
