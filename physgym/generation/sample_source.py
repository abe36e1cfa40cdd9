"""`SampleSource`: the interface of what produces samples for a training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from physgym.closed_on_exit import ClosedOnExit
from physgym.data.stream_origin import HasOrigin
from physgym.sample import Sample, SampleSpec


class SampleSource(HasOrigin, ClosedOnExit):
    """A producer of samples; `physgym.data.SampleStream` and `physgym.data.Online` are two.

    A subclass has `spec` and `draw`; all else has a default, for a source that stores nothing and cannot be resumed.

    Attributes:
        spec: The fields.
        drawn: Names of the samples of the last batch, for messages and `Breed`: an object with the arrays ``episodes``
            and ``steps``; None where they have none.
    """

    spec: SampleSpec
    drawn: Any = None

    @abstractmethod
    def draw(self, batch_size: int) -> Sample:
        """Return the next samples, as soon as there are so many: fields of shape (batch_size, *shape).

        They may be tensors of torch, on a device; a training on that device takes them as they are.
        """

    def dataset(self) -> Any:
        """Return all samples drawn so far, as `physgym.training.Samples`; None where they are not stored."""
        return None

    @property
    def stored(self) -> int:
        """Return the number of stored samples, those of an earlier run included."""
        return 0

    @property
    def begun(self) -> bool:
        """Return whether samples were drawn, since it was made or its state was loaded."""
        return False

    def expect(self, samples: int) -> None:
        """Prepare for a number of samples: no more than these will be drawn.

        Args:
            samples: The number of samples.
        """
        return

    @property
    def lacks_predictor(self) -> bool:
        """Return whether simulations may ask for predictions, and nothing answers them yet."""
        return False

    def answer_with(self, predictor: Any) -> None:
        """Let a network answer simulations that ask for a prediction.

        Args:
            predictor: An object with the method ``predict``.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a saved position.

        Args:
            state: The value of `state_dict`; an empty one is the beginning.
        """
        return

    def metrics(self) -> Mapping[str, float]:
        """Return figures for the record of every epoch, by name."""
        return {}

    def hurry(self) -> None:
        """Make `close` wait for nothing that takes long, as after Ctrl-C."""
        return

    def close(self) -> None:
        """End the production; calling it again does no harm."""
        return
