"""The contract of Gymnasium's vector environments: equal to SyncVectorEnv for every space, mode, seed and option."""

from __future__ import annotations

import multiprocessing
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

from physgym import SocketVectorEnv
from physgym.errors import ConfigError, WorkerError
from tests.support.vectors import same
from tests.support.workers import forked_workers  # noqa: F401 - fixtures of all tests here

SPACES = {
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "scalar": spaces.Box(-1, 1, (), np.float64),
    "half": spaces.Box(-1, 1, (2,), np.float16),
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "empty": spaces.Box(-1, 1, (0, 2), np.float32),
    "discrete": spaces.Discrete(5, start=-2),
    "small discrete": spaces.Discrete(5, dtype=np.int32),
    "bits": spaces.MultiBinary((2, 3)),
    "several": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "text": spaces.Text(6, charset="aä日"),
    "sequence": spaces.Sequence(spaces.Box(-1, 1, (2,), np.float32)),
    "stacked": spaces.Sequence(spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,))), stack=True),
    "graph": spaces.Graph(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)),
    "one of": spaces.OneOf([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Text(3)]),
    "dict": spaces.Dict(z=spaces.Discrete(3), a=spaces.Box(-1, 1, (2,))),
    "nested": spaces.Dict(
        outer=spaces.Tuple([spaces.Text(4), spaces.Dict(inner=spaces.Box(-1, 1, (2, 2), np.float64))]),
        graph=spaces.Graph(spaces.Discrete(3), None),
        number=spaces.Discrete(7),
    ),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
}
ENDS = 3


def told(value):
    """An action in words; the order of keys is that of the space in one vector env, sorted in the other."""
    if isinstance(value, dict):
        return {key: told(value[key]) for key in sorted(value)}
    return [told(part) for part in value] if type(value) is tuple else repr(value)


class Echo(gym.Env):
    """Observes what its space samples; tells in its info what action arrived; ends after some steps."""

    def __init__(self, space, ends=ENDS, render_mode=None):
        self.observation_space, self.action_space = space, space
        self.ends, self.render_mode = ends, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        info = {} if options is None else {"options": str(sorted(options.items()))}
        return self.observation_space.sample(), info

    def step(self, action):
        self.count += 1
        assert action in self.action_space
        info = {"action": told(action), "type": type(action).__name__}
        if self.count % 2:
            info |= {"odd": self.count, "nested": {"x": np.full(2, self.count), "deep": {"flag": True}}}
        return self.observation_space.sample(), float(self.count), self.count == self.ends, self.count == 5, info


def both(space, mode=AutoresetMode.NEXT_STEP, n=3, **kwargs):
    # a space each: they draw from it
    factories = [lambda s=s: Echo(s, ends=3 + s.index) for s in copies(space, n)]
    reference = SyncVectorEnv([lambda s=s: Echo(s, ends=3 + s.index) for s in copies(space, n)], autoreset_mode=mode)
    return reference, SocketVectorEnv(factories, autoreset_mode=mode, **{"num_workers": 2, **kwargs})


def copies(space, n):
    from copy import deepcopy

    result = [deepcopy(space) for _ in range(n)]
    for index, one in enumerate(result):
        one.index = index
    return result


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")  # of Box, for numbers
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", SPACES)
def test_every_space_as_observation_and_action(name, mode):
    reference, ours = both(SPACES[name], mode)
    with ours:
        assert ours.observation_space == reference.observation_space
        assert ours.single_action_space == reference.single_action_space
        same(reference.reset(seed=7), ours.reset(seed=7))
        reference.action_space.seed(1)
        for _ in range(12):
            actions = reference.action_space.sample()
            expected = reference.step(actions)
            got = ours.step(actions)
            same(expected, got)
            assert got[0] in ours.observation_space
            ended = expected[2] | expected[3]
            if mode is AutoresetMode.DISABLED and ended.any():
                seeds = [1, None, 5]
                same(*(e.reset(seed=seeds, options={"reset_mask": ended.copy(), "x": 1}) for e in (reference, ours)))
    reference.close()


@pytest.mark.parametrize(
    "kwargs",
    [
        *({"shared_memory": False}, {"transport": "tcp"}, {"num_workers": 0}, {"num_workers": 1}),
        pytest.param({"context": "spawn"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ["image", "nested", "empty", "text"])
def test_however_the_arrays_travel(name, kwargs):
    reference, ours = both(SPACES[name], AutoresetMode.SAME_STEP, **kwargs)
    with ours:
        same(reference.reset(seed=7), ours.reset(seed=7))
        for _ in range(8):
            actions = reference.action_space.sample()
            same(reference.step(actions), ours.step(actions))
    reference.close()


@pytest.mark.parametrize("seed", [None, 0, 2**31, [1, 2, 3], [None, 4, None], np.int64(3)])
def test_every_form_of_seed(seed):
    def make():
        return gym.make("CartPole-v1")

    reference = SyncVectorEnv([make] * 3)
    with SocketVectorEnv([make] * 3, num_workers=2) as ours:
        for envs in (reference, ours):
            envs.reset(seed=11)
        if isinstance(seed, np.integer):
            same(reference.reset(seed=int(seed)), ours.reset(seed=seed))
        else:
            same(reference.reset(seed=seed), ours.reset(seed=seed))
        assert ours.np_random_seed == reference.np_random_seed
        ours_random, theirs = ours.np_random, reference.np_random
        assert [r.integers(1000) for r in ours_random] == [r.integers(1000) for r in theirs]
    reference.close()


def test_masks_of_wrong_form_leave_the_vector_env_usable():
    reference, ours = both(SPACES["box"])
    with ours:
        for mask, kind, text in [
            (np.array([True]), ValueError, r"must have shape `\(3,\)`, got \(1,\)"),
            (np.zeros(3, bool), ValueError, "at least one True value"),
            (np.ones(3, int), TypeError, "must have `dtype=np.bool_`, got int64"),
            ([True] * 3, TypeError, "must be a numpy array"),
        ]:
            with pytest.raises(kind, match=text) as caught:
                ours.reset(options={"reset_mask": mask})
            assert isinstance(caught.value, ConfigError)
        same(reference.reset(seed=1), ours.reset(seed=1))
    reference.close()


def test_options_reach_every_environment_and_stay_the_callers():
    reference, ours = both(SPACES["discrete"])
    options = {"start": 5, "reset_mask": np.array([True, False, True])}
    with ours:
        for envs in (reference, ours):
            envs.reset(seed=1)
        same(reference.reset(seed=2, options=dict(options)), ours.reset(seed=2, options=options))
        assert set(options) == {"start", "reset_mask"}
    reference.close()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_actions_arrive_in_the_dtype_in_which_they_are_given(dtype):
    class Tell(gym.Env):
        observation_space = action_space = spaces.Box(-100, 100, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), float(action[0]), False, False, {"dtype": str(action.dtype)}

    actions = np.array([[1.1, 2], [3.3, 4]]).astype(dtype)
    reference = SyncVectorEnv([Tell] * 2)
    for kwargs in ({}, {"shared_memory": False}, {"num_workers": 0}):
        with SocketVectorEnv([Tell] * 2, **kwargs) as ours:
            for envs in (reference, ours):
                envs.reset()
            same(reference.step(actions), ours.step(actions))
    reference.close()


@pytest.mark.slow
def test_copies_and_views():
    def make():
        return gym.make("CartPole-v1")

    for kwargs in ({}, {"shared_memory": False}, {"num_workers": 0}):
        with (
            SocketVectorEnv([make] * 2, copy=False, **kwargs) as views,
            SocketVectorEnv([make] * 2, **kwargs) as copies_,
        ):
            seen = {}
            for name, envs in (("views", views), ("copies", copies_)):
                first, _ = envs.reset(seed=1)
                before = first.copy()
                second = envs.step(np.array([0, 1]))[0]
                # held until the step after the next, whatever they are
                np.testing.assert_array_equal(first, before)
                third = envs.step(np.array([0, 1]))[0]
                second[:] = 7  # writable
                seen[name] = np.shares_memory(first, third), (first == before).all()
            assert seen == {"views": (True, False), "copies": (False, True)}


def test_same_step_keeps_the_value_that_the_environment_gave():
    class Numbers(Echo):
        def step(self, action):
            return 2, 0.0, True, False, {}

    with SocketVectorEnv([lambda: Numbers(spaces.Discrete(5))] * 2, autoreset_mode="SameStep") as envs:
        envs.reset(seed=0)
        info = envs.step([0, 0])[4]
    assert info["final_obs"].dtype == object
    assert type(info["final_obs"][0]) is int
    assert info["final_info"] == {}
    assert info["_final_info"].tolist() == [True, True]


class Shared(Echo):
    """Returns the same array from step and reset."""

    def __init__(self):
        super().__init__(spaces.Box(-10, 10, (2,), np.float64))
        self.state = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        self.state[:] = -5
        return self.state, {}

    def step(self, action):
        self.state[:] = 3
        return self.state, 0.0, True, False, {}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_final_observation_is_not_overwritten_by_the_reset(num_workers):
    with SocketVectorEnv([Shared], autoreset_mode="SameStep", num_workers=num_workers) as envs:
        envs.reset()
        observations, _, _, _, info = envs.step(np.zeros((1, 2)))
        assert observations.tolist() == [[-5, -5]]
        assert info["final_obs"][0].tolist() == [3, 3]


# --- spaces that differ


def boxes(*highs):
    return [lambda high=high: Echo(spaces.Box(-1, high, (2,), np.float32)) for high in highs]


def test_bounds_may_differ_where_that_is_said():
    with pytest.raises(RuntimeError, match="If this is intentional, use `observation_mode='different'` instead"):
        SocketVectorEnv(same_action(boxes(1, 2, 3)), num_workers=2)
    reference = SyncVectorEnv(same_action(boxes(1, 2, 3)), observation_mode="different")
    with SocketVectorEnv(same_action(boxes(1, 2, 3)), num_workers=2, observation_mode="different") as ours:
        assert ours.observation_space == reference.observation_space
        assert ours.single_observation_space == reference.single_observation_space
        same(reference.reset(seed=1), ours.reset(seed=1))
    pair = reference.observation_space, reference.single_observation_space
    with SocketVectorEnv(same_action(boxes(1, 2, 3)), num_workers=2, observation_mode=pair) as ours:
        assert (ours.observation_space, ours.single_observation_space) == pair
    reference.close()


def same_action(factories):
    def make(factory):
        env = factory()
        env.action_space = spaces.Discrete(2)
        return env

    return [lambda factory=factory: make(factory) for factory in factories]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_shapes_may_not_differ(num_workers):
    other = [lambda: Echo(spaces.Box(-1, 1, (2,))), lambda: Echo(spaces.Box(-1, 1, (3,)))]
    for mode in ("same", "different"):
        with pytest.raises(RuntimeError, match=r"environments of one vector env need equal|are not equivalent"):
            SocketVectorEnv(same_action(other), num_workers=num_workers, observation_mode=mode)


class Words(spaces.Space):
    """A space of the user's own that knows nothing but how to compare."""

    def contains(self, x):
        raise TypeError("not to be asked")

    def __eq__(self, other):
        return isinstance(other, Words)


class Talking(gym.Env):
    observation_space = action_space = Words()

    def reset(self, *, seed=None, options=None):
        return "reset", {}

    def step(self, action):
        return f"heard {action:s}", 0.0, False, False, {}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_spaces_of_the_users_own(num_workers):
    with SocketVectorEnv([Talking] * 3, num_workers=num_workers) as envs:
        assert isinstance(envs.single_observation_space, Words)
        assert envs.reset()[0] == ("reset",) * 3
        assert envs.step(("a", "b", "c"))[0] == ("heard a", "heard b", "heard c")


# --- calls in two parts


class Slow(Echo):
    def __init__(self, seconds=0.0):
        super().__init__(spaces.Discrete(3))
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)


def test_calls_in_two_parts_keep_their_order():
    with SocketVectorEnv([Slow] * 2, num_workers=2) as envs:
        with pytest.raises(gym.error.NoAsyncCallError, match="`reset_wait` without any prior call to `reset_async`"):
            envs.reset_wait()
        envs.reset_async(seed=1)
        text = "Calling `step_async` while waiting for a pending call to `reset` to complete"
        with pytest.raises(gym.error.AlreadyPendingCallError, match=text) as caught:
            envs.step_async([0, 0])
        assert caught.value.name == "reset"
        envs.reset_wait()
        envs.call_async("seconds")
        assert envs.call_wait() == (0.0, 0.0)
        with pytest.raises(ValueError, match="use its own reset"):
            envs.call("reset")


def test_a_wait_that_is_too_short_loses_nothing():
    with SocketVectorEnv([lambda: Slow(0.6)] * 2, num_workers=2) as envs:
        envs.reset(seed=0)
        envs.step_async([1, 2])
        with pytest.raises(multiprocessing.TimeoutError):
            envs.step_wait(timeout=0.05)
        assert envs.step_wait()[1].tolist() == [1.0, 1.0]


def test_closing_with_a_call_pending_warns_and_does_not_wait():
    envs = SocketVectorEnv([lambda: Slow(30)] * 2, num_workers=2)
    envs.reset(seed=0)
    envs.step_async([1, 2])
    start = time.monotonic()
    with pytest.warns(UserWarning, match="Calling `close` while waiting for a pending call to `step`"):
        envs.close(terminate=True)
    assert time.monotonic() - start < 25
    with pytest.raises(gym.error.ClosedEnvironmentError):
        envs.reset()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_number_of_actions_must_fit(num_workers):
    with SocketVectorEnv([Slow] * 3, num_workers=num_workers) as envs:
        envs.reset(seed=0)
        for actions in ([0, 0], [0] * 4, np.zeros((3, 2), int)):
            with pytest.raises((ValueError, TypeError), match="the actions do not fit"):
                envs.step(actions)
        with pytest.raises(TypeError, match="the actions do not fit"):
            envs.step(0)
        assert envs.step([0, 1, 2])[1].tolist() == [1, 1, 1]


# --- what users put around it


def test_gymnasiums_vector_wrappers():
    def wrapped(envs):
        envs = wrappers.RecordEpisodeStatistics(envs)
        envs = wrappers.ClipReward(envs, max_reward=0.5)
        return wrappers.NormalizeObservation(wrappers.RescaleObservation(envs, -1, 1))

    def make():
        return gym.make("MountainCarContinuous-v0", max_episode_steps=20)

    reference = wrapped(SyncVectorEnv([make] * 3))
    ours = wrapped(SocketVectorEnv([make] * 3, num_workers=2))
    try:
        same(reference.reset(seed=1), ours.reset(seed=1))
        reference.action_space.seed(0)
        for _ in range(30):
            actions = reference.action_space.sample()
            expected, got = reference.step(actions), ours.step(actions)
            for result in (expected, got):
                result[4].get("episode", {}).pop("t", None)  # seconds
            same(expected, got)
    finally:
        ours.close()
        reference.close()


def test_make_vec_takes_it_for_any_id():
    import physgym

    with physgym.make_vec("CartPole-v1", 3, num_workers=1, max_episode_steps=5) as envs:
        assert envs.spec is not None
        assert repr(envs) == "SocketVectorEnv(CartPole-v1, num_envs=3)"
        envs.reset(seed=0)
        truncated = [envs.step(np.array([0, 1, 0]))[3].any() for _ in range(5)]
    assert truncated[-1]


@pytest.mark.slow
def test_lambdas_and_closures_in_every_context():
    length = 4

    class Local(Echo):
        def __init__(self):
            super().__init__(spaces.Discrete(3), ends=length)

    for context in ("spawn", "forkserver", "fork"):
        with SocketVectorEnv([lambda: Local()] * 3, num_workers=2, context=context) as envs:
            envs.reset(seed=0)
            assert envs.get_attr("ends") == (4, 4, 4)


def test_an_error_keeps_its_class_and_everything_else():
    class OwnError(Exception):
        def __init__(self, a, b):
            super().__init__(a, b)

    class Raising(Echo):
        def __init__(self, kind):
            super().__init__(spaces.Discrete(3))
            self.kind = kind

        def step(self, action):
            if self.kind == "key":
                raise KeyError("pressure")
            if self.kind == "file":
                raise FileNotFoundError(2, "no mesh", "mesh.msh")
            if self.kind == "unicode":
                b"\xff".decode()
            raise OwnError(1, 2)

    for kind, known in (("key", KeyError), ("file", FileNotFoundError), ("unicode", WorkerError), ("own", WorkerError)):
        for num_workers in (0, 1):
            with SocketVectorEnv([lambda kind=kind: Raising(kind)], num_workers=num_workers) as envs:
                envs.reset(seed=0)
                with pytest.raises(known) as caught:
                    envs.step([0])
                assert isinstance(caught.value, WorkerError)
                assert "Traceback in the worker" in str(caught.value)
                assert caught.value.env_indices == (0,)
