"""Generation by workers that dial in: the samples are those of one process, whoever comes and goes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import physgym
from physgym import SocketVectorEnv
from physgym.errors import WorkerError
from physgym.machines.dialled_worker import DONE, LOST, NOBODY, REFUSED
from physgym.vector.make import env_factory
from tests.machines.test_reception import soon
from tests.support.machines import digests, listening, offers, settings_for, started, workers
from tests.support.relay import Relay
from tests.support.toys import Line, hold
from tests.support.vectors import same
from tests.support.watching import until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*Others run its episodes again:RuntimeWarning")]

PAUSE = "PHYSGYM_TEST_PAUSE"
HELD = "PHYSGYM_TEST_HELD"  # a folder
AT = 10  # the reset of a process in which it is held
SLOW = "tests.machines.test_dialled_worker:Slow"
LONG = "tests.machines.test_dialled_worker:Long"


class Slow(Line):
    """An environment whose steps take a while in workers that dial in, and which may be held in an episode."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        Slow.resets += 1
        if HELD in os.environ and Slow.resets == AT:
            hold(Path(os.environ[HELD]))
        return super().reset(seed=seed, options=options)

    def step(self, action):
        time.sleep(float(os.environ.get(PAUSE, 0)))
        return super().step(action)


class Long(Slow):
    """The same with episodes of 30 steps."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.count == 30, info


class Other(Line):
    """An environment of other spaces."""

    action_space = gym.spaces.Box(-2, 2, (3,), np.float32)


class Counted:
    """The number of workers that a reception has given work."""

    def __init__(self, reception):
        self.count, take = 0, reception.take

        def counted(number):
            caller = take(number)
            self.count += caller is not None
            return caller

        reception.take = counted

    def wait(self, count=1):
        deadline = time.monotonic() + 60
        while self.count < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)  # some episodes


@pytest.fixture(autouse=True)
def _slowly(monkeypatch):
    monkeypatch.setenv(PAUSE, "0.008")


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Hold workers in an episode: the folder in which they say that they are there."""
    folder = tmp_path / "held"
    folder.mkdir()
    monkeypatch.setenv(HELD, str(folder))
    return folder


def generated(folder, env, samples=500, **options):
    physgym.generate(env, folder, samples=samples, seed=5, actions="uniform", **options)
    return digests(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with pytest.MonkeyPatch.context() as here:
        here.setenv(PAUSE, "0")
        return generated(tmp_path_factory.mktemp("here") / "data", SLOW, num_workers=0)


@pytest.mark.parametrize("plain", [False, True])
def test_samples_are_those_of_one_process(tmp_path, reference, plain):
    with listening(tmp_path, plain=plain) as reception:
        settings = settings_for(reception, tmp_path, envs=[SLOW], count=2)
        with workers(settings, 2) as processes:
            assert generated(tmp_path / "data", SLOW, launcher=reception) == reference
            reception.close()
            assert [process.wait(60) for process in processes] == [DONE, DONE]


def test_workers_join_leave_and_are_killed(tmp_path, reference, held):
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=[SLOW])
        over, taken = threading.Event(), Counted(reception)

        here = [started(settings), started(settings)]

        def replace():
            taken.count -= 1
            here.append(started(settings))
            here[0].send_signal(signal.SIGKILL)
            here.pop(0).communicate(timeout=60)

        def come_and_go():
            try:
                until(lambda: len([*held.iterdir()]) == 2)  # each has episodes that it does not end
                replace()
            finally:
                (held / "go").touch()
            while not over.wait(0.3):
                if taken.count > 1:  # those that work are killed, one after the other
                    replace()
            for process in here:
                process.kill()
                process.communicate(timeout=60)

        soon(lambda: offers(reception) == 2)
        thread = threading.Thread(target=come_and_go)
        thread.start()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                assert generated(tmp_path / "data", SLOW, launcher=reception) == reference
        finally:
            over.set()
            thread.join(60)
        assert any("Others run its episodes again" in str(one.message) for one in said)


def test_the_only_worker_is_killed_and_another_one_comes(tmp_path, reference, held):
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=[SLOW])
        first = started(settings)

        def replace():
            until((held / str(first.pid)).exists)
            first.kill()
            first.communicate(timeout=60)
            time.sleep(0.5)
            (held / "go").touch()
            later.append(started(settings))

        later: list = []
        thread = threading.Thread(target=replace)
        thread.start()
        try:
            assert generated(tmp_path / "data", SLOW, launcher=reception) == reference
        finally:
            thread.join(60)
            for process in later:
                process.kill()
                process.communicate(timeout=60)


@pytest.mark.filterwarnings("ignore:worker . does not join:RuntimeWarning")  # where a link is cut meanwhile
@pytest.mark.parametrize("how", ["delay", "throttle", "stall", "cut", "half close"])
def test_bad_links_change_no_byte(tmp_path, reference, how):
    delay, rate = (0.02 if how == "delay" else 0.0), (30_000 if how == "throttle" else None)
    with listening(tmp_path) as reception, Relay(tuple(reception.address), delay, rate) as relay:
        over, taken = threading.Event(), Counted(reception)

        def disturb():
            taken.wait(2)  # a link that is cut before its worker has dialled in would be none
            while not over.wait(0.5):
                if how == "stall":
                    relay.stalled.set()
                    over.wait(0.5)
                    relay.stalled.clear()
                elif how == "cut":
                    relay.cut()
                elif how == "half close":
                    relay.half_close()
            relay.stalled.clear()

        bad = settings_for(reception, tmp_path, envs=[SLOW], address=relay.address)
        good = settings_for(reception, tmp_path, envs=[SLOW])
        thread = threading.Thread(target=disturb)
        with workers(bad), workers(good):
            soon(lambda: offers(reception) == 2)
            thread.start()
            try:
                assert generated(tmp_path / "data", SLOW, launcher=reception) == reference
            finally:
                over.set()
                thread.join(30)


def test_a_worker_that_is_stopped_is_given_up_also_where_all_others_wait_for_its_episode(tmp_path, monkeypatch):
    monkeypatch.setenv(PAUSE, "0")
    reference = generated(tmp_path / "here", LONG, num_workers=0, samples=50, max_steps=30)
    with listening(tmp_path) as reception:
        settings, taken = settings_for(reception, tmp_path, envs=[LONG]), Counted(reception)

        def stop_the_first():
            taken.wait(2)  # the second one makes what is wanted of the second episode, and waits
            first.send_signal(signal.SIGSTOP)

        monkeypatch.setenv(PAUSE, "1")
        with workers(settings) as (first,):
            assert reception.first(30) == 1
            monkeypatch.setenv(PAUSE, "0.001")
            thread = threading.Thread(target=stop_the_first)
            thread.start()
            with workers(settings), pytest.warns(RuntimeWarning, match=r"no answer for 5 s"):
                found = generated(tmp_path / "there", LONG, launcher=reception, timeout=5.0, samples=50, max_steps=30)
            thread.join(60)
    assert found == reference


def test_another_simulation_is_turned_away_and_the_rest_goes_on(tmp_path, monkeypatch, reference):
    with listening(tmp_path) as reception:
        good = settings_for(reception, tmp_path, envs=[SLOW])
        refusing = settings_for(reception, tmp_path, envs=["tests.support.toys:Line"])
        with workers(good):
            assert reception.first(30) == 1
            with workers(refusing) as (other,):
                soon(lambda: offers(reception) == 2)  # it may come too late otherwise
                with pytest.warns(RuntimeWarning, match="does not make"):
                    found = generated(tmp_path / "data", SLOW, launcher=reception)
                assert found == reference
                assert other.wait(30) == REFUSED
                assert b"it allows tests.support.toys:Line" in other.communicate()[1]


def test_steps_are_those_of_the_sync_vector_env(tmp_path):
    factories = [env_factory("CartPole-v1", {}) for _ in range(4)]
    reference = SyncVectorEnv(factories)
    with (
        listening(tmp_path) as reception,
        workers(settings_for(reception, tmp_path, envs=["CartPole-v1"], count=2), 2),
        SocketVectorEnv(factories, num_workers=2, launcher=reception, timeout=60) as ours,
    ):
        same(reference.reset(seed=7), ours.reset(seed=7))
        reference.action_space.seed(1)
        for _ in range(60):
            actions = reference.action_space.sample()
            same(reference.step(actions), ours.step(actions))
    reference.close()


def test_a_vector_env_takes_no_workers_of_other_arguments(tmp_path):
    with listening(tmp_path) as reception, contextlib.ExitStack() as stack:
        for length in (3, 4):
            fixed = {"max_episode_steps": length}
            stack.enter_context(workers(settings_for(reception, tmp_path, envs=["CartPole-v1"], fixed=fixed)))
        with pytest.raises(WorkerError, match=r"other arguments \(--arg\) \(max_episode_steps=. in place of max"):
            SocketVectorEnv([env_factory("CartPole-v1", {})] * 2, num_workers=2, launcher=reception, timeout=60)


def test_a_vector_env_takes_another_worker_for_one_that_is_killed(tmp_path):
    factories = [env_factory("CartPole-v1", {}) for _ in range(2)]
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=["CartPole-v1"])
        with (
            workers(settings, 2) as processes,
            SocketVectorEnv(factories, num_workers=2, launcher=reception, timeout=60, on_error="restart") as envs,
        ):
            envs.reset(seed=1)
            processes[0].kill()
            with workers(settings):
                infos = [envs.step(np.zeros(2, np.int64))[4] for _ in range(3)]
                assert envs.restarts == 1
                assert sum("worker_restarted" in info for info in infos) == 1


def test_nobody_who_comes_is_an_error(tmp_path):
    with listening(tmp_path) as reception:
        with pytest.raises(WorkerError, match=r"no worker has connected within 0\.3 s"):
            generated(tmp_path / "data", SLOW, launcher=reception, timeout=0.3)
        assert not list(tmp_path.glob("data/*.h5"))


def test_nobody_who_is_left_is_an_error_and_what_there_is_stays(tmp_path, held):
    with listening(tmp_path) as reception, workers(settings_for(reception, tmp_path, envs=[SLOW])) as (only,):
        assert reception.first(30) == 1
        timer = threading.Thread(target=lambda: (until((held / str(only.pid)).exists), only.kill()))
        timer.start()
        with pytest.raises(WorkerError, match="there are episodes left, and no worker for 4 s"):
            generated(tmp_path / "data", SLOW, samples=100_000, launcher=reception, timeout=4.0)
        timer.join()
    assert len(physgym.SampleDataset(tmp_path / "data")) > 0


def test_a_worker_whose_parent_is_not_there_says_so(tmp_path):
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, patience=0.5)
    process = started(settings)
    assert process.wait(60) == NOBODY
    assert b"no parent answers at 127.0.0.1" in process.communicate()[1]


def said_by_one(settings, status):
    process = started(settings)
    assert process.wait(60) == status
    return process.communicate()[1].decode()


def test_a_worker_that_speaks_no_tls_says_which_option_to_leave_out(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.machines.reception.STRANGER_SECONDS", 0.3)  # before the worker loses its patience
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, patience=0.5, plain=True, fingerprint="")
        assert "or speaks TLS: leave --plain out, and give --fingerprint" in said_by_one(settings, NOBODY)


def test_a_worker_without_a_fingerprint_says_that_it_needs_one(tmp_path):
    with listening(tmp_path) as reception:
        said = said_by_one(settings_for(reception, tmp_path, fingerprint=""), REFUSED)
        assert "Give --fingerprint as the run has printed it" in said


def test_a_worker_ends_with_a_killed_parent(tmp_path):
    with listening(tmp_path) as reception:
        process = started(settings_for(reception, tmp_path))
        assert reception.first(30) == 1
        caller = reception.take(1)
        caller.channel.sock.close()  # without a goodbye
        assert process.wait(60) == LOST
        process.communicate()
