"""Episodes of datasets that were merged: replayed, loaded and compared under the names and arguments that they had."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from physgym import SampleDataset, generate
from physgym.data import surgery
from physgym.data.provenance import overlaps
from physgym.errors import DatasetError
from physgym.nn import Predictor
from physgym.runner import Runner
from physgym.vector import vector_env
from tests.support.gains import Gain
from tests.support.workers import forked_workers, forking  # noqa: F401 - a fixture of all tests here

pytestmark = pytest.mark.slow  # two generations
GAINS = [{"gain": 1.0}, {"gain": 3.0}]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Return a folder with datasets of one and of two gains, and that of both, whose second episodes begin at 3."""
    folder = tmp_path_factory.mktemp("merged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_env, "launcher_of", forking)
        for name, kwargs, seed in (("one", {"gain": 2.0}, 1), ("two", GAINS, 2)):
            options = {"samples": 9, "num_workers": 1, "num_envs": 1, "progress": False, "actions": "sobol"}
            generate(Gain, folder / name, env_kwargs=kwargs, seed=seed, **options)
        surgery.merge([folder / "one", folder / "two"], folder / "both")
    return folder


def test_merged_episodes_are_replayed_with_their_own_seeds_and_arguments(merged):
    dataset = SampleDataset(merged / "both")
    assert dataset[:]["gain"].tolist() == [2.0] * 9 + [1.0] * 3 + [3.0] * 3 + [1.0] * 3
    assert dataset.source["env_kwargs"] == [{"gain": 2.0}, {"gain": 1.0}, {"gain": 3.0}]
    with Runner(Gain, Predictor(nn.Identity(), dataset.spec), env_kwargs=dataset.source["env_kwargs"]) as runner:
        assert runner.run(replay=dataset, solver=True, progress=False).steps == 18  # each compared to the bit
    with (
        Runner(Gain, Predictor(nn.Identity(), dataset.spec), env_kwargs=[{"gain": 1.0}, {"gain": 2.0}, {}]) as runner,
        pytest.raises(DatasetError, match="the simulation gives another 'y'"),
    ):
        runner.run(replay=dataset, solver=True, progress=False)


def test_a_merged_episode_is_known_as_the_one_that_it_was(merged):
    both, two = SampleDataset(merged / "both"), SampleDataset(merged / "two")
    assert overlaps(two, both).startswith("3 of the 3 episodes of the first are among those of the second")
    kept = surgery.filter(merged / "both", "gain == 3", merged / "three").open()
    assert overlaps(kept, two).startswith("1 of the 1 episodes of the first")


def test_merged_episodes_are_loaded_with_their_arguments_and_not_continued(merged, tmp_path):
    dataset = SampleDataset(merged / "both")
    options = {"env_kwargs": dataset.source["env_kwargs"], "num_workers": 1, "progress": False}
    again = generate(Gain, tmp_path / "again", load=dataset, **options)
    np.testing.assert_array_equal(again[:]["gain"], dataset[:]["gain"])
    with pytest.raises(DatasetError, match="cannot be continued"):
        generate(Gain, merged / "both", samples=30, resume=True, seed=1, **options)
