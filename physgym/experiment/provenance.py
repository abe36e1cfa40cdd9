"""Provisional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """How a run came about."""

    edits: Mapping[str, Any]

    @classmethod
    def here(
        cls, config_file: Any = None, edits: Mapping[str, Any] | None = None, *, save_diff: bool = False
    ) -> Origin:
        """Here."""
        return cls(edits or {})
