"""The spaces of a vector env, from what its workers say of their environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
from gymnasium import spaces
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from physgym import placement
from physgym import spaces as walk
from physgym.code.env_description import FIXED
from physgym.errors import UnequalSpaces, WorkerError, WrongType, WrongValue
from physgym.vector.alike import difference, differing
from physgym.vector.fleet import WorkerPool
from physgym.worker.folders import Folder
from physgym.worker.variants import ByEpisode

ObservationMode: TypeAlias = str | tuple[spaces.Space[Any], spaces.Space[Any]]


@dataclass(frozen=True)
class BatchedSpaces:
    """Spaces of one environment and of all of them.

    Attributes:
        single_observation_space: Of one.
        single_action_space: Of one.
        observation_space: Of all.
        action_space: Of all.
    """

    single_observation_space: spaces.Space[Any]
    single_action_space: spaces.Space[Any]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]


def batched_spaces(
    fleet: WorkerPool, factories: Sequence[Callable[[], gymnasium.Env[Any, Any]]], mode: ObservationMode
) -> BatchedSpaces:
    """Return the spaces of the environments of a fleet.

    Args:
        fleet: The workers, which are ready.
        factories: One callable per environment.
        mode: The argument ``observation_mode`` of a vector env.

    Raises:
        UnequalSpaces: The environments do not fit together.
        WorkerError: Workers have been given other arguments.
        WrongType: A pair as mode does not hold spaces.
        WrongValue: There is no such mode.
    """
    agreed = fleet.agreement
    observation_space, action_space = agreed.observation_space, agreed.action_space
    if walk.is_custom(fleet.description["observation_space"]) or walk.is_custom(fleet.description["action_space"]):
        # a space of the user's own class cannot be described on the wire; an environment of ours has it, which gets a
        # placement after the workers' own, whose ports are taken
        with Folder(), placement.at(len(factories), len(factories) + 1):
            env = factories[0]()
            observation_space, action_space = env.observation_space, env.action_space
            env.close()
    observed = _observation_spaces(fleet, isinstance(factories[0], ByEpisode))
    observation_space, observations = _batched(observed, observation_space, mode)
    return BatchedSpaces(observation_space, action_space, observations, batch_space(action_space, len(factories)))


def _observation_spaces(fleet: WorkerPool, of_one_dataset: bool) -> list[Any]:
    """Return the description of the observation space of every environment.

    Raises:
        UnequalSpaces: The environments differ in what has to be equal.
        WorkerError: Workers have been given other arguments (--arg).
    """
    first, observed = fleet.description, list[Any]()
    for worker in fleet.workers:
        assert worker.description is not None
        description = worker.description
        for key in ("action_space", "sample_fields", "parameter_space", *(["sample_space"] if of_one_dataset else [])):
            if description[key] != first[key]:
                raise UnequalSpaces(
                    f"{key} of {worker} is {description[key]}, that of environment 0 is {first[key]}; "
                    "environments of one vector env need equal spaces"
                )
        for name in differing(description, first, [FIXED]):
            raise WorkerError(
                f"{worker}: its environments have {difference(description, first, name)} than that of environment 0"
            )
        observed += description["observation_spaces"] or [description["observation_space"]] * len(worker.envs)
    return observed


def _batched(
    observed: list[Any], single: spaces.Space[Any], mode: ObservationMode
) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the observation spaces of one environment and of all."""
    batched = None
    if isinstance(mode, tuple) and len(mode) == 2:
        if not all(isinstance(space, spaces.Space) for space in mode):
            raise WrongType(f"observation_mode must be a pair of spaces, not {mode!r}")
        batched, single = mode
    elif mode not in ("same", "different"):
        raise WrongValue(
            "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch observation "
            f"space, actual got {mode}"
        )
    if batched is None and all(description == observed[0] for description in observed):
        return single, batch_space(single, len(observed))
    singles = [walk.from_json(description) for description in observed]
    for index, other in enumerate(singles):
        if batched is None and mode == "same" and other != singles[0]:
            raise UnequalSpaces(
                "observation_mode='same' but the sub-environments observation spaces are not equivalent. "
                f"{singles[0]} is that of environment 0, {other} that of environment {index}. If this is intentional, "
                "use `observation_mode='different'` instead."
            )
        if walk.leaves(other) != walk.leaves(single):
            raise UnequalSpaces(
                f"the observation space of environment {index}, {other}, has another shape or dtype than {single}; "
                "environments of one vector env need equal shapes"
            )
    return single, batch_differing_spaces(singles) if batched is None else batched
