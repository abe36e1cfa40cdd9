"""A trainer learns from recordings, alone or with what it does itself."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import DiscretizeAction

import physgym
from physgym.errors import ConfigError
from physgym.rl import AgentTrainer, load_agent
from physgym.rl.learning import Learning

BINS = [{"type": "DiscretizeAction", "arguments": {"bins": [3, 2]}}]
TRACK = {"observation": "state", "tracks": (0, 100)}
SMALL = {
    "agent_kwargs": {"network": {"type": "MLP", "arguments": {"hidden": [8]}}},
    "progress": False,
    "batch_size": 16,
}


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """A recording of the track by itself, and one of the same steps within the bins."""
    folder = tmp_path_factory.mktemp("drives")
    inner = physgym.Recorder(gym.make("physgym/Track-v0", **TRACK), folder / "raw")
    env = physgym.Recorder(DiscretizeAction(inner, bins=(3, 2)), folder / "binned")
    rng = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(40):
            env.step(int(rng.integers(6)))
    env.close()
    return folder


def weights_of(trainer) -> list[torch.Tensor]:
    return [one.clone() for one in trainer.agent.online.parameters()]


@pytest.mark.slow
def test_recordings_alone_made_with_or_without_the_wrappers_give_the_same_agent(drives, tmp_path):
    found = []
    for name, preprocessing in (("raw", BINS), ("binned", ())):
        trainer = AgentTrainer(
            "dqn",
            cache=drives / name,
            steps=20,
            preprocessing=preprocessing,
            normalize_observations=True,
            stack=2,
            session=tmp_path / name,
            record=False,
            **SMALL,
        )
        trainer.fit()
        found.append(weights_of(trainer))
        policy = load_agent(tmp_path / name)
        assert policy.normalization is not None
        seen = np.ones((4, 5), np.float32)
        np.testing.assert_array_equal(policy.act(seen), trainer.policy.act(seen))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_share_of_each_batch_is_recorded(drives, monkeypatch):
    drawn = []
    step = Learning.step

    def counted(self):
        drawn.append([(type(source).__name__, count) for source, count in self._sources])
        step(self)

    monkeypatch.setattr(Learning, "step", counted)
    for name in ("raw", "binned"):
        trainer = AgentTrainer(
            "dqn",
            "physgym/Track-v0",
            env_kwargs=TRACK,
            cache=drives / name,
            cache_share=0.25,
            preprocessing=BINS,
            steps=24,
            num_envs=2,
            num_workers=0,
            learning_starts=8,
            **SMALL,
        )
        trainer.fit()
    assert len(drawn) > 4
    assert all(dict(one) == {"TransitionCache": 4, "Replay": 12} for one in drawn)


def test_what_does_not_fit_is_one_clear_error(drives):
    with pytest.raises(ConfigError, match=r"was recorded with .*\(5,\).*the agent has .*\(4,\)"):
        AgentTrainer("dqn", "CartPole-v1", cache=drives / "binned", steps=10, num_workers=0, **SMALL)
    with pytest.raises(ConfigError, match="DQN chooses one of several actions"):
        AgentTrainer("dqn", cache=drives / "raw", steps=10, **SMALL)
    with pytest.raises(ConfigError, match="normalize_rewards comes of acting"):
        AgentTrainer("dqn", cache=drives / "binned", steps=10, normalize_rewards=True, **SMALL)
    with pytest.raises(ConfigError, match="needs an environment to act in, or recordings"):
        AgentTrainer("dqn", steps=10, **SMALL)
