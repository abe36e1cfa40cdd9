"""`RunReport`: what a run showed, as figures and as text."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from physgym.running.prediction_errors import Errors
from physgym.spaces import Array


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
    """

    errors: dict[str, Errors] = field(default_factory=dict)
    solver_seconds: Array = field(default_factory=lambda: np.zeros(0))
    network_seconds: Array = field(default_factory=lambda: np.zeros(0))
    steps: int = 0
    rejected: int = 0
    nonfinite: int = 0
    interrupted: bool = False
    units: dict[str, str] = field(default_factory=dict)

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
        return "\n".join([*lines, *(["time per step: " + "; ".join(times)] if times else [])])
