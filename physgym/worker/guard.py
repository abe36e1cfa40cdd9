"""Calls into the environments of a process: in their folders, and with their errors named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from physgym.worker.arena_rows import ArenaRows
from physgym.worker.failures import RequestFailed
from physgym.worker.working_folders import WorkingFolders


class Guard:
    """Calls what concerns one environment: in its folder, noted as busy, with its exception as a `RequestFailed`.

    Args:
        rows: Where is noted which environment is busy.
        folders: The working folders.
    """

    def __init__(self, rows: ArenaRows, folders: WorkingFolders) -> None:
        self._rows, self._folders = rows, folders

    def __call__(self, index: int, doing: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what a function returns.

        Args:
            index: The environment.
            doing: What is asked of it, for the text of an error.
            work: The function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            RequestFailed: It raised.
        """
        self._rows.begin(index)
        try:
            with self._folders.of(index):
                result = work(*args, **kwargs)
        except RequestFailed:  # which says more of what was done
            raise
        except Exception as error:
            raise RequestFailed(index, doing) from error
        self._folders.compare()
        return result
