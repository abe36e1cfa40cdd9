"""`ThresholdTimes`: how long rollouts take until an error exceeds a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.spaces import Array


@dataclass(frozen=True)
class ThresholdTimes:
    """The first steps of rollouts at which an error exceeds a threshold.

    A rollout that ended before that is *censored*: its time is longer than the steps that it has, and nobody knows by
    how much. Averages that leave such rollouts out, or take their ends for the time, are too small; the median here is
    that of the estimate of Kaplan and Meier, Nonparametric estimation from incomplete observations, J. Am. Stat. Assoc.
    53, 1958. Where all rollouts are equally long, it is the ordinary (lower) median with censored ones as infinite.

    Attributes:
        metric: Name of the metric.
        field: The predicted field.
        threshold: What the error exceeds, in the metric's unit.
        steps: First horizon whose error exceeds it, or for a censored one the last horizon, shape (episodes,), int64.
        exceeded: Whether it does, shape (episodes,), bool; False for the censored ones.
        seconds: Time of that horizon in s, shape (episodes,); NaN where it is not known.
    """

    metric: str
    field: str
    threshold: float
    steps: Array
    exceeded: Array
    seconds: Array

    @classmethod
    def of(cls, metric: str, field: str, threshold: float, errors: Array, seconds: Array) -> ThresholdTimes:
        """Find them in errors and times, both of shape (episodes, horizon) and NaN behind the end of an episode."""
        reached = (~np.isnan(errors)).sum(1)
        above = np.asarray(errors > threshold)
        exceeded = np.asarray(above.any(1))
        steps = np.where(exceeded, above.argmax(1) + 1, reached)
        return cls(metric, field, threshold, steps, exceeded, seconds[np.arange(len(steps)), np.maximum(steps, 1) - 1])

    @property
    def censored(self) -> int:
        """Return the number of rollouts that ended before."""
        return int((~self.exceeded).sum())

    @property
    def median(self) -> int | None:
        """Return the median of the steps; None where so many are censored that it is not known."""
        share = 1.0
        for step in np.unique(self.steps[self.exceeded]).tolist():
            going = int((self.steps >= step).sum())
            share *= 1 - int((self.exceeded & (self.steps == step)).sum()) / going
            if share <= 0.5 + 1e-12:
                return int(step)
        return None

    @property
    def median_seconds(self) -> float | None:
        """Return the time of the median step in s; None where it is not known, or differs between episodes."""
        median = self.median
        times = self.seconds[self.exceeded & (self.steps == median)]
        known = bool(len(times)) and not np.isnan(times).any() and np.allclose(times, times[0], rtol=1e-9)
        return float(times[0]) if median is not None and known else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        seconds = [None if np.isnan(one) else one for one in self.seconds.tolist()]
        return {
            "metric": self.metric,
            "field": self.field,
            "threshold": self.threshold,
            "median_steps": self.median,
            "median_seconds": self.median_seconds,
            "exceeded": int(self.exceeded.sum()),
            "censored": self.censored,
            "steps": self.steps.tolist(),
            "seconds": None if all(one is None for one in seconds) else seconds,
            "is_censored": (~self.exceeded).tolist(),
        }

    def __str__(self) -> str:
        count, median, seconds = len(self.steps), self.median, self.median_seconds
        after = "its median is not known" if median is None else f"median after {median} steps"
        time = "" if seconds is None else f" ({seconds:.4g} s)"
        text = f"{self.metric} of {self.field} above {self.threshold:g}: {after}{time}; "
        text += f"in {int(self.exceeded.sum())} of {count} episodes"
        if not self.censored:
            return text
        ends = self.steps[~self.exceeded]
        steps = f"{ends.min()}" if ends.min() == ends.max() else f"{ends.min()} to {ends.max()}"
        return f"{text}, not within their {steps} steps in {self.censored}"
