"""What an environment hands in keeps its value, and is taken when it is handed in."""

from __future__ import annotations

import collections
import contextlib
import copy
import enum
import functools
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from physgym import RecordTransition, Simulation, SocketVectorEnv
from physgym.errors import ConfigError, PhysGymError, SampleError
from physgym.sample import Field
from tests.support.conversation import assert_same

ALL_WORKERS = pytest.mark.parametrize("num_workers", [0, 1, 2])


class Env(gymnasium.Env[Any, Any]):
    """Returns what it is told to."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(99)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


# --- infos


class Refilled(Env):
    """Has one info for all its life and all its like, and one array, as a solver's library has."""

    buffer = np.zeros(1)
    info: dict[str, Any] = {"nested": {}, "list": []}  # noqa: RUF012 - that it is shared is the point

    def step(self, action: Any) -> Any:
        self.buffer[:] = action
        self.info["list"][:] = [int(action)]
        self.info["nested"]["action"] = int(action)
        self.info.update(action=int(action), forces=self.buffer)
        return np.zeros(1, np.float32), 0.0, False, False, self.info


@ALL_WORKERS
@pytest.mark.parametrize("streamed", [False, True])
def test_an_info_is_taken_when_it_is_returned(num_workers, streamed):
    with SocketVectorEnv([Refilled] * 4, num_workers=num_workers) as envs:
        envs.reset()
        if streamed:
            envs.send(np.array([1, 2, 3, 4]))
            *_, info, ids = envs.recv(4)
        else:
            info, ids = envs.step(np.array([1, 2, 3, 4]))[4], np.arange(4)
    sent = (ids + 1).tolist()
    assert info["action"].tolist() == sent
    assert info["nested"]["action"].tolist() == sent
    assert info["forces"].ravel().tolist() == sent
    assert info["list"].tolist() == [[action] for action in sent]


class Ending(Env):
    """Writes into the info of the last step when it is reset."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"forces": np.zeros(2), "nested": {}}

    def _write(self, success: bool, count: int) -> None:
        self.count = count
        self.info["forces"][:] = count
        self.info["nested"]["success"] = success
        self.info.update(success=success, count=count)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._write(success=False, count=0)
        return np.zeros(1, np.float32), self.info

    def step(self, action: Any) -> Any:
        self._write(self.count == 2, self.count + 1)
        return np.zeros(1, np.float32), 1.0, self.count == 3, False, self.info


@ALL_WORKERS
def test_the_final_info_is_that_before_the_reset(num_workers):
    with SocketVectorEnv([Ending] * 2, num_workers=num_workers, autoreset_mode=AutoresetMode.SAME_STEP) as envs:
        envs.reset()
        for _ in range(3):
            info = envs.step(np.zeros(2, int))[4]
    assert info["final_info"]["success"].tolist() == [True, True]
    assert info["final_info"]["nested"]["success"].tolist() == [True, True]
    assert info["final_info"]["forces"].tolist() == [[3, 3], [3, 3]]
    assert (info["success"].tolist(), info["forces"].tolist()) == ([False, False], [[0, 0], [0, 0]])


class WithInfo(Env):
    """Has an info with one value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {"sensors": {"depth": self.value}}


@ALL_WORKERS
def test_what_is_masked_in_an_info_stays_masked(num_workers):
    masked = np.ma.MaskedArray([1, 2, 3], [False, True, False], fill_value=-1)
    with SocketVectorEnv([lambda: WithInfo(masked)] * 2, num_workers=num_workers) as envs:
        envs.reset()
        got = envs.step(np.zeros(2, int))[4]["sensors"]["depth"][1]
    assert isinstance(got, np.ma.MaskedArray)
    assert (got.tolist(), got.dtype, got.fill_value) == ([1, None, 3], masked.dtype, -1)


@ALL_WORKERS
def test_what_is_structured_in_an_info_keeps_its_fields(num_workers):
    structured = np.array([(1, 2.5), (3, 4.5)], [("a", "i1"), ("b", ">f8")])
    with SocketVectorEnv([lambda: WithInfo(structured)] * 2, num_workers=num_workers) as envs:
        envs.reset()
        got = envs.step(np.zeros(2, int))[4]["sensors"]["depth"]
    assert_same(got, np.stack([structured] * 2).astype(structured.dtype))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (range(3), r"'sensors/depth.*': a value of type builtins\.range cannot be sent"),
        ([1, {"a": range(3)}], r"'sensors/depth.*\[1\]/a': a value of type builtins\.range"),
        (np.zeros(2, [("x", "O")]), r"'sensors/depth.*': a value of type numpy\.ndarray cannot be sent.*\('x', 'O'\)"),
    ],
)
def test_a_value_that_cannot_travel_is_named_by_its_key(value, text):
    with SocketVectorEnv([lambda: WithInfo(value)], num_workers=1) as envs:
        envs.reset()
        with pytest.raises(PhysGymError, match=text):
            envs.step(np.zeros(1, int))


# --- observations, rewards, flags


class Seen(Env):
    """Observes a value from its first reset on."""

    def __init__(self, space: spaces.Space[Any], value: Any) -> None:
        self.observation_space, self.value = space, value

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.value, {}

    def step(self, action: Any) -> Any:
        return self.value, 0.0, False, False, {}


BYTES = spaces.Box(0, 255, (2,), np.uint8)
FLOATS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
NUMBER = spaces.Box(-np.inf, np.inf, (), np.float32)
HALF = spaces.Box(-np.inf, np.inf, (2,), np.float16)
LONG = spaces.Box(-np.inf, np.inf, (2,), np.float64)


@pytest.mark.parametrize(
    ("space", "value", "text"),
    [
        (BYTES, np.array([0.5, 1], np.float32), "has dtype float32, which does not convert to uint8"),
        (BYTES, np.array([7, 300]), r"that uint8 cannot hold, the first 300 of dtype int64 at index \(1,\)"),
        (BYTES, np.array([7, -1], np.int8), "the first -1 of dtype int8"),
        (BYTES, [7, 300], "the first 300"),
        (BYTES, np.array([True, None], object), "dtype object, which does not convert"),
        (BYTES, np.ma.MaskedArray([1, 2], [False, True], np.uint8), "a masked array with 1 missing values"),
        (FLOATS, np.array([1, 1e300]), r"the first 1e\+300 of dtype float64"),
        (FLOATS, np.array([1j, 1]), "dtype complex128, which does not convert to float32"),
        (FLOATS, np.array([2**24 + 1, 0]), "the first 16777217"),
        (FLOATS, np.array(["1", "2"]), "dtype <U1, which does not convert"),
        (FLOATS, [[1.0], [2.0, 3.0]], "is not an array"),
        (FLOATS, np.ones(3), r"has shape \(3,\); observation_space says \(2,\)"),
        (HALF, np.array([1, 1e5], np.float32), "that float16 cannot hold"),
        (LONG, np.array([2**53 + 1, 0]), "the first 9007199254740993"),
        (NUMBER, "1.5", "dtype <U3, which does not convert"),
        (NUMBER, None, "dtype object"),
        (spaces.Discrete(3), 1.0, "dtype float64, which does not convert to int64"),
        (spaces.Discrete(3, dtype=np.int8), 300, "the first 300 of dtype int64"),
        (spaces.MultiBinary(2), np.array([0.0, 1.0]), "dtype float64, which does not convert to int8"),
        (spaces.MultiDiscrete([3, 3]), np.array([1.5, 1]), "dtype float64, which does not convert to int64"),
        (spaces.Dict(a=BYTES, b=FLOATS), {"a": np.array([1.7, 0]), "b": np.ones(2)}, "'a' .*dtype float64"),
        (spaces.Dict(x=spaces.Tuple([FLOATS, BYTES])), {"x": (np.ones(2), np.array([1, 256]))}, "'x/1' .*first 256"),
    ],
)
def test_an_observation_that_a_space_cannot_hold_is_an_error(space, value, text):
    envs = SocketVectorEnv([lambda: Seen(space, value)] * 2, num_workers=0)
    with pytest.raises(SampleError, match=f"environment 0.*observation .*{text}"):
        envs.reset()
    envs.close()


def test_an_observation_of_a_worker_is_checked_as_well():
    camera = [lambda: Seen(BYTES, np.ones(2, np.uint8)), lambda: Seen(BYTES, np.array([0.5, 1]))]
    envs = SocketVectorEnv(camera, num_workers=1)
    with pytest.raises(
        SampleError, match=r"environment 1: the observation has dtype float64, which does not convert to uint8"
    ):
        envs.reset()
    envs.close()


def test_signed_and_unsigned_integers_are_of_one_kind():  # Sync refuses them
    with SocketVectorEnv([lambda: Seen(BYTES, np.array([7, 255]))], num_workers=0) as envs:
        assert_same(envs.reset()[0], np.array([[7, 255]], np.uint8))


KEPT: list[tuple[spaces.Space[Any], Any]] = [
    (FLOATS, np.array([0.1, 0.2])),
    (FLOATS, np.array([1, 2])),
    (FLOATS, np.array([True, False])),
    (FLOATS, np.array([np.nan, np.inf])),
    (FLOATS, [0.1, 2]),
    (FLOATS, np.array([1, 2], ">f8")),
    (FLOATS, np.ma.MaskedArray([1.0, 2.0], [False, False])),
    (HALF, np.array([0.1, 65504.0])),
    (BYTES, np.array([7, 255], np.uint16)),
    (HALF, (7, 255.0)),
    (NUMBER, 1.5),
    (NUMBER, np.float64(0.1)),
    (NUMBER, np.array(7)),
    (spaces.Discrete(3), 2),
    (spaces.Discrete(3), np.uint8(2)),
    (spaces.MultiBinary(2), np.array([True, False])),
    (spaces.MultiDiscrete([3, 3]), np.array([1, 2], np.uint8)),
    (spaces.Box(-9, 9, (2,), np.dtype(">f4")), np.array([1, 2], ">f4")),
    (spaces.Box(-9, 9, (2,), np.dtype(">f4")), np.array([1, 2], "<f4")),
    (spaces.MultiDiscrete([300, 300], dtype=np.dtype(">i4")), np.array([1, 2])),
    (spaces.Dict(a=NUMBER, b=BYTES), {"a": 1, "b": np.array([1, 2], np.uint8)}),
    (spaces.Dict({"": FLOATS}), {"": np.ones(2)}),
    (spaces.Dict({"": FLOATS, "b": spaces.Text(3)}), {"": np.ones(2), "b": "xyz"}),
]
LAYOUTS = [{"num_workers": 0}, {"num_workers": 2}, {"num_workers": 1, "shared_memory": False}]


def assert_observed_as_by_sync(space: spaces.Space[Any], value: Any, **kwargs: Any) -> None:
    factories = [lambda: Seen(space, value)] * 2
    sync = SyncVectorEnv(factories)
    with SocketVectorEnv(factories, **kwargs) as envs:
        assert envs.single_observation_space == space
        assert_same(envs.reset()[0], sync.reset()[0])
        assert_same(envs.step(np.zeros(2, int))[0], sync.step(np.zeros(2, int))[0])


@pytest.mark.parametrize(("space", "value"), KEPT)
def test_an_observation_that_keeps_its_value_is_as_sync_has_it(space, value):
    assert_observed_as_by_sync(space, value, num_workers=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_observations_that_keep_their_values_are_as_sync_has_them(layout):
    names = [f"k{i:02d}" for i in range(len(KEPT))]
    space = spaces.Dict(dict(zip(names, (space for space, _ in KEPT), strict=True)))
    assert_observed_as_by_sync(space, dict(zip(names, (value for _, value in KEPT), strict=True)), **layout)


class Paid(Env):
    """Has a reward and flags of any kind."""

    def __init__(self, reward: Any = 0.0, terminated: Any = False, truncated: Any = False) -> None:
        self.values = reward, terminated, truncated

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), *self.values, {}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("1.5",), "the reward must be a number, not '1.5'"),
        ((b"1",), "the reward must be a number"),
        ((None,), "the reward must be a number, not None"),
        ((1 + 1j,), "the reward must be a number"),
        ((np.ones(1),), r"the reward must be a number.*shape \(1,\)"),
        (([1.0],), r"the reward must be a number.*shape \(1,\)"),
        ((2**53 + 1,), "values that float64 cannot hold"),
        ((np.ma.masked,), "the reward must be a number"),
        ((0.0, "no"), "terminated must be True or False, not 'no'"),
        ((0.0, None), "terminated must be True or False"),
        ((0.0, False, np.zeros(2)), "truncated must be True or False"),
    ],
)
def test_a_reward_that_is_no_number_and_a_flag_that_is_none_are_errors(values, text):
    with SocketVectorEnv([lambda: Paid(*values)], num_workers=0) as envs:
        envs.reset()
        with pytest.raises(SampleError, match=f"environment 0.*{text}"):
            envs.step(np.zeros(1, int))


@pytest.mark.parametrize(
    "reward", [1, True, np.float32(0.1), np.int8(3), np.array(2.5), np.nan, np.inf, Fraction(1, 3)]
)
def test_a_reward_is_as_sync_has_it(reward):
    rewards = []
    for envs in (SyncVectorEnv([lambda: Paid(reward)]), SocketVectorEnv([lambda: Paid(reward)], num_workers=0)):
        envs.reset()
        rewards.append(envs.step(np.zeros(1, int))[1])
        envs.close()
    assert_same(rewards[1], rewards[0])


@pytest.mark.parametrize("flag", [np.True_, 1, np.array(True), np.int8(1)])
def test_a_flag_may_be_a_number(flag):
    with SocketVectorEnv([lambda: Paid(0.0, flag)], num_workers=0) as envs:
        envs.reset()
        assert envs.step(np.zeros(1, int))[2].tolist() == [True]


class Reusing(Env):
    """Observes lists and arrays that all its like share."""

    observation_space = spaces.Dict(x=spaces.Sequence(spaces.Discrete(99)), y=spaces.Box(0, 99, (1,), np.float32))
    items: list[int] = []  # noqa: RUF012 - that it is shared is the point
    array = np.zeros(1, np.float32)

    def _observation(self, value: int) -> Any:
        self.items[:] = [value]
        self.array[:] = value
        return {"x": self.items, "y": self.array}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._observation(0), {}

    def step(self, action: Any) -> Any:
        return self._observation(int(action)), 0.0, False, False, {}


@ALL_WORKERS
def test_an_observation_is_taken_when_it_is_returned(num_workers):
    with SocketVectorEnv([Reusing] * 3, num_workers=num_workers) as envs:
        envs.reset()
        seen = envs.step(np.array([1, 2, 3]))[0]
    assert (seen["x"], seen["y"].ravel().tolist()) == (([1], [2], [3]), [1, 2, 3])


# --- actions


class Acted(Env):
    """Says in its info what it was given."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space = space

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {"given": repr(described(action))}


def described(action: Any) -> Any:
    """Return an action in words: its class, and of what of numpy's the dtype, with those of all that is in it."""
    kind = type(action).__name__
    if isinstance(action, dict):
        return kind, {key: described(value) for key, value in action.items()}
    if isinstance(action, (tuple, list)):
        return kind, [described(value) for value in action]
    if isinstance(action, np.ndarray) and action.dtype == object:
        return kind, action.shape, [described(value) for value in action.ravel().tolist()]
    if isinstance(action, (np.ndarray, np.generic)):
        return kind, str(action.dtype.descr), action.shape, repr(action.tolist())
    return kind, repr(action)


DISCRETE, BOX = spaces.Discrete(9), spaces.Box(-9, 9, (2,), np.float32)
BIG = spaces.Box(-9, 9, (2,), np.dtype(">f4"))


GIVEN: list[tuple[spaces.Space[Any], Any]] = [
    (DISCRETE, np.array([1, 2])),
    (DISCRETE, np.array([1, 2], np.int32)),
    (DISCRETE, np.array([1, 2], ">i8")),
    (DISCRETE, np.array([1, 2.5])),
    (DISCRETE, [1, 2]),
    (DISCRETE, (1, 2.5)),
    (DISCRETE, [np.int8(1), np.int32(2)]),
    (spaces.Discrete(9, dtype=np.int8), np.array([1, 300])),
    (BOX, np.array([[0.1, 0.2], [0.3, 0.4]])),
    (BOX, np.array([[1, 2], [3, 4]], np.float32)),
    (BOX, np.array([[1, 2], [3, 4]], ">f4")),
    (BOX, [[1, 2], [3, 4.5]]),
    (BOX, [np.array([0.1, 0.2]), np.array([1, 2], np.float32)]),
    (BOX, [np.array([1, 2], ">f4"), np.array([3, 4], ">f4")]),
    (BOX, np.ma.MaskedArray(np.ones((2, 2), np.float32), [[False, True], [False, False]])),
    (BIG, np.array([[1, 2], [3, 4]], ">f4")),
    (BIG, np.array([[1, 2], [3, 4]], "<f4")),
    (spaces.MultiBinary(2), np.array([[True, False], [False, True]])),
    (spaces.MultiDiscrete([3, 3]), np.array([[1, 2], [0, 1]], np.int32)),
    (spaces.Dict(a=DISCRETE, b=BOX), {"a": np.array([1, 2], np.uint8), "b": np.ones((2, 2))}),
    (spaces.Dict(a=DISCRETE, b=BOX), {"a": [1, 2.5], "b": [[1, 2], [3.5, 4]]}),
    (spaces.Tuple([DISCRETE, spaces.Text(3)]), (np.array([1, 2], np.int32), ("a", "b"))),
    (spaces.Dict(x=spaces.Tuple([DISCRETE, BIG])), {"x": (np.array([1, 2]), np.ones((2, 2), ">f4"))}),
    (spaces.Dict({"": DISCRETE}), {"": np.array([1, 2])}),
    (DISCRETE, [1, 2**70]),
    (DISCRETE, [True, 2]),
    (DISCRETE, [None, -(2**70)]),
    (DISCRETE, [1.5, 1 + 2j]),
    (DISCRETE, "ab"),
    (DISCRETE, {1: "a", 3: "b"}),
    (DISCRETE, range(1, 3)),
    (DISCRETE, [np.array(1), np.array(2)]),
    (DISCRETE, [np.float32(1), np.float32(2)]),
    (DISCRETE, [np.array([1]), 2]),
    (DISCRETE, np.array([[1], [2]])),
    (DISCRETE, np.array([1, 2], object)),
    (DISCRETE, np.array([1, "a"], object)),
    (DISCRETE, np.array([2**70, None], object)),
    (DISCRETE, np.array(["a", "bc"])),
    (DISCRETE, np.array([b"a", b"bc"])),
    (DISCRETE, np.array(["2020-01-01", "2021-01-01"], "M8[D]")),
    (DISCRETE, np.array([(1, 2.0), (3, 4.0)], [("a", "i1"), ("b", ">f8")])),
    (DISCRETE, [np.array([(1, 2.0)], [("a", "i1"), ("b", ">f8")])[0], 1]),
    (DISCRETE, np.ma.MaskedArray([1, 2], [True, False])),
    (DISCRETE, [np.ma.masked, 2]),
    (BOX, ["up", "down"]),
    (BOX, [["a", "b"], ["c", "d"]]),
    (BOX, np.array([["a", "b"], ["c", "d"]])),
    (BOX, [(1, 2), [3, 4.5]]),
    (BOX, [[], [1, [2, 3]]]),
    (BOX, [{"x": np.ones(2)}, b"x"]),
    (BOX, [np.zeros(2, np.float32), np.zeros(3, np.float32)]),
    (BOX, [np.ones(2, np.float32), np.zeros(2, np.float32)]),
    (BOX, np.ones((2, 2, 1), np.float32)),
    (BOX, np.array([[1, 2.5], [3, None]], object)),
    (BOX, np.array([np.ones(2), [1, "a"], None], object)[:2]),
    (BOX, np.zeros((2, 2), np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True))),
    (BOX, np.ma.MaskedArray(np.ones((2, 2), np.float32))),
    (BOX, np.ma.MaskedArray([[(1, 2.0)], [(3, 4.0)]], [[(True, False)], [(False, False)]], "i4,f4")),
    (spaces.Text(9), np.array(["a", "bc"])),
    (spaces.Text(9), [1, b"bc"]),
    (spaces.Sequence(BOX), [(np.ones(2), [1]), ()]),
    (spaces.Tuple([BOX, DISCRETE]), [[[1, 2], (3, 4)], np.array([1, None], object)]),
    (spaces.Dict(a=DISCRETE, b=BOX), {"b": ["x", 2**70], "a": ["y", "z"], "c": object()}),
]


def given_to(make: Any, space: spaces.Space[Any], actions: Any, *, streamed: bool = False, **kwargs: Any) -> list[str]:
    """Return what the two environments of a vector env say that they were given."""
    with contextlib.closing(make([lambda: Acted(space)] * 2, **kwargs)) as envs:
        envs.reset()
        if not streamed:
            return list(envs.step(actions)[4]["given"])
        envs.send(actions, [1, 0])
        *_, infos, ids = envs.recv(2)
        return [infos["given"][ids.tolist().index(env)] for env in (1, 0)]


@pytest.mark.parametrize(("space", "actions"), GIVEN)
def test_actions_arrive_as_they_were_given(space, actions):
    expected = given_to(SyncVectorEnv, space, actions)
    assert given_to(SocketVectorEnv, space, actions, num_workers=0) == expected
    assert given_to(SocketVectorEnv, space, actions, num_workers=0, streamed=True) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_actions_arrive_as_they_were_given(layout):
    names = [f"k{i:02d}" for i in range(len(GIVEN))]
    space = spaces.Dict(dict(zip(names, (space for space, _ in GIVEN), strict=True)))
    actions = dict(zip(names, (actions for _, actions in GIVEN), strict=True))
    expected = given_to(SyncVectorEnv, space, actions)
    for streamed in (False, True):
        assert given_to(SocketVectorEnv, space, actions, streamed=streamed, **layout) == expected


@pytest.mark.parametrize("plain", [DISCRETE, BOX])
def test_plain_actions_arrive_in_a_worker_as_they_were_given(plain):
    factories = [lambda: Acted(plain)] * 2
    with contextlib.closing(SyncVectorEnv(factories)) as sync, SocketVectorEnv(factories, num_workers=1) as envs:
        sync.reset()
        envs.reset()
        for space, actions in GIVEN:
            if space == plain:
                assert list(envs.step(actions)[4]["given"]) == list(sync.step(actions)[4]["given"])


class Move(enum.IntEnum):
    """Actions with names."""

    UP, DOWN = range(2)


@ALL_WORKERS
def test_instances_of_subclasses_arrive_as_instances_of_the_class(num_workers):
    pair = collections.namedtuple("pair", "a b")
    actions, same = [Move.UP, pair(1, Move.DOWN)], [0, (1, 1)]
    expected = given_to(SyncVectorEnv, DISCRETE, same)
    assert given_to(SocketVectorEnv, DISCRETE, actions, num_workers=num_workers) == expected


@ALL_WORKERS
def test_arrays_of_torch_arrive_as_arrays_of_numpy(num_workers):
    torch = pytest.importorskip("torch")
    pairs = [
        (DISCRETE, torch.tensor([1, 2]), np.array([1, 2])),
        (DISCRETE, [torch.tensor(1), torch.tensor(2.5)], [np.int64(1), np.float32(2.5)]),
        (BOX, torch.ones(2, 2, dtype=torch.float16), np.ones((2, 2), np.float16)),
        (BOX, [torch.ones(2), torch.ones(3)], [np.ones(2, np.float32), np.ones(3, np.float32)]),
        (BOX, (torch.ones(2), [1, 2]), [np.ones(2, np.float32), [1, 2]]),
    ]
    space = spaces.Tuple([part for part, _, _ in pairs])
    actions, same = (tuple(pair[place] for pair in pairs) for place in (1, 2))
    expected = given_to(SyncVectorEnv, space, same)
    assert given_to(SocketVectorEnv, space, actions, num_workers=num_workers) == expected


@ALL_WORKERS
def test_an_action_that_cannot_travel_is_named_with_its_environment(num_workers):
    torch = pytest.importorskip("torch")
    cases = [
        ([1, object()], "the action of environment 1: a value of type builtins.object cannot be sent .* use numbers"),
        ([range(3), 1], "the action of environment 0: a value of type builtins.range cannot be sent"),
        (np.array([1, {2}], object), "the action of environment 1: a value of type builtins.set cannot be sent"),
        ([[1], [torch.ones(1)]], r"the action of environment 1: .*a value of type torch\.Tensor cannot be sent"),
        (torch.ones(2, requires_grad=True), r"an array of type torch\.Tensor does not become one of numpy: .*detach"),
        (torch.ones(2, dtype=torch.bfloat16), r"an array of type torch\.Tensor does not become one of numpy: "),
    ]
    with SocketVectorEnv([lambda: Acted(DISCRETE)] * 2, num_workers=num_workers) as envs:
        envs.reset()
        for actions, text in cases:
            with pytest.raises(ConfigError, match=text):
                envs.step(actions)
        with pytest.raises(ConfigError, match=r"the action of environment 0: a value of type builtins\.object"):
            envs.send([1, object()], [1, 0])
        assert "'2'" in envs.step([1, 2])[4]["given"][1]


class Keeping(Env):
    """Keeps the actions that it was given."""

    action_space = spaces.Box(-9, 9, (1,), np.float32)

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def step(self, action: Any) -> Any:
        self.kept.append(action)
        return np.zeros(1, np.float32), 0.0, False, False, {"kept": [float(kept[0]) for kept in self.kept]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@ALL_WORKERS
def test_an_action_that_was_kept_does_not_change(num_workers, dtype):
    actions = np.zeros((2, 1), dtype)
    with SocketVectorEnv([Keeping] * 2, num_workers=num_workers) as envs:
        envs.reset()
        for value in range(3):
            actions[:] = value
            infos = envs.step(actions)[4]
    assert infos["kept"].tolist() == [[0, 1, 2], [0, 1, 2]]


# --- one object in several places


class Count(Env):
    """Counts its steps, in its observation."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return np.full(1, self.count, np.float32), 0.0, False, False, {}

    def itself(self) -> Count:
        return self


def shared(form: str) -> list[Any]:
    """Factories that hand out one environment, in several ways."""
    one, pool = Count(), [Count(), Count()]
    return {
        "closure": [lambda: one] * 4,
        "wrapped": [lambda: gymnasium.wrappers.TimeLimit(one, 5) for _ in range(4)],
        "partial": [functools.partial(gymnasium.wrappers.TimeLimit, one, 5)] * 4,
        "method": [one.itself] * 4,
        "default": [lambda env=one: env for _ in range(4)],
        "pool": [lambda i=i: pool[i // 2] for i in range(4)],
    }[form]


@pytest.mark.usefixtures("fresh_workers")  # to which factories are sent
@pytest.mark.parametrize("form", ["closure", "wrapped", "partial", "method", "default", "pool"])
@pytest.mark.parametrize("num_workers", [0, 2, 4])
def test_the_same_environment_twice_is_an_error(form, num_workers):
    with pytest.raises(ConfigError, match=r"environments 0 and 1 are the same object.*lambda: MyEnv"):
        SocketVectorEnv(shared(form), num_workers=num_workers)


@pytest.mark.parametrize("context", ["spawn", "fork", "forkserver"])
def test_one_worker_finds_the_same_environment_twice(context):
    with pytest.raises(ConfigError, match="environments 0 and 1 are the same object"):
        SocketVectorEnv(shared("wrapped")[:2], num_workers=1, context=context)


def test_a_function_that_remembers_its_environment_is_found_in_a_process():
    known: list[Count] = []

    def make() -> Count:
        known[:] = known or [Count()]
        return known[0]

    with pytest.raises(ConfigError, match="environments 0 and 1 are the same object"):
        SocketVectorEnv([make, make], num_workers=0)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_workers")  # to which factories are sent
def test_factories_may_hold_an_environment_that_they_do_not_hand_out():
    template, pool = Count(), [Count() for _ in range(4)]
    for factories in ([lambda: copy.deepcopy(template)] * 4, [lambda i=i: pool[i] for i in range(4)]):
        with SocketVectorEnv(factories, num_workers=2) as envs:
            envs.reset()
            assert envs.step(np.zeros(4, int))[0].ravel().tolist() == [1, 1, 1, 1]


class Around(Count):
    """An environment with another one in an attribute."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        vars(self).update(parts)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_workers")  # to which factories are sent
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_environments_with_the_same_one_inside_are_an_error(num_workers):
    inner = Count()
    forms = {
        "solver": lambda: Around(solver=inner),
        "fleet.1": lambda: Around(fleet=[1, gymnasium.wrappers.TimeLimit(inner, 5)]),
        "a": functools.partial(gymnasium.wrappers.TimeLimit, Around(by_name={"a": inner}), 5),
    }
    for name, factory in forms.items():
        match = rf"environments 0 and 1 (have the same environment inside .*as .*{name}|are the same object)"
        with pytest.raises(ConfigError, match=match):
            SocketVectorEnv([factory, factory], num_workers=num_workers)


def test_environments_with_others_of_their_own_inside_are_none():
    template = Count()
    factories = [lambda: Around(solver=Count(), other=Around(inner=copy.deepcopy(template)))] * 2
    for num_workers in (0, 2):
        with SocketVectorEnv(factories, num_workers=num_workers) as envs:
            envs.reset()


# --- recorded transitions


class Clipping(Env):
    """Clips its action in place, and writes into one observation."""

    observation_space = action_space = spaces.Box(-9, 9, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.state = np.zeros(1, np.float32)
        return self.state, {}

    def step(self, action: Any) -> Any:
        np.clip(action, -0.5, 0.5, out=action)
        self.state += 1
        return self.state, 0.0, False, False, {}


def test_recorded_transitions_are_copies():
    env = RecordTransition(Clipping())
    env.reset()
    action, samples = np.zeros(1, np.float32), []
    for value in (0.9, 0.1, 0.2):
        action[:] = value
        samples.append(env.step(action)[4]["sample"])
        samples[-1]["next_observation"] -= 100  # which is the next sample's observation no longer
    assert [round(float(sample["action"][0]), 6) for sample in samples] == [0.9, 0.1, 0.2]
    assert [float(sample["observation"][0]) for sample in samples] == [0, 1, 2]
    assert [float(sample["next_observation"][0]) for sample in samples] == [-99, -98, -97]


class Old(Env):
    """Has the interface of old Gym."""

    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


def test_the_old_interface_is_named_where_transitions_are_recorded():
    env = RecordTransition(Old())
    env.reset()
    with pytest.raises(SampleError, match=r"step must return 5 values, .*; it returned 4 values"):
        env.step(0)


class Solver(Simulation):
    """Hands out the arrays that it computes in."""

    observation_space = action_space = spaces.Box(-9, 9, (1,), np.float32)
    sample_space = spaces.Dict(x=action_space, many=spaces.Box(-9, 9, (2,), np.float32))
    parameter_space = spaces.Dict(k=spaces.Box(0, 99, (), np.int8))

    def begin(self, options: dict[str, Any]) -> None:
        self.state = np.zeros(1, np.float32)

    def advance(self, action: Any) -> None:
        self.state += 1

    def observation(self) -> Any:
        return self.state

    def sample(self) -> Any:
        return {"x": self.state, "many": (1.0, 2)}  # a tuple may be the value of a field


def test_samples_of_a_simulation_are_copies():
    env = Solver()
    env.reset(seed=0)
    samples = [env.step(np.zeros(1, np.float32))[4]["sample"] for _ in range(3)]
    assert [float(sample["x"][0]) for sample in samples] == [1, 2, 3]
    assert samples[0]["many"].tolist() == [1, 2]


@pytest.mark.parametrize("value", [1.5, 300, "3"])
def test_a_parameter_is_used_as_it_was_given_or_refused(value):
    with pytest.raises(ConfigError, match=r"'k' = .*give numbers of dtype int8"):
        Solver().reset(seed=0, options={"parameters": {"k": value}})


def test_a_field_takes_what_numpy_calls_a_dtype():
    for dtype in (np.float32, "float32", np.dtype("f4"), "<f4"):
        field = Field("x", [np.int64(3)], dtype, "input")
        assert (field.shape, field.dtype) == ((3,), np.dtype(np.float32))
        assert Field("x", (3,), np.dtype("f4"), "input") == field
    assert Field("x", 3, float, "input").shape == (3,)
    with pytest.raises(SampleError, match="field 'x' needs"):
        Field("x", (3,), "no such dtype", "input")
