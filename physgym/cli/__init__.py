"""The command line, ``physgym COMMAND``; see ``physgym --help``.

Every expected fault is one message and exit code 2. Ctrl-C ends with 130, and a signal of a batch system (TERM, HUP,
USR1, USR2, XCPU), which does the same, with 128 + its number.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import sys
import warnings
from pathlib import Path

# each module adds its commands
from physgym.cli import (  # noqa: F401
    comparing,
    curves,
    data,
    doctor,
    driving,
    evaluation,
    machines,
    new,
    reports,
    running,
    search,
    serving,
    sessions,
    simulators,
    submission,
    surgery,
    tools,
    training,
    viewing,
    watching,
)
from physgym.cli.app import INTERRUPTED, USAGE, app
from physgym.errors import PhysGymError
from physgym.interrupt import command

__all__ = ["app", "main"]

PACKAGE = Path(__file__).parents[1]
_warning_with_place = warnings.formatwarning


def main() -> None:
    """Run the command line; the entry point of the console script."""
    atexit.register(gc.freeze)  # Python looks through all of torch for cycles when it ends, which takes a second
    signals = command()
    try:
        with signals:
            signals.begin()
            _prepare()
            _run()
    except KeyboardInterrupt:  # before or after all that minds it
        _forget_ctrl_c()
        sys.exit(INTERRUPTED if signals.received is None else 128 + signals.received)
    except SystemExit as end:
        _forget_ctrl_c()
        if signals.received is not None and end.code not in (0, None):
            sys.exit(128 + signals.received)
        raise


def _forget_ctrl_c() -> None:
    """Let the process end with its exit code, although a Ctrl-C got out of code that was made of a text.

    Python ends by the signal itself after that (bpo-1054041), as of a `dataclasses.dataclass` of an import, unless code
    is made of another text.
    """
    exec("")  # noqa: S102 - of nothing


def _prepare() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as under some schedulers
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # until the end
    warnings.formatwarning = _plain_warning
    with contextlib.suppress(FileNotFoundError):  # the folder may have been deleted
        sys.path.insert(0, str(Path.cwd()))  # "module:id" means a module in the user's working folder
    sys.argv[1:] = [_at_home(argument) for argument in sys.argv[1:]]
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _say_nothing_of_ctrl_c


def _plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return the text of a warning; of physgym's own, which users can act on, without the place in the code."""
    if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
        return f"warning: {message}\n"
    return _warning_with_place(message, category, filename, lineno, line)


def _say_nothing_of_ctrl_c(unraisable: sys.UnraisableHookArgs) -> None:
    """Print what Python could not raise, but for Ctrl-C in the callback of a weak reference or a ``__del__``.

    `physgym.interrupt.Interrupt` has noted that one, and the command ends by it.
    """
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _run() -> None:
    try:
        app()
    except PhysGymError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)


def _at_home(argument: str) -> str:
    """Return an argument with ``~`` expanded in a path behind ``=``, which shells leave to programs."""
    option, is_, path = argument.partition("=")
    if is_ and (path == "~" or path.startswith("~/")):
        return f"{option}={Path(path).expanduser()}"
    return str(Path(argument).expanduser()) if argument == "~" or argument.startswith("~/") else argument
