"""Callbacks: progress, curves, early stopping, learning rates."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.files import absolute
from physgym.progress import Progress, say
from physgym.spaces import Array
from physgym.training.monitors import NOT_THERE, ROLLOUT, MonitorMode

if TYPE_CHECKING:
    from physgym.nn.optimization import Optimization
    from physgym.training.curves import CurveWriter
    from physgym.training.history import History
    from physgym.training.pipeline import Training

Every = Literal["batch", "epoch"]

TOGETHER = 100  # batches whose curves are written together,
PATIENCE = 10.0  # at the latest after so many seconds
WINDOW = 50  # values over which TensorBoard shows mean and variance of a loss

NOT_OPEN = "TensorBoard's writer is open only while a training runs: from train_begin to close"
BAD_MESH = "mesh {name!r}: {what} has shape {got}; wanted is {want}, or a batch{of} of that"


class ProgressBar(Callback):
    """Summary of the network; then a bar over all batches on a terminal, a line now and then elsewhere."""

    every_rank = False
    adds = ()

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._validation = ""

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
        """Count the batch and show its loss."""
        self._show(1, trainer.epoch + 1, trainer, values)

    def epoch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Show the losses of the epoch."""
        self._validation = f", validation {values['validation_loss']:.3e}" if "validation_loss" in values else ""
        self._show(0, trainer.epoch, trainer, values)

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


class TensorBoard(Callback):
    """Curves for TensorBoard: ``tensorboard --logdir <folder>``.

    Curves over batches (``batch/...``) and over epochs (``epoch/...``):

    - ``loss``, with its mean and variance over the last 50 (``loss_mean``, ``loss_variance``);
    - ``lr``, the learning rate of the first parameter group; `LearningRateMonitor` gives those of all;
    - what `Optimization.transform_loss` returns, and what callbacks before this one add to the values;
    - over epochs ``validation_loss``, likewise with mean and variance, all else that is in the record of the epoch,
      and "training and validation" on one plot, under "Custom Scalars".

    A resumed training continues its curves from where the checkpoint was saved: what had been written after that is
    removed from its event files. A new training in a folder that has curves writes to a subfolder, ``run-2`` and so on.
    What cannot be written for a while, as on a full disk, is a warning; it is kept, and written later.

    Args:
        folder: Where to write; made if it is not there.
        histograms: Also write histograms of all weights and gradients, after every epoch.
        charts: Plots of several curves, under "Custom Scalars": the names of the curves, or regular expressions, by
            title; such as ``{"terms": ["batch/loss", "batch/energy"]}``.
    """

    every_rank = False
    adds = ()

    def __init__(
        self,
        folder: str | Path,
        *,
        histograms: bool = False,
        charts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder = absolute(folder)  # whatever the working directory becomes
        self.histograms = histograms
        self.charts = {title: list(names) for title, names in (charts or {}).items()}
        self._writer: CurveWriter | None = None
        self._trainer: Training | None = None
        self._lr = math.nan
        self._batches: list[tuple[int, float, dict[str, float]]] = []  # step, time and values, yet to be written
        self._recent: dict[str, deque[float]] = {}
        self._run = ""  # is part of the names of a training's files, so that those of others are not touched
        self._place = ""  # of these files, in the folder
        self._saved: dict[str, int] | None = None  # their sizes when the checkpoint was saved that is resumed

    @property
    def writer(self) -> CurveWriter:
        """A `torch.utils.tensorboard.SummaryWriter`, for images, figures, texts of your own; open while training.

        Raises:
            ConfigError: No training runs.
        """
        if self._writer is None:
            raise ConfigError(NOT_OPEN)
        self._write_batches()
        return self._writer

    # --- what users add

    def add_scalar(self, name: str, value: float, *, step: int | None = None, statistics: bool = False) -> None:
        """Add a point to a curve of your own.

        Args:
            name: The curve, such as "errors/tip".
            value: The value.
            step: Where on the axis; ``trainer.step`` by default.
            statistics: Whether to add the curves ``<name>_mean`` and ``<name>_variance`` over the last 50 values.

        Raises:
            ConfigError: No training runs, or the value is no number.
        """
        values = {name: value} | (self._statistics(name, value) if statistics else {})
        self.writer.add_values(values, self._step if step is None else step)

    def add_mesh(
        self,
        name: str,
        vertices: Any,
        faces: Any = None,
        colors: Any = None,
        *,
        step: int | None = None,
    ) -> None:
        """Add a mesh, or a point cloud where there are no faces; or several, side by side.

        Args:
            name: The name.
            vertices: Coordinates, shape (n, 3) or (batch, n, 3), numbers; an array or tensor.
            faces: Vertices of the triangles, counted from 0, integers of shape (batch, m, 3), or (m, 3) for all.
            colors: Red, green and blue of the vertices, shape (n, 3) or (batch, n, 3): integers from 0 to 255, or
                floats from 0 to 1.
            step: Where on the axis; ``trainer.step`` by default.

        Raises:
            ConfigError: A shape is wrong, or no training runs.
        """
        points = _batched(name, "vertices", vertices, np.float32)
        count, parts = points.shape[1], {"vertices": points}
        if faces is not None:
            parts["faces"] = _batched(name, "faces", faces, np.int32, len(points))
            if not ((parts["faces"] >= 0) & (parts["faces"] < count)).all():
                raise ConfigError(f"mesh {name!r}: faces name vertices that are not there; there are 0 to {count - 1}")
        if colors is not None:
            parts["colors"] = _batched(name, "colors", _bytes(_array(colors)), np.uint8, len(points), count)
        tensors = {what: torch.from_numpy(array) for what, array in parts.items()}
        self.writer.add_mesh(name, **tensors, global_step=self._step if step is None else step)

    @property
    def _step(self) -> int:
        assert self._trainer is not None  # while the writer is open
        return self._trainer.step

    # --- events

    def train_begin(self, trainer: Training) -> None:
        """Open the file."""
        from physgym.training.curves import CurveWriter, cannot_write  # takes a second that not everyone needs

        self._trainer = trainer
        if trainer.step == 0:
            self._recent, self._run = {}, ""
        try:
            if self._saved is not None and not self._cut(self._saved):
                self._run = ""  # resumed in another session
            new = not self._run
            if new:
                self._run, self._place = os.urandom(4).hex(), self._free_place()  # not of a generator that users seed
            written = self._files()
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._saved = None
        # readers take files in the order of their names
        number = 1 + int(written[-1].name.split(".")[3]) if written else 1
        name = f"events.out.tfevents.{number:010d}.{self._run}.physgym"
        self._writer = CurveWriter(self.folder / self._place / name)
        if new:
            own = {"training and validation": ["Multiline", ["epoch/loss", "epoch/validation_loss"]]}
            charts = {title: ["Multiline", names] for title, names in self.charts.items()}
            self._writer.add_custom_scalars({"loss": own} | ({"charts": charts} if charts else {}))

    def batch_begin(self, trainer: Training, batch: Mapping[str, Any]) -> None:
        """Note the learning rate, which a scheduler may change after the batch."""
        self._lr = trainer.optimization.lr

    def batch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Write the curves over batches, those of many at once."""
        now = time.time()
        self._batches.append((trainer.step, now, {"lr": self._lr, **values}))
        if len(self._batches) >= TOGETHER or not 0 <= now - self._batches[0][1] < PATIENCE:
            self._write_batches()

    def epoch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Write the curves over epochs, and let readers see them."""
        curves = {f"epoch/{name}": value for name, value in values.items() if name != "epoch"}
        for name in ("epoch/loss", "epoch/validation_loss"):
            if name in curves:
                curves |= self._statistics(name, curves[name])
        self.writer.add_values(curves, trainer.epoch)
        if self.histograms:
            self._write_histograms(trainer)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        writer = self._writer
        if writer is None:
            return
        try:
            self._write_batches()
        finally:
            self._writer = self._trainer = None
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the recent losses and the sizes of the event files."""
        if self._writer is not None:
            self.writer.flush()
        files = {path.name: path.stat().st_size for path in self._files()}
        recent = {name: list(values) for name, values in self._recent.items()}
        return {"run": self._run, "place": self._place, "files": files, "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue these curves."""
        self._run, self._place, self._saved = state["run"], state["place"], dict(state["files"])
        self._recent = {name: deque(values, WINDOW) for name, values in state["recent"].items()}

    # --- details

    def _write_batches(self) -> None:
        """Write what is known of the last batches: in between the steps of a network this takes twice as long."""
        assert self._writer is not None
        batches, self._batches = self._batches, []
        for step, moment, values in batches:
            curves = {f"batch/{name}": value for name, value in values.items()}
            self._writer.add_values(curves | self._statistics("batch/loss", values["loss"]), step, moment)

    def _statistics(self, name: str, value: float) -> dict[str, float]:
        """Mean and variance of a curve over its last values; those that are not finite are left out."""
        recent = self._recent.setdefault(name, deque(maxlen=WINDOW))
        if math.isfinite(value):
            recent.append(value)
        if not recent:
            return {}
        mean = sum(recent) / len(recent)
        variance = sum([(value - mean) ** 2 for value in recent]) / len(recent)
        return {f"{name}_mean": mean, f"{name}_variance": variance}

    def _write_histograms(self, trainer: Training) -> None:
        for name, parameter in trainer.predictor.network.named_parameters():
            for what, tensor in (("weights", parameter), ("gradients", parameter.grad)):
                if tensor is not None and tensor.numel() and tensor.isfinite().all():
                    self.writer.add_histogram(f"{what}/{name}", tensor, trainer.epoch)

    def _files(self) -> list[Path]:
        """Return the event files of this training."""
        return (
            sorted((self.folder / self._place).glob(f"events.out.tfevents.*.{self._run}.physgym")) if self._run else []
        )

    def _cut(self, saved: Mapping[str, int]) -> bool:
        """Remove what was written after the checkpoint; whether there are files of this training at all.

        TensorBoard would take care of it by itself only where all curves count the same steps.
        """
        there = self._files()
        for path in there:
            if path.name not in saved:
                path.unlink()
            elif path.stat().st_size > saved[path.name]:
                os.truncate(path, saved[path.name])
        return bool(there)

    def _free_place(self) -> str:
        """Return a subfolder in which no other training has written."""
        place, number = "", 1
        while any((self.folder / place).glob("*tfevents*")):
            number += 1
            place = f"run-{number}"
        return place


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
        if patience < 1:
            raise ConfigError(f"patience must be at least 1, not {patience}")
        if not min_delta >= 0:
            raise ConfigError(f"min_delta must not be negative, got {min_delta}")
        if mode not in get_args(MonitorMode):
            raise ConfigError(f"mode must be one of {get_args(MonitorMode)}, not {mode!r}")
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.watches = (monitor,)
        self.best: float | None = None
        self.waited = 0

    def train_begin(self, trainer: Training) -> None:
        """Start anew with a new training; stop one that had been stopped."""
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
        """Go on waiting."""
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
        if every not in get_args(Every):
            raise ConfigError(f"every must be one of {get_args(Every)}, not {every!r}")
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


def _array(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _bytes(colors: Array) -> Array:
    """Colors from 0 to 255."""
    return (colors * 255).round().clip(0, 255) if colors.dtype.kind == "f" else colors


def _batched(
    name: str, what: str, value: Any, dtype: type, batch: int | None = None, count: int | None = None
) -> Array:
    """Return an array of shape (batch, count, 3) from one of that shape, or from one for all, (count, 3)."""
    array: Array = np.array(_array(value), dtype)
    if array.ndim == 2 and batch is not None:
        array = np.repeat(array[None], batch, axis=0)
    elif array.ndim == 2:
        array = array[None]
    fits = array.ndim == 3 and array.shape[0] == (batch or len(array)) and array.shape[1] == (count or array.shape[1])
    if not fits or array.shape[2] != 3:
        want = f"({'n' if count is None else count}, 3)"
        of = "" if batch is None else f" of {batch}"
        raise ConfigError(BAD_MESH.format(name=name, what=what, got=np.shape(value), want=want, of=of))
    return array
