"""What an agent learns from recordings alone, without a further step of the environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import physgym
from physgym.rl import DQN, TransitionCache, Transitions, evaluate_agent


@pytest.mark.slow
def test_an_agent_balances_that_has_seen_random_actions_alone(tmp_path):
    env = physgym.Recorder(gym.make("CartPole-v1"), tmp_path / "a", every=1000)
    rng, lengths = np.random.default_rng(0), []
    while sum(lengths) < 4000:
        env.reset(seed=len(lengths))
        over, steps = False, 0
        while not over:
            *_, terminated, truncated, _ = env.step(int(rng.integers(2)))
            over, steps = terminated or truncated, steps + 1
        lengths.append(steps)
    env.close()
    cache = TransitionCache(tmp_path / "a")
    normalization = cache.normalization()
    agent = DQN(cache.observation_space, cache.action_space, lr=1e-3, tau=0.05, gamma=0.97, conservative=0.1)
    for _ in range(1200):
        batch = cache.sample(64, rng, agent.gamma)
        seen, following = (normalization.observations(one) for one in (batch.observation, batch.next_observation))
        agent.learn(Transitions(seen, batch.action, batch.reward, following, batch.discount))

    def act(observations):
        return agent.act(normalization.observations({"observation": observations}), explore=False)

    found = evaluate_agent(act, "CartPole-v1", episodes=10, num_envs=10)
    assert found.values["return"] > 3 * np.mean(lengths)
