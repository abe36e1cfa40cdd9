"""Infos of every two kinds of values beside one another: as Gymnasium batches them where it leaves both as they are."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym
from tests.support.conversation import assert_same
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

KINDS: dict[str, Any] = {
    "true": True,
    "false": False,
    "int": 3,
    "300": 300,
    "2**63": 2**63,
    "2**80": 2**80,
    "float": 1.5,
    "nan": float("nan"),
    "0.1": 0.1,
    "np.bool": np.bool_(True),
    "int8": np.int8(-5),
    "int64": np.int64(2**40),
    "uint64": np.uint64(2**64 - 1),
    "float32": np.float32(0.1),
    "complex": 1 + 2j,
    "text": "ab",
    "longer": "abcdef",
    "bytes": b"ab",
    "none": None,
    "list": [1.0, 2.0, 3.0],
    "texts": ["a", None],
    "tuple": (1, "a"),
    "floats": np.array([1.0, 2.0, 3.0]),
    "0.1s": np.full(3, 0.1),
    "float32s": np.array([1, 2, 3], np.float32),
    "big-endian": np.array([1, 2, 3], ">f4"),
    "ints": np.arange(3),
    "flags": np.array([True, False, True]),
    "matrix": np.ones((2, 3)),
    "row": np.ones((1, 3)),
    "one": np.array([7.5]),
    "empty": np.zeros(0),
    "0-d": np.array(2.5),
    "words": np.array(["a", "b", "c"]),
    "longer words": np.array(["aaa", "bbb", "ccc"]),
    "objects": np.array([None, "a", 3], object),
    "masked": np.ma.MaskedArray([1.0, 2.0, 3.0], [False, True, False]),
    "dict": {"y": 1, "z": {"v": np.ones(2)}},
    "other dict": {"y": "a", "w": None},
    "empty dict": {},
    "missing": ...,
}
NAMES = list(KINDS)
PAIRS = list(itertools.product(NAMES, NAMES))

# What Gymnasium 1.4 makes of a kind (row) in environment 0 beside a kind (column, in the same order) in environment 1:
# "." both are as they were, "~" one is another value, "!" it raises.
GYMNASIUM = """
..~~~~~~~.~~~~~~~~~~~~!!!!!!!!~!~!!!!!!~.
..~~~~~~~.~~~~~~~~~~~~!!!!!!!!~!~!!!!!!~.
~~..!!~!~~..!~!!!!!!!!!!!!!!!!!!~!!!!!!~.
~~..!!~!~~..!~!!!!!!!!!!!!!!!!!!~!!!!!!~.
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
~~~~~~...~~~~.!!!!~!!!!!!!!!!!!!.!!!!!!~.
~~~~~~...~~~~.!!!!~!!!!!!!!!!!!!.!!!!!!~.
~~~~~~...~~~~.!!!!~!!!!!!!!!!!!!.!!!!!!~.
.....................................!!~.
~~.!!!~!~~.!!~!!!!!!!!!!!!!!!!!!~!!!!!!~.
~~..!!~!~~..!~!!!!!!!!!!!!!!!!!!~!!!!!!~.
~~...!~!~~~..~!!!!!!!!!!!!!!!!!!~!!!!!!~.
~~~~~~..~~~~~.!!!!~!!!!!!!!!!!!!.!!!!!!~.
.....................................!!~.
.....................................!!~.
.....................................!!~.
.....................................!!~.
.....................................!!~.
.....................................!!~.
.....................................!!~.
.....................................!!~.
~~~~~~~~~~~~~~!!!!~~!!....~~!~~!~!!!~!!~.
~~~~~~~~~~~~~~!!!!~~!!....~~!~~!~!!!~!!~.
~~~~~~~~~~~~~~!!!!~~!!.~..~~!~~!~!!!~!!~.
~~~~~~~~~~~~~~!!!!~~!!.~..~~!~~!~!!!~!!~.
~~~~!!~!~~~~!~!!!!!~!!~~~~.~!~~!~!!!~!!~.
~~~~~~~~~~~~~~~~~~~~!!~~~~~.!~~!~~~~~!!~.
~~~~~~~~~~~~~~!!!!~~!!~~~~~~.~~!~!!!~!!~.
~~~~~~~~~~~~~~!!!!~~!!~~~~~~!.~!~!!!~!!~.
~~~~~~~~~~~~~~!!!!~!!!!!!!!!!!.!~!!!!!!~.
~~~~~~~~~~~~~~!!!!~!!!!!!!!!!!~.~!!!!!!~.
~~~~~~...~~~~.!!!!~!!!!!!!!!!!!!.!!!!!!~.
~~~~~~~~~~~~~~~~~~~~!!~~~~~~!~~!~.~~~!!~.
~~~~~~~~~~~~~~~~~~~~!!~~~~~~!~~!~..~~!!~.
~~~~~~~~~~~~~~~~~~~~!!~~~~~~!~~!~~~.~!!~.
~~~~~~~~~~~~~~!!!!~~!!~~~~~~!~~!~!!!~!!~~
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~.!..
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~....
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~....
....!!..............................~....
"""


class Told(gymnasium.Env[Any, Any]):
    """Has an info of the kind that its action, or the options of its reset, name."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(len(NAMES))

    def __init__(self, index: int, *, ends: bool) -> None:
        self._index, self._ends, self._kind = index, ends, "missing"

    def _info(self) -> dict[str, Any]:
        return {} if self._kind == "missing" else {"x": KINDS[self._kind]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if options:
            self._kind = options["kinds"][self._index]
        return np.zeros(1, np.float32), self._info()

    def step(self, action: Any) -> Any:
        self._kind = NAMES[action]
        return np.zeros(1, np.float32), 0.0, self._ends, False, self._info()


def made(make: Any, *, ends: bool, **kwargs: Any) -> Any:
    mode = AutoresetMode.SAME_STEP if ends else AutoresetMode.NEXT_STEP
    factories = [lambda index=index: Told(index, ends=ends) for index in range(2)]
    return make(factories, autoreset_mode=mode, **kwargs)


def infos_of(envs: Any, what: str, pairs: list[tuple[str, str]]) -> Iterator[dict[str, Any] | Exception]:
    """The info of every pair, or the exception."""
    for pair in pairs:
        try:
            if what == "reset":
                _, info = envs.reset(options={"kinds": list(pair)})
            else:
                info = envs.step(np.array([NAMES.index(name) for name in pair]))[4]
                info.pop("final_obs", None)
            yield info
        except (TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
            yield error


def kind_of(value: Any) -> Any:
    """A flag, a number of integers, of floats ...; a list, a tuple, an array; and its shape."""
    if isinstance(value, (dict, list, tuple)) or value is None:
        return type(value)
    array = np.asarray(value)
    if array.dtype == object and not isinstance(value, np.ndarray):
        return "i" if isinstance(value, int) else "O", ()
    return "i" if array.dtype.kind == "u" else array.dtype.kind, array.shape


def unchanged(value: Any, given: Any) -> bool:
    """Whether a value is equal by ==, and of the same shape and kind."""
    if value is ... or given is ...:
        return value is given
    if kind_of(value) != kind_of(given) or np.ma.is_masked(value) != np.ma.is_masked(given):
        return False
    if isinstance(given, dict):
        return value.keys() == given.keys() and all(unchanged(value[key], given[key]) for key in given)
    if isinstance(given, (list, tuple)) or given is None:
        return bool(value == given)
    number = np.asarray(given).dtype.kind in "fc"
    return np.array_equal(np.ma.filled(value, -1), np.ma.filled(given, -1), equal_nan=number)


def value_in(batch: Any, key: str, index: int) -> Any:
    """What a batch says of one environment; ... if nothing."""
    if key not in batch or not isinstance(batch.get(f"_{key}"), np.ndarray) or not batch[f"_{key}"][index]:
        return ...
    if isinstance(batch[key], dict):
        keys = [inner for inner in batch[key] if f"_{inner}" in batch[key]]
        found = {inner: value_in(batch[key], inner, index) for inner in keys}
        return {inner: value for inner, value in found.items() if value is not ...}
    return batch[key][index]


def assert_alike(ours: Any, theirs: Any) -> None:
    """Fail unless two batches are the same; a number among objects may be Python's or numpy's."""
    assert ours.keys() == theirs.keys()
    for key, column in theirs.items():
        if isinstance(column, dict):
            assert_alike(ours[key], column)
        elif column.dtype == object and column.ndim == 1:
            assert ours[key].dtype == object
            assert all(unchanged(a, b) for a, b in zip(ours[key], column, strict=True)), (ours, theirs)
        else:
            assert_same(ours[key], column)


def verdict(info: dict[str, Any] | Exception, pair: tuple[str, str]) -> str:
    if isinstance(info, Exception):
        return "!"
    return "." if all(unchanged(value_in(info, "x", i), KINDS[name]) for i, name in enumerate(pair)) else "~"


@pytest.fixture(scope="module")
def gymnasiums() -> dict[str, list[dict[str, Any] | Exception]]:
    """What SyncVectorEnv makes of every pair in a reset, in a step, and in a step that ends the episode."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy has its opinions on what is changed
        for what, ends in (("reset", False), ("step", False), ("end", True)):
            envs = made(SyncVectorEnv, ends=ends)
            envs.reset()
            found[what] = list(infos_of(envs, what, PAIRS))
            envs.close()
    return found


def test_the_pairs_that_gymnasium_changes_are_those_that_we_know(gymnasiums):
    verdicts = [verdict(info, pair) for info, pair in zip(gymnasiums["step"], PAIRS, strict=True)]
    rows = ["".join(verdicts[i : i + len(NAMES)]) for i in range(0, len(PAIRS), len(NAMES))]
    assert rows == GYMNASIUM.split()


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("what", ["reset", "step", "end"])
def test_every_two_kinds_of_values_stay_what_they_are(gymnasiums, what, num_workers):
    with made(physgym.SocketVectorEnv, ends=what == "end", num_workers=num_workers) as envs:
        envs.reset()
        for pair, info, theirs in zip(PAIRS, infos_of(envs, what, PAIRS), gymnasiums[what], strict=True):
            assert isinstance(info, dict), (pair, info)
            known = verdict(theirs.get("final_info", theirs) if isinstance(theirs, dict) else theirs, pair)
            if known == ".":
                assert_alike(info, theirs)
                continue
            for batch in (info, info["final_info"]) if what == "end" else (info,):
                if not all(isinstance(KINDS[name], dict) or name == "missing" for name in pair):
                    assert isinstance(batch["x"], np.ndarray), (pair, batch)
                    assert (batch["x"].dtype, batch["x"].shape) == (object, (2,)), pair
                for index, name in enumerate(pair):
                    assert unchanged(value_in(batch, "x", index), KINDS[name]), (pair, index, batch["x"])


NUMBERS: dict[str, Any] = {
    "0-d float": np.array(1.5),
    "0-d int": np.array(3),
    "0-d int8": np.array(3, np.int8),
    "0-d flag": np.array(True),
    "0-d text": np.array("ab"),
    "0-d object": np.array(None),
    "np.float64": np.float64(1.5),
    "np.int64": np.int64(3),
    "np.float32": np.float32(1.5),
    "np.bool": np.bool_(True),
    "float": 1.5,
    "int": 3,
    "true": True,
    "text": "ab",
    "none": None,
    "list": [1.5],
    "floats": np.array([1.5]),
}
NESTED = {f"{{{name}}}": {"y": value} for name, value in NUMBERS.items() if name in ("0-d float", "np.int64", "int")}
EXACT = {**NUMBERS, **NESTED}


def exactly(value: Any) -> Any:
    """A value in words, so that an array of no axis, a scalar of numpy's and a number of Python's differ."""
    if isinstance(value, dict):
        return {key: exactly(part) for key, part in value.items()}
    return type(value), getattr(value, "dtype", None), np.shape(value), repr(value)


class Exact(gymnasium.Env[Any, Any]):
    """Has the info that its action numbers."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(len(EXACT))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {"x": list(EXACT.values())[action]}


def test_where_values_of_two_kinds_meet_each_is_the_very_one_however_many_workers_there_are():
    with (
        physgym.SocketVectorEnv([Exact] * 2, num_workers=0) as none,
        physgym.SocketVectorEnv([Exact] * 2, num_workers=1) as one,
        physgym.SocketVectorEnv([Exact] * 2, num_workers=2) as two,
    ):
        for envs in (none, one, two):
            envs.reset()
        for pair in itertools.product(EXACT, EXACT):
            actions = np.array([list(EXACT).index(name) for name in pair])
            found = [envs.step(actions)[4]["x"] for envs in (none, one, two)]
            for batch in found:
                if isinstance(batch, np.ndarray) and batch.dtype == object:
                    assert [exactly(value) for value in batch] == [exactly(EXACT[name]) for name in pair], pair
                else:
                    assert_same(batch, found[0])
