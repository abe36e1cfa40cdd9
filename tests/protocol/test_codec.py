"""The bodies of messages that are refused."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import numpy as np
import pytest

from physgym.protocol import codec, messages
from physgym.protocol.messages import (
    LARGEST_PART,
    MESSAGE_TYPES,
    CallResult,
    Challenge,
    Failure,
    GiveInputs,
    Hello,
    Predict,
    Reset,
    Results,
    Rollout,
    RolloutResult,
    ScenePart,
    Step,
    WatchScenes,
    Welcome,
)
from physgym.protocol.msgpack_values import encode_value
from tests.conftest import label
from tests.support.conversation import (
    EXAMPLES,
    FAILED,
    actions,
    arrays,
    assert_same,
    column,
    expecting,
    feed,
    frame,
    refused,
)

BY_FIELDS = [kind for kind in MESSAGE_TYPES if kind not in codec._DECODERS]


@pytest.mark.parametrize("kind", BY_FIELDS)
def test_bodies_with_other_fields_or_types_are_refused(kind):
    fields = messages.fields(EXAMPLES[kind])
    receiver, sequence = expecting(kind)
    assert_same(feed(receiver, frame(kind, encode_value(fields), sequence=sequence)), [EXAMPLES[kind]])
    for body in (b"", b"\xc1", encode_value(fields)[:-1], encode_value(fields) + b"\x00"):
        refused(kind, body, "cannot be decoded")
    wrong: list[Any] = [None, 5, [], [fields], {**fields, "more": 1}, {**fields, 7: 1}]
    for body in wrong:
        refused(kind, encode_value(body), "must have the keys")
    for name in fields:
        refused(kind, encode_value({key: value for key, value in fields.items() if key != name}), "must have the keys")
        # before Welcome no extension type is even decoded
        text = "cannot be decoded" if kind in codec._UNPROVED else rf"{kind.__name__}\.{name} is a complex"
        refused(kind, encode_value({**fields, name: 1j}), text)


def head(*values: int, rows: Any = ()) -> bytes:
    return struct.pack("<BBHI", *values) + np.array(rows, "<u4").tobytes()


ALL = 0xFFFFFFFF
GOOD_ACTIONS = actions(3)[0].tobytes()
WRONG_STEPS = {
    b"": "ends before its head",
    head(0, 0, 0, ALL)[:-1]: "ends before its head",
    head(0, 2, 0, ALL): "flags",
    head(0, 8, 0, ALL): "flags",
    head(0, 0, 1, ALL): "flags",
    head(0, 0, 0, 4, rows=[0, 1, 2, 0]): "names 4 of 3 environments",
    head(0, 0, 0, ALL - 1): "names 4294967294 of 3 environments",
    head(0, 0, 0, 2, rows=[0]): "names 2 of 3 environments",
    head(0, 0, 0, 1, rows=[3]): r"names environments \[3\] of 3",
    head(0, 0, 0, 2, rows=[1, 1]): r"names environments \[1, 1\] of 3",
    head(0, 4, 0, ALL): "expected 48 bytes of arrays, got 0",
    head(0, 4, 0, ALL) + GOOD_ACTIONS[:-1]: "expected 48 bytes of arrays, got 47",
    head(0, 4, 0, ALL) + GOOD_ACTIONS + b"\x00": "expected values of 2 leaves",
    head(0, 4, 0, ALL) + GOOD_ACTIONS + b"\xc1": "cannot be decoded",
    head(0, 0, 0, ALL) + encode_value({}): "expected values of 2 leaves",
    head(0, 0, 0, ALL) + encode_value([["a"] * 3]): "expected values of 2 leaves",
    head(0, 0, 0, ALL) + encode_value([None, ["a", "b"]]): "expected 3 actions 'word', got list",
    head(0, 0, 0, ALL) + encode_value([None, "abc"]): "expected 3 actions 'word', got str",
    head(0, 0, 0, ALL) + encode_value([None, None]): "expected 3 actions 'word', got None",
    head(0, 0, 0, ALL) + encode_value([[1, 2], ["a"] * 3]): "expected 3 actions 'force', got list",
    head(0, 0, 0, ALL) + encode_value([np.zeros((3, 1)), ["a"] * 3]): "expected 3 actions 'force', got ndarray",
}


@pytest.mark.parametrize(("body", "text"), WRONG_STEPS.items(), ids=lambda value: "")
def test_steps_with_wrong_bodies_are_refused(body, text):
    refused(Step, body, text)


GOOD_ARRAYS = b"".join(array.tobytes() for array in arrays(3))


def results(*tail: Any) -> bytes:
    return head(0, 2, 0, ALL) + encode_value(list(tail))


PLAIN_FAILURE = messages.fields(FAILED)
WRONG_RESULTS = {
    b"": "ends before its head",
    head(1, 2, 0, ALL): "names a slot",
    head(0, 3, 0, ALL): "flags",
    head(0, 2, 9, ALL): "flags",
    head(0, 0, 0, ALL): "must name its environments",
    head(0, 2, 0, 1, rows=[1]): "leaves out environments",
    head(0, 2, 0, 9, rows=range(9)): "names 9 of 3",
    head(0, 6, 0, ALL) + GOOD_ARRAYS[:-1]: "bytes of arrays",
    head(0, 6, 0, ALL) + GOOD_ARRAYS + b"\x00": "tail of a Results",
    results(): "tail of a Results",
    results(None, [], []): "tail of a Results",
    results(None, [], {}, []): "tail of a Results",
    results(None, [["a"]], [], []): "expected 1 lists of 3",
    results(None, [], [None], []): "must have the keys",
    results(None, [], [{}], []): "must have the keys",
    results(None, [], [{**PLAIN_FAILURE, "env": "0"}], []): "Failure.env is a str",
    results(None, [], [{**PLAIN_FAILURE, "env": 3}], []): "names environment 3 of 3",
    results(None, [], [{**PLAIN_FAILURE, "env": -1}], []): "names environment -1 of 3",
    results(None, [], [], [3]): "expected indices",
    results(None, [], [], [-1]): "expected indices",
    results(None, [], [], [True]): "expected indices",
    results(None, [], [], None): "expected indices",
    results(5, [], [], []): "infos",
    results(([0], [{}, {}]), [], [], []): "infos",
    results(([3], [{}]), [], [], []): "infos",
    results(([0, 0], [{}, {}]), [], [], []): "infos",
    results(([], []), [], [], []): "infos",
    results(([0], [5]), [], [], []): "infos",
    results(([0, 1], {"x": np.zeros(3)}), [], [], []): "infos",
    results(([0, 1], {"x": np.array(3)}), [], [], []): "infos",
    results(([0, 1], {"x": "ab"}), [], [], []): "infos",
    results(([0, 1], {"x": {"y": [1]}}), [], [], []): "infos",
}


@pytest.mark.parametrize(("body", "text"), WRONG_RESULTS.items(), ids=lambda value: "")
def test_results_with_wrong_bodies_are_refused(body, text):
    refused(Results, body, text)


def rollout(meta: Any, data: bytes = b"", told: Any = None, apart: Any = None, reports: Any = None) -> bytes:
    body = encode_value([*meta, told, apart, reports])
    return struct.pack("<I", len(body)) + body + data


def with_snapshots(snapshots):
    head = encode_value([column(), column(), [], False, None, None, None, snapshots])
    return struct.pack("<I", len(head)) + head


WRONG_ROLLOUTS = {
    with_snapshots([]): "head of a RolloutResult",
    with_snapshots(None): "head of a RolloutResult",
    with_snapshots({"x": 1}): "snapshots is wrong",
    with_snapshots([[5, 0]]): "snapshots is wrong",
    with_snapshots([[5, -1, {}]]): "snapshots is wrong",
    with_snapshots([[True, 0, {}]]): "snapshots is wrong",
    with_snapshots([[5, 0, {"x": 1.0}]]): "snapshots is wrong",
    with_snapshots([[5, 0, {1: column(1)}]]): "snapshots is wrong",
    with_snapshots([[6, 0, {"x": column(1)}]]): r"episodes \[6\] that are not under way",
    b"": "ends before its head",
    b"\x01\x00\x00": "ends before its head",
    b"\xff\xff\xff\xff": "ends within its head",
    struct.pack("<I", 100) + encode_value([column(), column(), [], False]): "ends within its head",
    struct.pack("<I", 0): "cannot be decoded",
    rollout([column(), column(), []]): "head of a RolloutResult",
    rollout([column(), column(), {}, True]): "head of a RolloutResult",
    rollout([column(), column(), [], False, None]): "head of a RolloutResult",
    rollout([column(), column(), [], False], told=[5]): "parameters is wrong",
    rollout([column(), column(), [], False], told=column(5)[None]): "parameters is wrong",
    rollout([column(), column(), [], False], bytes(48), told=column(5, 5)): "parameters is wrong",
    rollout([column(), column(), [], False], bytes(23), told=column(5)): "bytes of arrays",
    rollout([column(), column(), [], False], bytes(25), told=column(5)): "bytes of arrays",
    rollout([column(), column(), [], False], bytes(24), told=column(6)): r"episodes \[6\] that are not under way",
    rollout([column(), column(), [], False], apart={}): "rejected is wrong",
    rollout([column(), column(), [], False], apart=[column(5), column(0)]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), column(), [""]]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), column(0), []]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), column(0), [1]]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(14), apart=[column(5), 0, [""]]): "rejected is wrong",
    rollout([column(), column(), [], False], bytes(13), apart=[column(5), column(0), [""]]): "bytes of arrays",
    rollout([column(), column(), [], False], bytes(14), apart=[column(6), column(0), [""]]): "not under way",
    rollout([column(), column(), [], 1]): "head of a RolloutResult",
    rollout([column(5), column(), [], False]): "equally long columns",
    rollout([[5], [0], [], False]): "equally long columns",
    rollout([column(), None, [], False]): "wrong|equally long",
    rollout([np.array(5), np.array(5), [], False]): "wrong|equally long",
    rollout([np.array([5.0]), column(0), [], False]): "equally long columns",
    rollout([column(5)[None], column(0)[None], [], False]): "equally long columns",
    rollout([column(5), column(0), [], False]): "bytes of arrays",
    rollout([column(), column(), [], False], b"\x00"): "bytes of arrays",
    rollout([column(6), column(0), [], False], bytes(14)): r"episodes \[6\] that are not under way",
    rollout([column(), column(), [], True]): "leaves out 2 episodes",
    **{
        rollout([column(), column(), [ended], False]): "ended is wrong"
        for ended in (
            (5,),
            [5],
            [None, 0, 0, 0.0, {}],
            [5, -1, 0, 0.0, {}],
            [5, 0, None, 0.0, {}],
            [5, 0, 0, "0", {}],
            [5, 0, 0, 0.0, []],
        )
    },
    rollout([column(), column(), [[6, 0, 0, 0.0, {}]], False]): r"episodes \[6\] that are not under way",
}


@pytest.mark.parametrize(("body", "text"), WRONG_ROLLOUTS.items(), ids=lambda value: "")
def test_rollout_results_with_wrong_bodies_are_refused(body, text):
    refused(RolloutResult, body, text)


WRONG_CONTENTS = [
    Reset(0, [None] * 2, [True] * 3),
    Reset(0, [None] * 3, [True] * 4),
    Reset(0, ["1"] * 3, [True] * 3),
    Reset(0, [None] * 3, [None] * 3),
    Reset(256, [None] * 3, [True] * 3),
    Rollout([5], 1, 1),
    Rollout([[5]], 1, 1),
    Rollout([[5, None]], 1, 1),
    Rollout([{}], 1, 1),
    Rollout([[5, 1, []]], 1, 1),
    Rollout([[5, 1]], 1, 1, ""),
    CallResult([]),
    CallResult([1] * 4),
    Failure(3, "m:E", "", ""),
    Failure(-2, "m:E", "", ""),
    Failure(2**70, "m:E", "", ""),
    Predict(-1, {}),
    Predict(3, {}),
    WatchScenes([3], 0.1),
    WatchScenes([0, 0], 0.1),
    WatchScenes(["0"], 0.1),
    WatchScenes([0], -0.1),
    WatchScenes([0], float("nan")),
    WatchScenes([0], float("inf")),
    GiveInputs(3, []),
    GiveInputs(-1, []),
    GiveInputs(0, [["push"]]),
    GiveInputs(0, [[1, 2.0]]),
    GiveInputs(0, ["push"]),
    ScenePart(3, 0, 1, b""),
    ScenePart(-1, 0, 1, b""),
    ScenePart(0, 1, 1, b""),
    ScenePart(0, -1, 1, b""),
    ScenePart(0, 0, 0, b""),
    ScenePart(0, 0, 1, bytes(LARGEST_PART + 1)),
]


@pytest.mark.parametrize("message", WRONG_CONTENTS, ids=label)
def test_right_types_with_wrong_contents_are_refused(message):
    refused(type(message), encode_value(messages.fields(message)))


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
@pytest.mark.parametrize("depth", [33, 400, 3000])
def test_deep_nesting_ends_no_process(kind, depth):
    body = msgpack.packb(None)
    for _ in range(depth):
        body = msgpack.packb(msgpack.ExtType(3, body))
    too_long = len(body) > 1024 and kind in (Challenge, Hello, Welcome)
    begin = {Step: head(0, 0, 0, ALL), Results: head(0, 2, 0, ALL), RolloutResult: struct.pack("<I", len(body))}
    refused(kind, begin.get(kind, b"") + body, "exceeds the limit" if too_long else "cannot be decoded")
