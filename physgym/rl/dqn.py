"""`DQN`: deep Q-learning with double estimation, for one of several actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import huber_loss

from physgym.checks import at_least, flag, fraction, integer, positive
from physgym.errors import ConfigError
from physgym.rl.agent import Agent, named_agent
from physgym.rl.networks import (
    Descent,
    FieldNetwork,
    Follower,
    NetworkChoice,
    described_network,
    make_networks,
    tensors,
    weights,
)
from physgym.rl.transitions import Transitions
from physgym.spaces import Array, kind_of

NETWORK = {"type": "MLP", "arguments": {"hidden": [128, 128], "activation": "relu"}}


def target(reward: Tensor, discount: Tensor, next_values: Tensor, choosing: Tensor | None = None) -> Tensor:
    """Return the value of an action by the reward that followed and the value of the best next action.

    With `choosing` the best next action is the one that another network thinks so: what one network overestimates, the
    other one does not (van Hasselt, Guez and Silver, "Deep reinforcement learning with double Q-learning", AAAI 2016).

    Args:
        reward: Shape (n,).
        discount: Of the next value, shape (n,); 0 where there is none.
        next_values: Of all actions, by the target network, shape (n, actions).
        choosing: Of all actions, by the network that is trained, shape (n, actions).
    """
    if choosing is None:
        best = next_values.amax(1)
    else:
        best = next_values.gather(1, choosing.argmax(1, keepdim=True)).squeeze(1)
    return torch.addcmul(reward, discount, best)


@named_agent
class DQN(Agent):
    """Deep Q-learning: the value of each action, learned from what followed.

    The method of Mnih et al., "Human-level control through deep reinforcement learning", Nature 518 (2015), with the
    targets of double Q-learning, Huber's loss and Adam. While it explores, it takes an action at random with a
    probability that falls from `epsilon_start` to `epsilon_end` over the first `epsilon_steps` steps.

    Args:
        observation_space: As in `Agent`.
        action_space: A `Discrete` one.
        seed: As in `Agent`.
        device: As in `Agent`.
        network: Which network: a registered name or ``module:Class``, or ``{"type": name, "arguments": {...}}``, or a
            module that takes the fields of an observation and gives shape (n, actions). By default an `MLP` with two
            layers of 128, or a `CNN` where a picture is observed.
        gamma: Discount of a step.
        lr: Learning rate.
        lr_steps: Steps of the optimization in which it falls to its hundredth, on a straight line, so that the last
            network is no worse than those before; None keeps it.
        double: Whether the trained network chooses the next action, and the target network only says its value.
        tau: Part of the way that the target network goes to the trained one in a step of its own; 1 copies it.
        target_every: Steps of the optimization between two steps of the target network.
        epsilon_start: Probability of a random action at first.
        epsilon_end: Probability of a random action in the end.
        epsilon_steps: Steps of environments from the first to the last.
        huber: Error of a value up to which the loss is half its square, and linear beyond.
        clip_norm: Largest norm of the gradient; None does not look.
        conservative: Weight of the penalty on values of actions that were not taken, for training from recordings
            alone: the term CQL(H) of Kumar et al., "Conservative Q-learning for offline reinforcement learning",
            NeurIPS 2020.

    Raises:
        ConfigError: The actions are continuous, or an argument is out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        seed: int = 0,
        device: str = "cpu",
        network: NetworkChoice = None,
        gamma: float = 0.99,
        lr: float = 1e-3,
        lr_steps: int | None = None,
        double: bool = True,
        tau: float = 0.02,
        target_every: int = 1,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.02,
        epsilon_steps: int = 10_000,
        huber: float = 10.0,
        clip_norm: float | None = 10.0,
        conservative: float = 0.0,
    ) -> None:
        if kind_of(action_space).name != "Discrete":
            raise ConfigError(
                f"DQN chooses one of several actions, a Discrete space, and this is {action_space}; put bins in front "
                '(the wrapper DiscretizeAction, with bins=[7, 2]), or take the agent "sac"'
            )
        super().__init__(
            observation_space,
            action_space,
            seed=seed,
            device=device,
            gamma=gamma,
            network=described_network(network),
            lr=positive("lr", lr),
            lr_steps=None if lr_steps is None else integer("lr_steps", lr_steps, 1),
            double=flag("double", double),
            tau=fraction("tau", tau),
            target_every=integer("target_every", target_every, 1),
            epsilon_start=fraction("epsilon_start", epsilon_start),
            epsilon_end=fraction("epsilon_end", epsilon_end),
            epsilon_steps=integer("epsilon_steps", epsilon_steps, 0),
            huber=positive("huber", huber),
            clip_norm=None if clip_norm is None else positive("clip_norm", clip_norm),
            conservative=conservative,
        )
        at_least("conservative", conservative, 0)
        self.double, self.conservative = double, conservative
        self.online: FieldNetwork = make_networks(
            network, NETWORK, self.fields, (int(self._actions.n),), seed=seed, device=device
        )[0]
        self.descent = Descent(self.online, lr, lr_steps, clip_norm)
        self.target = Follower(self.online, self.descent.weights, tau, target_every)

    @property
    def _actions(self) -> spaces.Discrete:
        return cast(spaces.Discrete, self.action_space)

    @property
    def exploration(self) -> float:
        """Return the probability of a random action now."""
        start, end, steps = (self.config[f"epsilon_{name}"] for name in ("start", "end", "steps"))
        return float(end if self.steps >= steps else start + (end - start) * self.steps / steps)

    def act(self, observations: Mapping[str, Array], *, explore: bool) -> Array:
        """Return the actions of the highest values, shape (n,); see `Agent.act`."""
        fields = self.checked(observations)
        count = len(next(iter(fields.values())))
        if not explore:
            return self._best(fields)
        chance = self.generator.random(count) < self.exploration
        actions: Array = self.generator.integers(self._actions.n, size=count) + self._actions.start
        self.steps += count
        if not chance.all():
            actions = np.where(chance, actions, self._best(fields))
        return actions.astype(self._actions.dtype)

    def _best(self, fields: Mapping[str, Array]) -> Array:
        with torch.inference_mode():
            best: Array = self.online(tensors(fields, self.device)).argmax(1).cpu().numpy()
        actions: Array = best + self._actions.start
        return actions.astype(self._actions.dtype)

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        """Make one step towards the targets of a batch; see `Agent.learn`."""
        values = self.online(batch.observation)  # (n, actions)
        value = self._taken(values, batch.action)
        with torch.no_grad():
            choosing = self.online(batch.next_observation) if self.double else None
            wanted = target(batch.reward, batch.discount, self.target.networks(batch.next_observation), choosing)
        found = {"loss": huber_loss(value, wanted, delta=self.config["huber"]), "value": value.detach().mean()}
        loss = found["loss"]
        if self.conservative:
            found["penalty"] = (values.logsumexp(1) - value).mean()
            loss = loss + self.conservative * found["penalty"]
        self.descent.step(loss)
        self.target.follow(self.descent.steps)
        return {name: one.detach() for name, one in found.items()}

    def _taken(self, values: Tensor, action: Tensor) -> Tensor:
        """Return the values of actions, shape (n,), from those of all actions."""
        index = action - int(self._actions.start) if self._actions.start else action
        return values.gather(1, index.unsqueeze(1)).squeeze(1)

    def values(self, observations: Mapping[str, Array], actions: Array) -> Array:
        """Return the values of actions, shape (n,); see `Agent.values`."""
        with torch.inference_mode():
            values = self.online(tensors(self.checked(observations), self.device))
            taken = torch.from_numpy(np.asarray(actions, np.int64)).to(values.device)
            return self._taken(values, taken).cpu().numpy().astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Return networks, optimizer and counter; see `Agent.state`."""
        return {
            "network": weights(self.online),
            "target": weights(self.target.networks),
            "optimizer": self.descent.state_dict(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.online.load_state_dict(state["network"])
        self.target.networks.load_state_dict(state["target"])
        self.descent.load_state_dict(state["optimizer"])
