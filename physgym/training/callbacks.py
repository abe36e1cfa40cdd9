"""Callbacks: progress, early stopping, learning rates."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from physgym.checks import at_least, integer, one_of
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.progress import Progress, say
from physgym.training.monitors import NOT_THERE, ROLLOUT, MonitorMode

if TYPE_CHECKING:
    from physgym.nn.optimization import Optimization
    from physgym.training.history import History
    from physgym.training.pipeline import Training

log = logging.getLogger(__name__)
Every = Literal["batch", "epoch"]

SHOW_EVERY = 0.1  # seconds from a loss that is shown to the next one, at least


class ProgressBar(Callback):
    """Summary of the network; then a bar over all batches on a terminal, a line now and then elsewhere."""

    every_rank = False
    adds = ()

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._validation, self._shown = "", -math.inf

    def train_begin(self, trainer: Training) -> None:
        """Say what was built: the network, its grid and channels, how fields are fed."""
        say(trainer.predictor.summary)

    def data_generation_begin(self, pipeline: Training) -> None:
        """Show how many samples are to be produced."""
        total = pipeline.num_batches * pipeline.batch_size
        assert pipeline.source is not None
        stored = pipeline.source.stored  # by a run that this one continues
        self._open(total, "generate", "sample", initial=min(stored, total))

    def data_generation_batch_end(self, pipeline: Training, samples: int) -> None:
        """Count the samples."""
        if self._bar is not None:
            self._bar.update(samples)

    def data_generation_end(self, pipeline: Training) -> None:
        """Finish the bar."""
        self.close()

    def epoch_begin(self, trainer: Training) -> None:
        """Show how many batches are to come."""
        if self._bar is None:
            per_epoch = trainer.num_batches
            self._open(trainer.epochs * per_epoch, "train", "step", initial=trainer.epoch * per_epoch + trainer.batch)

    def batch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Count the batch and show its loss, not more often than eyes follow: a GPU is waited for then."""
        now = time.monotonic()
        if now - self._shown >= SHOW_EVERY:
            self._shown = now
            self._show(1, trainer.epoch + 1, trainer, values)
        elif self._bar is not None:
            self._bar.update(1)

    def epoch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Show the losses of the epoch."""
        self._validation = f", validation {values['validation_loss']:.3e}" if "validation_loss" in values else ""
        self._show(0, trainer.epoch, trainer, values)
        if log.isEnabledFor(logging.INFO):
            shown = (
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in values.items()
            )
            log.info("epoch %d: %s", trainer.epoch, ", ".join(shown))

    def train_end(self, trainer: Training, history: History) -> None:
        """Show why it ended before the last epoch."""
        reason = "interrupted" if history.interrupted else f"stopped: {history.stopped}" if history.stopped else ""
        if self._bar is not None and reason:
            self._bar.update(0, f"epoch {trainer.epoch}/{trainer.epochs}{self._validation}, {reason}")

    def _show(self, batches: int, epoch: int, trainer: Training, values: Mapping[str, float]) -> None:
        if self._bar is not None:
            text = f"epoch {epoch}/{trainer.epochs}, loss {values['loss']:.3e}{self._validation}"
            self._bar.update(batches, text)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._validation = None, ""

    def _open(self, total: int, description: str, unit: str, initial: int = 0) -> None:
        self.close()
        self._bar = Progress(total, description, unit, initial=initial)


class EarlyStopping(Callback):
    """Stops a training that gets no better.

    What it has seen is saved in checkpoints. A training that it stopped stops again at once when it is resumed, unless
    it has more patience then.

    Args:
        monitor: A value in the record of an epoch, see `History.epochs`; also one of a validation that is made every
            few epochs alone ("rollout_..."): then the epochs without it do not count.
        patience: After how many epochs in a row without a better value to stop.
        min_delta: A value is better if it differs from the best one by more than this.
        mode: Whether small values are better ("min") or large ones ("max").

    Attributes:
        best: The best value so far, None before the first.
        waited: Epochs since then.

    Raises:
        ConfigError: An argument is wrong; in training, if there is no such value.
    """

    adds = ()

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        mode: MonitorMode = "min",
    ) -> None:
        patience = integer("patience", patience, 1)
        at_least("min_delta", min_delta, 0)
        one_of("mode", mode, get_args(MonitorMode))
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.watches = (monitor,)
        self.best: float | None = None
        self.waited = 0

    def train_begin(self, trainer: Training) -> None:
        """Start again with a new training; stop one that had been stopped."""
        if trainer.step == 0:
            self.best, self.waited = None, 0
        self._stop(trainer)

    def epoch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Look at the value."""
        if self.monitor not in values:
            # the costlier validation is made every few epochs, and after the last one
            rolled_out = any(name.startswith(ROLLOUT) for name in values) or trainer.epoch >= trainer.epochs
            if rolled_out or not self.monitor.startswith(ROLLOUT):
                raise ConfigError(NOT_THERE.format(what="EarlyStopping", name=self.monitor, known=sorted(values)))
            return
        value = values[self.monitor]
        gain = math.inf if self.best is None else self.best - value if self.mode == "min" else value - self.best
        # nothing that is not finite is better
        if math.isfinite(value) and gain > self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        self._stop(trainer)

    def _stop(self, trainer: Training) -> None:
        if self.waited >= self.patience:
            best = "never finite" if self.best is None else f"not better than {self.best:.4g}"
            by = f" by more than {self.min_delta:.4g}" if self.min_delta and self.best is not None else ""
            epochs = "epoch" if self.waited == 1 else f"{self.waited} epochs"
            trainer.stop(f"{self.monitor} was {best}{by} in the last {epochs}")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and the number of epochs since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue waiting."""
        self.best, self.waited = state["best"], state["waited"]


class LearningRateMonitor(Callback):
    """Adds the learning rates of all parameter groups to the values, for TensorBoard and the history.

    The names are ``lr`` where there is one group, else ``lr_0``, ``lr_1`` and so on, or ``lr_<name>`` for a group that
    has a "name". They are those with which the batch was optimized, or the last batch of the epoch.

    Args:
        every: Whether to add them to the values of every "batch" or "epoch".

    Raises:
        ConfigError: `every` is something else.
    """

    def __init__(self, every: Every = "epoch") -> None:
        one_of("every", every, get_args(Every))
        self.every = every
        self._rates: dict[str, float] = {}

    def batch_begin(self, trainer: Training, batch: Mapping[str, Any]) -> None:
        """Note them before a scheduler changes them."""
        self._rates = rates_of(trainer.optimization)

    def batch_end(self, trainer: Training, values: dict[str, float]) -> None:
        """Add them to the values of a batch."""
        if self.every == "batch":
            values.update(self._rates)

    def epoch_end(self, trainer: Training, values: dict[str, float]) -> None:
        """Add them to the values of an epoch."""
        if self.every == "epoch":
            values.update(self._rates)


def rates_of(optimization: Optimization) -> dict[str, float]:
    """Return the learning rates of all parameter groups by name."""
    groups = optimization.optimizer.param_groups
    if len(groups) == 1:
        return {"lr": float(groups[0]["lr"])}
    named = ((group.get("name", number), group["lr"]) for number, group in enumerate(groups))
    return {f"lr_{name}": float(rate) for name, rate in named}
