"""Ctrl-C at any moment, calls in odd orders, errors in between: what follows is right, or an error says why not."""

from __future__ import annotations

import random
import select
import signal
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ClosedError, ConfigError, PendingCallError, SampleError, WorkerError
from tests.support import toys
from tests.support.watching import until
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

KILL, SLOW, RAISE, ASK, STOP = 66, 77, 13, 22, 9


class Toy(gym.Env):
    """Observes its index and its count of steps, as numbers or as text; does what its action says."""

    action_space = spaces.Discrete(100)
    env_index = 0
    predictor = None

    def __init__(self, text=False, flag=None):
        numbers = spaces.Box(-1, 1e9, (2,), np.float64)
        self.observation_space = spaces.Dict(n=numbers, t=spaces.Text(20)) if text else numbers
        self.text, self.flag = text, flag

    def _observe(self):
        numbers = np.array([self.env_index, self.count], np.float64)
        return {"n": numbers, "t": f"{self.env_index}-{self.count}"} if self.text else numbers

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.flag is not None and Path(self.flag).exists():
            Path(self.flag).unlink()
            raise OSError("no licence")
        self.count, self.options = 0, options
        return self._observe(), {"c": 0}

    def step(self, action):
        if action == KILL:
            import os

            os.kill(os.getpid(), signal.SIGKILL)
        if action == SLOW:
            time.sleep(0.7)
        if action == RAISE:
            raise ValueError("refused")
        if action == ASK:
            self.predictor({"x": np.zeros(1)})
        self.count += 1
        value = 2.5 if self.env_index else 1  # whoever comes first decides on the dtype
        return self._observe(), 1.0, False, False, {"c": self.count, "mixed": value}


def toys_of(n, **kwargs):
    return [lambda: Toy(**kwargs) for _ in range(n)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_several_values_of_variable_size_arrive_at_once(num_workers):
    with SocketVectorEnv(toys_of(3, text=True), num_workers=num_workers) as envs:
        envs.reset()
        envs.send([1, 1, 1])
        obs, *_, ids = envs.recv(3)
        assert obs["t"] == tuple(f"{i}-1" for i in ids)
        assert obs["n"][:, 0].tolist() == ids.tolist()


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # within a callback of a weak reference
@pytest.mark.parametrize("kwargs", [{}, {"shared_memory": False}, {"num_workers": 0}])
@pytest.mark.parametrize("way", ["step", "send"])
def test_an_interrupt_at_a_random_moment(kwargs, way):
    rng = random.Random(1)
    armed = False

    def interrupt(*_):
        if armed:
            raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    hits = broken = 0
    envs = SocketVectorEnv(
        toys_of(4), timeout=60, on_error="restart", max_restarts=10**6, context="fork", **{"num_workers": 2, **kwargs}
    )
    try:
        envs.reset(seed=0)
        for _ in range(120):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 2e-3))
                for _ in range(3000):
                    if way == "step":
                        envs.step([1] * 4)
                    else:
                        if idle := sorted({0, 1, 2, 3} - envs._runner.in_flight()):
                            envs.send([1] * len(idle), idle)
                        envs.recv(2)
            except Interrupted:
                hits += 1
            finally:
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            restarts = envs.restarts
            start = time.monotonic()
            obs, infos = envs.reset(seed=0)
            broken += envs.restarts > restarts
            assert time.monotonic() - start < 50
            assert obs.tolist() == [[i, 0] for i in range(4)]
            assert infos["c"].tolist() == [0] * 4
            for count in (1, 2):
                obs, _, _, truncated, infos = envs.step([1] * 4)
                assert obs[:, 1].tolist() == [count] * 4
                assert infos["c"].tolist() == [count] * 4
                assert not truncated.any()
    finally:
        signal.signal(signal.SIGALRM, before)
        envs.close()
    assert hits > 60
    assert broken < 0.8 * hits  # a worker is ended only where the interrupt fell into the middle of a message


@pytest.mark.slow
def test_an_interrupted_prediction_is_asked_again():
    first = [True]

    def predictor(batch):
        if first:
            first.pop()
            raise KeyboardInterrupt
        return batch

    with SocketVectorEnv(toys_of(2), num_workers=2, timeout=60, predictor=predictor) as envs:
        envs.reset()
        with pytest.raises(KeyboardInterrupt):
            envs.step([ASK, ASK])
        start = time.monotonic()
        assert envs.reset()[0][:, 1].tolist() == [0, 0]
        assert envs.step([ASK, 1])[0][:, 1].tolist() == [1, 1]
        first.append(True)
        with pytest.raises(KeyboardInterrupt):
            envs.step([ASK, ASK])
        envs.close()
        assert time.monotonic() - start < 50


class HeldInStep(Toy):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def step(self, action):
        toys.hold(self.folder)


def test_closing_while_another_thread_waits(tmp_path):
    envs = SocketVectorEnv([lambda: HeldInStep(tmp_path)] * 2, num_workers=2, timeout=100)
    envs.reset()
    seen = []

    def step():
        try:
            envs.step([1, 1])
        except (ClosedError, WorkerError) as error:
            seen.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    until(lambda: len([*tmp_path.iterdir()]) == 2)  # it waits for both
    with pytest.warns(UserWarning, match="pending call to `step`"):
        envs.close(timeout=0.1)
    thread.join(60)
    assert not thread.is_alive()


def test_a_refused_send_loses_nothing():
    with SocketVectorEnv(toys_of(2), num_workers=2) as envs:
        envs.reset()
        envs.send([KILL], [1])
        with pytest.raises(WorkerError, match="SIGKILL"):
            envs.recv()
        envs.send([1], [0])
        with pytest.raises(WorkerError, match="gone since an earlier error"):
            envs.send([1], [1])
        assert envs.recv()[0].tolist() == [[0, 1]]
        envs.send([SLOW], [0])
        envs.restart_workers()
        assert envs.recv()[0].tolist() == [[0, 2]]
        envs.reset()
        assert envs.step([1, 1])[0].tolist() == [[0, 1], [1, 1]]


def test_an_error_with_nothing_else_in_flight_ends_the_sending():
    with SocketVectorEnv(toys_of(2), num_workers=2) as envs:
        envs.reset()
        envs.send([RAISE], [1])
        with pytest.raises(ValueError, match="refused"):
            envs.recv()
        assert envs.get_attr("env_index") == (0, 1)
        assert envs.step([1, 1])[0][:, 1].tolist() == [1, 0]


def test_all_environments_that_raised_are_named():
    with SocketVectorEnv(toys_of(4), num_workers=2) as envs:
        envs.reset()
        with pytest.raises(WorkerError) as caught:
            envs.step([RAISE, 1, RAISE, RAISE])
        assert caught.value.env_indices == (0, 2, 3)


@pytest.mark.slow
def test_a_worker_that_cannot_be_started_again_can_be_later(tmp_path):
    flag = tmp_path / "flag"

    def make():
        if flag.exists():
            raise RuntimeError("no licence")
        return Toy()

    for kwargs in ({}, {"transport": "tcp"}):
        with SocketVectorEnv([make] * 2, num_workers=2, **kwargs) as envs:
            envs.reset()
            with pytest.raises(WorkerError):
                envs.step([1, KILL])
            flag.touch()
            with pytest.raises(RuntimeError, match="no licence"):
                envs.restart_workers()
            flag.unlink()
            with pytest.raises(WorkerError, match="restart_workers"):
                envs.reset()
            envs.restart_workers()
            assert envs.reset()[0].tolist() == [[0, 0], [1, 0]]


@pytest.mark.slow
def test_no_time_is_time_enough_for_what_is_there():
    with SocketVectorEnv(toys_of(2), num_workers=2) as envs:
        envs.reset()
        envs.step_async([1, 1])
        for worker in envs._pool.workers:
            assert select.select([worker.channel.fileno()], [], [], 60)[0]  # its answer is there
        assert envs.step_wait(timeout=0)[0][:, 1].tolist() == [1, 1]
        envs.send([SLOW, 1])
        with pytest.raises(TimeoutError):
            envs.recv(2, timeout=0)


@pytest.mark.parametrize("predictor", [None, lambda batch: batch])
def test_infos_do_not_depend_on_who_is_faster(predictor):
    with SocketVectorEnv(toys_of(2), num_workers=2, predictor=predictor) as envs:
        envs.reset()
        infos = envs.step([SLOW, 1])[4]
    assert infos["mixed"].tolist() == [1, 2.5]
    assert infos["mixed"].dtype == object


def test_a_masked_reset_after_a_restart_keeps_what_was_last_seen():
    for kwargs in ({}, {"shared_memory": False}):
        options = {"num_workers": 1, "on_error": "restart", "autoreset_mode": "Disabled", "context": "fork"}
        with SocketVectorEnv(toys_of(2, text=True), **options, **kwargs) as envs:
            envs.reset()
            envs.step([1, 1])
            envs.step([1, KILL])
            obs, _ = envs.reset(options={"reset_mask": np.array([True, False])})
            assert obs["t"] == ("0-0", "1-1")
            assert obs["n"].tolist() == [[0, 0], [1, 1]]


def test_a_repeated_reset_has_its_options(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    with SocketVectorEnv(toys_of(1, flag=flag), num_workers=1, on_error="restart", context="fork") as envs:
        envs.reset(seed=3, options={"a": 1})
        assert envs.get_attr("options") == ({"a": 1},)


def test_wrong_arguments_of_reset_leave_what_is_in_flight():
    with SocketVectorEnv(toys_of(2), num_workers=2) as envs:
        envs.reset()
        envs.send([1, 1])
        with pytest.raises(ConfigError, match="num_envs=2"):
            envs.reset(seed=[1])
        assert envs.recv(2)[0].shape == (2, 2)


def test_an_environment_that_does_not_close_does_not_keep_the_others():
    closed = []

    class Stubborn(Toy):
        def close(self):
            closed.append(self.env_index)
            if self.env_index == 0:
                raise OSError("busy")

    envs = SocketVectorEnv([Stubborn] * 3, num_workers=0)
    with pytest.raises(OSError, match="environment 0 raised OSError in close: busy") as caught:
        envs.close()
    assert isinstance(caught.value, WorkerError)
    assert closed == [0, 1, 2]


def test_a_rollout_that_another_call_ends_says_so():
    with SocketVectorEnv([toys.Line] * 2, num_workers=2) as envs:
        rollout = envs.rollout(((i, i) for i in range(500)), max_steps=4, max_rejects=3)
        next(rollout)
        envs.reset()
        with pytest.raises(PendingCallError, match="ended this rollout"):
            list(rollout)
        with pytest.raises(ConfigError, match="pairs of different integers"):
            list(envs.rollout([(1, 1), (1, 1)], max_steps=4, max_rejects=3))


class FailsLater(toys.Line):
    """Fails in all episodes but the first ones; the fourth is slow."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def reset(self, *, seed=None, options=None):
        from physgym.episode import episode_seed

        seeds = [episode_seed(0, i) for i in range(5)]
        self.good = seed in seeds
        if seed == seeds[3]:
            time.sleep(1)
        if not self.good and self.mode == "raise":
            raise ValueError("diverged")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        *results, info = super().step(action)
        return *results, info if self.good else {"rejected": "diverged"}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kind"), [("raise", ValueError), ("reject", SampleError)])
def test_episodes_that_nobody_needs_may_fail(tmp_path, mode, kind):
    stored = []
    for workers in (0, 1, 2):
        path = tmp_path / f"{mode}{workers}"
        options = {"env_kwargs": {"mode": mode}, "num_envs": 2, "num_workers": workers, "progress": False}
        dataset = physgym.generate(FailsLater, path, samples=20, max_rejects=3, **options)
        assert len(dataset) == 20
        with pytest.raises(kind, match="diverged"):
            physgym.generate(FailsLater, path, samples=100, max_rejects=3, resume=True, **options)
        stored.append(physgym.SampleDataset(path)[:]["x"])
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_array_equal(stored[0], stored[2])


@pytest.mark.slow
def test_rejects_are_no_reason_to_start_a_worker_again(tmp_path):
    with pytest.raises(SampleError, match="max_rejects"):
        physgym.generate(
            FailsLater,
            tmp_path / "d",
            samples=100,
            env_kwargs={"mode": "reject"},
            max_rejects=3,
            num_workers=1,
            on_error="restart",
            progress=False,
        )


def test_a_large_closure_does_not_stop_the_clock():
    ballast = np.zeros(1_000_000)

    def make():
        time.sleep(100)
        return ballast

    start = time.monotonic()
    with pytest.raises(WorkerError, match="not ready after 1 s"):
        SocketVectorEnv([make], timeout=1, context="spawn")  # to which the closure is sent
    assert time.monotonic() - start < 50
