"""`Logger`: the interface of what writes the curves of a training."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar

from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.files import absolute, short
from physgym.training.kept_file import cannot_write

if TYPE_CHECKING:
    from physgym.training.pipeline import Training

CurveAxis = Literal["batch", "epoch", "own"]  # what a curve is over: batches, epochs, or what its user counts
CurvePoints: TypeAlias = dict[str, list[tuple[int, float]]]  # steps and values by name

TOGETHER = 100  # batches whose curves are written together,
PATIENCE = 10.0  # at the latest after so many seconds
WINDOW = 50  # values over which mean and variance of a loss are taken

LoggerType = TypeVar("LoggerType", bound="type[Logger]")


def named_logger(cls: LoggerType) -> LoggerType:
    """Let configurations name a logger of this folder, by its class in small letters; a decorator."""
    return cls


class Logger(Callback, ABC):
    """Writer of the curves of a training, over batches (``batch/...``) and over epochs (``epoch/...``).

    - ``loss``, with its mean and variance over the last 50 (``loss_mean``, ``loss_variance``);
    - ``lr``, the learning rate of the first parameter group; `LearningRateMonitor` gives the rates of all;
    - what `Optimization.transform_loss` returns, and what callbacks before this one add to the values;
    - over epochs ``validation_loss`` with its mean and variance, and all else that is in the record of the epoch.

    This class decides what is written and when. A subclass says how, in `open`, `write`, `flush`, `position` and
    `release`; what it has no place for, such as `add_mesh`, it leaves out by not overriding it. `read` gives back the
    curves over epochs. A resumed training
    continues its curves from where the checkpoint was saved: what had been written after that is removed, so that no
    point is there twice. A new training in a folder that has curves writes to a subfolder, ``run-2`` and so on. What
    cannot be written for a while, as on a full disk, is a warning; it is kept, and written later. The suite of all
    this is `physgym.testing.loggers.LoggerContract`.

    Args:
        folder: Where to write; made if it is not there.
        histograms: Also write histograms of all weights and gradients, after every epoch, with `add_histogram`.
        weights: Epochs from one histogram of the weights to the next, 0 for none; by default as `histograms` says.
        gradients: The same of the gradients.
        charts: Plots of several curves, for a logger that has some: the names of the curves, or regular expressions,
            by title; such as ``{"terms": ["batch/loss", "batch/energy"]}``.

    Attributes:
        folder: As an absolute path.
        histograms: As given.
        charts: As given.
        title: What is written, for errors and warnings.

    Raises:
        ConfigError: A number of epochs is none.
    """

    every_rank = False
    adds = ()
    title: ClassVar[str] = "the curves"

    def __init__(
        self,
        folder: str | Path,
        *,
        histograms: bool = False,
        weights: int | None = None,
        gradients: int | None = None,
        charts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder = absolute(folder)  # whatever the working directory becomes
        self.histograms = histograms
        usual = int(histograms)
        self._rates = {
            "weights": usual if weights is None else integer("weights", weights, 0),
            "gradients": usual if gradients is None else integer("gradients", gradients, 0),
        }
        self.charts = {title: list(names) for title, names in (charts or {}).items()}
        self._trainer: Training | None = None  # while a training runs
        self._lr = math.nan
        # step, time, learning rate and values of batches, yet to be written
        self._batches: list[tuple[int, float, float, dict[str, float]]] = []
        self._recent: dict[str, deque[float]] = {}
        self._saved: dict[str, Any] | None = None  # the position from which a training goes on

    # --- what a subclass has

    @abstractmethod
    def open(self, saved: Mapping[str, Any] | None) -> None:
        """Open what is written to.

        Args:
            saved: None for a new training. Else what `position` returned, of this logger or of one in another process:
                remove what was written after that, and continue there. Where that is not there, the training gets a
                place of its own, like a new one.

        Raises:
            OSError: The disk refuses.
            ConfigError: The same, in the words of `cannot_write`.
        """

    @abstractmethod
    def write(self, values: Mapping[str, float], step: int, moment: float, axis: CurveAxis) -> None:
        """Write a point of several curves.

        Args:
            values: Values by the name of the curve, such as "batch/loss"; `as_number` gives the error for others.
            step: Where on the axis.
            moment: When it was, in seconds since 1970.
            axis: What they are over. There is one call for each batch and epoch, and any number for curves of users.

        Raises:
            ConfigError: A value is no number.
        """

    @abstractmethod
    def flush(self) -> None:
        """Let readers see what was written."""

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """Return where the curves end, as data for a checkpoint; comes after `flush`, or after `release`."""

    @abstractmethod
    def release(self) -> None:
        """Close the files, those that are open."""

    # --- what a subclass may have

    def shown_by(self) -> str:
        """Return what a person types or opens to see the curves: by default the folder."""
        return short(self.folder)

    @classmethod
    def read(cls, folder: Path) -> CurvePoints:
        """Return the curves over epochs, by names such as "epoch/loss"; empty where such a logger has written none.

        Args:
            folder: Where one has written, without subfolders.
        """
        return {}

    def add_config(self, config: Mapping[str, Any]) -> None:
        """Note the configuration of the training, before it begins; left out by a logger that has no place for it.

        Args:
            config: Values by key, sections within sections.
        """

    def add_histogram(self, name: str, values: Any, *, step: int | None = None) -> None:
        """Add a histogram; left out by a logger that has none.

        Args:
            name: The name.
            values: Numbers, an array or tensor of any shape; NaN and infinities are in none of its bars.
            step: Where on the axis; ``trainer.step`` by default.
        """

    def add_image(self, name: str, pixels: Any, *, step: int | None = None) -> None:
        """Add an image; left out by a logger that has none.

        Args:
            name: The name.
            pixels: Red, green and blue, shape (height, width, 3): integers from 0 to 255, or floats from 0 to 1.
            step: Where on the axis; ``trainer.step`` by default.
        """

    def add_figure(self, name: str, figure: Any, *, step: int | None = None) -> None:
        """Add a figure of matplotlib, which is closed; left out by a logger that has none.

        Args:
            name: The name.
            figure: The figure.
            step: Where on the axis; ``trainer.step`` by default.
        """

    def add_text(self, name: str, text: str, *, step: int | None = None) -> None:
        """Add a text; left out by a logger that has none.

        Args:
            name: The name.
            text: The text.
            step: Where on the axis; ``trainer.step`` by default.
        """

    def add_artifact(self, name: str, path: str | Path) -> None:
        """Add a file, such as a report; left out by a logger that has no place for files.

        Args:
            name: The name.
            path: The file, which may change afterwards.
        """

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

        Left out by a logger that has none.

        Args:
            name: The name.
            vertices: Coordinates, shape (n, 3) or (batch, n, 3), numbers; an array or tensor.
            faces: Vertices of the triangles, counted from 0, integers of shape (batch, m, 3), or (m, 3) for all.
            colors: Red, green and blue of the vertices, shape (n, 3) or (batch, n, 3): integers from 0 to 255, or
                floats from 0 to 1.
            step: Where on the axis; ``trainer.step`` by default.
        """

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
        self._check_open()
        values = {name: value} | (self._statistics(name, value) if statistics else {})
        self.write(values, self._at(step), time.time(), "own")

    def _at(self, step: int | None) -> int:
        """Return a step, by default the training's."""
        if step is not None:
            return step
        assert self._trainer is not None  # while it is open
        return self._trainer.step

    def _check_open(self) -> None:
        """Raise ConfigError unless a training runs; what is known of its batches comes before what follows."""
        if self._trainer is None:
            raise ConfigError(
                f"{type(self).__name__}'s writer is open only while a training runs: from train_begin to close"
            )
        self._write_batches()

    # --- events

    def train_begin(self, trainer: Training) -> None:
        """Open what is written to."""
        if trainer.step == 0:
            self._recent, self._saved = {}, None
        try:
            self.open(self._saved)
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise cannot_write(self.title, self.folder, error) from error
            raise
        self._trainer = trainer

    def batch_begin(self, trainer: Training, batch: Mapping[str, Any]) -> None:
        """Note the learning rate, which a scheduler may change after the batch."""
        self._lr = trainer.optimization.lr

    def batch_end(self, trainer: Training, values: dict[str, float]) -> None:
        """Write the curves over batches, many batches at once."""
        now = time.time()
        self._batches.append((trainer.step, now, self._lr, values.copy()))  # which does not fetch them from a device
        if len(self._batches) >= TOGETHER or not 0 <= now - self._batches[0][1] < PATIENCE:
            self._write_batches()

    def epoch_end(self, trainer: Training, values: Mapping[str, float]) -> None:
        """Write the curves over epochs, and let readers see them."""
        self._check_open()
        curves = {f"epoch/{name}": value for name, value in values.items() if name != "epoch"}
        for name in ("epoch/loss", "epoch/validation_loss"):
            if name in curves:
                curves |= self._statistics(name, curves[name])
        self.write(curves, trainer.epoch, time.time(), "epoch")
        self._write_histograms(trainer)
        self.flush()

    def close(self) -> None:
        """Close the files; a training that continues in this process continues them."""
        if self._trainer is None:
            return
        try:
            step = self._trainer.step  # a training that a loss has ended is back at the batch of that
            self._batches = [batch for batch in self._batches if batch[0] <= step]
            self._write_batches()
        finally:
            self._trainer = None
            self.release()
            self._saved = self.position()

    def state_dict(self) -> dict[str, Any]:
        """Return the recent losses, and where the curves end."""
        position = self._saved or {}
        if self._trainer is not None:
            self._write_batches()
            self.flush()
            position = self.position()
        recent = {name: list(values) for name, values in self._recent.items()}
        return {**position, "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue these curves."""
        self._saved = {name: value for name, value in state.items() if name != "recent"}
        self._recent = {name: deque(values, WINDOW) for name, values in state["recent"].items()}

    # --- details

    def _write_batches(self) -> None:
        """Write what is known of the last batches: in between the steps of a network this takes twice as long."""
        if self._batches:
            self._batches[-1][3].get("loss")  # fetches all from the device, one of which may end the training
        batches, self._batches = self._batches, []
        for step, moment, lr, values in batches:
            curves = {"batch/lr": lr}
            for name, value in values.items():
                curves[f"batch/{name}"] = value
            self.write(curves | self._statistics("batch/loss", values["loss"]), step, moment, "batch")

    def _statistics(self, name: str, value: float) -> dict[str, float]:
        """Return mean and variance of a curve over its last values; those that are not finite are left out."""
        recent = self._recent.setdefault(name, deque(maxlen=WINDOW))
        if math.isfinite(value):
            recent.append(value)
        if not recent:
            return {}
        mean = sum(recent) / len(recent)
        variance = sum([(off := value - mean) * off for value in recent]) / len(recent)
        return {f"{name}_mean": mean, f"{name}_variance": variance}

    def _write_histograms(self, trainer: Training) -> None:
        due = [what for what, rate in self._rates.items() if rate and trainer.epoch % rate == 0]
        for name, parameter in trainer.predictor.network.named_parameters() if due else ():
            for what in due:
                tensor = parameter if what == "weights" else parameter.grad
                if tensor is not None and tensor.numel() and tensor.isfinite().all():
                    self.add_histogram(f"{what}/{name}", tensor, step=trainer.epoch)


def as_number(name: str, value: Any) -> float:
    """Return the value of a curve as a number.

    Raises:
        ConfigError: It is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a curve takes numbers; {name} has the value {value!r}, a {type(value).__name__}") from error


def free_place(folder: Path, pattern: str) -> str:
    """Return a name below a folder where no training has written yet: none at first, then ``run-2`` and so on.

    Args:
        folder: The folder.
        pattern: Pattern of the names of files, of which there are some where a training has written.
    """
    place, number = "", 1
    while any((folder / place).glob(pattern)):
        number += 1
        place = f"run-{number}"
    return place
