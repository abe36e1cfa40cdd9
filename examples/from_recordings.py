"""An agent from recordings alone.

Drives of mixed quality are recorded, an agent learns from them, and drives on roads that it has never seen::

    python examples/from_recordings.py 3000
"""

import sys

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import DiscretizeAction

import physgym
from physgym.rl import DQN, TransitionCache, evaluate_agent, evaluate_offline

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3000


def track(**kwargs):
    return DiscretizeAction(gym.make("physgym/Track-v0", observation="state", **kwargs), bins=(7, 2))


inner, rng = track(tracks=(0, 1000)), np.random.default_rng(0)
env = physgym.Recorder(inner, "data/drives", every=5000)
for episode in range(steps // 150):
    env.reset(seed=episode)
    chance, over = rng.uniform(0, 0.8), False  # of a random action; else the track's own driver steers
    while not over:
        steered = inner.revert_action(inner.unwrapped.sample_action(rng))
        *_, terminated, truncated, _ = env.step(rng.integers(14) if rng.random() < chance else steered)
        over = terminated or truncated
env.close()

cache = TransitionCache("data/drives")
agent = DQN(cache.observation_space, cache.action_space, lr=1e-3, gamma=0.98, conservative=0.1)
for _ in range(steps):
    agent.learn(cache.sample(128, rng, agent.gamma))
print(evaluate_offline(agent, cache))
act = lambda states: agent.act({"observation": states}, explore=False)  # noqa: E731
print(evaluate_agent(act, track, episodes=10, env_kwargs={"tracks": (1000, 2000)}))
