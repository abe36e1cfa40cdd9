"""The exceptions that physgym raises on purpose; catch `PhysGymError` for all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError


class PhysGymError(Exception):
    """Base class of every error that physgym raises on purpose."""


class ProtocolError(PhysGymError):
    """A peer sent something that the wire protocol does not allow at this point.

    Attributes:
        messages: Messages that arrived complete just before it: the ledger has noted them, so they must not get lost.
    """

    messages: Sequence[Any] = ()


def first_argument(error: BaseException) -> str:
    """Return the text of an exception, also where its class changes it."""
    return str(error.args[0]) if error.args else ""


class WorkerError(PhysGymError):
    """A worker process died, hung, or an environment in it raised.

    What an environment raised is an instance of the original class too, where that is known in this process: both
    ``except WorkerError`` and ``except ValueError`` catch a `ValueError` of an environment.

    Attributes:
        remote_traceback: The traceback inside the worker, empty if there was none (death, time-out).
        env_indices: The environments concerned.
    """

    def __init__(self, message: str, *, remote_traceback: str = "", env_indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback
        self.env_indices = env_indices


class WorkerLost(WorkerError):
    """A worker has died, its connection has broken, or it has not answered in time; another one may do its work."""


class ClosedError(WorkerError, ClosedEnvironmentError):
    """The vector env is closed."""


class SampleError(PhysGymError):
    """A sample lacks a field, has one too many, or one of a wrong shape, dtype or value.

    Attributes:
        row: Row of a batched simulator that gave it; None where that is not known.
    """

    row: int | None = None


class DatasetError(PhysGymError):
    """A dataset cannot be created, read, continued, or does not fit what is asked of it."""


class ConfigError(PhysGymError):
    """A configuration or argument is wrong; the text names the key and the remedy."""


class NotAllowed(ConfigError):
    """A worker on another machine does not do what its parent wants; its own command line says what it does."""


class ChangedCode(ConfigError, DatasetError):
    """The code of a simulation is not that with which a dataset or session was begun; the text names both."""


class WrongValue(ConfigError, ValueError):
    """An argument has the right type and a wrong value."""


class WrongType(ConfigError, TypeError):
    """An argument has a wrong type."""


class WrongKey(ConfigError, KeyError):
    """There is nothing of a name that was asked for; the text names what there is."""

    def __str__(self) -> str:  # KeyError would show the text in quotation marks
        return first_argument(self)


class SceneError(ConfigError):
    """An object of a scene cannot be drawn as it is given; the text names the object and the environment."""


class UnequalSpaces(ConfigError, RuntimeError):
    """The environments of one vector env do not fit together."""


class SharedProcess(ConfigError):
    """Environments that declare ``physgym.single`` in their metadata are to share a process."""


class SharedMachine(ConfigError):
    """Environments of which a machine may hold one alone, by their metadata, are to share one."""


class WaitTimeout(PhysGymError, TimeoutError, multiprocessing.TimeoutError):
    """The time that a caller was ready to wait is over; nothing is lost, the call can be waited for again."""


class PendingCallError(ConfigError, AlreadyPendingCallError):
    """A call was begun while the answers to an earlier one are still to come."""

    def __init__(self, message: str, name: str = "") -> None:
        Exception.__init__(self, message)
        self.name = name


class NoPendingCallError(ConfigError, NoAsyncCallError):
    """The answers to a call were asked for that had not been begun."""

    def __init__(self, message: str, name: str = "") -> None:
        Exception.__init__(self, message)
        self.name = name


class CheckpointError(PhysGymError):
    """A checkpoint is missing, incomplete, or does not fit the network."""


class StorageError(DatasetError, CheckpointError):
    """A dataset or checkpoint cannot be brought to S3 or from there; what was to be stored is still on the disk."""


class SimulatorError(PhysGymError):
    """A simulator that is a program of its own is not there, has ended, does not answer, or answers something else."""


class DivergedError(PhysGymError):
    """A training loss was not finite."""


@contextlib.contextmanager
def needs(package: str, extra: str, what: str = "this") -> Iterator[None]:
    """Make a message of the lack of an optional package, inside.

    Args:
        package: That is imported.
        extra: Of physgym, which installs it.
        what: That needs it.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigError(f"{what} needs {package}: pip install 'physgym[{extra}]'") from error


class RejectSample(PhysGymError):
    """Raised inside a simulation step: this step has no valid sample (a solver that did not converge)."""
