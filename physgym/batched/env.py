"""`BatchedEnv`: a vector environment whose rows are independent simulations with samples."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym.errors import ConfigError
from physgym.feedback import Declaration
from physgym.sample import FieldKind, FieldRole
from physgym.spaces import Array

ROWS = "physgym.rows"  # key of the metadata of a vector environment, with one of the next two values
EXACT = "exact"  # a row depends on its seed, parameters and actions alone, to the bit, whatever is in other rows
ROUNDED = "rounded"  # the same up to rounding: kernels that choose by the size of the batch
BATCHED = "physgym.batched"  # key of the metadata of a row: it is one of a batch
PARAMETERS, MASK = "parameters", "reset_mask"  # options of a reset


def rows_of(metadata: Mapping[str, Any]) -> str:
    """Return how independent the rows of a vector environment are, by its metadata; empty where it does not say.

    Raises:
        ConfigError: The declaration is neither "exact" nor "rounded".
    """
    said = metadata.get(ROWS, "")
    if said not in ("", EXACT, ROUNDED):
        raise ConfigError(f'metadata[{ROWS!r}] is "{EXACT}" or "{ROUNDED}", not {said!r}')
    return str(said)


class BatchedEnv(VectorEnv[Any, Any, Any], ABC):
    """A vector environment whose rows are simulations that do not influence each other.

    Rows do not reset themselves: ``reset(seed=[...], options={"reset_mask": mask, "parameters": {...}})`` begins new
    episodes in some of them, each from a seed of its own. Where ``parameters`` are given, each is an array with a row
    for each row of the batch. A row that has ended is stepped with the others, and what it gives means nothing.

    ``infos["sample"]`` holds the fields of all rows, ``infos["rejected"]`` a text for each row, empty where the step
    has a sample. The infos of a reset have ``parameters``, where there are some.

    Attributes:
        sample_space: Fields of the sample of one row; with ``sample_roles`` and so on, as of a `physgym.Simulation`.
        parameter_space: Parameters of an episode of one row; None without any.
        step_seconds: Time of a step in s; None where that is not known.
        files_read: Files that the simulation reads, as of a `physgym.Simulation`.
        nonfinite: Whether a value that is not finite is an "error" of the step, or for the caller to decide.
    """

    sample_space: spaces.Dict
    sample_roles: ClassVar[dict[str, FieldRole]] = {}
    sample_units: ClassVar[dict[str, str]] = {}
    sample_dimensions: ClassVar[dict[str, int]] = {}
    sample_kinds: ClassVar[dict[str, FieldKind]] = {}
    sample_masks: ClassVar[dict[str, str]] = {}
    sample_feedback: ClassVar[Declaration] = {}
    parameter_space: spaces.Dict | None = None
    parameter_units: ClassVar[dict[str, str]] = {}
    step_seconds: float | None = None
    files_read: Sequence[str | os.PathLike[str]] = ()
    nonfinite: Literal["error", "reject", "allow"] = "error"
    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, ROWS: EXACT}  # noqa: RUF012 - as VectorEnv

    @abstractmethod
    def draw_actions(self, seeds: Array, steps: Array) -> Any:
        """Return random actions of all rows, for data generation: a function of the seed and the step of each row.

        Args:
            seeds: Of the episodes, shape (num_envs,), int64.
            steps: Steps of the episodes, from 0, shape (num_envs,), int64.
        """

    def constants(self) -> Mapping[str, Any]:
        """Return the values that a dataset stores once, as of a `physgym.Simulation`."""
        return {}
