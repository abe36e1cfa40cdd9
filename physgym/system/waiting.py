"""Time that a thread waits for a core, because others compute on all of them."""

from __future__ import annotations

from pathlib import Path

SCHEDULED = Path("/proc/thread-self/schedstat")  # Linux: nanoseconds on a core and nanoseconds waiting for one


class CoreWaiting:
    """Counts, from now on, how long this thread computes and how long it waits for a core.

    Args:
        source: File that says both; for tests.
    """

    def __init__(self, source: Path = SCHEDULED) -> None:
        self._source = source
        self._before = self._read()

    @property
    def share(self) -> float:
        """Return the part of the time, while it wanted to compute, that it waited; NaN where nobody says it."""
        now = self._read()
        if now is None or self._before is None:
            return float("nan")
        computed, waited = (after - before for after, before in zip(now, self._before, strict=True))
        return waited / (computed + waited) if computed + waited > 0 else 0.0

    def _read(self) -> tuple[int, int] | None:
        try:
            computed, waited, *_ = self._source.read_text(encoding="ascii").split()
            return int(computed), int(waited)
        except (OSError, ValueError):
            return None
