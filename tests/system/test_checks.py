"""An argument that is to be an integer is one in the same cases everywhere, and has the same text where it is not."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from physgym.checks import at_least, integer, integers, is_integer, one_of, positive
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.envs.elasticity import BlockMesh
from physgym.envs.spring import Spring
from physgym.errors import ConfigError
from physgym.generation.generate import generate
from physgym.generation.reservoir import Reservoir
from physgym.loading.batching import check_arguments
from physgym.nn import FNO, MLP, Predictor, UNet
from physgym.running.rollout_evaluation import RolloutEvaluation
from physgym.running.runner import Runner
from physgym.sample import Field, SampleSpec
from physgym.samplers import Breed, Grid, LatinHypercube
from physgym.training import Checkpoints, EarlyStopping

SPEC = SampleSpec([Field("x", (2,), np.dtype("f4"), "input")])
PAIR = SampleSpec([*SPEC.values(), Field("y", (2,), np.dtype("f4"), "target")])


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_integers_of_python_numpy_and_torch_are_integers(value):
    assert is_integer(value)
    made = integer("count", value, 1)
    assert made == 3
    assert type(made) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None, [3]])
def test_flags_and_whole_floats_are_none(value):
    assert not is_integer(value)
    with pytest.raises(ConfigError, match=re.escape(f"count must be an integer, not {value!r}")):
        integer("count", value)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: integer("n", 0, 1), "n must be at least 1, not 0"),
        (lambda: integer("n", -1, 0), "n must not be negative, got -1"),
        (lambda: integer("n", 9, 0, 8), "n must be at most 8, not 9"),
        (lambda: integer("n", 0, 1, hint="; leave it out"), "n must be at least 1, not 0; leave it out"),
        (lambda: at_least("x", float("nan"), 0), "x must not be negative, got nan"),
        (lambda: positive("x", float("inf")), "x must be positive and finite, not inf"),
        (lambda: one_of("mode", "c", ("a", "b")), "mode must be one of ('a', 'b'), not 'c'"),
    ],
)
def test_texts_name_the_argument_and_the_value(call, text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        call()


# of every folder some; `strata` is what was once an integer where others were none
TAKERS = {
    "simulations_per_step": lambda n: Spring(simulations_per_step=n),
    "patience": lambda n: EarlyStopping(patience=n),
    "keep": lambda n: Checkpoints("folder", keep=n),
    "batch_size": lambda n: check_arguments(n, 0, 0, 0, 1),
    "strata": lambda n: LatinHypercube(n),
    "points": lambda n: Grid([n]),
    "window": lambda n: Breed(window=n),
    "capacity": lambda n: Reservoir(SPEC, n),
    "mini": lambda n: SampleDataset("folder", mini=n),
}


@pytest.mark.parametrize("name", TAKERS)
def test_all_take_the_same(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (True, 3.0, "3", 0):
        with pytest.raises(ConfigError, match=rf"{name} must be (an integer|at least 1)"):
            TAKERS[name](value)
    if name != "mini":  # a dataset has to be there
        TAKERS[name](np.int64(3))


SIZED = {
    "width": lambda n: FNO(1, 1, 1, width=n),
    "depth": lambda n: UNet(1, 1, 1, depth=n),
    "modes": lambda n: FNO(1, 1, 1, modes=n),
    "modes of each axis": lambda n: FNO(2, 1, 1, modes=(4, n)),
    "width of each size": lambda n: UNet(1, 1, 1, depth=1, width=[4, n]),
    "hidden": lambda n: MLP(1, 1, hidden=(n,)),
    "block_layers": lambda n: MLP(1, 1, block_layers=n),
    "in_channels": lambda n: UNet(1, n, 1),
    "out_channels": lambda n: FNO(1, 1, [n]),
    "order": lambda n: BlockMesh((1.0, 1.0, 1.0), (7, 7, 7), n),
    "max_file_size": lambda n: SampleWriter("never", SPEC, max_file_size=n),
    "buffer_size": lambda n: SampleWriter("never", SPEC, buffer_size=n),
    "steps": lambda n: RolloutEvaluation(Spring, n),
    "horizons": lambda n: RolloutEvaluation(Spring, horizons=(1, n)),
    **{
        name: lambda n, name=name: Runner(None, Predictor(MLP(2, 2, hidden=()), PAIR), **{name: n})
        for name in ("max_steps", "seed", "batch_size")
    },
    **{
        f"{name} of generate": lambda n, name=name: generate(Spring, "never", samples=1, **{name: n})
        for name in ("seed", "max_steps", "max_rejects", "num_envs", "num_workers")
    },
}


@pytest.mark.parametrize("value", [True, 2.5, 3.0, "3"])
@pytest.mark.parametrize("name", SIZED)
def test_no_flag_fraction_or_text_is_a_number_of_anything(name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"{name.split()[0]}.*(True|2\.5|3\.0|3)"):
        SIZED[name](value)
    assert not (tmp_path / "never").exists()


def test_one_integer_or_several():
    assert integers("modes", np.int64(3), 1) == 3
    assert integers("modes", (np.int64(3), 4), 1) == [3, 4]
    with pytest.raises(ConfigError, match="modes must be at least 1, not 0"):
        integers("modes", (3, 0), 1)
    with pytest.raises(ConfigError, match=r"modes must be an integer, not 2\.5"):
        integers("modes", 2.5)


def test_networks_take_integers_of_numpy():
    three = np.int64(4)
    assert MLP(three, np.int64(2)).config == MLP(4, 2).config
    assert UNet(2, 1, 1, width=three, depth=1).config == UNet(2, 1, 1, width=4, depth=1).config
    assert FNO(1, 1, 1, modes=three).config == FNO(1, 1, 1, modes=4).config


def test_a_field_takes_one_side_of_numpy():
    assert Field("x", np.int64(3), np.dtype("f4"), "input").shape == (3,)
