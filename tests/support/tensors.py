"""A small simulation in tensors whose rows end, are rejected and give NaN."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from physgym.batched.simulation import BatchedSimulation


class Fading(BatchedSimulation):
    """Each row falls by a part of itself, ends below 0.4, is rejected for some actions, and gives NaN for others."""

    sample_roles = {"source": "input", "x": "target"}  # noqa: RUF012

    def __init__(self, num_envs, *, fails=False, **options):
        super().__init__(num_envs, **options)
        line = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._use_spaces(line, line)
        self.sample_space = spaces.Dict({"source": line, "x": line})
        self._x, self._fails = torch.zeros(num_envs, 2, device=self.device), fails

    def begin(self, rows, parameters):
        self._x = self._x.index_fill(0, rows, 1.0)

    def advance(self, actions):
        self._source = actions
        self._x = self._x * (0.7 + 0.1 * actions)
        return torch.ones_like(actions[:, 0], dtype=torch.bool) if self._fails else actions[:, 0] > 0.7

    def observation(self):
        return self._x

    def sample(self):
        bad = (self._source[:, 1] > 0.9)[:, None]
        return {"source": self._source, "x": torch.where(bad, torch.full_like(self._x, torch.nan), self._x)}

    def outcome(self):
        return self._x[:, 0], self._x[:, 0] < 0.4


class Ragged(BatchedSimulation):
    """Counts its steps times an integer parameter, and gives them as somebody says; rates are of single precision."""

    sample_roles = {"y": "target", "rate": "input"}  # noqa: RUF012
    parameter_space = spaces.Dict({"by": spaces.Discrete(5, start=2), "rate": spaces.Box(0.1, 0.9, (2,), np.float32)})

    def __init__(self, num_envs, *, column=lambda y: y, **options):
        super().__init__(num_envs, **options)
        self._use_spaces(spaces.Box(0, 99, (1,), np.int64), spaces.Box(-1.0, 1.0, (3,), np.float32))
        self.sample_space = spaces.Dict(
            {"y": spaces.Box(0, 99, (), np.int64), "rate": spaces.Box(0.0, 1.0, (2,), np.float64)}
        )
        self._y, self._column = torch.zeros(num_envs, dtype=torch.int64), column
        self._by = torch.zeros(num_envs, dtype=torch.int64)
        self._rate = torch.zeros(num_envs, 2, dtype=torch.float64)

    def begin(self, rows, parameters):
        self._y = self._y.index_fill(0, rows, 0)
        self._by = self._by.index_copy(0, rows, parameters["by"].long())
        self._rate = self._rate.index_copy(0, rows, parameters["rate"])

    def advance(self, actions):
        self._y = self._y + self._by

    def observation(self):
        return self._y[:, None]

    def sample(self):
        return {"y": self._column(self._y), "rate": self._rate}
