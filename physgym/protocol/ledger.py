"""The ledger of a connection: the requests without their last reply, and the part of each that is unanswered.

What a worker still owes is recorded here and nowhere else; all others ask the ledger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from physgym.errors import ProtocolError
from physgym.protocol.messages import Call, CallResult, Message, Reset, Results, Rollout, RolloutResult, Step


@dataclass(slots=True)
class Pending:
    """A request without its last reply.

    Attributes:
        sequence: Its sequence number.
        request: The request.
        unanswered: Rows or episodes without an answer; None if all environments, or nothing to count.
        samples: Samples of the episodes that have ended since it was sent, of this request or of those before it; where
            steps are reported, their steps.
        context: What the request is for; the caller gets it back with the answer.
    """

    sequence: int
    request: Message
    unanswered: set[int] | None = None
    samples: int = 0
    context: Any = None

    @property
    def kind(self) -> type[Any]:
        """Return the class of the request."""
        return type(self.request)

    def rest(self) -> Message:
        """Return the request for what is unanswered, as a worker that has lost it would have to be asked."""
        request, unanswered = self.request, self.unanswered
        if isinstance(request, Step) and unanswered is not None:
            return _rows_of(request, unanswered)
        if isinstance(request, Rollout) and unanswered is not None:
            episodes = [entry for entry in request.episodes if entry[0] in unanswered]
            request = replace(request, episodes=episodes)
            if request.limit and self.samples:
                # what came of episodes that have ended does not come again
                limit = max(1, request.limit - self.samples)
                request = replace(request, limit=limit, made=request.made + self.samples)
        return request

    @property
    def is_streamed(self) -> bool:
        """Return whether it is a step whose environments answer one by one, without lockstep."""
        return type(self.request) is Step and self.request.stream

    def envs_in_flight(self, count: int) -> Collection[int]:
        """Return the local indices of the environments without an answer, if it is a step without lockstep.

        Args:
            count: Number of environments.
        """
        if not self.is_streamed:
            return ()
        return range(count) if self.unanswered is None else self.unanswered

    def unanswered_after(self, reply: Message, count: int) -> set[int] | None:
        """Return what is unanswered after a reply, or a part of one.

        Args:
            reply: Of the kind that answers the request.
            count: Number of environments.

        Raises:
            ProtocolError: The reply names what is not unanswered, or is the last one and leaves something out.
        """
        if isinstance(reply, Results):
            return self._unanswered_after_results(reply, count)
        if isinstance(reply, RolloutResult):
            return self._unanswered_after_episodes(reply)
        if isinstance(reply, CallResult):
            number = count if self.unanswered is None else len(self.unanswered)
            if len(reply.results) != number:
                raise ProtocolError(f"a CallResult has {len(reply.results)} results for {number} environments")
        return self.unanswered

    def _unanswered_after_results(self, results: Results, count: int) -> set[int] | None:
        if results.rows is None:
            if self.unanswered is not None or not results.last:
                raise ProtocolError("a part of a Results must name its environments")
            return None
        if isinstance(self.request, Reset):
            raise ProtocolError("the answer to a Reset has one part, for all environments")
        rows = set(results.rows)
        unanswered = set(range(count)) if self.unanswered is None else self.unanswered
        infos = set() if results.infos is None else set(results.infos[0])
        if not (rows <= unanswered and infos <= rows and rows.issuperset(results.cut)):
            raise ProtocolError(
                f"a Results names environments {results.rows}, of which {sorted(unanswered)} are unanswered"
            )
        if not rows.issuperset(failure.env for failure in results.failures):
            raise ProtocolError("a Results reports failures of environments that it does not name")
        if results.last and rows != unanswered:
            raise ProtocolError(f"the last Results leaves out environments {sorted(unanswered - rows)}")
        return unanswered - rows

    def _unanswered_after_episodes(self, result: RolloutResult) -> set[int]:
        assert isinstance(self.request, Rollout)
        assert self.unanswered is not None
        if (result.reports is None) == self.request.reports:
            wanted = "lacks the reports of its steps" if self.request.reports else "has reports that nobody asked for"
            raise ProtocolError(f"a RolloutResult {wanted}")
        ended = [entry[0] for entry in result.ended]
        named = {*ended, *result.episodes.tolist()}
        if result.parameters is not None:
            named.update(result.parameters.episodes.tolist())
        if result.rejected is not None:
            named.update(result.rejected.episodes.tolist())
        named.update(episode for episode, *_ in result.snapshots or ())
        if not named <= self.unanswered or len(set(ended)) != len(ended):
            raise ProtocolError(
                f"a RolloutResult names episodes {sorted(named - self.unanswered)} that are not under way"
            )
        unanswered = self.unanswered.difference(ended)
        if result.last and unanswered and not self.request.limit:
            raise ProtocolError(f"the last RolloutResult leaves out {len(unanswered)} episodes")
        return unanswered


def _rows_of(step: Step, rows: set[int]) -> Step:
    """Return the part of a step that concerns some environments."""
    all_rows: Sequence[int] = sorted(rows) if step.rows is None else step.rows
    wanted = [row for row in all_rows if row in rows]
    places = wanted if step.rows is None else [place for place, row in enumerate(step.rows) if row in rows]
    actions = None if step.actions is None else [array[places] for array in step.actions]
    objects = [_values_of(values, places) for values in step.objects]
    return replace(step, rows=wanted, actions=actions, objects=objects)


def _values_of(values: Any, places: list[int]) -> Any:
    if values is None:
        return None
    return [values[place] for place in places] if isinstance(values, list) else values[places]


class Ledger:
    """Record of the requests without their last reply.

    Attributes:
        pending: Requests without their last reply, oldest first.
        sequence: Number of the last request.
        answered: Requests of the replies that were received, in the order of the replies, without requests that
            `STEPPED_ALL` answers. The receiver of the replies takes them from here.
        count: Number of the worker's environments, 0 before it is known.
        samples: Samples of rollouts that have come; where steps are reported, their steps.
    """

    def __init__(self) -> None:
        self.pending: deque[Pending] = deque()
        self.answered: deque[Pending] = deque()
        self.sequence = 0
        self.count = 0
        self.samples = 0

    def __len__(self) -> int:
        return len(self.pending)

    def rests(self) -> list[Message]:
        """Return the requests for what is unanswered, oldest first."""
        return [pending.rest() for pending in self.pending]

    def envs_in_flight(self) -> set[int]:
        """Return the local indices of the environments that step without lockstep."""
        return {row for pending in self.pending for row in pending.envs_in_flight(self.count)}

    def count_in_flight(self) -> int:
        """Return how many steps without lockstep are unanswered, environment by environment."""
        return sum([len(pending.envs_in_flight(self.count)) for pending in self.pending])

    @property
    def next_sequence(self) -> int:
        """Return the number of the next request."""
        return (self.sequence + 1) & 0xFFFFFFFF

    def open(self, request: Message, sequence: int) -> Pending:
        """Note a request; return what is noted."""
        unanswered = None
        if type(request) is Step or type(request) is Call:
            unanswered = None if request.rows is None else set(request.rows)
        elif type(request) is Rollout:
            unanswered = {entry[0] for entry in request.episodes}
        self.sequence = sequence
        pending = Pending(sequence, request, unanswered)
        self.pending.append(pending)
        return pending

    def answer(self, reply: Message) -> Pending | None:
        """Note a reply to the oldest request, or a part of one; return the request if that completes it."""
        oldest = self.pending[0]
        last = reply.last if isinstance(reply, (Results, RolloutResult)) else True
        if isinstance(reply, RolloutResult):
            self.samples += len(reply.steps)
            if ended := sum(reply.lengths):
                for pending in self.pending:
                    pending.samples += ended
            oldest.unanswered = oldest.unanswered_after(
                reply, self.count
            )  # also of the last one, which a limit may have cut short
        elif not last:
            oldest.unanswered = oldest.unanswered_after(reply, self.count)
        return self.pending.popleft() if last else None

    def forget(self) -> None:
        """Forget the requests: nobody answers them any more."""
        self.pending.clear()
