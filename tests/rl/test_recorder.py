"""What a Recorder writes is what happened, in every mode of autoreset and under every library's loop."""

from __future__ import annotations

import os
import shutil
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
from tests.generation.test_kill_generation import committed


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


class Faulty(Counter):
    """Does something wrong in one of its steps."""

    def __init__(self, offset: int = 0, at: int = 2, wrong: str = "raise"):
        super().__init__(offset)
        self.at, self.wrong, self.steps = at, wrong, 0

    def step(self, action):
        self.steps += 1
        result = super().step(action)
        if self.steps == self.at:
            if self.wrong == "raise":
                raise RuntimeError("it broke in the middle of its step")
            if self.wrong == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            self.array[:] = np.nan
        return result


def actions_of(clock: int, count: int) -> dict:
    return {"push": np.full((count, 1), clock / 100, np.float32), "gear": np.full(count, 2 + clock % 3)}


def test_a_step_that_breaks_is_recorded_by_nobody(tmp_path):
    env = physgym.Recorder(Faulty(0), tmp_path / "a")
    env.reset(seed=np.int64(3))
    env.step(action_of(0))
    with pytest.raises(RuntimeError, match="in the middle"):
        env.step(action_of(1))
    with pytest.raises(SampleError, match="call reset first"):  # where it is now, nobody knows
        env.step(action_of(2))
    drive(env, 1)
    env.close()
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    check(dataset, 2)
    assert dataset[:]["acted"].tolist()[:2] == [True, False]
    assert set(dataset.index("seed").tolist()) == {0, 3}

    vector = physgym.Recorder(gym.vector.SyncVectorEnv([lambda: Counter(0), lambda: Faulty(1)]), tmp_path / "b")
    vector.reset(seed=np.array([4, 5]))
    vector.step(actions_of(0, 2))
    with pytest.raises(RuntimeError, match="in the middle"):
        vector.step(actions_of(1, 2))
    with pytest.raises(SampleError, match="call reset first"):
        vector.step(actions_of(2, 2))
    vector.reset()
    vector.step(actions_of(3, 2))
    vector.close()
    vector.close()
    dataset = physgym.SampleDataset(tmp_path / "b")
    check(dataset, 4)
    assert len(dataset) == 8
    assert set(dataset.index("seed").tolist()) == {0, 4, 5}


def test_a_value_that_is_not_finite_is_an_error_in_its_step(tmp_path):
    env = physgym.Recorder(Faulty(2, wrong="nan"), tmp_path / "a")
    env.reset()
    env.step(action_of(0))
    env.step(action_of(1))
    with pytest.raises(SampleError, match=r"observation/episode of environment 0 is not finite in step 2 .*'reject|ct"):
        env.step(action_of(2))
    with pytest.raises(SampleError, match="call reset first"):
        env.step(action_of(3))
    env.close()
    env = physgym.Recorder(Faulty(2, wrong="nan"), tmp_path / "b", nonfinite="reject")
    env.reset()
    for clock in range(4):
        env.step(action_of(clock))
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "b")
    assert dataset.index("step").tolist() == [0, 1, 3, 4]
    windows = dataset.windows(1, 1)
    assert windows.gather(np.arange(len(windows)))["action/push"][:, 0, 0].tolist() == pytest.approx([0.0, 0.03])


@pytest.mark.parametrize(("said", "text"), [(None, "do not say how it resets"), ("Never", "do not say how it resets")])
def test_how_a_vector_environment_resets_is_never_guessed(tmp_path, said, text):
    env = gym.vector.SyncVectorEnv([Counter], autoreset_mode=AutoresetMode.SAME_STEP)
    env.metadata = {} if said is None else {"autoreset_mode": said}
    with pytest.raises(ConfigError, match=text):
        physgym.Recorder(env, tmp_path / "a")


@pytest.mark.parametrize("said", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_environment_that_resets_in_another_way_is_an_error(tmp_path, said):
    modes = {AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP}
    inner = gym.vector.SyncVectorEnv([Counter], autoreset_mode=(modes - {said}).pop())
    inner.metadata = {"autoreset_mode": said}
    env = physgym.Recorder(inner, tmp_path / "a")
    env.reset()
    env.step(actions_of(0, 1))
    with pytest.raises(SampleError, match=f"autoreset mode is {said.name}"):
        env.step(actions_of(1, 1))
    env.close()


def test_a_killed_recording_of_several_environments_goes_on_with_episodes_of_its_own(tmp_path):
    def vector(path, resume):
        makers = [lambda offset=offset: Counter(offset) for offset in range(3)]
        env = physgym.Recorder(gym.vector.SyncVectorEnv(makers), path, every=25, resume=resume)
        env.reset()
        for clock in range(16):
            env.step(actions_of(clock, 3))
        return env

    env = vector(tmp_path / "a", False)
    env.log._writer.commit()
    shutil.copytree(tmp_path / "a", tmp_path / "killed")  # in the middle of the episodes of all environments
    env.close()
    before = physgym.SampleDataset(tmp_path / "killed")
    kept, names = before[:], (before.index("episode"), before.index("step"))
    vector(tmp_path / "killed", True).close()
    dataset = physgym.SampleDataset(tmp_path / "killed")
    assert all((before.index(name) == one).all() for name, one in zip(("episode", "step"), names, strict=True))
    for name, value in kept.items():
        np.testing.assert_array_equal(dataset[: len(value)][name], value)
    new = np.flatnonzero(dataset.index("episode") > names[0].max())
    assert len(new) == len(dataset) - len(before)
    further = physgym.SampleDataset(tmp_path / "killed", rows=new)
    check(further, len(np.unique(further.index("episode"))))
    windows = dataset.windows(1, 1)  # rows of three environments lie in turn
    found = windows.gather(np.arange(len(windows)))
    np.testing.assert_array_equal(found["next_observation/step"], found["observation/step"] + 1)
    np.testing.assert_array_equal(found["next_observation/episode"], found["observation/episode"])
    cut = len(np.unique(names[0])) - (kept["acted"] == 0).sum()  # whose last transition has no next observation
    assert len(windows) == dataset[:]["acted"].sum() - cut
    assert cut == 3


def test_a_damaged_dataset_is_not_continued(tmp_path):
    env = physgym.Recorder(Counter(), tmp_path / "a")
    drive(env, 2)
    env.close()
    with pytest.raises(DatasetError, match=r"resume=True, or choose another folder"):
        physgym.Recorder(Counter(), tmp_path / "a")
    with pytest.raises(ConfigError, match="mode"):
        physgym.Recorder(Counter(), tmp_path / "a", mode="other", resume=True)
    other = physgym.Recorder(Counter(), tmp_path / "a", resume=True, infos=["lap"])
    other.reset()
    with pytest.raises(DatasetError, match="info/lap"):
        other.step(action_of(0))


def test_seeds_and_observations_that_cannot_be_stored(tmp_path):
    env = physgym.Recorder(Counter(), tmp_path / "a")
    with pytest.raises(SampleError, match="seeds from 0 to"):
        env.reset(seed=2**64)

    class Half(Counter):
        def _seen(self):
            return {"step": self.t}

    with pytest.raises(SampleError, match=r"observation .* does not fit its space"):
        physgym.Recorder(Half(), tmp_path / "a").reset()


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_worker_that_was_started_again_leaves_no_step(tmp_path, mode):
    makers = [lambda: Counter(0), lambda: Faulty(1, at=7, wrong="die"), lambda: Counter(2)]
    inner = physgym.SocketVectorEnv(makers, num_workers=3, autoreset_mode=mode, on_error="restart")
    env = physgym.Recorder(inner, tmp_path / "a", infos=["lap", "where", "position"])
    env.reset(seed=1)
    restarted = 0
    for clock in range(12):
        _, _, terminated, truncated, infos = env.step(actions_of(clock, 3))
        restarted += int("worker_restarted" in infos)
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    env.close()
    assert restarted >= 1
    dataset = physgym.SampleDataset(tmp_path / "a")
    check(dataset, len(np.unique(dataset.index("episode"))))


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
        while time.monotonic() < begin + 1.5 or committed(tmp_path / "a") <= 50:
            rows = int(program.stdout.readline())
            assert time.monotonic() < begin + 60
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait(60)
        *said, _ = program.stdout.read().split(b"\n")  # it went on meanwhile; the last line may be half of one
        program.stdout.close()
    rows = int(said[-1]) if said else rows
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
