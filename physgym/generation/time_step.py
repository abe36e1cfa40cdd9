"""Time of a step, as the environments of a vector env declare it."""

from __future__ import annotations

from physgym.vector.vector_env import SocketVectorEnv


def common_time_step(envs: SocketVectorEnv) -> float | None:
    """Return the time of a step in s; None where an environment has none, or another than the others.

    Raises:
        WorkerError: What one declares is no positive number.
    """
    if not all(envs.call("has_wrapper_attr", "step_seconds")):
        return None
    found = set(envs.call("step_seconds"))
    return found.pop() if len(found) == 1 else None
