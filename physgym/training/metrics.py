"""`Metrics`: metrics by name after each epoch, and test sets by name, which choose nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from physgym.checks import integer
from physgym.data.dataset import SampleDataset
from physgym.data.next_rows import NextRows, with_next_rows
from physgym.data.provenance import overlaps
from physgym.data.windows import EpisodeWindows, without_windows
from physgym.errors import ConfigError, DatasetError
from physgym.events import Callback
from physgym.nn.metrics import MetricName, MetricTable, metrics_of
from physgym.nn.predictor import Predictor, evaluating
from physgym.sample import Sample
from physgym.training.argument_checks import check_alike, check_samples
from physgym.training.foreign import Feed, as_samples
from physgym.training.random_state import generator_states, set_generator_states
from physgym.training.sources import Samples
from physgym.training.unrolled_samples import windows_of

if TYPE_CHECKING:
    from physgym.training.trainer import Trainer

PREFIX = "test_"

Batch: TypeAlias = tuple[bool, Sample]  # whether nothing is remembered of samples before, and the samples


class Metrics(Callback):
    """Adds metrics of the validation samples to the record of each epoch, and losses and metrics of test sets.

    They are called ``validation_<metric>/<field>``, ``test_<name>_loss`` and ``test_<name>_<metric>/<field>``, and
    reach the history and the loggers as all other values. Predictions are compared in physical units, in one pass over
    all samples, exact over batches of any size; where several processes train together each of them makes that pass. In
    an unrolled training metrics are of single steps, and a test loss is of the whole unroll. A recurrent network gets
    the steps of each episode in their order, and remembers those before. Of windows that the trainer is given, a metric
    compares all rows of the targets.

    A test set chooses nothing: checkpoints and early stopping cannot watch its values.

    Args:
        metrics: Names in `physgym.nn.metrics.METRICS`, subclasses of `Metric`, or functions of (prediction, target).
        tests: Samples by name: a dataset or its test part, or what torch has.
        fields: The predicted fields that are measured; all by default. With them the names of the values are known, so
            that whether one that is watched is there is found out before the first batch.
        batch_size: Samples that are predicted at once.

    Raises:
        ConfigError: There is no such metric, a name of a test set is no word, or the samples do not fit the network.
        DatasetError: A test set is empty.
    """

    def __init__(
        self,
        metrics: Sequence[MetricName] = (),
        tests: Mapping[str, Any] | None = None,
        *,
        fields: Sequence[str] | None = None,
        batch_size: int = 256,
    ) -> None:
        self._metrics, self._fields = metrics, fields
        self._batch_size = integer("batch_size", batch_size, 1)
        self.tests: dict[str, Any] = {name: as_samples(one, batch_size) for name, one in (tests or {}).items()}
        known = metrics_of(metrics)
        for name, samples in self.tests.items():
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ConfigError(f"a test set needs a name of letters and digits, not {name!r}")
            check_samples(f"test set {name}", samples)
            if not isinstance(samples, Feed) and not len(samples):
                raise DatasetError(f"the test set {name} has no samples")
        if fields is not None:
            self.adds = tuple(f"validation_{metric}/{field}" for metric in known for field in fields)

    def train_begin(self, trainer: Trainer) -> None:
        """Compare the fields of the test sets with those of the training, and their episodes."""
        if trainer.validation is not None and self._metrics:
            self._measured(trainer.predictor, trainer.validation)
        for name, samples in self.tests.items():
            samples = self.tests[name] = windows_of(samples, trainer.unroll, f"test set {name}")
            if trainer.training is not None:
                check_alike(samples, trainer.training.spec, trainer.fields, f"test set {name}")
            if self._metrics:
                self._measured(trainer.predictor, samples)
            one, other = without_windows(samples), without_windows(trainer.training)
            if not (isinstance(one, SampleDataset) and isinstance(other, SampleDataset)):
                continue
            if text := overlaps(one, other, (f"the samples of the test set {name}", "the training samples")):
                warnings.warn(text, UserWarning, stacklevel=2)

    def epoch_end(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Add the values of the epoch."""
        if trainer.validation is not None:
            found = self._measure(trainer.predictor, trainer.validation)
            values |= {f"validation_{name}": value for name, value in found.items()}
        for name, samples in self.tests.items():
            found = trainer.evaluate(samples) | self._measure(trainer.predictor, samples)
            values |= {f"{PREFIX}{name}_{key}": value for key, value in found.items()}

    def _measure(self, predictor: Predictor, samples: Samples | Feed) -> dict[str, float]:
        """Return the metrics over samples, by "metric/field"."""
        if not self._metrics:
            return {}
        samples, table = self._measured(predictor, samples)
        names = list(dict.fromkeys((*predictor.inputs, *table.fields, *table.masks)))
        if predictor.recurrent and isinstance(samples, (SampleDataset, NextRows)):
            given = self._steps(samples, names)
        else:
            given = self._batches(samples, names)
        memory: Any = None
        with evaluating(predictor), closing(given) as batches:
            for first, batch in batches:
                before = None if first else memory
                prediction, memory = predictor.predict_from(batch, before, batched=True, finite=False)
                table.add(prediction, batch)
        return table.values()

    def _measured(self, predictor: Predictor, samples: Any) -> tuple[Any, MetricTable]:
        """Return the samples as the network predicts them, and a table of metrics for them.

        Raises:
            ConfigError: The network does not predict a field that is to be measured, or the samples lack it.
        """
        fields = list(self._fields or predictor.outputs)
        if not (isinstance(samples, EpisodeWindows) and _fits(samples, predictor)):
            samples = with_next_rows(without_windows(samples), predictor.outputs, predictor.feedback)
        if unknown := [name for name in fields if name not in predictor.outputs or name not in samples.spec]:
            raise ConfigError(
                f"metrics of {unknown} cannot be measured: the network predicts {list(predictor.outputs)}, the samples "
                f"have {list(samples.spec)}"
            )
        return samples, MetricTable(samples.spec, fields, self._metrics)

    def _steps(self, samples: SampleDataset | NextRows, names: Sequence[str]) -> Generator[Batch, None, None]:
        """Yield all samples in their order within the episodes, of episodes that are equally long at once.

        A recurrent network keeps its memory over a missing step, as in a run.
        """
        order = np.lexsort((samples.index("step"), samples.episodes))
        starts = np.flatnonzero(np.diff(samples.episodes[order], prepend=-1))
        lengths = np.diff(starts, append=len(order))
        for length in np.unique(lengths).tolist():
            alike = starts[lengths == length]
            for part in np.split(alike, range(self._batch_size, len(alike), self._batch_size)):
                for step in range(length):
                    yield not step, samples.gather(order[part + step], names)

    def _batches(self, samples: Samples | Feed, names: Sequence[str]) -> Generator[Batch, None, None]:
        """Yield all samples in batches of arrays; the global generators are left as they were."""
        if not isinstance(samples, Feed):
            for start in range(0, len(samples), self._batch_size):
                yield True, samples.gather(np.arange(start, min(start + self._batch_size, len(samples))), names)
            return
        before = generator_states()
        try:
            for given in samples.batches(0):
                yield True, {name: torch.as_tensor(given[name]).cpu().numpy() for name in names}
        finally:
            set_generator_states(before)


def _fits(samples: EpisodeWindows, predictor: Predictor) -> bool:
    """Return whether a network is fed windows, not single steps of them."""
    return all(samples.spec[name].shape == predictor.spec[name].shape for name in predictor.inputs)
