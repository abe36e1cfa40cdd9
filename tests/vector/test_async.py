"""Without lockstep: send and recv; predictions asked for in the middle of a step."""

from __future__ import annotations

import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym
from physgym import Simulation, SocketVectorEnv
from physgym.errors import ConfigError, SampleError, WorkerError
from tests.support.toys import hold
from tests.support.vectors import receive
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

pytestmark = pytest.mark.alone

HELD = 10  # an action
TRANSPORTS = [{}, {"shared_memory": False}, {"transport": "tcp"}, {"num_workers": 0}]


class Counting(gym.Env):
    """Observes (its index, its count of steps); a negative action raises, another one is how long the step takes.

    The action `HELD` takes until a file "go" is in a folder.
    """

    observation_space = spaces.Dict({"who": spaces.Discrete(1000), "count": spaces.Box(0, 1e9, (2,), np.float64)})
    action_space = spaces.Box(-1, 10, (), np.float64)
    env_index = 0

    def __init__(self, length=10**9, render_mode=None, folder=None):
        self.length, self.render_mode, self.folder = length, render_mode, folder

    def _observe(self):
        return {"who": self.env_index, "count": np.full(2, self.count, np.float64)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        if action < 0:
            raise ValueError(f"environment {self.env_index} refuses")
        if action == HELD:
            hold(Path(self.folder))
        else:
            time.sleep(action)
        self.count += 1
        info = {"odd": self.count} if self.count % 2 else {}
        return self._observe(), float(self.env_index), self.count >= self.length, False, info


@pytest.mark.parametrize("kwargs", TRANSPORTS)
def test_every_environment_gets_its_own_results(kwargs):
    rng = np.random.default_rng(0)
    counts = np.zeros(7, int)
    with SocketVectorEnv([Counting] * 7, **{"num_workers": 3, **kwargs}) as envs:
        envs.reset(seed=0)
        envs.send(np.zeros(7))
        flying = 7
        for _ in range(60):
            obs, rewards, terminations, truncations, infos, ids = envs.recv(min_envs=int(rng.integers(1, flying + 1)))
            assert len(np.unique(ids)) == len(ids) == len(rewards) == len(terminations) == len(truncations)
            counts[ids] += 1
            assert obs["who"].tolist() == ids.tolist()
            assert obs["count"].tolist() == [[count] * 2 for count in counts[ids]]
            assert rewards.tolist() == ids.tolist()
            odd = counts[ids] % 2 == 1
            assert infos.get("_odd", np.zeros(len(ids), bool)).tolist() == odd.tolist()
            if odd.any():
                assert infos["odd"].tolist() == np.where(odd, counts[ids], 0).tolist()
            order = rng.permutation(ids)
            envs.send(rng.choice([0, 1e-4], len(ids)), order)
    assert counts.min() > 5


def test_results_do_not_change_when_an_environment_goes_on():
    with SocketVectorEnv([Counting] * 2, num_workers=1) as envs:
        envs.reset()
        envs.send(np.zeros(2))
        first = envs.recv(2)[0]["count"]
        envs.send(np.zeros(2))
        envs.recv(2)
        assert first.tolist() == [[1, 1], [1, 1]]


@pytest.mark.slow
def test_the_fast_do_not_wait_for_the_slow(tmp_path):
    with SocketVectorEnv([lambda: Counting(folder=tmp_path)] * 4, num_workers=2) as envs:
        envs.reset()
        envs.send(np.array([0, HELD, 0, 0]))
        seen = []
        while len(seen) < 30:
            ids = envs.recv(1, timeout=30)[5].tolist()
            seen += ids
            if back := [i for i in ids if i != 1]:
                envs.send(np.zeros(len(back)), back)
        assert 1 not in seen
        (tmp_path / "go").touch()
        while 1 not in seen:
            seen += envs.recv(1, timeout=30)[5].tolist()


@pytest.mark.slow
def test_a_step_of_a_worker_is_answered_in_parts(tmp_path):
    with SocketVectorEnv([lambda: Counting(folder=tmp_path)] * 3, num_workers=1) as envs:
        envs.reset()
        envs.send(np.array([0.01, 0.01, HELD]))
        first = []
        while len(first) < 2:
            first += envs.recv(1, timeout=30)[5].tolist()
        assert sorted(first) == [0, 1]
        (tmp_path / "go").touch()
        assert envs.recv(1, timeout=30)[5].tolist() == [2]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_sending_to_all_is_stepping(mode):
    def make():
        return gym.make("CartPole-v1")

    reference = SyncVectorEnv([make] * 4, autoreset_mode=mode)
    with SocketVectorEnv([make] * 4, num_workers=2, autoreset_mode=mode) as envs:
        first, _ = envs.reset(seed=3)
        np.testing.assert_array_equal(first, reference.reset(seed=3)[0])
        reference.action_space.seed(0)
        for _ in range(60):
            actions = reference.action_space.sample()
            envs.send(actions)
            *got, infos, ids = envs.recv(4)
            *expected, _ = reference.step(actions)
            for mine, theirs in zip(got, expected, strict=True):
                np.testing.assert_array_equal(mine, theirs[ids])
            assert ("final_obs" in infos) == (mode is AutoresetMode.SAME_STEP and bool((got[2] | got[3]).any()))
        # lockstep may follow when everything has been received
        np.testing.assert_array_equal(envs.reset(seed=5)[0], reference.reset(seed=5)[0])
    reference.close()


def test_wrong_use_is_named(tmp_path):
    with SocketVectorEnv([lambda: Counting(folder=tmp_path)] * 3, num_workers=2) as envs:
        envs.reset()
        with pytest.raises(ValueError, match="min_envs must be between 1 and the 0 environments"):
            envs.recv()
        for ids in ([0, 3], [-1], [[0]], [0.5]):
            with pytest.raises(ValueError, match="env_ids must be integers from 0 to 2"):
                envs.send(np.zeros(len(ids)), ids)
        with pytest.raises(ConfigError, match="one action at a time"):
            envs.send(np.zeros(2), [1, 1])
        with pytest.raises(ValueError, match="the actions do not fit"):
            envs.send(np.zeros(3), [0, 1])
        envs.send([0, HELD], [0, 1])
        with pytest.raises(gym.error.AlreadyPendingCallError, match=r"still to come: \[1\]"):
            envs.send(np.zeros(2), [1, 2])
        with pytest.raises(gym.error.AlreadyPendingCallError, match="take them with recv"):
            envs.step(np.zeros(3))
        with pytest.raises(TimeoutError):
            envs.recv(2, timeout=0.01)
        (tmp_path / "go").touch()
        assert sorted(envs.recv(2)[5].tolist()) == [0, 1]
        envs.send(np.zeros(3))
        envs.reset()  # forgets what is still to come
        assert envs.step(np.zeros(3))[0]["count"][:, 0].tolist() == [1, 1, 1]
        assert envs.get_attr("count") == (1, 1, 1)


def test_an_error_of_one_leaves_the_results_of_the_others():
    with SocketVectorEnv([Counting] * 4, num_workers=2) as envs:
        envs.reset()
        envs.send(np.array([0.0, -1, 0, 0]))
        seen = []
        with pytest.raises(ValueError, match="environment 1 refuses") as caught:
            receive(envs, 4, seen)
        assert caught.value.env_indices == (1,)
        receive(envs, 3, seen)
        assert sorted(seen) == [0, 2, 3]
        envs.send(np.zeros(4))  # the one that failed begins anew
        obs, _, _, _, _, ids = envs.recv(4)
        assert dict(zip(ids.tolist(), obs["count"][:, 0].tolist(), strict=True)) == {0: 2, 1: 0, 2: 2, 3: 2}


@pytest.mark.slow
def test_large_messages_both_ways_do_not_stop_each_other():
    class Large(gym.Env):
        observation_space = action_space = spaces.Box(-1, 1, (1_000_000,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1_000_000, np.float32), {}

        def step(self, action):
            return action, 0.0, False, False, {}

    # larger than all buffers of the sockets together: whoever writes must read as well
    with SocketVectorEnv([Large] * 6, num_workers=1, shared_memory=False, timeout=30) as envs:
        envs.reset()
        for i in range(6):
            envs.send(np.full((1, 1_000_000), i / 10, np.float32), [i])
        got = {}
        while len(got) < 6:
            obs, *_, ids = envs.recv(1)
            got |= dict(zip(ids.tolist(), obs[:, 0].tolist(), strict=True))
        assert got == pytest.approx({i: i / 10 for i in range(6)})


# --- predictions


class Asking(Simulation):
    """Asks the network in every step, and observes what it says."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-10, 10, (2,), np.float32)
    sample_space = spaces.Dict({"x": spaces.Box(-10, 10, (2,), np.float32), "y": spaces.Box(-99, 99, (2,), np.float32)})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)

    def begin(self, options):
        self.y = np.zeros(2, np.float32)

    def advance(self, action):
        self.x = np.asarray(action, np.float32)
        self.y = self.predict({"x": self.x})["y"]

    def observation(self):
        return self.y

    def sample(self):
        return {"x": self.x, "y": self.y}

    def outcome(self):
        return 0.0, True


class Doubling:
    """A network that tells the batches that it saw; each takes `pause` seconds."""

    def __init__(self, pause=0.0):
        self.batches, self.pause = [], pause

    def __call__(self, fields):
        self.batches.append(len(fields["x"]))
        time.sleep(self.pause)
        return {"y": 2 * fields["x"]}


@pytest.mark.parametrize("kwargs", TRANSPORTS)
def test_simulations_ask_in_the_middle_of_a_step(kwargs):
    network = Doubling()
    with SocketVectorEnv([Asking] * 6, predictor=network, **{"num_workers": 3, **kwargs}) as envs:
        envs.reset()
        actions = np.arange(12, dtype=np.float32).reshape(6, 2)
        np.testing.assert_array_equal(envs.step(actions)[0], 2 * actions)
        assert sum(network.batches) == 6
        envs.reset()
        envs.send(actions)
        obs, *_, ids = envs.recv(6)
        np.testing.assert_array_equal(obs, 2 * actions[ids])
        assert envs.call("predict", {"x": np.ones(2, np.float32)})[3]["y"].tolist() == [2, 2]


def test_those_who_ask_together_are_answered_together():
    network = Doubling(0.02)  # meanwhile the others ask, also where they take turns on one core
    with SocketVectorEnv([Asking] * 4, num_workers=4, predictor=network) as envs:
        envs.reset()
        for _ in range(10):
            envs.step(np.ones((4, 2), np.float32))
            envs.reset()
    assert max(network.batches) > 1


def test_where_there_is_no_network_the_error_says_so():
    for num_workers in (0, 2):
        with SocketVectorEnv([Asking] * 2, num_workers=num_workers) as envs:
            envs.reset()
            with pytest.raises(SampleError, match="this pipeline has no network"):
                envs.step(np.ones((2, 2), np.float32))
            envs.predictor = Doubling()
            envs.reset()
            assert envs.step(np.ones((2, 2), np.float32))[0].tolist() == [[2, 2], [2, 2]]


def test_a_network_that_fails_is_named_where_it_was_asked():
    def broken(fields):
        raise ZeroDivisionError("no weights")

    with SocketVectorEnv([Asking] * 2, num_workers=2, predictor=broken) as envs:
        envs.reset()
        with pytest.raises(WorkerError, match="the network failed: ZeroDivisionError: no weights"):
            envs.step(np.ones((2, 2), np.float32))


@pytest.mark.slow
def test_a_trained_network_answers_generation(tmp_path):
    from physgym.nn import MLP, Predictor
    from physgym.sample import SampleSpec

    spec = SampleSpec.from_env(Asking())
    predictor = Predictor(MLP.from_spec(spec, hidden=(4,)), spec)
    dataset = physgym.generate(Asking, tmp_path / "d", samples=20, num_workers=2, predictor=predictor, progress=False)
    stored = dataset[:]
    np.testing.assert_allclose(predictor.predict({"x": stored["x"]}, batched=True)["y"], stored["y"], rtol=1e-5)
    with pytest.raises(SampleError, match="no network"):
        physgym.generate(Asking, tmp_path / "e", samples=20, num_workers=2, progress=False)
