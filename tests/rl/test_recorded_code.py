"""What is recorded says which code the environment is of, and other code is not mixed into it."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import physgym
from physgym.data.provenance import code_of_part
from physgym.data.summary import summarize
from physgym.errors import ChangedCode
from physgym.rl.agent_trainer import AgentTrainer

BALL = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ball_numbers import MASS

class Ball(gym.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, gust=0.0, render_mode=None):
        self.gust, self.render_mode = gust, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(size=1)
        return self.x.copy(), {}

    def step(self, action):
        self.x = self.x + (action + self.gust) / MASS
        return self.x.copy(), float(self.x[0]), False, False, {}

class Twice(gym.RewardWrapper, gym.utils.RecordConstructorArgs):
    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.RewardWrapper.__init__(self, env)

    def reward(self, reward):
        return 2 * reward

gym.register("ball/Ball-v0", Ball, max_episode_steps=5)
"""
WAYS = {
    "registered": lambda: gym.make("ball/Ball-v0"),
    "class": lambda: ball().Ball(),
    "wrapped": lambda: ball().Twice(gym.make("ball/Ball-v0")),
    "sync": lambda: SyncVectorEnv([lambda: gym.make("ball/Ball-v0")] * 2),
    "gymnasium's": lambda: gym.make_vec("ball/Ball-v0", 2, vectorization_mode="sync"),
    "physgym's": lambda: physgym.make_vec("ball/Ball-v0", 2, num_workers=0),
    "of classes": lambda: physgym.SocketVectorEnv([ball().Ball] * 2, num_workers=0),
    "async": lambda: AsyncVectorEnv([lambda: gym.make("ball/Ball-v0")] * 2),
    "workers": lambda: physgym.make_vec("ball/Ball-v0", 2, num_workers=2),
}
SLOW = ("async", "workers")


def ball():
    return sys.modules["ball"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of an environment again, with other numbers in a module that it imports."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ball.py").write_text(BALL)

    def forget():
        for name in ("ball", "ball_numbers"):
            sys.modules.pop(name, None)
        gym.registry.pop("ball/Ball-v0", None)
        importlib.invalidate_caches()

    def written(mass):
        forget()
        (tmp_path / "ball_numbers.py").write_text(f"MASS = {mass}\n")
        importlib.import_module("ball")

    yield written
    forget()


def record(made, steps=3, **options):
    try:
        env = physgym.Recorder(made, "data/ball", **options)
    except BaseException:
        made.close()
        raise
    env.reset(seed=0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    env.close()
    return physgym.SampleDataset("data/ball")


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way in SLOW)) for way in WAYS])
def test_other_code_is_not_recorded_into_the_same_folder(write, way):
    write(1.0)
    dataset = record(WAYS[way]())
    code = code_of_part(dataset.provenance)
    assert code["hash"] != "unknown"
    assert {"ball", "ball_numbers"} <= set(code["modules"])
    record(WAYS[way](), resume=True)  # the same code
    write(12.0)  # another length, so that no cache of a file takes it for the first one
    with pytest.raises(ChangedCode, match=r"module ball_numbers has changed .*allow_changed_code=True"):
        record(WAYS[way](), resume=True)
    assert len(physgym.SampleDataset("data/ball")) == 2 * len(dataset)  # nothing came of that
    again = record(WAYS[way](), resume=True, allow_changed_code=True)
    assert [run["samples"] for run in again.provenance["runs"]] == [0, 2 * len(dataset)]
    assert "module ball_numbers has changed" in "\n".join(summarize("data/ball"))


def test_a_wrapper_and_arguments_are_part_of_the_code_and_pictures_are_not(write):
    write(1.0)
    record(gym.make("ball/Ball-v0", gust=0.5))
    with pytest.raises(ChangedCode, match=r"value kwargs\.gust was 0\.5, is 1\.5"):
        record(gym.make("ball/Ball-v0", gust=1.5), resume=True)
    with pytest.raises(ChangedCode, match="wrapper Twice"):
        record(ball().Twice(gym.make("ball/Ball-v0", gust=0.5)), resume=True)
    record(physgym.make_vec("ball/Ball-v0", 1, num_workers=0, gust=0.5, render_mode=None), resume=True)


@pytest.mark.slow
def test_how_many_environments_there_are_and_where_is_no_part_of_the_code(write):
    write(1.0)
    record(gym.make_vec("ball/Ball-v0", 2, vectorization_mode="sync"))
    for count, mode in ((3, "sync"), (2, "async")):
        dataset = record(gym.make_vec("ball/Ball-v0", count, vectorization_mode=mode), resume=True)
    assert "num_envs" not in dataset.attributes["env_spec"]
    assert json.loads(dataset.attributes["env_spec"])["entry_point"] == "ball:Ball"


def test_a_recording_of_before_continues_with_one_warning(write):
    write(1.0)
    record(gym.make("ball/Ball-v0"))
    file = Path("data/ball/dataset.json")
    described = json.loads(file.read_text())
    described["modes"]["training"]["provenance"] = "unknown"
    file.write_text(json.dumps(described))
    with pytest.warns(UserWarning, match="does not say which code of the simulation made it") as said:
        dataset = record(gym.make("ball/Ball-v0"), resume=True)
    assert len(said) == 1
    assert [run["samples"] for run in dataset.provenance["runs"]] == [4]
    record(gym.make("ball/Ball-v0"), resume=True)  # which says nothing more


def test_code_that_cannot_be_known_is_said(write):
    write(1.0)
    other = type("Other", (ball().Ball,), {"__module__": "nowhere"})  # whose module nobody can import
    with pytest.warns(UserWarning, match=r"the code of the simulation is unknown: .*nowhere") as said:
        dataset = record(other())
    assert len(said) == 1
    assert code_of_part(dataset.provenance)["hash"] == "unknown"
    with pytest.raises(ChangedCode, match="it is unknown"):
        record(other(), resume=True)


def train(**options):
    trainer = AgentTrainer("dqn", "ball:ball/Ball-v0", steps=20, session="s", save_every=10, progress=False, **options)
    trainer.fit()


@pytest.mark.slow
def test_a_replay_is_not_continued_with_other_code(write):
    write(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(record=False)
        code = code_of_part(physgym.SampleDataset("s/replay").provenance)
        assert {"ball", "ball_numbers"} <= set(code["modules"])
        write(12.0)
        with pytest.raises(ChangedCode, match=r"s/replay was made by other code .*module ball_numbers has changed"):
            train(record=False, resume=True)
        train(record=False, resume=True, allow_changed_code=True)


def test_validation_samples_of_other_code_are_named(write):
    from physgym.data.provenance import warn_of_overlap

    write(1.0)
    training = record(gym.make("ball/Ball-v0"))
    write(12.0)
    env = physgym.Recorder(gym.make("ball/Ball-v0"), "data/other")
    env.reset(seed=1)
    env.step(0)
    env.close()
    with pytest.warns(UserWarning, match="validation samples were made by other code"):
        warn_of_overlap(physgym.SampleDataset("data/other"), training)
    cart = physgym.Recorder(gym.make("CartPole-v1"), "data/cart")
    cart.reset(seed=1)
    cart.step(0)
    cart.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_overlap(physgym.SampleDataset("data/cart"), training)  # another environment, not other code of one
