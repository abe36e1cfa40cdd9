"""Values that a simulation gives once per dataset, and stored samples inside of its steps."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.formats.numpy_arrays import export_numpy, import_numpy
from physgym.nn import MLP, Predictor
from physgym.runner import Runner


class Meshed(physgym.Simulation):
    """Has a mesh; moves its nodes by an action."""

    action_space = observation_space = spaces.Box(-1, 1, (3,), np.float32)
    sample_space = spaces.Dict(x=action_space)
    sample_roles = {"x": "input"}  # noqa: RUF012

    def __init__(self, size=1.0, per_env=False):
        super().__init__()
        self.size, self.per_env = size, per_env

    def constants(self):
        size = self.size + (self.env_index if self.per_env else 0)
        return {"mesh/nodes": np.arange(3) * size, "density": 7850.0}

    def begin(self, options):
        self.state = np.zeros(3, np.float32)

    def advance(self, action):
        self.state = action

    def observation(self):
        return self.state

    def sample(self):
        return {"x": self.state}


def made(env, path, **options):
    return physgym.generate(env, path, **{"samples": 4, "num_workers": 0, "progress": False, **options})


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_constants_are_stored_once_and_are_equal_in_every_run(tmp_path, workers):
    dataset = made(Meshed, tmp_path / "d", num_workers=workers, num_envs=2)
    assert np.array_equal(dataset.constants["mesh/nodes"], [0.0, 1.0, 2.0])
    assert dataset.constants["density"] == 7850
    assert set(made(Meshed, tmp_path / "d", samples=9, resume=True).constants) == {"mesh/nodes", "density"}
    made(Meshed, tmp_path / "d", mode="validation")
    with pytest.raises(DatasetError, match=r"differ in \['mesh/nodes'\]"):
        made(lambda: Meshed(2.0), tmp_path / "d", mode="prediction")


def test_constants_that_vanish_are_an_error_too(tmp_path):
    made(Meshed, tmp_path / "d")
    with pytest.raises(DatasetError, match="differ in"):
        made("physgym/Spring-v0", tmp_path / "d", mode="validation")


def test_constants_that_differ_between_environments_are_an_error_before_the_first_sample(tmp_path):
    with pytest.raises(SampleError, match=r"environment 1 has other constants than environment 0: \['mesh/nodes'\]"):
        made(lambda: Meshed(per_env=True), tmp_path / "d", num_envs=2)


class Plain(gym.Wrapper):
    """A plain environment that follows the convention, maybe wrongly."""

    def __init__(self, given):
        super().__init__(physgym.RecordTransition(gym.make("CartPole-v1")))
        self.given = given

    def constants(self):
        return self.given


def test_a_plain_environment_has_them_too(tmp_path):
    assert np.array_equal(made(lambda: Plain({"gravity": 9.8}), tmp_path / "d").constants["gravity"], 9.8)


def test_what_is_no_mapping_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"gives a list; it must be a method that returns arrays by name"):
        made(lambda: Plain([1, 2]), tmp_path / "d")


def test_without_constants_there_are_none(tmp_path):
    dataset = made("physgym/Spring-v0", tmp_path / "d")
    assert dataset.constants == {}
    assert not list((tmp_path / "d").glob("constants*"))


class Reading(Meshed):
    """Each step adds a stored sample: the one of its own number."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.stored = None

    def begin(self, options):
        super().begin(options)
        self.stored = self.stored or physgym.SampleDataset(self.path)
        self.step_number = 0

    def advance(self, action):
        self.state = np.asarray(self.stored[self.step_number]["x"])
        self.step_number += 1


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_step_reads_stored_samples(tmp_path, workers):
    stored = made(Meshed, tmp_path / "stored", samples=10)
    dataset = made(Reading, tmp_path / "d", env_kwargs={"path": str(tmp_path / "stored")}, num_workers=workers)
    assert np.array_equal(dataset[:]["x"], stored[:4]["x"])


class Answering(Meshed):
    """The same, with something to predict."""

    sample_space = spaces.Dict(x=Meshed.action_space, y=Meshed.action_space)
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def sample(self):
        return {"x": self.state, "y": 2 * self.state}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}])
def test_the_record_of_a_run_has_the_constants_too(tmp_path, workers):
    dataset = made(Answering, tmp_path / "d")
    predictor = Predictor(MLP.from_spec(dataset.spec, hidden=()), dataset.spec)
    with Runner(Answering, predictor, max_steps=2, record=tmp_path / "run", **workers) as runner:
        runner.run(3, progress=False)
    with Runner(None, predictor, record=tmp_path / "replay") as runner:
        runner.run(replay=dataset, progress=False)
    for name in ("run", "replay"):
        found = physgym.SampleDataset(tmp_path / name, mode="prediction").constants
        assert set(found) == {"mesh/nodes", "density"}
        assert np.array_equal(found["mesh/nodes"], dataset.constants["mesh/nodes"])


@pytest.mark.parametrize("out", ["plain", "plain.npz"])
def test_constants_and_endings_go_through_plain_files(tmp_path, out):
    dataset = made(Meshed, tmp_path / "d", samples=7, max_steps=3)
    export_numpy(dataset, tmp_path / out)
    again = import_numpy(tmp_path / out, tmp_path / "again")
    assert again.endings == dataset.endings == {0: "cut", 1: "cut", 2: "unfinished"}
    assert again.lengths == dataset.lengths == {0: 3, 1: 3}
    assert again.constants.keys() == dataset.constants.keys()
    assert np.array_equal(again.constants["mesh/nodes"], dataset.constants["mesh/nodes"])
    assert list(again.spec) == ["x"]
