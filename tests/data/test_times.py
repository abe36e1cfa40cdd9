"""Time: how long a step is, as a simulation declares it and a dataset knows it."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data import SampleWriter
from physgym.data.description import rebuild_description
from physgym.data.summary import summarize
from physgym.data.times import step_seconds, time_attribute
from physgym.errors import ConfigError, DatasetError, WorkerError
from physgym.formats.numpy_arrays import export_numpy, import_numpy
from physgym.nn import MLP, Predictor
from physgym.runner import Runner
from physgym.sample import Field, SampleSpec
from tests.support import toys

QUICK = {"num_workers": 0, "progress": False}
WRONG = [0, -0.1, math.nan, math.inf, "0.1", True, [0.1]]


class Still(physgym.Simulation):
    """Does nothing, in steps of 0.25 s."""

    action_space = spaces.Box(-1, 1, (), np.float32)
    observation_space = action_space
    sample_space = spaces.Dict(x=action_space, y=action_space)
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012
    time_step = 0.25

    def begin(self, options):
        self.time = 0.0

    def advance(self, action):
        self.time += 0.1 * (1 + (self.time > 0))

    def observation(self):
        return np.float32(0)

    def sample(self):
        return {"x": 0.0, "y": 0.0}


class Adaptive(Still):
    """Makes steps of different length, which its info tells."""

    time_step = None
    sample_space = spaces.Dict(x=Still.action_space, y=Still.action_space, time=spaces.Box(0, np.inf, (), np.float64))

    def info(self):
        return {"time": self.time}


@pytest.fixture(scope="module")
def spring(tmp_path_factory):
    path = tmp_path_factory.mktemp("times") / "spring"
    arguments = {"simulations_per_step": 3}
    return physgym.generate("physgym/Spring-v0", path, samples=7, max_steps=5, env_kwargs=arguments, **QUICK)


def test_a_dataset_knows_the_time_of_its_samples(spring):
    assert spring.time_step == pytest.approx(0.3)
    np.testing.assert_allclose(spring.index("time"), [0.3, 0.6, 0.9, 1.2, 1.5, 0.3, 0.6])
    np.testing.assert_allclose(spring.subset([6, 0]).index("time"), [0.6, 0.3])
    both = physgym.SampleDataset([spring.paths[0]] * 2)
    assert both.time_step == spring.time_step
    assert any("a step: 0.3 s" in line for line in summarize(spring.paths[0]))


def test_it_is_stored_once_and_is_found_again(spring):
    folder = spring.paths[0]
    assert json.loads((folder / "dataset.json").read_text())["modes"]["training"]["time_step"] == spring.time_step
    rebuild_description(folder)
    assert json.loads((folder / "dataset.json").read_text())["modes"]["training"]["time_step"] == spring.time_step


def test_a_resumed_dataset_goes_on_with_it(tmp_path):
    for samples in (3, 6):
        dataset = physgym.generate(Still, tmp_path, samples=samples, resume=True, max_file_size=5000, **QUICK)
    assert dataset.time_step == 0.25
    np.testing.assert_array_equal(dataset.index("time"), 0.25 * np.arange(1, 7))


def test_numpy_files_keep_it(spring, tmp_path):
    export_numpy(spring, tmp_path / "e")
    assert import_numpy(tmp_path / "e", tmp_path / "d").time_step == spring.time_step


def test_without_a_declaration_the_axis_is_the_step(tmp_path):
    dataset = physgym.generate(toys.Line, tmp_path, samples=3, **QUICK)
    assert dataset.time_step is None
    assert "time_step" not in json.loads((tmp_path / "dataset.json").read_text())["modes"]["training"]
    with pytest.raises(ConfigError, match=r"the axis is index\('step'\)"):
        dataset.index("time")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_arguments_that_differ_in_it_leave_none(tmp_path, workers):
    arguments = [{"time_step": 0.1}, {"time_step": 0.2}]
    options = {**QUICK, "num_workers": workers, "num_envs": 2, "max_steps": 2}
    dataset = physgym.generate("physgym/Spring-v0", tmp_path, samples=5, env_kwargs=arguments, **options)
    assert dataset.time_step is None


def test_steps_of_different_length_are_a_field(tmp_path):
    dataset = physgym.generate(Adaptive, tmp_path, samples=5, max_steps=3, **QUICK)
    assert dataset.time_step is None
    np.testing.assert_allclose(dataset.index("time"), [0.1, 0.3, 0.5, 0.1, 0.3])
    assert dataset.index("time").dtype == np.float64


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_value_is_an_error_where_it_is_declared(value):
    with pytest.raises(ConfigError, match=r"Wrong\.time_step .* must be positive and finite, not"):
        type("Wrong", (Still,), {"time_step": value})


@pytest.mark.parametrize("value", [0, "0.1", math.nan])
def test_so_is_that_of_a_property_or_an_instance(tmp_path, value):
    wrong = type("Wrong", (Still,), {"time_step": property(lambda _: value)})
    with pytest.raises(WorkerError, match=r"Wrong\.time_step .* must be positive and finite"):
        physgym.generate(wrong, tmp_path / "d", samples=1, **QUICK)
    assert not list(tmp_path.glob("d/*.h5"))


def test_numbers_of_numpy_and_fractions_of_a_second_are_fine():
    env = type("Fine", (Still,), {"time_step": np.float32(0.5)})(simulations_per_step=4)
    assert env.step_seconds == 2.0
    env.time_step = Fraction(1, 8)
    assert env.step_seconds == 0.5


def test_a_writer_may_say_it(tmp_path):
    spec = physgym.sample.SampleSpec.from_env(Still())
    with SampleWriter(tmp_path, spec, attributes=time_attribute(0.5)) as writer:
        writer.append(
            {"x": np.zeros(2, np.float32), "y": np.zeros(2, np.float32)}, episode=[0, 0], step=[0, 3], seed=[1, 1]
        )
    np.testing.assert_array_equal(physgym.SampleDataset(tmp_path).index("time"), [0.5, 2.0])
    with pytest.raises(ConfigError, match="time_step must be positive"):
        time_attribute(0.0)
    with pytest.raises(DatasetError, match="no positive number"):
        step_seconds({"time_step": "-1"})


def test_a_record_of_a_run_has_it(tmp_path, spring):
    network = Predictor(MLP.from_spec(spring.spec, hidden=(2,)), spring.spec)
    for number, options in enumerate(({}, {"num_workers": 0}, {"surrogate": True})):
        record = tmp_path / str(number)
        with Runner("physgym/Spring-v0", network, record=record, **options) as runner:
            runner.run(2, progress=False)
        assert physgym.SampleDataset(record, mode="prediction").time_step == 0.1
    with Runner(None, network, record=tmp_path / "replay") as runner:
        runner.run(replay=spring, progress=False)
    assert physgym.SampleDataset(tmp_path / "replay", mode="prediction").time_step == spring.time_step


@pytest.mark.parametrize(
    "env_id",
    ["Spring-v0", "Heat-v0", "Burgers-v0", "BurgersStep-v0", "KuramotoSivashinsky-v0", "NavierStokes2D-v0", "Track-v0"],
)
def test_shipped_simulations_declare_it(env_id):
    env = gymnasium.make(f"physgym/{env_id}", simulations_per_step=2)
    assert env.unwrapped.step_seconds == 2 * env.unwrapped.time_step


def test_a_field_of_that_name_in_another_unit_is_not_taken_for_seconds(tmp_path):
    spec = physgym.sample.SampleSpec([physgym.sample.Field("time", (), np.dtype("f8"), "additional", "h")])
    with SampleWriter(tmp_path, spec) as writer:
        writer.append({"time": np.arange(2.0)}, episode=[0, 0], step=[0, 1], seed=[1, 1])
    with pytest.raises(ConfigError, match="is in 'h', and times are taken in s"):
        physgym.SampleDataset(tmp_path).index("time")


def test_a_field_and_a_step_that_disagree_are_refused(tmp_path):
    spec = SampleSpec([Field("time", (), np.dtype("f4"), "additional", "s"), Field("x", (), np.dtype("f4"), "input")])
    found = {}
    for name, first in (("ends", 1), ("begins", 0)):
        with SampleWriter(tmp_path / name, spec, attributes=time_attribute(0.1)) as writer:
            step = np.arange(400)
            rows = {"time": np.cumsum(np.full(400, 0.1, "f4")) - (1 - first) * np.float32(0.1), "x": np.zeros(400)}
            writer.append(rows, episode=np.zeros(400, int), step=step, seed=np.zeros(400, int))
        found[name] = physgym.SampleDataset(tmp_path / name)
    assert found["ends"].index("time")[-1] == pytest.approx(40, rel=1e-4)
    with pytest.raises(DatasetError, match=r"'time' is 0 s at the end of step 0, and with a time_step of 0\.1 s"):
        found["begins"].index("time")
