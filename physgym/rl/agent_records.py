"""`AgentRecords`: what is recorded of a training of an agent every so many steps, and its progress bar."""

from __future__ import annotations

import math
import time

import numpy as np

from physgym.progress import Progress

SHOWN = 0.1  # seconds from one state of the bar to the next


class AgentRecords:
    """Values of a training over the steps since the last record.

    Args:
        steps: Of the whole training.
        step: Where it is.
        enabled: Whether to show a progress bar.
    """

    def __init__(self, steps: int, step: int, *, enabled: bool) -> None:
        self._bar = Progress(steps, "train", "step", initial=step, enabled=enabled)
        self._shown, self._since = step, step
        self._start = self._moment = time.monotonic()

    def show(self, step: int) -> None:
        """Show how far the training is."""
        now = time.monotonic()
        if now - self._moment >= SHOWN:
            self._bar.update(step - self._shown)
            self._shown, self._moment = step, now

    def take(
        self, step: int, returns: list[float], lengths: list[int], losses: dict[str, float], exploration: float
    ) -> dict[str, float]:
        """Return the values since the last time.

        Args:
            step: Steps of the training so far.
            returns: Of the episodes that ended.
            lengths: Of these.
            losses: Means of what the optimization gave.
            exploration: What the agent says of its exploration; NaN for nothing.
        """
        now = time.monotonic()
        seconds = now - self._start
        found: dict[str, float] = {"step": step}
        if returns:
            found |= {"return": float(np.mean(returns)), "length": float(np.mean(lengths))}
        found |= {"episodes": len(returns), **losses}
        if not math.isnan(exploration):
            found["exploration"] = exploration
        count = step - self._since
        found |= {"samples": count, "seconds": seconds, "steps_per_second": count / seconds if seconds else 0.0}
        note = [f"{name} {found[name]:.4g}" for name in ("return", "loss") if name in found]
        self._bar.update(step - self._shown, ", ".join(note) or None)
        self._since, self._shown, self._start, self._moment = step, step, now, now
        return found

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
