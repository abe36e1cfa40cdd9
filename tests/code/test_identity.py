"""What arguments are described as in a dataset: the same in every process, never an address."""

from __future__ import annotations

import enum
import functools
import json
import math
import threading
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import physgym
from physgym.code.identity import ADDRESS, MOST_OBJECTS, described, maker_text
from physgym.errors import DatasetError
from physgym.generation.source import describable
from tests.support import toys

OPTIONS = {"num_workers": 0, "progress": False, "max_steps": 5}


class Lawful(toys.Line):
    def __init__(self, law=None, render_mode=None):
        super().__init__(render_mode=render_mode)


def linear(x, gain=1.0):
    return gain * x


class Law:
    def __init__(self, gain, inner=None):
        self.gain, self.inner = gain, inner

    def law(self, x):
        return self.gain * x


class Slotted:
    __slots__ = ("gain",)

    def __init__(self, gain):
        self.gain = gain


@dataclass
class Fields:
    law: object


class Laws(enum.Enum):
    LAW = functools.partial(linear)


def scaled(gain):
    return lambda x: gain * x


def made(gain):
    class Made(Law):
        def law(self, x):
            return gain * x

    return Made


VALUES = {
    "function": lambda gain: linear if gain == 1 else scaled,
    "closure": scaled,
    "object": Law,
    "nested": lambda gain: Law(0, [Law(1, {"law": Slotted(gain)})]),
    "slots": Slotted,
    "method": lambda gain: Law(gain).law,
    "method of a builtin": lambda gain: [Law(gain)].append,
    "partial": lambda gain: functools.partial(linear, gain=Law(gain)),
    "dataclass": lambda gain: Fields(scaled(gain)),
    "namespace": lambda gain: types.SimpleNamespace(law=Law(gain)),
    "class": made,
    "generator": lambda gain: np.random.default_rng(int(gain)),
    "cache": lambda gain: functools.lru_cache(scaled(gain)),
    "key": lambda gain: {Slotted(gain): 1},
    "array": lambda gain: np.array([Law(gain), None]),
    "set": lambda gain: {Slotted(gain), Slotted(3)},
}


@pytest.mark.parametrize("way", VALUES)
def test_no_value_is_known_by_its_address(way):
    kept = [VALUES[way](1.0), VALUES[way](1.0)]  # at two addresses
    one, same = (described({"law": value}) for value in kept)
    assert one == same != described({"law": VALUES[way](2.0)})
    assert not ADDRESS.search(json.dumps(one))
    assert "unknown" not in json.dumps(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", [linear, Law(1.0), functools.partial(linear, gain=Law(1.0))], ids=lambda v: str(type(v))
)
def test_equal_runs_are_equal_to_the_byte_and_a_resume_goes_on(value, tmp_path):
    for name in ("a", "b"):
        physgym.generate(Lawful, tmp_path / name, samples=4, env_kwargs={"law": value}, **OPTIONS)
    files = [next((tmp_path / name).glob("*.h5")).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    more = {**OPTIONS, "samples": 8, "resume": True}
    again = Law(1.0) if isinstance(value, Law) else value
    assert len(physgym.generate(Lawful, tmp_path / "a", env_kwargs={"law": again}, **more)) == 8
    with pytest.raises(DatasetError, match="not made with the same env_kwargs"):
        physgym.generate(Lawful, tmp_path / "a", env_kwargs={"law": Law(2.0)}, **more)


def test_what_makes_an_environment_has_a_name_without_an_address(tmp_path):
    def partial(gain):
        return functools.partial(Lawful, law=Law(gain))

    assert maker_text(partial(1.0)) == maker_text(partial(1.0)) != maker_text(partial(2.0))
    assert maker_text(functools.partial(Lawful)) == f"functools.partial({Lawful})"  # as ever
    physgym.generate(partial(1.0), tmp_path / "d", samples=4, **OPTIONS)
    more = {**OPTIONS, "samples": 8, "resume": True}
    assert len(physgym.generate(partial(1.0), tmp_path / "d", **more)) == 8
    with pytest.raises(DatasetError, match="not made with the same env "):
        physgym.generate(partial(2.0), tmp_path / "d", **more)


def test_what_cannot_be_known_is_named():
    law = Law(1.0)
    law.inner = law
    deep = functools.reduce(lambda inner, _: Law(1.0, inner), range(50), None)
    many = [Law(1.0) for _ in range(MOST_OBJECTS + 1)]
    for value, reason in (
        (threading.Lock(), "fields cannot be read"),
        (law, "itself"),
        (deep, "within one another"),
        (many, "more than"),
    ):
        text = json.dumps(described([value]))
        assert '"unknown": ' in text
        assert reason in text
        assert not ADDRESS.search(text)


def test_plain_values_are_described():
    values = {"a": (1, 2.5, None, True), "b": Path("x"), "c": np.float32(2), "d": {3}, "e": math.sin, "f": int, 1: "x"}
    assert describable([values]) == {
        "a": [1, 2.5, None, True],
        "b": repr(Path("x")),
        "c": 2.0,
        "d": "{3}",
        "e": "<built-in function sin>",
        "f": "<class 'int'>",
        "1": "x",
    }
    assert described(Fields(2)) == {"Fields": {"law": 2}}
    assert described(Laws.LAW) == "<Laws.LAW>"
