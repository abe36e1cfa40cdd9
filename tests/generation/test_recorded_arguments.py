"""Arguments of a simulation, as a dataset records them."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from pathlib import PurePosixPath

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.generation.recorded_arguments import passed_again
from physgym.generation.source import as_recorded, describable
from tests.support import toys


@dataclasses.dataclass
class Mesh:
    size: int = 3


class Kind(enum.Enum):
    ROUND = 1


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2,
        0.5,
        "text",
        "sin(x)",
        "sin(3 * x) + exp(-t)",
        "a (b)",
        (0.1, 0.2),
        [1, [2]],
        {"size": 3, "kind": "x"},
        {"object": "sphere"},
        {"mesh": {"n": 1}},
        np.bool_(False),
        np.float32(0.1),
        [np.int32(2)],
    ],
)
def test_data_are_passed_again(value):
    again = passed_again(describable([{"a": value}]))["a"]
    assert json.dumps(again) == json.dumps(describable([{"a": value}])["a"])
    assert bool(again) == bool(value)


@pytest.mark.parametrize(
    "value",
    [
        double,
        functools.partial(double, 2),
        len,
        Mesh(),
        Mesh,
        Kind.ROUND,
        np.zeros(2),
        np.array([None]),
        PurePosixPath("/a"),
        {1, 2},
        {1},
        b"a",
        range(3),
        1 + 2j,
        toys.Line.action_space,
        np.random.default_rng(0),
        np.dtype("f4"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_descriptions_of_objects_are_not(value):
    for nested in (value, [1, value], {"x": 1, "y": value}):
        with pytest.raises(ConfigError, match=r"an argument 'a' of which the dataset holds a description.*env_kwargs="):
            passed_again(describable([{"a": nested}]))


def test_texts_that_older_versions_recorded_for_numbers_are_continued():
    now = {"env": "x", "env_kwargs": describable([{"wall": np.bool_(False)}, {"wall": True}])}
    before = {"env": "x", "env_kwargs": [{"wall": "np.False_"}, {"wall": True}]}
    assert now["env_kwargs"] == [{"wall": False}, {"wall": True}]
    assert as_recorded(now, before) == before
    assert as_recorded(now, {"env": "x", "env_kwargs": [{"wall": "np.True_"}, {"wall": True}]}) == now
    assert passed_again(before["env_kwargs"][0]) == {"wall": False}
