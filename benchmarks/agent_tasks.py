"""What agents are compared on: tasks, how they are judged, and the settings of both sides.

A track is judged on roads that nobody trained on, from the start to the end of the first lap; CartPole on 100 episodes.
No return of these decides anything about the network that counts, which is the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

Act = Callable[[np.ndarray], np.ndarray]  # observations of all environments, shape (n, ...), to their actions
UNSEEN = 500_000  # number of the first course that is driven for judging
JUDGED_SEED = 1_000_000
PICTURE = [
    {"type": "Crop", "arguments": {"rows": [48, 120, 2], "columns": [0, 160, 2]}},  # below the horizon, every other
    {"type": "GrayscaleObservation"},
]
BINS = [{"type": "DiscretizeAction", "arguments": {"bins": [7, 2]}}]


@dataclass(frozen=True)
class Task:
    """An environment, and how an agent learns in it.

    Attributes:
        env: Its id.
        env_kwargs: Arguments of its constructor.
        preprocessing: Wrappers of its observations and actions.
        stack: Observations of a stack.
        ours: Arguments of `physgym.rl.AgentTrainer`, but for steps and seed.
        peer: Arguments of the algorithm of Stable-Baselines3.
        peer_name: The algorithm.
        envs: Environments of both.
        steps: Steps of environments to learn from.
        evaluations: How many times the agent is judged on the way.
        judged: Episodes of each judgement on the way.
        enough: What the mean return, or the part of tracks with a lap, has to reach.
        chosen: How the best network of our training is chosen, which is judged as well: arguments of its evaluations,
            in episodes with which nothing is judged. None for the last network alone.
    """

    env: str
    ours: Mapping[str, Any]
    peer: Mapping[str, Any]
    peer_name: str = "DQN"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Sequence[Mapping[str, Any]] = ()
    stack: int = 1
    envs: int = 8
    steps: int = 50_000
    evaluations: int = 25
    judged: int = 20
    enough: float = 0.8
    chosen: Mapping[str, Any] | None = None

    @property
    def on_track(self) -> bool:
        """Whether laps count, and not the return."""
        return "Track" in self.env

    def make(self, **kwargs: Any) -> gymnasium.Env:
        """Return an environment with its preprocessing, of single observations."""
        from physgym.rl.preprocessing import Preprocessing

        made = gymnasium.make(self.env, **{**self.env_kwargs, **kwargs})
        return Preprocessing(self.preprocessing).wrap(made)

    def stacked(self, **kwargs: Any) -> gymnasium.Env:
        """Return the same with a wrapper that stacks observations, for libraries that do not."""
        made = self.make(**kwargs)
        return made if self.stack == 1 else gymnasium.wrappers.FrameStackObservation(made, self.stack)


STATE = {"observation": "state", "tracks": [0, 1000], "simulations_per_step": 4}
CAMERA = {"observation": "camera", "tracks": [0, 1000], "simulations_per_step": 4}
SMALL_CNN = {"type": "CNN", "arguments": {"layers": [[16, 8, 4], [32, 4, 2]], "hidden": [128]}}
CHOOSING = {"evaluate_episodes": 10, "evaluate_kwargs": {"tracks": [400_000, 401_000], "laps": 1}}
TASKS = {
    "cartpole": Task(
        "CartPole-v1",
        ours={
            "agent": "dqn",
            "agent_kwargs": {
                "lr": 1e-3,
                "lr_steps": 29_500,  # about all gradient steps
                "tau": 0.02,
                "epsilon_steps": 10_000,
                "epsilon_end": 0.02,
            },
            "learning_starts": 1000,
            "learn_every": 8,
            "gradient_steps": 4,
            "batch_size": 128,
            "normalize_observations": True,
        },
        # of its collection of tuned settings, RL Baselines3 Zoo: 128 gradient steps every 256 steps of one environment
        peer={
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 32,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
        steps=60_000,
        evaluations=30,
        enough=475.0,
    ),
    "track-dqn": Task(
        "physgym/Track-v0",
        env_kwargs=STATE,
        preprocessing=BINS,
        ours={
            "agent": "dqn",
            "agent_kwargs": {"gamma": 0.97},
            "learning_starts": 1000,
            "learn_every": 8,
            "gradient_steps": 1,
            "batch_size": 128,
            "normalize_observations": True,
        },
        peer={
            "learning_rate": 5e-4,
            "gamma": 0.97,
            "batch_size": 128,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "train_freq": 1,
            "gradient_steps": 1,
            "target_update_interval": 500,
            "exploration_fraction": 0.2,
            "policy_kwargs": {"net_arch": [128, 128]},
        },
        steps=50_000,
    ),
    "track-sac": Task(
        "physgym/Track-v0",
        env_kwargs=STATE,
        ours={
            "agent": "sac",
            "agent_kwargs": {
                "lr": 1e-3,
                "gamma": 0.97,
                "network": {"type": "MLP", "arguments": {"hidden": [128, 128], "activation": "relu"}},
            },
            "learning_starts": 1000,
            "learn_every": 8,
            "gradient_steps": 1,
            "batch_size": 128,
            "normalize_observations": True,
        },
        peer={
            "learning_rate": 1e-3,
            "gamma": 0.97,
            "batch_size": 128,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "train_freq": 1,
            "gradient_steps": 1,
            "policy_kwargs": {"net_arch": [128, 128]},
        },
        peer_name="SAC",
        steps=50_000,
    ),
    "track-pixels": Task(
        "physgym/Track-v0",
        env_kwargs=CAMERA,
        preprocessing=[*PICTURE, *BINS],
        stack=3,
        ours={
            "agent": "dqn",
            "agent_kwargs": {
                "lr": 4e-4,
                "lr_steps": 24_500,  # about all gradient steps
                "gamma": 0.97,
                "epsilon_steps": 20_000,
                "network": SMALL_CNN,
            },
            "learning_starts": 2000,
            "learn_every": 8,
            "gradient_steps": 2,
            "batch_size": 64,
            "max_episode_steps": 150,  # many roads, and many starts: one that drives for ever sees few
        },
        peer={
            "policy": "CnnPolicy",
            "learning_rate": 3e-4,
            "gamma": 0.97,
            "batch_size": 64,
            "buffer_size": 50_000,
            "learning_starts": 2000,
            "train_freq": 1,
            "gradient_steps": 2,
            "target_update_interval": 500,
            "exploration_fraction": 0.3,
        },
        steps=100_000,
        evaluations=10,
        chosen=CHOOSING,
    ),
}


# --- judging


def judged(task: Task, act: Act, count: int, make: Callable[..., gymnasium.Env], quick: bool = False) -> dict[str, Any]:
    """Return what an agent reaches in episodes that nobody trained on, run at the same time.

    Args:
        task: Where.
        act: Gives an action for each environment; it is asked for those that have ended as well.
        count: How many episodes: on a track each on a road of its own.
        make: Makes an environment as the agent sees it.
        quick: Whether episodes are cut early.
    """
    if task.on_track:
        envs = [make(tracks=(UNSEEN + i, UNSEEN + i + 1), laps=1, max_episode_steps=400) for i in range(count)]
    else:
        envs = [make() for _ in range(count)]
    seen = np.stack([env.reset(seed=JUDGED_SEED + i)[0] for i, env in enumerate(envs)])
    returns, lengths = np.zeros(count), np.zeros(count, int)
    laps, way, going = np.zeros(count, bool), np.zeros(count), list(range(count))
    while going:
        actions = act(seen)
        for i in list(going):
            seen[i], reward, terminated, truncated, info = envs[i].step(actions[i])
            returns[i], lengths[i] = returns[i] + reward, lengths[i] + 1
            laps[i], way[i] = info.get("lap_count", 0) > 0, info.get("distance", 0.0)
            if terminated or truncated or (quick and lengths[i] >= 20):
                going.remove(i)
                envs[i].close()
    found = {"return": float(returns.mean()), "length": float(lengths.mean()), "episodes": count}
    if task.on_track:
        found |= {"laps": float(laps.mean()), "distance": float(way.mean())}
    return found
