"""What factories and functions of actions bring along, and code that is carried out by calls: changes are noticed."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

import physgym
from physgym.code.record import differences
from physgym.code.search import code_of
from physgym.data.provenance import overlaps
from physgym.errors import ConfigError, DatasetError
from physgym.naming import env_name
from physgym.registration import find_spec
from tests.support import toys

OPTIONS = {"num_workers": 0, "progress": False, "max_steps": 5}


class Numbers:
    gain = 1.0
    table = {"a": [1, 2]}  # noqa: RUF012 - what users write


class More(Numbers):
    offset = 2.0


class Slotted:
    __slots__ = ("gain",)

    def __init__(self, gain):
        self.gain = gain


def with_gain(gain, offset=0.0):
    def doubled(function):
        return lambda self: gain * function(self)

    class Sim(toys.Line):
        count = 0

        def made(self):
            nonlocal offset
            offset += 1  # what it sets itself is its state
            return super().reset(seed=0)

    class Method(Sim):
        def kept(self):
            return gain

    class Shown(Sim):
        shown = property(lambda self: gain)

    class Kept(Sim):
        kept = functools.cached_property(lambda self: gain)

    class Static(Sim):
        kept = staticmethod(lambda: gain)

    class Default(Sim):
        def kept(self, given=gain):
            return given

    class Decorated(Sim):
        kept = doubled(Sim.made)

    class Wrapper(gymnasium.Wrapper):
        def step(self, action):
            return gain, *self.env.step(action)[1:]

    named = {kind.__name__: kind for kind in (Method, Shown, Kept, Static, Default, Decorated)}
    return named | {"around": lambda: Wrapper(toys.Line())}


@pytest.mark.parametrize("way", with_gain(1.0))
def test_what_the_methods_of_a_simulation_have_caught_counts(way):
    before = code_of(with_gain(1.0)[way])
    assert not differences(before, code_of(with_gain(1.0, offset=3.0)[way]))
    assert any("was 1.0, is 2.0" in text for text in differences(before, code_of(with_gain(2.0)[way])))


SCRIPT = """
import dataclasses
from tests.support import toys

@dataclasses.dataclass
class Conf:
    gain: float
    other: float = 1.0

conf = Conf(1.0)

class Sim(toys.Line):
    @property
    def gain(self):
        return conf.gain
"""


def test_the_fields_of_a_dataclass_of_a_script_that_a_simulation_reads_count(monkeypatch):
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    script.__file__ = __file__
    exec(SCRIPT, vars(script))  # noqa: S102 - the text of a script
    before = code_of(script.Sim)
    script.conf.other = 2.0
    assert not differences(before, code_of(script.Sim))
    script.conf.gain = 2.0
    assert differences(before, code_of(script.Sim)) == ["value conf.gain was 1.0, is 2.0"]


@dataclass
class Fields:
    gain: float = 1.0
    shared = 3.0


class Factory:
    def __init__(self, value):
        self.value = value

    def make(self):
        return toys.Line(self.value)


WAYS = {
    "a closure": lambda value: lambda: toys.Line(value),
    "a default": lambda value: lambda given=value: toys.Line(given),
    "a partial": lambda value: functools.partial(toys.Line, value),
    "an object": lambda value: Factory(value).make,
    "a list": lambda value: (lambda values: lambda: toys.Line(values))([value]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "kind", "name"),
    [
        (Numbers(), Numbers, "gain"),
        (Numbers(), Numbers, "table"),
        (More(), Numbers, "gain"),
        (More(), More, "offset"),
        (Numbers, Numbers, "gain"),
        (More, Numbers, "gain"),
        (Fields(), Fields, "shared"),
    ],
    ids=["object", "table", "inherited", "derived", "class", "base", "dataclass"],
)
def test_data_of_a_class_counts_where_an_object_is_caught(way, value, kind, name, monkeypatch):
    before = code_of(WAYS[way](value))
    assert not differences(before, code_of(WAYS[way](value)))
    monkeypatch.setattr(kind, name, 7.0)
    (text,) = differences(before, code_of(WAYS[way](value)))
    assert f"{name} was" in text or f"{name}[" in text


class Making:
    gain = 1.0

    @classmethod
    def make(cls):
        return toys.Line(cls.gain)


@pytest.mark.parametrize("how", ["class method", "argument", "class as an argument", "registered"])
def test_data_of_a_class_counts_wherever_it_enters(how, monkeypatch):
    def found():
        if how == "class method":
            return code_of(Making.make)
        if how == "registered":
            return code_of(EnvSpec("Made-v0", entry_point="tests.support.toys:Line", kwargs={"render_mode": Making}))
        return code_of(toys.Line, {"render_mode": Making() if how == "argument" else Making})

    before = found()
    assert not differences(before, found())
    monkeypatch.setattr(Making, "gain", 2.0)
    (text,) = differences(before, found())
    assert "gain was 1.0, is 2.0" in text


def weighted(weight):
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, weight)
    torch.nn.init.zeros_(network.bias)
    return network


@pytest.mark.parametrize(
    "make",
    [Slotted, lambda gain: argparse.Namespace(gain=gain), lambda gain: types.SimpleNamespace(gain=gain), weighted],
    ids=["slots", "argparse", "namespace", "network"],
)
def test_fields_of_any_object_that_is_caught_count(make):
    for way in WAYS.values():
        before = code_of(way(make(1.0)))
        assert not differences(before, code_of(way(make(1.0))))
        assert differences(before, code_of(way(make(2.0))))


CALLS = {
    "import": ("", '__import__("eworked").gain'),
    "import of a name": ("import importlib", 'importlib.import_module(name="eworked").gain'),
    "run a file": ("import runpy", 'runpy.run_path("eworked.py")["gain"]'),
    "run a module": ("import runpy as r", 'r.run_module("eworked")["gain"]'),
    "exec": ("", 'exec(open("eworked.py").read(), found)'),
    "exec of a path": ("from pathlib import Path", 'exec((Path(__file__).parent / "eworked.py").read_text(), found)'),
    "exec of what is open": ("", 'with open("eworked.py") as file:\n        exec(file.read(), found)'),
    "another name": ("from importlib import import_module as im", 'im("eworked").gain'),
    "another name of a module": ("import importlib as il", 'il.import_module("eworked").gain'),
    "another name for a run": ("from runpy import run_path as rp, run_module as rm", 'rp("eworked.py")["gain"]'),
    "a name that is assigned": ("import importlib\nload = importlib.import_module", 'load("eworked").gain'),
    "load a file": ("import importlib.util as u", 'u.spec_from_file_location("any", "eworked.py")'),
}


@pytest.mark.parametrize("call", CALLS)
def test_code_that_is_carried_out_by_a_call_counts(call, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    head, text = CALLS[call]
    body = f"import gymnasium\n{head}\ndef later(found):\n    {text}\nclass Sim(gymnasium.Env):\n    pass\n"
    (tmp_path / "ecalls.py").write_text(body)
    texts = {"eworked.py": "import efurther\ngain = 1\n", "efurther.py": "gain = 1\n"}
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    importlib.invalidate_caches()
    try:
        before = code_of("ecalls:Sim")
        for name, content in texts.items():
            (tmp_path / name).write_text(f"{content}# changed\n")
            (difference,) = differences(before, code_of("ecalls:Sim"))
            assert f"module {name.removesuffix('.py')}" in difference
            (tmp_path / name).write_text(content)
        assert not differences(before, code_of("ecalls:Sim"))
    finally:
        sys.modules.pop("ecalls", None)


# --- functions of actions


def act(observation, rng, gain=1.0):
    return np.full(3, gain, np.float32)


class Acting:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, observation, rng):
        return np.full(3, self.gain, np.float32)

    def act(self, observation, rng):
        return self(observation, rng)


def closure(gain):
    def act(observation, rng):
        return np.full(3, gain, np.float32)

    return act


ACTIONS = {
    "closure": closure,
    "lambda": lambda gain: lambda observation, rng: np.full(3, gain, np.float32),
    "default": lambda gain: lambda observation, rng, gain=gain: np.full(3, gain, np.float32),
    "partial": lambda gain: functools.partial(act, gain=gain),
    "object": Acting,
    "method": lambda gain: Acting(gain).act,
}


@pytest.mark.parametrize("way", ACTIONS)
def test_what_a_function_of_actions_has_caught_is_compared(way, tmp_path):
    make = ACTIONS[way]
    physgym.generate(toys.Line, tmp_path / "d", samples=4, actions=make(0.5), **OPTIONS)
    more = {**OPTIONS, "samples": 8, "resume": True}
    with pytest.raises(DatasetError, match="not made with the same actions"):
        physgym.generate(toys.Line, tmp_path / "d", actions=make(0.75), **more)
    assert len(physgym.generate(toys.Line, tmp_path / "d", actions=make(0.5), **more)) == 8


def test_partials_of_two_functions_are_two(tmp_path):
    def other(observation, rng, gain):
        return np.zeros(3, np.float32)

    physgym.generate(toys.Line, tmp_path / "d", samples=4, actions=functools.partial(act, gain=0.5), **OPTIONS)
    with pytest.raises(DatasetError, match="not made with the same actions"):
        physgym.generate(
            toys.Line, tmp_path / "d", samples=8, actions=functools.partial(other, gain=0.5), resume=True, **OPTIONS
        )


PUSH = """
import numpy as np

def push(observation, rng):
    return np.full(3, 0.1, np.float32)

class Push:
    def __call__(self, observation, rng):
        return self.act(observation)

    def act(self, observation, rng=None):
        return np.full(3, 0.1, np.float32)
"""
LAYOUT = (
    PUSH.replace("    return", "    '''Give it.'''\n\n    # a comment\n    return", 1)
    .replace("class Push:", "class Push:\n    '''Push.'''\n")
    .replace("(3, 0.1, np.float32)", "(\n            3, 0.1, np.float32)")
)
PUSHES = {
    "function": lambda module: module.push,
    "object": lambda module: module.Push(),
    "method": lambda module: module.Push().act,
    "partial": lambda module: functools.partial(module.push),
}


@pytest.mark.parametrize("way", PUSHES)
def test_the_text_of_a_function_of_actions_is_compared(way, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def generated(text, samples):
        (tmp_path / "pushing.py").write_text(text)
        sys.modules.pop("pushing", None)
        importlib.invalidate_caches()
        actions = PUSHES[way](importlib.import_module("pushing"))
        options = {**OPTIONS, "samples": samples, "resume": samples > 4}
        return physgym.generate(toys.Line, tmp_path / "d", actions=actions, **options)

    try:
        first = generated(PUSH, 4)
        assert generated(LAYOUT, 8).source == first.source
        with pytest.raises(DatasetError, match="not made with the same actions"):
            generated(PUSH.replace("0.1", "0.9"), 12)
        rewritten(tmp_path / "d")  # as a version of before wrote it, which knew names alone
        assert len(generated(PUSH.replace("0.1", "0.9"), 12)) == 12
    finally:
        sys.modules.pop("pushing", None)


# --- names of simulations


def as_before(file: Path, **changed):
    """Write the source of a partition as a version of before did."""
    with h5py.File(file, "r+") as stored:
        source = json.loads(stored.attrs["source"])
        source["actions"].pop("values", None)
        source["actions"].pop("text", None)
        stored.attrs["source"] = json.dumps({**source, **changed}, sort_keys=True)


def rewritten(folder: Path, **changed):
    for file in folder.glob("*.h5"):
        as_before(file, **changed)
    described = json.loads((folder / "dataset.json").read_text())
    for part in described["modes"].values():
        if "source" in part:
            part["source"]["actions"].pop("values", None)
            part["source"]["actions"].pop("text", None)
            part["source"] |= changed
    (folder / "dataset.json").write_text(json.dumps(described))


@pytest.mark.parametrize("how", ["class", "name"])
def test_a_class_is_recorded_with_its_module_and_old_datasets_go_on(how, tmp_path):
    env = "tests.support.toys:Line" if how == "name" else toys.Line
    options = {**OPTIONS, "actions": act}
    found = physgym.generate(env, tmp_path / "d", samples=4, **options)
    assert found.source["env"] == "tests.support.toys:Line"
    assert found.source["actions"]["values"] == {"act(0)": "1.0"}
    rewritten(tmp_path / "d", env="Line")
    before = physgym.SampleDataset(tmp_path / "d").source
    found = physgym.generate(env, tmp_path / "d", samples=8, resume=True, **options)
    assert found.source == before  # in the words in which it was begun
    assert before["env"] == "Line"
    assert len(found) == 8


def test_two_classes_of_one_name_are_two(tmp_path):
    class Line(toys.Line):
        pass

    Line.__qualname__ = "Line"
    physgym.generate(toys.Line, tmp_path / "d", samples=4, **OPTIONS)
    with pytest.raises((DatasetError, ConfigError), match="not made with the same env"):
        physgym.generate(Line, tmp_path / "d", samples=8, resume=True, **OPTIONS)


def test_a_registered_simulation_is_recorded_by_its_id():
    assert env_name("physgym/Spring-v0") == env_name("physgym.envs:physgym/Spring-v0") == "physgym/Spring-v0"
    assert env_name(gymnasium.spec("physgym/Spring-v0")) == "physgym/Spring-v0"
    assert env_name(find_spec("tests.support.toys:Line")) == env_name(toys.Line) == "tests.support.toys:Line"


def test_overlaps_are_found_between_old_and_new_names(tmp_path):
    first = physgym.generate(toys.Line, tmp_path / "a", samples=8, actions=act, **OPTIONS)
    physgym.generate(toys.Line, tmp_path / "b", samples=8, actions=act, **OPTIONS)
    rewritten(tmp_path / "b", env="Line")
    second = physgym.SampleDataset(tmp_path / "b")
    assert "2 of the 2 episodes" in overlaps(first, second)
    assert "2 of the 2 episodes" in overlaps(second, first)
    rewritten(tmp_path / "b", env="other.module:Line")  # whose samples are equal all the same
    assert "2 of the 2 episodes" in overlaps(first, physgym.SampleDataset(tmp_path / "b"))
