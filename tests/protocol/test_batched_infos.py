"""Infos of many environments: batched as Gymnasium does it, whichever way they travelled."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from physgym.errors import ProtocolError
from physgym.protocol.batched_infos import check_infos, infos_by_env, merge_infos, pack_infos
from physgym.protocol.msgpack_values import decode_value, encode_value
from physgym.returned import taken
from tests.support.conversation import assert_same
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


def gymnasiums(infos: dict[int, Any], size: int) -> dict[str, Any]:
    env = VectorEnv()
    env.num_envs = size
    batch: dict[str, Any] = {}
    for row, info in infos.items():
        batch = env._add_info(batch, info, row)
    return batch


def ours(infos: dict[int, Any], size: int) -> dict[str, Any]:
    batch: dict[str, Any] = {}
    merge_infos(batch, over_the_wire(infos, size), size)
    return batch


def over_the_wire(infos: dict[int, Any], count: int) -> Any:
    return check_infos(decode_value(encode_value(pack_infos(infos))), count)


# values by key: those of one key have one kind, as an environment's infos have
ARRAY_KINDS = st.tuples(
    st.sampled_from(["<f4", ">f4", "<f8", "|i1", ">i8", "|b1", "<c16", "<M8[s]", ">m8[ms]", "<U3", "|S2"]),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)
VALUES_OF_A_KIND: dict[str, Any] = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(),
    "bool": st.booleans(),
    "float32": st.floats(width=32).map(np.float32),
    "int8": st.integers(-128, 127).map(np.int8),
    "uint64": st.integers(0, 2**64 - 1).map(np.uint64),
    "complex64": st.complex_numbers(width=64).map(np.complex64),
    "np.bool": st.booleans().map(np.bool_),
    "date": st.integers(0, 9).map(lambda n: np.datetime64(n, "D")),
    "text": st.text(max_size=3),
    "bytes": st.binary(max_size=3),
    "none": st.none(),
    "list": st.lists(st.integers(0, 9), max_size=3),
    "tuple": st.tuples(st.integers(0, 9), st.text(max_size=2)),
    "complex": st.complex_numbers(),
    "mixed": st.none() | st.text(max_size=2) | st.lists(st.none(), max_size=2),
}
KEYS = st.sampled_from(["a", "b", "c", "sample", "episode", "final_info", "é"])


@st.composite
def schemas(draw: Any, depth: int = 2) -> dict[str, Any]:
    """What values each key of an info has."""
    schema: dict[str, Any] = {}
    for key in draw(st.lists(KEYS, max_size=4, unique=True)):
        kind = draw(st.sampled_from([*VALUES_OF_A_KIND, "array", "array", "dict", "ordered"]))
        if kind == "array":
            schema[key] = hnp.arrays(*draw(ARRAY_KINDS))
        elif kind in ("dict", "ordered"):
            schema[key] = draw(schemas(depth - 1)) if depth else {}
            schema[key] = OrderedDict(schema[key]) if kind == "ordered" else schema[key]
        else:
            schema[key] = VALUES_OF_A_KIND[kind]
    if draw(st.booleans()):
        observation = hnp.arrays("<f4", (2,))
        schema["final_obs"] = st.none() | observation | st.fixed_dictionaries({"x": observation, "y": st.just(1)})
    return schema


def drawn(data: Any, schema: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    info: dict[str, Any] = type(schema)()
    for key, values in schema.items():
        if whole or data.draw(st.booleans()):
            info[key] = drawn(data, values, whole=whole) if isinstance(values, dict) else data.draw(values)
    return info


@pytest.mark.slow
@given(st.data(), schemas(), st.integers(1, 5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_infos_are_batched_as_gymnasium_batches_them(data, schema, size, whole):
    rows = data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1).map(sorted) | st.just(range(size)))
    infos = {row: drawn(data, schema, whole=whole) for row in rows}
    assert_same(ours(infos, size), gymnasiums(infos, size))


@pytest.mark.slow
@given(st.data(), schemas(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_infos_of_several_workers_make_one_batch(data, schema, whole):
    counts = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    size = sum(counts)
    batch: dict[str, Any] = {}
    everything: dict[int, Any] = {}
    first = 0
    for count in counts:
        rows = data.draw(st.lists(st.integers(0, count - 1), unique=True).map(sorted))
        infos = {row: drawn(data, schema, whole=whole) for row in rows}
        merge_infos(batch, over_the_wire(infos, count), size, first)
        everything |= {row + first: info for row, info in infos.items()}
        first += count
    assert_same(batch, gymnasiums(everything, size))


@given(st.data(), schemas(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_infos_of_a_subset_stand_at_their_places(data, schema, whole):
    count = data.draw(st.integers(1, 5))
    rows = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    size = len(rows) + data.draw(st.integers(0, 2))
    order = data.draw(st.permutations(range(size)))
    places = {row: order[i] for i, row in enumerate(rows)}
    infos = {row: drawn(data, schema, whole=whole) for row in rows}
    expected = gymnasiums({places[row]: info for row, info in infos.items()}, size)
    batch: dict[str, Any] = {}
    merge_infos(batch, over_the_wire(infos, count), size, places=places)
    assert_same(batch, expected)


def test_what_is_not_there_is_zero_false_or_none():
    batch = ours({1: {"x": 2.5, "s": "a", "v": np.ones(2, np.int8), "d": {"y": True}}}, 3)
    assert_same(batch["x"], np.array([0, 2.5, 0]))
    assert_same(batch["_x"], np.array([False, True, False]))
    assert batch["s"].tolist() == [None, "a", None]
    assert_same(batch["v"], np.array([[0, 0], [1, 1], [0, 0]], np.int8))
    assert_same(batch["d"]["y"], np.array([False, True, False]))
    assert_same(batch["_d"], np.array([False, True, False]))


@pytest.mark.parametrize(
    "values",
    [
        [np.array([None, 1]), np.array([2, None])],
        [np.zeros(2, ">f4"), np.ones(2, ">f4")],
        [np.zeros(2), np.ones(2, np.float32)],
        [None, "x"],
        [OrderedDict(y=1), {"y": 2}],
        [{"y": 1}, {"z": 2}],
        [{}, {}],
        [{"final_obs": np.zeros(2)}, {"final_obs": {"a": 1}}],
    ],
    ids=repr,
)
def test_values_of_different_kinds_are_batched_as_gymnasium_does(values):
    infos = {row: {"x": value} for row, value in enumerate(values)}
    assert_same(ours(infos, 2), gymnasiums(infos, 2))
    turned = dict(reversed(infos.items()))
    assert_same(ours(turned, 2), gymnasiums(turned, 2))


def test_a_value_that_meets_another_kind_late_is_as_it_was():
    infos = {0: {"x": {"y": 1}}, 1: {"x": {"y": 2, "z": np.zeros(2)}}, 3: {"x": None}, 4: {"x": {"y": 3}}}
    batch = ours(infos, 6)
    assert_same(batch["x"].tolist(), [{"y": 1}, {"y": 2, "z": np.zeros(2)}, None, None, {"y": 3}, None])
    assert batch["_x"].tolist() == [True, True, False, True, True, False]


def test_columns_that_do_not_fit_together_become_objects():
    batch: dict[str, Any] = {}
    merge_infos(batch, over_the_wire({0: {"x": 1, "y": np.ones(2)}, 1: {"x": 2, "y": np.ones(2)}}, 2), 4)
    merge_infos(batch, over_the_wire({0: {"x": 2.5, "y": None}, 1: {"x": 3.5, "y": None}}, 2), 4, 2)
    assert_same(batch["x"].tolist(), [1, 2, 2.5, 3.5])
    assert_same(batch["y"].tolist(), [np.ones(2), np.ones(2), None, None])


def test_a_value_is_taken_as_it_is():
    objects = np.full((1, 1), None, object)
    objects[0, 0] = [1]
    now = {"a": np.ones(2), "b": [np.ones(1), {"c": bytearray(b"x")}], "d": (np.ones(1),), "o": objects}
    then = taken(now)
    assert_same(then, now)
    now["a"][:], now["b"][0][:], now["b"][1]["c"][:], now["d"][0][:], now["o"][0, 0][:] = 0, 0, b"y", 0, [0]
    now["b"].append(1)
    assert then["a"].tolist() == [1, 1]
    assert (then["b"][0].tolist(), then["b"][1]["c"], len(then["b"])) == ([1], b"x", 2)
    assert (then["d"][0].tolist(), then["o"][0, 0]) == ([1], [1])


@pytest.mark.parametrize("further", [{}, {"only": 1}])
def test_durations_keep_their_unit(further):
    batch = ours({0: {"t": np.timedelta64(5, "s"), **further}, 2: {"t": np.timedelta64(7, "s")}}, 3)
    assert_same(batch["t"], np.array([5, 0, 7], "m8[s]"))


def test_final_observations_stay_objects():
    batch = ours({0: {"final_obs": {"x": np.zeros(2)}, "final_info": {"n": 1}}, 1: {"final_obs": None}}, 2)
    assert batch["final_obs"].dtype == object
    assert_same(batch["final_obs"][0], {"x": np.zeros(2)})
    assert_same(batch["final_info"]["n"], np.array([1, 0]))


def test_uniform_infos_travel_as_columns():
    local, columns = pack_infos({0: {"x": 1.0, "d": {"v": np.zeros(2)}}, 2: {"x": 2.0, "d": {"v": np.ones(2)}}})
    assert local == [0, 2]
    assert_same(columns, {"x": np.array([1.0, 2.0]), "d": {"v": np.array([[0.0, 0.0], [1.0, 1.0]])}})
    assert type(pack_infos({0: {"x": 1.0}, 1: {"y": 1.0}})[1]) is list


def test_nothing_travels_where_there_is_nothing():
    batch: dict[str, Any] = {}
    merge_infos(batch, pack_infos({}), 3)
    assert pack_infos({}) is None
    assert batch == {}


@pytest.mark.parametrize(
    "infos",
    [
        5,
        [],
        (),
        ([0], [{}], []),
        [[0], [{}]],
        (0, [{}]),
        ([], []),
        ([], {}),
        ([-1], [{}]),
        ([2], [{}]),
        ([True], [{}]),
        ([0.0], [{}]),
        ([0, 0], [{}, {}]),
        ([0], [{}, {}]),
        ([0], [5]),
        ([0], "a"),
        ([0, 1], {"x": np.zeros(3)}),
        ([0, 1], {"x": np.array(2)}),
        ([0, 1], {"x": [1]}),
        ([0, 1], {"x": "ab"}),
        ([0, 1], {"x": None}),
        ([0, 1], {"x": (np.zeros(3),)}),
        ([0, 1], {"x": (np.zeros(2, np.float32),)}),
        ([0, 1], {"x": (np.zeros((2, 1)),)}),
        ([0, 1], {"x": ([1, 2],)}),
        ([0, 1], {"x": ()}),
        ([0, 1], {"x": {"y": {"z": [1]}}}),
    ],
    ids=repr,
)
def test_infos_of_another_form_are_refused(infos):
    with pytest.raises(ProtocolError, match="form of infos"):
        check_infos(infos, 2)


def test_infos_of_the_right_form_are_taken():
    for infos in (None, ([1], [{"x": 1}]), ([1, 0], {"x": np.zeros((2, 3)), "y": {"z": ["a", None]}})):
        assert check_infos(infos, 2) is infos


def test_what_numpy_calls_masked_travels_as_itself_also_inside_of_others():
    for value in (np.ma.masked, [1, np.ma.masked], {"a": (np.ma.masked, 2.5)}):
        found = decode_value(encode_value({"x": value}))["x"]
        assert str(found) == str(value)
    assert decode_value(encode_value(np.ma.masked)) is np.ma.masked
    batch = ours({0: {"x": np.ma.masked}, 1: {"x": 1.5}}, 2)
    assert batch["x"][0] is np.ma.masked
    assert batch["x"][1] == 1.5


@pytest.mark.parametrize("dtype", [">i4", ">f8", ">U3", ">M8[s]", "<c8"])
@pytest.mark.parametrize("mask", [[False, True], [False, False]])
def test_masked_arrays_keep_dtype_and_byte_order(dtype, mask):
    array = np.ma.MaskedArray(np.zeros(2, dtype), mask)
    for infos in ({0: {"x": array}, 1: {"x": array}}, {0: {"x": array}, 1: {"x": 1}}):
        directly: dict[str, Any] = {}
        merge_infos(directly, pack_infos(infos), 2)
        travelled = ours(infos, 2)
        for one, other in zip(directly["x"], travelled["x"], strict=True):
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
            assert np.ma.is_masked(one) == np.ma.is_masked(other)
        assert travelled["x"][0].dtype == array.dtype


class Stubborn:
    """Has no attribute that can be written or read."""

    def __getattribute__(self, name):
        if name in ("__class__", "__module__"):
            return object.__getattribute__(self, name)
        raise AttributeError("no")


def test_whatever_cannot_travel_is_named_by_its_key():
    with pytest.raises(ProtocolError, match="'deep/x'"):
        encode_value({"deep": {"x": Stubborn()}})


def test_a_structured_masked_array_is_an_object_in_process():
    array = np.ma.MaskedArray([(1, 2.0)], [(False, True)], dtype="i4,f4")
    batch: dict[str, Any] = {}
    merge_infos(batch, pack_infos({0: {"x": array}, 1: {"x": array}}), 2)
    assert batch["x"][0] is array


def test_a_text_beside_an_array_without_axes_keeps_the_zero_at_its_end():
    for text in ("a\0", b"a\0"):
        batch = ours({0: {"x": np.array(text[:1])}, 1: {"x": text}}, 2)
        assert batch["x"][1] == text


@pytest.mark.parametrize(
    "infos",
    [
        {},
        {2: {"x": 1.5, "d": {"v": np.arange(2)}}, 0: {"x": 2.5, "d": {"v": np.ones(2, np.int64)}}},
        {0: {"x": np.float64(1)}, 1: {"x": np.float64(2)}},
        {0: {"x": 1.0}, 3: {"y": "text"}},
    ],
)
def test_infos_come_back_by_environment(infos):
    found = infos_by_env(pack_infos(infos))
    assert list(found) == list(infos)
    for env, info in infos.items():
        assert encode_value(found[env]) == encode_value(info)
