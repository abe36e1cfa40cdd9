"""Samples of episodes as they arrive, without those that came already before a worker was started again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from physgym.protocol.messages import Parameters, Rejected, RolloutResult
from physgym.spaces import Array


class Arrivals:
    """The steps and parameters that have come of the episodes under way.

    Args:
        once: Whether episodes may be left, see `leave`.
    """

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._seen: dict[int, int] = {}  # last step received of an episode
        self._seen_rejected: dict[int, int] = {}  # the same of the rejected ones
        self._with_parameters: set[int] = set()
        self._counts: dict[int, int] = {}  # steps that came of an episode
        self._left: set[int] = set()  # episodes of which nothing more is taken

    def leave(self, episodes: Iterable[int]) -> None:
        """Take nothing more of those episodes of which something came: from now on they are made a second time.

        Where simulations run in real time, the rest of such an episode would be that of another one.
        """
        self._left |= (self._seen.keys() | self._seen_rejected.keys()) & set(episodes)

    def new(self, reply: RolloutResult) -> RolloutResult:
        """Return the part of a reply that has not come before, and take note of it.

        An episode that was left ends with what came of it, in a manner that nobody knows.
        """
        if self._left:
            reply = self._without_left(reply)
        rows = _unseen(reply.episodes, reply.steps, self._seen)
        if rows is not None:
            reply = _steps_of(reply, rows)
        if self._once:
            for episode, count in zip(*np.unique(reply.episodes, return_counts=True), strict=True):
                self._counts[int(episode)] = self._counts.get(int(episode), 0) + int(count)
        if (rejected := reply.rejected) is not None:
            rows = _unseen(rejected.episodes, rejected.steps, self._seen_rejected)
            reply = reply if rows is None else replace(reply, rejected=_part_of(rejected, rows))
        if (parameters := reply.parameters) is not None:
            episodes = parameters.episodes.tolist()
            fresh = np.array([episode not in self._with_parameters for episode in episodes], np.bool_)
            self._with_parameters.update(episodes)
            if not fresh.all():
                values = {name: column[fresh] for name, column in parameters.values.items()}
                reply = replace(reply, parameters=Parameters(parameters.episodes[fresh], values))
        return reply

    def _without_left(self, reply: RolloutResult) -> RolloutResult:
        reply = _steps_of(reply, ~np.isin(reply.episodes, list(self._left)))
        if (rejected := reply.rejected) is not None:
            reply = replace(reply, rejected=_part_of(rejected, ~np.isin(rejected.episodes, list(self._left))))
        ended = [
            [entry[0], *[self._counts.get(entry[0], 0)] * 2, 0.0, {}] if entry[0] in self._left else entry
            for entry in reply.ended
        ]
        return replace(reply, ended=ended, snapshots=None)

    def end(self, episode: int) -> None:
        """Take note that an episode has ended."""
        self._left.discard(episode)
        self._counts.pop(episode, None)
        self._seen.pop(episode, None)
        self._seen_rejected.pop(episode, None)
        self._with_parameters.discard(episode)


def _unseen(episodes: Array, steps: Array, seen: dict[int, int]) -> Array | None:
    """Return the rows of a part that did not come before a worker was restarted, None if all are new; note them.

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


def _steps_of(reply: RolloutResult, rows: Array) -> RolloutResult:
    reports, own = reply.reports, rows
    if reports is not None:
        own, reports = reports.samples_of(rows), reports.cut(rows)
    samples = {name: column[own] for name, column in reply.samples.items()}
    return replace(reply, episodes=reply.episodes[rows], steps=reply.steps[rows], samples=samples, reports=reports)


def _part_of(rejected: Rejected, rows: Array) -> Rejected:
    reasons = [reason for reason, wanted in zip(rejected.reasons, rows.tolist(), strict=True) if wanted]
    samples = {name: column[rows] for name, column in rejected.samples.items()}
    return Rejected(rejected.episodes[rows], rejected.steps[rows], reasons, samples)
