"""`Training`: the interface of a training for its callbacks."""

from __future__ import annotations

from typing import Any, Protocol

from physgym.generation.sample_source import SampleSource
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor
from physgym.spaces import Array
from physgym.training.history import History


class Training(Protocol):
    """A training, as far as callbacks may use it; `physgym.training.Trainer` is one."""

    @property
    def predictor(self) -> Predictor:
        """The network with its fields and transforms."""
        ...

    @property
    def optimization(self) -> Optimization:
        """Loss and optimizer."""
        ...

    @property
    def history(self) -> History:
        """Values of the completed epochs."""
        ...

    @property
    def source(self) -> SampleSource | None:
        """The producer of the samples, None for a dataset."""
        ...

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """Fields that the loss gets from the samples."""
        ...

    @property
    def epochs(self) -> int:
        """Number of epochs to train."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples per batch."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, on each process."""
        ...

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        ...

    @property
    def batch(self) -> int:
        """Number of completed batches in the current epoch."""
        ...

    @property
    def step(self) -> int:
        """Number of completed batches in all."""
        ...

    @property
    def drawn_episodes(self) -> Array:
        """Episode of each sample of the current batch, shape (batch,); empty without a source."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        ...

    @property
    def in_step(self) -> bool:
        """Whether an optimization step was begun and not completed."""
        ...

    def stop(self, reason: str) -> None:
        """End the training after the current event.

        Args:
            reason: The text for ``history.stopped``.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to continue, but for the weights."""
        ...
