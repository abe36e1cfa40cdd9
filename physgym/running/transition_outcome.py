"""Rewards and ends of episodes whose steps a network makes, where no simulation says them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from physgym.sample import Sample

Judge: TypeAlias = Callable[[Any, Any, Any], float]


class TransitionOutcome:
    """Reward and end of a step: what the network predicts, else what functions say, else 0 and no end.

    Args:
        reward: Function of (observation, action, next observation), used where the network predicts no ``reward``.
        terminated: Function of the same: whether the episode has ended; used where it predicts no ``terminated``.
    """

    def __init__(self, reward: Judge | None, terminated: Judge | None) -> None:
        self._judges = {"reward": reward, "terminated": terminated}

    def of(self, prediction: Sample, before: Any, action: Any, after: Any) -> tuple[float, bool]:
        """Return the reward of a step, and whether the episode has ended.

        Args:
            prediction: The predicted fields.
            before: The observation before the step.
            action: That of the step.
            after: The observation after it.
        """
        reward, terminated = (
            float(prediction[name])
            if name in prediction
            else 0.0
            if judge is None
            else float(judge(before, action, after))
            for name, judge in self._judges.items()
        )
        return reward, terminated > 0.5
