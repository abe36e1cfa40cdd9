"""Vector environments that compute their rows together, in arrays."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Counting(VectorEnv):
    """Rows that begin at a number of their seed and count by their action; each ends after 2 to 6 steps.

    A step whose action is 9 is rejected, one whose action is 8 gives NaN, one whose action is 7 raises.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "physgym.rows": "exact"}  # noqa: RUF012
    single_observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    single_action_space = spaces.Discrete(10)
    sample_space = spaces.Dict({"x": single_observation_space, "action": spaces.Box(0, 9, (1,), np.float32)})
    sample_roles = {"x": "target", "action": "input"}  # noqa: RUF012
    made = 0

    def __init__(self, num_envs, *, autoreset_mode=AutoresetMode.DISABLED, bad=()):
        Counting.made += 1
        self.num_envs, self.mode, self.bad, self.closes = num_envs, autoreset_mode, dict(bad), 0
        self.metadata = {**self.metadata, "autoreset_mode": autoreset_mode}
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.x = np.zeros((num_envs, 2))
        self.left = np.zeros(num_envs, np.int64)
        self.over = np.zeros(num_envs, bool)
        self.generators = [np.random.default_rng(row) for row in range(num_envs)]

    def begin(self, rows):
        for row in rows:
            self.x[row] = self.generators[row].random(2)
            self.left[row] = 2 + self.generators[row].integers(5)
            self.over[row] = False

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        seeds = seed if isinstance(seed, list) else [None if seed is None else seed + i for i in range(self.num_envs)]
        for row in np.flatnonzero(mask):
            if seeds[row] is not None:
                self.generators[row] = np.random.default_rng(seeds[row])
        self.begin(np.flatnonzero(mask))
        return self.x, {"left": self.left.copy(), "_left": mask}

    def step(self, actions):
        if (np.asarray(actions) == 7).any():
            raise ZeroDivisionError("seven")
        before = self.over.copy()
        self.x += np.asarray(actions)[:, None]
        self.left -= 1
        nan = np.where((np.asarray(actions) == 8)[:, None], np.nan, self.x)
        rejected = np.array(["nine" if one == 9 else "" for one in actions], object)
        sample = {"x": nan, "action": np.asarray(actions, np.float32)[:, None]}
        infos = {"sample": sample, "rejected": rejected}
        if self.mode is AutoresetMode.NEXT_STEP:
            self.begin(np.flatnonzero(before))
        terminated = (self.left <= 0) & ~(before if self.mode is AutoresetMode.NEXT_STEP else np.zeros_like(before))
        self.over = terminated | (self.over if self.mode is AutoresetMode.DISABLED else False)
        rewards = np.where(before & (self.mode is AutoresetMode.NEXT_STEP), 0.0, self.x.sum(1))
        if self.mode is AutoresetMode.SAME_STEP and terminated.any():
            final = np.full(self.num_envs, None, object)
            for row in np.flatnonzero(terminated):
                final[row] = self.x[row].copy()
            infos = {"final_obs": final, "_final_obs": terminated.copy()}
            self.begin(np.flatnonzero(terminated))
        return self.x, rewards, terminated, np.zeros(self.num_envs, bool), infos

    def close(self, **kwargs):
        self.closes += 1


class Entangled(Counting):
    """The same, and nothing is said of rows."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012


class CountingNext(Counting):
    """The same, whose rows reset themselves at the next step, and cannot do otherwise."""

    def __init__(self, num_envs):
        super().__init__(num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


class CountingSame(Counting):
    """The same, whose rows reset themselves in the step that ends an episode."""

    def __init__(self, num_envs):
        super().__init__(num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
