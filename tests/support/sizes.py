"""File sizes of the datasets of tests.

Their datasets have files of a few rows, to have several of them: a `max_file_size` below that of a file with one
sample, which is an error elsewhere, counts the bytes of rows alone here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from physgym.data import capacity, writer
from physgym.data.layout import PartitionLayout
from physgym.errors import ConfigError

_too_small: set[str] = set()  # what has been asked, where the search for a size ended in that error


def _capacity(layout: PartitionLayout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    parameters = None if layout.parameters is None else layout.parameters.to_json()
    asked = repr(
        (layout.spec.to_json(), parameters, layout.rejected, layout.endings, max_file_size, sorted(attributes.items()))
    )
    if asked not in _too_small:
        try:
            return capacity.capacity(layout, max_file_size, attributes)
        except ConfigError:
            _too_small.add(asked)
    return max(1, max_file_size // layout.row_nbytes)


writer.capacity = _capacity
