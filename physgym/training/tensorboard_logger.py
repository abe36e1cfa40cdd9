"""`TensorBoard`: the logger whose curves TensorBoard shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from physgym.errors import ConfigError
from physgym.files import short
from physgym.spaces import Array
from physgym.training.loggers import CurveAxis, CurvePoints, Logger, free_place, named_logger

if TYPE_CHECKING:
    from physgym.training.curves import CurveWriter


@named_logger
class TensorBoard(Logger):
    """Curves for TensorBoard: ``physgym tensorboard <session>``, or ``tensorboard --logdir <folder>``.

    Curves over batches (``batch/...``) and over epochs (``epoch/...``):

    - ``loss``, with its mean and variance over the last 50 (``loss_mean``, ``loss_variance``);
    - ``lr``, the learning rate of the first parameter group; `LearningRateMonitor` gives the rates of all;
    - what `Optimization.transform_loss` returns, and what callbacks before this one add to the values;
    - over epochs ``validation_loss`` with its mean and variance, all else that is in the record of the epoch,
      and "training and validation" on one plot, under "Custom Scalars".

    A resumed training continues its curves from where the checkpoint was saved: what had been written after that is
    removed from its event files. A new training in a folder that has curves writes to a subfolder, ``run-2`` and so on.
    What cannot be written for a while, as on a full disk, is a warning; it is kept, and written later.

    Args:
        folder: Where to write; made if it is not there.
        histograms: Also write histograms of all weights and gradients, after every epoch.
        weights: Epochs from one histogram of the weights to the next, 0 for none; by default as `histograms` says.
        gradients: The same of the gradients.
        charts: Plots of several curves, under "Custom Scalars": the names of the curves, or regular expressions, by
            title; such as ``{"terms": ["batch/loss", "batch/energy"]}``.
    """

    title: ClassVar[str] = "the curves for TensorBoard"

    def __init__(
        self,
        folder: str | Path,
        *,
        histograms: bool = False,
        weights: int | None = None,
        gradients: int | None = None,
        charts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(folder, histograms=histograms, weights=weights, gradients=gradients, charts=charts)
        self._writer: CurveWriter | None = None
        self._run = ""  # is part of the names of a training's files, so that those of others are not touched
        self._place = ""  # of these files, in the folder

    @property
    def writer(self) -> CurveWriter:
        """Return a `torch.utils.tensorboard.SummaryWriter` for your own images, figures and texts; open while training.

        Raises:
            ConfigError: No training runs.
        """
        self._check_open()
        assert self._writer is not None
        return self._writer

    def shown_by(self) -> str:
        """Return the command that shows the curves."""
        return f"tensorboard --logdir {short(self.folder)}"

    @classmethod
    def read(cls, folder: Path) -> CurvePoints:
        """Return the curves over epochs of the event files in a folder."""
        if not any(folder.glob("*tfevents*")):
            return {}
        # it takes files of subfolders for other runs
        from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
            EventAccumulator,
        )

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if name.startswith("epoch/")]
        return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names}

    # --- what users add

    def add_histogram(self, name: str, values: Any, *, step: int | None = None) -> None:
        """Add a histogram, as `Logger` describes it."""
        self.writer.add_histogram(name, values, self._at(step))

    def add_image(self, name: str, pixels: Any, *, step: int | None = None) -> None:
        """Add an image, as `Logger` describes it."""
        self.writer.add_image(name, pixels, self._at(step), dataformats="HWC")

    def add_figure(self, name: str, figure: Any, *, step: int | None = None) -> None:
        """Add a figure of matplotlib, as `Logger` describes it."""
        self.writer.add_figure(name, figure, self._at(step))

    def add_text(self, name: str, text: str, *, step: int | None = None) -> None:
        """Add a text, as `Logger` describes it."""
        self.writer.add_text(name, text, self._at(step))

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
        self.writer.add_mesh(name, **tensors, global_step=self._at(step))

    # --- the event files

    def open(self, saved: Mapping[str, Any] | None) -> None:
        """Open a file of events; those of a training that continues end with the checkpoint."""
        from physgym.training.curves import CurveWriter  # takes a second that not everyone needs

        self._run, self._place = ("", "") if saved is None else (saved["run"], saved["place"])
        if saved is not None and not self._cut(saved["files"]):
            self._run = ""  # resumed in another session
        new = not self._run
        if new:  # the name is not of a generator that users seed
            self._run, self._place = os.urandom(4).hex(), free_place(self.folder, "*tfevents*")
        written = self._files()
        # readers take files in the order of their names
        number = 1 + int(written[-1].name.split(".")[3]) if written else 1
        name = f"events.out.tfevents.{number:010d}.{self._run}.physgym"
        self._writer = CurveWriter(self.folder / self._place / name, self.title)
        if new:
            own = {"training and validation": ["Multiline", ["epoch/loss", "epoch/validation_loss"]]}
            charts = {title: ["Multiline", names] for title, names in self.charts.items()}
            self._writer.add_custom_scalars({"loss": own} | ({"charts": charts} if charts else {}))

    def write(self, values: Mapping[str, float], step: int, moment: float, axis: CurveAxis) -> None:
        """Write a point of several curves."""
        assert self._writer is not None
        self._writer.add_values(values, step, moment)

    def flush(self) -> None:
        """Let readers see what was written."""
        if self._writer is not None:
            self._writer.flush()

    def position(self) -> dict[str, Any]:
        """Return the sizes of the event files, and what finds them."""
        files = {path.name: path.stat().st_size for path in self._files()}
        return {"run": self._run, "place": self._place, "files": files}

    def release(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

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


def _array(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _bytes(colors: Array) -> Array:
    """Return colors from 0 to 255."""
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
        raise ConfigError(
            f"mesh {name!r}: {what} has shape {np.shape(value)}; wanted is {want}, or a batch{of} of that"
        )
    return array
