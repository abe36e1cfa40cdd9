"""Parts of datasets: seeds of their own, and what is said where two of them have episodes in common."""

from __future__ import annotations

import json
import warnings

import h5py
import numpy as np
import pytest

from physgym import SampleDataset, generate
from physgym.data.generate import SampleStream
from physgym.data.provenance import overlaps
from physgym.errors import ConfigError
from physgym.experiment.build import train
from physgym.experiment.config import check_config
from physgym.experiment.session import read_record
from physgym.nn import MLP
from physgym.rollout import episode_seed, part_seed
from physgym.training import Trainer
from tests import toys


def make(folder, samples=12, **more):
    return generate(toys.Line, folder, samples=samples, num_workers=1, progress=False, **more)


def test_the_seeds_of_a_part_follow_from_run_and_part():
    parts = ("training", "validation", "test", "prediction", "evaluation")
    seeds = {part: part_seed(5, part) for part in parts}
    assert seeds["training"] == 5
    assert len(set(seeds.values())) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    assert {part_seed(5, part, rule=1) for part in parts} == {5}
    # written numbers: datasets depend on them
    assert part_seed(0, "validation") == 5159804436923125699
    with pytest.raises(ConfigError, match="must be one of"):
        part_seed(5, "others")
    with pytest.raises(ConfigError, match="rule 3"):
        part_seed(5, "training", rule=3)


def test_a_part_from_before_goes_on_with_its_seeds_and_its_source(tmp_path):
    make(tmp_path / "d", 8, mode="validation", seed=3)
    file = tmp_path / "d" / "validation-00000.h5"
    old = make(tmp_path / "old", 8, seed=3)  # of training: the seeds that all parts had
    assert old.source["seeds"]["rule"] == 2
    with SampleStream(toys.Line, path=tmp_path / "d", mode="validation", seed=3, resume=True, num_workers=1) as stream:
        assert stream.source["seeds"] == {"part": "validation", "rule": 2}
    with h5py.File(file, "r+") as stored:  # as an older physgym wrote it
        source = json.loads(stored.attrs["source"])
        del source["seeds"]
        stored.attrs["source"] = json.dumps(source, sort_keys=True)
    described = json.loads((tmp_path / "d" / "dataset.json").read_text())
    del described["modes"]["validation"]["source"]["seeds"]
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(described))
    with SampleStream(toys.Line, path=tmp_path / "d", mode="validation", seed=3, resume=True, num_workers=1) as stream:
        assert "seeds" not in stream.source
        assert stream.episode_seed(7) == episode_seed(3, 7)


def test_what_two_datasets_have_in_common_is_said(tmp_path):
    training = make(tmp_path / "a", 20)
    same, other, part = (
        make(tmp_path / "b", 12), make(tmp_path / "c", 12, seed=1), make(tmp_path / "a", 12, mode="validation"),
    )  # fmt: skip
    assert "3 of the 3 episodes of the first are among those of the second" in overlaps(same, training)
    assert overlaps(other, training) == overlaps(part, training) == ""
    network = MLP.from_spec(training.spec, hidden=(4,))
    with pytest.warns(UserWarning, match="3 of the 3 episodes of the validation samples are among those of the train"):
        Trainer(network, training, validation=same, epochs=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(network, training, validation=part, epochs=1, progress=False)
    with SampleStream(toys.Line, num_workers=1) as stream, pytest.warns(UserWarning, match="that are produced"):
        Trainer(
            network, source=stream, produce="always", batches_per_epoch=1, validation=same, epochs=1, progress=False
        )


def test_parameters_that_both_drew_are_said(tmp_path):
    first, second = (
        generate(
            toys.Tuned, tmp_path / str(seed), samples=12, num_workers=1, progress=False, parameters="grid:2", seed=seed
        )
        for seed in (0, 1)
    )
    assert not set(first.index("seed").tolist()) & set(second.index("seed").tolist())
    assert "have the parameters of episodes" in overlaps(first, second)


def test_the_validation_part_validates(tmp_path):
    folder = tmp_path / "d"
    make(folder, 20)
    make(folder, 12, mode="validation")
    data = {
        "session": str(tmp_path / "s"),
        "dataset": {"path": str(folder), "samples": None},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1},
    }
    validating = SampleDataset(folder, mode="validation")
    for validation in ({}, {"path": str(folder)}):
        outcome = train(check_config({**data, "validation": validation}, "the test"))
        np.testing.assert_array_equal(outcome.trainer.validation.index("seed"), validating.index("seed"))
        assert len(outcome.trainer.training) == 20
        run = read_record(outcome.session)["runs"][0]
        assert run["others"]["validation"]["hash"] != run["dataset"]["hash"]
    outcome = train(check_config({**data, "validation": {"fraction": 0}}, "the test"))
    assert outcome.trainer.validation is None


def test_the_two_sides_of_a_split_have_nothing_in_common(tmp_path):
    dataset = generate(
        toys.Tuned, tmp_path / "d", samples=40, num_workers=1, progress=False, parameters="sobol", max_steps=4
    )
    training, validation = dataset.split(0.3, seed=0)
    assert overlaps(validation, training) == ""
