"""The example with MuJoCo: a simulation by the rules, which steps as Gymnasium's Reacher does."""

from __future__ import annotations

import importlib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import physgym
from physgym.testing import check_env

mujoco = pytest.importorskip("mujoco", reason="physgym[mujoco] is not installed")


@pytest.fixture
def reacher(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    return importlib.import_module("reacher")


@pytest.mark.slow
def test_it_keeps_the_rules(reacher):
    check_env(reacher.Reacher)


def test_it_steps_as_the_one_of_gymnasium(reacher):
    pytest.importorskip("imageio", reason="gymnasium[mujoco] is not installed")
    ours, theirs = reacher.Reacher(), gymnasium.make("Reacher-v5").unwrapped
    ours.reset(seed=1)
    theirs.reset(seed=1)
    state = ours.observation()
    theirs.set_state(np.concatenate([state[:2], ours.data.qpos[2:]]), np.concatenate([state[2:], ours.data.qvel[2:]]))
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        observation, *_ = ours.step(action)
        theirs.step(action)
        np.testing.assert_allclose(
            observation, np.concatenate([theirs.data.qpos[:2], theirs.data.qvel[:2]]), rtol=1e-9, atol=1e-12
        )
    assert ours.time_step == theirs.dt
    theirs.close()


def test_its_samples(reacher, tmp_path):
    dataset = physgym.generate("example/Reacher-v0", tmp_path / "data", samples=60, num_workers=0)
    assert not np.array_equal(dataset[0]["state"], dataset[50]["state"])
    np.testing.assert_array_equal(dataset[0]["next_state"], dataset[1]["state"])
