"""Events: the places in a pipeline at which a user's code is called, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Event = Literal[
    "train_begin",
    "data_generation_begin",
    "data_generation_batch_end",
    "data_generation_end",
    "epoch_begin",
    "batch_begin",
    "batch_end",
    "epoch_end",
    "train_end",
    "prediction_begin",
    "sample_begin",
    "sample_end",
    "prediction_end",
]


class Callback:
    """User code at the events of a pipeline; override what you need.

    Training calls, in this order::

        train_begin
            data_generation_begin           only where a source produces the samples in the first epoch
                data_generation_batch_end   for each batch
            data_generation_end
            epoch_begin                     for each epoch
                batch_begin, batch_end      for each batch
            epoch_end                       after the validation
        train_end                           also after Ctrl-C, not after an error
        close                               always, also after an error

    A prediction run calls ``prediction_begin``, then for each step ``sample_begin`` and ``sample_end``, then
    ``prediction_end`` and ``close``. Of several callbacks each event reaches the first one first.

    Checkpoints are saved last in an event, after all other callbacks. What may be changed: entries of the batch in
    ``batch_begin`` (same shapes), and values are added in ``batch_end`` and ``epoch_end``; see
    docs/howto/training.md.

    A training that is resumed calls ``load_state_dict``, ``train_begin``, and in the midst of an epoch ``epoch_begin``
    again. ``trainer.stop(reason)`` from any event ends the training after it. All that callbacks may use of a
    trainer is in `physgym.training.pipeline.Training`.

    Attributes:
        every_rank: Where several processes train together: whether it is called in all of them, or in the first one
            alone, as what writes files is.
        watches: Names of values of an epoch that it needs. Whether there will be such is found out before the first
            batch.
        adds: Names of values that it adds in `epoch_end`. A class that has the method and does not tell may add
            anything, so that whether what callbacks after it watch is there is found out after the first epoch.
    """

    every_rank: bool = True
    watches: Sequence[str] = ()
    adds: Sequence[str] = ()

    def train_begin(self, trainer: Any) -> None:
        """Handle the start of a training, or its continuation; ``trainer.epoch`` and ``trainer.step`` say where."""

    def data_generation_begin(self, pipeline: Any) -> None:
        """Handle the start of a production of samples."""

    def data_generation_batch_end(self, pipeline: Any, samples: int) -> None:
        """Respond to samples that were produced."""

    def data_generation_end(self, pipeline: Any) -> None:
        """Respond to the end of generation: all samples were produced."""

    def epoch_begin(self, trainer: Any) -> None:
        """Handle the start of an epoch; ``trainer.epoch`` is its number, from 0."""

    def batch_begin(self, trainer: Any, batch: dict[str, Tensor]) -> None:
        """Handle a batch that was loaded; ``trainer.batch`` is its number within the epoch, from 0.

        Args:
            trainer: The trainer.
            batch: Fields of shape (batch, *shape). Entries may be replaced by others of the same shape.
        """

    def batch_end(self, trainer: Any, values: dict[str, float]) -> None:
        """Handle the end of a batch; ``trainer.batch`` and ``trainer.step`` count it already.

        Args:
            trainer: The trainer.
            values: The loss under the name "loss", and what `Optimization.transform_loss` adds. Values may be added,
                which callbacks after this one see. A batch that was skipped has a loss that is not finite.
        """

    def epoch_end(self, trainer: Any, values: dict[str, float]) -> None:
        """Handle the end of an epoch, validated; ``trainer.epoch`` counts it already.

        Args:
            trainer: The trainer.
            values: Means over the epoch's samples by name, those of validation with the prefix "validation_"; also
                "epoch", "lr", "seconds", "samples". Values may be added: they enter the history.
        """

    def train_end(self, trainer: Any, history: Any) -> None:
        """Handle the end of a training: all epochs are done, or Ctrl-C came (``history.interrupted``)."""

    def prediction_begin(self, pipeline: Any) -> None:
        """Handle the start of a prediction run."""

    def sample_begin(self, pipeline: Any) -> None:
        """Handle the start of a step of a prediction run."""

    def sample_end(self, pipeline: Any, sample: Mapping[str, Any]) -> None:
        """Handle the end of a step of a prediction run.

        Args:
            pipeline: What runs.
            sample: The step's fields by name.
        """

    def prediction_end(self, pipeline: Any) -> None:
        """Handle the end of a prediction run."""

    def close(self) -> None:
        """Release files and windows; it may come more than once."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this callback for a checkpoint: data, NumPy arrays and tensors, nested."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` gave; comes before ``train_begin``."""


class Callbacks:
    """Several callbacks as one.

    Args:
        callbacks: In the order in which an event reaches them.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self._listeners: dict[Event, list[Callback]] = {}  # to an event, once it was emitted

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def emit(self, event: Event, *args: Any) -> None:
        """Call the event's method of every callback that has one of its own."""
        listeners = self._listeners.get(event)
        if listeners is None:
            nothing = getattr(Callback, event)
            listeners = self._listeners[event] = [
                callback
                for callback in self._callbacks
                if getattr(type(callback), event) is not nothing or event in vars(callback)
            ]
        for callback in listeners:
            getattr(callback, event)(*args)

    def close(self) -> None:
        """Close every callback, the others too if one of them raises."""
        with ExitStack() as stack:
            for callback in self._callbacks:
                stack.callback(callback.close)
