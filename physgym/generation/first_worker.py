"""The first worker of a generation whose workers connect: it says what is to be stored, unless it is lost meanwhile."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from physgym.errors import NotAllowed, WorkerError, WorkerLost
from physgym.launch.base import DialInLauncher

T = TypeVar("T")

MOST_LOST = 5  # workers in a row: what loses all of them is no link
WAITED = "Another worker is waited for"


def with_first_worker(launcher: DialInLauncher[Any], timeout: float, begin: Callable[[int], T]) -> T:
    """Return what is begun with a worker; where that is lost, or does not make the environment, with the next one.

    Args:
        launcher: What brings workers.
        timeout: Seconds to wait for one that makes the environment.
        begin: Begins, with the number of environments that the worker hosts.

    Raises:
        WorkerError: None has come in time, one after the other was lost, or a constructor raised.
    """
    lost, deadline = 0, time.monotonic() + timeout
    refusal: NotAllowed | None = None
    while True:
        try:
            count = launcher.first(max(0.0, deadline - time.monotonic()))
        except WorkerError as error:
            if refusal is None:
                raise
            raise refusal from error  # those who came say why
        try:
            return begin(count)
        except NotAllowed as error:
            refusal = error
            warnings.warn(f"{error}. {WAITED}", RuntimeWarning, stacklevel=3)
        except WorkerLost as error:
            lost, deadline = lost + 1, time.monotonic() + timeout
            if lost >= MOST_LOST:
                error.add_note(f"{lost} workers in a row were lost before the first episode")
                raise
            warnings.warn(f"{error}. {WAITED}", RuntimeWarning, stacklevel=3)
