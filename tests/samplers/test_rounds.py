"""A sampler that begins again does not make up for rejected steps by its first points."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.generation.stream import SampleStream


class Steady(physgym.Simulation):
    """One step an episode: the square of a parameter; some parameters are rejected."""

    action_space = observation_space = spaces.Box(-1, 1, (), np.float32)
    parameter_space = spaces.Dict(k=spaces.Box(0, 4, (), np.float32))
    sample_space = spaces.Dict(k=spaces.Box(0, 16, (), np.float32), y=spaces.Box(0, 256, (), np.float32))
    sample_roles = {"k": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, rejected=()):
        super().__init__()
        self.rejected = rejected

    def begin(self, options):
        self.y = np.float32(0)

    def advance(self, action):
        if self.parameters["k"] in self.rejected:
            raise physgym.RejectSample("on purpose")
        self.y = np.float32(self.parameters["k"] ** 2)

    def observation(self):
        return self.y

    def sample(self):
        return {"k": self.parameters["k"], "y": self.y}

    def outcome(self):
        return 0.0, True

    def load_sample(self, sample):
        return np.float32(0)


def made(path, samples, rejected=(1.0, 4.0), **options):
    options = {"parameters": "grid:5", "num_workers": 0, "progress": False, **options}
    return physgym.generate(lambda: Steady(rejected), path, samples=samples, **options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_grid_does_not_begin_again_for_points_that_were_rejected(tmp_path, workers):
    with pytest.warns(UserWarning, match=r"5 episodes went through all points of the grid, and 2 of their 5 steps"):
        dataset = made(tmp_path / "d", 5, num_workers=workers)
    assert dataset[:]["k"].tolist() == [0, 2, 3]


def test_a_resume_does_not_either(tmp_path):
    made(tmp_path / "d", 2)
    for _ in range(2):
        with pytest.warns(UserWarning, match="points of the grid"):
            dataset = made(tmp_path / "d", 5, resume=True)
        assert dataset[:]["k"].tolist() == [0, 2, 3]


def test_more_samples_than_points_are_repeated_as_asked(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(tmp_path / "d", 6)[:]["k"].tolist() == [0, 2, 3, 0, 2, 3]
        assert made(tmp_path / "e", 5, rejected=())[:]["k"].tolist() == [0, 1, 2, 3, 4]


def test_stored_samples_are_not_loaded_again_for_those_that_were_rejected(tmp_path):
    stored = made(tmp_path / "stored", 5, rejected=())
    with pytest.warns(UserWarning, match="5 episodes went through all stored samples"):
        dataset = made(tmp_path / "d", 5, load=stored, parameters=None)
    assert dataset[:]["k"].tolist() == [0, 2, 3]


def test_a_production_that_goes_on_says_that_points_come_once_more(tmp_path):
    options = {"parameters": "grid:5", "num_workers": 0}
    with SampleStream(lambda: Steady((1.0, 4.0)), path=tmp_path / "d", **options) as stream:
        assert stream.draw(3)["k"].tolist() == [0, 2, 3]
        with pytest.warns(UserWarning, match="some of the 5 points of the grid were rejected"):
            assert stream.draw(2)["k"].tolist() == [0, 2]
        stream.draw(4)  # once is enough
    with SampleStream(lambda: Steady(()), path=tmp_path / "e", **options) as stream:
        stream.draw(10)
