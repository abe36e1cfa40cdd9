"""A network, a transform, a sampler and a logger are added with one file each, and known everywhere by their names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import physgym
from physgym.experiment import components
from physgym.marked_classes import marked_classes
from physgym.nn import registered, registry
from physgym.samplers.table import named_samplers

NETWORK = '''
"""A network."""
import torch
from torch import nn
from physgym.nn.registry import named_network

@named_network
class Doubling(nn.Module):
    """Gives what it takes, doubled."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    @property
    def config(self):
        return {"factor": 2.0}

    def forward(self, force, parameters, state):
        return self.factor * state
'''
TRANSFORM = '''
"""A transform."""
from physgym.nn.registry import named_transform
from physgym.nn.transforms import Transform

@named_transform
class Unchanged(Transform):
    """Changes nothing."""

    def forward(self, fields):
        return fields
'''
SAMPLER = '''
"""A sampler."""
import numpy as np
from physgym.samplers.base import Sampler
from physgym.samplers.table import named

@named(draws=("actions",))
class Nothing(Sampler):
    """No force."""

    name = "nothing"

    def actions(self, space, seed):
        return lambda episode: lambda observation, rng: np.zeros(space.shape, space.dtype)
'''
LOGGER = '''
"""A logger."""
from physgym.training.csv_logger import CSV
from physgym.training.loggers import named_logger

@named_logger
class Quiet(CSV):
    """Tables, as ever."""
'''
CONFIG = """
session: session
environment: {id: physgym/Spring-v0}
sampler: {actions: nothing}
dataset: {samples: 40, max_steps: 10, num_workers: 0}
network: {type: Doubling}
transforms: {before_loss: [Unchanged]}
optimization: {lr: 0.01}
training: {epochs: 1, batch_size: 10}
stats: {loggers: [quiet]}
"""
TRAIN = """
import sys
from physgym.experiment.config import load_config
config = load_config("config.yaml")
assert "torch" not in sys.modules
from physgym.experiment.runs import train
train(config)
"""
LOAD = """
import pytest

import physgym
from physgym.training import load_checkpoint
print(type(load_checkpoint("session").network).__name__, physgym.SampleDataset("session/dataset").attributes)
"""


@pytest.mark.slow
def test_a_network_a_transform_a_sampler_and_a_logger_are_one_file_each(tmp_path):
    package = Path(physgym.__file__).parent
    shutil.copytree(package, tmp_path / "physgym", ignore=shutil.ignore_patterns("__pycache__"))
    files = {"nn/doubling": NETWORK, "nn/unchanged": TRANSFORM, "samplers/nothing": SAMPLER, "training/quiet": LOGGER}
    for file, text in files.items():
        (tmp_path / "physgym" / f"{file}.py").write_text(text)
    (tmp_path / "config.yaml").write_text(CONFIG)

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", TRAIN)
    assert run("-c", LOAD).startswith("Doubling")
    assert "Doubling, " in (schema := run("-m", "physgym", "schema"))
    assert '"Unchanged"' in schema
    assert '"nothing"' in schema
    assert '"quiet"' in schema
    assert (tmp_path / "session" / "stats" / "epochs.csv").is_file()


def test_names_in_the_source_are_those_of_the_classes():
    marks = ("register", "named_network", "named_transform")
    shipped = marked_classes("physgym.nn", *marks)
    assert set(shipped) <= set(registered())
    assert {name for name in shipped if components.find(name, shipped, "name").__name__ != name} == set()
    own = {name for name, kind in registry._CLASSES.items() if kind.__module__.startswith("physgym.nn.")}
    assert own == set(shipped)
    assert {"Autoencoder", "CNN", "MLP", "UNet", "FNO"} == set(components.NETWORKS)
    assert {"Hold"} == set(components.TRANSFORMS)


def test_samplers_that_draw_both_come_first():
    assert list(named_samplers("actions")) == ["uniform", "gaussian", "sobol", "lhs", "grid", "network"]
    assert list(named_samplers("parameters")) == ["uniform", "gaussian", "sobol", "lhs", "grid", "breed", "table"]
