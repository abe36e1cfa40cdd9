"""Values of variable form: what travels, bit by bit, and what does not."""

from __future__ import annotations

import datetime
import enum
import struct
import time
import tracemalloc
from collections import OrderedDict, namedtuple
from typing import Any

import msgpack
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from physgym.errors import ProtocolError
from physgym.protocol.msgpack_values import MAX_NESTED, decode_value, encode_value
from tests.support.conversation import assert_same

Pair = namedtuple("Pair", "a b")


def travelled(value: Any) -> Any:
    return decode_value(encode_value(value))


DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes(endianness="?")
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.unicode_string_dtypes(min_len=1, endianness="?")
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | DTYPES.flatmap(lambda dtype: hnp.arrays(dtype.newbyteorder("="), ())).map(lambda array: array[()])
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 2**70) | st.tuples(st.integers()), inner, max_size=3)
        | hnp.arrays(object, hnp.array_shapes(min_dims=0, min_side=0, max_side=2), elements=inner)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(VALUES)
@settings(max_examples=400, deadline=None)
def test_values_come_back_with_type_and_bits(value):
    assert_same(travelled(value), value)


@given(st.binary(min_size=8, max_size=8), st.sampled_from(["<f8", ">f8", "<c8", ">f4", "<f2", "<M8[ns]", ">m8[s]"]))
@settings(max_examples=200, deadline=None)
def test_every_bit_pattern_survives_also_those_of_nan(bits, dtype):
    assert_same(travelled(np.frombuffer(bits, dtype)), np.frombuffer(bits, dtype))
    assert struct.pack("<d", travelled(struct.unpack("<d", bits)[0])) == struct.pack("<d", *struct.unpack("<d", bits))


OBJECTS = [[1, 2], [3, 4]]


def objects(*items: Any) -> np.ndarray:
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


@pytest.mark.parametrize(
    "value",
    [
        np.array(3, ">i2"),
        np.array(-0.0),
        np.zeros((0, 3), ">f4"),
        np.zeros((2, 0)),
        np.arange(6).reshape(2, 3).T,
        np.arange(10)[::-3],
        np.datetime64("2020-01-01T00:00:01"),
        np.array([(1, 2.5)], [("a", "i1"), ("b", ">f4", (2,))]),
        np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array(
            [("x", (1,))], {"names": ["x", "y"], "formats": ["U3", [("q", "?")]], "offsets": [8, 4], "itemsize": 64}
        ),
        np.zeros((2, 0), [("a", "i4")]),
        np.array([(1, 2.5)], [(("title", "a"), "i1"), ("b", "f4")])[0],
        np.zeros(3, "V4"),
        np.void(b"abc"),
        np.datetime64("NaT"),
        np.timedelta64(5, "25s"),
        np.array([1], "m8[1000s]"),
        np.str_(""),
        np.bytes_(b"x"),
        np.float16(0.1),
        objects(),
        objects([1, 2], [3, 4]),
        objects((1, 2), [3], None),
        objects(np.arange(2), np.arange(2)),
        objects(np.arange(2), None),
        objects({"a": 1}, 2**100).reshape(2, 1),
        np.array(None, object),
        (),
        ((), [(), {}]),
        {(1, (2, "x")): {None: b"", 1.5: 1j, b"k": True}},
        2**64,
        -(2**63) - 1,
        [2**64, (2**64, {2**64: 2**64})],
        "\x00é\U0001f600",
    ],
    ids=repr,
)
def test_unusual_values_come_back_as_they_were(value):
    assert_same(travelled(value), value)


def test_long_doubles_keep_their_value():
    assert_same(travelled([np.longdouble(1) / 3])[0] == np.longdouble(1) / 3, np.bool_(True))


def test_arrays_can_be_written_to_when_they_arrive():
    travelled(np.zeros(3))[0] = 1


def test_subclasses_come_back_as_what_they_are_made_of():
    class Level(enum.IntEnum):
        HIGH = 3

    class Name(str):
        pass

    assert_same(travelled(Pair(1, 2)), (1, 2))
    assert_same(travelled([Pair(1, 2), 2**70]), [(1, 2), 2**70])
    assert_same(travelled(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})
    assert_same(travelled([Level.HIGH, Name("x")]), [3, "x"])
    assert_same(travelled({Name("x"): Name("y")}), {"x": "y"})


GRAPHS = spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))


@pytest.mark.parametrize("edges", [0, 1, 5])
def test_graphs_come_back_as_graphs(edges):
    graph = GraphInstance(np.ones((2, 2), np.float32), np.arange(edges), np.zeros((edges, 2), np.int64))
    assert_same(travelled([graph])[0], graph)
    assert_same(travelled([graph, 2**70])[0], graph)
    assert_same(travelled(GraphInstance(graph.nodes, None, None)), GraphInstance(graph.nodes, None, None))


SPACES = [
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(np.array([-np.inf, 0, -1]), np.array([0, np.inf, 1]), dtype=np.float64),
    spaces.Box(0, 255, (2, 0), np.uint8),
    spaces.Box(0, 1, ()),
    spaces.Discrete(2**40, start=-5),
    spaces.MultiBinary([2, 3]),
    spaces.MultiDiscrete([[2, 3]], start=[[0, -1]]),
    spaces.Text(7, min_length=0, charset="xyz"),
    GRAPHS,
    spaces.Sequence(spaces.Discrete(2), stack=True),
    spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1)]),
    spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Tuple([spaces.Discrete(3)]))]),
    spaces.Tuple([]),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_spaces_come_back_equal(space):
    got = travelled({"space": space})["space"]
    assert got == space
    assert repr(got) == repr(space)
    got.seed(5)
    space.seed(5)
    assert_same(got.sample(), space.sample())


KINDS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("used", [0, 1, 5])
def test_generators_continue_the_same_stream(kind, used):
    rng = np.random.Generator(kind(3))
    rng.random(used)
    rng.integers(0, 9, used, dtype=np.int32)  # keeps half of a word for the next call
    twin = travelled(rng)
    assert type(twin.bit_generator) is kind
    for draw in (
        lambda g: g.integers(0, 99, 7, dtype=np.int32),
        lambda g: g.random(700),
        lambda g: g.normal(size=9),
        lambda g: g.permutation(20),
    ):
        assert_same(draw(twin), draw(rng))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (np.random.MT19937, {"state": {"pos": 625}}),
        (np.random.MT19937, {"state": {"pos": -1}}),
        (np.random.MT19937, {"state": {"pos": 2**31 - 1}}),
        (np.random.MT19937, {"state": {"key": np.zeros(3, np.uint32)}}),
        (np.random.Philox, {"buffer_pos": -1}),
        (np.random.Philox, {"buffer_pos": 5}),
        (np.random.PCG64, {"bit_generator": "RandomState"}),
        (np.random.PCG64, {"bit_generator": "__import__"}),
        (np.random.PCG64, {"bit_generator": ["PCG64"]}),
        (np.random.PCG64, {"state": {"state": "x"}}),
        (np.random.PCG64, {"state": {"state": 2**200}}),
    ],
)
def test_a_generator_that_would_read_beside_its_table_is_refused(kind, change):
    state = kind(1).state
    for key, value in change.items():
        state[key] = {**state[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        decode_value(msgpack.packb(msgpack.ExtType(9, encode_value(state))))


# --- what cannot travel


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        range(3),
        lambda: None,
        datetime.datetime(2020, 1, 1),
        np.random.RandomState(1),
        np.zeros(2, [("a", "i4"), ("b", object)]),
        np.zeros(2, []),
        np.array([object()]),
        OBJECTS.append,
        type,
        spaces.Space(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_travel_is_named(value):
    with pytest.raises(ProtocolError, match=r"a value of type [\w.]+ cannot be sent between processes"):
        encode_value({"x": [value]})


@pytest.mark.slow
def test_text_and_numbers_that_cannot_be_encoded_are_refused():
    endless: list[Any] = []
    endless.append(endless)
    for value in ("\ud800", 10**5000, endless):
        with pytest.raises(ProtocolError):
            encode_value([value])


def tuples(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    return value


def test_what_one_end_encodes_the_other_decodes_however_deep():
    assert_same(travelled(tuples(MAX_NESTED - 1)), tuples(MAX_NESTED - 1))
    for depth in (MAX_NESTED, MAX_NESTED + 1, 200, 5000):
        with pytest.raises(ProtocolError, match="nested deeper than 32"):
            encode_value(tuples(depth))
    # what was tried before does not count
    assert_same(travelled([tuples(MAX_NESTED - 1), 2**70] * 2), [tuples(MAX_NESTED - 1), 2**70] * 2)


def test_the_process_survives_deep_lists():
    for depth in (100, 5000):
        value: Any = 1
        for _ in range(depth):
            value = [value]
        if depth == 100:
            assert_same(travelled(value), value)
        else:
            with pytest.raises(ProtocolError):
                encode_value(value)


# --- hostile bytes


def extension(code: int, content: Any) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb(content)))


@pytest.mark.parametrize(
    "dtype",
    [
        "O",
        "i4,f4",
        ["<f8", [-1]],
        ["<f8", [10**9, 10**9]],
        {"fields": [["a", "<f8", 0, None]], "size": 4, "aligned": False},
        {"fields": [["a", "<f8", -8, None]], "size": 8, "aligned": False},
        {"fields": [["a", "|O", 0, None]], "size": 8, "aligned": False},
        {"fields": [["a", "<i4", 0]], "size": 8, "aligned": False},
        {"fields": []},
        {"fields": [], "size": 2**40, "aligned": False},
        None,
    ],
)
def test_a_structure_that_is_none_is_refused(dtype):
    content = encode_value([False, dtype, [1], bytes(8)])
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        decode_value(msgpack.packb(msgpack.ExtType(11, content)))


@pytest.mark.parametrize("code", [1, 2])
@pytest.mark.parametrize(
    "dtype",
    [
        *(
            "(1,",
            "i4,,",
            "i4, (",
            "|O",
            "O",
            "i4",
            "<f999999999",
            "<V4",
            "f4,f4",
            "<i4\n",
            "<M8[10us/3]",
            "<M8[\u00b5s]",
        ),
        *("<U0", "", "<f3", "<i4<i4", "\u0661"),
        *(["<f4"], 7, None, {"a": 1}, b"<f4"),
    ],
)
def test_hostile_dtypes_are_refused(code, dtype):
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        decode_value(extension(code, (dtype, (1,), b"0000")))


@pytest.mark.parametrize(
    "content",
    [
        ("<i4", (2,), b"0000"),
        ("<i4", (-1, -1), b"0000"),
        ("<i4", (-1,), b"0000"),
        ("<i4", (True,), b"0000"),
        ("<i4", ("1",), b"0000"),
        ("<i4", (1,) * 65, b"0000"),
        ("<i4", (2**62, 4), b"0000"),
        ("<i4", (1,), b"000"),
        ("<i4", (1,), "0000"),
        ("<i4", (1,), None),
        ("<i4", (1,)),
        ("<i4", (1,), b"0000", 1),
        5,
        {},
        None,
    ],
)
def test_arrays_with_wrong_contents_are_refused(content):
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        decode_value(extension(1, content))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(1) + b"\x00",
        msgpack.packb(msgpack.ExtType(4, b"1e9")),
        msgpack.packb(msgpack.ExtType(4, b"9" * 10_000)),
        msgpack.packb(msgpack.ExtType(5, b"0" * 15)),
        msgpack.packb(msgpack.ExtType(0, b"")),
        msgpack.packb(msgpack.ExtType(10, b"")),
        msgpack.packb(msgpack.ExtType(127, b"")),
        extension(6, [[2], [1]]),
        extension(6, [[-1], [1]]),
        extension(6, [[2**40], []]),
        extension(6, 5),
        extension(7, []),
        extension(7, [1, 2, 3, 4]),
        extension(8, {"type": "Box", "shape": [2**40], "dtype": "<f4", "low": 0, "high": 1}),
        extension(8, {"type": "MultiBinary", "n": [2**20, 2**20]}),
        extension(8, {"type": "Box", "shape": [1], "dtype": "(1,", "low": 0, "high": 1}),
        extension(8, None),
        extension(9, None),
        extension(9, {}),
        b"\x81\x91\x01\x02",  # a list as a key
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\x00\x00\xff\xff" * 1000,
    ],
    ids=lambda data: data[:12].hex(),
)
def test_hostile_bytes_are_refused_soon_and_without_memory(data):
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="cannot be decoded"):
            decode_value(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 2
    # lists within lists may each announce as many elements as there are bytes, but no more
    assert peak < 1_000_000 + 8 * 1000 * len(data)


@pytest.mark.parametrize("code", [3, 6, 7, 8, 9])
@pytest.mark.parametrize("depth", [MAX_NESTED + 1, 200, 3000, 60_000])
def test_deep_nesting_is_refused_before_the_stack_overflows(code, depth):
    body = msgpack.packb(None)
    for _ in range(depth):
        body = struct.pack(">BIb", 0xC9, len(body), code) + body
        if len(body) > 400_000:
            break
    with pytest.raises(ProtocolError, match="cannot be decoded"):
        decode_value(body)


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_no_bytes_do_more_than_raise_a_protocol_error(data):
    try:
        value = decode_value(data)
    except ProtocolError:
        return
    encode_value(value)  # what can be decoded can be encoded again
