"""Trainings of classes that a configuration names as ``module:attr``, and without what is usual."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import physgym
from physgym import cli
from physgym.errors import ConfigError, DatasetError
from physgym.experiment.networks import load_network
from physgym.experiment.runs import generate_samples, train
from physgym.nn import Normalize, registry
from physgym.training import list_checkpoints, load_checkpoint
from tests.support.configurations import changed_config
from tests.support.workers import forked_workers, fresh_workers  # noqa: F401 - fixtures of all tests here

OWN = '''
"""What a user may write."""
import gymnasium
import numpy as np
import physgym
import torch
from torch import nn
from physgym.envs.spring import Spring
from physgym.nn import Optimization, Transform, register
from physgym.samplers import Gaussian
from physgym.training import Callback

class MySpring(Spring):
    pass

class Net(nn.Module):  # not registered, and without from_spec
    def __init__(self, hidden=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 2))
    def forward(self, force, parameters, state):
        return self.layers(torch.cat([force, parameters, state], 1))

def cubed(prediction, target, scale=1.0):
    return scale * ((prediction - target).abs() ** 3).mean()

class Terms(Optimization):
    def __init__(self, network, *, weight, **options):
        super().__init__(network, **options)
        self.weight = weight
    def transform_loss(self, loss, prediction, target):
        return {"loss": loss, "size": self.weight * prediction["next_state"].abs().mean()}

@register
class Doubled(Transform):
    def forward(self, fields):
        return {name: 2 * value for name, value in fields.items()}

class Count(Callback):
    count = 0
    def __init__(self, by=1):
        self.by = by
    def batch_end(self, trainer, values):
        Count.count += self.by

def push(observation, generator):
    return np.full(1, 0.25, np.float32)

number = 3

@physgym.factory
def wrong():
    return 3

@physgym.factory
def made(hidden=4):
    return Net(hidden)

def annotated(hidden: int = 4) -> nn.Module:
    return Net(hidden)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")  # of workers
    # what the module registers, and the module, are of this test alone
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    sys.modules.pop("own_parts", None)
    yield tmp_path
    sys.modules.pop("own_parts", None)


def config(folder, **changes):
    data = {
        "session": str(folder / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"samples": 640, "num_workers": 1},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1, "batch_size": 64},
    }
    return changed_config(data, changes)


@pytest.mark.slow
def test_every_class_may_be_one_of_the_user(own):
    settings = config(
        own,
        environment={"id": "own_parts:MySpring"},
        dataset={"max_steps": 50},  # no registration limits its episodes
        sampler={"actions": "own_parts:push", "parameters": {"type": "own_parts:Gaussian", "arguments": {"mean": 0.4}}},
        network={"type": "own_parts:Net", "arguments": {"hidden": 3}},
        transforms={"before_loss": ["own_parts:Doubled"]},
        optimization={
            "type": {"type": "own_parts:Terms", "arguments": {"weight": 0.5}},
            "loss": {"type": "own_parts:cubed", "arguments": {"scale": 2.0}},
            "optimizer": {"type": "torch.optim:RMSprop", "arguments": {"alpha": 0.9}},
            "schedule": {"type": "step", "arguments": {"step_size": 1, "gamma": 0.5}},
        },
        training={"epochs": 2, "callbacks": [{"type": "own_parts:Count", "arguments": {"by": 10}}]},
    )
    outcome = train(settings)
    import own_parts

    dataset = physgym.SampleDataset(outcome.session / "dataset")
    assert dataset.source["env"] == "own_parts:MySpring"
    assert np.unique(dataset[:]["force"]) == np.float32(0.25)
    assert outcome.trainer.predictor.network.layers[0].out_features == 3
    assert own_parts.Count.count == 2 * 10 * outcome.trainer.num_batches
    assert isinstance(outcome.trainer.optimization.optimizer, torch.optim.RMSprop)
    assert outcome.trainer.optimization.optimizer.defaults["alpha"] == 0.9
    assert outcome.history["lr"] == [1e-3, 5e-4]
    assert outcome.history["size"][0] > 0

    # the network cannot be built from the checkpoint alone, but from the configuration
    loaded = load_network(settings, outcome.session)
    batch = {name: value[:5] for name, value in dataset[:].items()}
    expected = outcome.trainer.predictor.predict(batch, batched=True)["next_state"]
    np.testing.assert_array_equal(loaded.predict(batch, batched=True)["next_state"], expected)
    cli.app(["run", str(outcome.session), "--steps", "3"], standalone_mode=False)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network": {"type": "own_parts:Nett"}}, "network.type: own_parts has no 'Nett'; did you mean 'Net'?"),
        (
            {"network": {"type": "own_parts:cubed", "arguments": {}}},
            "own_parts:cubed is a function, and nothing else is called than a subclass of torch's Module",
        ),
        ({"network": {"type": "own_parts:number", "arguments": {}}}, "network.type: own_parts:number is no class, and"),
        (
            {"network": {"type": "builtins:dict", "arguments": {}}},
            "builtins:dict is the class dict, and nothing else is called",
        ),
        ({"optimization": {"loss": "own_part:cubed"}}, "optimization.loss: importing 'own_part' failed"),
        ({"optimization": {"optimizer": {"type": "sgd", "arguments": {"x": 1}}}}, "unexpected keyword argument 'x'"),
        ({"optimization": {"type": "own_parts:Terms"}}, "optimization: .*weight"),
        ({"optimization": {"type": "own_parts:Net"}}, "optimization.type: own_parts:Net is the class Net"),
        ({"optimization": {"loss": "os:system"}}, "name a function of .prediction, target."),
        (
            {"optimization": {"loss": {"type": "subprocess:run", "arguments": {"args": "touch x"}}}},
            "subprocess:run is a",
        ),
        ({"optimization": {"optimizer": "own_parts:Net"}}, "subclass of torch's Optimizer"),
        ({"optimization": {"schedule": "own_parts:Net"}}, "optimization.schedule: own_parts:Net is the class"),
        ({"network": {"type": "own_parts:wrong", "arguments": {}}}, "own_parts:wrong gives 3, which is no"),
        ({"transforms": {"before_loss": [{"type": "os:mkdir", "arguments": {"path": "x"}}]}}, "os:mkdir is a function"),
        ({"sampler": {"actions": {"type": "os:mkdir", "arguments": {"path": "x"}}}}, "function of .observation, gen"),
        ({"sampler": {"parameters": "os:getcwd"}}, "sampler.parameters: os:getcwd is a function"),
        ({"environment": {"id": "os:system"}}, "no environment 'os:system' is registered"),
        (
            {"training": {"callbacks": ["own_parts:Net"]}},
            "training.callbacks: own_parts:Net is the class Net, .* physgym's Callback",
        ),
        ({"sampler": {"actions": {"type": "lhs", "arguments": {"x": 1}}}}, "sampler.actions: .*unexpected"),
        ({"environment": {"id": "own_parts:Net"}}, "no environment 'own_parts:Net' is registered"),
        (
            {"environment": {"id": "physgym.envs.spring:SpringEnvs"}},
            "was imported: classes of environments there: Spring. Did you mean '.*spring:Spring'",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_before_anything_is_made(own, changes, text):
    with pytest.raises(ConfigError, match=text):
        train(config(own, **changes))
    assert not (own / "session").exists()


@pytest.mark.parametrize("name", ["made", "annotated"])
def test_functions_that_make_a_part_are_called(own, name):
    trainer = train(config(own, network={"type": f"own_parts:{name}", "arguments": {"hidden": 3}}), log=False).trainer
    assert trainer.predictor.network.layers[0].out_features == 3


def test_a_configuration_runs_nothing_else(own, monkeypatch):
    monkeypatch.chdir(own)
    for key in ("network", "optimization"):
        section = {"type": "os:system", "arguments": {"command": "touch run"}}
        with pytest.raises(ConfigError, match="os:system is a function"):
            train(config(own, **{key: section if key == "network" else {"type": section}}))
    assert not (own / "run").exists()


@pytest.mark.slow
def test_transforms_lie_around_a_normalization_that_has_the_moments_of_what_it_gets(own):
    plain = train(config(own))
    around = {"before_prediction": ["own_parts:Doubled"], "before_apply": ["own_parts:Doubled"]}
    outcome = train(config(own, transforms=around))
    for trainer, factor in ((plain.trainer, 1), (outcome.trainer, 2)):
        normal = next(m for m in trainer.predictor.transforms.modules() if isinstance(m, Normalize) and m.shapes)
        assert normal.fitted
        np.testing.assert_allclose(
            normal.get_buffer("mean_0"),
            factor * trainer.training.statistics[next(iter(normal.shapes))].mean,
            rtol=1e-5,
        )
    batch = {name: value[:5] for name, value in outcome.trainer.training[:].items()}
    with torch.no_grad():
        loaded = load_checkpoint(outcome.session)
        raw = loaded(loaded.tensors(batch))["next_state"]
        expected = 2 * loaded.transforms.before_apply.transforms[0]({"next_state": raw})["next_state"]
    np.testing.assert_allclose(loaded.predict(batch, batched=True)["next_state"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("section", "buffers"),
    [({"normalize": False}, 0), ({"scale": "field"}, 8), ({"scale": {"state": "field"}, "physical_loss": True}, 8)],
    ids=str,
)
def test_options_of_the_normalization(tmp_path, section, buffers):
    trainer = train(config(tmp_path, transforms=section), log=False).trainer
    found = dict(trainer.predictor.transforms.named_buffers())
    assert len(found) == buffers
    if section.get("scale") == "field":
        assert all(value.shape == () for name, value in found.items() if "scale_" in name)


def test_a_dataset_is_enough(tmp_path):
    physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=300, num_workers=1, max_steps=50, progress=False)
    physgym.generate("physgym/Spring-v0", tmp_path / "other", samples=70, seed=1, num_workers=1, progress=False)
    data = {"path": str(tmp_path / "data"), "samples": None}
    outcome = train(config(tmp_path, environment=None, dataset=data, validation={"path": str(tmp_path / "other")}))
    assert len(outcome.trainer.training) == 300
    assert len(outcome.trainer.validation) == 70
    with pytest.raises(ConfigError, match=r"environment: missing; generating samples into .*data needs the simulation"):
        train(config(tmp_path, environment=None, dataset={**data, "samples": 400}))


def test_samples_to_validate_on_that_are_not_there_leave_no_process(tmp_path):
    # no process is left: every test is looked after
    with pytest.raises(DatasetError, match="none"):
        train(config(tmp_path, dataset={"produce": "always"}, validation={"path": str(tmp_path / "none")}))


@pytest.mark.parametrize("produce", ["before", "first_epoch", "always", "online"])
def test_mini_takes_the_first_samples_of_whatever_gives_them(tmp_path, produce):
    dataset = {"produce": produce, "mini": 100, "max_steps": 10}
    if produce == "online":
        dataset["samples"] = None
    outcome = train(config(tmp_path, dataset=dataset), log=False)
    if produce in ("before", "first_epoch"):
        assert len(outcome.trainer.training) + len(outcome.trainer.validation) in (100, 128)
    assert outcome.history["samples"][-1] <= 128


@pytest.mark.slow
def test_mini_is_the_most_there_is(tmp_path):
    options = {"produce": "first_epoch", "samples": None, "mini": 100, "max_steps": 10}
    outcome = train(config(tmp_path, dataset=options, training={"batches_per_epoch": 30}), log=False)
    assert len(outcome.trainer.training) + len(outcome.trainer.validation) == 128  # whole batches
    physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=300, num_workers=1, progress=False)
    loading = {"load_samples": str(tmp_path / "data"), "samples": None, "mini": 100}
    assert len(generate_samples(config(tmp_path, dataset=loading))) == 100
    assert len(train(config(tmp_path, dataset=loading), log=False).trainer.training) == 100


def test_transforms_that_cannot_apply_are_refused(tmp_path):
    first = train(config(tmp_path))
    network = {"start_from": str(first.session), "arguments": {}}
    with pytest.raises(ConfigError, match="brings its arguments, inputs, outputs and transforms"):
        train(config(tmp_path, network=network, transforms={"normalize": False}))
    with pytest.raises(ConfigError, match=r"transforms\.scale: 'sate' is none of the fields"):
        train(config(tmp_path, transforms={"scale": {"sate": "field"}}))
    assert not (tmp_path / "session-2").exists()


@pytest.mark.slow
def test_checkpoints_may_lie_elsewhere(tmp_path):
    outcome = train(config(tmp_path, training={"checkpoints": {"path": str(tmp_path / "weights")}}))
    assert not list_checkpoints(outcome.session / "networks")
    cli.app(["run", str(outcome.session), "--steps", "2"], standalone_mode=False)
    settings = config(tmp_path, training={"epochs": 2, "checkpoints": {"path": str(tmp_path / "weights")}})
    assert train(settings, resume=outcome.session).history["epoch"] == [1, 2]


@pytest.mark.slow
def test_a_part_of_a_dataset_that_was_begun_goes_on(tmp_path):
    generate_samples(config(tmp_path, dataset={"samples": 40}), mode="validation")
    more = generate_samples(config(tmp_path, dataset={"samples": 80}), tmp_path / "session")
    assert (len(more), more.mode) == (80, "validation")
    assert not list((tmp_path / "session" / "dataset").glob("training-*"))


def test_mini_of_a_dataset_that_is_there_leaves_it_as_it_is(tmp_path, capsys):
    physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=300, num_workers=1, progress=False)
    outcome = train(config(tmp_path, dataset={"path": str(tmp_path / "data"), "mini": 100}), log=False)
    assert len(outcome.trainer.training) == 100
    assert len(physgym.SampleDataset(tmp_path / "data")) == 300
    assert "no validation: the first 100 samples are of one episode" in capsys.readouterr().err


def test_without_logging_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    outcome = train(config(tmp_path), log=False)
    assert outcome.session is None
    assert outcome.history["validation_loss"]
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_samples_are_generated_in_a_session_or_where_the_configuration_says(tmp_path):
    made = generate_samples(config(tmp_path, sampler={"parameters": "sobol"}))
    assert made.paths == [tmp_path / "session" / "dataset"]
    assert (len(made), made.source["parameters"]["sampler"]) == (640, "sobol")
    assert not list_checkpoints(tmp_path / "session" / "networks")
    there = config(tmp_path, dataset={"path": str(tmp_path / "data"), "samples": 20})
    assert len(generate_samples(there)) == 20
    more = there.model_copy(update={"dataset": there.dataset.model_copy(update={"samples": 30})})
    assert len(generate_samples(more, more=True)) == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "session"]


def test_the_stats_section_reaches_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = train(config(tmp_path, stats={"histograms": True, "charts": {"both": ["epoch/loss"]}}))
    events = EventAccumulator(str(outcome.session / "stats"), size_guidance={"histograms": 0})
    events.Reload()
    assert events.Tags()["histograms"]


def test_the_stats_section_names_loggers(tmp_path):
    from physgym.experiment.parts import build_loggers
    from physgym.training import CSV, TensorBoard

    def made(**stats):
        return build_loggers(config(tmp_path, stats=stats), tmp_path)

    [board] = made(histograms=True)
    assert (type(board), board.folder, board.histograms) == (TensorBoard, tmp_path / "stats", True)
    assert board.shown_by().startswith("tensorboard --logdir ")
    assert [type(logger) for logger in made(loggers=["csv", "tensorboard"])] == [CSV, TensorBoard]
    [board] = made(loggers=[{"type": "physgym.training:TensorBoard", "arguments": {"histograms": True}}])
    assert board.histograms
    of_a_server = {"type": "tests.support.file_tracker:FileLogger", "arguments": {"later": True}}
    [server] = made(loggers=[of_a_server], weights=2)
    assert (type(server).__name__, server._head.config["stats"]["weights"]) == ("FileLogger", 2)
    with pytest.raises(ConfigError, match=r"stats\.loggers.*did you mean 'tensorboard'"):
        made(loggers=["tensorbord"])
    with pytest.raises(ConfigError, match=r"stats\.loggers"):
        made(loggers=[])
    with pytest.raises(ConfigError, match="nothing else is called than a subclass of physgym's Logger"):
        made(loggers=["physgym.training:EarlyStopping"])


def test_a_training_may_write_tables_alone(tmp_path):
    outcome = train(config(tmp_path, stats={"loggers": ["csv"]}))
    assert (outcome.session / "stats" / "epochs.csv").read_text().startswith("epoch,time,loss,")
    assert not list(outcome.session.rglob("*tfevents*"))


@pytest.mark.slow
def test_the_runner_section_says_how_to_run(tmp_path, capsys):
    record = str(tmp_path / "record")
    outcome = train(config(tmp_path, runner={"steps": 7, "record": record, "seed": 5}))
    cli.app(["run", str(outcome.session)], standalone_mode=False)
    assert "7 steps" in capsys.readouterr().out
    assert len(physgym.SampleDataset(record, mode="prediction")) == 7
    cli.app(["run", str(outcome.session), "runner.record=null", "--steps", "3"], standalone_mode=False)
    assert "3 steps" in capsys.readouterr().out
