"""Requests to a program of several MPI ranks, and its answers, through two named pipes that its rank 0 opens as files.

Both directions have the same form, in the machine's own byte order: two 32-bit integers and then what they announce. Of
a request they are its `RankRequest` and the count of the 64-bit floating-point numbers that follow; of an answer its
`RankAnswer` and the count of such numbers, or of the bytes of a text. Files can be opened and read in any language.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np

from physgym.spaces import Array

REQUESTS, ANSWERS = "PHYSGYM_REQUESTS", "PHYSGYM_ANSWERS"  # variables with the names of the pipes
FIELDS, FOLDER = "PHYSGYM_FIELDS", "PHYSGYM_FOLDER"  # what the numbers are, as JSON; where ranks may note an error
HEADER = struct.Struct("=ii")
LOOK = 0.1  # seconds between two looks at the program
CHUNK = 1 << 20  # bytes that are read at once
LONGEST_TEXT = 1 << 16  # bytes


class RankRequest(IntEnum):
    """The kinds of requests."""

    CLOSE = 0  # end
    RESET = 1  # begin an episode: a seed, then the parameters; the answer has the states, and zeros for the outputs
    STEP = 2  # make a step: the action; the answer has states and outputs
    STATE = 3  # give all that the steps to come depend on
    SET_STATE = 4  # take that; the answer has the states, and zeros for the outputs


class RankAnswer(IntEnum):
    """The kinds of answers."""

    DONE = 0  # numbers follow
    REJECTED = 1  # the step did not converge; a text follows
    FAILED = 2  # a text follows


class MpiExchange:
    """The end of two pipes that asks.

    Args:
        folder: Where they are made.

    Attributes:
        variables: Their names, as the program finds them in its environment.

    Raises:
        OSError: They cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._files: list[int] = []
        self.variables = {REQUESTS: str(folder / "requests"), ANSWERS: str(folder / "answers")}
        try:
            for path in self.variables.values():
                os.mkfifo(path, 0o600)
                # for both directions: that works before the program has opened its end, and never says end of file
                self._files.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    def ask(
        self, kind: RankRequest, numbers: Array, timeout: float, check: Callable[[], None]
    ) -> tuple[RankAnswer, Array | str]:
        """Send a request, and wait for the answer to it.

        Args:
            kind: What is wanted.
            numbers: One axis, float64.
            timeout: Seconds.
            check: Called now and then while nothing comes; raises where nothing will.

        Returns:
            The kind of the answer, and its numbers (one axis, float64) or its text.

        Raises:
            TimeoutError: It takes longer.
            ValueError: What comes is no answer.
        """
        wait = _Wait(self._files, time.monotonic() + timeout, check)
        wait.write(HEADER.pack(kind, len(numbers)) + np.ascontiguousarray(numbers, np.float64).tobytes())
        status, count = HEADER.unpack(wait.read(HEADER.size))
        if status not in list(RankAnswer) or count < 0:
            raise ValueError(f"it begins with {status}, {count}")
        answer = RankAnswer(status)
        if answer is not RankAnswer.DONE:
            if count > LONGEST_TEXT:
                raise ValueError(f"a text of {count} bytes; {LONGEST_TEXT} are the most")
            return answer, wait.read(count).decode(errors="replace")
        return answer, np.frombuffer(wait.read(8 * count), np.float64)

    def tell(self, kind: RankRequest) -> None:
        """Send a request without numbers and do not wait for an answer; a program that is gone does not mind."""
        with contextlib.suppress(OSError):
            os.write(self._files[0], HEADER.pack(kind, 0))

    def close(self) -> None:
        """Let go of the pipes; calling it again does no harm."""
        for file in self._files:
            os.close(file)
        self._files.clear()


class _Wait:
    """Reads and writes within a time.

    Args:
        files: To write to, and to read from.
        deadline: Until when.
        check: Called now and then.
    """

    def __init__(self, files: Sequence[int], deadline: float, check: Callable[[], None]) -> None:
        self._files, self._deadline, self._check = files, deadline, check

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._ready([], self._files[:1]):
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self._files[0], view) :]

    def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            if self._ready(self._files[1:], []):
                with contextlib.suppress(BlockingIOError):
                    data += os.read(self._files[1], min(CHUNK, count - len(data)))
        return bytes(data)

    def _ready(self, reads: Sequence[int], writes: Sequence[int]) -> bool:
        if any(select.select(reads, writes, [], LOOK)):
            return True
        self._check()
        if time.monotonic() > self._deadline:
            raise TimeoutError
        return False
