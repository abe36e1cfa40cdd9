"""The ledger of a connection: the requests without their last reply, and what of each is unanswered."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from physgym.errors import ProtocolError
from physgym.protocol.messages import Call, CallResult, Message, Reset, Results, Rollout, RolloutResult, Step


@dataclass(slots=True)
class Pending:
    """A request without its last reply.

    Attributes:
        sequence: Its sequence number.
        request: The request.
        left: Rows or episodes without an answer; None if all environments, or nothing to count.
    """

    sequence: int
    request: Message
    left: set[int] | None = None

    @property
    def kind(self) -> type[Any]:
        """The class of the request."""
        return type(self.request)

    def left_after(self, reply: Message, count: int) -> set[int] | None:
        """Return what is unanswered after a reply, or a part of one.

        Args:
            reply: Of the kind that answers the request.
            count: Number of environments.

        Raises:
            ProtocolError: The reply names what is not unanswered, or is the last one and leaves something out.
        """
        if isinstance(reply, Results):
            return self._left_after_results(reply, count)
        if isinstance(reply, RolloutResult):
            return self._left_after_episodes(reply)
        if isinstance(reply, CallResult):
            number = count if self.left is None else len(self.left)
            if len(reply.results) != number:
                raise ProtocolError(f"a CallResult has {len(reply.results)} results for {number} environments")
        return self.left

    def _left_after_results(self, results: Results, count: int) -> set[int] | None:
        if results.rows is None:
            if self.left is not None or not results.last:
                raise ProtocolError("a part of a Results must name its environments")
            return None
        if isinstance(self.request, Reset):
            raise ProtocolError("the answer to a Reset has one part, for all environments")
        rows = set(results.rows)
        left = set(range(count)) if self.left is None else self.left
        infos = set() if results.infos is None else set(results.infos[0])
        if not (rows <= left and infos <= rows and rows.issuperset(results.cut)):
            raise ProtocolError(f"a Results names environments {results.rows}, of which {sorted(left)} are unanswered")
        if not rows.issuperset(failure.env for failure in results.failures):
            raise ProtocolError("a Results reports failures of environments that it does not name")
        if results.last and rows != left:
            raise ProtocolError(f"the last Results leaves out environments {sorted(left - rows)}")
        return left - rows

    def _left_after_episodes(self, result: RolloutResult) -> set[int]:
        assert isinstance(self.request, Rollout)
        assert self.left is not None
        ended = [entry[0] for entry in result.ended]
        named = {*ended, *result.episodes.tolist()}
        if result.parameters is not None:
            named.update(result.parameters.episodes.tolist())
        if result.rejected is not None:
            named.update(result.rejected.episodes.tolist())
        if not named <= self.left or len(set(ended)) != len(ended):
            raise ProtocolError(f"a RolloutResult names episodes {sorted(named - self.left)} that are not under way")
        left = self.left.difference(ended)
        if result.last and left and not self.request.limit:
            raise ProtocolError(f"the last RolloutResult leaves out {len(left)} episodes")
        return left


class Ledger:
    """The requests without their last reply.

    Attributes:
        pending: These, oldest first.
        sequence: Number of the last request.
    """

    def __init__(self) -> None:
        self.pending: deque[Pending] = deque()
        self.sequence = 0

    @property
    def next_sequence(self) -> int:
        """The number of the next request."""
        return (self.sequence + 1) & 0xFFFFFFFF

    def open(self, request: Message, sequence: int) -> None:
        """Note a request."""
        left = {entry[0] for entry in request.episodes} if isinstance(request, Rollout) else None
        if isinstance(request, (Step, Call)) and request.rows is not None:
            left = set(request.rows)
        self.sequence = sequence
        self.pending.append(Pending(sequence, request, left))

    def answer(self, reply: Message, count: int) -> Pending | None:
        """Note a reply to the oldest request, or a part of one; the request if that completes it."""
        if getattr(reply, "last", True):
            return self.pending.popleft()
        oldest = self.pending[0]
        oldest.left = oldest.left_after(reply, count)
        return None
