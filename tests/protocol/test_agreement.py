"""The descriptions of environments that are refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol.messages import (
    Ready,
    Role,
)
from physgym.protocol.msgpack_values import encode_value
from tests.support.conversation import (
    COUNT,
    DESCRIPTION,
    FIELDS,
    PARAMETER_FIELDS,
    PARAMETERS,
    brought_to,
    feed,
    frame,
)


def described(**changes: Any) -> Any:
    return {**DESCRIPTION, **changes}


BOX = walk.to_json(spaces.Box(-1, 1, (2,), np.float32))
DISCRETE = walk.to_json(spaces.Discrete(3))


def nested_space(depth: int) -> Any:
    space: Any = BOX
    for _ in range(depth):
        space = {"type": "Tuple", "spaces": [space]}
    return space


WRONG_SPACES = [
    None,
    [],
    {},
    {"type": "Box"},
    {"type": ["Box"]},
    {"type": "Unknown"},
    {**BOX, "dtype": "|O"},
    {**BOX, "dtype": "(1,"},
    {**BOX, "dtype": "i4, ("},
    {**BOX, "dtype": "<U9"},
    {**BOX, "dtype": None},
    {**BOX, "dtype": 7},
    {**BOX, "shape": 2},
    {**BOX, "shape": [-2]},
    {**BOX, "shape": [2.0]},
    {**BOX, "shape": ["2"]},
    {**BOX, "shape": [1] * 65},
    {**BOX, "shape": [2**40]},
    {**BOX, "shape": [2**16, 2**16]},
    {**BOX, "shape": [2**62] * 64},
    {**BOX, "low": "a"},
    {**BOX, "low": []},
    {**BOX, "low": 2**2000},
    {**BOX, "dtype": "|u1", "low": 300},
    {**DISCRETE, "n": 2**70},
    {**DISCRETE, "n": 0},
    {**DISCRETE, "dtype": "(1,"},
    {**DISCRETE, "dtype": "<f4"},
    {"type": "MultiBinary", "n": 2**40},
    {"type": "MultiBinary", "n": [2**20, 2**20]},
    {"type": "MultiBinary", "n": "many"},
    {"type": "MultiDiscrete", "nvec": [2**70], "start": [0], "dtype": "<i8"},
    {"type": "Dict", "spaces": 5},
    {"type": "Dict", "spaces": "ab"},
    {"type": "Dict", "spaces": [[["unhashable"], BOX]]},
    {"type": "Tuple", "spaces": [BOX, None]},
    {"type": "Text", "max_length": 3, "min_length": 5, "charset": "a"},
    {"type": "Text", "max_length": 3, "min_length": 0, "charset": 5},
    {"type": "Graph", "nodes": {**BOX, "shape": [2**40]}, "edges": None},
    {"type": "Sequence", "space": {**BOX, "shape": [2**40]}, "stack": False},
    {"type": "OneOf", "spaces": [{**BOX, "shape": [2**40]}]},
    nested_space(400),
]
WRONG_FIELDS = [
    {},
    5,
    [5],
    [{}],
    [{"name": "x"}],
    [{**FIELDS[0], "name": 3}],
    [{**FIELDS[0], "name": ".."}],
    [FIELDS[0], FIELDS[0]],
    [{**FIELDS[0], "shape": [-3]}],
    [{**FIELDS[0], "shape": [1.5]}],
    [{**FIELDS[0], "shape": 3}],
    [{**FIELDS[0], "shape": [2**40, 2**40]}],
    [{**FIELDS[0], "dtype": "O"}],
    [{**FIELDS[0], "dtype": "O,O"}],
    [{**FIELDS[0], "dtype": "<U0"}],
    [{**FIELDS[0], "dtype": "V0"}],
    [{**FIELDS[0], "dtype": None}],
    [{**FIELDS[0], "dtype": "(1,"}],
    [{**FIELDS[0], "role": "secret"}],
    [{**FIELDS[0], "role": ["input"]}],
    [{**FIELDS[0], "unit": 5}],
]
WRONG = [
    *(described(observation_space=space) for space in WRONG_SPACES),
    *(described(action_space=space) for space in WRONG_SPACES),
    *(described(observation_spaces=[DESCRIPTION["observation_space"]] * 2 + [space]) for space in WRONG_SPACES),
    *(described(sample_fields=fields) for fields in WRONG_FIELDS),
    *(described(parameter_fields=fields) for fields in WRONG_FIELDS),
    *(described(parameter_space=space) for space in WRONG_SPACES),
    described(sample_space=None),
    described(parameter_fields=None),
    described(sample_space=walk.to_json(PARAMETERS)),
    described(parameter_fields=PARAMETER_FIELDS[:1]),
    described(observation_spaces=[BOX, BOX, BOX]),
    described(observation_spaces=[DESCRIPTION["observation_space"]]),
    described(observation_spaces=None),
    described(metadata=None),
    described(further=1),
    *({k: v for k, v in DESCRIPTION.items() if k != key} for key in DESCRIPTION),
    {},
]


@pytest.mark.parametrize("description", WRONG, ids=lambda value: "")
def test_a_wrong_description_is_refused_without_spending_memory(description):
    parent = brought_to("building")[Role.PARENT]
    body = encode_value({"count": COUNT, "description": description})
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="describes its environments wrongly"):
            feed(parent, frame(Ready, body))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
    assert parent.state == "building"
    assert parent.agreement is None


@pytest.mark.parametrize("count", [0, -1])
def test_a_worker_has_environments(count):
    with pytest.raises(ProtocolError, match=f"announces {count} environments"):
        feed(brought_to("building")[Role.PARENT], frame(Ready, encode_value({"count": count, "description": {}})))
