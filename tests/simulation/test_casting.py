"""The one rule for casts: the kind fits, and no value is destroyed."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from physgym.casting import CastError, as_dtype, as_number
from physgym.errors import SampleError
from physgym.vector import SocketVectorEnv

INTEGERS = st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">u8"]).map(np.dtype)
FLOATS = st.sampled_from(["f2", "f4", "f8", ">f4"]).map(np.dtype)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)


@given(st.data(), INTEGERS, INTEGERS, SHAPES)
def test_an_integer_is_held_exactly_or_refused(data, before, after, shape):
    array = data.draw(hnp.arrays(before, shape))
    numbers, limits = [int(i) for i in array.ravel()], np.iinfo(after)
    if all(limits.min <= number <= limits.max for number in numbers):
        changed = as_dtype(array, after)
        assert (changed.dtype, changed.shape) == (after, array.shape)
        assert [int(i) for i in changed.ravel()] == numbers
    else:
        with pytest.raises(CastError, match=r"has values that .* cannot hold"):
            as_dtype(array, after)


@given(st.data(), INTEGERS, FLOATS, SHAPES)
def test_an_integer_in_a_float_is_exact_or_refused(data, before, after, shape):
    array = data.draw(hnp.arrays(before, shape))
    numbers = [int(i) for i in array.ravel()]
    with np.errstate(all="ignore"):
        held = [after.type(number) for number in array.ravel()]
    if all(np.isfinite(x) and int(x) == number for x, number in zip(held, numbers, strict=True)):
        assert [int(x) for x in as_dtype(array, after).ravel()] == numbers
    else:
        with pytest.raises(CastError, match="cannot hold, the first"):
            as_dtype(array, after)


@given(st.data(), FLOATS, FLOATS, SHAPES)
def test_a_float_is_rounded_but_stays_finite(data, before, after, shape):
    array = data.draw(hnp.arrays(before, shape))
    with np.errstate(all="ignore"):
        plain = array.astype(after)
    if (np.isfinite(array) == np.isfinite(plain)).all():
        changed = as_dtype(array, after)
        assert changed.dtype == after
        assert np.array_equal(changed, plain, equal_nan=True)
    else:
        with pytest.raises(CastError, match="cannot hold"):
            as_dtype(array, after)


KINDS = st.sampled_from(["?", "i4", "u2", "f4", "c8", "S3", "U3"])


@given(st.data(), KINDS, KINDS)
def test_a_kind_that_does_not_fit_is_refused(data, before, after):
    source, target = np.dtype(before), np.dtype(after)
    assume(not (source.kind in "iu" and target.kind in "iu"))
    assume(not np.can_cast(source, target, "same_kind"))
    array = data.draw(hnp.arrays(source, 2)) if source.kind not in "SU" else np.array(["1", "2"], source)
    with pytest.raises(CastError, match=re.escape(f"which does not convert to {target}")):
        as_dtype(array, target)


def test_the_same_dtype_is_the_same_array():
    for dtype in ("f4", ">f4", "U3", "?", [("a", "i4")]):
        array = np.zeros(3, dtype)
        assert as_dtype(array, np.dtype(dtype)) is array


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ([1, 300], "u1", r"the first 300 of dtype int64 at index \(1,\)"),
        (2**63, "i8", "the first 9223372036854775808 of dtype uint64"),
        (-1, "u8", "the first -1 of dtype int64"),
        (2**80, "i8", "has values that int64 cannot hold"),
        (2**53 + 1, "f8", "9007199254740993"),
        (2**53 + 1, "c16", "9007199254740993"),
        (1e39, "f4", "float32 cannot hold"),
        (1e39j, "c8", "complex64 cannot hold"),
        (np.ma.MaskedArray([1, 2], [True, False]), "i8", "is a masked array with 1 missing values"),
        (np.ma.masked, "f8", "is a masked array"),
        (np.array(["abc"]), "U2", "the first 'abc'"),
        (np.array([b"abc"]), "S2", "the first b'abc'"),
        (np.array([1], "m8[ms]"), "m8[s]", "the first"),
        (np.zeros(2, [("a", "i8")]), [("a", "i1")], "has dtype"),
        ([[1], [2, 3]], "f4", "is not an array"),
        (None, "f4", "has dtype object"),
    ],
    ids=repr,
)
def test_what_would_be_destroyed_is_named(value, dtype, text):
    with pytest.raises(CastError, match=text):
        as_dtype(value, np.dtype(dtype))


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (np.array([np.nan, np.inf, 0.1]), "f4", [np.nan, np.inf, np.float32(0.1)]),
        (np.ma.MaskedArray([1, 2], [False, False]), "f4", [1, 2]),
        (True, "f4", 1.0),
        (np.array(["NaT", "0"], "m8[s]"), "m8[ms]", np.array(["NaT", "0"], "m8[ms]")),
        (np.array([2000, 0], "m8[ms]"), "m8[s]", np.array([2, 0], "m8[s]")),
        (np.array(["NaT"], "m8[ms]"), "m8[s]", np.array(["NaT"], "m8[s]")),
        (np.array(["ab", "c"], "U5"), "U2", ["ab", "c"]),
        (np.array([1, 2], "<i4"), ">i4", [1, 2]),
    ],
    ids=repr,
)
def test_what_is_not_destroyed_is_cast(value: Any, dtype: str, expected: Any):
    changed = as_dtype(value, np.dtype(dtype))
    assert changed.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(changed, np.asarray(expected, dtype))


@pytest.mark.parametrize("value", [1, True, 1.0, np.float32(1), np.int8(1), np.array(1), Fraction(1), Decimal(1)])
def test_a_number_is_a_float(value):
    assert as_number(value) == 1.0
    assert type(as_number(value)) is float


@pytest.mark.parametrize("value", ["1", b"1", None, 1j, [1.0], np.ones(1), np.ma.masked, 2**53 + 1, Fraction(10**400)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(CastError):
        as_number(value)


LARGE = 2**70


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint8", ">i4"])
@pytest.mark.parametrize("value", [LARGE, -LARGE, [1, LARGE], [[LARGE, 2]], 10**5000], ids=lambda v: "")
def test_integers_of_more_bits_than_numpy_has_are_named(dtype, value):
    with pytest.raises(CastError, match=r"has values that .* cannot hold, the first .* of dtype int \(Python's\)"):
        as_dtype(value, np.dtype(dtype))


def test_large_integers_stay_what_they_are_or_are_refused():
    for dtype in ("float32", "float64", "complex64"):
        found = as_dtype([LARGE, -1], np.dtype(dtype))
        assert (found.dtype, found.tolist()) == (np.dtype(dtype), [LARGE, -1])
    for value in (LARGE + 1, 10**400, 10**5000, -(10**400)):
        with pytest.raises(CastError, match="cannot hold"):
            as_number(value)
    with pytest.raises(CastError, match=r"the first an integer of 1329 bits .* at index \(1, 0\)"):
        as_dtype([[1], [10**400]], np.dtype("f8"))
    assert as_number(LARGE) == 2.0**70
    with pytest.raises(CastError, match="losing its kind"):
        as_dtype([LARGE], np.dtype(bool))
    with pytest.raises(CastError, match="losing its kind"):
        as_dtype(np.array([1], object), np.dtype("i8"))


class Large(gymnasium.Env):
    """Observes an integer of more than 64 bits."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, space, observation, reward=0.0):
        self.observation_space, self.observation, self.reward = space, observation, reward

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation, self.reward, False, False, {}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("space", "observation", "name"),
    [
        (gymnasium.spaces.Discrete(3), LARGE, "the observation"),
        (gymnasium.spaces.MultiDiscrete([3, 3]), [LARGE, 1], "the observation"),
        (gymnasium.spaces.Box(0, 9, (), np.int64), -LARGE, "the observation"),
        (gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(3)), {"a": LARGE}, "observation 'a'"),
    ],
    ids=["Discrete", "MultiDiscrete", "Box", "Dict"],
)
def test_an_observation_of_many_bits_is_said_as_any_that_does_not_fit(space, observation, name, num_workers):
    with SocketVectorEnv([lambda: Large(space, observation)] * 2, num_workers=num_workers) as envs:
        envs.reset()
        with pytest.raises(SampleError, match=rf"environment 0: {name} has values that int64 cannot hold"):
            envs.step([0, 0])


def test_a_reward_of_many_bits():
    space = gymnasium.spaces.Discrete(3)
    with SocketVectorEnv([lambda: Large(space, 1, LARGE), lambda: Large(space, 1, 10**5000)], num_workers=0) as envs:
        envs.reset()
        with pytest.raises(
            SampleError, match="environment 1: the reward must be a number, not an integer of 16610 bits"
        ):
            envs.step([0, 0])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([2**53 + 1, 1.5], "f8"),
        ([[2**53 + 1, 1.0]], "f8"),
        ([np.int64(2**53 + 1), 1.5], "f8"),
        ([np.array([1.5, 2]), np.array([2**53 + 1, 2])], "f8"),
        ([np.array([2**63 + 1], "u8"), np.array([-1])], "f8"),
        ([2**24 + 1, 1.0], "f4"),
        ([2**53 + 1, 1j], "c16"),
    ],
    ids=str,
)
def test_integers_of_a_list_are_not_rounded_beside_a_float(values, dtype):
    with pytest.raises(CastError, match="cannot hold"):
        as_dtype(values, np.dtype(dtype))


def test_integers_beside_floats_that_fit_are_taken():
    assert as_dtype([2**53, 1.5, True, np.int8(3)], np.dtype("f8")).tolist() == [2.0**53, 1.5, 1.0, 3.0]
    assert as_dtype([[1, 2.5], (3, 4)], np.dtype("f4")).tolist() == [[1.0, 2.5], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (["a", b"b"], "U5", r"a list of texts, or of bytes, with b'b' among them"),
        ([b"a", "b"], "S5", r"a list of texts, or of bytes, with b'a' among them"),
        ([["a"], [b"b"]], "U5", "with b'b' among them"),
        (("a", np.array(b"b")), "U5", "among them"),
        ("a\0", "U5", r"has the text 'a\\x00', which ends with a NUL character"),
        (["ab", ("a\0", "b")][1:], "U5", "ends with a NUL character"),
        ([b"b", b"a\0"], "S5", r"has the text b'a\\x00', which ends with a NUL"),
        ([2**64 - 1, -1], "u8", "the first -1"),
        ([2**64, 1], "u8", "the first 18446744073709551616"),
        ([2**64 - 1, 1], "i8", "the first 18446744073709551615"),
        ([2**64 - 1, 1], "f8", "the first 18446744073709551615"),
        ([2**64 - 1, 1.0], "u8", "does not convert"),
    ],
)
def test_what_numpy_would_change_in_a_list_is_refused(value, dtype, text):
    with pytest.raises(CastError, match=text):
        as_dtype(value, np.dtype(dtype))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([2**64 - 1, 1], "u8"),
        ([[2**64 - 1], (0,)], "u8"),
        ([np.uint64(2**64 - 1), 1], "u8"),
        ([np.array([2**64 - 1], "u8"), [1]], "u8"),
        ([2**63, 1], "f8"),
        (["a", "b\0c", np.str_("d")], "U5"),
        ([b"a", np.array(b"b")], "S5"),
    ],
)
def test_what_fits_in_a_list_is_kept(value, dtype):
    array = as_dtype(value, np.dtype(dtype))
    assert array.dtype == dtype
    assert array.tolist() == [
        part.tolist() if isinstance(part, np.ndarray) else list(part) if isinstance(part, tuple) else part
        for part in value
    ]
