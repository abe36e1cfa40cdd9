"""Ctrl-C between two steps of something, never within one; and the signals by which batch systems announce an end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, Self

# SLURM and others end jobs by TERM, announce that by USR1, USR2 or what else was asked for, and send XCPU where the
# time on a processor is over; HUP comes of a terminal that is closed
ANNOUNCING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
ENDING = (signal.SIGTERM, signal.SIGHUP, *ANNOUNCING)
INSISTING = 2.0  # seconds after which TERM again means at once; before, it is the same one sent to a group as well

_listeners: list[Callable[[], None]] = []  # of the main thread: the last one is called at an end


@contextmanager
def end_listener(listener: Callable[[], None]) -> Iterator[None]:
    """Call a function, in the main thread, if a batch system wants an end within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def kept_handlers(numbers: Iterable[int]) -> Iterator[None]:
    """Bring back the handlers of signals that foreign code replaces within the block, without Python's knowledge.

    Outside of the main thread, which alone may set them, nothing changes.

    Args:
        numbers: The signals.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # one that is not Python's cannot be brought back
                    signal.signal(number, handler)


class SignalHandler:
    """Handler of signals within a block, in place of the usual one.

    Signals that are ignored, or have a handler of the user's, stay as they are. Outside of the main thread nothing
    changes.

    Args:
        numbers: The signals.
        handler: Called with the number of the signal and the frame.
        usual: The handler that is replaced; None replaces every one, that of the user too.
    """

    def __init__(self, numbers: Iterable[int], handler: Callable[[int, FrameType | None], None], usual: Any) -> None:
        self._numbers, self._handler, self._usual = tuple(numbers), handler, usual
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                found = signal.getsignal(number)
                if found is self._usual or (self._usual is None and found not in (signal.SIG_IGN, None)):
                    self._previous[number] = signal.signal(number, self._handler)
        return self

    def __exit__(self, *args: object) -> None:
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handler:
                signal.signal(number, previous)
        self._previous.clear()


class BatchSignals:
    """Let TERM, HUP, USR1, USR2 and XCPU do the same as Ctrl-C: work is completed, saved, and ends.

    The commands of ``physgym`` install it, and exit with 128 + the number of the signal. In a program of your own::

        with BatchSignals() as signals:
            history = trainer.fit()
        if signals.received:
            sys.exit(128 + signals.received)

    A second one is part of the same end, and ignored; only TERM or HUP again, some seconds later, ends the process at
    once. Signals that are ignored, or have a handler of the user's, stay as they are. Outside of the main thread
    nothing changes. A process that is forked off ends by TERM and HUP as ever, and takes no notice of the others.

    Attributes:
        received: The signal that came first, None as long as there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since, self._process = 0.0, os.getpid()
        self._handler = SignalHandler(ENDING, self._on_signal, signal.SIG_DFL)

    def __enter__(self) -> Self:
        self._process = os.getpid()
        self._handler.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._handler.__exit__()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number not in ANNOUNCING:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            with contextlib.suppress(OSError):  # not by a stream, in which it may have come
                os.write(2, f"\n{signal.Signals(number).name}: what runs is completed and saved\n".encode())
            if not _listeners:
                raise KeyboardInterrupt
            _listeners[-1]()
        elif number not in ANNOUNCING and time.monotonic() - self._since > INSISTING:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class CommandSignals(BatchSignals):
    """The same for the command line, from its beginning: as long as it imports what it needs, nothing is to be saved.

    Until `begin` a signal, Ctrl-C included, ends the process at once, with 128 + its number.
    """

    def __init__(self) -> None:
        super().__init__()
        self._importing = True

    def __enter__(self) -> Self:
        super().__enter__()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler and self._importing:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def begin(self) -> None:
        """Note that there is something to save from now on."""
        self._importing = False
        if signal.getsignal(signal.SIGINT) == self._on_signal:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._importing and os.getpid() == self._process:
            os._exit(128 + number)  # an exception may get lost in what is imported
        super()._on_signal(number, frame)


def _is_command() -> bool:
    """Return whether the process was started as ``physgym`` or ``python -m physgym``."""
    program = sys.argv[0] if sys.argv else ""
    if (started := sys.modules.get("multiprocessing.process")) is not None and started.parent_process() is not None:
        return False  # one of its children, which has its arguments
    if program == "-m":  # as long as Python looks for the module
        return ("-m", "physgym") in itertools.pairwise(sys.orig_argv)
    return os.path.basename(program) == "physgym"  # noqa: PTH119 - pathlib takes time to import


_command = CommandSignals().__enter__() if _is_command() else None


def command() -> CommandSignals:
    """Return what watches the command line: since this module was imported, where the process is ``physgym``."""
    return _command or CommandSignals()


def outlive_announcements() -> None:
    """Ignore, in a worker process, the signals that batch systems send to all processes of a job before they end it.

    The parent hears it too, and ends its workers when it is done.
    """

    def nothing(number: int, frame: FrameType | None) -> None:
        """Do nothing; programs that a simulation starts would inherit SIG_IGN in its place."""

    if threading.current_thread() is threading.main_thread():
        for number in ANNOUNCING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, nothing)


def leave_signals_to_parent() -> None:
    """Ignore Ctrl-C, in a child process that was forked, and let signals of batch systems end it at once.

    Its parent minds them, and ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


def raise_on_ctrl_c() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt`, also in a process that has inherited to ignore it.

    Shells ignore it for what runs in the background, and Ray blocks it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class ExitSignals:
    """Context in which TERM and HUP raise `SystemExit` with 128 + their number; the second one ends the process.

    A process that is forked off ends by them as ever.

    Attributes:
        received: The signal that came, None as long as there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._process = os.getpid()
        self._handler = SignalHandler((signal.SIGTERM, signal.SIGHUP), self._on_signal, signal.SIG_DFL)

    def __enter__(self) -> Self:
        self._handler.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._handler.__exit__()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != self._process:
            signal.raise_signal(number)
        self.received = number
        raise SystemExit(128 + number)


class InterruptCounter:
    """Counts Ctrl-C while it is active, and raises nothing: what it may interrupt looks at the count between two steps.

    A batch system that wants an end counts as the first Ctrl-C; it is no reason to hurry.

    Attributes:
        count: How often it came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._handler = SignalHandler((signal.SIGINT,), self._on_signal, signal.default_int_handler)
        self._end_listener = end_listener(self._end)

    def __enter__(self) -> Self:
        self._end_listener.__enter__()
        self._handler.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._end_listener.__exit__(None, None, None)
        self._handler.__exit__()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def _end(self) -> None:
        self.count = max(1, self.count)


class SignalRelay:
    """Passes Ctrl-C and signals of batch systems on, so that this process lives to clean up.

    Args:
        send: Called with the number of the signal.

    Attributes:
        received: The last signal, None as long as there was none.
        interrupts: How often Ctrl-C came.
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self.received: int | None = None
        self.interrupts = 0
        self._send = send
        self._handler = SignalHandler((signal.SIGINT, *ENDING), self._on_signal, None)

    def __enter__(self) -> Self:
        self._handler.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._handler.__exit__()

    def check(self) -> None:
        """Raise if there was a signal.

        Raises:
            KeyboardInterrupt: It was Ctrl-C.
            SystemExit: It was one of a batch system.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            self.interrupts += 1
        self._send(number)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let Ctrl-C and signals of batch systems wait for the end of a block, however often they come.

    For a few milliseconds in a library written in C, such as HDF5, that calls Python back: it makes an error of its own
    of what a handler raises there. Outside of the main thread nothing changes.
    """
    came: list[int] = []
    try:
        with SignalRelay(came.append):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


class Interrupt:
    """Context in which Ctrl-C raises `KeyboardInterrupt` at once, except inside of a `held` block: there it waits.

    An interrupt in the middle of an optimizer's step would leave some weights updated and others not. A second Ctrl-C
    does not wait. Outside of the main thread, and where Ctrl-C is ignored, nothing changes.

    Ctrl-C may come while Python runs the callback of a weak reference or a ``__del__``, out of which no exception
    gets. So it is noted as well, and the next `held` block or `check` raises it again.

    Args:
        patient: Ctrl-C raises nothing at all, however often it comes, but is noted.

    Attributes:
        waiting: Whether Ctrl-C came.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient, self._holding = patient, False
        self._handler = SignalHandler((signal.SIGINT,), self._on_signal, signal.default_int_handler)
        self._end_listener: Any = None
        self.waiting = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._end_listener = end_listener(self._end)
            self._end_listener.__enter__()
            self._handler.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        if self._end_listener is not None:
            self._end_listener.__exit__(None, None, None)
            self._end_listener = None
        self._handler.__exit__()

    def check(self) -> None:
        """Raise a Ctrl-C that came and raised nothing so far, or nothing that got through.

        Raises:
            KeyboardInterrupt: There was one.
        """
        if self.waiting and not self._patient:
            raise KeyboardInterrupt

    def held(self) -> AbstractContextManager[None]:
        """Complete a block before an interrupt is raised.

        Raises:
            KeyboardInterrupt: Ctrl-C came inside.
        """
        return _Held(self)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        again, self.waiting = self.waiting, True
        if not self._patient and (again or not self._holding):
            raise KeyboardInterrupt

    def _end(self) -> None:
        """Note that a batch system wants an end: as the first Ctrl-C, also after other signals."""
        self.waiting = True
        if not self._patient and not self._holding:
            raise KeyboardInterrupt


class _Held:
    """Block that an interrupt leaves whole; a generator in its place would cost a small training step three calls more.

    Args:
        interrupt: Whose block it is.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def __enter__(self) -> None:
        self._interrupt.check()
        self._interrupt._holding = True

    def __exit__(self, kind: type[BaseException] | None, *args: object) -> None:
        self._interrupt._holding = False
        if kind is None:
            self._interrupt.check()
