from __future__ import annotations

import sys
import time
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ConfigError

pytest.importorskip("tianshou")

import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import AsyncCollector, Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

from physgym.adapters.tianshou import TianshouVectorEnv

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Walk(gym.Env):
    """Sees its count and noise; says something in every second step. Every environment has its own pace."""

    observation_space = spaces.Dict({"count": spaces.Discrete(100), "noise": spaces.Box(0, 1, (2,), np.float32)})
    action_space = spaces.Discrete(3)

    def __init__(self, length=4, pause=0.0):
        self.length, self.pause = length, pause

    def _observe(self):
        return {"count": np.int64(self.count), "noise": self.np_random.uniform(size=2).astype(np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = (options or {}).get("start", 0)
        return self._observe(), {"began": self.count}

    def step(self, action):
        self.count += 1
        if isinstance(self.pause, Path):  # until a file is there
            deadline = time.monotonic() + 60
            while not self.pause.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        else:
            time.sleep(self.pause)
        info = {"double": 2 * self.count} if self.count % 2 else {}
        return self._observe(), float(action), self.count >= self.length, self.count == 5, info


def assert_same_batch(expected, got):
    for a, b in zip(expected, got, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        for x, y in zip(a, b, strict=True):
            if isinstance(x, dict):
                assert x.keys() == y.keys()
                for key in x:
                    np.testing.assert_array_equal(x[key], y[key])
            else:
                np.testing.assert_array_equal(x, y)


CASES = {
    "CartPole": [lambda: gym.make("CartPole-v1", max_episode_steps=12)] * 4,
    "dictionaries": [lambda n=n: Walk(length=n) for n in (2, 7, 3, 1)],
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_dummy_vector_env(case):
    reference = DummyVectorEnv(CASES[case])
    ours = TianshouVectorEnv(SocketVectorEnv(CASES[case], num_workers=2))
    assert len(ours) == len(reference) == 4
    assert ours.action_space == reference.action_space
    assert ours.observation_space == reference.observation_space
    for env in (reference, ours):
        env.seed(3)
    assert_same_batch(reference.reset(), ours.reset())
    rng = np.random.default_rng(0)
    number = 0
    for k in range(60):
        ids = np.arange(4) if k % 3 else np.flatnonzero(rng.uniform(size=4) < 0.6)
        if not len(ids):
            continue
        actions = rng.integers(2, size=len(ids))
        expected, got = reference.step(actions, ids), ours.step(actions, ids)
        assert_same_batch(expected, got)
        ended = ids[expected[2] | expected[3]]
        if len(ended):
            number += len(ended)
            assert_same_batch(reference.reset(ended), ours.reset(ended))
    assert number > 10
    ours.close()
    reference.close()
    assert ours.is_closed


def test_attributes_options_and_faults():
    ours = TianshouVectorEnv(SocketVectorEnv(CASES["dictionaries"], num_workers=2))
    assert ours.get_env_attr("length") == [2, 7, 3, 1]
    ours.set_env_attr("length", 9, id=[1, 3])
    assert ours.get_env_attr("length", [3, 0]) == [9, 2]
    with pytest.raises(AttributeError, match="no attribute 'width'"):
        ours.get_env_attr("width")
    _, infos = ours.reset([2, 0], options={"start": 4}, seed=1)
    assert infos.tolist() == [{"began": 4}] * 2
    with pytest.raises(ConfigError, match="2 actions for 4"):
        ours.step([0, 1])
    with pytest.raises(ConfigError, match="there are none"):
        ours.step(None)
    ours.close()
    with (
        physgym.make_vec("CartPole-v1", 2, autoreset_mode=AutoresetMode.SAME_STEP) as envs,
        pytest.raises(ConfigError, match="NEXT_STEP, the default"),
    ):
        TianshouVectorEnv(envs)
    with physgym.make_vec("CartPole-v1", 2) as envs, pytest.raises(ConfigError, match="wait_num must be between"):
        TianshouVectorEnv(envs, wait_num=3)


def agent(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - Tianshou's exploration and buffers draw from it
    env = gym.make("CartPole-v1")
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=(4,), action_shape=2, hidden_sizes=[64, 64]),
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=0.1,
    )
    return DQN(policy=policy, optim=AdamOptimizerFactory(lr=2e-3), gamma=0.98, target_update_freq=200)


@pytest.mark.slow
def test_dqn_learns():
    learner = agent(0)
    training = TianshouVectorEnv(physgym.make_vec("CartPole-v1", 8, num_workers=2))
    testing = TianshouVectorEnv(physgym.make_vec("CartPole-v1", 4, num_workers=1))
    collector = Collector(learner, training, VectorReplayBuffer(20_000, 8), exploration_noise=True)
    tester = Collector(learner, testing)
    collector.reset()
    tester.reset()
    before = tester.collect(n_episode=10).returns.mean()
    collector.collect(n_step=800, random=True)
    learner.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            test_collector=None,
            max_epochs=1,
            epoch_num_steps=5000,
            collection_step_num_env_steps=40,
            update_step_num_gradient_steps_per_sample=0.25,
            batch_size=64,
            test_step_num_episodes=0,
            show_progress=False,
            verbose=False,
        )
    )
    after = tester.collect(n_episode=10, reset_before_collect=True).returns.mean()
    training.close()
    testing.close()
    assert after > 3 * max(before, 20)


class Recorded(DiscreteQLearningPolicy):
    """Tianshou's asynchronous collector fails without entries "policy" and "state", which its own Q-learning lacks."""

    def forward(self, batch, state=None, model=None):
        result = super().forward(batch, None, model)
        result.policy = Batch(logits=result.logits.detach())
        result.state = Batch(hidden=np.zeros((len(result.act), 1)))
        return result


@pytest.mark.filterwarnings("ignore:Using async setting:UserWarning")
def test_the_asynchronous_collector_does_not_wait_for_slow_environments():
    pauses = (0.0, 0.0, 0.0, 0.3)
    envs = SocketVectorEnv([lambda p=p: gym.wrappers.FlattenObservation(Walk(4, p)) for p in pauses], num_workers=4)
    ours = TianshouVectorEnv(envs, wait_num=2)
    assert ours.is_async
    policy = Recorded(
        model=Net(state_shape=(102,), action_shape=3, hidden_sizes=[8]),
        action_space=envs.single_action_space,
        observation_space=envs.single_observation_space,
    )
    buffer = VectorReplayBuffer(4000, 4)
    collector = AsyncCollector(policy, ours, buffer)
    collector.reset()
    stats = collector.collect(n_step=200)
    counts = np.array([len(part) for part in buffer.buffers])
    ours.close()
    assert stats.n_collected_steps >= 200
    assert (stats.lens == 4).all()
    assert counts[:3].min() > 2 * counts[3]
    for part in buffer.buffers[:3]:
        rows = part.obs[: len(part)].argmax(-1)  # one-hot count, then noise below one
        follow = part.obs_next[: len(part)].argmax(-1)
        np.testing.assert_array_equal(follow, rows + 1)  # also at an end: the last observation, not the next first one


def test_beside_steps_under_way_only_ended_environments_are_reset(tmp_path):
    envs = SocketVectorEnv([lambda p=p: Walk(1, p) for p in (0.0, tmp_path / "go")], num_workers=2)
    ours = TianshouVectorEnv(envs, wait_num=1, timeout=60.0)
    ours.reset()
    _, _, terminated, _, infos = ours.step([0, 0])
    assert [info["env_id"] for info in infos] == [0]
    assert terminated.all()
    assert ours.waiting_id == [1]
    observations, infos = ours.reset([0])
    assert (observations[0]["count"], infos[0]) == (0, {"began": 0})
    with pytest.raises(ConfigError, match="only where their episode ended"):
        ours.reset([0])
    (tmp_path / "go").touch()
    _, _, _, _, infos = ours.step(None)
    assert [info["env_id"] for info in infos] == [1]
    assert sorted(ours.ready_id) == [0, 1]
    ours.close()
