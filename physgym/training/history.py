"""What a training has done, and means over batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from physgym.training.ranks import Ranks


@dataclass
class History:
    """What a training has done.

    Attributes:
        epochs: For each completed epoch the means over its samples by name: "loss", what `Optimization.transform_loss`
            adds, both with the prefix "validation_" where there is validation; also "epoch" (from 1), "lr",
            "seconds", "samples".
        interrupted: Whether Ctrl-C ended it before the last epoch was completed.
        stopped: The reason for which `Trainer.stop` ended it; empty if it did not.
        skipped: Batches that were skipped because their loss was not finite.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    stopped: str = ""
    skipped: int = 0

    def __getitem__(self, name: str) -> list[float]:
        """A value over the epochs that have it."""
        return [epoch[name] for epoch in self.epochs if name in epoch]


class Means:
    """Means by name over batches of unequal size."""

    def __init__(self, samples: int = 0, sums: dict[str, float] | None = None) -> None:
        self.samples, self.sums = samples, sums or {}

    def add(self, values: Mapping[str, float], samples: int) -> None:
        """Add the means over a batch."""
        self.samples += samples
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples

    def values(self) -> dict[str, float]:
        """The means over all samples added."""
        return {name: total / self.samples for name, total in self.sums.items()}

    def over(self, ranks: Ranks) -> dict[str, float]:
        """The means over the samples of all processes, and their number as "samples"; empty if there are none."""
        total = ranks.sums({**self.sums, "samples": self.samples})
        count = total.pop("samples")
        return {name: value / count for name, value in total.items()} | {"samples": count} if count else {}
