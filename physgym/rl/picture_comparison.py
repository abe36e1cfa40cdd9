"""Pictures and what an autoencoder makes of them, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.scene.films import save_picture
from physgym.spaces import Array

if TYPE_CHECKING:
    from physgym.nn.predictor import Predictor
    from physgym.training.history import History
    from physgym.training.trainer import Trainer

GAP = 2  # pixels between pictures


def compare_pictures(predictor: Predictor, pictures: Array) -> Array:
    """Return pictures on the left and their reconstructions on the right, a row for each.

    Args:
        predictor: A trained network with pictures as its only input and output, such as an `Autoencoder`.
        pictures: Shape (n, height, width) or (n, height, width, channels), with 1 or 3 channels. Real numbers are shown
            from the smallest to the largest one.

    Returns:
        One picture, uint8, of shape (n * (height + 2) - 2, 2 * width + 2, 3).

    Raises:
        ConfigError: The network has several inputs, or the pictures another number of channels.
    """
    if len(predictor.inputs) != 1 or len(predictor.outputs) != 1:
        raise ConfigError(f"pictures are compared by a network from one field to one, not {list(predictor.inputs)}")
    made = predictor.predict({predictor.inputs[0]: pictures}, batched=True)[predictor.outputs[0]]
    low, high = (0.0, 255.0) if pictures.dtype == np.uint8 else (float(pictures.min()), float(pictures.max()))
    rows = [_joined([_coloured(one, low, high) for one in pair], axis=1) for pair in zip(pictures, made, strict=True)]
    return _joined(rows, axis=0)


class PictureComparison(Callback):
    """Write pictures and their reconstructions after each epoch, as ``epoch-0001.png`` and so on.

    Args:
        pictures: As for `compare_pictures`, such as some of the validation.
        folder: Where to write them; made where it is missing.
        every: Epochs from one to the next; the last one is always written.

    Raises:
        ConfigError: There is no picture, or `every` is no positive integer.
    """

    def __init__(self, pictures: Array, folder: str | Path, every: int = 1) -> None:
        if not len(pictures):
            raise ConfigError("there is no picture to compare")
        self.pictures, self.folder, self.every = np.array(pictures), Path(folder), integer("every", every, 1)
        self._written = 0

    def epoch_end(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Write those of an epoch that is due."""
        if trainer.epoch % self.every == 0:
            self._write(trainer)

    def train_end(self, trainer: Trainer, history: History) -> None:
        """Write those of the last epoch."""
        if trainer.epoch != self._written:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        picture = compare_pictures(trainer.predictor, self.pictures)
        save_picture(self.folder / f"epoch-{trainer.epoch:04d}.png", picture, overwrite=True)
        self._written = trainer.epoch


def _coloured(picture: Any, low: float, high: float) -> Array:
    """Return a picture as uint8 of shape (height, width, 3)."""
    picture = np.asarray(picture)
    picture = picture[..., np.newaxis] if picture.ndim == 2 else picture
    if picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ConfigError(f"pictures have 1 or 3 channels, (height, width, channels); these have shape {picture.shape}")
    grey = np.clip((picture.astype(np.float64) - low) / ((high - low) or 1.0) * 255, 0, 255)
    return np.ascontiguousarray(np.broadcast_to(np.rint(grey).astype(np.uint8), (*picture.shape[:2], 3)))


def _joined(pictures: list[Array], axis: int) -> Array:
    """Return pictures next to each other, white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis)
