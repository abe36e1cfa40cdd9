from __future__ import annotations

import warnings

import pytest

import physgym
from physgym import SocketVectorEnv

# it warns of itself when imported
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray.rllib")

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env


def make(context):
    return physgym.make_vec("CartPole-v1", context["num_envs"], num_workers=2)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # it would write a token into the home folder
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ppo_learns_with_the_vector_entry_point(cluster):
    register_env("cart", make)
    config = (
        PPOConfig()
        .environment("cart")
        .framework("torch")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, gym_env_vectorize_mode="vector_entry_point")
        .training(
            lr=2e-3,
            gamma=0.98,
            lambda_=0.9,
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=6,
            vf_loss_coeff=0.5,
            vf_clip_param=1e4,
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64], fcnet_activation="tanh", vf_share_layers=False))
        .learners(num_learners=0)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    assert isinstance(algorithm.env_runner.env.unwrapped, SocketVectorEnv)
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(12)]
    algorithm.stop()
    assert max(returns) > 4 * returns[0]
