"""Description and tables of a dataset as exports keep them, besides the samples: `described` and `side_arrays`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from physgym.data.description import Description
from physgym.data.layout import INDEX, REASON
from physgym.data.rejected_samples import RejectedSamples
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array

CONSTANT = "index/constants/"


class DatasetContents(Protocol):
    """Properties of a `SampleDataset` that exports use."""

    spec: SampleSpec

    def __len__(self) -> int: ...

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Return whole fields, mapped from the files."""

    @property
    def episodes(self) -> Array:
        """Return a number for the episode of each sample, across folders."""

    @property
    def source(self) -> dict[str, Any]:
        """Return where the samples come from."""

    @property
    def time_step(self) -> float | None:
        """Return the time of a step in s."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Return what people said of the dataset."""

    @property
    def paths(self) -> Sequence[Path]:
        """Return the folders."""

    @property
    def constants(self) -> Mapping[str, Array]:
        """Return what is stored once."""

    @property
    def parameters(self) -> Sample | None:
        """Return the parameters of episodes."""

    @property
    def parameter_spec(self) -> SampleSpec | None:
        """Return these as they were declared."""

    @property
    def parameter_names(self) -> Sample:
        """Return whose they are."""

    @property
    def rejected(self) -> RejectedSamples | None:
        """Return the rejected samples."""

    @property
    def ended(self) -> Sample | None:
        """Return the episodes that ended."""

    def index(self, name: str) -> Array:
        """Return names of the samples."""

    def read(self, start: int, stop: int, fields: Sequence[str] | None = None) -> Sample:
        """Return consecutive samples."""


def check_episodes(dataset: DatasetContents) -> None:
    """Raise where episodes of several folders have one number, so that a table would mix them.

    Raises:
        ConfigError: There are some.
    """
    if len(np.unique(dataset.episodes)) != len(np.unique(dataset.index("episode"))):
        raise ConfigError(
            "episodes of several folders have one number, and would be mixed; make one dataset of them (physgym data "
            "merge), or take them one by one"
        )


def described(dataset: DatasetContents) -> dict[str, Any]:
    """Return fields, source, parameters, time of a step and metadata as JSON data."""
    found: dict[str, Any] = {"fields": dataset.spec.to_json(), "source": dataset.source}
    if (parameters := dataset.parameter_spec) is not None:
        found["parameters"] = parameters.to_json()
    if dataset.time_step is not None:
        found["time_step"] = dataset.time_step
    if metadata := common_metadata(dataset):
        found["metadata"] = metadata
    return found


def common_metadata(dataset: DatasetContents) -> dict[str, str]:
    """Return what was said alike of all folders of a dataset, such as its recorded split."""
    others = [Description.read(path).metadata for path in dataset.paths[1:]]
    return {key: text for key, text in dataset.metadata.items() if all(one.get(key) == text for one in others)}


def side_arrays(dataset: DatasetContents) -> dict[str, Array]:
    """Return what a dataset holds besides the samples: names, parameters, rejected samples, endings and constants.

    The keys are names such as ``index/episode``, ``index/parameters/stiffness`` and ``index/constants/mesh/nodes``.

    Raises:
        DatasetError: A field lies in a group named index.
    """
    if any(name.split("/")[0] == "index" for name in dataset.spec):
        raise DatasetError("a field of the dataset lies in a group named index, as the export's index does; rename it")
    found = {f"index/{name}": dataset.index(name) for name in INDEX}
    if (parameters := dataset.parameters) is not None:
        found |= {f"index/parameters/{name}": value for name, value in parameters.items()}
        found |= {f"index/episodes/{name}": value for name, value in dataset.parameter_names.items()}
    if (rejected := dataset.rejected) is not None:
        found |= {f"index/rejected/data/{name}": value for name, value in rejected.samples.items()}
        found |= {f"index/rejected/index/{name}": getattr(rejected, name) for name in INDEX}
        found["index/rejected/reason"] = np.array([reason.encode() for reason in rejected.reasons], REASON)
    found |= {f"index/endings/{name}": value for name, value in (dataset.ended or {}).items()}
    found |= {f"{CONSTANT}{name}": value for name, value in dataset.constants.items()}
    return found
