"""Samples of episodes as they arrive, without those that came already before a worker was started again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from physgym.protocol.messages import Parameters, Rejected, RolloutResult
from physgym.spaces import Array


class Arrivals:
    """The steps and parameters that have come of the episodes under way.

    Args:
        once: Whether episodes may end by `cut`.
    """

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._counts: dict[int, int] = {}  # steps that came of an episode
        self._last: RolloutResult | None = None  # for the form of an empty one
        self._seen: dict[int, int] = {}  # last step received of an episode
        self._seen_rejected: dict[int, int] = {}  # the same of the rejected ones
        self._with_parameters: set[int] = set()

    def new(self, reply: RolloutResult) -> RolloutResult:
        """Return the part of a reply that has not come before, and take note of it."""
        rows = _unseen(reply.episodes, reply.steps, self._seen)
        if rows is not None:
            reply = _steps_of(reply, rows)
        if self._once:
            self._last = reply
            for episode in reply.episodes.tolist():
                self._counts[episode] = self._counts.get(episode, 0) + 1
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

    def cut(self, episode: int) -> RolloutResult | None:
        """Return the end of an episode of which something has come, in a manner that nobody knows; None of others."""
        if self._last is None or episode not in self._seen.keys() | self._seen_rejected.keys():
            return None
        count = self._counts.get(episode, 0)
        self.end(episode)
        empty = _steps_of(self._last, np.zeros(len(self._last.steps), np.bool_))
        ended = [[episode, count, count, 0.0, {}]]
        return replace(empty, ended=ended, last=False, parameters=None, rejected=None, snapshots=None)

    def end(self, episode: int) -> None:
        """Take note that an episode has ended."""
        self._counts.pop(episode, None)
        self._seen.pop(episode, None)
        self._seen_rejected.pop(episode, None)
        self._with_parameters.discard(episode)


def _unseen(episodes: Array, steps: Array, seen: dict[int, int]) -> Array | None:
    """Return the rows of a part that did not come before a worker was restarted, None if all are new; note them.

    Only the first episode of a part can have begun in an earlier one, only the last can continue in a later one.
    """
    if not len(steps):
        return None
    begun, going_on, last_step = int(episodes[0]), int(episodes[-1]), int(steps[-1])
    new = None
    if begun in seen:
        new = (episodes != begun) | (steps > seen[begun])
    seen[going_on] = max(last_step, seen.get(going_on, -1))
    return None if new is None or new.all() else new


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
