"""Provisional."""

from __future__ import annotations

from typing import Any


def find_repository(folder: Any = None) -> Any:
    """Provisional."""


def check_repository(repository: Any, *, allow_dirty: bool, save_diff: bool, yes: bool) -> bool:
    """Provisional."""
    return not allow_dirty
