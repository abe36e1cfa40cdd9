"""Agents, and what records them. Importing it is cheap: torch is loaded by the parts that need it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physgym.rl.agent import Agent as Agent
    from physgym.rl.agent import agent_class as agent_class
    from physgym.rl.agent import named_agent as named_agent
    from physgym.rl.agent_checkpoint import load_agent as load_agent
    from physgym.rl.agent_policy import AgentPolicy as AgentPolicy
    from physgym.rl.agent_trainer import AgentTrainer as AgentTrainer
    from physgym.rl.cache import TransitionCache as TransitionCache
    from physgym.rl.dqn import DQN as DQN
    from physgym.rl.evaluation import AgentEvaluation as AgentEvaluation
    from physgym.rl.evaluation import evaluate_agent as evaluate_agent
    from physgym.rl.frame_stacks import FrameStacks as FrameStacks
    from physgym.rl.latent import LatentObservation as LatentObservation
    from physgym.rl.offline import OfflineEvaluation as OfflineEvaluation
    from physgym.rl.offline import evaluate_offline as evaluate_offline
    from physgym.rl.picture_comparison import PictureComparison as PictureComparison
    from physgym.rl.picture_comparison import compare_pictures as compare_pictures
    from physgym.rl.preprocessed_recording import preprocess_recording as preprocess_recording
    from physgym.rl.preprocessing import Preprocessing as Preprocessing
    from physgym.rl.running_normalization import RunningNormalization as RunningNormalization
    from physgym.rl.sac import SAC as SAC
    from physgym.rl.transitions import Transitions as Transitions
    from physgym.rl.wrappers import Crop as Crop
    from physgym.rl.wrappers import InfoReward as InfoReward

_LAZY = {
    "DQN": "physgym.rl.dqn",
    "SAC": "physgym.rl.sac",
    "Agent": "physgym.rl.agent",
    "AgentEvaluation": "physgym.rl.evaluation",
    "AgentPolicy": "physgym.rl.agent_policy",
    "AgentTrainer": "physgym.rl.agent_trainer",
    "OfflineEvaluation": "physgym.rl.offline",
    "TransitionCache": "physgym.rl.cache",
    "evaluate_agent": "physgym.rl.evaluation",
    "evaluate_offline": "physgym.rl.offline",
    "Transitions": "physgym.rl.transitions",
    "agent_class": "physgym.rl.agent",
    "load_agent": "physgym.rl.agent_checkpoint",
    "named_agent": "physgym.rl.agent",
    "Crop": "physgym.rl.wrappers",
    "InfoReward": "physgym.rl.wrappers",
    "Preprocessing": "physgym.rl.preprocessing",
    "FrameStacks": "physgym.rl.frame_stacks",
    "RunningNormalization": "physgym.rl.running_normalization",
    "LatentObservation": "physgym.rl.latent",
    "PictureComparison": "physgym.rl.picture_comparison",
    "compare_pictures": "physgym.rl.picture_comparison",
    "preprocess_recording": "physgym.rl.preprocessed_recording",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'physgym.rl' has no attribute {name!r}")
