from __future__ import annotations

import copy
import os
import signal
import sys

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RescaleAction, TimeLimit

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ConfigError, WorkerError

pytest.importorskip("stable_baselines3")

from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from physgym.adapters.sb3 import SB3VecEnv

RANDOM_RETURN = 22  # of CartPole, on average

# a worker that imported this module would load torch for nothing
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Talkative(gym.Env):
    """Says something different at every step, and at some steps nothing; its observation is a dictionary."""

    observation_space = spaces.Dict(
        {"position": spaces.Box(-1, 1, (2, 3), np.float32), "kind": spaces.Discrete(4), "bits": spaces.MultiBinary(3)}
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    level = 1
    env_index = 0

    def __init__(self, length=5, render_mode=None, dies_at=None):
        self.length, self.render_mode, self.dies_at = length, render_mode, dies_at

    def _observe(self):
        return {
            "position": self.np_random.uniform(-1, 1, (2, 3)).astype(np.float32),
            "kind": int(self.np_random.integers(4)),
            "bits": self.np_random.integers(0, 2, 3, dtype=np.int8),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = (options or {}).get("start", 0)
        return self._observe(), {"began": self.count, "word": "go"} if self.count or seed is not None else {}

    def step(self, action):
        self.count += 1
        if self.count == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        info = {}
        if self.count % 2:
            info = {"count": self.count, "share": self.count / 3, "late": self.count > 2, "text": f"at {self.count}"}
        if self.count % 3 == 0:
            info["field"] = np.full((2, 2), self.count, np.float32)
            info["solver"] = {"residual": np.float32(0.5), "deep": {"steps": [1, 2, self.count]}, "none": None}
        return self._observe(), float(action[0]), self.count >= self.length, self.count % 4 == 0, info

    def render(self):
        return np.full((4, 6, 3), self.level, np.uint8)

    def add(self, a, b=0):
        return a + b + self.level

    def fail(self):
        raise RuntimeError("the mesh exploded")


class Quiet(gym.Wrapper):
    """Only its name matters."""


def assert_same_values(a, b):
    """Equal values; a number may be Python's or numpy's."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_values(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_values(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, (bool, int, float, np.generic)):
        assert a == b
    else:
        assert a == b
        assert type(a) is type(b)


def open_view(factories, **kwargs):
    return SB3VecEnv(SocketVectorEnv(factories, num_workers=2, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs))


@pytest.fixture
def view():
    """Makes views and closes them."""
    views = []

    def make(factories, **kwargs):
        views.append(open_view(factories, **kwargs))
        return views[-1]

    yield make
    for each in views:
        each.close()


def cart_poles(count, **kwargs):
    return [lambda: gym.make("CartPole-v1", **kwargs)] * count


CASES = {
    "CartPole, cut after 15 steps": cart_poles(5, max_episode_steps=15),
    "dictionaries and infos": [lambda n=n: Talkative(length=n) for n in (5, 3, 7, 1, 9)],
    "SB3's goal environment": [lambda n=n: BitFlippingEnv(n_bits=6, max_steps=n) for n in (6, 3, 9)],
    "a shipped simulation": [lambda: gym.make("physgym/Spring-v0", max_episode_steps=6)] * 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dummy_vec_env_step_for_step(case, view):
    ours, reference = view(CASES[case]), DummyVecEnv(CASES[case])
    assert ours.observation_space == reference.observation_space
    assert ours.action_space == reference.action_space
    assert ours.num_envs == reference.num_envs
    assert ours.render_mode == reference.render_mode
    if case == "SB3's goal environment":  # it draws from a generator that only its own method seeds
        for env in (ours, reference):
            env.env_method("seed", 3)
    assert ours.seed(7) == reference.seed(7)
    assert_same_values(reference.reset(), ours.reset())
    assert_same_values(reference.reset_infos, ours.reset_infos)
    ended = 0
    reference.action_space.seed(1)
    for _ in range(40):
        actions = np.array([reference.action_space.sample() for _ in range(reference.num_envs)])
        expected, got = reference.step(actions), ours.step(actions)
        assert_same_values(expected, got)
        assert_same_values(reference.reset_infos, ours.reset_infos)
        ended += int(expected[2].sum())
    assert ended >= 5
    assert_same_values(reference.reset(), ours.reset())  # seeds are used up, generators go on
    reference.close()


def test_what_a_step_returns_is_not_changed_by_later_steps(view):
    ours = view(CASES["dictionaries and infos"])
    ours.seed(0)
    ours.reset()
    steps = [ours.step(np.zeros((5, 2), np.float32)) for _ in range(3)]
    kept = copy.deepcopy(steps)
    for _ in range(3):
        ours.step(np.zeros((5, 2), np.float32))
    assert_same_values(kept, steps)


class Different(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, info):
        self.info = info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, dict(self.info)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_infos_may_differ_in_shape_and_kind(num_workers):
    infos = [{"k": 3, "a": np.zeros(2)}, {"k": 1.5, "a": np.zeros(3)}, {"k": None, "a": np.zeros((2, 2), np.float32)}]
    makers = [lambda info=info: Different(info) for info in infos]
    envs = SB3VecEnv(SocketVectorEnv(makers, num_workers=num_workers, autoreset_mode=AutoresetMode.SAME_STEP))
    envs.reset()
    found = envs.step(np.zeros(3, int))[3]
    envs.close()
    for info, given in zip(found, infos, strict=True):
        assert info["k"] == given["k"]
        assert type(info["k"]) is type(given["k"])
        assert info["a"].shape == given["a"].shape
        assert info["a"].dtype == given["a"].dtype


def test_options_and_seeds_are_used_once(view):
    ours, reference = view(CASES["dictionaries and infos"]), DummyVecEnv(CASES["dictionaries and infos"])
    each = [{"start": 2}, {}, {"start": 1}, {"start": 2}, {}]
    for options in (each, {"start": 3}, None):
        for env in (ours, reference):
            env.seed(4)
            env.set_options(options)
        assert_same_values(reference.reset(), ours.reset())
        assert_same_values(reference.reset_infos, ours.reset_infos)
        assert_same_values(reference.reset(), ours.reset())
        assert_same_values(reference.reset_infos, ours.reset_infos)
    ours.set_options([{"start": 1}])
    with pytest.raises(ConfigError, match="1 dictionaries for 5 environments"):
        ours.reset()


@pytest.mark.slow
def test_an_episode_that_a_restarted_worker_cut_is_a_truncated_one(view):
    ours = view(
        [lambda: Talkative(length=50), lambda: Talkative(length=50, dies_at=2)] * 2, on_error="restart", max_restarts=9
    )
    ours.seed(0)
    ours.reset()
    first = ours.step(np.zeros((4, 2), np.float32))
    observations, _, dones, infos = ours.step(np.zeros((4, 2), np.float32))
    assert dones.tolist() == [True] * 4  # one of the two in each worker took the other with it
    for i, info in enumerate(infos):
        assert info["worker_restarted"]
        assert info["TimeLimit.truncated"]
        assert_same_values(info["terminal_observation"], {key: values[i] for key, values in first[0].items()})
        assert np.abs(observations["position"][i] - first[0]["position"][i]).max() > 0


def test_attributes_and_methods(view):
    ours = view([lambda n=n: TimeLimit(Talkative(length=n), 20) for n in (2, 3, 4)])
    assert ours.get_attr("length") == [2, 3, 4]
    assert ours.get_attr("length", indices=[2, 0]) == [4, 2]
    assert ours.get_attr("env_index", indices=1) == [1]
    ours.set_attr("level", 7, indices=[2])
    assert ours.env_method("add", 1, b=2) == [4, 4, 10]
    ours.set_attr("length", 8)
    assert ours.get_attr("length") == [8, 8, 8]
    ours.set_attr("length", [1, 2, 3], indices=1)  # a list is one value, not one each
    assert ours.get_attr("length") == [8, [1, 2, 3], 8]
    ours.set_attr("fresh", [5])
    assert ours.get_attr("fresh") == [[5], [5], [5]]
    assert ours.has_attr("add")
    assert not ours.has_attr("subtract")
    with pytest.raises(AttributeError, match="no attribute 'subtract'"):
        ours.get_attr("subtract")
    with pytest.raises(AttributeError, match="no attribute 'subtract'"):
        ours.env_method("subtract")
    assert ours.env_method("add", 1, indices=[2]) == [8]
    assert ours.env_method("add", 1, indices=[1, 1]) == [2, 2]
    assert ours.env_method("add", 1, indices=[2, 0, 1]) == [8, 2, 2]  # alive after all that
    with pytest.raises(WorkerError, match="the mesh exploded"):
        ours.env_method("fail")
    assert ours.env_method("add", 1) == [2, 2, 8]


@pytest.mark.slow
def test_wrappers_are_known_by_name(view):
    ours = view([lambda: Quiet(Talkative()), lambda: TimeLimit(Quiet(Talkative()), 9), lambda: Monitor(Talkative())])
    assert ours.env_is_wrapped(Quiet) == [True, True, False]
    assert ours.env_is_wrapped(TimeLimit, indices=[1, 2]) == [True, False]
    assert ours.env_is_wrapped(Monitor) == [False, False, True]
    assert ours.env_is_wrapped(gym.Wrapper) == [True, True, True]
    assert ours.env_is_wrapped(gym.ObservationWrapper) == [False, False, False]


@pytest.mark.slow
def test_pictures_are_tiled(view):
    ours = view([lambda: Talkative(render_mode="rgb_array")] * 3)
    ours.reset()
    ours.set_attr("level", 200, indices=2)
    frames = ours.get_images()
    assert [frame.shape for frame in frames] == [(4, 6, 3)] * 3
    assert [int(frame.max()) for frame in frames] == [1, 1, 200]
    assert ours.render().shape == (8, 12, 3)
    blind = view([Talkative] * 2)
    with pytest.warns(UserWarning, match="render mode is None"):
        assert blind.get_images() == [None, None]


def test_other_autoreset_modes_and_nested_observations_are_refused():
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        with (
            physgym.make_vec("CartPole-v1", num_envs=1, autoreset_mode=mode) as envs,
            pytest.raises(ConfigError, match=r"autoreset_mode=gymnasium\.vector"),
        ):
            SB3VecEnv(envs)

    class Nested(Talkative):
        observation_space = spaces.Dict({"outer": spaces.Dict({"inner": spaces.Discrete(2)})})

    with SocketVectorEnv([Nested], autoreset_mode=AutoresetMode.SAME_STEP) as envs:
        with pytest.raises(ConfigError, match="FlattenObservation"):
            SB3VecEnv(envs)
        envs.close()


def test_wrappers_of_sb3_see_the_same(view, tmp_path):
    def wrapped(env, name):
        return VecNormalize(VecFrameStack(VecMonitor(env, str(tmp_path / name)), 3))

    factories = cart_poles(4, max_episode_steps=12)
    ours, reference = wrapped(view(factories), "ours"), wrapped(DummyVecEnv(factories), "reference")
    for env in (ours, reference):
        env.seed(2)
        env.action_space.seed(0)
    assert_same_values(reference.reset(), ours.reset())
    finished = 0
    for _ in range(60):
        actions = np.array([reference.action_space.sample() for _ in range(4)])
        expected, got = reference.step(actions), ours.step(actions)
        for info in expected[3] + got[3]:
            if "episode" in info:
                finished += 1
                del info["episode"]["t"]  # seconds
        assert_same_values(expected, got)
    assert finished >= 20
    np.testing.assert_array_equal(ours.obs_rms.mean, reference.obs_rms.mean)
    ours.close()
    reference.close()
    lines = [(tmp_path / f"{name}.monitor.csv").read_text().splitlines() for name in ("ours", "reference")]
    assert [line.rsplit(",", 1)[0] for line in lines[0][1:]] == [line.rsplit(",", 1)[0] for line in lines[1][1:]]


def cart_pole_view(num_envs):
    envs = physgym.make_vec("CartPole-v1", num_envs, num_workers=2, autoreset_mode=AutoresetMode.SAME_STEP)
    return VecMonitor(SB3VecEnv(envs))


@pytest.mark.slow
def test_ppo_learns():
    env = cart_pole_view(8)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=128, n_epochs=8, learning_rate=2e-3, seed=0, device="cpu")
    model.learn(16_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=16)
    env.close()
    assert mean > 5 * RANDOM_RETURN


@pytest.mark.slow
def test_dqn_learns():
    env = cart_pole_view(8)
    model = DQN(
        "MlpPolicy",
        env,
        learning_rate=3e-3,
        learning_starts=500,
        batch_size=64,
        train_freq=4,
        gradient_steps=16,
        target_update_interval=256,
        exploration_fraction=0.3,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    model.learn(8_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=16)
    env.close()
    assert mean > 3 * RANDOM_RETURN


@pytest.mark.slow
def test_hindsight_replay_asks_the_environments_for_rewards(view):
    env = VecMonitor(view([lambda: BitFlippingEnv(n_bits=4, max_steps=8)] * 4))
    model = DQN("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=50, seed=0, device="cpu")
    before = copy.deepcopy(model.q_net.state_dict())
    model.learn(200)
    assert any((before[name] != value).any() for name, value in model.q_net.state_dict().items())
    assert len(model.ep_info_buffer) >= 200 // 8 - 4


def test_sb3_accepts_a_shipped_simulation():
    env = gym.make("physgym/Spring-v0", render_mode="rgb_array")
    check_env(RescaleAction(env, np.float32(-1), np.float32(1)), skip_render_check=False)
    env.close()
