"""Trainings that go on: with more epochs, from the network of a session, with classes and simulations of one's own."""

from __future__ import annotations

import re
import shlex
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import physgym
from physgym import cli
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment.config import load_config
from physgym.experiment.dataset_plan import shared_dataset
from physgym.experiment.networks import load_network, trained_network
from physgym.experiment.runs import check, generate_samples, train
from physgym.experiment.session import CONFIG
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Transform
from physgym.training import Callback, Trainer, list_checkpoints, load_checkpoint
from tests.support.configurations import changed_config
from tests.support.repositories import ignoring


def config(folder, **changes):
    data = {
        "session": str(folder / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"samples": 64, "num_workers": 0, "max_steps": 8},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 2, "batch_size": 32},
    }
    return changed_config(data, changes)


def call(*arguments):
    return cli.app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def place(tmp_path, monkeypatch, identity):
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- more epochs


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["plateau", "step", "exponential"])
def test_schedules_that_span_nothing_allow_more_epochs(place, schedule):
    first = train(config(place, optimization={"schedule": schedule}))
    call("resume", first.session, "training.epochs=3")
    again = train(
        config(place, session=str(place / "whole"), optimization={"schedule": schedule}, training={"epochs": 3})
    )
    ours, theirs = (load_checkpoint(session) for session in (first.session, again.session))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("schedule", "rates"), [("step", [1, 1, 1, 1, 1, 0.5, 0.5]), ("exponential", [1, 0.95, 0.9025])]
)
def test_schedules_work_as_they_are_listed(place, schedule, rates):
    training = {"epochs": len(rates), "batches_per_epoch": 1}
    made = config(place, optimization={"schedule": schedule, "lr": 1.0}, training=training)
    np.testing.assert_allclose(train(made, log=False).history["lr"], rates)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_advice_for_schedules_over_all_epochs_works_as_it_is_printed(place, schedule):
    """Whatever the session's configuration has that a trained network brings along itself."""
    made = config(
        place,
        optimization={"schedule": schedule},
        inputs=["state"],
        outputs=["next_state"],
        transforms={"scale": "field"},
    )
    first = train(made)
    with pytest.raises(ConfigError, match="spans the 2 epochs") as refused:
        call("resume", first.session, "training.epochs=5")
    advice = re.search(r"physgym (train .*)$", str(refused.value))[1]
    call(*shlex.split(advice))
    (second,) = [path for path in place.iterdir() if path.name.startswith("session-")]
    stored = load_config(second / CONFIG)
    assert stored.training.epochs == 3
    assert stored.network.start_from == str(first.session)
    assert not (second / "dataset").exists()  # it trains on the same samples
    assert load_checkpoint(second).inputs == ("state",)


@pytest.mark.slow
def test_a_cosine_with_a_length_of_its_own_may_go_on(place):
    schedule = {"type": "cosine", "arguments": {"T_max": 100}}
    first = train(config(place, optimization={"schedule": schedule}))
    call("resume", first.session, "training.epochs=3")
    assert list(list_checkpoints(first.session / "networks").values())[-1]["epoch"] == 3


# --- classes of one's own


class Net(nn.Module):
    """Is not registered, and has no description."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, force, parameters, state):
        return self.layers(torch.cat([force, parameters, state], 1))


class Scale(Transform):
    """Likewise."""

    def forward(self, fields):
        return {name: 2.0 * value for name, value in fields.items()}


@pytest.mark.slow
def test_a_configuration_continues_from_a_session_with_classes_of_ones_own(place):
    own = {"type": "tests.experiment.test_further:Net", "arguments": {"width": 5}}
    before = {"before_prediction": ["tests.experiment.test_further:Scale"]}
    first = train(config(place, network=own, transforms=before))
    # in a configuration, by session, folder of checkpoints or checkpoint
    for number, path in enumerate((first.session, first.session / "networks", first.session / "networks/epoch-0002")):
        network = {"start_from": str(path), "arguments": {}}
        made = train(config(place, session=str(place / f"further-{number}"), network=network))
        assert isinstance(made.trainer.predictor.network, Net)
        around = made.trainer.predictor.transforms.before_prediction.modules()
        assert any(isinstance(part, Scale) for part in around)
    # and from that one on
    network = {"start_from": str(made.session), "arguments": {}}
    third = train(config(place, session=str(place / "third"), network=network))
    assert isinstance(load_network(load_config(third.session / CONFIG), third.session).network, Net)


class Controller(nn.Module):
    """From an observation to an action."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.slow
def test_actions_come_from_a_network_of_ones_own(place):
    made = {"environment": {"id": "tests.experiment.test_further:Asking"}}
    first = train(config(place, network={"type": "tests.experiment.test_further:Controller", "arguments": {}}, **made))
    second = train(config(place, session=str(place / "b"), sampler={"actions": f"network:{first.session}"}, **made))
    source = physgym.SampleDataset(second.session / "dataset").source
    assert source["actions"]["sampler"] == "network"
    assert len(source["actions"]["weights"]) == 64


# --- which network is run


@pytest.mark.slow
def test_after_early_stopping_the_best_network_is_run(place):
    stopping = {"early_stopping": {"patience": 1, "min_delta": 1e9}, "epochs": 5}
    stopped = train(config(place, training=stopping, optimization={"lr": 0.5}))
    assert stopped.history.stopped
    best = trained_network(stopped.session, "best")
    chosen = load_network(load_config(stopped.session / CONFIG), stopped.session)
    for name, value in best.state_dict().items():
        assert torch.equal(chosen.state_dict()[name], value)
    plain = train(config(place, session=str(place / "plain"), optimization={"lr": 0.5}))
    last = trained_network(plain.session, "last")
    chosen = load_network(load_config(plain.session / CONFIG), plain.session)
    for name, value in last.state_dict().items():
        assert torch.equal(chosen.state_dict()[name], value)


@pytest.mark.slow
def test_the_best_is_that_which_early_stopping_looks_at(place):
    stopping = {"monitor": "samples", "patience": 9, "mode": "max"}
    made = train(config(place, training={"early_stopping": stopping}))
    scores = [manifest["score"] for manifest in list_checkpoints(made.session / "networks").values()]
    assert set(scores) == {-made.history["samples"][0]}
    monitor = {"checkpoints": {"monitor": "loss", "keep": None}, "early_stopping": stopping}
    made = train(config(place, session=str(place / "b"), training=monitor))
    scores = [manifest["score"] for manifest in list_checkpoints(made.session / "networks").values()]
    assert scores == made.history["loss"]


# --- what is watched


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training": {"early_stopping": {"monitor": "validation_los"}}}, "watches 'validation_los'"),
        (
            {"training": {"checkpoints": {"monitor": "rollout_error"}}},
            "Checkpoints watches 'rollout_error'.*no rollout",
        ),
        (
            {"training": {"early_stopping": {}}, "dataset": {"produce": "always"}},
            "EarlyStopping watches 'validation_loss'.* There is no validation",
        ),
        (
            {"training": {"early_stopping": {}}, "dataset": {"produce": "online", "samples": None}},
            "EarlyStopping watches 'validation_loss'.*'online_waiting'.* There is no validation",
        ),
        (
            {
                "training": {"early_stopping": {"monitor": "rollout_relative_l2/nextstate"}},
                "validation": {"rollout": {"steps": 2}},
            },
            "'rollout_latency_ms', 'rollout_relative_l2/next_state'",
        ),
        ({"network": {"type": "tests.experiment.test_further:Counts", "arguments": {}}}, "get_extra_state"),
    ],
    ids=str,
)
def test_what_never_comes_or_cannot_be_kept_is_said_before_there_is_a_session(place, changes, text):
    with pytest.raises(physgym.errors.PhysGymError, match=text):
        train(config(place, **changes))
    assert not (place / "session").exists()


class Counts(Net):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


def test_a_metric_of_a_search_that_no_epoch_gives(place):
    with pytest.raises(ConfigError, match="watches 'validation_mse'"):
        check(config(place), "validation_mse")
    check(config(place), "validation_loss")


# --- simulations that ask the network


class Asking(physgym.Simulation):
    """Takes the network's guess of what it computes into account, and notes it."""

    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=action_space, guess=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    sample_roles: ClassVar = {"x": "input", "y": "target", "guess": "additional"}

    def begin(self, options):
        self.x = self.guess = np.zeros(2, np.float32)

    def advance(self, action):
        self.x = action
        self.guess = self.predict({"x": action})["y"]

    def observation(self):
        return self.x

    def sample(self):
        return {"x": self.x, "y": 0.5 * self.x, "guess": self.guess}


def asking(folder, **changes):
    environment = {"id": "tests.experiment.test_further:Asking"}
    return config(folder, environment=environment, network={"arguments": {"hidden": []}}, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("produce", ["before", "first_epoch"])
def test_before_the_training_the_network_answers_as_it_begins(place, produce, workers):
    made = asking(place, dataset={"produce": produce, "num_workers": workers}, optimization={"lr": 0.1})
    outcome = train(made)
    samples = physgym.SampleDataset(outcome.session / "dataset")[:]
    torch.manual_seed(made.seed)
    spec = physgym.SampleDataset(outcome.session / "dataset").spec
    untrained = MLP.from_spec(spec, inputs=["x"], outputs=["y"], hidden=())
    with torch.no_grad():
        want = untrained(torch.from_numpy(samples["x"]))
    np.testing.assert_allclose(samples["guess"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_without_a_training_the_network_answers_as_one_would_begin(place):
    changes = {"dataset": {"num_workers": 0, "samples": 20, "max_steps": 10}}
    trained = train(asking(place, **changes))
    want = physgym.SampleDataset(trained.session / "dataset")[:]["guess"]
    assert np.abs(want).max() > 0
    generated = generate_samples(asking(place, session=str(place / "apart"), **changes))
    shared = shared_dataset(asking(place, **changes), place / "shared")
    for dataset in (generated, shared):
        assert np.array_equal(dataset[:]["guess"], want)
    wrong = asking(place, session=str(place / "wrong"), **changes).model_copy(update={"outputs": ["z"]})
    with pytest.raises(PhysGymError, match="outputs names 'z', which the samples lack"):
        generate_samples(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["always", "online"])
def test_while_it_trains_the_network_answers_as_the_epoch_began(place, produce):
    dataset = {"produce": produce, "path": str(place / "data"), "samples": None}
    if produce == "online":
        dataset |= {"online": {"capacity": 64, "minimum": 8}}
    training = {"epochs": 6, "batch_size": 8, "batches_per_epoch": 12}
    outcome = train(
        asking(place, dataset=dataset, training=training, optimization={"lr": 0.1}, validation={"fraction": 0.0})
    )
    samples = physgym.SampleDataset(place / "data")[:]
    errors = np.abs(samples["guess"] - samples["y"]).mean(1)
    assert errors[-50:].mean() < 0.5 * errors[:10].mean()  # it has learned meanwhile
    assert outcome.history["loss"][-1] < outcome.history["loss"][0]


def test_a_trainer_answers_its_source_unless_that_has_a_predictor_of_its_own():
    class Note(Callback):
        adds = ()

        def __init__(self):
            self.seen = []

        def epoch_begin(self, trainer):
            self.seen.append({name: value.clone() for name, value in trainer.predictor.state_dict().items()})

    stream = SampleStream(Asking, num_workers=0, max_steps=5)
    torch.manual_seed(0)
    network = MLP.from_spec(stream.spec, hidden=())
    note = Note()
    options = {"produce": "always", "batches_per_epoch": 2, "batch_size": 4, "epochs": 2, "progress": False}
    Trainer(network, source=stream, callbacks=[note], **options).fit()
    answering = stream.predictor._predictor.state_dict()
    assert all(torch.equal(answering[name], value) for name, value in note.seen[-1].items())
    assert any(not torch.equal(note.seen[0][name], value) for name, value in note.seen[-1].items())
    stream = SampleStream(Asking, num_workers=0, max_steps=5, predictor=lambda batch: {"y": batch["x"] * 0 + 7})
    drawn = stream.draw(3)
    assert (drawn["guess"] == 7).all()
    Trainer(network, source=stream, **options).fit()
    assert callable(stream.predictor)
