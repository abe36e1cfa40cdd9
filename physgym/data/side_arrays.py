"""What a dataset says of itself, and holds besides the samples, as exports keep it: `described` and `side_arrays`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.data.layout import INDEX, REASON
from physgym.spaces import Array

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset

CONSTANT = "index/constants/"


def described(dataset: SampleDataset) -> dict[str, Any]:
    """Return fields, source, parameters and time of a step as JSON data."""
    found: dict[str, Any] = {"fields": dataset.spec.to_json(), "source": dataset.source}
    if (parameters := dataset.parameter_spec) is not None:
        found["parameters"] = parameters.to_json()
    if dataset.time_step is not None:
        found["time_step"] = dataset.time_step
    return found


def side_arrays(dataset: SampleDataset) -> dict[str, Array]:
    """Return what a dataset holds besides the samples: names, parameters, rejected samples, endings and constants.

    The keys are names such as ``index/episode``, ``index/parameters/stiffness`` and ``index/constants/mesh/nodes``.
    """
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
