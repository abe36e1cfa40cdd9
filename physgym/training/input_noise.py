"""`InputNoise`: Gaussian noise on the inputs of a batch, a function of seed, epoch and window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from physgym.errors import ConfigError
from physgym.nn.predictor import Predictor
from physgym.nn.transforms import Hold, Normalize, Transform
from physgym.spaces import Array
from physgym.training.history import TrainingProgress
from physgym.training.normalization import in_order
from physgym.training.supply import StoredSupply
from physgym.training.unroll import Unroll

NOISE = 0x6E6F697365  # other random numbers than those of the order, which has the same seed and epoch


class InputNoise:
    """Gaussian noise on the first row of the inputs that outputs feed.

    The noise of a window depends on nothing but the seed, the epoch and the number of the window: it is the same after
    a resume, and on any number of processes.

    Args:
        unroll: Says how much.
        predictor: The network, whose normalization has the scales.
        fed: Names of the inputs that outputs feed.
        seed: Of the training.

    Raises:
        ConfigError: A name is none of these inputs, or a scale is not known.
    """

    def __init__(self, unroll: Unroll, predictor: Predictor, fed: Sequence[str], seed: int) -> None:
        noise = unroll.noise
        chosen = dict(noise) if isinstance(noise, Mapping) else dict.fromkeys(fed, noise)
        if unknown := [name for name in chosen if name not in fed]:
            raise ConfigError(f"noise names {unknown}; the inputs that outputs feed are {list(fed)}")
        if not isinstance(noise, Mapping) and noise and unroll.noise_units == "physical" and len(fed) > 1:
            raise ConfigError(
                f"noise={noise} in physical units is for one input, and outputs feed {list(fed)}; give one for each by "
                "name"
            )
        self._std = {name: std for name, std in chosen.items() if std}
        self._predictor, self._seed = predictor, seed
        self._normalized = unroll.noise_units == "normalized"
        if self._normalized:
            for name in self._std:
                self._scale(name)
        self._rows: Iterator[Array] = iter(())  # the windows of the batches to come
        self._place: tuple[StoredSupply, int, int] | None = None  # of the next one

    def __bool__(self) -> bool:
        return bool(self._std)

    def added(self, batch: Mapping[str, Tensor], supply: StoredSupply, progress: TrainingProgress) -> dict[str, Tensor]:
        """Return a batch with noise on its inputs.

        Args:
            batch: Fields of shape (batch, rows, *shape).
            supply: Where it comes from.
            progress: Where the training is.
        """
        rows, noisy = self._windows(supply, progress), dict(batch)
        for name, noise in self._drawn(progress.epoch, rows).items():
            value = batch[name]
            std: Tensor | float = self._std[name]
            if self._normalized:
                std = self._scale(name).to(value.dtype) * std
            added = value.clone()
            added[:, 0] += torch.from_numpy(noise).to(value.device, value.dtype) * std
            noisy[name] = added
        return noisy

    def _windows(self, supply: StoredSupply, progress: TrainingProgress) -> Array:
        """Return the numbers of the windows of the current batch."""
        epoch, batch = progress.epoch, progress.batch
        if self._place != (supply, epoch, batch):
            self._rows = supply.loader.batch_indices(epoch, batch)
        self._place = (supply, epoch, batch + 1)
        return next(self._rows)

    def _drawn(self, epoch: int, rows: Array) -> dict[str, Array]:
        """Return normal numbers by field, each of shape (batch, *shape)."""
        shapes = {name: self._predictor.spec[name].shape for name in self._std}
        drawn = {name: np.empty((len(rows), *shape)) for name, shape in shapes.items()}
        bits = np.random.Philox(key=np.random.SeedSequence((self._seed, epoch, NOISE)).generate_state(2, np.uint64))
        generator, state = np.random.Generator(bits), bits.state
        for at, row in enumerate(rows):
            # a generator of its own for each window takes five times as long as a place in the numbers of one
            state["state"]["counter"][:] = (0, row, 0, 0)
            bits.state = state
            for values in drawn.values():
                values[at] = generator.standard_normal(values.shape[1:])
        return drawn

    def _scale(self, name: str) -> Tensor:
        """Return the scale of a field's normalization, which broadcasts to the field."""
        found, moved = [], False  # whether a transform before it may have changed the units of the field
        for module in in_order(self._predictor.transforms.before_prediction):
            if isinstance(module, Normalize) and name in module.shapes and not moved:
                found.append(module.get_buffer(f"scale_{list(module.shapes).index(name)}"))
            moved = moved or not (type(module) in (Transform, Hold) or isinstance(module, Normalize))
        if len(found) != 1:
            many = "none" if not found else f"{len(found)} of them"
            raise ConfigError(
                f"noise is in scales of the normalization, and {name!r} has {many} before the prediction that gets it "
                'as it is; say it in physical units: noise_units="physical"'
            )
        return found[0]
