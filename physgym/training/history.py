"""Progress and history of a training, and means over batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from physgym.errors import ConfigError, WrongKey
from physgym.html_parts import html_image, html_table, html_title
from physgym.scene.pictures import Picture, draw_curves
from physgym.spaces import Array
from physgym.training.random_state import generator_states, seed_generators, set_generator_states
from physgym.training.ranks import Ranks

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

LOSS_CURVES = ("loss", "validation_loss")
SHOWN = 10  # epochs in the table of a notebook, the last ones


@dataclass
class History:
    """Record of a training.

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
        """Return a value over the epochs that have it; before the first epoch is completed, nothing of any name.

        Raises:
            WrongKey: No epoch has it.
        """
        found = [epoch[name] for epoch in self.epochs if name in epoch]
        if self.epochs and not found:
            raise WrongKey(f"the history has no {name!r}; it has {', '.join(self)}")
        return found

    def __contains__(self, name: object) -> bool:
        """Return whether an epoch has a value."""
        return any(name in epoch for epoch in self.epochs)

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names of the values."""
        return iter(self.table())

    def table(self) -> dict[str, list[float]]:
        """Return the values of all epochs by name, each list as long as there are epochs; NaN where one lacks a value.

        ``pandas.DataFrame(history.table())`` takes it as it is.
        """
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        return {name: [epoch.get(name, math.nan) for epoch in self.epochs] for name in names}

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the table as a DataFrame of pandas, a row for each epoch.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            if error.name != "pandas":
                raise
            raise ConfigError("a DataFrame needs pandas: pip install pandas, or take history.table()") from error
        return pandas.DataFrame(self.table())

    def plot(self, *names: str) -> Picture:
        """Return a picture of values over the epochs; a notebook shows it.

        Args:
            names: Which values; by default the losses, "loss" and "validation_loss".

        The axis is logarithmic where all that is drawn is positive. A value that is not finite leaves a gap.

        Raises:
            ConfigError: No epoch is completed, a value is unknown, or matplotlib is not installed.
        """
        if not self.epochs:
            raise ConfigError("there is nothing to plot: no epoch is completed")
        table = self.table()
        if unknown := [name for name in names if name not in table]:
            raise ConfigError(f"the history has no {unknown}; it has {list(table)}")
        chosen = names or [name for name in LOSS_CURVES if name in table]
        curves = {name: (np.array(table["epoch"]), np.array(table[name], np.float64)) for name in chosen}
        for name, (epochs, values) in curves.items():
            there = np.array([name in epoch for epoch in self.epochs])  # a line connects what was measured
            curves[name] = epochs[there], np.where(np.isfinite(values), values, np.nan)[there]
        positive = all((values[~np.isnan(values)] > 0).all() for _, values in curves.values())
        return draw_curves(curves, label="epoch", logarithmic=positive)

    def _repr_html_(self) -> str:
        said = {
            f"{len(self.epochs)} epochs": True,
            "interrupted": self.interrupted,
            f"stopped: {self.stopped}": self.stopped,
            f"{self.skipped} batches skipped": self.skipped,
            f"the last {SHOWN}:": len(self.epochs) > SHOWN,
        }
        lines = [html_title("History", ", ".join(text for text, holds in said.items() if holds))]
        names = list(self.table())
        rows = [[f"{epoch[name]:.6g}" if name in epoch else "" for name in names] for epoch in self.epochs[-SHOWN:]]
        lines += [html_table(names, rows)] if rows else []
        with contextlib.suppress(ConfigError):  # no loss to draw, or no matplotlib: the table is enough
            lines.append(html_image(self.plot()._repr_png_()))
        return "\n".join(lines)


class Means:
    """Means by name over batches of unequal size."""

    def __init__(self, samples: int = 0, sums: dict[str, float] | None = None) -> None:
        self.samples, self.sums = samples, sums or {}

    def add(self, values: Mapping[str, float], samples: int) -> None:
        """Add the means over a batch."""
        self.samples, sums = self.samples + samples, self.sums
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * samples

    def values(self) -> dict[str, float]:
        """Return the means over all samples added."""
        return {name: total / self.samples for name, total in self.sums.items()}

    def over(self, ranks: Ranks) -> dict[str, float]:
        """Return the means over the samples of all processes, and their number as "samples"; empty without samples."""
        total = ranks.sums({**self.sums, "samples": self.samples})
        count = total.pop("samples")
        return {name: value / count for name, value in total.items()} | {"samples": count} if count else {}


class TrainingProgress:
    """Place of a training in its epochs and batches, with all that was recorded on the way.

    Attributes:
        epoch: Number of completed epochs.
        batch: Number of completed batches in the current epoch.
        step: Number of completed batches in all.
        means: Means over the current epoch.
        history: Record of the completed epochs.
    """

    def __init__(self) -> None:
        self.epoch = self.batch = self.step = 0
        self.means = Means()
        self.history = History()
        self._generators: Mapping[str, Any] | None = None  # of the checkpoint to continue from

    def begin(self, seed: int) -> None:
        """Begin a training, or continue with one: put the global random generators where they belong.

        Args:
            seed: Of a new training.
        """
        if self._generators is not None:  # only now: building the parts of a training may draw from them
            set_generator_states(self._generators)
            self._generators = None
        elif self.step == 0:
            seed_generators(seed)
        self.history.interrupted, self.history.stopped = False, ""

    def end_batch(self) -> None:
        """Count a batch."""
        self.batch, self.step = self.batch + 1, self.step + 1

    def end_epoch(self, record: Mapping[str, float]) -> None:
        """Count an epoch, and record its values."""
        self.epoch, self.batch, self.means = self.epoch + 1, 0, Means()
        self.history.epochs.append({"epoch": self.epoch, **record})

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, with the states of the global random generators."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "means": {"samples": self.means.samples, "sums": dict(self.means.sums)},
            "history": {"epochs": [dict(epoch) for epoch in self.history.epochs], "skipped": self.history.skipped},
            "generators": generator_states(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; `begin` puts the generators there."""
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.means = Means(state["means"]["samples"], dict(state["means"]["sums"]))
        self.history.epochs, self.history.skipped = state["history"]["epochs"], state["history"]["skipped"]
        self._generators = state["generators"]


def floats(values: Mapping[str, Any]) -> dict[str, float]:
    """Return scalars, tensors or not, as numbers."""
    return {name: value.item() if isinstance(value, Tensor) else float(value) for name, value in values.items()}


def length(arrays: Mapping[str, Array | Tensor]) -> int:
    """Return the number of samples in a batch."""
    return next(iter(arrays.values())).shape[0]  # torch's len checks more than that there is an axis
