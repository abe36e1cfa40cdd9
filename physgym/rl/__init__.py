"""Agents, and what records them. Importing it is cheap: torch is loaded by the parts that need it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physgym.rl.agent import Agent as Agent
    from physgym.rl.agent import agent_class as agent_class
    from physgym.rl.agent import named_agent as named_agent
    from physgym.rl.cache import TransitionCache as TransitionCache
    from physgym.rl.dqn import DQN as DQN
    from physgym.rl.evaluation import AgentEvaluation as AgentEvaluation
    from physgym.rl.evaluation import evaluate_agent as evaluate_agent
    from physgym.rl.offline import OfflineEvaluation as OfflineEvaluation
    from physgym.rl.offline import evaluate_offline as evaluate_offline
    from physgym.rl.sac import SAC as SAC
    from physgym.rl.transitions import Transitions as Transitions

_LAZY = {
    "DQN": "physgym.rl.dqn",
    "SAC": "physgym.rl.sac",
    "Agent": "physgym.rl.agent",
    "AgentEvaluation": "physgym.rl.evaluation",
    "OfflineEvaluation": "physgym.rl.offline",
    "TransitionCache": "physgym.rl.cache",
    "evaluate_agent": "physgym.rl.evaluation",
    "evaluate_offline": "physgym.rl.offline",
    "Transitions": "physgym.rl.transitions",
    "agent_class": "physgym.rl.agent",
    "named_agent": "physgym.rl.agent",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'physgym.rl' has no attribute {name!r}")
