"""Checkpoints of agents: all that is needed to act, and to continue with the training to the same result.

The files are those of `physgym.training.checkpoint_files`: the weights and all other arrays of the agent are in
``network.safetensors``, what the training is in ``training.json`` and ``training.safetensors``. The entry ``agent`` of
the manifest says how the agent is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from physgym import spaces as walk
from physgym.data.recordings import ACTION, OBSERVATION
from physgym.errors import CheckpointError, ConfigError
from physgym.rl.agent import agent_class
from physgym.rl.agent_policy import AgentPolicy
from physgym.rl.frame_stacks import FrameStacks
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.running_normalization import RunningNormalization
from physgym.rl.transition_log import Columns, transition_fields
from physgym.storage.location import Location
from physgym.training.checkpoint_files import write_checkpoint
from physgym.training.checkpoint_folders import delete_checkpoint, delete_leftovers, find_checkpoint, list_checkpoints
from physgym.training.checkpoint_manifests import DAMAGE, INCOMPLETE, WEIGHTS, check_files, read_manifest
from physgym.training.checkpointing import Lock
from physgym.training.state_codec import decode, encode

AGENT = "agent"  # entry of the manifest


def save_agent(path: Path, policy: AgentPolicy, training: Mapping[str, Any] | None = None, **progress: Any) -> Path:
    """Write a checkpoint of an agent; one that stands there is replaced.

    Args:
        path: The directory to make.
        policy: The agent, with what is around it.
        training: The state of the training, to continue it.
        progress: Further entries of the manifest, JSON data.

    Returns:
        The path.

    Raises:
        CheckpointError: A state is no data, or the disk refuses.
    """
    agent, normalization = policy.agent, policy.normalization
    normalized = None if normalization is None else normalization.state_dict()
    tree, tensors = encode({"agent": agent.state_dict(), "normalization": normalized}, AGENT)
    fields = transition_fields(Columns(OBSERVATION, policy.observation_space), Columns(ACTION, policy.action_space), {})
    content = {
        "network": {"name": agent.name or type(agent).__name__, "config": agent.config},
        "transforms": {"name": "", "config": {}},
        "inputs": [name for name in fields if name.partition("/")[0] == OBSERVATION],
        "outputs": [name for name in fields if name.partition("/")[0] == ACTION],
        "fields": fields.to_json(),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        AGENT: {
            "class": agent.name or f"{type(agent).__module__}:{type(agent).__qualname__}",
            "config": agent.config,
            "state": tree,
            "preprocessing": policy.preprocessing.config,
            "stack": policy.stack,
            "spaces": {
                OBSERVATION: walk.to_json(policy.observation_space),
                ACTION: walk.to_json(policy.action_space),
            },
            "normalization": None if normalization is None else normalization.config,
        },
    }
    write_checkpoint(path, content, tensors, training, progress)
    return path


def load_agent(path: str | Path | Location, which: str | int = "last", *, device: str | None = None) -> AgentPolicy:
    """Return the agent in a checkpoint, for acting.

    Args:
        path: A checkpoint, a folder of checkpoints, or a session; on the disk, or ``s3://bucket/prefix``.
        which: Which one of a folder: "last", "best", the number of a record, or a name.
        device: Where it computes; by default as it was trained.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, or holds no agent.
        ConfigError: The agent cannot be made here.
    """
    found = find_checkpoint(path, which)
    manifest = read_manifest(found)
    described = described_agent(found, manifest)
    try:
        check_files(found, manifest["files"])
        tensors = load_file(found / WEIGHTS)
        seen, chosen = (walk.from_json(described["spaces"][name]) for name in (OBSERVATION, ACTION))
        preprocessing, stack = Preprocessing(described["preprocessing"]), int(described["stack"])
        config = dict(described["config"]) | ({} if device is None else {"device": device})
        agent = agent_class(str(described["class"]))(FrameStacks(stack, 1).space(seen), chosen, **config)
        normalization = None
        if described["normalization"] is not None:
            normalization = RunningNormalization(seen, 1, **described["normalization"])
            normalization.frozen = True
        policy = AgentPolicy(agent, seen, chosen, preprocessing=preprocessing, stack=stack, normalization=normalization)
        take_state(policy, described, tensors)
    except (CheckpointError, ConfigError):
        raise
    except DAMAGE as error:
        raise CheckpointError(INCOMPLETE.format(path=found, problem=f"{type(error).__name__} {error}")) from error
    return policy


def take_state(policy: AgentPolicy, described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an agent and its normalization the state in a checkpoint.

    Args:
        policy: Who gets it.
        described: The entry of the manifest.
        tensors: The arrays.
    """
    state = decode(described["state"], tensors, AGENT)
    policy.agent.load_state_dict(state["agent"])
    if policy.normalization is not None:
        policy.normalization.load_state_dict(state["normalization"])


def described_agent(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says of its agent.

    Raises:
        CheckpointError: It has none.
    """
    described = manifest.get(AGENT)
    if not isinstance(described, Mapping):
        raise CheckpointError(
            f"{path} holds a network that was trained on samples, and no agent; load_checkpoint loads it"
        )
    return dict(described)


class AgentCheckpoints:
    """Checkpoints of a training in a folder, one directory each, such as ``step-000012000``.

    Args:
        folder: Where they are.
        keep: How many of the newest ones to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep
        self._lock: Lock | None = None
        self.saved = -1  # steps of the last one

    def begin(self, *, new: bool) -> None:
        """Take the folder; half of a checkpoint that a killed process left is deleted.

        Args:
            new: Whether there must be no checkpoints.

        Raises:
            CheckpointError: Another training is at work there, or has checkpoints there.
        """
        self.close()
        self._lock = Lock(self.folder)
        delete_leftovers(self.folder)
        if new and list_checkpoints(self.folder):
            raise CheckpointError(
                f"{self.folder} has checkpoints of another training; continue with it (resume=True), or choose another "
                "session"
            )

    def save(self, policy: AgentPolicy, state: Mapping[str, Any], *, step: int, **progress: Any) -> Path:
        """Write a checkpoint, and delete those that are not to be kept.

        Returns:
            Its path.
        """
        path = save_agent(self.folder / f"step-{step:09d}", policy, state, step=step, **progress)
        self.saved = step
        for directory in list(list_checkpoints(self.folder))[: -self._keep]:
            delete_checkpoint(directory)
        return path

    def positions(self) -> list[dict[str, Any]]:
        """Return the positions in the replay of the checkpoints that are kept."""
        return [{"rows": manifest["replay_rows"]} for manifest in list_checkpoints(self.folder).values()]

    def close(self) -> None:
        """Let other trainings use the folder."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None
