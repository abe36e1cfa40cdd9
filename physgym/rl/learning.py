"""`Learning`: the steps of the optimization of an agent, each on transitions drawn from its sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from physgym.errors import DivergedError
from physgym.rl.agent import Agent
from physgym.rl.transitions import Transitions
from physgym.training.history import Means

if TYPE_CHECKING:
    from physgym.rl.running_normalization import RunningNormalization

TOGETHER = 256  # steps whose values are fetched together: fetching waits for the device


class DrawsTransitions(Protocol):
    """A source of transitions: a replay, or recordings."""

    def sample(self, count: int, generator: np.random.Generator, gamma: float) -> Transitions:
        """Return transitions drawn uniformly."""
        ...


class Learning:
    """Steps of the optimization of an agent.

    Args:
        agent: Who learns.
        replay: What it has done itself; None where it learns from recordings alone.
        cache: Recordings; None for none.
        cached: Transitions of a batch that are from the recordings.
        batch_size: Transitions of a batch.
        generator: What they are drawn with.
        normalization: Normalizes what was drawn; None for none.

    Attributes:
        steps: Steps so far.
        owed: Steps to make while the environments step the next time.
        means: Means of the values of the steps since the last record.
    """

    def __init__(
        self,
        agent: Agent,
        replay: DrawsTransitions | None,
        cache: DrawsTransitions | None,
        *,
        cached: int,
        batch_size: int,
        generator: np.random.Generator,
        normalization: RunningNormalization | None,
    ) -> None:
        self._agent, self._generator, self._normalization = agent, generator, normalization
        self._sources = [
            (source, count)
            for source, count in ((cache, cached), (replay, batch_size - cached))
            if source is not None and count
        ]
        self._device = torch.device(agent.device)
        self.steps = self.owed = 0
        self.means = Means()
        self._values: list[dict[str, Tensor]] = []  # of steps that nobody has waited for

    def step(self) -> None:
        """Draw a batch and learn from it.

        Raises:
            DivergedError: The loss of an earlier step was not finite.
        """
        gamma = self._agent.gamma
        drawn = [source.sample(count, self._generator, gamma) for source, count in self._sources]
        batch = drawn[0] if len(drawn) == 1 else _joined(drawn)
        if self._normalization is not None:
            batch = Transitions(
                self._normalization.observations(batch.observation),
                batch.action,
                self._normalization.rewards(batch.reward),
                self._normalization.observations(batch.next_observation),
                batch.discount,
            )
        if self._device.type != "cpu":
            batch = _on(batch, self._device)
        self._values.append(self._agent.learn(batch))
        self.steps += 1
        if len(self._values) >= TOGETHER:
            self.fetch()

    def make_steps(self) -> None:
        """Make the steps that are owed."""
        while self.owed:
            self.step()
            self.owed -= 1

    def fetch(self) -> None:
        """Wait for the values of all steps.

        Raises:
            DivergedError: A loss is not finite.
        """
        values, self._values = self._values, []
        if not values:
            return
        fetched = {name: torch.stack([one[name] for one in values]).tolist() for name in values[0]}
        for place in range(len(values)):
            one = {name: numbers[place] for name, numbers in fetched.items()}
            if not math.isfinite(one["loss"]):
                number = self.steps - len(values) + place + 1
                raise DivergedError(
                    f"the loss of gradient step {number} is {one['loss']}. Lower the learning rate, or normalize "
                    "rewards and observations"
                )
            self.means.add(one, 1)

    def take_means(self) -> dict[str, float]:
        """Return the means of the values since the last time; empty without a step."""
        self.fetch()
        found, self.means = self.means.values(), Means()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return where it is, but for the agent and the generator."""
        self.fetch()
        return {"steps": self.steps, "owed": self.owed, "samples": self.means.samples, "sums": dict(self.means.sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.steps, self.owed = int(state["steps"]), int(state["owed"])
        self.means = Means(int(state["samples"]), dict(state["sums"]))


def _joined(parts: list[Transitions]) -> Transitions:
    """Return several batches as one."""
    first = parts[0]
    return Transitions(
        {name: torch.cat([part.observation[name] for part in parts]) for name in first.observation},
        torch.cat([part.action for part in parts]),
        torch.cat([part.reward for part in parts]),
        {name: torch.cat([part.next_observation[name] for part in parts]) for name in first.next_observation},
        torch.cat([part.discount for part in parts]),
    )


def _on(batch: Transitions, device: torch.device) -> Transitions:
    """Return a batch on a device."""

    def there(fields: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(device, non_blocking=True) for name, value in fields.items()}

    return Transitions(
        there(batch.observation),
        batch.action.to(device),
        batch.reward.to(device),
        there(batch.next_observation),
        batch.discount.to(device),
    )
