"""`SAC`: soft actor-critic, for continuous actions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from physgym.checks import finite, fraction, integer, positive
from physgym.errors import ConfigError
from physgym.nn.devices import as_device
from physgym.rl.agent import LEARNING, Agent, named_agent
from physgym.rl.networks import (
    Descent,
    FieldNetwork,
    Follower,
    described_network,
    make_networks,
    tensors,
    weights,
)
from physgym.rl.transitions import Transitions
from physgym.spaces import Array, Leaf, kind_of, value_range
from physgym.training.random_state import seed_of

NETWORK = {"type": "MLP", "arguments": {"hidden": [128, 128], "activation": "relu"}}
LOG_STD = (-20.0, 2.0)  # beyond, densities have no finite gradient
ACTION = "action"


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions between -1 and 1, the tanh of a normal variable, and the logarithms of their densities.

    Args:
        mean: Of the normal variable, shape (n, size).
        log_std: Logarithm of its standard deviation, shape (n, size).
        noise: A standard normal variable, shape (n, size).

    Returns:
        The actions, shape (n, size), and the logarithm of the density of each, shape (n,).
    """
    inner = torch.addcmul(mean, log_std.exp(), noise)
    # log(1 - tanh(x)²) = 2 (log 2 - x - softplus(-2 x)), which does not cancel where tanh is 1
    slope = 2 * (math.log(2) - inner - softplus(-2 * inner))
    log_density = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std - slope
    return inner.tanh(), log_density.sum(1)


def soft_target(
    reward: Tensor, discount: Tensor, next_values: tuple[Tensor, Tensor], log_density: Tensor, temperature: Tensor
) -> Tensor:
    """Return the value of an action by the reward that followed, the next value and the next entropy.

    Args:
        reward: Shape (n,).
        discount: Of the next value, shape (n,); 0 where there is none.
        next_values: Of the next action, by either critic, of shape (n,); the smaller one counts.
        log_density: Of the next action, shape (n,).
        temperature: Weight of the entropy.
    """
    return torch.addcmul(reward, discount, torch.minimum(*next_values) - temperature * log_density)


class ActionBounds:
    """The linear map between actions of a bounded space and numbers between -1 and 1.

    Args:
        space: The action space.
        device: Where actions are learned from.

    Attributes:
        size: Numbers of an action.

    Raises:
        ConfigError: It is no `Box` of real numbers with finite bounds.
    """

    def __init__(self, space: spaces.Space[Any], device: torch.device) -> None:
        bounds = value_range(space)
        if kind_of(space).name != "Box" or bounds is None or bounds.dtype.kind != "f":
            raise ConfigError(
                f'SAC chooses continuous actions, a Box, and this is {space}; take the agent "dqn" for one of several'
            )
        if not bounds.bounded:
            raise ConfigError(
                f"SAC needs an action space with finite bounds, and this is {space}; the wrapper RescaleAction, or "
                "ClipAction and a space of your own, gives it some"
            )
        if not (bounds.low < bounds.high).all():
            raise ConfigError(
                f"SAC needs actions with a choice, and a part of {space} has a single value; leave it out of the space"
            )
        self.low, self.high, self.size = bounds.low, bounds.high, math.prod(bounds.low.shape)
        low, high = (bound.astype(np.float64).ravel() for bound in (self.low, self.high))
        self.centre, self.half = (high + low) / 2, (high - low) / 2
        self.tensors = [torch.from_numpy(x).to(device, torch.float32) for x in (self.centre, self.half)]

    def inner(self, actions: Tensor) -> Tensor:
        """Return actions of the space, shape (n, *shape), as numbers between -1 and 1, shape (n, size)."""
        centre, half = self.tensors
        return (actions.flatten(1) - centre) / half

    def outer(self, actions: Array) -> Array:
        """Return numbers between -1 and 1, shape (n, size), as actions of the space, shape (n, *shape)."""
        scaled = self.centre + self.half * actions
        return np.clip(scaled.reshape(-1, *self.low.shape), self.low, self.high).astype(self.low.dtype)


class Actor(nn.Module):
    """A network that gives a distribution of actions, and the temperature at which they are drawn.

    Args:
        network: Gives mean and logarithm of the standard deviation, shape (n, 2, size).
        temperature: Weight of the entropy; None learns it, from 1 on.
        device: Where it computes.
    """

    def __init__(self, network: FieldNetwork, temperature: float | None, device: torch.device) -> None:
        super().__init__()
        self.network = network
        start = torch.tensor(0.0 if temperature is None else math.log(temperature), device=device)
        self.log_temperature = nn.Parameter(start, requires_grad=temperature is None)

    def distribution(self, observation: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the standard deviation before the tanh, of shape (n, size)."""
        mean, log_std = self.network(observation).unbind(1)
        return mean, log_std.clamp(*LOG_STD)

    def forward(self, observation: Mapping[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions between -1 and 1, shape (n, size), and the logarithms of their densities, shape (n,)."""
        return squashed(*self.distribution(observation), noise)


class Critics(nn.Module):
    """Two networks that value actions, since the smaller of two values is overestimated less.

    Args:
        networks: Each takes an observation and an action between -1 and 1, and gives shape (n,).
    """

    def __init__(self, networks: list[FieldNetwork]) -> None:
        super().__init__()
        self.first, self.second = networks

    def forward(self, observation: Mapping[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of actions between -1 and 1, shape (n, size), by both networks, of shape (n,)."""
        fields = {**observation, ACTION: action}
        return self.first(fields), self.second(fields)


@named_agent
class SAC(Agent):
    """Soft actor-critic: continuous actions that are worth much, and as random as that allows.

    The method of Haarnoja et al., "Soft actor-critic algorithms and applications", arXiv:1812.05905 (2018), with two
    critics and a temperature that is learned. Actions of any number are scaled to their bounds; densities and
    entropies are those of actions between -1 and 1.

    Args:
        observation_space: As in `Agent`.
        action_space: A `Box` with finite bounds.
        seed: As in `Agent`.
        device: As in `Agent`.
        network: Of which class the networks are: a registered name or ``module:Class``, or
            ``{"type": name, "arguments": {...}}``. The actor's takes the fields of an observation and gives shape
            (n, 2, size); a critic's takes the field "action" too, between -1 and 1, shape (n, size), and gives shape
            (n,). By default an `MLP` with two layers of 128, or a `CNN` where a picture is observed.
        gamma: Discount of a step.
        lr: Learning rate of all networks and of the temperature.
        lr_steps: Steps of the optimization in which it falls to its hundredth, on a straight line; None keeps it.
        tau: Part of the way that the target critics go to the trained ones in a step of their own.
        target_every: Steps of the optimization between two steps of the target critics.
        temperature: Weight of the entropy; None learns it.
        target_entropy: Entropy that the temperature is learned for; None takes the number of actions, negative.
        random_steps: Steps of environments with actions drawn uniformly, before those of the actor.
        clip_norm: Largest norm of a gradient; None does not look.

    Raises:
        ConfigError: The actions are not continuous or have no bounds, or an argument is out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        seed: int = 0,
        device: str = "cpu",
        network: str | Mapping[str, Any] | None = None,
        gamma: float = 0.99,
        lr: float = 1e-3,
        lr_steps: int | None = None,
        tau: float = 0.005,
        target_every: int = 1,
        temperature: float | None = None,
        target_entropy: float | None = None,
        random_steps: int = 1000,
        clip_norm: float | None = None,
    ) -> None:
        where = as_device(device)
        self.scale = ActionBounds(action_space, where)
        size = self.scale.size
        super().__init__(
            observation_space,
            action_space,
            seed=seed,
            device=device,
            gamma=gamma,
            network=described_network(network),
            lr=positive("lr", lr),
            lr_steps=None if lr_steps is None else integer("lr_steps", lr_steps, 1),
            tau=fraction("tau", tau),
            target_every=integer("target_every", target_every, 1),
            temperature=None if temperature is None else positive("temperature", temperature),
            target_entropy=float(-size) if target_entropy is None else finite("target_entropy", target_entropy),
            random_steps=integer("random_steps", random_steps, 0),
            clip_norm=None if clip_norm is None else positive("clip_norm", clip_norm),
        )
        with_action = [*self.fields, Leaf(ACTION, (size,), np.dtype(np.float32))]
        making: dict[str, Any] = {"seed": seed, "device": device}
        actor, *_ = make_networks(network, NETWORK, self.fields, (2, size), **making)
        self.actor = Actor(actor, temperature, where)
        self.critics = Critics(make_networks(network, NETWORK, with_action, (), count=2, **making))
        self.actor_descent = Descent(self.actor, lr, lr_steps, clip_norm)
        self.critic_descent = Descent(self.critics, lr, lr_steps, clip_norm)
        self.target = Follower(self.critics, self.critic_descent.weights, tau, target_every)
        self.noise = torch.Generator(where).manual_seed(seed_of(seed, LEARNING))

    @property
    def exploration(self) -> float:
        """Return 1 while actions are drawn uniformly, then 0."""
        return float(self.steps < self.config["random_steps"])

    def act(self, observations: Mapping[str, Array], *, explore: bool) -> Array:
        """Return actions, shape (n, *shape): drawn while exploring, else the middle ones; see `Agent.act`."""
        fields = self.checked(observations)
        count = len(next(iter(fields.values())))
        if explore and self.exploration:
            self.steps += count
            return self.scale.outer(self.generator.uniform(-1, 1, (count, self.scale.size)))
        with torch.inference_mode():
            mean, log_std = self.actor.distribution(tensors(fields, self.device))
            if explore:
                noise = self.generator.standard_normal((count, self.scale.size), np.float32)
                mean = torch.addcmul(mean, log_std.exp(), torch.from_numpy(noise).to(self.device))
                self.steps += count
            return self.scale.outer(mean.tanh().cpu().numpy())

    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        """Make one step of critics, actor and temperature; see `Agent.learn`."""
        noise = torch.randn(2, len(batch), self.scale.size, generator=self.noise, device=self.noise.device)
        temperature = self.actor.log_temperature.detach().exp()

        with torch.no_grad():
            action, log_density = self.actor(batch.next_observation, noise[0])
            wanted = soft_target(
                batch.reward,
                batch.discount,
                self.target.networks(batch.next_observation, action),
                log_density,
                temperature,
            )
        first, second = self.critics(batch.observation, self.scale.inner(batch.action))
        loss = mse_loss(first, wanted) + mse_loss(second, wanted)
        self.critic_descent.step(loss)

        action, log_density = self.actor(batch.observation, noise[1])
        value = torch.minimum(*self.critics(batch.observation, action)).mean()
        mean_density = log_density.mean()
        actor_loss = temperature * mean_density - value
        if self.config["temperature"] is None:
            excess = mean_density.detach() + self.config["target_entropy"]
            actor_loss = actor_loss - self.actor.log_temperature * excess
        self.actor_descent.step(actor_loss)
        self.target.follow(self.actor_descent.steps)
        return {
            "loss": loss.detach(),
            "value": value.detach(),
            "entropy": -mean_density.detach(),
            "temperature": temperature,
        }

    def values(self, observations: Mapping[str, Array], actions: Array) -> Array:
        """Return the values of actions, the smaller one of both critics, shape (n,); see `Agent.values`."""
        with torch.inference_mode():
            fields = tensors(self.checked(observations), self.device)
            inner = self.scale.inner(torch.from_numpy(np.asarray(actions, np.float32)).to(self.device))
            return torch.minimum(*self.critics(fields, inner)).cpu().numpy().astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Return networks, temperature, optimizers, generator and counter; see `Agent.state`."""
        return {
            "actor": weights(self.actor),
            "critics": weights(self.critics),
            "target": weights(self.target.networks),
            "actor_optimizer": self.actor_descent.state_dict(),
            "critic_optimizer": self.critic_descent.state_dict(),
            "noise": self.noise.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.actor.load_state_dict(state["actor"])
        self.critics.load_state_dict(state["critics"])
        self.target.networks.load_state_dict(state["target"])
        self.actor_descent.load_state_dict(state["actor_optimizer"])
        self.critic_descent.load_state_dict(state["critic_optimizer"])
        self.noise.set_state(state["noise"])
