"""The default number of workers: what a trial makes, steps and leaves as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from physgym import SocketVectorEnv
from physgym.envs.spring import Spring
from physgym.errors import SampleError, SharedMachine
from physgym.system.cores import usable_cores
from physgym.vector import trial
from physgym.worker.trial import KEEP, after_trial, measured

HERE = "here"
cores = pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")


class Noted(gym.Env):
    """Notes in a file what is done with it, and in which process."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, file):
        self.file = file
        self.note("made")

    def note(self, what):
        with Path(self.file).open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.note("reset")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.note("step")
        return self.np_random.random(2).astype(np.float32), 0.0, False, False, {}

    def close(self):
        self.note("closed")


class SlowToMake(Noted):
    def __init__(self, file):
        time.sleep(0.3)
        super().__init__(file)


class Costly(Noted):
    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


def noted(file):
    """Return how often what was done, in this process and in others."""
    lines = [line.split() for line in Path(file).read_text().splitlines()]
    return Counter((what, HERE if int(pid) == os.getpid() else "elsewhere") for what, pid in lines)


@pytest.fixture
def patient(monkeypatch):
    """Let a busy machine take its time."""
    monkeypatch.setattr(trial, "LONG_TO_MAKE", 20.0)
    monkeypatch.setattr(trial, "PATIENCE", 20.0)


class SlowToReset(Noted):
    """Takes its time at the beginning of each episode, and none for a step."""

    def reset(self, *, seed=None, options=None):
        time.sleep(0.06)
        return super().reset(seed=seed, options=options)


def test_a_reset_that_takes_long_is_what_is_measured(tmp_path):
    found = measured(SlowToReset(tmp_path / "notes"))
    assert found["of"] == "reset"
    assert 0.06 <= found["mean"] < 1
    assert found["computing"] < found["mean"]
    assert measured(Noted(tmp_path / "others"))["of"] == "step"


@pytest.mark.usefixtures("patient")
def test_cheap_environments_are_made_here_once_and_stepped_by_the_user_alone(tmp_path, caplog):
    file = tmp_path / "notes"
    monkey = np.random.default_rng(0)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the state that is to stay
    Noted.action_space.seed(5)
    before = random.getstate(), np.random.get_state()[1].tobytes(), dict(os.environ), Path.cwd()  # noqa: NPY002
    before_actions = Noted.action_space.np_random.bit_generator.state
    with (
        caplog.at_level(logging.INFO, "physgym.vector.autotune"),
        SocketVectorEnv([lambda: Noted(file)] * 2, context="fork") as envs,
    ):
        assert envs.num_workers == 0
        told = noted(file)
        assert told["made", HERE] == 2
        assert told["made", "elsewhere"] == told["closed", "elsewhere"] == 1
        assert 1 <= told["step", "elsewhere"] <= 200
        assert told["step", HERE] == told["reset", HERE] == 0
        envs.reset(seed=0)
        envs.step(monkey.integers(0, 2, 2))
    after = random.getstate(), np.random.get_state()[1].tobytes(), dict(os.environ), Path.cwd()  # noqa: NPY002
    assert before == after
    assert Noted.action_space.np_random.bit_generator.state == before_actions
    told = noted(file)
    assert (told["step", HERE], told["reset", HERE], told["closed", HERE]) == (2, 2, 2)
    assert "2 environments in this process (num_workers=0): a step of one takes" in caplog.text


@cores
@pytest.mark.parametrize(
    "context", ["fork", *(pytest.param(c, marks=pytest.mark.slow) for c in ("spawn", "forkserver"))]
)
def test_what_takes_long_to_make_is_made_once_in_workers(tmp_path, caplog, context):
    file = tmp_path / "notes"
    with (
        caplog.at_level(logging.INFO, "physgym.vector.autotune"),
        SocketVectorEnv([lambda: SlowToMake(file)] * 2, context=context) as envs,
    ):
        assert envs.num_workers == 2
        assert noted(file) == {("made", "elsewhere"): 2}
        envs.reset(seed=0)
        envs.step([0, 1])
    assert noted(file) == {(what, "elsewhere"): 2 for what in ("made", "reset", "step", "closed")}
    assert "2 worker processes: making one takes more than 50 ms" in caplog.text


def test_an_environment_is_kept_where_the_parent_has_decided_and_listens_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "addaudithook", lambda hook: None)  # which could not be taken away
    file = tmp_path / "notes"
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(KEEP)
    first, second = after_trial(theirs, [lambda: Noted(file)] * 2, 2)
    with contextlib.closing(first()):
        assert noted(file) == {("made", HERE): 1}
    with contextlib.closing(second()):
        assert noted(file) == {("made", HERE): 2, ("closed", HERE): 1}


@cores
@pytest.mark.usefixtures("patient")
def test_costly_steps_get_workers_after_one_extra_environment(tmp_path):
    file = tmp_path / "notes"
    with SocketVectorEnv([lambda: Costly(file)] * 2, context="fork") as envs:
        assert envs.num_workers == 2
        told = noted(file)
        assert (told["made", "elsewhere"], told["closed", "elsewhere"], told["made", HERE]) == (3, 1, 0)
        assert told["step", "elsewhere"] <= 6  # 50 ms


class Broken(Noted):
    def step(self, action):
        raise ValueError("no mesh")


class Asking(Noted):
    predictor = None

    def step(self, action):
        self.predictor({"x": np.zeros(1)})
        return super().step(action)


class Starting(Noted):
    def __init__(self, file):
        super().__init__(file)
        self.child = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.DEVNULL)

    def close(self):
        self.child.kill()
        self.child.wait()


class Dying(Noted):
    def step(self, action):
        os._exit(5)


class Hanging(Noted):
    def step(self, action):
        time.sleep(100)


@cores
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Broken, "ValueError in the trial"),
        (Asking, "SampleError in the trial"),
        (Starting, "one wants a process of its own"),
        (Dying, "the process of the trial ended"),
        (Hanging, "a reset or a step takes long"),
    ],
)
def test_whatever_goes_wrong_in_a_trial_means_workers(tmp_path, caplog, monkeypatch, kind, why):
    if kind is Hanging:
        monkeypatch.setattr(trial, "PATIENCE", 0.1)
    file = tmp_path / "notes"
    with (
        caplog.at_level(logging.INFO, "physgym.vector.autotune"),
        SocketVectorEnv([lambda: kind(file)] * 2, context="fork") as envs,
    ):
        assert envs.num_workers == 2
        assert why in caplog.text
        assert envs.reset(seed=0)[0].shape == (2, 2)
        if kind is Broken:
            with pytest.raises(ValueError, match="no mesh"):
                envs.step([0, 0])
    assert noted(file)["made", HERE] == 0


@cores
@pytest.mark.usefixtures("patient")
def test_an_error_of_a_constructor_is_raised_as_it_is_and_comes_once(tmp_path):
    file = tmp_path / "notes"

    def unfit():
        Noted(file).close()
        raise LookupError("no licence")

    with pytest.raises(LookupError, match=r"environment \d raised LookupError in construction: no licence"):
        SocketVectorEnv([unfit] * 2, context="fork")
    assert noted(file)["made", "elsewhere"] <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_what_may_exist_once_is_found_out_from_the_environment_that_is_made():
    def single(of):
        def make():
            env = Spring()
            env.metadata = {**env.metadata, "physgym.single": of}
            return env

        return make

    with SocketVectorEnv([single("process")] * 3, context="fork") as envs:
        assert envs.num_workers == 3
    with pytest.raises(SharedMachine):
        SocketVectorEnv([single("machine")] * 2, context="fork")


def test_a_prediction_without_a_network_is_the_users_error_not_the_constructors(tmp_path):
    with SocketVectorEnv([lambda: Asking(tmp_path / "notes")], context="fork") as envs:
        envs.reset()
        with pytest.raises(SampleError, match="no network"):
            envs.step([0])


class Moving(Noted):
    """Goes to a folder of its own in its constructor, slowly."""

    def __init__(self, file):
        time.sleep(0.1)
        super().__init__(file)
        os.chdir(Path(file).parent)

    def step(self, action):
        return (*super().step(action)[:4], {"folder": str(Path.cwd())})


def test_the_environment_that_stays_keeps_its_working_folder(tmp_path):
    with SocketVectorEnv([lambda: Moving(tmp_path / "notes")], context="fork") as envs:
        assert envs.num_workers == 1
        envs.reset(seed=0)
        assert envs.step([0])[4]["folder"][0] == str(tmp_path.resolve())
    assert Path.cwd() != tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_a_trial_leaves_no_process_with_every_start_method(tmp_path, context):
    file = tmp_path / "notes"
    with SocketVectorEnv([lambda: Noted(file)] * 2, context=context) as envs:
        assert envs.num_workers == 0
    made = {int(line.split()[1]) for line in file.read_text().splitlines()} - {os.getpid()}
    assert len(made) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in made)


def test_steps_that_wait_are_told_from_those_that_compute(tmp_path):
    waiting = measured(Costly(tmp_path / "waiting"))
    assert waiting["mean"] > 0.01
    assert waiting["computing"] < waiting["mean"] / 2

    class Computing(Noted):
        def step(self, action):
            end = time.process_time() + 0.01
            while time.process_time() < end:
                pass
            return super().step(action)

    computing = measured(Computing(tmp_path / "computing"))
    assert computing["computing"] > 0.009


class Threaded(Noted):
    """Starts a thread in other processes that goes on after the end."""

    def __init__(self, file, here):
        super().__init__(file)
        if os.getpid() != here:
            threading.Thread(target=time.sleep, args=(100,)).start()


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_trial_that_has_closed_its_environment_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "CLOSE_TIMEOUT", 100.0)
    file, here, start = tmp_path / "notes", os.getpid(), time.monotonic()
    SocketVectorEnv([lambda: Threaded(file, here)], context="spawn").close()
    assert time.monotonic() - start < 90
    assert noted(file)["closed", "elsewhere"] >= 1
