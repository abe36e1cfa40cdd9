"""Keys of a configuration that would count for nothing, by how samples are produced, are refused."""

from __future__ import annotations

import pytest

import physgym
from physgym.errors import ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.produced import check_produced
from physgym.experiment.runs import train

BOTH = r"dataset\.samples: 640 and training\.batches_per_epoch: 3 .*both say.*dataset\.produce: "
ONLINE = r"dataset\.online \(capacity: 64\) counts with dataset\.produce: online alone, which is "
ORDER = "is about samples that are stored before they are trained on"
REFUSED = {
    "online, samples": (
        {"dataset": {"produce": "online", "samples": 640}},
        r"dataset\.samples: 640 counts for nothing with dataset\.produce: online\. dataset\.online\.samples",
    ),
    "first_epoch, samples": (
        {"dataset": {"produce": "first_epoch", "samples": 640}, "training": {"batches_per_epoch": 3}},
        f"{BOTH}first_epoch",
    ),
    "always, samples": (
        {"dataset": {"produce": "always", "samples": 640}, "training": {"batches_per_epoch": 3}},
        f"{BOTH}always",
    ),
    "before, online": ({"dataset": {"online": {"capacity": 64}}}, f"{ONLINE}before"),
    "always, online": ({"dataset": {"produce": "always", "online": {"capacity": 64}}}, f"{ONLINE}always"),
    "always, rejected": ({"dataset": {"produce": "always", "keep_rejected": True}}, r"dataset\.keep_rejected is about"),
    "always, file size": (
        {"dataset": {"produce": "always", "max_file_size": 1000}},
        r"dataset\.max_file_size is about",
    ),
    "always, fraction": (
        {"dataset": {"produce": "always"}, "validation": {"fraction": 0.3}},
        r"validation\.fraction: 0\.3 holds out nothing with dataset\.produce: always",
    ),
    "online, shuffle": (
        {"dataset": {"produce": "online"}, "training": {"shuffle": False}},
        rf"training\.shuffle {ORDER}",
    ),
    "always, workers": (
        {"dataset": {"produce": "always"}, "training": {"loader_workers": 1}},
        rf"training\.loader_workers {ORDER}",
    ),
}
ACCEPTED = [
    {"dataset": {"samples": 640}, "training": {"batches_per_epoch": 3}},  # of the dataset so many, at most
    {"dataset": {"produce": "first_epoch", "samples": 640}},
    {"dataset": {"produce": "first_epoch", "samples": 130}, "training": {"batches_per_epoch": 3}},
    {"dataset": {"produce": "always", "samples": 192}, "training": {"batches_per_epoch": 3}},
    {"dataset": {"produce": "online", "online": {"samples": 640}}, "training": {"batches_per_epoch": 3}},
    {"dataset": {"produce": "always", "path": "data", "keep_rejected": True}},
    {"dataset": {"produce": "online", "keep_rejected": True}, "validation": {"fraction": 0}},
    {"dataset": {"produce": "first_epoch"}, "validation": {"fraction": 0.3}, "training": {"shuffle": "window"}},
]


def config(folder, dataset, training=None, **more):
    data = {
        "session": str(folder / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"num_workers": 0, **dataset},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1, "batch_size": 64, **(training or {})},
    }
    return check_config({**data, **more}, "test")


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_count_for_nothing_is_refused(name, tmp_path):
    changes, text = REFUSED[name]
    with pytest.raises(ConfigError, match=text):
        train(config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_what_counts_is_accepted(changes, tmp_path):
    check_produced(check_config(config(tmp_path, **changes).model_dump(), "as a session records it"))


def test_several_datasets_take_no_samples_to_load():
    with pytest.raises(ConfigError, match="load_samples"):
        check_config({"dataset": {"path": ["a", "b"], "load_samples": "c"}}, "test")


@pytest.mark.slow
def test_a_session_of_before_goes_on(tmp_path, monkeypatch):
    """One that was begun when such keys were left aside."""
    monkeypatch.setattr("physgym.experiment.training_plan.check_produced", lambda config: None)
    settings = config(tmp_path, {"produce": "first_epoch", "samples": 640, "max_steps": 10}, {"batches_per_epoch": 1})
    session = train(settings).session
    monkeypatch.undo()
    assert len(physgym.SampleDataset(session / "dataset")) == 64
    train(settings, resume=session)
