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
        """Return the network with its fields and transforms."""
        ...

    @property
    def optimization(self) -> Optimization:
        """Return the loss and optimizer."""
        ...

    @property
    def history(self) -> History:
        """Return the values of the completed epochs."""
        ...

    @property
    def source(self) -> SampleSource | None:
        """Return the producer of the samples, None for a dataset."""
        ...

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """Return the fields that the loss gets from the samples."""
        ...

    @property
    def epochs(self) -> int:
        """Return the number of epochs to train."""
        ...

    @property
    def batch_size(self) -> int:
        """Return the samples per batch."""
        ...

    @property
    def num_batches(self) -> int:
        """Return the batches in an epoch, on each process."""
        ...

    @property
    def epoch(self) -> int:
        """Return the number of completed epochs."""
        ...

    @property
    def batch(self) -> int:
        """Return the number of completed batches in the current epoch."""
        ...

    @property
    def step(self) -> int:
        """Return the number of completed batches in all."""
        ...

    @property
    def drawn_episodes(self) -> Array:
        """Return the episode of each sample of the current batch, shape (batch,); empty without a source."""
        ...

    @property
    def stopping(self) -> bool:
        """Return whether `stop` was called."""
        ...

    @property
    def in_step(self) -> bool:
        """Return whether an optimization step was begun and not completed."""
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
