"""Figures of an online training: what its simulations gave, what it drew, and how long each side waited."""

from __future__ import annotations

import time
from dataclasses import dataclass

from physgym.generation.reservoir import Reservoir

# in the record of every epoch
METRICS = (
    *("online_waiting", "online_paused", "online_repeats", "online_most_repeats"),
    *("online_received", "online_seen", "online_unseen"),
)


@dataclass(frozen=True)
class OnlineReport:
    """Figures of an online training so far.

    Attributes:
        rule: That of the buffer.
        capacity: Samples that the buffer holds at most.
        minimum: Samples for which a draw waited.
        samples: In the buffer now.
        unseen: Of these, how many have not been drawn.
        received: Samples that the simulations have given, those of a training that this one continues included.
        came: How many of them came since the first draw, of which all that follows is.
        drawn: Samples that were drawn, repeats included.
        seen: How many different ones these were.
        most: How often one sample was drawn at most.
        seconds: Time.
        waited: Seconds of these that the training waited for samples.
        first: Seconds of these until the first batch was there.
        paused: Seconds of these that the simulations were paused since the buffer took no more.
    """

    rule: str
    capacity: int
    minimum: int
    samples: int
    unseen: int
    received: int
    came: int
    drawn: int
    seen: int
    most: int
    seconds: float
    waited: float
    first: float
    paused: float

    @property
    def waiting(self) -> float:
        """Return the fraction of the time that the training waited."""
        return self.waited / self.seconds if self.seconds else 0.0

    @property
    def repeats(self) -> float:
        """Return the mean number of draws of a sample, over those that were drawn."""
        return self.drawn / self.seen if self.seen else 0.0

    def __str__(self) -> str:
        rate = max(self.seconds, 1e-9)
        return (
            f"{self.rule}, {self.samples} samples of {self.capacity} in the buffer, {self.unseen} of them unseen\n"
            f"simulations: {self.received} samples, {self.came / rate:.0f} per second, paused for {self.paused:.1f} s\n"
            f"training: {self.drawn} samples drawn, {self.drawn / rate:.0f} per second, waited for {self.waited:.1f} "
            f"of {self.seconds:.1f} s ({100 * self.waiting:.1f} %, {self.first:.1f} s of it before the first batch)\n"
            f"{self.seen} samples were seen, {self.repeats:.2f} times on average, {self.most} times at most"
        )


class OnlineTimes:
    """Times of both sides of an online training, in seconds of `time.monotonic`.

    Attributes:
        paused: Time that the simulations were paused.
        waited: Time that the training waited.
        began: Instant of the first draw; 0 before it.
        arrived: Instant at which the last samples came.
        received_before: Number of samples that had come before the first draw.
    """

    def __init__(self) -> None:
        self.paused = self.waited = self.began = self.arrived = 0.0
        self.received_before = 0
        self._first = self._end = 0.0

    def begin(self, now: float, received: int) -> None:
        """Note the first draw.

        Args:
            now: Instant.
            received: Number of samples that had come before.
        """
        self.began, self.received_before = now, received

    def note_batch(self, now: float) -> None:
        """Note that a batch is there."""
        self._first = self._first or now - self.began

    def stop(self) -> None:
        """Note the end; later ones do not count."""
        self._end = self._end or time.monotonic()

    def report(self, buffer: Reservoir, minimum: int) -> OnlineReport:
        """Return the figures of both sides.

        Args:
            buffer: The buffer between them.
            minimum: Samples for which a draw waits.
        """
        now = self._end or time.monotonic()
        return OnlineReport(
            rule=buffer.rule,
            capacity=buffer.capacity,
            minimum=minimum,
            samples=len(buffer),
            unseen=buffer.unseen,
            received=buffer.received,
            came=buffer.received - self.received_before,
            drawn=buffer.drawn,
            seen=buffer.distinct,
            most=buffer.most,
            seconds=now - self.began if self.began else 0.0,
            waited=self.waited,
            first=self._first,
            paused=self.paused,
        )
