"""Workers that die, hang, stop and raise: an error within the timeout that says who and what, or a new worker."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ConfigError, WorkerError
from physgym.launch.spawn import SpawnLauncher
from physgym.vector.workers import RemoteWorker
from tests.support import toys
from tests.support.processes import not_ended
from tests.support.vectors import receive
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

pytestmark = pytest.mark.alone

# a worker that imported this module would take as long again to start, for pytest and what the tests use
cloudpickle.register_pickle_by_value(sys.modules[__name__])

KILL, HANG, RAISE, STOP = 2, 3, 4, 5


class Counter(gym.Env):
    """Observes (steps in this episode, episodes in this process); does what its action says."""

    observation_space = spaces.Box(-1, 1e9, (2,), np.float64)
    action_space = spaces.Discrete(10)

    def __init__(self, length=10**9, flag=None, render_mode=None):
        self.length, self.flag, self.render_mode, self.episodes = length, flag, render_mode, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes += 1
        self.count = 0
        return self._observe(), {}

    def _observe(self):
        return np.array([self.count, self.episodes], np.float64)

    def step(self, action):
        # a flag is a file: the misdeed happens as long as it exists
        if action in (KILL, HANG, RAISE, STOP) and (self.flag is None or Path(self.flag).exists()):
            if self.flag is not None:
                Path(self.flag).unlink()
            if action == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            if action == STOP:
                os.kill(os.getpid(), signal.SIGSTOP)
            if action == HANG:
                time.sleep(100)
            raise ArithmeticError("the solver diverged")
        self.count += 1
        return self._observe(), 1.0, self.count >= self.length, False, {}


def processes(envs):
    return [psutil.Process(w.handle.pid) for w in envs._pool.workers if isinstance(w, RemoteWorker) and w.handle]


def steps(envs, action, n=1):
    for _ in range(n):
        result = envs.step(np.full(envs.num_envs, action))
    return result


# --- an error that says who and what


@pytest.mark.parametrize("kwargs", [{"context": "spawn"}, {"shared_memory": False}, {"transport": "tcp"}, {}])
def test_a_worker_that_is_killed_while_idle(kwargs):
    with SocketVectorEnv([Counter] * 4, num_workers=2, **kwargs) as envs:
        envs.reset(seed=0)
        victim = processes(envs)[1]
        victim.kill()
        while victim.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(
            WorkerError, match=rf"worker 1 \(pid {victim.pid}, environments 2-3\) was killed by SIGKILL"
        ):
            steps(envs, 0)
        # the others are still there, and so is everything after a new start
        with pytest.raises(WorkerError, match=r"is gone since an earlier error; call restart_workers\(\)"):
            steps(envs, 0)
        envs.restart_workers()
        envs.reset(seed=1)
        assert steps(envs, 0)[0][:, 0].tolist() == [1, 1, 1, 1]


def test_environments_of_other_workers_are_usable_after_a_death():
    with SocketVectorEnv([Counter] * 4, num_workers=2) as envs:
        envs.reset()
        envs.send([KILL, 1, 1], [0, 2, 3])
        seen = []
        with pytest.raises(WorkerError, match="was killed by SIGKILL in step of environment 0"):
            receive(envs, 4, seen)
        receive(envs, 2, seen)
        for count in range(2, 5):
            envs.send([0, 0], [2, 3])
            assert envs.recv(2)[0][:, 0].tolist() == [count, count]
        with pytest.raises(WorkerError, match="gone since an earlier error"):
            envs.send([0], [1])


@pytest.mark.slow
@pytest.mark.parametrize("what", [HANG, STOP])
def test_a_worker_that_does_not_answer(what):
    with SocketVectorEnv([Counter] * 4, num_workers=2, timeout=1.5) as envs:
        envs.reset(seed=0)
        start = time.monotonic()
        with pytest.raises(WorkerError, match=r"worker 0 .*: no answer for 1.5 s in step of environment 1\.") as caught:
            envs.step(np.array([0, what, 0, 0]))
        assert time.monotonic() - start < 50
        assert caught.value.env_indices == (1,)
        assert "--timeout 600 of physgym generate and run" in str(caught.value)
        assert len(processes(envs)) == 1


@pytest.mark.slow
def test_a_worker_that_dies_in_the_middle_of_a_message():
    class Dying(gym.Env):
        observation_space = spaces.Box(-1, 1, (4_000_000,), np.float32)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            # the worker writes 16 MB, of which the kernel takes a few; somebody ends it then
            if seed == 1:
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
                os.kill(os.getppid(), signal.SIGUSR1)
            return np.zeros(4_000_000, np.float32), {}

    with SocketVectorEnv([Dying] * 2, num_workers=1, shared_memory=False) as envs:
        before = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1.5))
        try:
            with pytest.raises(WorkerError, match="was killed by SIGKILL"):
                envs.reset(seed=0)
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_a_worker_that_is_killed_while_it_starts():
    def slow():
        os.kill(os.getpid(), signal.SIGKILL)

    for kwargs in ({"context": "spawn"}, {"context": "spawn", "transport": "tcp"}, {}):
        with pytest.raises(WorkerError, match="was killed by SIGKILL while it built its environments"):
            SocketVectorEnv([slow], **kwargs)


def test_a_worker_that_is_gone_before_the_first_message(monkeypatch):
    start = SpawnLauncher.start

    def start_and_kill(self, order):
        handle = start(self, order)
        os.kill(handle.pid, signal.SIGKILL)
        while handle.poll() is None:
            time.sleep(0.001)
        return handle

    monkeypatch.setattr(SpawnLauncher, "start", start_and_kill)
    with pytest.raises(WorkerError, match="was killed by SIGKILL"):
        SocketVectorEnv([Counter] * 2, num_workers=1, context="spawn")


def test_building_has_a_timeout_too():
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"not ready after 1 s\. If .* longer to build.*, --timeout 600 of physgym"):
        SocketVectorEnv([lambda: time.sleep(100)], timeout=1)
    assert time.monotonic() - start < 50


def test_reset_and_calls_that_raise_or_kill():
    class Odd(Counter):
        def reset(self, *, seed=None, options=None):
            if seed == 13:
                raise OverflowError("too far")
            return super().reset(seed=seed, options=options)

        def die(self):
            os._exit(7)

        def refuse(self):
            raise LookupError("no such material")

    with SocketVectorEnv([Odd] * 4, num_workers=2) as envs:
        with pytest.raises(OverflowError, match="environment 3 raised OverflowError in reset: too far"):
            envs.reset(seed=10)
        envs.reset(seed=0)
        with pytest.raises(LookupError, match="environment 0 raised LookupError in refuse: no such material"):
            envs.call("refuse")
        assert steps(envs, 0)[0][:, 0].tolist() == [1] * 4
        with pytest.raises(WorkerError, match="ended with exit status 7 in call of environment 0"):
            envs.call("die")


def test_the_other_environments_go_on_where_one_raises():
    with SocketVectorEnv([Counter] * 4, num_workers=2) as envs:
        envs.reset(seed=0)
        with pytest.raises(ArithmeticError, match="environment 1 raised ArithmeticError in step: the solver diverged"):
            envs.step(np.array([0, RAISE, 0, 0]))
        # the others made their step; the one that raised begins a new episode
        assert steps(envs, 0)[0][:, 0].tolist() == [2, 0, 2, 2]


def test_several_errors_at_once_are_all_told():
    with SocketVectorEnv([Counter] * 2, num_workers=2) as envs:
        envs.reset(seed=0)
        with pytest.raises(ArithmeticError) as caught:
            envs.step(np.array([RAISE, RAISE]))
        assert any("At the same time: environment" in note for note in caught.value.__notes__)


# --- what runs out


def test_too_few_file_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    free = [number for number in range(max(used) + 20) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[12], hard))
    try:
        with pytest.raises((WorkerError, ConfigError), match="ulimit -n"):
            SocketVectorEnv([Counter] * 30, num_workers=30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with SocketVectorEnv([Counter] * 2) as envs:
        envs.reset()


@pytest.mark.slow
def test_too_little_shared_memory():
    class Huge(Counter):
        observation_space = spaces.Box(-1, 1, (50_000_000,), np.float32)

    code = (
        "import resource, signal; from physgym import SocketVectorEnv; from tests.vector.test_faults import Small\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); SocketVectorEnv([Small] * 8, num_workers=2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=False)
    assert "cannot reserve" in done.stderr
    assert "pass shared_memory=False" in done.stderr


class Small(Counter):
    observation_space = spaces.Box(-1, 1, (100_000,), np.float32)


# --- the end


@pytest.mark.slow
@pytest.mark.parametrize("what", [HANG, STOP])
def test_close_ends_workers_that_do_not_answer(what):
    envs = SocketVectorEnv([Counter] * 2, num_workers=2)
    envs.reset(seed=0)
    envs.send([what, 0])
    alive = processes(envs)
    time.sleep(0.2)
    start = time.monotonic()
    envs.close(timeout=0.5)
    envs.close()
    assert time.monotonic() - start < 50
    assert not psutil.wait_procs(alive, 0)[1]


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{"context": "spawn"}, {"transport": "tcp"}, {}, {"num_workers": 0}])
def test_nothing_is_left_behind(kwargs):
    def state():
        gc.collect()
        files = list(Path("/proc/self/fd").iterdir())
        maps = sum("memfd:physgym" in line for line in Path("/proc/self/maps").read_text().splitlines())
        # folders of other tests come and go
        shared = {file.name for file in Path("/dev/shm").iterdir() if not file.is_dir()}
        return len(files), maps, shared, set(threading.enumerate())

    for round_ in range(4):
        with contextlib.suppress(WorkerError), SocketVectorEnv([Counter] * 4, **{"num_workers": 2, **kwargs}) as envs:
            envs.reset(seed=0)
            steps(envs, 0, 3)
            if round_ % 2 and envs.num_workers:
                envs.step(np.array([0, 0, KILL, 0]))
        del envs
        if round_ == 0:
            before = state()
    # what other tests have left may end meanwhile
    assert all(now <= then for now, then in zip(state(), before, strict=True)), (state(), before)


def test_a_forgotten_vector_env_ends_its_workers():
    envs = SocketVectorEnv([Counter] * 2, num_workers=2)
    envs.reset(seed=0)
    alive = processes(envs)
    del envs
    gc.collect()
    assert not not_ended(worker.pid for worker in alive)


BUSY = """
import sys, threading, time
from tests.vector.test_faults import HoldingTheLock
from physgym import SocketVectorEnv
envs = SocketVectorEnv([HoldingTheLock] * 2, num_workers=2, context=sys.argv[1]); envs.reset(seed=0)
threading.Thread(target=envs.step, args=([0, 0],), daemon=True).start(); time.sleep(0.7)
print('up', flush=True); time.sleep(60)
"""


class HoldingTheLock(Counter):
    def step(self, action):
        # one call in C that never lets another thread run
        sum(range(10**13))
        raise AssertionError


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them through F_SETSIG")
@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_workers_end_with_a_killed_parent_even_while_they_hold_pythons_lock(context):
    parent = subprocess.Popen([sys.executable, "-c", BUSY, context], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not not_ended(worker.pid for worker in workers)


# --- a new worker in place of the old one


def flag(tmp_path):
    file = tmp_path / "flag"
    file.touch()
    return file


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{"context": "spawn"}, {"shared_memory": False}, {"transport": "tcp"}, {}])
@pytest.mark.parametrize("what", [KILL, HANG, RAISE, STOP])
def test_a_restart_reports_the_episode_as_truncated_and_goes_on(tmp_path, what, kwargs):
    file = flag(tmp_path)
    seconds = 60.0 if what in (KILL, RAISE) else 5.0 if "context" in kwargs else 2.0  # an interpreter has to start
    options = {"num_workers": 2, "timeout": seconds, "on_error": "restart", **kwargs}
    with SocketVectorEnv([lambda: Counter(flag=file)] * 4, **options) as envs:
        envs.reset(seed=0)
        steps(envs, 0, 3)
        obs, rewards, terminations, truncations, infos = envs.step(np.array([0, 0, 0, what]))
        # an exception concerns one environment at first; what its worker computed for the others is kept
        cut = [False, False, what != RAISE, True]
        assert truncations.tolist() == cut
        assert infos["_worker_restarted"].tolist() == cut
        assert not terminations.any()
        assert obs[:, 0].tolist() == [4, 4, 3 if what != RAISE else 4, 3]  # what was last seen of a cut episode
        assert rewards.tolist() == [1, 1, 0 if what != RAISE else 1, 0]
        following = envs.step(np.zeros(4, int))
        assert following[0][0].tolist() == [5, 0]
        assert following[0][3].tolist() == [0, 0]  # a new episode
        assert following[3].tolist() == [False, False, what == RAISE, False]
        assert envs.restarts == 1
        assert envs.get_attr("episodes")[:2] == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"shared_memory": False}])
def test_a_restart_in_the_same_step_gives_the_last_and_the_first_observation(tmp_path, kwargs):
    file = flag(tmp_path)
    options = {"num_workers": 2, "on_error": "restart", "autoreset_mode": AutoresetMode.SAME_STEP, **kwargs}
    with SocketVectorEnv([lambda: Counter(flag=file)] * 2, **options) as envs:
        envs.reset(seed=0)
        steps(envs, 0, 2)
        obs, _, _, truncations, infos = envs.step(np.array([0, KILL]))
        assert obs.tolist() == [[3, 0], [0, 0]]
        assert truncations.tolist() == [False, True]
        assert infos["final_obs"][0] is None
        assert infos["final_obs"][1].tolist() == [2, 0]
        assert infos["_worker_restarted"].tolist() == [False, True]
        assert steps(envs, 0)[0].tolist() == [[4, 0], [1, 0]]


@pytest.mark.slow
def test_a_restart_without_autoreset_waits_for_the_reset(tmp_path):
    file = flag(tmp_path)
    options = {"num_workers": 2, "on_error": "restart", "autoreset_mode": AutoresetMode.DISABLED}
    with SocketVectorEnv([lambda: Counter(flag=file)] * 2, **options) as envs:
        envs.reset(seed=0)
        _, _, _, truncations, _ = envs.step(np.array([0, KILL]))
        assert truncations.tolist() == [False, True]
        obs, _ = envs.reset(options={"reset_mask": truncations})
        assert obs.tolist() == [[1, 0], [0, 0]]
        assert steps(envs, 0)[0].tolist() == [[2, 0], [1, 0]]


@pytest.mark.slow
def test_seeds_after_a_restart_depend_on_the_first_seed_alone(tmp_path):
    class Drawing(Counter):
        def _observe(self):
            return np.array([self.np_random.random(), 0])

    def run():
        file = flag(tmp_path)
        with SocketVectorEnv([lambda: Drawing(flag=file)] * 2, num_workers=2, on_error="restart") as envs:
            envs.reset(seed=5)
            envs.step(np.array([0, KILL]))
            return [steps(envs, 0)[0].tolist() for _ in range(3)]

    assert run() == run()


def test_restarts_of_a_worker_that_always_fails_come_to_an_end(caplog):
    with SocketVectorEnv([Counter] * 2, num_workers=2, on_error="restart", max_restarts=3, context="fork") as envs:
        envs.reset(seed=0)
        with pytest.raises(
            WorkerError, match=r"3 restarts of workers within a minute[^\n]*the last fault: [^\n]*ArithmeticError"
        ):
            steps(envs, RAISE, 20)
        assert envs.restarts == 3
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [text.partition(":")[0] for text in said] == ["restart 1", "restart 2", "restart 3"]
        assert all("ArithmeticError" in text and "seeds of the last reset: environment" in text for text in said)


def test_a_call_is_not_made_twice(tmp_path):
    class Calling(Counter):
        def work(self):
            if self.flag.exists():
                self.flag.unlink()
                os._exit(9)
            return "done"

    file = flag(tmp_path)
    with SocketVectorEnv([lambda: Calling(flag=file)] * 2, num_workers=1, on_error="restart") as envs:
        envs.reset(seed=0)
        with pytest.raises(WorkerError, match="ended with exit status 9"):
            envs.call("work")
        assert envs.call("work") == ("done", "done")


def test_a_reset_is_asked_again(tmp_path):
    class Falling(Counter):
        def reset(self, *, seed=None, options=None):
            if self.flag.exists():
                self.flag.unlink()
                os._exit(9)
            return super().reset(seed=seed)

    file = flag(tmp_path)
    with SocketVectorEnv([lambda: Falling(flag=file)] * 2, num_workers=1, on_error="restart") as envs:
        obs, infos = envs.reset(seed=4)
        assert obs.tolist() == [[0, 0], [0, 0]]
        assert infos["worker_restarted"].tolist() == [True, True]
        assert envs.np_random_seed == (4, 5)


@pytest.mark.slow
def test_send_and_recv_survive_restarts(tmp_path):
    file = flag(tmp_path)
    with SocketVectorEnv([lambda: Counter(flag=file)] * 4, num_workers=2, on_error="restart") as envs:
        envs.reset(seed=0)
        envs.send(np.array([0, KILL, 0, 0]))
        seen, cut = {}, {}
        while len(seen) < 4:
            obs, _, _, truncations, _, ids = envs.recv(1)
            seen |= dict(zip(ids.tolist(), obs[:, 0].tolist(), strict=True))
            cut |= dict(zip(ids.tolist(), truncations.tolist(), strict=True))
        assert (cut[1], cut[2], cut[3]) == (True, False, False)
        assert seen[1] == 0
        assert seen[2] == seen[3] == 1


def random_killing(context, kills, longest, seed):
    """Step while workers are killed at random; every observation must be the one that follows."""
    rng = random.Random(seed)
    envs = SocketVectorEnv(
        [lambda: Counter(length=50)] * 6, num_workers=3, on_error="restart", max_restarts=10**6, context=context
    )
    done = 0

    def kill(*_):
        nonlocal done
        alive = [w.handle.pid for w in envs._pool.workers if isinstance(w, RemoteWorker) and w.handle is not None]
        if alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(alive), signal.SIGKILL)
                done += 1
        if done < kills:  # the last ones are to come up again
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(longest / 20, longest))

    before = signal.signal(signal.SIGALRM, kill)
    cut_episodes = 0
    with envs:
        last, _ = envs.reset(seed=seed)
        ended = np.zeros(6, bool)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            while done < kills:
                obs, rewards, terminations, truncations, infos = envs.step(np.zeros(6, int))
                cut = infos.get("_worker_restarted", np.zeros(6, bool))
                cut_episodes += int(cut.sum())
                for i in range(6):
                    if cut[i]:
                        # reported once, with the last observation; or the reset that had to be made again
                        assert truncations[i]
                        assert obs[i, 0] == last[i, 0]
                    elif ended[i]:
                        assert obs[i, 0] == 0
                        assert rewards[i] == 0
                        assert not truncations[i]
                    else:
                        assert obs[i, 0] == last[i, 0] + 1
                        assert rewards[i] == 1
                        assert terminations[i] == (obs[i, 0] == 50)
                ended = terminations | truncations
                last = obs
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert cut_episodes > 0
        assert len(processes(envs)) == 3
    return done


@pytest.mark.sweep
@pytest.mark.timeout(300)
def test_two_hundred_random_kills_lose_nothing_and_invent_nothing():
    assert random_killing("fork", 190, longest=0.06, seed=1) >= 190
    assert random_killing("spawn", 10, longest=3.0, seed=2) >= 10  # a new interpreter takes its time to start


@pytest.mark.slow
def test_generation_gives_the_same_samples_through_kills(tmp_path):
    kwargs = {"samples": 400, "seed": 3, "num_envs": 4, "progress": False}
    calm = physgym.generate(lambda: toys.Flaky(0.5), tmp_path / "calm", num_workers=1, **kwargs)
    files = [tmp_path / f"flag{i}" for i in range(4)]
    for file in files:
        file.touch()

    def killing():
        return toys.Flaky(0.5, kill_switch=files[0] if files[0].exists() else None)

    wild = physgym.generate(killing, tmp_path / "wild", num_workers=2, on_error="restart", **kwargs)
    assert not files[0].exists()
    for name in ("x", "y"):
        np.testing.assert_array_equal(wild[:][name], calm[:][name])
    np.testing.assert_array_equal(wild.index("step"), calm.index("step"))
