"""`DonkeySimulator`: the program of a DonkeyCar simulator, started and ended by its environment."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence

from physgym.errors import ConfigError, SimulatorError
from physgym.system.children import Child

FREED = 2.0  # seconds until the port must be free: the simulator of a worker that was killed ends after it
TRIED = 0.2  # seconds between two looks whether it listens


class DonkeySimulator:
    """A running simulator; ends with this process.

    Args:
        command: The program and its arguments; ``{port}`` in an argument is the port, else ``--port PORT`` is added.
        host: Where it listens.
        port: Where it listens; it must be free.
        timeout: Seconds until it must listen.

    Raises:
        ConfigError: The command is none.
        SimulatorError: The port is taken, or the program cannot be started, ends, or does not listen in time.
    """

    def __init__(self, command: Sequence[str], host: str, port: int, timeout: float) -> None:
        if isinstance(command, str) or not command:
            raise ConfigError(f"command is a list of a program and its arguments, not {command!r}")
        end = time.monotonic() + FREED
        while _listens(host, port) and time.monotonic() < end:
            time.sleep(TRIED)
        if _listens(host, port):
            raise SimulatorError(
                f"somebody listens at {host}:{port} already, which may be the simulator of yesterday; end it, choose "
                "another port, or leave `command` out to use it"
            )
        words = [word.replace("{port}", str(port)) for word in command]
        if words == list(command):
            words += ["--port", str(port)]
        try:
            self._child = Child(words, stdin=None)
        except OSError as error:
            raise SimulatorError(f"the simulator {words[0]} cannot be started: {error}") from error
        end = time.monotonic() + timeout
        try:
            while not _listens(host, port):
                status = self._child.process.poll()
                if status is not None:
                    raise SimulatorError(f"the simulator {words[0]} ended at once, with status {status}")
                if time.monotonic() > end:
                    raise SimulatorError(
                        f"the simulator {words[0]} does not listen at {host}:{port} after {timeout:g} s; give it "
                        "longer with the environment's argument timeout (--arg timeout=SECONDS)"
                    )
                time.sleep(TRIED)
        except BaseException:
            self._child.end()
            raise

    @property
    def running(self) -> bool:
        """Return whether the program has not ended."""
        return self._child.process.poll() is None

    def end(self) -> None:
        """End the program and all that it has started; calling it again does no harm."""
        self._child.end()


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 0.5):
        return True
    return False
