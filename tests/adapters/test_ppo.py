from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym

SCRIPT = Path(__file__).parents[2] / "examples" / "ppo.py"


@pytest.fixture
def ppo(monkeypatch):
    spec = importlib.util.spec_from_file_location("ppo_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ppo_example", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Countdown(gym.Env):
    """Observes the number of steps that are left; the last ones end in turn by termination and truncation."""

    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Box(-2, 4, (2,), np.float32)
    left = episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.episodes = 3, self.episodes + 1
        return np.float32([self.left]), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.left -= 1
        even = self.episodes % 2 == 0
        return np.float32([self.left]), 1.0, self.left == 0 and even, self.left == 0 and not even, {}


@pytest.mark.slow
def test_ppo_learns_cart_pole(ppo):
    lines = []
    with physgym.make_vec("CartPole-v1", num_envs=16, num_workers=2) as envs:
        _, returns = ppo.train(envs, 40_000, seed=1, report=lines.append)
    assert np.mean(returns[-50:]) > 5 * np.mean(returns[:50])
    assert "mean return of 100 episodes" in lines[-1]


@pytest.mark.slow
def test_training_is_the_same_on_gymnasiums_vector_env(ppo):
    runs = []
    for make in (physgym.make_vec, lambda *args: gym.make_vec(*args, vectorization_mode="sync")):
        envs = make("CartPole-v1", 5)
        agent, returns = ppo.train(envs, 2000, seed=3, report=lambda line: None)
        envs.close()
        runs.append((returns, [weight.detach().clone() for weight in agent.parameters()]))
    assert len(runs[0][0]) > 20
    assert runs[0][0] == runs[1][0]
    for ours, reference in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=0)


def test_the_step_that_only_resets_is_not_learned_from(ppo, monkeypatch):
    batches = []
    monkeypatch.setattr(ppo, "update", lambda agent, optimizer, batch, settings: batches.append(batch))
    _, returns = ppo.train(SyncVectorEnv([Countdown] * 2), 2 * 128, report=lambda line: None)
    observations = torch.cat([batch[0] for batch in batches])
    # 3 steps and 1 reset, over and over
    assert observations.flatten().tolist().count(0.0) == 0
    assert len(observations) == 2 * 128 * 3 // 4
    assert returns == [3.0] * (2 * 128 // 4)


def test_a_cut_episode_goes_on_in_the_value_and_an_ended_one_does_not(ppo):
    settings = ppo.Settings(discount=0.5, trace=0.5)
    rewards, values = torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([[10.0, 10.0], [20.0, 20.0]])
    terminated = torch.tensor([[True, False], [False, False]])
    ended = torch.tensor([[True, True], [False, False]])
    advantages = ppo.advantages_of(rewards, values, torch.tensor([40.0, 40.0]), terminated, ended, settings)
    torch.testing.assert_close(advantages, torch.tensor([[1.0 - 10, 1 + 0.5 * 20 - 10], [2 + 0.5 * 40 - 20] * 2]))
    going = torch.zeros_like(ended)
    advantages = ppo.advantages_of(rewards, values, torch.tensor([40.0, 40.0]), going, going, settings)
    torch.testing.assert_close(advantages[0], torch.full((2,), 1 + 0.5 * 20 - 10 + 0.5 * 0.5 * 2))


def test_other_autoreset_modes_are_refused(ppo):
    envs = SyncVectorEnv([Countdown], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="NEXT_STEP"):
        ppo.train(envs, 100)


@pytest.mark.parametrize("vectorization", ["physgym", "sync"])
def test_command_line(ppo, monkeypatch, capsys, vectorization):
    threads = torch.get_num_threads()
    options = ["--env-id=physgym/Spring-v0", "--num-envs=4", "--num-workers=1", "--total-steps=600", "--seed=1"]
    monkeypatch.setattr(sys, "argv", ["ppo.py", *options, f"--vectorization={vectorization}"])
    ppo.main()
    torch.set_num_threads(threads)
    assert "512 steps" in capsys.readouterr().out
