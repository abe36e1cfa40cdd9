"""A model of what is owed, with a count of its own of what was asked and what came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from physgym.protocol.messages import Call, CallResult, Failure, Message, Reset, Results, Rollout, RolloutResult, Step
from tests.support.conversation import COUNT, column, reports


@dataclass
class Owed:
    """A request as the model keeps it: every row or episode by itself, and which of them have come."""

    request: Message
    units: list[Any]  # rows or episodes, in the order of the request
    came: set[Any] = field(default_factory=set)
    parts: int = 0
    kept: int = 0  # samples of episodes that have ended since, or steps where these are reported

    @property
    def missing(self) -> list[Any]:
        return [unit for unit in self.units if unit not in self.came]

    def rest(self) -> Message:
        request = self.request
        if isinstance(request, Step) and (self.parts or request.rows is not None):
            places = [place for place, unit in enumerate(self.units) if unit not in self.came]
            words = [None, [request.objects[1][place] for place in places]] if request.objects else []
            return replace(request, rows=self.missing, objects=words)
        if isinstance(request, Rollout):
            request = replace(request, episodes=[entry for entry in request.episodes if entry[0] not in self.came])
            if request.limit and self.kept:
                request = replace(request, limit=max(1, request.limit - self.kept), made=request.made + self.kept)
        return request


class Model:
    """Everything that was asked, and how much of it has come.

    Args:
        arrays: Makes the arrays of results, for so many environments.
        samples: Makes as many samples.
    """

    def __init__(self, arrays: Callable[[int], Any], samples: Callable[[int], Any]) -> None:
        self._arrays, self._samples = arrays, samples
        self.owed: list[Owed] = []
        self.failed: list[Message] = []
        self.samples = self.episode = 0

    def ask(self, kind: str, rows: list[int], words: bool, limit: int) -> Message:
        if kind in ("rollout", "reports"):
            episodes = [[self.episode + i, 7 * i] for i in range(len(rows))]
            self.episode += len(rows)
            request: Message = Rollout(episodes, 5, 2, limit=limit, reports=kind == "reports")
            units = [entry[0] for entry in episodes]
        elif kind == "call":
            request, units = Call("call", "x", rows=rows), rows
        elif kind == "reset":
            request, units = Reset(0, [None] * COUNT, [True] * COUNT), list(range(COUNT))
        else:
            texts = [f"word {row}" for row in rows]
            request = Step(1, rows, objects=[None, texts] if words else [], stream=kind == "stream")
            units = rows
            if len(rows) == COUNT and not words:
                request, units = replace(request, rows=None), list(range(COUNT))
        self.owed.append(Owed(request, units))
        return request

    def answer(self, number: int, last: bool, kept: int) -> Message:
        """Return a reply to the oldest request: so many of its rows or episodes; all of them where it is the last."""
        oldest = self.owed[0]
        if isinstance(oldest.request, (Call, Reset)):
            self.owed.pop(0)
            return (
                CallResult([0] * len(oldest.units))
                if isinstance(oldest.request, Call)
                else Results(None, self._arrays(COUNT))
            )
        cut = isinstance(oldest.request, Rollout) and oldest.request.limit > 0
        units = oldest.missing if last and not cut else oldest.missing[:number]
        oldest.came.update(units)
        oldest.parts += 1
        if isinstance(oldest.request, Rollout):
            reported = oldest.request.reports
            ended = [[unit, kept, 0 if reported else kept, 0.0, {}, "cut"] for unit in units]
            names = [unit for unit in units for _ in range(kept)]
            self.samples += len(names)
            for request in self.owed:
                request.kept += len(names)
            steps = column(*[step for _ in units for step in range(kept)])
            samples, told = (0, reports(len(names), *range(len(names)))) if reported else (len(names), None)
            reply: Message = RolloutResult(column(*names), steps, self._samples(samples), ended, last, reports=told)
        else:
            reply = Results(units, self._arrays(len(units)), last=last)
        if last:
            self.owed.pop(0)
        return reply

    def fail(self) -> Message:
        self.failed.append(self.owed.pop(0).rest())
        return Failure(-1, "m:E", "", "")

    def rests(self) -> list[Message]:
        return [request.rest() for request in self.owed]

    def envs_in_flight(self) -> set[int]:
        streams = [owed for owed in self.owed if isinstance(owed.request, Step) and owed.request.stream]
        return {row for owed in streams for row in owed.missing}

    def move(self, name: str, *arguments: Any) -> Message | None:
        """Return what is said next: a request, a reply; None if there is nothing to reply to."""
        if name == "ask":
            return self.ask(*arguments)
        if not self.owed:
            return None
        return self.answer(*arguments) if name == "answer" else self.fail()


KINDS = st.sampled_from(["step", "stream", "call", "reset", "rollout", "rollout", "reports"])
ROWS = st.permutations(range(COUNT)).flatmap(lambda rows: st.integers(1, COUNT).map(lambda n: list(rows[:n])))
ASK = st.tuples(st.just("ask"), KINDS, ROWS, st.booleans(), st.sampled_from([0, 3, 9]))
ANSWER = st.tuples(st.just("answer"), st.integers(0, COUNT), st.booleans(), st.integers(0, 3))
FAIL = st.tuples(st.just("fail"))
MOVES = st.lists(st.one_of(ASK, ANSWER, ANSWER, FAIL), max_size=30)
