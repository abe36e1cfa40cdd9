"""`Declarations`: what environments say of themselves, which a dataset stores once."""

from __future__ import annotations

from functools import cached_property

from physgym.generation.constants import common_constants
from physgym.generation.time_step import common_time_step
from physgym.scene.declared import kept_scene
from physgym.spaces import Array
from physgym.vector.vector_env import SocketVectorEnv


class Declarations:
    """The declarations of environments, each asked for once: the worker that answered may be gone later.

    Args:
        envs: The environments.

    Attributes:
        envs: As the argument.
    """

    def __init__(self, envs: SocketVectorEnv) -> None:
        self.envs = envs

    @cached_property
    def constants(self) -> dict[str, Array]:
        """Return the arrays that the simulation gives once."""
        return common_constants(self.envs)

    @cached_property
    def scene(self) -> str | None:
        """Return the scene that the simulation declares, see `physgym.scene.declared`; None where it declares none."""
        return kept_scene(self.envs.scene())

    @cached_property
    def time_step(self) -> float | None:
        """Return the time of a step in s, as the simulation declares it; None where it does not."""
        return common_time_step(self.envs)

    def ask(self) -> None:
        """Ask for all of them now.

        Raises:
            WorkerLost: The worker that has the environments is gone.
        """
        for value in (self.constants, self.scene, self.time_step):
            del value
