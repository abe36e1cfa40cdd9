"""What belongs to workers and what does not: processes that they start, forks of their parent, descriptors, memory."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium import spaces

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ClosedError, SampleError, UnequalSpaces, WorkerError
from physgym.protocol.messages import Role
from physgym.transport.auth import challenge
from physgym.transport.sockets import SocketChannel
from physgym.transport.table import TRANSPORTS
from physgym.vector import closing
from physgym.vector import fleet as pool
from physgym.worker.main import WorkerStart, run
from tests.support.processes import not_ended

CONTEXTS = ["spawn", "fork", "forkserver"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and F_SETSIG")


class Family(gym.Env):
    """Starts processes in its first reset."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(9)
    pids: tuple[int, ...] = ()

    def reset(self, *, seed=None, options=None):
        if not self.pids:
            kinds = [{}, {"start_new_session": True}, {"start_new_session": True, "env": {"PATH": os.environ["PATH"]}}]
            self.children = [subprocess.Popen(["sleep", "60"], **kind) for kind in kinds]
            orphan = subprocess.check_output("setsid sleep 60 > /dev/null & echo $!", shell=True)
            self.pids = (*(child.pid for child in self.children), int(orphan))
            time.sleep(0.05)  # the shell's child makes its session
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if action == 1:
            os._exit(0)
        if action == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def started(envs) -> list[psutil.Process]:
    envs.reset()
    return [psutil.Process(pid) for pid in envs.get_attr("pids")[0]]


@linux
@pytest.mark.parametrize("context", CONTEXTS)
def test_close_ends_whole_trees_of_processes(context):
    with SocketVectorEnv([Family], context=context) as envs:
        found = started(envs)
        assert all(process.is_running() for process in found)
    assert not not_ended(process.pid for process in found)


@linux
@pytest.mark.parametrize("action", [1, 2])
def test_the_death_of_a_worker_ends_what_it_started(action):
    with SocketVectorEnv([Family], context="fork") as envs:
        plain, alone, _, orphan = started(envs)
        with pytest.raises(WorkerError, match=r"exit status 0|SIGKILL"):
            envs.step([action])
        assert not not_ended(process.pid for process in (plain, alone, orphan))


PARENT = """
import os, signal, sys, time
from tests.worker.test_worker_processes import Family
from physgym import SocketVectorEnv
if __name__ == "__main__":
    envs = SocketVectorEnv([Family] * 2, num_workers=2, context=sys.argv[1])
    pids = [w.handle.pid for w in envs._pool.workers]
    if sys.argv[2] == "family":
        envs.reset()
        pids += [pid for of_one in envs.get_attr("pids") for pid in of_one]
        time.sleep(1.5)  # the guard has seen them
    if sys.argv[2] == "stop":
        for pid in pids: os.kill(pid, signal.SIGSTOP)
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    print(*pids, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@linux
@pytest.mark.parametrize(
    ("context", "how"), [*((context, "family") for context in CONTEXTS), ("spawn", "stop"), ("forkserver", "fork")]
)
def test_nothing_outlives_a_killed_parent(context, how):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, context, how], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    found = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    everybody = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(found) >= 2
    assert not not_ended(process.pid for process in found)
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Solver(physgym.Simulation):
    """Starts a process in every episode, and never waits for it."""

    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=action_space)
    sample_roles: ClassVar = {"x": "input", "y": "target"}

    def __init__(self, file):
        super().__init__()
        self.file = file

    def begin(self, options):
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        with self.file.open("a") as file:
            file.write(f"{child.pid}\n")
        child.returncode = 0  # no warning that it still runs
        self.state = np.zeros(2, np.float32)

    def advance(self, action):
        self.action, self.state = action, action * 0.5

    def observation(self):
        return self.state

    def sample(self):
        return {"x": self.action, "y": self.state}


@pytest.mark.slow
@linux
def test_generation_leaves_no_process(tmp_path):
    file = tmp_path / "pids"
    kwargs = {"samples": 20, "max_steps": 5, "num_workers": 2, "progress": False}
    assert len(physgym.generate(lambda: Solver(file), tmp_path / "data", **kwargs)) == 20
    pids = [int(line) for line in file.read_text().split()]
    assert len(pids) >= 4
    assert not not_ended(pids)


# --- forks of the parent


FORKS = """
import gc, multiprocessing, os, signal, sys, time, warnings
from tests.worker.test_worker_processes import Family
from physgym import SocketVectorEnv
from physgym.errors import ClosedError

def use(envs):
    try:
        envs.step([0, 0])
    except ClosedError as error:
        assert "fork" in str(error), error
    else:
        os._exit(9)

if __name__ == "__main__":
    envs = SocketVectorEnv([Family] * 2, num_workers=2, context=sys.argv[1])
    envs.reset()
    for how in ("exit", "drop", "close", "multiprocessing"):
        if how == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=use, args=(envs,))
            process.start()
            process.join()
            assert process.exitcode == 0, process.exitcode
        else:
            child = os.fork()
            if child == 0:
                use(envs)
                if how == "close": envs.close()
                if how == "drop": del envs; gc.collect()
                sys.exit(0)
            status = os.waitpid(child, 0)[1]
            assert status == 0, (how, status)
        time.sleep(0.1)
        envs.step([0, 0])
    assert len(multiprocessing.active_children()) == 0
    envs.close()
    print("fine", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_forks_of_the_parent_own_nothing(context):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, context], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


# --- descriptors


STREAMS = """
import os, sys
number = int(sys.argv[1])
import gymnasium as gym, numpy as np
import physgym

class Printing(gym.Env):
    observation_space = gym.spaces.Box(-9, 9, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}
    def step(self, action):
        os.write(1, b"solver converged in 7 iterations\\n" * 9)
        os.write(2, b"and warns\\n" * 9)
        print("converged", flush=True)
        return np.ones(3, np.float32), 1.0, False, False, {}
    def files(self):
        return [os.readlink(f"/proc/self/fd/{n}") for n in range(3)]

if __name__ == "__main__":
    for context in ("spawn", "fork", "forkserver"):
        with physgym.SocketVectorEnv([Printing] * 2, num_workers=1, context=context, timeout=60) as envs:
            envs.reset()
            for _ in range(20):
                observations, rewards, *_ = envs.step(np.zeros(2, int))
                assert (observations == 1).all() and (rewards == 1).all()
            assert envs.call("files")[0][number] == "/dev/null"
            used = [w.channel.fileno() for w in envs._pool.workers] + [w.parent_pipe.write for w in envs._pool.workers]
            assert min(*used, envs._pool.memory) > 2
    physgym.generate("physgym/Spring-v0", sys.argv[2], samples=10, num_workers=0)
    assert os.readlink(f"/proc/self/fd/{number}") == "/dev/null"
    open(sys.argv[3], "w").write("fine")
"""


@pytest.mark.slow
@linux
@pytest.mark.parametrize("number", [0, 1, 2])
def test_closed_standard_streams(tmp_path, number):
    words = ["<&-", ">&-", "2>&-"]
    quiet = " ".join(f"{sign}/dev/null" for i, sign in enumerate(("<", ">", "2>")) if i != number)
    program = tmp_path / "program.py"
    program.write_text(STREAMS)
    command = f"exec {sys.executable} {program} {number} {tmp_path}/data {tmp_path}/out {quiet} {words[number]}"
    assert subprocess.run(command, shell=True, timeout=150, check=False).returncode == 0
    assert (tmp_path / "out").read_text() == "fine"


# --- closing


class Slow(gym.Env):
    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(9)

    def __init__(self, file):
        self.file = Path(file)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if action:
            time.sleep(100)
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def close(self):
        time.sleep(0.5)
        self.file.touch()


@pytest.mark.slow
def test_idle_environments_close_and_busy_workers_are_ended(tmp_path):
    envs = SocketVectorEnv([lambda i=i: Slow(tmp_path / str(i)) for i in range(2)], num_workers=2, context="fork")
    envs.reset()
    envs.send([0, 1])
    envs.recv(1)
    before = time.monotonic()
    envs.close()
    assert time.monotonic() - before < 50
    assert [file.name for file in tmp_path.iterdir()] == ["0"]


@pytest.mark.slow
def test_who_waits_gets_the_end_of_a_step(tmp_path):
    class Short(Slow):
        def step(self, action):
            time.sleep(2)
            return np.zeros(1, np.float32), 0.0, False, False, {}

    for timeout, closed in ((None, False), (20, True)):
        envs = SocketVectorEnv([lambda: Short(tmp_path / "closed")], num_workers=1, context="fork")
        envs.reset()
        envs.send([0])
        time.sleep(0.05)
        envs.close(timeout=timeout)
        assert (tmp_path / "closed").exists() is closed


def test_a_rollout_ends_between_two_steps_and_its_environments_close(tmp_path, monkeypatch):
    monkeypatch.setattr(closing, "BUSY_TIMEOUT", 60.0)  # a busy machine takes its time
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 60.0)

    class Endless(Solver):
        def begin(self, options):
            self.state = np.zeros(2, np.float32)

        def advance(self, action):
            time.sleep(0.02)
            super().advance(action)

        def close(self):
            self.file.touch()

    envs = SocketVectorEnv([lambda: Endless(tmp_path / "closed")], num_workers=1, context="fork")
    parts = envs.rollout([(0, 1)], max_steps=10**6, max_rejects=1)
    next(parts)
    before = time.monotonic()
    envs.close()
    assert time.monotonic() - before < 50
    assert (tmp_path / "closed").exists()


# --- exceptions


class OfTwo(Exception):
    def __init__(self, code, residual):
        super().__init__(f"code {code}")
        self.code, self.residual = code, residual


class OfName(KeyError):
    def __init__(self, *, name):
        self.name = name


class Odd(OSError):
    def __new__(cls, first, second, third):
        return super().__new__(cls, first, second)

    def __init__(self, first, second, third):
        super().__init__(first, second)


class Mute(ValueError):
    def __str__(self):
        raise RuntimeError("no text")


RAISED = [
    (lambda: OfTwo(3, 0.5), OfTwo, "code 3"),
    (lambda: OfName(name="x"), OfName, ""),
    (lambda: Odd(1, "two", 3), Odd, "two"),
    (lambda: Mute(), Mute, "Mute.__str__ raised RuntimeError"),
    (lambda: ValueError("bad \udcff name"), ValueError, r"bad \udcff name"),
    (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), UnicodeDecodeError, "why"),
    (lambda: RuntimeError("m" * 10_000_000), RuntimeError, "characters are left out"),
]


class Raising(Slow):
    def __init__(self):
        pass

    def step(self, action):
        raise RAISED[action][0]()

    def close(self):
        raise OfTwo(7, 0.0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_exceptions_arrive_as_what_they_are(num_workers):
    envs = SocketVectorEnv([Raising] * 2, num_workers=num_workers, context="fork")
    for action, (_, kind, text) in enumerate(RAISED):
        envs.reset()
        with pytest.raises(kind) as caught:
            envs.step([action, action])
        assert isinstance(caught.value, WorkerError)
        assert caught.value.env_indices == (0, 1)
        assert f"raised {kind.__name__} in step" in str(caught.value)
        assert text in str(caught.value)
        assert len(str(caught.value)) < 200_000
    if num_workers:
        with pytest.warns(RuntimeWarning, match=r"environment 0 raised OfTwo in close: code 7[\s\S]*close of environm"):
            envs.close()
    else:
        with pytest.raises(OfTwo, match="code 7"):
            envs.close()


def test_a_long_message_in_a_constructor_breaks_no_protocol():
    def make():
        raise RAISED[-1][0]()

    with pytest.raises(RuntimeError, match=r"environment 0 raised RuntimeError in construction: mmm"):
        SocketVectorEnv([make], context="fork")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ((np.zeros(2), 0.0, False, {}), r"step must return 5 values, \(observation, reward.*it returned 4 values"),
        (None, "it returned a NoneType"),
        ((np.zeros(2), "1.5x", False, False, {}), "the reward must be a number, not '1.5x'"),
        ((np.zeros(2), 0.0, False, False, None), "info must be a dictionary, not a NoneType"),
    ],
)
def test_wrong_results_of_a_step_are_told_in_generation_too(tmp_path, result, text):
    class Wrong(Solver):
        def __init__(self):
            super().__init__(tmp_path)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return result

    with pytest.raises(SampleError, match=text):
        physgym.generate(Wrong, tmp_path / "data", samples=5, num_workers=0, progress=False)


# --- memory and strangers


def memory() -> int:
    maps = Path("/proc/self/maps").read_text().count("memfd:physgym")
    files = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return maps + sum("memfd:physgym" in name for name in files)


@pytest.mark.slow
@linux
def test_memory_is_given_back_at_once(monkeypatch):
    class Large(Slow):
        observation_space = spaces.Box(-9, 9, (100_000,), np.float32)

        def __init__(self):
            pass

        def close(self):
            pass

    gc.collect()
    gc.disable()
    try:
        before = memory()
        with monkeypatch.context() as patch:
            patch.setattr(pool.WorkerPool, "attach", lambda self, rows, arena: (_ for _ in ()).throw(WorkerError("no")))
            with pytest.raises(WorkerError) as caught:
                SocketVectorEnv([Large] * 2, context="fork")
        assert memory() == before
        envs = SocketVectorEnv([Large] * 2, context="fork")
        assert memory() > before
        envs.close()
        assert memory() == before
        assert caught.value is not None
    finally:
        gc.enable()
    with pytest.raises(ClosedError, match="is closed"):
        envs.reset()


def test_unequal_environments_are_still_told():
    class Other(Slow):
        observation_space = spaces.Box(-9, 9, (2,), np.float32)

    with pytest.raises(UnequalSpaces):
        SocketVectorEnv([lambda: Slow("x"), lambda: Other("x")], num_workers=1, context="fork")


def test_one_that_is_ended_before_it_has_greeted_says_nothing(monkeypatch):
    """As where the last episode comes while a worker is renewed."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    ours, theirs = socket.socketpair()
    channel = SocketChannel(ours, Role.PARENT)
    challenge(channel)
    channel.close()
    start = WorkerStart(TRANSPORTS["unix"], None, "00" * 32, 0, 0, 1, "NEXT_STEP", 10.0, [], None, "mark")
    run(start, list, -1, theirs, -1)
    assert theirs.fileno() == -1
