"""`ClosedOnExit`: what a ``with`` block closes at its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self


class ClosedOnExit(ABC):
    """Object that a ``with`` block closes at its end, however that comes."""

    @abstractmethod
    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close it; calling it again does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close()
