"""Callbacks: progress, curves."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError
from physgym.progress import Progress
from physgym.training.events import Callback

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from physgym.training.trainer import Trainer

WINDOW = 50  # values over which TensorBoard shows mean and variance of the loss


class ProgressBar(Callback):
    """A bar over all batches of a training on a terminal, a line now and then elsewhere."""

    every_rank = False

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._validation = ""

    def data_generation_begin(self, pipeline: Trainer) -> None:
        """Show how many samples are to be produced."""
        self._open(pipeline.num_batches * pipeline.batch_size, "generate", "sample")

    def data_generation_batch_end(self, pipeline: Trainer, samples: int) -> None:
        """Count the samples."""
        if self._bar is not None:
            self._bar.update(samples)

    def data_generation_end(self, pipeline: Trainer) -> None:
        """Finish the bar."""
        self.close()

    def epoch_begin(self, trainer: Trainer) -> None:
        """Show how many batches are to come."""
        if self._bar is None:
            self._open(trainer.epochs * trainer.num_batches, "train", "step", initial=trainer.step)

    def batch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Count the batch and show its loss."""
        self._show(1, trainer.epoch + 1, trainer, values)

    def epoch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Show the losses of the epoch."""
        self._validation = f", validation {values['validation_loss']:.3e}" if "validation_loss" in values else ""
        self._show(0, trainer.epoch, trainer, values)

    def _show(self, batches: int, epoch: int, trainer: Trainer, values: Mapping[str, float]) -> None:
        if self._bar is not None:
            text = f"epoch {epoch}/{trainer.epochs}, loss {values['loss']:.3e}{self._validation}"
            self._bar.update(batches, text)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _open(self, total: int, description: str, unit: str, initial: int = 0) -> None:
        self.close()
        self._bar = Progress(total, description, unit, initial=initial)


class TensorBoard(Callback):
    """Curves for TensorBoard: ``tensorboard --logdir <folder>``.

    For every batch and every epoch: ``loss``, its mean and variance over the last 50 (``loss_mean``,
    ``loss_variance``), the learning rate, and what `Optimization.transform_loss` adds. For every epoch also the
    validation. A chart of its own compares the losses of training and validation.

    Args:
        folder: Where to write; made if it is not there.
        histograms: Also write histograms of all weights and gradients, after every epoch.
    """

    every_rank = False

    def __init__(self, folder: str | Path, *, histograms: bool = False) -> None:
        self.folder = Path(folder)
        self.histograms = histograms
        self._writer: SummaryWriter | None = None
        self._recent: dict[str, deque[float]] = {}

    @property
    def writer(self) -> SummaryWriter:
        """The writer, for images, meshes and point clouds of your own; open while training.

        Raises:
            ConfigError: No training runs.
        """
        if self._writer is None:
            raise ConfigError("TensorBoard's writer is open only from train_begin to close")
        return self._writer

    def train_begin(self, trainer: Trainer) -> None:
        """Open the file."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second that not everyone needs

        self._recent = {"batch": deque(maxlen=WINDOW), "epoch": deque(maxlen=WINDOW)}
        # a training that continues from a checkpoint writes the steps after it anew
        self._writer = SummaryWriter(self.folder, purge_step=trainer.step + 1 if trainer.step else None)
        chart = {"training and validation": ["Multiline", ["epoch/loss", "epoch/validation_loss"]]}
        self._writer.add_custom_scalars({"loss": chart})

    def batch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Write the curves over batches."""
        self._write("batch", {**values, "lr": trainer.optimization.lr}, trainer.step)

    def epoch_end(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Write the curves over epochs, and let readers see them."""
        self._write("epoch", {name: value for name, value in values.items() if name != "epoch"}, trainer.epoch)
        if self.histograms:
            for name, parameter in trainer.predictor.network.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter, trainer.epoch)
                if parameter.grad is not None:
                    self.writer.add_histogram(f"gradients/{name}", parameter.grad, trainer.epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _write(self, group: str, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        recent = self._recent[group]
        recent.append(values["loss"])
        mean = sum(recent) / len(recent)
        variance = sum((value - mean) ** 2 for value in recent) / len(recent)
        curves = {**values, "loss_mean": mean, "loss_variance": variance}
        # one event for all curves: `add_scalar` for each takes as long as the step of a small network
        points = [Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in curves.items()]
        file_writer: Any = self.writer.file_writer  # untyped
        file_writer.add_summary(Summary(value=points), step)
