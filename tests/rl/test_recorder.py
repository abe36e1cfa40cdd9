"""What a Recorder writes is what happened, in every mode of autoreset and under every library's loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import physgym
from physgym.errors import ConfigError, DatasetError, SampleError


class Counter(gym.Env):
    """Observes (episode, step), each in its own field; ends after the steps that its seed says, in either way."""

    observation_space = spaces.Dict({"episode": spaces.Box(-1, 1e6, (2,)), "step": spaces.Discrete(1000)})
    action_space = spaces.Dict({"push": spaces.Box(-1, 1, (1,)), "gear": spaces.Discrete(3, start=2)})

    def __init__(self, offset: int = 0):
        self.offset, self.episode = offset, -1

    def _seen(self):
        self.array[:] = (self.offset, self.episode)  # an environment that uses its arrays again
        return {"episode": self.array, "step": self.t}

    def reset(self, *, seed=None, options=None):
        self.array = np.zeros(2, np.float32)
        self.episode, self.t = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        end = self.t >= 2 + (self.offset + self.episode) % 4
        info = {"where": "grass" if self.t % 2 else "road", "lap": self.t, "position": np.array([self.t, 0.5])}
        return self._seen(), 10.0 * self.episode + self.t, end and self.episode % 2 == 0, end and self.episode % 2, info


def action_of(step: int) -> dict:
    return {"push": np.array([step / 100], np.float32), "gear": 2 + step % 3}


def check(dataset, episodes: int) -> None:
    """Assert that a dataset holds whole episodes of `Counter`, and the actions of `action_of` under a global clock."""
    episode, step, env = (dataset.index(name) for name in ("episode", "step", "env"))
    samples = dataset[:]
    assert len(np.unique(episode)) == episodes
    for number in np.unique(episode):
        rows = np.flatnonzero(episode == number)
        rows = rows[np.argsort(step[rows])]
        one = {name: value[rows] for name, value in samples.items()}
        last = len(rows) - 1
        np.testing.assert_array_equal(step[rows], np.arange(last + 1))
        np.testing.assert_array_equal(one["observation/step"], np.arange(last + 1))
        assert len({tuple(pair) for pair in one["observation/episode"]}) == 1
        offset, own = one["observation/episode"][0]
        assert offset == env[rows[0]]
        np.testing.assert_array_equal(one["reward"], [*(10 * own + np.arange(1, last + 1)), 0])
        np.testing.assert_array_equal(one["acted"], [True] * last + [False])
        ends = one["terminated"] + one["truncated"]
        assert ends[: last - 1].sum() == 0
        if last == 2 + (offset + own) % 4:  # the last one may be cut
            assert one["truncated"][last - 1] == own % 2
            assert one["terminated"][last - 1] == 1 - own % 2
        clock = np.round(one["action/push"][:last, 0] * 100).astype(int)
        np.testing.assert_array_equal(np.diff(clock), 1)
        np.testing.assert_array_equal(one["action/gear"][:last], 2 + clock % 3)
        if "info/lap" in one:
            np.testing.assert_array_equal(one["info/lap"][:last], np.arange(1, last + 1))
            np.testing.assert_array_equal(one["info/position"][:last, 0], np.arange(1, last + 1))
            assert one["info/where"][:last].tolist() == [b"grass" if t % 2 else b"road" for t in range(1, last + 1)]


def drive(env, episodes: int) -> None:
    clock = 0
    for _ in range(episodes):
        env.reset()
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(action_of(clock))
            over, clock = terminated or truncated, clock + 1


def test_a_single_environment(tmp_path):
    env = physgym.Recorder(Counter(), tmp_path / "a", every=7, infos=["where", "lap", "position"])
    drive(env, 9)
    env.reset()
    env.step(action_of(500))  # an episode that is left
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    check(dataset, 10)
    assert {part.count for part in dataset.partitions[:-1]} == {7}
    windows = dataset.windows(1, 1)
    assert len(windows) == dataset[:]["acted"].sum()  # each transition once, none across an end
    found = windows.gather(np.arange(len(windows)))
    np.testing.assert_array_equal(found["next_observation/step"], found["observation/step"] + 1)
    np.testing.assert_array_equal(found["next_observation/episode"], found["observation/episode"])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("ours", [False, True])
def test_vector_environments_in_every_mode(tmp_path, mode, ours):
    makers = [lambda offset=offset: Counter(offset) for offset in range(3)]
    inner = (
        physgym.SocketVectorEnv(makers, num_workers=0, autoreset_mode=mode)
        if ours
        else gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    )
    env = physgym.Recorder(inner, tmp_path / "a", infos=["lap", "where", "position"])
    env.reset(seed=5)
    for clock in range(31):
        actions = {"push": np.full((3, 1), clock / 100, np.float32), "gear": np.full(3, 2 + clock % 3)}
        _, _, terminated, truncated, _ = env.step(actions)
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    check(dataset, len(np.unique(dataset.index("episode"))))
    transitions = int(dataset[:]["acted"].sum())
    resets = 0 if mode is not AutoresetMode.NEXT_STEP else (3 * 31 - transitions)
    assert transitions + resets == 3 * 31
    assert (resets > 10) == (mode is AutoresetMode.NEXT_STEP)
    first = dataset.index("episode") < 3
    assert set(dataset.index("seed")[first]) == {5, 6, 7}


def test_a_recording_is_continued_with_further_episodes(tmp_path):
    for resume in (False, True):
        env = physgym.Recorder(Counter(), tmp_path / "a", resume=resume)
        drive(env, 3)
        env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    check(dataset, 6)
    with pytest.raises(DatasetError, match="resume"):
        drive(physgym.Recorder(Counter(), tmp_path / "a"), 1)


def test_an_environment_without_steps_leaves_nothing(tmp_path):
    env = physgym.Recorder(Counter(), tmp_path / "a")
    env.reset()
    env.close()
    assert not (tmp_path / "a").exists()


def test_wrong_use_is_an_error_that_names_it(tmp_path):
    env = physgym.Recorder(Counter(), tmp_path / "a", infos=["speed"])
    with pytest.raises(SampleError, match="call reset first"):
        env.step(action_of(0))
    env.reset()
    with pytest.raises(SampleError, match=r"no 'speed'; there are \['lap', 'position', 'where'\]"):
        env.step(action_of(0))
    env = physgym.Recorder(Counter(), tmp_path / "b")
    env.reset()
    with pytest.raises(SampleError, match="action/push has shape"):
        env.step({"push": np.zeros((2, 1), np.float32), "gear": 2})
    with pytest.raises(ConfigError, match="around a Gymnasium environment"):
        physgym.Recorder("CartPole-v1", tmp_path / "c")
    with pytest.raises(ConfigError, match="list of names"):
        physgym.Recorder(Counter(), tmp_path / "c", infos="lap")
    with pytest.raises(ConfigError, match="every"):
        physgym.Recorder(Counter(), tmp_path / "c", every=0)
    inner = gym.vector.SyncVectorEnv([Counter], autoreset_mode=AutoresetMode.DISABLED)
    vector = physgym.Recorder(inner, tmp_path / "d")
    vector.reset()
    actions = {"push": np.zeros((1, 1), np.float32), "gear": np.array([2])}
    vector.step(actions)
    vector.step(actions)
    with pytest.raises(SampleError, match=r"environments \[0\] have ended"):
        vector.step(actions)
    vector.close()


def test_texts_of_infos_are_never_cut(tmp_path):
    class Wordy(Counter):
        def step(self, action):
            *result, info = super().step(action)
            return *result, {**info, "where": "x" * (60 * self.t)}

    env = physgym.Recorder(Wordy(), tmp_path / "a", infos=["where"])
    env.reset()
    env.step(action_of(0))
    with pytest.raises(SampleError, match="'where' has a text of more than 64 bytes"):
        env.step(action_of(1))
    env.close()


@pytest.mark.slow
def test_under_the_loop_of_stable_baselines(tmp_path):
    from stable_baselines3 import DQN

    env = physgym.Recorder(gym.make("CartPole-v1"), tmp_path / "a", every=100)
    DQN("MlpPolicy", env, learning_starts=50, seed=0).learn(300)
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    assert dataset[:]["acted"].sum() == 300
    again = gym.make("CartPole-v1").unwrapped
    windows = dataset.windows(1, 1)
    for row in windows.gather(np.arange(0, len(windows), 29))["observation"][:, 0]:
        again.reset()
        again.state = row.astype(np.float64)
    found = windows.gather(np.arange(len(windows)))
    for number in range(0, len(windows), 17):
        again.state = found["observation"][number, 0].astype(np.float64)
        again.steps_beyond_terminated = None
        after = again.step(int(found["action"][number, 0]))[0]
        np.testing.assert_allclose(found["next_observation"][number, 0], after, atol=1e-5)


PROGRAM = """
import sys, itertools
from tests.rl.test_recorder import Counter, action_of
import physgym
env = physgym.Recorder(Counter(), sys.argv[1], every=50)
clock = itertools.count()
while True:
    env.reset()
    over = False
    while not over:
        _, _, one, other, _ = env.step(action_of(next(clock)))
        over = one or other
    print(env.log.rows, flush=True)
"""


@pytest.mark.slow
def test_what_was_committed_survives_a_kill(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert program.stdout is not None
    try:
        rows = int(program.stdout.readline())
        begin = time.monotonic()
        while time.monotonic() < begin + 1.5:
            rows = int(program.stdout.readline())
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait(10)
        program.stdout.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    assert 50 < len(dataset) <= rows + 2000
    whole = dataset.index("episode") < dataset.index("episode").max()
    check(
        physgym.SampleDataset(tmp_path / "a", rows=np.flatnonzero(whole)), len(np.unique(dataset.index("episode"))) - 1
    )
    env = physgym.Recorder(Counter(), tmp_path / "a", resume=True)
    drive(env, 2)
    env.close()
    assert len(physgym.SampleDataset(tmp_path / "a")) > len(dataset)
