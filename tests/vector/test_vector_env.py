from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ConfigError, PhysGymError, SampleError, WorkerError
from physgym.protocol import codec
from physgym.protocol.msgpack_values import encode_value
from physgym.transport import tcp
from physgym.vector import handshake
from tests.support.processes import not_ended
from tests.support.vectors import same
from tests.support.workers import forked_workers  # noqa: F401 - fixtures of all tests here

SHIPPED = ["physgym/Spring-v0", "physgym/Beam-v0", "physgym/Burgers-v0", "physgym/Heat-v0"]
STEPS = {"physgym/Beam-v0": 4, "physgym/Burgers-v0": 3}  # of those that take long


def shipped(env_id):
    return pytest.param(env_id, marks=pytest.mark.slow) if env_id == "physgym/Burgers-v0" else env_id


class Counter(gym.Env):
    """Counts steps and does what its action says; every kind of leaf in its spaces."""

    observation_space = spaces.Dict(
        {
            "count": spaces.Discrete(1000),
            "noise": spaces.Box(-1, 1, (2,), np.float32),
            "pair": spaces.Tuple([spaces.MultiBinary(3), spaces.MultiDiscrete([2, 5])]),
        }
    )
    action_space = spaces.Discrete(10)
    env_index = -1
    num_envs = -1

    def __init__(self, length=3, render_mode=None):
        self.length, self.render_mode = length, render_mode

    def _observe(self):
        bits = self.np_random.integers(0, 2, 3, dtype=np.int8)
        noise = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"count": np.int64(self.count), "noise": noise, "pair": (bits, np.array([1, self.count % 5]))}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = (options or {}).get("start", 0)
        return self._observe(), {"began": self.count}

    def step(self, action):
        self.count += 1
        if action == 7:
            raise RuntimeError("the mesh exploded")
        if action == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == 9:
            time.sleep(60)
        return self._observe(), float(action), self.count >= self.length, False, {"double": 2 * self.count}

    def add(self, a, b=0):
        return a + b + self.count


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("env_id", [*map(shipped, SHIPPED), "CartPole-v1", None])
def test_equals_the_sync_vector_env_seed_for_seed(env_id, mode):
    make = Counter if env_id is None else lambda: gym.make(env_id)
    reference = SyncVectorEnv([make] * 5, autoreset_mode=mode)
    with SocketVectorEnv([make] * 5, num_workers=2, autoreset_mode=mode) as ours:
        assert ours.observation_space == reference.observation_space
        assert ours.action_space == reference.action_space
        assert ours.metadata["autoreset_mode"] is mode
        same(reference.reset(seed=3), ours.reset(seed=3))
        reference.action_space.seed(0)
        for _ in range(STEPS.get(env_id, 25)):
            actions = reference.action_space.sample()
            if env_id is None:
                actions %= 7
            if env_id == "physgym/Beam-v0":
                actions *= np.float32(1e-3)
            expected = reference.step(actions)
            same(expected, ours.step(actions))
            ended = expected[2] | expected[3]
            if mode is AutoresetMode.DISABLED and ended.any():
                seeds = [11, None, 12, 13, None]
                results = [env.reset(seed=seeds, options={"reset_mask": ended.copy()}) for env in (reference, ours)]
                same(*results)
    reference.close()


def test_calls_attributes_and_placement():
    with SocketVectorEnv([lambda n=n: Counter(length=n) for n in (2, 3, 4)], num_workers=2) as envs:
        envs.reset(seed=0, options={"start": 5})
        assert envs.call("add", 1, b=2) == (8, 8, 8)
        assert envs.get_attr("length") == (2, 3, 4)
        assert envs.get_attr("env_index") == (0, 1, 2)
        assert envs.get_attr("num_envs") == (3, 3, 3)
        envs.set_attr("length", [7, 8, 9])
        assert envs.get_attr("length") == (7, 8, 9)
        envs.set_attr("length", 1)
        assert envs.get_attr("length") == (1, 1, 1)
        assert envs.np_random_seed == (0, 1, 2)
        envs.set_attr("length", [5, 6], env_ids=[2, 0])
        assert envs.call_envs([2, 1], "length") == (5, 1)
        assert envs.call_envs([1], "add", 1) == (6,)
        envs.set_attr("length", 9, env_ids=[1])
        assert envs.get_attr("length") == (6, 9, 5)
        for ids in ([0, 0], [3], [-1]):
            with pytest.raises(ValueError, match="env_ids must be different integers from 0 to 2"):
                envs.call_envs(ids, "length")
        with pytest.raises(ConfigError, match="2 values of 'length' for 3"):
            envs.set_attr("length", [1, 2])


@pytest.mark.slow
def test_gymnasium_makes_it_and_frames_travel():
    envs = gym.make_vec("physgym/Spring-v0", num_envs=3, render_mode="rgb_array", num_workers=1)
    with envs:
        assert isinstance(envs, SocketVectorEnv)
        envs.reset(seed=0)
        frames = envs.render()
    assert len(frames) == 3
    assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)


def test_actions_of_other_types_are_taken_and_wrong_ones_named():
    with SocketVectorEnv([Counter] * 2, num_workers=1) as envs:
        envs.reset(seed=0)
        envs.step([1, 2])
        with pytest.raises(ConfigError, match="step takes an element of action_space"):
            envs.step([1, 2, 3])
        with pytest.raises(ValueError, match="actions do not fit"):
            envs.step("abc")
        with pytest.raises(TypeError, match="actions do not fit"):
            envs.step(0)
        assert envs.step(np.array([3, 4]))[1].tolist() == [3, 4]


def test_wrong_seeds_and_masks_are_named():
    with SocketVectorEnv([Counter] * 2, num_workers=1) as envs:
        with pytest.raises(ConfigError, match="num_envs=2 but got length=3"):
            envs.reset(seed=[1, 2, 3])
        with pytest.raises(ConfigError, match="reset_mask"):
            envs.reset(options={"reset_mask": [True, False]})
        with pytest.raises(ConfigError, match="at least one True value"):
            envs.reset(options={"reset_mask": np.zeros(2, bool)})
        envs.reset(seed=1)


def test_stepping_past_the_end_without_autoreset_is_an_error():
    with SocketVectorEnv([lambda: Counter(1)], autoreset_mode=AutoresetMode.DISABLED) as envs:
        envs.reset(seed=0)
        envs.step([0])
        with pytest.raises(ConfigError, match="the episode has ended"):
            envs.step([0])


def test_an_exception_names_the_environment_and_shows_the_remote_traceback():
    envs = SocketVectorEnv([Counter] * 4, num_workers=2)
    envs.reset(seed=0)
    with pytest.raises(WorkerError, match=r"environment 2 raised RuntimeError in step: the mesh exploded") as caught:
        envs.step([0, 0, 7, 0])
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.env_indices == (2,)
    assert 'raise RuntimeError("the mesh exploded")' in caught.value.remote_traceback
    envs.close()
    with pytest.raises(WorkerError, match="closed"):
        envs.step([0, 0, 0, 0])


class Misbehaving(Counter):
    """Returns from step what it was told to."""

    def __init__(self, what, render_mode=None):
        super().__init__(length=100)
        self.what = what

    def step(self, action):
        good = super().step(action)
        return {
            "object": (*good[:4], {"mesh": object()}),
            "four": good[:4],
            "none": None,
            "reward": (good[0], "high", *good[2:]),
            "observation": ({}, *good[1:]),
            "info": (*good[:4], [1]),
        }[self.what]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("object", r"type builtins\.object cannot be sent"),
        ("four", r"step must return 5 values, \(observation, reward, .*it returned 4 values"),
        ("none", "it returned a NoneType"),
        ("reward", "the reward must be a number, not 'high'"),
        ("observation", r"environment 1: the observation has \[\] and no part 'count'"),
        ("info", "info must be a dictionary, not a list"),
    ],
)
def test_wrong_return_values_are_named(what, text):
    with SocketVectorEnv([lambda: Misbehaving(what)] * 2, num_workers=2) as envs:
        envs.reset(seed=0)
        with pytest.raises(PhysGymError, match=text.replace("environment 1", "environment [01]")):
            envs.step([0, 0])


def test_what_cannot_be_sent_changes_nothing():
    with SocketVectorEnv([Counter] * 2, num_workers=1) as envs:
        envs.reset(seed=0)
        with pytest.raises(ConfigError, match="cannot be sent"):
            envs.call("add", object())
        with pytest.raises(ConfigError, match="cannot be sent"):
            envs.reset(options={"mesh": object()})
        assert envs.call("add", 1) == (1, 1)


class Forking(Counter):
    def reset(self, *, seed=None, options=None):
        if not os.fork():
            time.sleep(4)  # holds the worker's socket open
            os._exit(0)
        return super().reset(seed=seed, options=options)


def test_the_death_of_a_worker_whose_environment_forked_is_noticed():
    with SocketVectorEnv([Forking], timeout=60) as envs:
        envs.reset(seed=0)
        start = time.monotonic()
        with pytest.raises(WorkerError, match="killed by SIGKILL"):
            envs.step([8])
        assert time.monotonic() - start < 10


def test_a_killed_worker_is_an_error_with_its_signal():
    with SocketVectorEnv([Counter] * 4, num_workers=2) as envs:
        envs.reset(seed=0)
        text = r"worker 1 \(pid \d+, environments 2-3\) was killed by SIGKILL in step of environment 2\."
        with pytest.raises(WorkerError, match=text) as caught:
            envs.step([0, 0, 8, 0])
        assert caught.value.env_indices == (2,)


@pytest.mark.slow
@pytest.mark.alone
def test_a_hanging_worker_is_an_error_after_the_timeout():
    with SocketVectorEnv([Counter] * 2, num_workers=2, timeout=1.5) as envs:
        envs.reset(seed=0)
        start = time.monotonic()
        with pytest.raises(WorkerError, match=r"worker 1 .*no answer for 1.5 s in step of environment 1\."):
            envs.step([0, 9])
        assert time.monotonic() - start < 10


def raising():
    raise ValueError("no licence for the solver")


def test_a_constructor_that_raises_is_shown():
    with pytest.raises(WorkerError, match=r"environment 1 raised ValueError in construction: no licence") as caught:
        SocketVectorEnv([Counter, raising], num_workers=1)
    assert "in raising" in caught.value.remote_traceback


def test_a_worker_that_exits_while_building_is_an_error():
    with pytest.raises(WorkerError, match="ended with exit status 3"):
        SocketVectorEnv([lambda: os._exit(3)])


def test_environments_must_have_equal_spaces():
    with pytest.raises(ConfigError, match="equal spaces"):
        SocketVectorEnv([Counter, lambda: gym.make("CartPole-v1")], num_workers=2)
    with pytest.raises(ConfigError, match="equal spaces"):
        SocketVectorEnv([Counter, lambda: gym.make("CartPole-v1")], num_workers=1)


class WrongObservation(Counter):
    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def _observe(self):
        return np.zeros(4, np.float32)


def test_an_observation_of_the_wrong_shape_is_named():
    with (
        SocketVectorEnv([WrongObservation]) as envs,
        pytest.raises(SampleError, match=r"the observation has shape \(4,\); observation_space says \(3,\)"),
    ):
        envs.reset()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"num_workers": -1}, "num_workers must be at least 1"),
        ({"num_workers": "many"}, "num_workers must be at least 1"),
        ({"on_error": "ignore"}, "on_error must be"),
        ({"transport": "pigeon"}, "transport must be"),
        ({"context": "thread"}, "context must be one of"),
        ({"observation_mode": "odd"}, "Invalid `observation_mode`"),
        ({"timeout": 0}, "timeout must be positive"),
        ({"timeout": float("nan")}, "timeout must be positive"),
        ({"timeout": float("inf")}, "timeout must be positive"),
        ({"autoreset_mode": "bogus"}, "autoreset_mode must be one of"),
        ({"port": 70000}, "port must be between"),
    ],
)
def test_bad_arguments(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        SocketVectorEnv([Counter], **kwargs)


def test_a_factory_that_cannot_be_sent_is_named():
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be sent to a worker"):
        SocketVectorEnv([lambda: lock and Counter()], context="spawn")


def test_no_environment_and_unknown_id():
    with pytest.raises(ConfigError, match="env_fns is empty"):
        SocketVectorEnv([])
    with pytest.raises(ConfigError, match="num_envs must be at least 1"):
        physgym.make_vec("physgym/Spring-v0", 0)
    with pytest.raises(ConfigError, match=r"Shipped: .*physgym/Beam-v0"):
        physgym.make_vec("physgym/Baem-v0", 2)
    with pytest.raises(ConfigError, match=r"importing 'no_such_module' for .* failed: ModuleNotFoundError"):
        physgym.make_vec("no_such_module:Env-v0", 2)


def test_a_taken_port_is_named_and_a_free_one_is_used():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*port=0"):
            SocketVectorEnv([Counter], port=port)
    with SocketVectorEnv([Counter], port=port) as envs:
        envs.reset(seed=0)


def test_close_is_repeatable_and_ends_the_workers():
    envs = SocketVectorEnv([Counter] * 2, num_workers=2)
    workers = [psutil.Process(worker.handle.pid) for worker in envs._pool.workers]
    assert all(worker.is_running() for worker in workers)
    envs.close()
    envs.close()
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.slow
def test_workers_end_when_the_parent_is_killed():
    code = (
        "import threading, time; from tests.vector.test_vector_env import Counter\n"
        "from physgym import SocketVectorEnv\n"
        "envs = SocketVectorEnv([Counter] * 2, num_workers=2); envs.reset(seed=0)\n"
        "threading.Thread(target=envs.step, args=([9, 0],), daemon=True).start(); time.sleep(0.5)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not not_ended(worker.pid for worker in workers)


def connected(address, data=b"", *, reset=False):
    stranger = socket.create_connection(address)
    stranger.sendall(data)
    if reset:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()
    return stranger


def test_strangers_are_turned_away(monkeypatch):
    """A peer that sends garbage, or a greeting without a proof, is dropped; the workers are served."""
    strangers: list[socket.socket] = []

    class Listener(tcp.TcpListener):
        def __init__(self, port=0):
            super().__init__(port)
            body = encode_value({"worker": 0, "pid": 1, "nonce": bytes(32), "proof": bytes(32)})
            hello = codec.HEADER.pack(codec.MAGIC, codec.VERSION, 1, 0, len(body)) + body
            for data in (b"GET / HTTP/1.1\r\n\r\n", hello, b""):
                strangers.append(connected(self.address, data))
            connected(self.address, reset=True)

    monkeypatch.setattr(tcp, "TcpListener", Listener)
    with SocketVectorEnv([Counter], timeout=20, transport="tcp") as envs:
        envs.reset(seed=0)
        assert envs.step([1])[1].tolist() == [1]
    for stranger in strangers:
        stranger.settimeout(30)
        with stranger, contextlib.suppress(ConnectionResetError):
            while stranger.recv(4096):  # the challenge, then the end
                pass


def test_strangers_that_say_nothing_do_not_keep_the_workers_out(monkeypatch):
    strangers: list[socket.socket] = []

    class Listener(tcp.TcpListener):
        def __init__(self, port=0):
            super().__init__(port)
            strangers.extend(connected(self.address) for _ in range(3 * handshake.STRANGERS))

    monkeypatch.setattr(tcp, "TcpListener", Listener)
    monkeypatch.setattr(handshake, "STRANGER_SECONDS", 1.0)
    with SocketVectorEnv([Counter] * 3, num_workers=3, timeout=20, transport="tcp") as envs:
        envs.reset(seed=0)
        assert envs.step([1, 2, 3])[1].tolist() == [1, 2, 3]
    for stranger in strangers:
        stranger.close()
