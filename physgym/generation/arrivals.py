"""Results of workers as samples in the order of their names, for any order of arrival."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from physgym.episode import TOO_MANY_REJECTS
from physgym.errors import PhysGymError, SampleError
from physgym.generation.episode_plan import Episodes
from physgym.generation.named_samples import Name, NamedSamples, SampleNames
from physgym.generation.store import Store
from physgym.protocol.messages import RolloutResult
from physgym.spaces import Array
from physgym.vector.episode_schedule import Episode
from physgym.vector.quota import Demand
from physgym.vector.vector_env import SocketVectorEnv

HINT_SECONDS = 1.0  # of generation before it is worth a hint


class OrderedArrivals:
    """The samples of a rollout in the order of their names; it begins with the first one that is taken.

    Args:
        envs: Runs the episodes.
        episodes: Which episodes there are.
        limits: Of an episode, as `SocketVectorEnv.rollout` takes them.
        last: Name of the sample after which it begins; None for the beginning.
        expected: Number of samples wanted; None for no end.
        store: Where they are stored; None if nowhere.
        wanted: Number of samples that the dataset is to have.

    Attributes:
        demand: Number of samples that the rollout under way is to give; None without an end.
        round_over: Whether it ended since all points of a grid, or all stored samples, were through.
        complete: Whether it ended with the last step of the last episode.
    """

    def __init__(
        self,
        envs: SocketVectorEnv,
        episodes: Episodes,
        limits: Mapping[str, Any],
        *,
        last: Name | None,
        expected: int | None,
        store: Store | None,
        wanted: int,
    ) -> None:
        self._envs, self._episodes, self._limits = envs, episodes, limits
        self._last, self._expected = last, expected
        self._store, self._wanted = store, wanted
        self.demand: Demand | None = None
        self.round_over = self.complete = False

    def __iter__(self) -> Generator[NamedSamples]:
        last, expected, limits = self._last, self._expected, self._limits
        if expected is not None and expected <= 0:
            return
        first, done = (0, -1) if last is None else last
        if last is not None and self._is_over(last[0]):
            first, done = first + 1, -1
        elif expected is not None and last is not None:
            # those of the episode under way come once more
            expected += last[1] + 1 if self._store is None else self._store.count_of(last[0])
        seeds: dict[int, int] = {}

        def named() -> Iterator[Episode]:
            for episode, seed, options in self._episodes.run(first):
                seeds[episode] = seed
                yield (episode, seed, options) if options else (episode, seed)

        self.demand = demand = None if expected is None else Demand(expected)
        arrivals = self._envs.rollout(named(), **limits, samples=demand)
        early: dict[int, deque[RolloutResult | PhysGymError]] = {}
        chunk = following = first
        arrived_so_far = rejects_in_a_row = 0
        hint = None if expected is None else EpisodeHint(expected, self._envs.num_workers, limits["max_steps"])
        end = None if expected is None or self._store is None else RoundEnd(self._episodes, self._store, self._wanted)
        while True:
            parts = early.setdefault(chunk, deque())
            while not parts:
                if (arrival := next(arrivals, None)) is None:
                    self.complete = True
                    return
                arrived, part = arrival
                early.setdefault(arrived, deque()).append(part)
            part = parts.popleft()
            if isinstance(part, PhysGymError):
                raise part  # only now, when all samples before it are delivered, even if it came first
            rows = _rows(part, seeds)
            if chunk == first and done >= 0:
                rows = rows.after(first, done)
            for episode, _, kept, _, rejected, *_ in part.ended:
                following = episode + 1
                del seeds[episode]
                # within an episode the worker counts; episodes of one step need the count across episodes, but where
                # rejected steps are wanted like others
                rejects_in_a_row = 0 if kept or limits["reports"] else rejects_in_a_row + len(rejected)
                if rejects_in_a_row >= (limit := limits["max_rejects"]):
                    yield rows.cut(rows.names.episodes < episode)
                    reason = list(rejected.values())[-1]
                    raise SampleError(
                        TOO_MANY_REJECTS.format(
                            where=f"episode {episode}", count=rejects_in_a_row, limit=limit, reason=reason
                        )
                    )
            if part.last:
                del early[chunk]
                chunk = following
            if end is not None and end.is_reached(part):
                self.round_over = True
                yield rows.cut(rows.names.episodes < (self._episodes.round or 0))
                return
            yield rows
            arrived_so_far += len(part.steps)
            if hint is not None:
                hint.look(part)
            if demand is not None and arrived_so_far >= demand.samples:
                return

    def _is_over(self, episode: int) -> bool:
        """Return whether nothing more comes of an episode that was begun: in real time it cannot be made again."""
        return self._episodes.plan.real_time or (self._store is not None and self._store.has_ended(episode))


class RoundEnd:
    """Decides whether a generation ends after a round of the drawn values.

    It does where as many samples as are wanted would have come from one round but for rejected steps: the first points
    would give the first samples again.

    Args:
        episodes: Which episodes there are.
        store: Where the samples are stored.
        wanted: Number of samples that the dataset is to have.
    """

    def __init__(self, episodes: Episodes, store: Store, wanted: int) -> None:
        self._episodes, self._store, self._wanted = episodes, store, wanted
        self._steps, self._seen = 0, False
        if (count := episodes.round) is not None:
            known = store.lengths()
            self._steps = sum(steps for episode, steps in known.items() if episode < count)
            self._seen = count - 1 in known

    def is_reached(self, part: RolloutResult) -> bool:
        """Note what arrived; return whether the generation ends with it, and warn of it then."""
        if (count := self._episodes.round) is None:
            return False
        self._steps += sum(entry[1] for entry in part.ended if entry[0] < count)
        self._seen = self._seen or any(entry[0] == count - 1 for entry in part.ended)
        if not self._seen or self._wanted > self._steps:
            return False
        kept = self._store.writer.count + int(np.count_nonzero(part.episodes < count))
        if kept >= self._wanted:
            return False
        what = "points of the grid" if self._episodes.plan.stored_episodes is None else "stored samples"
        warnings.warn(
            f"{count} episodes went through all {what}, and {self._steps - kept} of their {self._steps} steps were "
            f"rejected: the dataset has fewer samples than {self._wanted}, since those that are missing would only "
            f"repeat the first ones. Take more {what}, or ask for more samples than there are steps if they shall be "
            "repeated",
            UserWarning,
            stacklevel=2,
        )
        return True


class EpisodeHint:
    """Warns once where one episode makes up most of a generation, so that other workers have nothing to do.

    Args:
        wanted: Number of samples wanted.
        workers: Number of workers.
        max_steps: Limit of an episode.
    """

    def __init__(self, wanted: int, workers: int, max_steps: int) -> None:
        self._wanted, self._workers, self._max_steps = wanted, workers, max_steps
        self._begun, self._said = time.monotonic(), False

    def look(self, part: RolloutResult) -> None:
        """Look at what arrived."""
        if self._said or self._workers < 2 or not len(part.steps):
            return
        episode, given = int(part.episodes[-1]), int(part.steps[-1]) + 1
        goes_on = all(entry[0] != episode for entry in part.ended)
        wanted, workers = self._wanted, self._workers
        if goes_on and given > wanted / workers and time.monotonic() - self._begun > HINT_SECONDS:
            self._said = True
            warnings.warn(
                f"episode {episode} has given {given} of the {wanted} samples wanted, and continues: an episode is "
                f"sequential, so that meanwhile the other workers ({workers - 1}) have little or nothing to do. Set "
                f"max_steps (now {self._max_steps}), as to max_steps={max(1, wanted // (4 * workers))}, and they share "
                "the work",
                UserWarning,
                stacklevel=2,
            )


def _rows(part: RolloutResult, seeds: Mapping[int, int]) -> NamedSamples:
    """Return what arrived as samples, with the seeds of its episodes."""
    rows = NamedSamples(part.samples, _names(part.episodes, part.steps, seeds), reports=part.reports)
    if (parameters := part.parameters) is not None:
        steps = np.zeros(len(parameters.episodes), np.int64)
        names = _names(parameters.episodes, steps, seeds)
        rows = replace(rows, parameter_names=names, parameters=parameters.values)
    if (rejected := part.rejected) is not None:
        names = _names(rejected.episodes, rejected.steps, seeds)
        rows = replace(rows, rejected_names=names, rejected=rejected.samples, reasons=rejected.reasons)
    if part.snapshots:
        rows = replace(
            rows, snapshots=[(episode, step, seeds[episode], state) for episode, step, state in part.snapshots]
        )
    if ended := [entry for entry in part.ended if len(entry) > 5]:
        episodes, steps = (np.array([entry[place] for entry in ended], np.int64) for place in (0, 1))
        endings, rejections = ([entry[place] for entry in ended] for place in (5, 4))
        names = _names(episodes, steps - 1, seeds)
        rows = replace(rows, ending_names=names, endings=endings, rejections=rejections)
    return rows


def _names(episodes: Array, steps: Array, seeds: Mapping[int, int]) -> SampleNames:
    """Return names with the seed of the episode of each; the samples of an episode stand together."""
    begins = np.flatnonzero(np.diff(episodes, prepend=-1))
    found = np.array([seeds[episode] for episode in episodes[begins].tolist()], np.uint64)
    return SampleNames(episodes, steps, np.repeat(found, np.diff(begins, append=len(episodes))))
