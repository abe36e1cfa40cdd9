"""`SaveFrames`: pictures of a run in this process, one a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import ConfigError, SampleError
from physgym.events import Callback
from physgym.files import absolute, replacing
from physgym.spaces import Array


class SaveFrames(Callback):
    """Write a picture after each step of a run, as ``step-00000.png`` and so on.

    Args:
        folder: Where to; made if needed.
        resume: Number on behind the pictures that are there.

    Raises:
        ConfigError: The environment was made without ``render_mode="rgb_array"``, or does not step in this process.
    """

    def __init__(self, folder: str | Path, *, resume: bool = False) -> None:
        self.folder, self.resume = absolute(folder), resume
        self._count = 0

    def prediction_begin(self, pipeline: Any) -> None:
        """Make the folder."""
        if not pipeline.stepping or pipeline.env.render_mode != "rgb_array":
            raise ConfigError(
                "pictures need an environment that steps in this process, made with "
                'env_kwargs={"render_mode": "rgb_array"}; there are none of workers and of a replay without the solver'
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self.folder} for pictures: {error.strerror}") from error
        if self.resume:
            there = [file.stem.removeprefix("step-") for file in self.folder.glob("step-*.png")]
            self._count = max((int(number) + 1 for number in there if number.isdecimal()), default=0)

    def sample_end(self, pipeline: Any, sample: Mapping[str, Any]) -> None:
        """Write the picture."""
        from matplotlib.image import imsave

        picture = checked_picture(pipeline.env.render(), f"step {self._count}")
        file = self.folder / f"step-{self._count:05d}.png"
        try:
            with replacing(file, durable=False) as temporary:
                imsave(temporary, picture, format="png")
        except OSError as error:
            raise ConfigError(f"cannot write the picture {file}: {error.strerror}") from error
        self._count += 1


def checked_picture(picture: Any, where: str) -> Array:
    """Return what an environment rendered as a picture that can be saved: shape (H, W), (H, W, 3) or (H, W, 4).

    Args:
        picture: What ``render()`` gave: uint8 numbers, or floats from 0 to 1; one channel may have an axis of its own.
        where: What to call it in an error.

    Raises:
        SampleError: It is none.
    """
    found = np.asarray(picture)
    if found.ndim == 3 and found.shape[2] == 1:
        found = found[:, :, 0]
    shaped = found.ndim == 2 or (found.ndim == 3 and found.shape[2] in (3, 4))
    floats = found.dtype.kind == "f" and shaped and found.size and np.nanmin(found) >= 0 and np.nanmax(found) <= 1
    if not shaped or not found.size or not (found.dtype == np.uint8 or floats):
        got = f"{found.dtype} of shape {found.shape}" if found.dtype != object else type(picture).__name__
        raise SampleError(
            f"{where}: render() gave {got}, which is no picture. Return uint8 of shape (height, width, 3) (or without "
            "the last axis, or with 1 or 4 channels), or floats from 0 to 1"
        )
    return found
