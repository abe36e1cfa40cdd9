"""The environments of a vector env without workers, in its own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gymnasium.vector import AutoresetMode

from physgym.errors import SharedMachine, SharedProcess
from physgym.placement import EnvFactory
from physgym.protocol.messages import Message
from physgym.vector.remote_errors import remote_error
from physgym.worker.env_group import Ask, EnvGroup
from physgym.worker.failures import RequestFailed
from physgym.worker.main import build_all
from physgym.worker.scene_offers import Offer


def no_parts(part: Message) -> None:
    """Take a part of the answer to a step of all environments, which has none."""
    raise AssertionError(f"a step of all environments is answered in parts: {part}")


def local_group(
    factories: Sequence[EnvFactory], mode: AutoresetMode, ask: Ask, look: Callable[[], bool], offer: Offer
) -> EnvGroup:
    """Return environments of this process.

    Args:
        factories: One callable for each.
        mode: What happens when an episode ends.
        ask: Answers a prediction for which one asks.
        look: Asked now and then within a rollout; returns whether it is to end.
        offer: Takes the frames of environments that are watched.

    Raises:
        WorkerError: A constructor raised.
        SharedProcess: They must not share a process.
        SharedMachine: There is one on this machine already.
    """
    try:
        envs, folders, batch = build_all(factories, 0, len(factories), local=True)
    except RequestFailed as failed:
        error = failed.__cause__ or failed
        if isinstance(error, (SharedProcess, SharedMachine)):
            raise error from None
        raise remote_error(failed.message(), failed.env, f"environment {failed.env}") from error
    return EnvGroup(envs, mode, ask, closing=look, offer=offer, folders=folders, local=True, batch=batch)
