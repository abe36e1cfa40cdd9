"""`RunReport`: what a run showed, as figures and as text."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from physgym.running.prediction_errors import Errors
from physgym.spaces import Array

OVERSUBSCRIBED = 0.2  # of the time in which a process wants to compute, that it waits for a core


@dataclass
class RunReport:
    """Figures of a run; as text, a summary of them.

    Attributes:
        errors: Errors by predicted field, over the steps that were not rejected; empty where there was no solver to
            compare with, and of the last 100,000 steps in a run without end.
        solver_seconds: Time of each of these steps in the simulation, shape (n,); empty where no solver ran.
        network_seconds: Time of each prediction, shape (n,).
        steps: Steps made, rejected ones included.
        rejected: Rejected steps.
        nonfinite: Predictions with a value that is not finite.
        interrupted: Whether Ctrl-C ended the run.
        units: Units of the predicted fields.
        alone_seconds: Time of a prediction of the same network, one after the other, without a simulation between them,
            as it was measured at the start; its share of a batch. NaN where it was not measured.
        computing: How predictions were computed, a clause for people.
        waiting: Part of the time, in which this process wanted to compute, that it waited for a core because others
            computed on all of them; NaN where the system does not say it.
    """

    errors: dict[str, Errors] = field(default_factory=dict)
    solver_seconds: Array = field(default_factory=lambda: np.zeros(0))
    network_seconds: Array = field(default_factory=lambda: np.zeros(0))
    steps: int = 0
    rejected: int = 0
    nonfinite: int = 0
    interrupted: bool = False
    units: dict[str, str] = field(default_factory=dict)
    alone_seconds: float = float("nan")
    computing: str = ""
    waiting: float = float("nan")

    @property
    def latency_ms(self) -> dict[str, float]:
        """Return the median and 95th percentile of the time per step in ms.

        Their names are "network_median", "network_p95", "solver_median", and so on.
        """
        found: dict[str, float] = {}
        for name, seconds in (("network", self.network_seconds), ("solver", self.solver_seconds)):
            if len(seconds):
                found[f"{name}_median"], found[f"{name}_p95"] = (np.percentile(seconds, [50, 95]) * 1e3).tolist()
        return found

    def __str__(self) -> str:
        counts = [f"{self.steps} steps", f"{self.rejected} rejected"]
        if self.nonfinite:
            counts.append(f"{self.nonfinite} predictions not finite")
        lines = [", ".join(counts)]
        for name, errors in self.errors.items():
            summary, unit = errors.summary, f" {self.units.get(name, '')}".rstrip()
            lines.append(
                f"{name}: relative L2 error {summary['relative_l2']:.2%}, "
                f"mean error {summary['mean_error']:.4g}{unit}, largest {summary['max_error']:.4g}{unit}"
            )
        latency = self.latency_ms
        times = [
            f"{name} median {latency[f'{name}_median']:.3g} ms, 95th percentile {latency[f'{name}_p95']:.3g} ms"
            for name in ("network", "solver")
            if f"{name}_median" in latency
        ]
        if times:
            lines += ["time per step: " + "; ".join(times), *self.remarks]
        return "\n".join(lines)

    @property
    def remarks(self) -> list[str]:
        """Return what is to be known about the times, a line each."""
        lines = []
        if not np.isnan(self.alone_seconds):
            lines.append(f"network alone: {self.alone_seconds * 1e3:.3g} ms; {self.computing}")
        if self.waiting > OVERSUBSCRIBED:
            lines.append(
                f"the machine is oversubscribed: for {self.waiting:.0%} of the time in which this process wanted to "
                "compute it waited for a core, which is part of these times"
            )
        return lines
