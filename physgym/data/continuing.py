"""Checks of what a writer continues, and of JSON data that it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from physgym.data.layout import PartitionLayout
from physgym.data.partition import Partition
from physgym.errors import ConfigError, DatasetError

BOUNDED = "bounded"  # attribute of a partition whose dataset drops old ones


def check_continued(partitions: Sequence[Partition], layout: PartitionLayout, source: str, *, bounded: bool) -> None:
    """Raise DatasetError if samples of a layout and source do not continue partitions."""
    if partitions and (BOUNDED in partitions[0].attributes) is not bounded:
        raise DatasetError(
            f"{partitions[0].path} is of a dataset that drops old partitions, or is not, and the new samples say "
            "otherwise; continue it in the same way (bounded=...)"
        )
    for part in partitions:
        if part.spec != layout.spec:
            raise DatasetError(f"{part.path} has the fields {part.spec}, the new samples {layout.spec}")
        if part.layout != layout:
            raise DatasetError(
                f"{part.path} has the parameters {part.layout.parameters} and "
                f"{'' if part.layout.rejected else 'no '}rejected samples; continue it in the same way"
            )
        if part.attributes["source"] != source:
            raise DatasetError(
                f"{part.path} was made with another {_differing(part.attributes['source'], source)}; "
                "resume with the same environment, arguments, samplers and seed, or write another dataset"
            )


def json_copy(value: Any, name: str) -> Any:
    """Return a copy of JSON data.

    Raises:
        ConfigError: It is none.
    """
    try:
        return json.loads(json.dumps(dict(value) if isinstance(value, Mapping) else value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be JSON data with texts as keys: {error}") from error


def _differing(then: str, now: str) -> str:
    """Name what differs in two sources of samples, given as JSON."""
    one, other = json.loads(then), json.loads(now)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return ", ".join(f"{name} ({one.get(name)}, the new samples with {other.get(name)})" for name in names)
