from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from physgym import spaces as walk
from physgym.cube import Cube
from physgym.errors import ConfigError
from physgym.running.space_fitting import fitter
from physgym.sample import Field, SampleSpec
from physgym.samplers import Uniform
from physgym.spaces import Leaf, fixed_leaves, flatten, from_json, is_custom, leaves, to_json, unflatten

INTEGERS = st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32])
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def float_boxes(draw: st.DrawFn) -> spaces.Box:
    dtype, shape = np.dtype(draw(FLOATS)), draw(SHAPES)
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=8 * dtype.itemsize)
    one, other = (draw(hnp.arrays(dtype, shape, elements=numbers)) for _ in range(2))
    no_low, no_high = (draw(hnp.arrays(np.bool_, shape)) for _ in range(2))
    low = np.where(no_low, dtype.type(-np.inf), np.minimum(one, other))
    high = np.where(no_high, dtype.type(np.inf), np.maximum(one, other))
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def integer_boxes(draw: st.DrawFn) -> spaces.Box:
    dtype, shape = np.dtype(draw(INTEGERS)), draw(SHAPES)
    if dtype.kind == "i" and draw(st.booleans()):
        return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    numbers = st.integers(int(np.iinfo(dtype).min), min(int(np.iinfo(dtype).max), 2**63 - 2))
    one, other = (draw(hnp.arrays(dtype, shape, elements=numbers)) for _ in range(2))
    return spaces.Box(np.asarray(np.minimum(one, other)), np.asarray(np.maximum(one, other)), shape, dtype.type)


DISCRETE = st.builds(
    lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=dtype),
    st.integers(1, 60),
    st.integers(0, 60),
    INTEGERS,
)
MULTI_DISCRETE = st.builds(
    lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, dtype=dtype, start=np.full_like(nvec, start)),
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=2, max_side=3), elements=st.integers(1, 60)),
    st.integers(0, 60),
    INTEGERS,
)
MULTI_BINARY = st.one_of(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3)).map(spaces.MultiBinary)
LEAVES = st.one_of(float_boxes(), integer_boxes(), DISCRETE, MULTI_DISCRETE, MULTI_BINARY)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=3).map(lambda d: spaces.Dict(OrderedDict(d))),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


def through_json(space: spaces.Space[Any]) -> spaces.Space[Any]:
    return from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))


def bits(values: list[Any]) -> list[tuple[Any, ...]]:
    return [(np.asarray(v).shape, np.asarray(v).dtype, np.asarray(v).tobytes()) for v in values]


@pytest.mark.slow
@given(SPACES)
def test_a_space_survives_json(space):
    again = through_json(space)
    assert again == space
    assert leaves(again) == leaves(space)  # names, order, shapes, dtypes


@pytest.mark.slow
@given(st.one_of(float_boxes(), integer_boxes()))
def test_a_box_keeps_its_bounds_to_the_bit(space):
    again = through_json(space)
    np.testing.assert_array_equal(again.low, space.low)
    np.testing.assert_array_equal(again.high, space.high)
    np.testing.assert_array_equal(again.bounded_below, space.bounded_below)
    np.testing.assert_array_equal(again.bounded_above, space.bounded_above)


@pytest.mark.slow
@given(st.one_of(DISCRETE, MULTI_DISCRETE, MULTI_BINARY, integer_boxes()), st.integers(0, 2**31))
def test_a_copy_draws_the_same_samples(space, seed):
    again = through_json(space)
    space.seed(seed)
    again.seed(seed)
    assert bits([space.sample()]) == bits([again.sample()])


@pytest.mark.slow
@given(SPACES, st.data())
def test_unflatten_inverts_flatten(space, data):
    values = [
        data.draw(hnp.arrays(leaf.dtype, leaf.shape, elements=hnp.from_dtype(leaf.dtype))) for leaf in leaves(space)
    ]
    nested = unflatten(space, iter(values))
    assert bits(flatten(space, nested)) == bits(values)


def test_samples_flatten_to_the_layout_of_the_leaves():
    space = spaces.Dict(
        {
            "b": spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2, 3), np.float64)]),
            "a": spaces.MultiBinary([2, 2]),
            "c": spaces.Dict(
                {"d": spaces.MultiDiscrete([2, 3], dtype=np.int32), "e": spaces.Box(0, 255, (1,), np.uint8)}
            ),
        }
    )
    assert leaves(space) == [
        Leaf("a", (2, 2), np.dtype(np.int8)),
        Leaf("b/0", (), np.dtype(np.int64)),
        Leaf("b/1", (2, 3), np.dtype(np.float64)),
        Leaf("c/d", (2,), np.dtype(np.int32)),
        Leaf("c/e", (1,), np.dtype(np.uint8)),
    ]
    assert [leaf.nbytes for leaf in leaves(space)] == [4, 8, 48, 8, 1]
    space.seed(0)
    value = space.sample()
    flat = flatten(space, value)
    assert [(np.shape(v), np.asarray(v).dtype) for v in flat] == [(leaf.shape, leaf.dtype) for leaf in leaves(space)]
    again = unflatten(space, iter(flat))
    assert space.contains(again)
    assert isinstance(again["b"], tuple)


def test_a_leaf_alone_has_an_empty_path():
    assert leaves(spaces.Discrete(2)) == [Leaf("", (), np.dtype(np.int64))]
    assert flatten(spaces.Discrete(2), 1) == [1]
    assert unflatten(spaces.Discrete(2), iter([1])) == 1


def test_uniform_bounds_take_one_number():
    assert to_json(spaces.Box(-np.inf, 2, (1000, 3), np.float32))["low"] is None
    assert to_json(spaces.Box(-np.inf, 2, (1000, 3), np.float32))["high"] == 2.0


def test_the_order_of_keys_survives():
    space = spaces.Dict(OrderedDict(z=spaces.Discrete(2), a=spaces.Discrete(3)))
    assert [leaf.path for leaf in leaves(through_json(space))] == ["z", "a"]


VARIABLE_SPACES = [
    spaces.Text(5),
    spaces.Text(3, min_length=0, charset="äβ 7"),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Sequence(spaces.Box(0, 1, (2,), np.float64), stack=True),
    spaces.Graph(spaces.Box(0, 1, (1,)), None),
    spaces.Graph(spaces.Discrete(3), spaces.Box(-1, 1, (2, 2))),
    spaces.OneOf([spaces.Discrete(2), spaces.Tuple([spaces.Text(2), spaces.MultiBinary(3)])]),
]


@pytest.mark.parametrize("space", VARIABLE_SPACES)
def test_spaces_of_variable_size_survive_json_and_are_one_leaf(space):
    nested = spaces.Dict({"x": space, "y": spaces.Discrete(3)})
    assert through_json(nested) == nested
    assert [(leaf.path, leaf.variable) for leaf in leaves(nested)] == [("x", True), ("y", False)]
    with pytest.raises(ConfigError, match=r"no fixed byte layout.*Use Box"):
        fixed_leaves(nested)


class Sphere(spaces.Space):
    """A space of somebody's own."""


def test_a_space_of_somebodys_own_class_is_named():
    data = to_json(spaces.Tuple([spaces.Discrete(2), Sphere()]))
    assert data["spaces"][1] == {"type": "custom", "class": "tests.simulation.test_spaces.Sphere"}
    assert is_custom(data)
    assert not is_custom(to_json(spaces.Discrete(2)))
    assert [leaf.variable for leaf in leaves(from_json(data))] == [False, True]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "Sphere"},
        {"type": "Box", "shape": [2]},
        {"type": "Box", "shape": [2], "dtype": "<f4", "low": [0, 0, 0], "high": 1},
        {"type": "Box", "shape": [2], "dtype": "<f4", "low": 1, "high": 0},
        {"type": "Box", "shape": [2], "dtype": "object", "low": 0, "high": 1},
        {"type": "Discrete", "n": -1, "start": 0, "dtype": "<i8"},
        {"type": "Dict", "spaces": 5},
        {"type": "MultiBinary", "n": "x"},
        [],
    ],
)
def test_a_wrong_description_is_an_error(data):
    with pytest.raises(ConfigError):
        from_json(data)


class Angle(spaces.Space):
    """Angles in degrees from 0 to 360, as an array of one number."""

    def __init__(self, step: float = 1.0) -> None:
        super().__init__((1,), np.float64)
        self.step = step

    def sample(self, mask=None, probability=None):
        return self.np_random.uniform(0, 360, 1)

    def contains(self, x):
        return isinstance(x, np.ndarray) and x.shape == (1,) and bool(0 <= x[0] <= 360)

    def __eq__(self, other):
        return isinstance(other, Angle) and other.step == self.step

    __hash__ = None


class AngleKind(walk.Kind):
    name = "Angle"

    def layout(self, space):
        return (1,), np.dtype(np.float64)

    def value_range(self, space):
        ends = np.ones(1, np.bool_)
        return walk.ValueRange(np.array([0.0]), np.array([360.0]), ends, ends)

    def to_json(self, space):
        return {"step": space.step}

    def from_json(self, data):
        return Angle(data["step"])


def test_a_class_of_spaces_is_added_with_one_kind(monkeypatch):
    monkeypatch.setattr(walk, "_KINDS", dict(walk._KINDS))
    monkeypatch.setattr(walk, "_BY_NAME", dict(walk._BY_NAME))
    walk.register_kind(Angle, AngleKind())
    space = spaces.Dict({"angle": Angle(0.5), "size": spaces.Box(0, 1, (2,), np.float32)})
    assert walk.from_json(walk.to_json(space)) == space
    assert [leaf.shape for leaf in walk.fixed_leaves(space)] == [(1,), (2,)]
    assert SampleSpec([Field(leaf.path, leaf.shape, leaf.dtype, "input") for leaf in walk.stored_leaves(space)]).nbytes
    (angles, _) = Cube(space).columns(np.full((4, 3), 0.5))
    assert angles.tolist() == [[180.0]] * 4
    fitted = fitter(space)({"angle": np.array([400.0]), "size": np.zeros(2, np.float32)})
    assert fitted["angle"].tolist() == [360.0]
    drawn = Uniform().parameters(space, seed=1)(0)
    assert space.contains(drawn)
