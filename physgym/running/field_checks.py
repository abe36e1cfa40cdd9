"""Checks of fields: whether a network was made for those of a simulation, and whether values are finite.

torch is not imported here, since workers use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.errors import ConfigError
from physgym.sample import SampleSpec


def check_network_fields(predictor: Any, fields: SampleSpec) -> None:
    """Raise ConfigError if a network was made for other fields than these.

    An output that the simulation lacks may be the input of the next step that it feeds.

    Args:
        predictor: A `physgym.nn.Predictor`; anything else has no fields to compare.
        fields: Those of the simulation.
    """
    feedback = getattr(predictor, "feedback", {})
    for name, want in getattr(predictor, "spec", {}).items():
        got = fields.get(name if name in fields else feedback.get(name, name))
        if got is None or got.shape != want.shape:
            if got is not None and want.shape[1:] == got.shape:
                raise ConfigError(
                    f"the network was trained on windows, with field {name!r} of shape {want.shape}, and the "
                    f"simulation makes single steps, {got.shape}. Train it on the dataset itself, with unroll=... for "
                    "several steps; a network of windows is rolled out in a dataset alone"
                )
            shown = "none" if got is None else f"{got.dtype} {got.shape}"
            raise ConfigError(
                f"the network was trained on field {name!r} as {want.dtype} {want.shape}, the simulation has {shown}. "
                "Use the environment arguments of the training, or a network trained for these"
            )


def nonfinite(fields: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields with a value that is not finite."""
    return [name for name, value in fields.items() if not np.isfinite(value).all()]
