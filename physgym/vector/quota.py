"""The number of samples of a sequence of episodes that are still wanted."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

LARGEST_CHUNK = 1024
TINY = 1e-6  # of a sample: what comes of means is no sample more


@dataclass(slots=True)
class _Given:
    """The samples that were taken of a chunk.

    They are counted here and not read from the ledger of the connection, which is ahead of them: what has arrived may
    wait to be taken. Episodes that had ended there, and whose samples are not counted here yet, would look short, and
    further steps would be asked for that nobody wants.

    Attributes:
        unfinished: Episodes whose end was not taken.
        samples: Samples that came.
        partly: Those among them of the episode under way.
        complete: Whether nothing more comes.
    """

    unfinished: int
    samples: int = 0
    partly: int = 0
    complete: bool = False


@dataclass(slots=True)
class Demand:
    """The number of samples that are wanted of all episodes together, which may grow while they run."""

    samples: int


class Quota:
    """The samples that are still wanted, and those that the episodes under way will give.

    Episodes are wanted in their order: the last one is wanted as far as those before it do not give enough.

    Args:
        wanted: Samples of all episodes together, maybe as a `Demand`, which may grow; None for no end.
        longest: Samples that an episode gives at most, which is what one is taken to give until the first has ended.

    Attributes:
        length: Samples of an episode, the mean over those that have ended; None before the first one.
    """

    def __init__(self, wanted: int | Demand | None, longest: int) -> None:
        self._demand = Demand(wanted) if isinstance(wanted, int) else wanted
        self._longest = longest
        self.length: float | None = None
        self._ended = self._kept = self._squares = 0
        self._completed = 0  # samples of chunks that are complete, as are all before them
        self._chunks: dict[int, _Given] = {}  # the others, in their order

    @property
    def _wanted(self) -> float:
        return math.inf if self._demand is None else float(self._demand.samples)

    @property
    def endless(self) -> bool:
        """Return whether all samples are wanted that there are."""
        return self._demand is None

    @property
    def met(self) -> bool:
        """Return whether the samples that are wanted have come."""
        first = next(iter(self._chunks.values()), None)
        return self._completed + (0 if first is None else first.samples) >= self._wanted

    def begin(self, chunk: int, episodes: int) -> None:
        """Take note that a chunk was handed out."""
        self._chunks[chunk] = _Given(episodes)

    def take(self, chunk: int, samples: int, ended: Sequence[int]) -> None:
        """Take note of samples that came.

        Args:
            chunk: Of which they are.
            samples: How many.
            ended: How many came of each episode that ended with them, in all.
        """
        given, kept = self._chunks[chunk], sum(ended)
        given.samples += samples
        given.unfinished -= len(ended)
        given.partly += samples - kept
        self._ended, self._kept = self._ended + len(ended), self._kept + kept
        self._squares += sum(length**2 for length in ended)
        if ended:
            self.length = self._kept / self._ended

    def end(self, chunk: int) -> None:
        """Take note that a chunk is complete."""
        if chunk in self._chunks:
            self._chunks[chunk].complete = True
        for first in [*self._chunks]:
            if not self._chunks[first].complete:
                return
            self._completed += self._chunks.pop(first).samples

    def limit(self, chunk: int | None = None, own: Collection[int] = ()) -> int:
        """Return how many samples are wanted for sure, where those before them give as many as may well be.

        A worker that stops there continues if they give fewer: waiting costs less than unwanted steps.

        Args:
            chunk: Of this chunk; None: of one behind all that are under way.
            own: Chunks of which only that counts which they have given.
        """
        return math.ceil(self._missing(2.0, chunk, own) - TINY)

    def _missing(self, caution: float, chunk: int | None = None, own: Collection[int] = ()) -> float:
        """Return how many samples will be missing when the episodes before a chunk have ended."""
        missing = self._wanted - self._completed
        for first, given in self._chunks.items():
            missing -= given.samples
            if first == chunk:
                break
            missing -= 0 if first in own else self._rest(given, caution)
        return missing

    def _rest(self, given: _Given, caution: float) -> float:
        """Return how many samples a chunk is still to give: by the mean length of episodes, and some deviations."""
        if given.complete or not given.unfinished:
            return 0.0
        length = self._longest if self.length is None else self.length
        # an episode that is longer than others goes on for as long again
        rest = length - given.partly if given.partly <= length else min(given.partly, self._longest - given.partly)
        rest = max(0.0, rest) + (given.unfinished - 1) * length
        return rest + caution * self._deviation * math.sqrt(given.unfinished)

    @property
    def _deviation(self) -> float:
        """Return the standard deviation of the samples of an episode."""
        return math.sqrt(max(0.0, self._squares / self._ended - (self.length or 0.0) ** 2)) if self._ended else 0.0

    def room(self, *, ahead: bool) -> int:
        """Return how many episodes more to hand out at once.

        Args:
            ahead: To a worker that is busy. That is done while the samples of all episodes under way, as far as their
                lengths are known, do not suffice: the end is left to workers that are free.
        """
        if self.endless:
            return LARGEST_CHUNK
        needed = self._missing(0.0)
        if needed < TINY:
            return 0
        if self.length is None and ahead:
            return 0
        episodes = needed / max(self._longest if self.length is None else self.length, 1e-3)
        return min(LARGEST_CHUNK, int(episodes) if ahead else math.ceil(episodes - TINY))
