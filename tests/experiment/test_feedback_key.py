"""`dataset.feedback` of a configuration: what feeds what, where the samples do not say it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from physgym import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment.config import check_config
from physgym.experiment.dataset_plan import open_dataset
from physgym.experiment.networks import network_of
from physgym.experiment.runs import check, train
from physgym.experiment.training_plan import TrainingPlan
from physgym.sample import Field, SampleSpec
from physgym.training import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*is declared to be:UserWarning")  # random rows do not follow

F4 = np.dtype("f4")
FIELDS = [
    Field("state", (2,), F4, "input"),
    Field("push", (2,), F4, "input"),
    Field("next_state", (2,), F4, "target"),
]


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """Four episodes of five samples that declare nothing."""
    path, rows = tmp_path_factory.mktemp("silent") / "data", np.arange(20)
    values = np.random.default_rng(0).standard_normal((20, 2)).astype("f4")
    with SampleWriter(path, SampleSpec(FIELDS)) as writer:
        batch = {"state": values, "push": values, "next_state": 2 * values}
        writer.append(batch, episode=rows // 5, step=rows % 5, seed=(rows // 5).astype("u8"))
    return path


def config(folder, feedback=None, **dataset):
    return check_config(
        {
            "session": str(folder / "session"),
            "dataset": {"feedback": feedback, **dataset},
            "network": {"arguments": {"hidden": [4]}},
            "training": {"epochs": 1, "batch_size": 8},
        },
        "test",
    )


@pytest.mark.parametrize("declared", ["next_state -> state", ["next_state -> state"], {"next_state": "state"}])
def test_what_is_declared_is_that_of_the_dataset_the_network_and_its_checkpoint(declared, silent, tmp_path):
    made = config(tmp_path, declared, path=str(silent))
    assert SampleDataset(silent).feedback == {}
    dataset = open_dataset(made, silent)
    assert dataset.feedback == {"next_state": "state"}
    assert dataset.windows(2, 2).spec["push"].shape == (3, 2)  # the input that nothing feeds
    outcome = train(made)
    assert outcome.trainer.training.feedback == {"next_state": "state"}
    assert outcome.trainer.validation.feedback == {"next_state": "state"}
    assert load_checkpoint(outcome.session).feedback == {"next_state": "state"}
    assert SampleDataset(silent).feedback == {}  # what is stored stays as it was


def test_without_the_key_the_samples_say_it(tmp_path):
    spring = check_config({"environment": {"id": "physgym/Spring-v0"}, "session": str(tmp_path)}, "test")
    assert TrainingPlan(spring, None, ()).predictor().feedback == {"next_state": "state"}
    once = spring.model_copy(update={"dataset": spring.dataset.model_copy(update={"feedback": "state"})})
    with pytest.raises(ConfigError, match=r"dataset\.sample_feedback says that 'state' is stored once, but there is"):
        check(once)


def test_the_samples_of_a_source_have_it_too(tmp_path):
    data = {"samples": 32, "num_workers": 0, "produce": "always", "feedback": []}
    made = check_config(
        {
            "session": str(tmp_path / "session"),
            "environment": {"id": "physgym/Spring-v0"},
            "dataset": data,
            "network": {"arguments": {"hidden": [4]}},
            "training": {"epochs": 1, "batch_size": 8},
        },
        "test",
    )
    outcome = train(made, log=False)
    assert outcome.trainer.source.spec.feedback == {}  # the simulation's own declaration does not hold


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("a -> b -> c", "'a -> b -> c' is neither 'output -> input' nor the name of one field"),
        (["state", "state"], "says twice what 'state' feeds"),
        (3, "dataset.feedback"),
    ],
)
def test_a_wrong_form_is_an_error_of_the_configuration(declared, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, declared, path="data")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("next_stat -> state", r"dataset\.feedback names \['next_stat'\], which are no fields; there are \['state'"),
        ("state -> next_state", "a target feeds an input"),
    ],
)
def test_fields_that_do_not_fit_are_said_before_anything_is_written(declared, message, silent, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path, declared, path=str(silent)))
    assert not (tmp_path / "session").exists()


def test_samples_of_ones_own_feed_nothing_back(tmp_path):
    with pytest.raises(PhysGymError, match=r"samples of your own \(type\) have no episodes"):
        config(tmp_path, "state", type="module:Data")


def changing(folder, silent, **training):
    made = config(folder, "next_state -> state", path=str(silent)).model_dump()
    made["training"] |= {"predict": "change", "epochs": 2, **training}
    return made


def test_a_configured_network_predicts_changes_everywhere(silent, tmp_path):
    outcome = train(check_config(changing(tmp_path, silent), "test"))
    rows = outcome.trainer.training[:]
    changes = outcome.trainer.predictor.changes
    difference = rows["next_state"] - rows["state"]
    np.testing.assert_allclose(changes.scale_0, np.sqrt((difference**2).mean(0)), rtol=1e-5)
    for loaded in (load_checkpoint(outcome.session), network_of(outcome.session)):
        found = loaded.predict(rows, batched=True)["next_state"]
        np.testing.assert_array_equal(found, outcome.trainer.predictor.predict(rows, batched=True)["next_state"])
    onward = check_config(changing(tmp_path, silent, epochs=3), "test")
    again = train(onward, resume=outcome.session)
    whole = train(check_config(changing(tmp_path / "whole", silent, epochs=3), "test"))
    for name, value in whole.trainer.predictor.state_dict().items():
        assert torch.equal(again.trainer.predictor.state_dict()[name], value), name
    further = changing(tmp_path / "further", silent)
    further["network"] = {"start_from": str(outcome.session)}
    kept = train(check_config(further, "test")).trainer.predictor.changes
    assert torch.equal(kept.scale_0, changes.scale_0)


def test_a_loss_in_physical_units(silent, tmp_path):
    made = changing(tmp_path, silent)
    made["transforms"] = {"physical_loss": True, "scale": {"next_state": "field"}}
    trainer = train(check_config(made, "test"), log=False).trainer
    rows = trainer.training[:]
    assert trainer.predictor.changes.scale_0.shape == ()
    predicted = trainer.predictor.predict(rows, batched=True)["next_state"]
    expected = np.mean((predicted - rows["next_state"]) ** 2)
    np.testing.assert_allclose(trainer.evaluate(trainer.training)["loss"], expected, rtol=1e-5)


def test_changes_that_are_none_are_said(silent, tmp_path):
    made = changing(tmp_path, silent)
    made["dataset"]["feedback"] = None
    with pytest.raises(ConfigError, match=r"training\.predict: .*none of \['next_state'\] is one: declare it"):
        check(check_config(made, "test"))
    values = train(config(tmp_path, "next_state -> state", path=str(silent)))
    made = changing(tmp_path / "further", silent)
    made["network"] = {"start_from": str(values.session)}
    with pytest.raises(ConfigError, match=r"training\.predict: change, and the network of .* predicts values"):
        check(check_config(made, "test"))
