"""The rules of batched simulators hold for the shipped one, and find what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from physgym.envs.heat_batch import HeatBatch
from physgym.testing.batched import BatchedConformance
from tests.support.batched import Counting


class TestHeat(BatchedConformance):
    def make_env(self, num_envs):
        return HeatBatch(num_envs, size=8)


class TestHeatOfOddSize(BatchedConformance):
    def make_env(self, num_envs):
        return HeatBatch(num_envs, size=5)


class Mild(Counting):
    """Without actions that fail."""

    single_action_space = spaces.Discrete(7)


class MildNext(Mild):
    """Whose rows reset themselves."""

    def __init__(self, num_envs):
        super().__init__(num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


class TestCounting(BatchedConformance):
    def make_env(self, num_envs):
        return Mild(num_envs)


class TestCountingNext(BatchedConformance):
    def make_env(self, num_envs):
        return MildNext(num_envs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestHeatOnAGpu(BatchedConformance):
    def make_env(self, num_envs):
        return HeatBatch(num_envs, size=8, device="cuda")


class Leaky(Mild):
    """Rows move by the mean of all actions."""

    def step(self, actions):
        return super().step(np.full(self.num_envs, int(np.mean(actions))))


class Forgetful(Mild):
    """A reset of some rows begins all."""

    def begin(self, rows):
        super().begin(range(self.num_envs) if len(rows) else rows)


@pytest.mark.parametrize(
    ("kind", "rule", "text"),
    [
        (Leaky, "test_a_row_does_not_depend_on_the_others", "not independent to the bit"),
        (Forgetful, "test_a_reset_of_some_rows_leaves_the_others", "a reset of other rows differs"),
    ],
)
def test_rows_that_influence_each_other_are_found(kind, rule, text):
    class Rules(BatchedConformance):
        def make_env(self, num_envs):
            return kind(num_envs)

    with pytest.raises(AssertionError, match=text):
        getattr(Rules(), rule)()
