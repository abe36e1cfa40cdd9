"""The samples after a position: stored ones first, then new ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from physgym.generation.arrivals import OrderedArrivals
from physgym.generation.named_samples import Name, NamedSamples


class Reading:
    """Reads on from a position, as many samples at a time as are asked for.

    Args:
        again: Stored samples after the position.
        arrivals: New samples, after all that are stored.
        stored: Name of the last stored sample; None without any.
        position: Name of the sample after which it begins; None for the beginning.

    Attributes:
        behind: Name of the sample that was read last.
    """

    def __init__(
        self, again: Iterator[NamedSamples], arrivals: OrderedArrivals, stored: Name | None, position: Name | None
    ) -> None:
        self.behind = position
        self._arrivals, self._stored, self._produced = arrivals, stored, iter(arrivals)
        self._samples = itertools.chain(again, self._produced)
        self._waiting = NamedSamples({})  # read, and not handed out

    def next(self, limit: int) -> NamedSamples | None:
        """Return the next samples, at least one and at most `limit`; None at the end."""
        while not len(self._waiting):
            more = next(self._samples, None)
            if more is None:
                return None
            self._waiting = self._waiting.then(more)
        samples, self._waiting = self._waiting.split(limit)
        self.behind = samples.names.last
        return samples

    def is_new(self, samples: NamedSamples) -> bool:
        """Return whether the samples are not stored yet; those that it gives at once are all new or all stored."""
        return self._stored is None or samples.names.last > self._stored

    @property
    def round_over(self) -> bool:
        """Return whether it ended since all points of a grid, or all stored samples, were through."""
        return self._arrivals.round_over

    def rest(self) -> NamedSamples | None:
        """Return what came after the last sample, such as the rejected steps at the end of the last episode, once.

        None unless all episodes have ended: it would not be all of it.
        """
        rest, self._waiting = self._waiting, NamedSamples({})
        return rest if self._arrivals.complete else None

    def want(self, more: int) -> bool:
        """Let simulations give more samples than expected; False where there is no limit, or they have not begun."""
        if self._arrivals.demand is None:
            return False
        self._arrivals.demand.samples += more
        return True

    def close(self) -> None:
        """End the production of new samples."""
        self._produced.close()
