"""`SavedTraining`: the training of an agent in a checkpoint, to be continued."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from physgym.errors import CheckpointError, PhysGymError
from physgym.generator_state import generator_from
from physgym.rl.agent_checkpoint import described_agent, take_state
from physgym.rl.agent_parts import AgentParts
from physgym.training.checkpoint_files import read_state
from physgym.training.checkpoint_folders import find_checkpoint, list_checkpoints
from physgym.training.checkpoint_manifests import read_manifest
from physgym.training.history import TrainingProgress
from physgym.training.random_state import check_generators
from physgym.training.resume import UNFIT, versions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedTraining:
    """Training of an agent in a checkpoint.

    Attributes:
        path: The checkpoint.
        described: What it says of the agent.
        state: State of the training.
        tensors: Arrays of the agent.
    """

    path: Path
    described: dict[str, Any]
    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def position(self) -> Mapping[str, Any] | None:
        """Return the position in the replay; None where the agent learned from recordings alone."""
        acting = self.state.get("acting")
        found: Mapping[str, Any] | None = None if acting is None else acting["replay"]
        return found

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise CheckpointError unless it is a training with the same settings."""
        was = self.state.get("settings")
        if not isinstance(was, dict):
            raise CheckpointError(f"{self.path} is not the training of an agent")
        differing = [
            f"{name} was {was.get(name)!r}, now it is {settings[name]!r}"
            for name in settings
            if was.get(name) != settings[name]
        ]
        if differing:
            raise CheckpointError(
                f"{self.path} is of a training with other settings: {'; '.join(differing)}. Set them as they were to "
                "continue it"
            )

    def resume(self, parts: AgentParts, progress: TrainingProgress) -> None:
        """Give the parts of a training the state that they had, but for the environments.

        Raises:
            CheckpointError: It does not fit them.
        """
        state = self.state
        try:
            check_generators(state["generators"])
            take_state(parts.policy, self.described, self.tensors)
            parts.learning.load_state_dict(state["learning"])
            progress.load_state_dict(state)
            for name, generator in parts.generators.items():
                generator.bit_generator.state = generator_from(state["streams"][name]).bit_generator.state
            threads = int(state["threads"])
        except CheckpointError:
            raise
        except (PhysGymError, *UNFIT) as error:
            problem = str(error) if isinstance(error, PhysGymError) else f"{type(error).__name__} {error}"
            raise CheckpointError(f"{self.path} does not fit this training: {problem}") from error
        if threads != torch.get_num_threads():
            log.info("torch computes with %d threads, as before the interruption", threads)
            torch.set_num_threads(threads)
        if state["versions"] != versions():
            log.warning("%s was written by %s; results may differ in bits", self.path, state["versions"])
        log.info("continues %s at step %d", self.path, progress.step)


def saved_training(resume: bool | str | Path, networks: Path | None) -> SavedTraining | None:
    """Return the training to continue; None where there is none in the session yet.

    Args:
        resume: True for the last one in the session; or a path.
        networks: The folder of checkpoints in the session.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, or holds no agent.
    """
    if resume is True and (networks is None or not list_checkpoints(networks)):
        return None
    path = find_checkpoint(str(networks if resume is True else resume))
    manifest = read_manifest(path)
    described = described_agent(path, manifest)
    return SavedTraining(path, described, *read_state(path, manifest))
