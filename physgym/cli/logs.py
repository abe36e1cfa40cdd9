"""Progress, notes and the log of commands: --verbose, --quiet and --log-file, which all long commands have.

Results are on stdout, where nothing of this is. The loggers are those below "physgym"; those of other packages stay as
they are.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from physgym._version import __version__
from physgym.cli.parameters import parameters_of, with_parameters, with_values
from physgym.errors import ConfigError, PhysGymError

log = logging.getLogger(__name__)
LOGGER = logging.getLogger("physgym")
SHOWN_ALREADY = ("physgym.progress", __name__)  # loggers whose lines are on stderr anyway, or are about the log


@dataclass(frozen=True)
class Saying:
    """Values of the options that say how much a command says."""

    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print internal events to stderr, too.")] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress on stderr; results, warnings and errors stay.")
    ] = False
    log_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append all messages, with times, to a file.", show_default=False),
    ] = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Say as much as is wanted within the block.

        Raises:
            ConfigError: The options contradict each other, or the file cannot be written.
        """
        if self.verbose and self.quiet:
            raise ConfigError("--verbose and --quiet contradict each other; give one of them")
        with ExitStack() as stack:
            if self.quiet:
                from physgym.progress import quiet

                stack.enter_context(quiet())
            handlers: list[logging.Handler] = []
            if self.log_file is not None:
                handlers.append(_LogFile(self.log_file))
            if self.verbose or handlers:
                handlers.append(_OnTerminal(logging.DEBUG if self.verbose else logging.WARNING))
                stack.enter_context(_handled(handlers))
            if self.log_file is not None:
                stack.enter_context(_written_warnings())
                stack.enter_context(_written_end())
            yield


def with_saying(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how much it says."""

    @functools.wraps(command)
    def called(*, saying: Saying, **arguments: Any) -> Any:
        with saying.applied():
            return command(**arguments)

    return with_values(Saying, "saying")(with_parameters(called, parameters_of(command).values()))


class _LogFile(logging.FileHandler):
    """The end of a file; where it cannot be written any more, that is said once, and the command continues."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, "a", "utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"--log-file {path}: cannot write there: {error.strerror or error}") from error
        form = "%(asctime)s.%(msecs)03d %(levelname)-7s %(process)d %(name)s: %(message)s"
        self.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S"))
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the disk refuses."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed and sys.stderr is not None:
            self._failed = True
            sys.stderr.write(f"--log-file {self.baseFilename}: {error.strerror or error}; lines are missing there\n")

    def close(self) -> None:
        """Close the file; what the disk has refused is given up."""
        with suppress(OSError):
            super().close()


class _OnTerminal(logging.Handler):
    """Lines on stderr, which a progress bar leaves room for."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what is on stderr anyway."""
        return record.name not in SHOWN_ALREADY

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        from tqdm import tqdm

        with suppress(OSError, ValueError):  # closed
            if sys.stderr is not None:
                tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _handled(handlers: list[logging.Handler]) -> Iterator[None]:
    """Give physgym's loggers handlers within the block, and let them log everything."""
    level = LOGGER.level
    LOGGER.setLevel(logging.DEBUG)
    for handler in handlers:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()


@contextmanager
def _written_warnings() -> Iterator[None]:
    """Log the warnings that are shown within the block; they are shown as before."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        before(message, category, filename, lineno, file, line)
        log.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def _written_end() -> Iterator[None]:
    """Log the command, and how it ends."""
    start = time.monotonic()
    log.info("%s", shlex.join(["physgym", *sys.argv[1:]]))
    log.info(
        "physgym %s, Python %s, %s, process %d in %s",
        *(__version__, platform.python_version(), platform.node(), os.getpid(), Path.cwd()),
    )

    def ends(level: int, how: str) -> None:
        log.log(level, "%s after %.1f s", how, time.monotonic() - start)

    try:
        yield
    except PhysGymError as error:
        log.error("%s", error)
        ends(logging.ERROR, "ended by this error")
        raise
    except KeyboardInterrupt as error:
        ends(logging.WARNING, f"{str(error) or 'interrupted'}:")
        raise
    except typer.Exit as error:
        ends(logging.INFO if not error.exit_code else logging.WARNING, f"ended with exit status {error.exit_code}")
        raise
    except SystemExit as error:
        ends(logging.INFO if not error.code else logging.WARNING, f"ended with exit status {error.code or 0}")
        raise
    except BaseException:
        log.exception("a fault of physgym, of a package or of your code")
        ends(logging.CRITICAL, "ended by it")
        raise
    ends(logging.INFO, "done")
