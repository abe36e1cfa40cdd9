"""The plan of an unrolled training: its form and its fields, checked before there are samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError
from physgym.experiment.schema import Config
from physgym.nn import Predictor
from physgym.sample import SampleSpec
from physgym.step_fields import predicts_next
from physgym.training.unroll import Unroll
from physgym.training.unrolled_loss import check_unrolled
from physgym.training.unrolled_samples import planned_fields, windows_of


class UnrollPlan:
    """The form of a training, over several steps or single samples, and the fields that follow from it.

    Args:
        config: Describes the training.
        spec: Fields of the samples.
        outputs: Names of the fields that the network predicts; None for those of role "target".
        stored: Whether the samples have episodes and steps.

    Attributes:
        unroll: The form; None for single samples.
        samples: Fields of what is trained on: of windows, or of the samples.
        step: Fields of one step, which the network is made for.

    Raises:
        ConfigError: The samples cannot be unrolled.
    """

    def __init__(self, config: Config, spec: SampleSpec, outputs: Sequence[str] | None, *, stored: bool) -> None:
        section = config.training.unroll
        self.unroll = None if section is None else Unroll(**dict(section))
        if self.unroll is None and stored and predicts_next(spec, outputs):
            self.unroll = Unroll(1)
        self.samples = self.step = spec
        if self.unroll is not None:
            if not stored:
                raise ConfigError(
                    "training.unroll needs samples with episodes and steps, and those of dataset.type have none. Name "
                    "a dataset in dataset.path, or leave out training.unroll"
                )
            with _naming_key():
                self.samples, self.step = planned_fields(spec, self.unroll)

    @property
    def record(self) -> tuple[str, ...]:
        """Return what an epoch of the training gives in addition."""
        return () if self.unroll is None else ("unroll",)

    def check(self, predictor: Predictor, loss_fields: Sequence[str] | None) -> None:
        """Raise ConfigError where the network does not fit.

        Args:
            predictor: The network.
            loss_fields: Fields that the loss gets; None for the outputs.
        """
        if self.unroll is not None:
            with _naming_key():
                check_unrolled(predictor, loss_fields or predictor.outputs, self.unroll, (self.samples, self.step))

    def windows(self, samples: Any, key: str) -> Any:
        """Return windows of stored samples where the training needs them; else the samples.

        Args:
            samples: A dataset; other samples stay as they are.
            key: What an error calls it.

        Raises:
            ConfigError: All episodes are too short.
        """
        if not isinstance(samples, SampleDataset):
            return samples
        with _naming_key():
            return windows_of(samples, self.unroll, key)


@contextmanager
def _naming_key() -> Iterator[None]:
    """Name the key of the configuration in an error."""
    try:
        yield
    except ConfigError as error:
        text = str(error)
        raise ConfigError(f"training.{text}" if text.startswith("unroll") else f"training.unroll: {text}") from None
