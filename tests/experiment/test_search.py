"""Searches: the section and its faults, what Optuna is told and asked, kills, Ctrl-C, and what the session holds."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import sys
import time
from collections import deque
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from physgym import cli
from physgym.errors import ConfigError, DivergedError, WorkerError, needs
from physgym.experiment.config import check_config, load_config
from physgym.experiment.provenance import Origin
from physgym.experiment.record import read_config, read_record, state
from physgym.experiment.reproduce import reproduce
from physgym.experiment.runs import train
from physgym.experiment.search import pool as pools
from physgym.experiment.search import study as searching
from physgym.experiment.search import worker as working
from physgym.experiment.search.cluster import Cluster
from physgym.experiment.search.pool import Processes, environments
from physgym.experiment.search.report import table_of, write_plots
from physgym.experiment.search.section import NEW_TRIALS, PRUNED, SearchSection
from physgym.experiment.search.space import Space
from physgym.experiment.search.study import resume_search, search
from physgym.factories import factory
from physgym.runner import Runner
from physgym.training import load_checkpoint
from tests.support.commands import Command
from tests.support.configurations import changed_config
from tests.support.processes import not_ended
from tests.support.repositories import commit
from tests.support.stand_in_ray import stand_in

LR = {"low": 1e-4, "high": 1e-1, "log": True}
EXAMPLE = Path(__file__).parents[2] / "examples" / "search.yaml"
CHECK_POINTS = searching._check_points
GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "hyperparameters.md"
PATIENCE = 100.0  # seconds, of a machine that others use too


def config(folder, parameters=None, **section):
    parameters = {"optimization.lr": LR} if parameters is None else parameters
    data = {
        "session": str(folder / "search"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"samples": 320, "max_steps": 20, "num_workers": 1},
        "network": {"arguments": {"hidden": [8]}},
        "training": {"epochs": 3, "batch_size": 64},
        "search": {"parameters": parameters, "trials": 4, **section},
    }
    return changed_config(data, data["search"].pop("changes", {}))


def rows_of(session):
    with (Path(session) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- the section


def test_parameters_are_ranges_or_choices_and_resolve_to_configurations(tmp_path):
    parameters = {
        "optimization.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "training.batch_size": {"low": 16, "high": 64, "step": 16},
        "network.arguments.hidden": {"choices": [[8], [8, 8]]},
        "network.arguments.dropout": {"low": 0.0, "high": 0.5},
        "optimization.optimizer": {"choices": ["adam", {"type": "sgd", "arguments": {"momentum": 0.9}}]},
        "training.early_stopping.patience": {"low": 1, "high": 3},
    }
    space = Space(config(tmp_path, parameters))
    kinds = {key: type(of).__name__ for key, of in space.distributions().items()}
    assert kinds == {
        "optimization.lr": "FloatDistribution",
        "training.batch_size": "IntDistribution",
        "network.arguments.hidden": "CategoricalDistribution",
        "network.arguments.dropout": "FloatDistribution",
        "optimization.optimizer": "CategoricalDistribution",
        "training.early_stopping.patience": "IntDistribution",
    }
    drawn = {"network.arguments.hidden": "[8, 8]", "optimization.optimizer": '"adam"', "training.batch_size": 32}
    values = space.values({**drawn, "training.early_stopping.patience": 2, "network.arguments.dropout": 0.25})
    trial = space.config(values, session="s/trials/0000")
    assert trial.network.arguments == {"hidden": [8, 8], "dropout": 0.25}
    assert (trial.training.batch_size, trial.training.early_stopping.patience) == (32, 2)
    assert (trial.session, trial.search, trial.optimization.optimizer.type) == ("s/trials/0000", None, "adam")
    assert space.config({"optimization.optimizer": {"type": "sgd"}}).optimization.optimizer.type == "sgd"


def test_overrides_change_a_range(tmp_path):
    file = tmp_path / "search.yaml"
    data = {"environment": {"id": "physgym/Spring-v0"}, "search": {"parameters": {"optimization.lr": LR}}}
    file.write_text(yaml.safe_dump(data))
    found = load_config(file, ["search.parameters.optimization.lr.high=0.5", "search.trials=7"]).search
    assert found.parameters["optimization.lr"].model_dump() == {**LR, "high": 0.5, "step": None, "choices": None}
    assert found.trials == 7


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"optimization.lr": {"low": 1e-2, "high": 1e-4}}, r"optimization\.lr: low must be less than high"),
        ({"optimization.lr": {"low": 0, "high": 1, "log": True}}, "logarithmic scale begins above 0, but low is 0"),
        ({"optimization.lr": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, "has no steps"),
        ({"optimization.lr": {"low": 0.1}}, "needs low and high, or choices"),
        ({"optimization.lr": {"low": 0.1, "high": 1, "choices": [1]}}, "not both"),
        ({"optimization.lr": {"low": "a", "high": 1}}, r"lr\.low: must be a number \(got 'a'\)"),
        ({"optimization.lr": {"low": True, "high": 2}}, "must be a number"),
        ({"optimization.lr": {"lo": 1, "high": 2}}, r"lr\.lo: unknown key; did you mean 'low'"),
        ({"optimization.lr": {"choices": []}}, "choices is empty"),
        ({"optimization.lr": {"choices": [0.1, 0.2, 0.1]}}, r"choices has 0\.1 more than once"),
        ({"training.batch_size": {"low": 16, "high": 250, "step": 16}}, "to 240 and 256, not to high, 250"),
        ({"training.batch_size": {"low": 16, "high": 32, "step": -1}}, "step: .* greater than 0"),
        ({}, "parameters: empty; say what to search"),
    ],
    ids=str,
)
def test_ranges_that_are_none(tmp_path, parameters, text):
    with pytest.raises(ConfigError, match=text):
        config(tmp_path, parameters)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"optimization.rl": LR}, r"parameters\.optimization\.rl: unknown key; did you mean 'lr'"),
        ({"training.lr": LR}, "did you mean 'optimization.lr'"),
        ({"training.epochs.x": LR}, r"parameters\.training\.epochs\.x: 'epochs' is a value, not a section"),
        ({"training.checkpoints.path": {"choices": ["a", "b"]}}, "no training depends on it"),
        ({"session": {"choices": ["a", "b"]}}, "no training depends on it"),
        ({"training.batch_size": {"low": 0.5, "high": 8.5}}, "takes whole numbers"),
        (
            {"optimization.lr": {"low": -1, "high": 1}},
            r"the value -1 is not taken: optimization\.lr: .* greater than 0",
        ),
        ({"optimization.optimizer": {"choices": ["adam", "admw"]}}, "'admw' is not taken: .* did you mean 'adamw'"),
        (
            {"network.arguments": {"choices": [{}]}, "network.arguments.dropout": {"low": 0.0, "high": 1.0}},
            "network.arguments.dropout is a part of it",
        ),
    ],
    ids=str,
)
def test_keys_and_values_that_the_schema_does_not_have(tmp_path, parameters, text):
    with pytest.raises(ConfigError, match=text):
        Space(config(tmp_path, parameters))


def test_trials_do_not_share_checkpoints(tmp_path):
    with pytest.raises(
        ConfigError, match=r"all trials would be saved in shared; leave training\.checkpoints\.path out"
    ):
        Space(config(tmp_path, changes={"training": {"checkpoints": {"path": "shared"}}}))


@pytest.mark.parametrize(
    ("parameters", "changes"),
    [
        ({"optimization.lr": LR}, {}),
        ({"optimization.lr": LR}, {"network": {"arguments": {"rollout": 3}}}),
        ({"optimization.lr": LR}, {"validation": {"rollout": {"steps": 5}}}),
        ({"validation.rollout.steps": {"low": 5, "high": 9}}, {}),
    ],
    ids=["none", "elsewhere", "given", "searched"],
)
def test_a_metric_of_the_rollout_needs_one(tmp_path, parameters, changes):
    settings = config(tmp_path, parameters, metric="rollout_error", changes=changes)
    if "validation" in changes or "validation.rollout.steps" in parameters:
        Space(settings)
    else:
        with pytest.raises(ConfigError, match=r"needs a rollout, .*; set validation\.rollout"):
            Space(settings)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("network.arguments.since: {choices: [2020-01-01, 3]}", "parameters.network.arguments.since: choices may be"),
        ("network.arguments.sizes: {choices: [{1: 2}]}", "the value {1: 2} is not taken: .* keys must be texts"),
        ("network.arguments: {choices: [{}, {1: 2}]}", "the value {1: 2} is not taken: .* keys must be texts"),
        ("network.arguments.since: {low: 2020-01-01, high: 2021-01-01}", "since.low: must be a number"),
    ],
    ids=["date", "key", "key of a section", "range of dates"],
)
def test_dates_and_keys_that_are_no_texts(tmp_path, text, fault):
    file = tmp_path / "a.yaml"
    file.write_text(f"environment: {{id: physgym/Spring-v0}}\nsearch: {{parameters: {{{text}}}}}")
    with pytest.raises(ConfigError, match=fault):
        Space(load_config(file))


@pytest.mark.parametrize("argument", [{"since": date(2020, 1, 1)}, {1: 2}], ids=str)
def test_arguments_that_a_session_cannot_keep(tmp_path, argument):
    with pytest.raises(ConfigError, match=r"network\.arguments: .*(in quotes)"):
        search(config(tmp_path, changes={"network": {"arguments": argument}}))
    assert not (tmp_path / "search").exists()


def test_all_faults_of_a_search_are_named_at_once(tmp_path):
    parameters = {"optimisation.lr": LR, "training.epochs": {"low": 0, "high": 5}}
    with pytest.raises(ConfigError, match=r"3 fault\(s\):\n.*optimisation(.|\n)*value 0 (.|\n)*metric: 'rollout_x'"):
        Space(config(tmp_path, parameters, metric="rollout_x"))


def test_a_configuration_without_the_section_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no section search; say what to search"):
        search(config(tmp_path).model_copy(update={"search": None}))
    assert not (tmp_path / "search").exists()


def test_the_grid_has_all_combinations_and_needs_finite_ones(tmp_path):
    parameters = {
        "training.batch_size": {"low": 16, "high": 48, "step": 16},
        "optimization.lr": {"low": 0.1, "high": 0.3, "step": 0.1},
        "network.arguments.hidden": {"choices": [[8], [16]]},
    }
    space = Space(config(tmp_path, parameters, sampler="grid", trials=None))
    assert space.trials == 18
    assert space.grid()["training.batch_size"] == [16, 32, 48]
    assert space.grid()["optimization.lr"] == pytest.approx([0.1, 0.2, 0.3])
    assert Space(config(tmp_path, parameters, sampler="grid", trials=5)).trials == 5
    with pytest.raises(ConfigError, match="the grid needs a step, or choices"):
        Space(config(tmp_path, sampler="grid"))


@pytest.mark.parametrize(
    ("parameters", "changes", "own"),
    [
        ({"optimization.lr": LR}, {}, False),
        ({"optimization.lr": LR}, {"dataset": {"path": "data"}}, False),
        ({"optimization.lr": LR}, {"dataset": {"produce": "first_epoch"}}, True),
        ({"environment.arguments.time_step": {"low": 0.1, "high": 0.2}}, {}, True),
        ({"dataset.samples": {"low": 100, "high": 200}}, {}, True),
        ({"dataset.num_workers": {"choices": [1, 2]}}, {}, False),
        ({"dataset.path": {"choices": ["a", "b"]}}, {}, True),
        ({"seed": {"low": 0, "high": 9}}, {}, True),
        ({"seed": {"low": 0, "high": 9}}, {"dataset": {"path": "data"}}, False),
        ({"dataset.samples": {"low": 100, "high": 200}}, {"dataset": {"path": "data"}}, None),
        ({"optimization.lr": LR}, {"dataset": {"path": "data", "produce": "always"}}, None),
    ],
    ids=str,
)
def test_whose_samples_they_are(tmp_path, parameters, changes, own):
    space = Space(config(tmp_path, parameters, changes=changes))
    if own is None:
        with pytest.raises(ConfigError, match=r"dataset\.path: with .* every trial has samples of its own"):
            space.own_samples()
    else:
        assert space.own_samples() is own


# --- the driver, with processes that only pretend


class Pretended:
    """A pool whose workers do what `behave(config, epoch)` says: a value, or "die", "fail", "hang", "interrupt"."""

    def __init__(self, behave, epochs=5, order=None):
        self.behave, self.epochs, self.order = behave, epochs, order
        self.messages, self.jobs, self.begun = deque(), {}, []
        self.killed, self.interrupted, self.closed, self.pressed = [], [], False, False
        self.most = 0

    def open(self, number):
        self.messages.append((number, {"kind": "ready"}))

    def send(self, number, message):
        if "config" in message:
            self.jobs[number] = [message, 0]
            self.begun.append(Path(message["config"]["session"]).name)
            self.most = max(self.most, len(self.jobs))
            self._train(number)
        elif message["prune"]:
            job, epoch = self.jobs.pop(number)
            value = self.behave(job["config"], epoch)
            self.messages.append((number, end("pruned", epoch, value)))
        else:
            self._train(number)

    def _train(self, number):
        job = self.jobs[number]
        job[1] += 1
        value = self.behave(job[0]["config"], job[1])
        if value == "die":
            del self.jobs[number]
            self.messages.append((number, {"kind": "dead", "reason": "was killed by SIGKILL"}))
        elif value == "fail":
            del self.jobs[number]
            self.messages.append(
                (number, {"kind": "end", "last": False, "state": "failed", "reason": "ValueError: no"})
            )
        elif value != "hang":
            last = job[1] == self.epochs
            self.messages.append((number, {"kind": "epoch", "epoch": job[1], "value": value, "ask": not last}))
            if last:
                del self.jobs[number]
                self.messages.append((number, end("complete", self.epochs, value)))

    def poll(self, timeout):
        if not self.messages:
            time.sleep(0.01)
            return []
        return [self.messages.popleft()]

    def interrupt(self, number):
        self.interrupted.append(number)
        self.jobs.pop(number)
        self.messages = deque(message for message in self.messages if message[0] != number)
        self.messages.append((number, {"kind": "end", "last": False, "state": "interrupted"}))

    def kill(self, number):
        self.killed.append(number)
        self.jobs.pop(number, None)

    def close(self):
        self.closed = True


def end(state, epochs, value):
    return {"kind": "end", "last": False, "state": state, "epochs": epochs, "seconds": 0.1 * epochs, "value": value}


@pytest.fixture
def pretend(monkeypatch):
    """Searches whose trials are pretended; what `pretend(behave)` returns is the pool."""
    monkeypatch.setattr(searching, "_check_points", lambda space: None)
    monkeypatch.setattr(searching, "_samples", lambda space, session, run, allow: "data")
    monkeypatch.setattr(Origin, "here", classmethod(lambda cls: cls(("physgym", "search"), "/")))

    def pretended(behave, *, plots=False, **options):
        pool = Pretended(behave, **options)
        monkeypatch.setattr(searching, "write_plots", write_plots if plots else lambda *_: None)

        @contextmanager
        def instead(*_):
            try:
                yield pool
            finally:
                os.kill(os.getpid(), signal.SIGINT) if pool.pressed else None  # a late Ctrl-C
                pool.close()

        monkeypatch.setattr(searching, "_pool", instead)
        return pool

    return pretended


def parabola(data, epoch):
    """Best at a learning rate of 1e-2; falls with the epochs."""
    return (math.log10(data["optimization"]["lr"]) + 2) ** 2 + 1 / epoch


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_it_finds_the_best_value(tmp_path, pretend, sampler):
    pool = pretend(parabola, plots=True)
    found = search(config(tmp_path, sampler=sampler, trials=25, workers=3, pruner="none"))
    assert len(found.rows) == 25
    assert pool.most == 3
    assert pool.closed
    assert {row.state for row in found.rows} == {"complete"}
    assert found.best.value == min(row.value for row in found.rows)
    if sampler != "random":
        assert abs(math.log10(found.best.values["optimization.lr"]) + 2) < 0.2
    best = yaml.safe_load((found.session / "best.yaml").read_text())
    assert best["optimization"]["lr"] == found.best.values["optimization.lr"]
    assert (best["session"], best["dataset"]["path"]) == (f"{found.session}-best", "data")
    assert check_config(best, "best").search is None
    assert (found.session / "history.png").stat().st_size > 5000
    assert (found.session / "parameters.png").stat().st_size > 5000
    assert table_of(found.rows, config(tmp_path).search).splitlines()[1].startswith(found.best.name)
    record = read_record(found.session)["runs"][0]
    assert (record["kind"], record["outcome"]) == ("search", "completed")
    assert record["results"] == {"trial": found.best.number, "validation_loss": found.best.value}


def stubborn(seed):
    """A sampler of one's own, which draws the same for every trial."""
    from optuna.samplers import RandomSampler

    assert seed >= 0
    return RandomSampler(seed=7)


marked = factory(lambda seed: stubborn(seed))
nothing = factory(lambda: 5)


@factory
def strict():
    """A pruner of one's own, which ends all."""
    from optuna.pruners import ThresholdPruner

    return ThresholdPruner(upper=-1)


def test_samplers_and_pruners_of_ones_own(tmp_path, pretend):
    pretend(parabola)
    own = {"sampler": "tests.experiment.test_search:marked", "pruner": "tests.experiment.test_search:strict"}
    changes = {"training": {"epochs": 4}}
    found = search(config(tmp_path, trials=3, startup=1, **own, changes=changes))
    assert len({row.values["optimization.lr"] for row in found.rows}) == 1
    assert {row.state for row in found.rows} == {"pruned"}


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (
            {"sampler": "tests.experiment.test_search:stubborn"},
            "search.sampler: .* is a function, and nothing else is called",
        ),
        (
            {"sampler": "tests.experiment.test_search:config"},
            "search.sampler: .* nothing else is called than a subclass of optuna",
        ),
        ({"pruner": "tests.experiment.test_search:marked"}, "search.pruner: .*seed"),
        ({"pruner": "tests.experiment.test_search:nothing"}, "search.pruner: it gives 5, which is no optuna"),
        ({"sampler": "no.such:Module"}, "search.sampler: importing 'no.such' failed"),
    ],
)
def test_wrong_ones_are_named_before_there_is_a_session(tmp_path, pretend, section, text):
    pretend(parabola)
    with pytest.raises(ConfigError, match=text):
        search(config(tmp_path, **section))
    assert not (tmp_path / "search").exists()


def test_unknown_samplers_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"search\.sampler: unknown name; did you mean 'random'\?"):
        config(tmp_path, sampler="randon")


def test_the_best_configuration_reads_as_it_was(tmp_path, pretend):
    pretend(parabola)
    arguments = {"hidden": [8], "texts": ["1e3", "-2.5e-3", "0x1f", "on", "2020-01-01", "é"]}
    changes = {"description": "5e1", "network": {"arguments": arguments}}
    found = search(config(tmp_path, {"network.arguments.name": {"choices": ["1e5"]}}, trials=1, changes=changes))
    best = load_config(found.session / "best.yaml")
    assert best.network.arguments == {**arguments, "name": "1e5"}
    assert best.description == "5e1"


def test_the_larger_value_may_be_the_better_one(tmp_path, pretend):
    pretend(lambda data, epoch: -parabola(data, epoch))
    found = search(config(tmp_path, direction="maximize", trials=15))
    assert found.best.value == max(row.value for row in found.rows if row.state == "complete")


def test_the_grid_is_tried_once_each(tmp_path, pretend):
    pretend(lambda data, epoch: data["training"]["batch_size"])
    choices = {"training.batch_size": {"low": 8, "high": 24, "step": 8}, "optimization.lr": {"choices": [0.1, 0.2]}}
    found = search(config(tmp_path, choices, sampler="grid", trials=None, workers=2, pruner="none"))
    tried = sorted((row.values["training.batch_size"], row.values["optimization.lr"]) for row in found.rows)
    assert tried == [(size, lr) for size in (8, 16, 24) for lr in (0.1, 0.2)]
    assert found.best.values["training.batch_size"] == 8


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_bad_trials_end_earlier(tmp_path, pretend, pruner):
    # every second trial is bad from its second epoch on
    def behave(data, epoch):
        return (10.0 if int(Path(data["session"]).name) % 2 else 1.0) + 1 / epoch

    pretend(behave, epochs=9)
    found = search(config(tmp_path, trials=20, pruner=pruner, changes={"training": {"epochs": 9}}))
    good, bad = found.rows[::2], found.rows[1::2]
    assert {row.epochs for row in bad if row.state == "pruned"} <= set(range(2, 9))
    assert sum(row.state == "pruned" for row in bad) >= 5
    assert sum(row.epochs for row in bad) < 0.7 * sum(row.epochs for row in good)
    assert all(row.epochs == 9 for row in found.rows if row.state == "complete")
    assert found.best in good


def test_none_is_pruned_without_a_pruner(tmp_path, pretend):
    pretend(lambda data, epoch: float(Path(data["session"]).name))
    found = search(config(tmp_path, trials=12, pruner="none"))
    assert {row.epochs for row in found.rows} == {5}


def test_failing_trials_do_not_end_the_search(tmp_path, pretend):
    pretend(lambda data, epoch: "fail" if data["optimization"]["lr"] > 1e-2 else 1.0)
    found = search(config(tmp_path, trials=12, sampler="random"))
    failed = [row for row in found.rows if row.state == "failed"]
    assert failed
    assert len(found.rows) == 12
    assert {row.reason for row in failed} == {"ValueError: no"}
    table = rows_of(found.session)
    assert [row["state"] for row in table] == [row.state for row in found.rows]
    assert all(float(row["optimization.lr"]) > 1e-2 for row in table if row["state"] == "failed")


def test_all_failing_is_an_error_with_the_reasons(tmp_path, pretend):
    pretend(lambda data, epoch: "fail")
    with pytest.raises(ConfigError, match="all 4 trials failed:\n- 4 of them: ValueError: no"):
        search(config(tmp_path))
    assert state(tmp_path / "search").startswith("ConfigError: all 4 trials failed")
    assert len(rows_of(tmp_path / "search")) == 4


def test_a_combination_that_the_schema_refuses_is_a_failed_trial(tmp_path, pretend, monkeypatch):
    pretend(parabola)
    known = Space.config

    def refusing(self, values, **more):
        if more.get("session", "").endswith("2"):
            raise ConfigError("not together")
        return known(self, values, **more)

    monkeypatch.setattr(Space, "config", refusing)
    found = search(config(tmp_path))
    assert [row.state for row in found.rows] == ["complete", "complete", "failed", "complete"]
    assert found.rows[2].reason == "not together"


def test_a_trial_whose_worker_dies_is_tried_again_and_then_failed(tmp_path, pretend):
    deaths = {"0001": 1, "0002": 5}

    def behave(data, epoch):
        name = Path(data["session"]).name
        if epoch == 3 and deaths.get(name):
            deaths[name] -= 1
            return "die"
        return parabola(data, epoch)

    pool = pretend(behave)
    found = search(config(tmp_path, workers=2, pruner="none"))
    assert [row.state for row in found.rows] == ["complete", "complete", "failed", "complete"]
    assert "its worker was killed by SIGKILL, 2 times" in found.rows[2].reason
    assert sorted(pool.begun) == ["0000", "0001", "0001", "0002", "0002", "0003"]


@pytest.fixture
def clock(monkeypatch):
    """The seconds that a search sees, in a list; they pass only where a test adds some."""
    now = [1000.0]
    monkeypatch.setattr("physgym.experiment.search.driver.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_trial_may_take_too_long(tmp_path, pretend, clock):
    def behave(data, epoch):
        clock[0] += 1
        if data["session"].endswith("1") and epoch == 2:
            clock[0] += 5
            return "hang"
        return 1.0

    pool = pretend(behave)
    found = search(config(tmp_path, trial_timeout=6))  # the others take 5 s
    assert [row.state for row in found.rows] == ["complete", "failed", "complete", "complete"]
    assert "trial_timeout, 6 s" in found.rows[1].reason
    assert len(pool.killed) == 1


def test_a_search_may_take_too_long_and_goes_on_later(tmp_path, pretend, clock):
    def slow(data, epoch):
        clock[0] += 1
        return parabola(data, epoch)

    pretend(slow)
    found = search(config(tmp_path, trials=10, timeout=12, pruner="none"))  # the third one ends after 15 s
    assert found.timed_out
    assert len(found.rows) == 3
    assert state(found.session) == "stopped: search.timeout"
    whole = resume_search(found.session, config(tmp_path, trials=10, pruner="none"))
    assert len(whole.rows) == 10
    assert whole.rows[: len(found.rows)] == found.rows


def test_an_unknown_metric_ends_the_search_with_those_that_are_there(tmp_path, pretend, monkeypatch):
    class Trainer:
        epoch, epochs = 1, 3

    report = working.Report("accuracy", None)
    with pytest.raises(ConfigError, match=r"metric: .* no 'accuracy'; there are loss, validation_loss") as raised:
        report.epoch_end(Trainer(), {"validation_loss": 1.0, "loss": 2.0})
    pool = pretend(parabola)
    text = str(raised.value)
    monkeypatch.setattr(searching, "_check_points", CHECK_POINTS)
    with pytest.raises(ConfigError, match=r"search\.metric watches 'accuracy', .*'loss', .*'validation_loss'"):
        search(config(tmp_path, metric="accuracy", trials=50))  # before there is a session
    assert not (tmp_path / "search").exists()
    monkeypatch.setattr(searching, "_check_points", lambda space: None)  # as where a callback might add it
    monkeypatch.setattr(pool, "_train", lambda number: pool.messages.append((number, impossible(text))))
    with pytest.raises(ConfigError, match="there are loss, validation_loss"):
        search(config(tmp_path, metric="accuracy", trials=50))
    assert len(rows_of(tmp_path / "search")) == 1
    assert pool.closed


def impossible(text):
    return {"kind": "end", "last": False, "state": "impossible", "reason": text}


@pytest.mark.parametrize("metric", ["rollout_error", "evaluation_return", "return"])
def test_a_metric_of_rollouts_and_agents_is_not_there_in_every_epoch(metric):
    class Trainer:
        epoch, epochs = 1, 3

    report = working.Report(metric, None)
    report.epoch_end(Trainer(), {"loss": 1.0})  # nothing to say
    Trainer.epoch = 3
    with pytest.raises(ConfigError, match=metric):
        report.epoch_end(Trainer(), {"loss": 1.0})


def test_a_metric_of_an_agent_that_was_there_may_be_missing_in_the_end():
    class Trainer:
        epoch, epochs = 1, 2

    class Channel:
        told = []  # noqa: RUF012 - of one object

        def send(self, **message):
            self.told.append(message["value"])

        def receive(self, timeout):
            return None

    report = working.Report("evaluation_return", Channel())
    report.epoch_end(Trainer(), {"epoch": 1, "evaluation_return": 5.0})
    Trainer.epoch = 2
    report.epoch_end(Trainer(), {"epoch": 2, "return": 7.0})
    assert Channel.told == [5.0]
    with pytest.raises(ConfigError, match="no 'evaluation_laps'"):
        working.Report("evaluation_laps", Channel()).epoch_end(Trainer(), {"evaluation_return": 5.0})


@pytest.mark.parametrize(
    ("which", "direction", "value"), [("best", "minimize", 1.0), ("best", "maximize", 3.0), ("last", "minimize", 2.0)]
)
def test_the_value_of_a_training(which, direction, value):
    from physgym.training import History

    history = History([{"x": 3.0}, {"x": 1.0}, {"x": math.nan}, {"x": 2.0}])
    assert working.chosen(history, "x", which, direction) == value
    assert working.chosen(history, "y", which, direction) is None


# --- interrupted and resumed


class Killed(BaseException):
    """As good as a kill: nothing of the search runs any more."""


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
@pytest.mark.parametrize("at", [1, 4, 9, 12])
def test_a_killed_search_runs_the_missing_trials_and_no_others(tmp_path, pretend, sampler, at):
    parameters = {"optimization.lr": {"low": 0.01, "high": 0.06, "step": 0.01}}
    section = {"sampler": sampler, "trials": 6, "pruner": "none", "startup": 2}

    def settings(name):
        return config(tmp_path, parameters, changes={"session": str(tmp_path / name)}, **section)

    pretend(parabola)
    whole = search(settings("whole"))
    calls = iter(range(1000))

    def killed(data, epoch):
        if next(calls) == at:
            raise Killed
        return parabola(data, epoch)

    pretend(killed)
    with pytest.raises(Killed):
        search(settings("killed"))
    session = tmp_path / "killed"
    journal = session / "study.jsonl"
    before = {row["trial"] for row in rows_of(session)} if (session / "results.csv").exists() else set()
    # what a kill may leave: half a line, and the lock
    journal.write_bytes(journal.read_bytes() + b'{"op_code":5,"wor')
    (session / "study.jsonl.lock").touch()
    pool = pretend(parabola)
    resumed = resume_search(session)
    assert [row.values for row in resumed.rows] == [row.values for row in whole.rows]
    assert [row.state for row in resumed.rows] == ["complete"] * 6
    assert len(pool.begun) == len(set(pool.begun)) == 6 - at // 5
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    assert before <= {str(row.number) for row in resumed.rows}


def test_a_search_that_is_complete_may_get_more_trials(tmp_path, pretend):
    pretend(parabola)
    first = search(config(tmp_path))
    pool = pretend(parabola)
    again = resume_search(first.session)
    assert (pool.begun, again.rows) == ([], first.rows)
    pool = pretend(parabola)
    more = resume_search(first.session, config(tmp_path, trials=7, workers=2))
    assert more.rows[:4] == first.rows
    assert pool.begun == ["0004", "0005", "0006"]
    assert [run["kind"] for run in read_record(first.session)["runs"]] == ["search"] * 3


def test_fewer_trials_are_wanted_than_were_begun(tmp_path, pretend):
    def killed(data, epoch):
        if data["session"].endswith("2"):
            raise Killed
        return parabola(data, epoch)

    pretend(killed)
    with pytest.raises(Killed):
        search(config(tmp_path))
    pool = pretend(parabola)
    found = resume_search(tmp_path / "search", config(tmp_path, trials=1))
    assert pool.begun == ["0002"]
    assert [row.state for row in found.rows] == ["complete"] * 3


def test_more_trials_are_wanted_also_after_a_kill(tmp_path, pretend):
    pretend(parabola)
    session = search(config(tmp_path)).session

    def killed(data, epoch):
        raise Killed

    pretend(killed)
    with pytest.raises(Killed):
        resume_search(session, config(tmp_path, trials=7))
    pretend(parabola)
    assert len(resume_search(session).rows) == 7


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sampler": "random"}, "search.sampler cannot be changed"),
        ({"parameters": {"optimization.lr": {**LR, "high": 1}}}, "search.parameters cannot be changed"),
        ({"changes": {"training": {"epochs": 9}}}, "training: the trials of a search differ in what is searched alone"),
    ],
    ids=str,
)
def test_what_is_searched_is_not_changed_on_the_way(tmp_path, pretend, change, text):
    pretend(parabola)
    session = search(config(tmp_path)).session
    with pytest.raises(ConfigError, match=text):
        resume_search(session, config(tmp_path, **change))


def test_a_trial_that_was_pruned_stays_pruned(tmp_path, pretend):
    def behave(data, epoch):
        return 9.0 if data["session"].endswith("4") else 1.0

    pool = pretend(behave)
    answer = Pretended.send

    def killed(number, message):
        if message.get("prune"):
            raise Killed
        answer(pool, number, message)

    pool.send = killed
    with pytest.raises(Killed):
        search(config(tmp_path, trials=5, startup=2))
    pretend(behave)
    found = resume_search(tmp_path / "search")
    assert (found.rows[4].state, found.rows[4].epochs) == ("pruned", 2)


def test_a_damaged_journal_is_named(tmp_path, pretend):
    pretend(parabola)
    session = search(config(tmp_path)).session
    journal = session / "study.jsonl"
    journal.write_text(journal.read_text().replace('"op_code":4', '"op_code":', 1))
    with pytest.raises(ConfigError, match=r"study\.jsonl is damaged"):
        resume_search(session, config(tmp_path, trials=9))
    assert read_config(session)["search"]["trials"] == 4  # what was refused is not kept


def test_a_session_of_a_training_is_no_search(tmp_path, pretend):
    pretend(parabola)
    session = search(config(tmp_path)).session
    record = json.loads((session / "record.json").read_text())
    record["runs"][0]["kind"] = "train"
    (session / "record.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="is not the session of a search"):
        resume_search(session)


def test_ctrl_c_once_saves_and_twice_kills(tmp_path, pretend):
    def behave(data, epoch):
        if data["session"].endswith("2") and epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return parabola(data, epoch)

    pool = pretend(behave)
    pool.pressed = True
    found = search(config(tmp_path))
    assert found.interrupted
    assert pool.closed
    assert [row.state for row in found.rows] == ["complete", "complete", "begun"]
    assert (len(pool.interrupted), pool.killed) == (1, [])
    assert state(found.session) == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    class Deaf(Pretended):
        def interrupt(self, number):
            os.kill(os.getpid(), signal.SIGINT)

    pool.__class__ = Deaf
    pool.behave, pool.jobs, pool.messages = behave, {}, deque()
    found = resume_search(found.session)
    assert found.interrupted
    assert len(pool.killed) == 1
    pretend(parabola)
    assert [row.state for row in resume_search(found.session).rows] == ["complete"] * 4


def test_nothing_is_kept_without_logging(tmp_path, pretend, monkeypatch):
    monkeypatch.setattr(searching.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    pretend(parabola)
    found = search(config(tmp_path), log=False)
    assert found.session is None
    assert len(found.rows) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list((tmp_path / "tmp").iterdir())


# --- the processes


def test_workers_share_cores_and_gpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("physgym.experiment.search.pool.usable_cores", lambda: 8)
    assert [found["OMP_NUM_THREADS"] for found in environments(3, None, "cpu")] == ["2", "2", "2"]
    assert environments(20, None, "cpu")[0]["OMP_NUM_THREADS"] == "1"
    assert environments(2, 5, "cpu")[1]["OMP_NUM_THREADS"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environments(2, None, "cpu") == [{}, {}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(3, None, "cuda")] == ["4", "6", "4"]
    assert environments(2, None, "cuda:1") == [{}, {}]


def test_a_worker_that_does_not_start_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "MODULE", "physgym.no_such_module")
    monkeypatch.setattr(searching, "_samples", lambda space, session, run, allow: "data")
    with pytest.raises(WorkerError, match=r"ended with exit status 1 before it was ready; see .*workers\.log"):
        search(config(tmp_path))
    assert "no_such_module" in (tmp_path / "search" / "workers.log").read_text()


@pytest.mark.slow
def test_a_worker_ends_with_the_search(tmp_path):
    pool = Processes([{}], tmp_path / "workers.log")
    pool.open(0)
    (worker,) = pool._workers.values()
    process = psutil.Process(worker._process.pid)
    assert process.is_running()
    worker._input.close()  # as when the search is killed
    process.wait(PATIENCE)
    assert not psutil.pid_exists(process.pid)
    pool.close()


def test_origins_reach_the_workers_as_they_are(tmp_path):
    (tmp_path / "changes-1.patch").write_bytes(b"\x00diff")
    for origin, patch in (
        (Origin(("physgym", "search"), "/"), None),
        (Origin.here("a.yaml", {"overrides": ["seed=1"]}), None),
        (Origin(("a",), "/", patch=b"\x00diff"), tmp_path / "changes-1.patch"),
    ):
        assert working.unpack_origin(json.loads(json.dumps(working.pack_origin(origin, patch)))) == origin


def test_faults_are_found_before_the_first_sample(tmp_path):
    with pytest.raises(ConfigError, match="device"):
        search(config(tmp_path, changes={"device": "no-such-device"}))
    with pytest.raises(ConfigError, match="hiden"):
        search(config(tmp_path, {"network.arguments.hiden": {"choices": [[8], [16]]}}))
    assert not (tmp_path / "search").exists()


class Answers:
    """A search that ends a training after an epoch."""

    def __init__(self, at=None, late=False):
        self.at, self.late, self.told = at, late, []

    def send(self, **message):
        self.told.append(message)

    def receive(self, timeout):
        epoch = self.told[-1]["epoch"]
        if self.late and not self.told[-1].get("answered"):
            self.told[-1]["answered"] = True
            return {"epoch": epoch - 1, "prune": True}  # to an earlier question
        return {"epoch": epoch, "prune": epoch == self.at}


def job_of(settings, folder, **values):
    trial = Space(settings).config(values, session=str(folder / "trials" / "0000"))
    section = settings.search
    return {
        "config": trial.model_dump(),
        "metric": section.metric,
        "which": section.which,
        "direction": section.direction,
        "origin": working.pack_origin(Origin.here(), None),
    }


@pytest.mark.slow
def test_a_trial_reports_its_epochs_and_may_be_ended(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    job = job_of(config(tmp_path), tmp_path)
    channel = Answers(at=2)
    done = working.run_trial(job, channel)
    assert [(told["epoch"], told["ask"]) for told in channel.told] == [(1, True), (2, True)]
    assert (done["state"], done["epochs"]) == ("pruned", 2)
    assert done["value"] == min(told["value"] for told in channel.told)
    session = tmp_path / "trials" / "0000"
    assert state(session).startswith(f"stopped: {PRUNED}: validation_loss")
    with pytest.raises(ConfigError, match="a search ended it early"):
        reproduce(session)
    again = Answers(at=2)  # killed before the search had noted the end
    assert working.run_trial(job, again) == done
    assert [(told["epoch"], told["ask"]) for told in again.told] == [(1, False), (2, True)]
    longer = Answers()  # the search was killed before it had noted the decision
    assert working.run_trial(job, longer)["state"] == "complete"
    assert [told["epoch"] for told in longer.told] == [1, 2, 3]
    # what was killed before anything was in the session begins anew
    (tmp_path / "trials" / "0001").mkdir()
    job["config"]["session"] = str(tmp_path / "trials" / "0001")
    assert working.run_trial(job, Answers(late=True))["epochs"] == 3


def test_what_a_trial_raises_is_how_it_ended(tmp_path, monkeypatch):
    def ended(error):
        monkeypatch.setattr(working, "run_trial", lambda job, channel: (_ for _ in ()).throw(error))
        return working.ended({}, None)

    assert ended(KeyboardInterrupt()) == ({"state": "interrupted"}, True)
    assert ended(DivergedError("nan")) == ({"state": "failed", "reason": "nan"}, True)
    assert ended(working.NoMetric("none")) == ({"state": "impossible", "reason": "none"}, True)
    # the process may have no memory left, or worse
    assert ended(MemoryError("out")) == ({"state": "failed", "reason": "MemoryError: out"}, False)


@pytest.mark.slow
def test_a_search_of_trainings(tmp_path):
    parameters = {"optimization.lr": LR, "network.arguments.hidden": {"choices": [[8], ["wide"]]}}
    settings = config(tmp_path, parameters, workers=2, trials=6, sampler="random", seed=3)
    found = search(settings)
    states = {json.dumps(row.values["network.arguments.hidden"]): row.state for row in found.rows}
    assert states['["wide"]'] == "failed"
    assert states["[8]"] == "complete"
    assert sum(row.state == "complete" for row in found.rows) >= 2
    assert [path.name for path in sorted((found.session / "dataset").glob("*.h5"))] == ["training-00000.h5"]
    session = found.session / "trials" / found.best.name
    assert not (session / "dataset").exists()  # they share that of the search
    assert read_record(session)["runs"][0]["command"] == read_record(found.session)["runs"][0]["command"]
    assert (session.with_suffix(".log")).exists()
    again = train(load_config(found.session / "best.yaml", [f"session={tmp_path / 'again'}"]))
    assert min(again.history["validation_loss"]) == found.best.value  # bit for bit
    with Runner("physgym/Spring-v0", load_checkpoint(session)) as runner:
        assert runner.run(3).steps == 3


@pytest.fixture
def project(tmp_path, repository, monkeypatch):
    """A repository with a configuration that takes a while."""
    root = repository
    data = config(tmp_path, workers=2, trials=3, pruner="none").model_dump()
    data["session"] = "sessions/search"
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "armed").touch()
    held = {"type": "tests.cli.test_ctrl_c:Gate", "arguments": {"at": 70, "folder": str(tmp_path / "gate")}}
    data["training"] |= {"epochs": 16, "batch_size": 4, "callbacks": [held]}  # in the second epoch
    (root / "search.yaml").write_text(yaml.safe_dump(data))
    commit(root)
    monkeypatch.chdir(root)
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    return root


def begin(project):
    """Start a search and wait until two trials are trained; none of them ends before a file "go" is there."""
    process = Command(project, "search", "search.yaml", files=[project.parent / "said"] * 2)
    trials = [project / "sessions" / "search" / "trials" / name for name in ("0000", "0001")]
    deadline = time.monotonic() + PATIENCE
    while not all(list(trial.glob("networks/epoch-*/manifest.json")) for trial in trials):
        assert process.poll() is None, (project.parent / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, [child for child in psutil.Process(process.pid).children() if "worker" in " ".join(child.cmdline())]


def gone(processes):
    return not not_ended(process.pid for process in processes)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_ctrl_c_on_the_command_line(project, capsys):
    process, workers = begin(project)
    os.kill(process.pid, signal.SIGINT)
    (project.parent / "gate" / "go").touch()
    status, said = process.wait(PATIENCE), (project.parent / "said").read_text()
    assert status == 130, said
    assert "continue with: physgym resume sessions/search" in said
    assert "Traceback" not in said
    assert gone(workers)
    session = project / "sessions" / "search"
    assert state(session) == "interrupted"
    assert state(session / "trials" / "0000") == "interrupted"
    cli.app(["resume", str(session)], standalone_mode=False)
    assert "3 trials: 3 complete" in capsys.readouterr().out
    assert [row["epochs"] for row in rows_of(session)] == ["16"] * 3
    assert len(read_record(session / "trials" / "0000")["runs"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_killed_worker_and_then_a_killed_search(project):
    process, workers = begin(project)
    workers[0].kill()
    deadline = time.monotonic() + PATIENCE
    children = psutil.Process(process.pid).children
    while len([child for child in children() if child not in workers]) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = children()
    process.kill()
    (project.parent / "gate" / "go").touch()
    assert gone(workers)
    session = project / "sessions" / "search"
    resume_search(session)
    assert [(row["state"], row["epochs"]) for row in rows_of(session)] == [("complete", "16")] * 3
    assert sorted(path.name for path in (session / "trials").iterdir() if path.is_dir()) == [
        f"{number:04d}" for number in range(3)
    ]


def test_the_example_is_one(tmp_path):
    Space(load_config(EXAMPLE)).own_samples()


@pytest.mark.slow
def test_a_ray_cluster_takes_the_trials(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.warns(RuntimeWarning, match="this Ray cluster asks for no token"):
        found = search(config(tmp_path, trials=3, workers=2), ray="local")
    assert [row.state for row in found.rows] == ["complete"] * 3


def test_cores_that_no_machine_of_a_cluster_has_are_an_error(tmp_path, monkeypatch):
    with (
        stand_in(monkeypatch, {"CPU": 2.0}),
        pytest.raises(ConfigError, match="no machine of the Ray cluster has num_cpus=3; they have num_cpus=2"),
    ):
        Cluster("auto", threads=3, gpus=0, log=tmp_path / "log")


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(searching, "_samples", lambda space, session, run, allow: "data")
    with pytest.raises(ConfigError, match=r"--ray needs ray: pip install 'physgym\[ray\]'"):
        search(config(tmp_path), ray="auto")


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch, pretend):
    pretend(parabola)
    session = search(config(tmp_path / "before")).session
    monkeypatch.setitem(sys.modules, "optuna", None)
    for begin_or_resume in (lambda: search(config(tmp_path)), lambda: resume_search(session)):
        with pytest.raises(ConfigError, match=r"this needs optuna: pip install 'physgym\[hpo\]'"):
            begin_or_resume()
    assert not (tmp_path / "search").exists()
    assert len(read_record(session)["runs"]) == 1


def test_what_a_package_lacks_is_not_the_lack_of_the_package():
    with pytest.raises(ModuleNotFoundError, match="another"), needs("ray", "ray"):
        raise ModuleNotFoundError("another", name="another")


def code_of_the_guide():
    return re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_code_of_the_guide_runs(tmp_path, monkeypatch):
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "search.yaml").write_text(EXAMPLE.read_text())
    monkeypatch.chdir(tmp_path)
    (code,) = code_of_the_guide()
    names: dict = {}
    exec(compile(code, str(GUIDE), "exec"), names)  # noqa: S102  # the project's own
    assert [row.state for row in names["found"].rows] == ["complete"] * 3


def test_the_guide_has_every_key():
    text = GUIDE.read_text()
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE)
    assert {name for name, _ in rows} == set(SearchSection.model_fields)
    defaults = {name: field.default for name, field in SearchSection.model_fields.items()} | {"trials": NEW_TRIALS}
    for name, default in rows:
        if default.strip():
            assert default.strip().strip("`") == str(defaults[name])
