"""`Transaction`: changes to several objects that happen as a whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Restorable(Protocol):
    """An object whose state can be kept and brought back; a state is replaced as a whole, never changed."""

    def snapshot(self) -> Any:
        """Return the state."""

    def restore(self, state: Any) -> None:
        """Bring a state back."""


class Transaction:
    """A block that is undone where an error or Ctrl-C breaks it off, so that it can be done again.

    Rows that were written meanwhile lie beyond those that count, and are written over.

    Args:
        parts: What the block changes.
    """

    def __init__(self, parts: Sequence[Restorable]) -> None:
        self._parts = parts
        self._before: list[Any] = []

    def __enter__(self) -> Transaction:
        self._before = [part.snapshot() for part in self._parts]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            for part, before in zip(self._parts, self._before, strict=True):
                part.restore(before)
