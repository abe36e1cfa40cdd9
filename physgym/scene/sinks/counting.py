"""`CountingSink`: counts snapshots in place of showing them, to measure what a stream costs without drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from physgym.scene.sinks.base import SceneSink


class CountingSink(SceneSink):
    """A sink that counts.

    Attributes:
        shown: Snapshots by number of the environment.
    """

    name: ClassVar[str] = "count"

    def __init__(self, chosen: Sequence[int] | None = None) -> None:
        super().__init__(chosen)
        self.shown: Counter[int] = Counter()

    def _opened(self) -> str:
        return "nowhere: snapshots are counted"

    def _shown(self, environment: int, snapshot: Mapping[str, Any]) -> None:
        self.shown[environment] += 1

    def _closed(self) -> None:
        pass
