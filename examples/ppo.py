"""Proximal policy optimization in one file.

It takes any Gymnasium environment with array observations. The environments run in physgym's workers; with
``--vectorization async`` or ``sync`` they run in Gymnasium's own vector environments. The training is the same, seed
for seed::

    python examples/ppo.py --env-id CartPole-v1 --num-envs 16 --num-workers 2
"""

import argparse
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import nn

import physgym


@dataclass
class Settings:
    learning_rate: float = 2e-3  # falls to zero at the end
    rollout: int = 64  # steps of every environment between two updates
    epochs: int = 6  # times that an update sees each of them
    minibatch: int = 256
    discount: float = 0.98
    trace: float = 0.9  # lambda of the advantages
    clip: float = 0.2  # of the probability ratio
    entropy: float = 0.003
    value_weight: float = 0.5
    max_gradient: float = 0.5


class Agent(nn.Module):
    """Policy and value; the policy is categorical for Discrete actions, and a Gaussian for those of a Box."""

    def __init__(self, observation_space, action_space, hidden=64):
        super().__init__()
        self.space, self.discrete = action_space, isinstance(action_space, spaces.Discrete)
        outputs = int(action_space.n if self.discrete else np.prod(action_space.shape))
        size = int(np.prod(observation_space.shape))
        self.policy, self.value = self._network(size, hidden, outputs, 0.01), self._network(size, hidden, 1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(outputs))

    @staticmethod
    def _network(inputs, hidden, outputs, gain):
        layers = [
            nn.Linear(inputs, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, outputs),
        ]
        for layer, scale in zip(layers[::2], (2**0.5, 2**0.5, gain), strict=True):
            nn.init.orthogonal_(layer.weight, scale)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)

    def distribution(self, observations):
        if self.discrete:
            return torch.distributions.Categorical(logits=self.policy(observations))
        gaussian = torch.distributions.Normal(self.policy(observations), self.log_std.exp())
        return torch.distributions.Independent(gaussian, 1)

    def to_env(self, actions):
        """What the network drew as actions of the environments; -1 and 1 are the bounds of a Box that has bounds."""
        if self.discrete:
            return actions.numpy() + self.space.start
        low, high = (self.space.low, self.space.high) if self.space.is_bounded() else (-1.0, 1.0)
        share = (actions.numpy().clip(-1, 1).reshape(-1, *self.space.shape) + 1) / 2
        return (low + share * (high - low)).astype(self.space.dtype)


def advantages_of(rewards, values, next_value, terminated, ended, settings):
    """Generalized advantage estimates, (steps, envs).

    `values` of step t + 1 are those of what step t led to, also where an episode was cut, since the vector env resets
    in the step after: a cut episode continues in the value, an ended one does not.
    """
    advantages, trace = torch.zeros_like(rewards), torch.zeros_like(next_value)
    for t in reversed(range(len(rewards))):
        following = next_value if t == len(rewards) - 1 else values[t + 1]
        error = rewards[t] + settings.discount * following * ~terminated[t] - values[t]
        advantages[t] = trace = error + settings.discount * settings.trace * trace * ~ended[t]
    return advantages


def update(agent, optimizer, batch, settings):
    """One update of the network from the transitions of a rollout."""
    observations, actions, log_probs, advantages, returns = batch
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(observations)).split(settings.minibatch):
            if len(rows) < 2:  # has no standard deviation
                continue
            distribution = agent.distribution(observations[rows])
            ratio = (distribution.log_prob(actions[rows]) - log_probs[rows]).exp()
            scaled = (advantages[rows] - advantages[rows].mean()) / (advantages[rows].std() + 1e-8)
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -torch.minimum(ratio * scaled, clipped * scaled).mean()
            value_loss = (agent.value(observations[rows]).squeeze(-1) - returns[rows]).square().mean()
            entropy = distribution.entropy().mean()
            loss = policy_loss + settings.value_weight * value_loss - settings.entropy * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), settings.max_gradient)
            optimizer.step()


def train(envs, total_steps, seed=0, settings=None, report=print):
    """Train on a vector env that resets in the step after the one that ended an episode.

    Returns:
        The agent, and the returns of all completed episodes in their order.
    """
    settings = settings or Settings()
    if envs.metadata["autoreset_mode"] is not AutoresetMode.NEXT_STEP:
        raise ValueError("make the vector env with autoreset_mode=AutoresetMode.NEXT_STEP, Gymnasium's default")
    torch.manual_seed(seed)
    agent = Agent(envs.single_observation_space, envs.single_action_space)
    optimizer = torch.optim.Adam(agent.parameters(), lr=settings.learning_rate, eps=1e-5)

    def tensor(observations):
        return torch.as_tensor(observations, dtype=torch.float32).flatten(1)

    observation, _ = envs.reset(seed=seed)
    valid, running, returns, began = np.ones(envs.num_envs, bool), np.zeros(envs.num_envs), [], time.perf_counter()
    updates = max(1, total_steps // (settings.rollout * envs.num_envs))
    for index in range(1, updates + 1):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - (index - 1) / updates)
        steps = []
        with torch.no_grad():
            for _ in range(settings.rollout):
                now = tensor(observation)
                distribution, values = agent.distribution(now), agent.value(now).squeeze(-1)
                actions = distribution.sample()
                observation, rewards, terminated, truncated, _ = envs.step(agent.to_env(actions))
                ended = terminated | truncated
                outcome = [torch.as_tensor(x) for x in (rewards.astype(np.float32), terminated, ended, valid)]
                steps.append([now, actions, distribution.log_prob(actions), values, *outcome])
                running += rewards
                returns += running[ended].tolist()
                running[ended] = 0
                # the step after an end resets the environment and ignores the action: nothing to learn from
                valid = ~ended
            now, actions, log_probs, values, rewards, terminated, ended, learn = map(
                torch.stack, zip(*steps, strict=True)
            )
            next_value = agent.value(tensor(observation)).squeeze(-1)
            advantages = advantages_of(rewards, values, next_value, terminated, ended, settings)
        update(
            agent, optimizer, [x[learn] for x in (now, actions, log_probs, advantages, advantages + values)], settings
        )
        if returns and (index % 10 == 0 or index == updates):
            done, recent = index * settings.rollout * envs.num_envs, returns[-100:]
            speed = done / (time.perf_counter() - began)
            report(f"{done:8d} steps {speed:8.0f}/s   mean return of {len(recent):3d} episodes: {np.mean(recent):8.1f}")
    return agent, returns


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="CartPole-v1", help="id of a registered environment")
    parser.add_argument("--num-envs", type=int, default=16, help="environments")
    parser.add_argument("--num-workers", type=int, default=2, help="worker processes of physgym")
    parser.add_argument("--total-steps", type=int, default=100_000, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vectorization", choices=["physgym", "async", "sync"], default="physgym")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small, and the workers want the cores
    if arguments.vectorization == "physgym":
        envs = physgym.make_vec(arguments.env_id, arguments.num_envs, num_workers=arguments.num_workers)
    else:
        envs = gym.make_vec(arguments.env_id, arguments.num_envs, vectorization_mode=arguments.vectorization)
    try:
        train(envs, arguments.total_steps, arguments.seed)
    finally:
        envs.close()


if __name__ == "__main__":
    main()
