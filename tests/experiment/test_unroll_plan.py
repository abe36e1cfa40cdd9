"""Unrolled trainings from configurations, and the sessions of those that are made in Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

import physgym
from physgym.data.provenance import learned_samples
from physgym.errors import ConfigError
from physgym.experiment.config import annotation_of, check_config, json_schema, load_config
from physgym.experiment.record import read_record
from physgym.experiment.runs import train
from physgym.experiment.yaml_text import read_yaml, to_yaml
from physgym.nn import MLP
from physgym.training import Trainer, list_checkpoints
from tests.support.configurations import changed_config


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unrolled") / "data"
    return physgym.generate("physgym/Spring-v0", folder, samples=60, max_steps=6, num_workers=0, progress=False)


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return np.ones(3, np.float32), np.ones(2, np.float32)


def config(folder, dataset, unroll, **changes):
    data = {
        "session": str(folder / "session"),
        "dataset": {"path": str(dataset.paths[0])},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 2, "batch_size": 16, "unroll": unroll},
        "stats": {"loggers": ["csv"]},
    }
    return changed_config(data, changes)


def test_the_key_takes_a_number_or_a_section(dataset, tmp_path):
    made = config(tmp_path, dataset, 4).training.unroll
    assert (made.steps, made.push_forward, made.noise) == (4, None, 0.0)
    whole = config(tmp_path, dataset, {"curriculum": {0: 1, 5: 3}})
    again = check_config(read_yaml(to_yaml(whole.model_dump())), "again")
    assert again.training.unroll.curriculum == {0: 1, 5: 3}
    by_text = config(tmp_path, dataset, {"curriculum": {"0": 1, "5": 3}})  # as JSON has it
    assert by_text.training.unroll == again.training.unroll
    schema = json_schema()["$defs"]["UnrollSection"]
    assert schema["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert annotation_of(["training", "unroll", "push_forward"]) is not None


def test_overrides_reach_into_it(dataset, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(f"dataset: {{path: {dataset.paths[0]}}}\n")
    for text, steps in (("training.unroll=3", 3), ("training.unroll.steps=2", 2), ("training.unroll={steps: 5}", 5)):
        assert load_config(file, [text]).training.unroll.steps == steps
    assert load_config(file, ["training.unroll={curriculum: {0: 1, 3: 2}}"]).training.unroll.curriculum == {0: 1, 3: 2}
    assert load_config(file).training.unroll is None


@pytest.mark.parametrize(
    ("unroll", "text"),
    [
        (0, "training.unroll.steps: "),
        ("four", "training.unroll: "),
        ({}, "training.unroll: say how many steps"),
        ({"stepz": 3}, "training.unroll.stepz: unknown key; did you mean"),
        ({"curriculum": {"late": 3}}, "training.unroll.curriculum"),
        ({"curriculum": {2: 3}}, "training.unroll: the curriculum begins at epoch 2"),
        ({"steps": 2, "weights": [1]}, "training.unroll: weights must be a list of 2 numbers"),
    ],
    ids=str,
)
def test_a_fault_names_its_key(dataset, tmp_path, unroll, text):
    with pytest.raises(ConfigError, match=text):
        config(tmp_path, dataset, unroll)


def test_a_configuration_is_trained_and_resumed(dataset, tmp_path):
    unroll = {"curriculum": {0: 1, 1: 3}, "noise": {"state": 0.1}, "push_forward": 2}
    whole = config(tmp_path, dataset, unroll, validation={"fraction": 0.2})
    outcome = train(whole)
    rows = (outcome.session / "stats" / "epochs.csv").read_text().splitlines()
    column = rows[0].split(",").index("unroll")
    assert [float(row.split(",")[column]) for row in rows[1:]] == [1, 3]
    record = read_record(outcome.session)["runs"][0]
    assert record["dataset"]["samples"] == 60
    assert record["results"]["unroll"] == 3
    again = load_config(outcome.session / "config.yaml", ["training.epochs=3"])
    train(again, resume=outcome.session)
    assert read_record(outcome.session)["runs"][1]["results"]["epoch"] == 3


def test_what_does_not_fit_is_refused_before_a_session_is_made(dataset, tmp_path):
    refused = {
        "training.unroll=9: a window takes 9 steps and is longer than every episode": (9, {}),
        "training.unroll=2: the network is fed": (2, {"inputs": ["force"]}),
        "training.unroll=2: the loss gets 'state'": (2, {"loss_fields": ["next_state", "state"]}),
        "training.unroll: noise names": ({"steps": 2, "noise": {"force": 1.0}}, {}),
        "training.unroll needs whole episodes": (
            2,
            {"dataset": {"produce": "online", "path": None}, "environment": {"id": "physgym/Spring-v0"}},
        ),
        "training.unroll needs samples with episodes and steps": (
            2,
            {"dataset": {"type": "tests.experiment.test_unroll_plan:Pairs", "path": None}},
        ),
    }
    for text, (unroll, changes) in refused.items():
        data = {
            "session": str(tmp_path / "session"),
            "dataset": {"path": str(dataset.paths[0])},
            "training": {"unroll": unroll},
        }
        for name, value in changes.items():
            data[name] = {**data.get(name, {}), **value} if isinstance(value, dict) else value
        with pytest.raises(ConfigError, match=text):
            train(check_config(data, "test"))
        assert not (tmp_path / "session").exists()


def test_a_training_on_windows_in_python_records_its_dataset(dataset, tmp_path):
    network = MLP.from_spec(dataset.spec, hidden=(4,))
    made = Trainer(network, dataset, epochs=1, unroll=2, session=tmp_path / "session", progress=False)
    made.fit()
    run = read_record(made.session)["runs"][0]
    assert run["dataset"]["samples"] == len(made.training.dataset)
    assert run["dataset"]["path"] == str(dataset.paths[0])
    written = yaml.safe_load((made.session / "config.yaml").read_text())
    assert written["dataset"]["path"] == str(dataset.paths[0])
    assert written["training"]["unroll"]["steps"] == 2
    assert written["environment"]["id"] == "physgym/Spring-v0"
    last = next(iter(list_checkpoints(made.session / "networks")))
    learned = learned_samples(last)
    assert learned is not None
    np.testing.assert_array_equal(learned[:]["state"], dataset[:]["state"])
