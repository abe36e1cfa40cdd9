"""The other side of the comparison of agents: Stable-Baselines3, and a script in the manner of CleanRL's.

The script does what CleanRL's ``dqn.py`` does, with its defaults: one environment after the other in one loop, a buffer
of arrays from which uniform batches are drawn, plain Q-learning with a hard copy of the network, a gradient step every
ten steps. It is written anew for this comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

Watch = Callable[[int, Callable[[np.ndarray], np.ndarray]], bool]  # steps, and how it acts; whether to go on


@dataclass
class Clock:
    """Counts steps and the time of gradient steps, from the moment on when both go on.

    Attributes:
        warm: Steps before it begins.
        seconds: How long it counts.
    """

    warm: int
    seconds: float
    learning: float = 0.0
    first: int = 0
    last: int = 0
    began: float = field(default=0.0)
    ended: float = field(default=0.0)

    def stepped(self, steps: int) -> bool:
        """Take note of the steps so far; whether to go on."""
        if not self.began:
            if steps >= self.warm:
                self.began, self.first, self.learning = time.perf_counter(), steps, 0.0
            return True
        self.last, self.ended = steps, time.perf_counter()
        return self.ended - self.began < self.seconds

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is that of learning."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.learning += time.perf_counter() - start

        return call

    @property
    def figures(self) -> dict[str, float]:
        """Steps of environments in a second, and the share of the time in which a gradient step was made."""
        seconds = self.ended - self.began
        return {"steps_per_second": (self.last - self.first) / seconds, "learning": self.learning / seconds}


# --- Stable-Baselines3


def baselines(
    make: Callable[[], gymnasium.Env], envs: int, algorithm: str, settings: Mapping[str, Any], *, seed: int, **how: Any
) -> tuple[Any, Any]:
    """Return a model of Stable-Baselines3, and its vector environment.

    Args:
        make: Makes an environment.
        envs: How many.
        algorithm: Its name there.
        settings: Its arguments; ``policy`` is "MlpPolicy" where it is not among them.
        seed: Of all.
        how: ``processes``: whether each environment is in a process of its own.
    """
    import stable_baselines3
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

    made = (SubprocVecEnv if how.get("processes") else DummyVecEnv)([make] * envs)
    vector = VecMonitor(made)
    arguments = {"policy": "MlpPolicy", "device": "cpu", "seed": seed, **settings}
    return getattr(stable_baselines3, algorithm)(env=vector, **arguments), vector


def sb3_trained(model: Any, steps: int, watch: Callable[[Any], bool]) -> None:
    """Train a model; `watch` is called after each step of all environments and says whether to go on."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watching(BaseCallback):
        def _on_step(self) -> bool:
            return watch(self.model)

    model.learn(steps, callback=Watching(), log_interval=10**9)


def sb3_speed(make: Any, envs: int, settings: Mapping[str, Any], clock: Clock, **how: Any) -> dict[str, float]:
    """Return the speed of acting and learning."""
    model, vector = baselines(make, envs, "DQN", settings, seed=0, **how)
    model.train = clock.timed(model.train)
    try:
        sb3_trained(model, 10**9, lambda model: clock.stepped(model.num_timesteps))
    finally:
        vector.close()
    return clock.figures


# --- a script in the manner of CleanRL


class QNetwork(nn.Module):
    """The value of each action: two layers for a vector, the three convolutions of 2015 for a stack of pictures."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__()
        shape, actions = env.observation_space.shape, int(env.action_space.n)
        assert shape is not None
        self.pictures = len(shape) > 1
        if not self.pictures:
            self.layers = nn.Sequential(
                nn.Linear(shape[0], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, actions)
            )
            return
        convolutions = nn.Sequential(
            nn.Conv2d(shape[0], 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        size = convolutions(torch.zeros(1, *shape)).shape[1]
        self.layers = nn.Sequential(convolutions, nn.Linear(size, 512), nn.ReLU(), nn.Linear(512, actions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.float() / 255 if self.pictures else x)


def script_speed(make: Any, clock: Clock, **settings: Any) -> dict[str, float]:
    """Return the speed of acting and learning of the script."""
    script(make, 0, 500_000, lambda steps, act: clock.stepped(steps), clock.timed, **settings)
    return clock.figures


def script(
    make: Callable[[], gymnasium.Env],
    seed: int,
    steps: int,
    watch: Watch,
    timed: Callable[[Any], Any] = lambda function: function,
    *,
    learning_rate: float = 2.5e-4,
    buffer_size: int = 10_000,
    gamma: float = 0.99,
    target_every: int = 500,
    batch_size: int = 128,
    first_epsilon: float = 1.0,
    last_epsilon: float = 0.05,
    exploration: float = 0.5,
    learning_starts: int = 10_000,
    learn_every: int = 10,
) -> None:
    """Train in one environment until `watch` says that it is enough."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.wrappers.RecordEpisodeStatistics(make())],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    single = make()
    network, target = QNetwork(single), QNetwork(single)
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    space, count = single.observation_space, int(single.action_space.n)
    before, after = (np.zeros((buffer_size, *space.shape), space.dtype) for _ in range(2))
    taken, gained, ended = (
        np.zeros((buffer_size, 1), np.int64),
        np.zeros(buffer_size, "f4"),
        np.zeros(buffer_size, "f4"),
    )

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.as_tensor(observations)).argmax(1).numpy()

    def learn(filled: int) -> None:
        rows = rng.integers(filled, size=batch_size)
        with torch.no_grad():
            best = target(torch.as_tensor(after[rows])).max(1).values
            wanted = torch.as_tensor(gained[rows]) + gamma * best * (1 - torch.as_tensor(ended[rows]))
        value = network(torch.as_tensor(before[rows])).gather(1, torch.as_tensor(taken[rows])).squeeze()
        loss = mse_loss(wanted, value)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    learn = timed(learn)
    seen, _ = envs.reset(seed=seed)
    for step in range(steps):
        epsilon = max(last_epsilon, first_epsilon + (last_epsilon - first_epsilon) * step / (exploration * steps))
        action = rng.integers(count, size=1) if rng.random() < epsilon else act(seen)
        following, reward, terminated, truncated, infos = envs.step(action)
        row = step % buffer_size
        before[row], taken[row], gained[row], ended[row] = seen[0], action, reward[0], terminated[0]
        after[row] = infos["final_obs"][0] if terminated[0] or truncated[0] else following[0]
        seen = following
        if step > learning_starts:
            if step % learn_every == 0:
                learn(min(step + 1, buffer_size))
            if step % target_every == 0:
                target.load_state_dict(network.state_dict())
        if not watch(step + 1, act):
            break
    envs.close()
