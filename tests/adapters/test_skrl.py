from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import physgym

pytest.importorskip("skrl")

import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.envs.wrappers.torch.gymnasium_envs import GymnasiumWrapper
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed


def network(outputs):
    return torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, outputs))


class Policy(CategoricalMixin, Model):
    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device=env.device)
        CategoricalMixin.__init__(self)
        self.network = network(2)

    def compute(self, inputs, role):
        return self.network(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device=env.device)
        DeterministicMixin.__init__(self)
        self.network = network(1)

    def compute(self, inputs, role):
        return self.network(inputs["observations"]), {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_ppo_learns(mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    set_seed(1)
    envs = RecordEpisodeStatistics(
        physgym.make_vec("CartPole-v1", 16, num_workers=2, autoreset_mode=mode), buffer_length=100_000
    )
    env = wrap_env(envs, verbose=False)
    assert isinstance(env, GymnasiumWrapper)
    assert env.num_envs == 16
    cfg = PPO_CFG(
        rollouts=64,
        learning_epochs=6,
        mini_batches=4,
        discount_factor=0.98,
        gae_lambda=0.9,
        learning_rate=2e-3,
        value_loss_scale=0.5,
        value_clip=0.0,
        entropy_loss_scale=0.003,
    )
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Policy(env), "value": Value(env)},
        memory=RandomMemory(memory_size=64, num_envs=16, device=env.device),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
        cfg=cfg,
    )
    trainer = SequentialTrainer(
        env=env,
        agents=agent,
        cfg={"timesteps": 1600, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False},
    )
    trainer.train()
    returns = np.array(envs.return_queue)
    env.close()
    assert returns[-30:].mean() > 4 * returns[:30].mean()
