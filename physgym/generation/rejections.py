"""`Rejections`: the rejected steps of a stream so far, and why they were rejected."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from physgym.data.rejected_steps import count_rejected
from physgym.generation.named_samples import Name, NamedSamples

TEXTS = 100  # different reasons that are counted
SHOWN, LONGEST = 5, 100  # reasons, and characters of each, in a line
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")  # which may be another one in each reason


class Rejections:
    """Counts rejected steps up to the samples that were handed out, and to the ends of episodes.

    Args:
        last: Name of the last sample before; None without any.
        ended: The last episode that is known to have ended before.
        count: Rejected steps before.

    Attributes:
        count: How many there are.
        reasons: How many have each reason, in the episodes that have ended since. Numbers in it are "#"; there are at
            most `TEXTS` of them.
    """

    def __init__(self, last: Name | None = None, ended: int = -1, count: int = 0) -> None:
        self._last, self._ended, self.count = last, ended, count
        self.reasons: Counter[str] = Counter()

    def add(self, samples: NamedSamples) -> None:
        """Take note of the samples that come next, and of the ends of episodes that come with them."""
        later = samples.ending_names.episodes > self._ended  # a resumed dataset may have the end of an episode
        ended = samples.ending_names.cut(later)
        self.count += count_rejected(*samples.names.columns[:2], ended.episodes, ended.steps + 1, self._last)
        if samples.reports is not None:  # names are those of all steps
            self.count += len(samples.reports.rejected)
        self._last = samples.names.last if len(samples) else self._last
        self._ended = int(ended.episodes[-1]) if len(ended) else self._ended
        self._add_reasons(itertools.compress(samples.rejections, later.tolist()))

    def _add_reasons(self, rejections: Iterable[Mapping[int, str]]) -> None:
        for said in (said for episode in rejections for said in episode.values()):
            reason = NUMBER.sub("#", said)
            if reason in self.reasons or len(self.reasons) < TEXTS:
                self.reasons[reason] += 1

    def __str__(self) -> str:
        said = [f"{_cut(reason)} ({count})" for reason, count in self.reasons.most_common(SHOWN)]
        if others := self.count - sum(count for _, count in self.reasons.most_common(SHOWN)):
            said.append(f"others ({others})")
        return f"{self.count} rejected steps: {'; '.join(said)}" if self.count else "no rejected steps"


def _cut(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
