"""Samples of two codes of a simulation that meet: in validation, in other parts of a folder, in joined folders."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch

import physgym
from physgym.errors import ChangedCode, ConfigError, DatasetError
from physgym.nn import MLP
from physgym.training import Trainer

TEXT = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces
import physgym

class Own(physgym.Simulation):
    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    sample_roles = {"x": "input", "y": "target"}

    def __init__(self, mesh=None):
        super().__init__()

    def begin(self, options):
        self.a = np.zeros(2, np.float32)

    def advance(self, action):
        self.a = np.asarray(action, np.float32)

    def observation(self):
        return self.a

    def sample(self):
        return {"x": self.a, "y": FACTOR * self.a}
"""
OPTIONS = {"samples": 20, "num_workers": 0, "max_steps": 5, "progress": False}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that gives the simulation with a factor, each time as code that was just written."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def with_factor(factor):
        (tmp_path / "own_physics.py").write_text(f"{TEXT}\nFACTOR = np.float32({factor})\n")
        sys.modules.pop("own_physics", None)
        importlib.invalidate_caches()
        return importlib.import_module("own_physics").Own

    yield with_factor
    sys.modules.pop("own_physics", None)


def fit(data, **options):
    Trainer(MLP.from_spec(data.spec, hidden=(4,)), data, epochs=1, progress=False, **options).fit()


def test_validation_of_another_code_is_said(own, tmp_path):
    old = physgym.generate(own(1), tmp_path / "old", **OPTIONS)
    same = physgym.generate(own(1), tmp_path / "same", mode="validation", **OPTIONS)
    fit(old, validation=same)
    new = physgym.generate(own(3), tmp_path / "new", mode="validation", **OPTIONS)
    with pytest.warns(UserWarning, match=r"the validation samples were made by other code .*module own_physics"):
        fit(old, validation=new)


def test_folders_of_two_codes_that_are_joined_are_said(own, tmp_path):
    physgym.generate(own(1), tmp_path / "old", **OPTIONS)
    physgym.generate(own(3), tmp_path / "new", seed=1, **OPTIONS)
    both = physgym.SampleDataset([tmp_path / "old", tmp_path / "new"])
    with pytest.warns(UserWarning, match="some of the training samples were made by other code"):
        fit(both, validation=None)


def test_parts_of_a_folder_by_two_codes_are_said(own, tmp_path):
    physgym.generate(own(1), tmp_path / "d", **OPTIONS)
    with pytest.warns(UserWarning, match="the samples of the part validation were made by other code"):
        physgym.generate(own(3), tmp_path / "d", mode="validation", **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        physgym.generate(own(3), tmp_path / "e", **OPTIONS)
        physgym.generate(own(3), tmp_path / "e", mode="test", **OPTIONS)


def array(place):
    found = np.zeros(3000)
    found[place] = 1
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (array(1500), array(1501)),
        (np.array([0.12345678912]), np.array([0.12345678913])),
        ([array(1500)], [array(1501)]),
        ({"of": array(1500)}, {"of": array(1501)}),
        (np.zeros(3), np.zeros(3, np.float32)),
        (torch.from_numpy(array(1500)), torch.from_numpy(array(1501))),
        (np.ma.array([1.0, 2.0], mask=[False, True]), np.ma.array([1.0, 2.0], mask=[True, False])),
    ],
    ids=["middle", "digits", "in a list", "in a dictionary", "dtype", "tensor", "mask"],
)
def test_arrays_as_arguments_are_compared_as_a_whole(own, tmp_path, before, after):
    cls = own(1)
    physgym.generate(cls, tmp_path / "d", env_kwargs={"mesh": before}, **OPTIONS)
    more = {**OPTIONS, "samples": 30, "resume": True}
    with pytest.raises((ConfigError, DatasetError), match="env_kwargs"):
        physgym.generate(cls, tmp_path / "d", env_kwargs={"mesh": after}, **more)
    assert len(physgym.generate(cls, tmp_path / "d", env_kwargs={"mesh": before}, **more)) == 30


SCRIPT = """
import argparse, sys
import numpy as np, physgym
parser = argparse.ArgumentParser()
parser.add_argument("samples", type=int)
parser.add_argument("--factor", type=float, default=1.0)
args = parser.parse_args()
MORE = 10 * args.factor
{text}
FACTOR = np.float32(1)

class Reads(Own):
    def sample(self):
        return {{"x": self.a, "y": np.float32(MORE) * self.a}}

def make():
    return Own([args.factor])

options = dict(num_workers=0, max_steps=5, progress=False, resume=True)
for name, env in {{"function": make, "lambda": lambda: Own([args.factor]), "class": Reads}}.items():
    try:
        print(name, len(physgym.generate(env, name, samples=args.samples, **options)))
    except physgym.errors.ChangedCode as error:
        print(name, "refused", "args.factor" in str(error) or "global MORE" in str(error))
"""


@pytest.mark.slow
def test_what_a_script_was_started_with_is_part_of_its_code(tmp_path):
    (tmp_path / "program.py").write_text(SCRIPT.format(text=TEXT))

    def run(*arguments):
        command = [sys.executable, "program.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True)
        return done.stdout.split("\n")[:-1]

    assert run("10") == ["function 10", "lambda 10", "class 10"]
    assert run("20") == ["function 20", "lambda 20", "class 20"]  # what is not of the simulation may change
    assert run("30", "--factor", "5") == [f"{name} refused True" for name in ("function", "lambda", "class")]


def test_files_that_a_wrapper_names_are_of_its_simulation(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gain.txt").write_text("1")
    plain = own(1)

    class Reading(gym.ActionWrapper):
        files_read = ("gain.txt",)

        def action(self, action):
            return action * np.float32((tmp_path / "gain.txt").read_text())

    def make():
        return Reading(plain())

    first = physgym.generate(make, tmp_path / "d", **OPTIONS)
    assert list(first.provenance["runs"][0]["code"]["files"]) == ["gain.txt"]
    (tmp_path / "gain.txt").write_text("2")
    with pytest.raises(ChangedCode, match=r"gain\.txt has changed"):
        physgym.generate(make, tmp_path / "d", **{**OPTIONS, "samples": 30, "resume": True})


def test_a_part_that_is_damaged_keeps_no_other_part_from_being_made(own, tmp_path):
    physgym.generate(own(1), tmp_path / "d", **OPTIONS)
    (tmp_path / "d" / "training-00000.h5").write_bytes(b"nothing")
    assert len(physgym.generate(own(1), tmp_path / "d", mode="validation", **OPTIONS)) == 20


@pytest.mark.parametrize("kind", ["tensor", "masked"])
def test_what_a_lambda_has_caught_is_compared_as_a_whole(own, tmp_path, kind):
    cls = own(1)
    if kind == "tensor":
        before, after = torch.zeros(3000), torch.zeros(3000)
        after[1500] = 1
    else:
        before, after = (np.ma.array([1.0, 2.0], mask=mask) for mask in ([False, True], [True, False]))

    def makes(mesh):
        return lambda: cls(mesh)

    physgym.generate(makes(before), tmp_path / "d", **OPTIONS)
    more = {**OPTIONS, "samples": 30, "resume": True}
    with pytest.raises(ChangedCode, match="mesh"):
        physgym.generate(makes(after), tmp_path / "d", **more)
    assert len(physgym.generate(makes(before), tmp_path / "d", **more)) == 30
