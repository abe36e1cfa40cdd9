"""Simulators that run in real time and do not repeat themselves, such as those of others with a clock of their own.

Their environments declare it in their metadata. Datasets of them are complete and survive kills, and nobody promises
their bytes: no episode is made twice, so that what a kill has cut short is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from physgym.errors import ConfigError

METADATA = "physgym.real_time"  # key of an environment's metadata
SOURCE = "real_time"  # key of a dataset's source


def runs_in_real_time(metadata: Mapping[str, Any]) -> bool:
    """Return whether the metadata of an environment declare that it runs in real time.

    Raises:
        ConfigError: The declaration is neither True nor False.
    """
    said = metadata.get(METADATA, False)
    if said is not True and said is not False:
        raise ConfigError(f"metadata[{METADATA!r}] is True or False, not {said!r}")
    return bool(said)


def was_in_real_time(source: Mapping[str, Any]) -> bool:
    """Return whether samples come from a simulator that ran in real time, by the source of their dataset."""
    return source.get(SOURCE) is True
