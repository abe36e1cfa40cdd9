"""`NextRows`: samples whose missing targets are fields of the next sample, for a network of single steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.data.windows import EpisodeWindows, WindowForm
from physgym.feedback import Feedback
from physgym.sample import Sample
from physgym.spaces import Array


class NextRows:
    """Samples with targets of the samples after them; those without a next one in their episode are left out.

    Args:
        dataset: The samples.
        once: Fields that they hold once, each with the name of the output that it is of the step before.

    Attributes:
        spec: The fields; where a field is padded, ``present/<name>`` are the flags of its values that are there.
    """

    def __init__(self, dataset: SampleDataset, once: Mapping[str, str]) -> None:
        self._windows = EpisodeWindows(dataset, WindowForm(1, 1), Feedback(once=once))
        self.spec = self._windows.step_spec

    def __len__(self) -> int:
        return len(self._windows)

    def __repr__(self) -> str:
        return f"{len(self)} samples with a next one, of {self._windows.dataset!r}"

    @property
    def episodes(self) -> Array:
        """Return an integer per sample that names its episode, shape (len(self),)."""
        return self._windows.episodes

    def index(self, name: str) -> Array:
        """Return episode, step, environment or seed of every sample, shape (len(self),)."""
        return self._windows.index(name)

    def read(self, start: int, stop: int, fields: Sequence[str] | None = None) -> Sample:
        """Return consecutive samples, each field of shape (stop - start, *shape)."""
        return {name: value[:, 0] for name, value in self._windows.read(start, stop, fields).items()}

    def gather(self, indices: Any, fields: Sequence[str] | None = None) -> Sample:
        """Return samples at some indices, each field of shape (n, *shape)."""
        return {name: value[:, 0] for name, value in self._windows.gather(indices, fields).items()}


def with_next_rows(samples: Any, outputs: Sequence[str], feedback: Mapping[str, str]) -> Any:
    """Return samples with the outputs of a network of single steps; those that have them as they are.

    Args:
        samples: A dataset; other samples stay as they are.
        outputs: Fields that the network predicts.
        feedback: Outputs that are its inputs at the next step.

    Raises:
        ConfigError: No sample has a next one.
    """
    if not isinstance(samples, SampleDataset):
        return samples
    missing = {name: feedback[name] for name in outputs if name not in samples.spec and name in feedback}
    if not missing or any(name not in samples.spec for name in missing.values()):
        return samples
    return NextRows(samples, {name: output for output, name in missing.items()})
