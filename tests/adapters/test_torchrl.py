from __future__ import annotations

import warnings

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym
from tests.support.workers import kept_start_method

# when imported it warns of itself, and has all processes spawned from then on
with warnings.catch_warnings(), kept_start_method():
    warnings.simplefilter("ignore", DeprecationWarning)
    pytest.importorskip("torchrl.collectors")

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.envs.utils import check_env_specs
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

# those in which TorchRL takes a vector env
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_equals_that_of_the_sync_vector_env(mode):
    envs = physgym.make_vec("CartPole-v1", 4, num_workers=2, autoreset_mode=mode)
    reference = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 4, autoreset_mode=mode)
    torch.manual_seed(0)
    actions = torch.randint(2, (100, 4))
    rollouts = []
    with envs:
        for vector_env in (envs, reference):
            env = GymWrapper(vector_env, categorical_action_encoding=True)
            assert env.batch_size == (4,)
            check_env_specs(env)
            env.set_seed(5)
            remaining = iter(actions)
            policy = TensorDictModule(
                lambda observation, left=remaining: next(left), in_keys=["observation"], out_keys=["action"]
            )
            rollouts.append(env.rollout(100, policy, break_when_any_done=False))
    ours, expected = rollouts
    assert ours["next", "done"].sum() > 8
    assert set(ours.keys(True, True)) == set(expected.keys(True, True))
    for key in ours.keys(True, True):
        torch.testing.assert_close(ours[key], expected[key], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_ppo_learns(mode):
    torch.manual_seed(0)
    env = GymWrapper(
        physgym.make_vec("CartPole-v1", 16, num_workers=2, autoreset_mode=mode), categorical_action_encoding=True
    )
    env.set_seed(0)
    actor = ProbabilisticActor(
        TensorDictModule(
            nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2)), in_keys=["observation"], out_keys=["logits"]
        ),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1)), in_keys=["observation"])
    advantage = GAE(gamma=0.98, lmbda=0.9, value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.003, critic_coeff=0.5, loss_critic_type="l2")
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-3)
    collector = Collector(
        env, actor, frames_per_batch=1024, total_frames=24 * 1024, auto_register_policy_transforms=False
    )
    lengths = []
    for batch in collector:
        lengths.append(batch.numel() / max(1, int(batch["next", "done"].sum())))
        with torch.no_grad():
            advantage(batch)
        flat = batch.reshape(-1)
        for _ in range(6):
            for rows in torch.randperm(len(flat)).split(256):
                terms = loss(flat[rows])
                value = terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]
                optimizer.zero_grad()
                value.backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    env.close(raise_if_closed=False)
    # steps per end: the mean length of episodes, which is their return
    assert lengths[-1] > 4 * lengths[0]
