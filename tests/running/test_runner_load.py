"""Stored samples that drive a simulation beside a network."""

import numpy as np
import pytest

import physgym
from physgym.errors import ConfigError
from physgym.nn import MLP, Predictor
from physgym.runner import Runner
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


@pytest.fixture
def stored(tmp_path):
    return physgym.generate(
        "physgym/Spring-v0", tmp_path / "stored", samples=9, max_steps=3, num_workers=0, progress=False
    )


def network(dataset):
    return Predictor(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.spec)


@pytest.mark.parametrize("workers", [None, 1])
def test_stored_samples_drive_a_run_which_goes_through_them_once(tmp_path, stored, workers):
    options = {"load": stored, "record": tmp_path / "run", "num_workers": workers}
    with Runner("physgym/Spring-v0", network(stored), **options) as runner:
        assert runner.run(progress=False).steps == 9
    again = physgym.SampleDataset(tmp_path / "run", mode="prediction")
    assert "load" in again.source
    for name in stored.spec:
        assert np.array_equal(again[:][name], stored[:][name])


def test_a_longer_run_goes_on_with_shuffled_episodes(stored):
    with Runner("physgym/Spring-v0", network(stored), load=stored) as runner:
        assert runner.run(12, progress=False).steps == 12
        assert runner.last.episode == 3


def test_actions_are_those_of_the_stored_samples(stored):
    with pytest.raises(ConfigError, match="the stored samples give the actions"):
        Runner("physgym/Spring-v0", network(stored), load=stored, actions="uniform")


def test_a_runner_without_a_simulation_has_nothing_to_drive(stored):
    with pytest.raises(ConfigError, match="load= drives a simulation, and there is none"):
        Runner(None, network(stored), load=stored)
