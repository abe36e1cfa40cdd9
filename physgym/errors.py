"""The exceptions that physgym raises on purpose; catch `PhysGymError` for all of them."""

from __future__ import annotations


class PhysGymError(Exception):
    """Base class of every error that physgym raises on purpose."""


class ProtocolError(PhysGymError):
    """A peer sent something that the wire protocol does not allow at this point."""


class WorkerError(PhysGymError):
    """A worker process died, hung, or an environment in it raised.

    Attributes:
        remote_traceback: The traceback inside the worker, empty if there was none (death, time-out).
        env_indices: The environments concerned.
    """

    def __init__(self, message: str, *, remote_traceback: str = "", env_indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback
        self.env_indices = env_indices


class SampleError(PhysGymError):
    """A sample lacks a field, has one too many, or one of a wrong shape, dtype or value."""


class DatasetError(PhysGymError):
    """A dataset cannot be created, read, continued, or does not fit what is asked of it."""


class ConfigError(PhysGymError):
    """A configuration or argument is wrong; the text names the key and the remedy."""


class CheckpointError(PhysGymError):
    """A checkpoint is missing, incomplete, or does not fit the network."""


class DivergedError(PhysGymError):
    """A training loss was not finite."""


class RejectSample(PhysGymError):
    """Raised inside a simulation step: this step has no valid sample (a solver that did not converge)."""
