"""`LineProgram`: a program that stays, reads lines on its stdin, and answers each by a line on its stdout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgym.adapters.command_outputs import number_in
from physgym.adapters.command_program import LOOKED_BACK, STDERR, program_file, quoted, reject_pattern
from physgym.casting import as_array
from physgym.checks import integer, mapping, positive
from physgym.errors import RejectSample, SimulatorError, WrongValue
from physgym.files import absolute
from physgym.spaces import Array
from physgym.system.children import Child, ending

LOOK = 100  # ms between two looks whether the program has ended: others may hold its stdout open
QUIET = 100  # ms after the first answer in which no other line may come
END = 2.0  # seconds that a program has to end by itself after the end of its stdin
CHUNK = 1 << 16  # bytes that are read at once
LONGEST_LINE = 1 << 26  # bytes of an answer
LARGEST_ERRORS = 1 << 24  # bytes of stderr that are kept from one start to the next
LONGEST_SHOWN = 200  # characters of a line in an error
END_OF_LINE = b"\n"


class LineProgram:
    """A program that answers each line on its stdin by one line on its stdout, for as long as it runs.

    An environment makes one in its constructor, calls `start` in ``begin``, `ask` or `ask_numbers` wherever it needs an
    answer, and `close` in ``close``. The program ends with the environment, and with this process, also where that is
    killed. An error ends the program, and only the next `start` starts it again: no answer comes from a program that
    does not know the state.

    Args:
        command: The program and its arguments; a first word that ends in ``.py`` is run by this Python.
        timeout: Seconds for an answer; the first one includes the start.
        reject: A pattern; an answer in which it is found says that the step has no sample.
        greeting: How many lines the program prints when it starts, before it is asked; nobody reads what is in them.
        variables: Variables of the program's environment, besides those of this process.
        folder: Its working folder; by default the present one.

    Attributes:
        files_read: The program, and those of its arguments that are files, for the attribute of a simulation.

    Raises:
        ConfigError: An argument is wrong, or the program is not there.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout: float = 60.0,
        reject: str = "",
        greeting: int = 0,
        variables: Mapping[str, str] | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        file = program_file("command", command)
        own = mapping("variables", variables, "{OMP_NUM_THREADS: 1}")
        where = absolute("." if folder is None else folder)
        self.files_read: list[str | os.PathLike[str]] = [file, *_files(command[1:], where)]
        self._words = [*([sys.executable] if file.endswith(".py") else []), file, *command[1:]]
        self._options = {"environment": {**os.environ, **{key: str(value) for key, value in own.items()}}, "cwd": where}
        self._name, self._timeout, self._reject = Path(file).name, positive("timeout", timeout), reject_pattern(reject)
        self._greeting = integer("greeting", greeting, 0)
        self._running: RunningLines | None = None

    def start(self) -> None:
        """Start the program, unless it runs.

        Raises:
            SimulatorError: It cannot be started, or does not greet.
        """
        if self._running is None or self._running.ended:
            self.close()
            self._running = RunningLines(self._name, self._words, self._options)
            with self._ended_by_errors():
                for _ in range(self._greeting):
                    self._running.receive("its greeting", self._timeout)
        self._running.forget_errors()

    def ask(self, *words: Any) -> str:
        """Return the line that the program answers to a line.

        Args:
            *words: Of the line: texts, numbers and arrays of them. Blanks separate them; numbers have all their digits.

        Raises:
            RejectSample: ``reject`` is found in the answer; the program continues.
            SimulatorError: The program does not run, or ends before it has answered. The answer does not come in time,
                or more lines come than were asked for.
        """
        if self._running is None:
            raise SimulatorError(f"{self._name} does not run: call start() in begin, after an error too")
        request = " ".join(_text(word) for word in words)
        with self._ended_by_errors():
            answer = self._running.ask(request, self._timeout)
        if self._reject is not None and (found := self._reject.search(answer)):
            raise RejectSample(f"{self._name}: {found[0].strip()}")
        return answer

    def ask_numbers(self, *words: Any, count: int) -> Array:
        """Return the numbers that the program answers to a line, shape (count,), float64.

        Args:
            *words: Of the line, as in `ask`.
            count: How many numbers the answer must have, with blanks between.

        Raises:
            RejectSample: As in `ask`.
            SimulatorError: As in `ask`; or the answer has anything but so many numbers.
        """
        answer = self.ask(*words)
        said = f"the answer {_quoted(answer)} of {self._name}"
        with self._ended_by_errors():
            numbers = [number_in(cell, said) for cell in answer.split()]
            if len(numbers) != count:
                raise SimulatorError(f"{said} has {len(numbers)} numbers, and {count} are wanted")
        return np.array(numbers, np.float64)

    def close(self) -> None:
        """End the program, which finds the end of its stdin; calling it again does no harm."""
        running, self._running = self._running, None
        if running is not None:
            running.end(END)

    @contextlib.contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """End the program where the block fails, by Ctrl-C too: its answer would be taken for the next one."""
        try:
            yield
        except BaseException:
            running, self._running = self._running, None
            if running is not None:
                running.end(0.0)
            raise


class RunningLines:
    """A program as it runs, with the pipes to its stdin and from its stdout; its stderr goes to a file without a name.

    Args:
        name: Of the program, for errors.
        words: The program and its arguments.
        options: Of `Child`.

    Raises:
        SimulatorError: It cannot be started.
    """

    def __init__(self, name: str, words: Sequence[str], options: Mapping[str, Any]) -> None:
        self._name, self._unread, self._first = name, bytearray(), True
        with contextlib.ExitStack() as closing:
            self._errors = closing.enter_context(tempfile.TemporaryFile(buffering=0)).fileno()
            # to append: what is cut off at a start stays cut off
            fcntl.fcntl(self._errors, fcntl.F_SETFL, fcntl.fcntl(self._errors, fcntl.F_GETFL) | os.O_APPEND)
            try:
                pipe = subprocess.PIPE
                self._child = Child(words, stdin=pipe, stdout=pipe, stderr=self._errors, bufsize=0, **options)
            except (OSError, ValueError) as error:  # the latter of words with a null character
                raise SimulatorError(f"{name} cannot be started: {error}") from error
            closing.enter_context(self._child)
            process = self._child.process
            assert process.stdin is not None
            assert process.stdout is not None
            self._requests, self._answers = process.stdin.fileno(), process.stdout.fileno()
            os.set_blocking(self._requests, False)
            os.set_blocking(self._answers, False)
            self._close = weakref.finalize(self, closing.pop_all().close)  # also where nobody does it

    @property
    def ended(self) -> bool:
        """Return whether the program has ended."""
        return self._child.process.poll() is not None

    def ask(self, request: str, timeout: float) -> str:
        """Send a line, and return the one that comes; raises as `LineProgram.ask` does."""
        wanted = f"the answer to {_quoted(request)}"
        if self._read():
            self._refuse_surplus(wanted)
        answer = self.receive(wanted, timeout, request.encode() + END_OF_LINE)
        if self._first:  # a program that greets would be one answer late for ever
            self._wait(QUIET)
            self._read()
            self._first = False
        self._refuse_surplus(wanted)
        return answer

    def receive(self, wanted: str, timeout: float, request: bytes = b"") -> str:
        """Return the next line that the program prints.

        Args:
            wanted: Which one it is, for errors.
            timeout: Seconds until it must be there.
            request: What is sent for it.

        Raises:
            SimulatorError: It does not come.
        """
        deadline, left = time.monotonic() + timeout, memoryview(request)
        while left or END_OF_LINE not in self._unread:
            self._wait(LOOK, writing=bool(left))
            left = self._write(left)
            ended = self.ended  # before the last look at what it has printed
            goes_on = self._read()
            if END_OF_LINE not in self._unread and (ended or not goes_on):
                raise self._death(wanted)
            if time.monotonic() > deadline and (left or END_OF_LINE not in self._unread):
                raise self._late(wanted, timeout)
        line, _, self._unread = self._unread.partition(END_OF_LINE)
        return line.decode(errors="replace").rstrip("\r")

    def _wait(self, milliseconds: int, *, writing: bool = False) -> None:
        """Wait until something can be read, or written."""
        poll = select.poll()  # which takes descriptors of any number
        poll.register(self._answers, select.POLLIN)
        if writing:
            poll.register(self._requests, select.POLLOUT)
        poll.poll(milliseconds)

    def _write(self, left: memoryview) -> memoryview:
        """Write what the pipe takes now, and return the rest; nothing where the program reads no more."""
        try:
            return left[os.write(self._requests, left) :] if left else left
        except BlockingIOError:
            return left
        except OSError:  # it has ended, or closed its stdin; it may have answered all the same
            return left[:0]

    def _read(self) -> bool:
        """Read what there is now; return False where there will be no more."""
        with contextlib.suppress(BlockingIOError):
            while len(self._unread) <= LONGEST_LINE:
                if not (data := os.read(self._answers, CHUNK)):
                    return False
                self._unread += data
            raise SimulatorError(f"{self._name} printed more than {LONGEST_LINE} bytes in place of a line")
        return True

    def _refuse_surplus(self, wanted: str) -> None:
        if self._unread:
            raise SimulatorError(
                f"{self._name} printed {_quoted(self._unread)} besides {wanted}. It must print one line for each that "
                "it reads, and everything else to stderr; for lines at its start, give LineProgram their number as "
                "greeting"
            )

    def _death(self, wanted: str) -> SimulatorError:
        try:
            how = ending(self._child.process.wait(END))
        except subprocess.TimeoutExpired:
            how = "closed its stdout"
        return SimulatorError(f"{self._name} {how} before {wanted}{self._last_words()}")

    def _late(self, wanted: str, timeout: float) -> SimulatorError:
        text = f"{self._name} did not print {wanted} within {timeout:g} s and was ended{self._last_words()}"
        if not self._unread:
            text += "\nIt must flush stdout after each line: std::endl, fflush(stdout), print(..., flush=True)."
        return SimulatorError(f"{text}\nIf it takes longer, give LineProgram a larger timeout.")

    def _last_words(self) -> str:
        """Return what it printed last: a line without an end, and lines on stderr."""
        size = os.fstat(self._errors).st_size
        last = os.pread(self._errors, LOOKED_BACK, max(0, size - LOOKED_BACK)).decode(errors="replace")
        begun = f"; it had printed {_quoted(self._unread)} without the end of a line" if self._unread else ""
        return begun + (quoted(STDERR, last) or f"; it printed nothing to {STDERR}")

    def forget_errors(self) -> None:
        """Cut off what the program printed to stderr, where that is much."""
        if os.fstat(self._errors).st_size > LARGEST_ERRORS:
            os.ftruncate(self._errors, 0)

    def end(self, patience: float) -> None:
        """End the program, and all that it has started.

        Args:
            patience: Seconds that it gets to end by itself.
        """
        process = self._child.process
        if patience and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        self._close()


def _files(words: Sequence[str], folder: Path) -> list[Path]:
    """Return the files that words of a command name, by their path in a folder or by an absolute one."""
    found = []
    for word in words:
        with contextlib.suppress(OSError, ValueError):  # what is no name of a file, such as a long text
            found += [folder / word] if (folder / word).is_file() else []
    return found


def _text(word: Any) -> str:
    """Return a word of a line: a text, or numbers with all their digits."""
    if isinstance(word, str):
        if {*word} & {*"\n\r\0"}:
            raise WrongValue(f"{word!r} holds more than a line")
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise WrongValue(f"{word!r} holds what UTF-8 cannot say, in which lines are sent") from error
        return word
    array = as_array(word)
    if array.dtype.kind not in "biuf":
        raise WrongValue(f"a line has texts and numbers, not {word!r}")
    numbers = array.astype({"b": np.int64, "f": np.float64}.get(array.dtype.kind, array.dtype))
    return " ".join(map(repr, numbers.ravel().tolist()))


def _quoted(text: str | bytearray) -> str:
    """Return a line for an error, cut where it is long."""
    shown = text if isinstance(text, str) else text.decode(errors="replace")
    return repr(shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}...")
