"""`physgym compare`: only what differs between sessions, and the best of each metric."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from physgym import cli
from physgym.errors import ConfigError
from physgym.experiment.compare import compare, curves_of
from physgym.experiment.run import Run
from physgym.experiment.session import new_session
from physgym.nn import MLP, Optimization
from physgym.testing.loggers import BATCHES, LoggedTraining
from physgym.training import CSV, TensorBoard, Trainer
from tests.support.memory_samples import linear_samples

CONFIG = {
    "session": "anywhere",
    "seed": 0,
    "optimization": {"lr": 0.01, "optimizer": {"type": "adam", "arguments": {}}},
    "training": {"test": {"far": "data/far"}, "early_stopping": None},
}
RESULTS = {"epoch": 3, "loss": 0.5, "validation_loss": 0.25, "lr": 0.01, "seconds": 1.5, "samples": 100}


def session(path, config=None, results=None, kind="train"):
    """A session of a training that did nothing."""
    folder = new_session(path)
    with Run(folder, kind, {**CONFIG, **(config or {})}) as run:
        run.results |= RESULTS if results is None else results
    return folder


def changed(**values):
    return {**RESULTS, **values}


@pytest.fixture
def pair(tmp_path):
    lr = {"optimization": {"lr": 0.02, "optimizer": {"type": "adam", "arguments": {}}}}
    return [session(tmp_path / "a"), session(tmp_path / "b", lr, changed(validation_loss=0.125, epoch=5))]


def run(*arguments):
    return cli.app(["compare", *map(str, arguments)], standalone_mode=False)


# --- what differs


def test_only_what_differs_is_there(pair):
    found = compare(pair)
    assert found.config == {"optimization.lr": {"a": 0.01, "b": 0.02}}
    assert found.runs == {"epochs": {"a": 3, "b": 5}}
    assert set(found.metrics) == {"validation_loss"}
    assert found.same == ["loss"]
    assert set(found.times) <= {"whole session"}


def test_keys_that_a_session_lacks_are_left_out(tmp_path):
    stopping = {"training": {"early_stopping": {"monitor": "loss", "mode": "min"}}}
    found = compare([session(tmp_path / "a"), session(tmp_path / "b", stopping)])
    assert found.config == {
        "training.test.far": {"a": "data/far"},
        "training.early_stopping": {"a": None},
        "training.early_stopping.monitor": {"b": "loss"},
        "training.early_stopping.mode": {"b": "min"},
    }
    text = str(found)
    assert re.search(r"^training\.test\.far +data/far  -$", text, re.MULTILINE)
    assert re.search(r"^training\.early_stopping +null +-$", text, re.MULTILINE)


def test_sessions_without_a_difference(tmp_path):
    found = str(compare([session(tmp_path / "a"), session(tmp_path / "b")]))
    assert found.startswith(
        "configuration: no difference\n\nruns: no difference\n\nmetrics of the last epoch, * is the best: no difference"
    )
    assert "the same in all: loss, validation_loss" in found


def test_long_values_are_cut_where_they_still_differ(tmp_path):
    far = ["data/" + "x" * 40 + end for end in ("/a", "/b")]
    early = ["a" + "x" * 40, "b" + "x" * 40]
    folders = [
        session(tmp_path / name, {"training": {"test": {"far": one}}, "optimization": {"loss": other}})
        for name, one, other in zip("cd", far, early, strict=True)
    ]
    text = str(compare(folders))
    assert all(one in text for one in far)
    assert not any(one in text for one in early)
    assert re.search(r"^optimization\.loss +ax{28}\.\.\. +bx{28}\.\.\.$", text, re.MULTILINE)


def test_names_are_as_short_as_they_can_be(tmp_path):
    folders = [session(tmp_path / one / "same") for one in ("x", "y")]
    assert list(compare(folders).sessions) == [str(folder) for folder in folders]


# --- metrics

KNOWN = {
    "loss": "minimize",
    "validation_loss": "minimize",
    "validation_mae/state": "minimize",
    "validation_max_error/state": "minimize",
    "validation_r2/state": "maximize",
    "test_far_loss": "minimize",
    "test_far_r2/state": "maximize",
    "rollout_relative_l2/state": "minimize",
    "rollout_horizon_10/state": "minimize",
    "validation_energy": None,
    "test_near_mae/state": None,  # a test set that the configuration does not name
    "validation_my_mae/state": None,
    "test_far_my_r2/state": None,
    "rollout_reward": None,
    "energy": None,
}


def test_the_best_is_marked_where_the_direction_is_known(tmp_path):
    small, large = ({**RESULTS, **dict.fromkeys(KNOWN, value)} for value in (1.0, 2.0))
    found = compare([session(tmp_path / "small", None, small), session(tmp_path / "large", None, large)])
    assert {name: one.direction for name, one in found.metrics.items()} == KNOWN
    best = {"minimize": ("small",), "maximize": ("large",), None: ()}
    assert all(one.best == best[one.direction] for one in found.metrics.values())
    text = str(found)
    assert "none is marked where nobody knows which direction is better: validation_energy, test_near_mae/state" in text
    assert re.search(r"^loss \(min\) +1 \*    2$", text, re.MULTILINE)


def test_directions_that_are_given_or_declared(tmp_path):
    watching = {"training": {"early_stopping": {"monitor": "reward", "mode": "max"}}}
    other = {"training": {"early_stopping": {"monitor": "reward", "mode": "min"}}}
    values = [changed(reward=value, energy=value) for value in (1.0, 2.0)]
    folders = [session(tmp_path / f"s{n}", watching, one) for n, one in enumerate(values)]
    found = compare(folders, minimize=["energy"])
    assert (found.metrics["reward"].best, found.metrics["energy"].best) == (("s1",), ("s0",))
    assert compare(folders, minimize=["reward"]).metrics["reward"].best == ("s0",)
    folders.append(session(tmp_path / "s2", other, changed(reward=3.0)))
    assert compare(folders).metrics["reward"].direction is None
    with pytest.raises(ConfigError, match="no session has the metric 'nothing'; there are loss, validation_loss"):
        compare(folders, maximize=["nothing"])
    with pytest.raises(ConfigError, match="can be minimized or maximized, not both"):
        compare(folders, maximize=["loss"], minimize=["loss"])


def test_a_search_says_the_direction_for_its_trials(tmp_path):
    search = session(tmp_path / "search", {"search": {"metric": "energy", "direction": "maximize"}}, {}, "search")
    trials = [session(search / "trials" / f"000{n}", None, changed(energy=float(n))) for n in range(3)]
    found = compare(trials)
    assert list(found.sessions) == ["0000", "0001", "0002"]
    assert found.metrics["energy"].best == ("0002",)


def trained(path, **options):
    """A session of a training in Python."""
    loss = options.pop("loss", torch.nn.MSELoss)
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(8,))
    optimization = Optimization(network, loss=loss)
    samples = linear_samples(64)
    Trainer(network, samples, optimization=optimization, epochs=1, progress=False, session=path, **options).fit()
    return path


def test_trainings_in_python_differ_in_what_their_checkpoints_say(tmp_path):
    sessions = [trained(tmp_path / "a"), trained(tmp_path / "b", loss=torch.nn.L1Loss)]
    found = compare(sessions)
    assert found.training == {"loss": {"a": "MSELoss", "b": "L1Loss"}}
    assert found.other_units == ["loss"]
    assert found.metrics["loss"].best == ()
    text = str(found)
    assert re.search(r"^training +a +b$", text, re.MULTILINE)
    assert "none is marked where losses have other units: loss" in text
    assert compare(sessions, minimize=["loss"]).metrics["loss"].best
    json.dumps(found.to_json(), allow_nan=False)


def test_losses_of_the_same_units_are_marked(tmp_path):
    found = compare([trained(tmp_path / "a"), trained(tmp_path / "b", batch_size=8)])
    assert (found.training, found.other_units, found.unknown) == ({}, [], [])
    assert found.metrics["loss"].best


def test_a_training_in_python_without_a_checkpoint_is_named(tmp_path):
    sessions = [trained(tmp_path / "a"), trained(tmp_path / "b")]
    shutil.rmtree(sessions[1] / "networks")
    assert "only part is known without a checkpoint: b" in str(compare(sessions))


def test_nan_is_never_the_best_and_equals_share_the_mark(tmp_path):
    losses = (math.nan, 0.25, 0.25, 0.5, math.inf)
    folders = [session(tmp_path / f"s{n}", None, changed(loss=loss)) for n, loss in enumerate(losses)]
    folders.append(session(tmp_path / "s5", None, {"epoch": 1, "validation_loss": 0.25}))
    found = compare(folders)
    assert found.metrics["loss"].best == ("s1", "s2")
    assert "s5" not in found.metrics["loss"].values
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["metrics"]["loss"]["values"]["s0"] == "nan"
    assert data["metrics"]["loss"]["best"] == ["s1", "s2"]
    assert compare([folders[0], folders[4]]).metrics["loss"].best == ("s4",)
    assert compare([folders[1], folders[5]]).metrics["loss"].best == ()  # one alone has it


# --- curves


def with_curves(path, kind=CSV, name="loss"):
    folder = session(path)
    logger = kind(folder / "stats")
    LoggedTraining(logger).go(3 * BATCHES)
    logger.close()
    return folder


@pytest.mark.slow
def test_curves_of_any_logger_are_drawn(tmp_path, capsys):
    from matplotlib.image import imread

    folders = [with_curves(tmp_path / "tables"), with_curves(tmp_path / "board", TensorBoard)]
    assert [step for step, _ in curves_of(folders[0])["loss"]] == [1, 2, 3]
    assert curves_of(folders[1])["validation_loss"] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    run(*folders, "--plot", tmp_path / "curves.png")
    assert f"curves: {tmp_path / 'curves.png'}" in capsys.readouterr().out
    pixels = imread(tmp_path / "curves.png")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    before = (tmp_path / "curves.png").read_bytes()
    run(*folders, "--plot", tmp_path / "curves.png", "--curve", "loss", "--curve", "validation_loss")
    assert (tmp_path / "curves.png").read_bytes() != before
    with pytest.raises(ConfigError, match=r"the session tables has no curve 'speed': it has .*validation_loss"):
        run(*folders, "--plot", tmp_path / "curves.png", "--curve", "speed")
    with pytest.raises(ConfigError, match=r"--plot .*curves\.doc"):
        run(*folders, "--plot", tmp_path / "curves.doc")
    with pytest.raises(ConfigError, match="--plot: there is no folder"):
        run(*folders, "--plot", tmp_path / "nowhere" / "curves.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board", "curves.png", "tables"]


def test_the_last_training_of_a_session_counts(tmp_path):
    folder = with_curves(tmp_path / "a")
    for _ in range(2):
        logger = CSV(folder / "stats")
        LoggedTraining(logger).go(BATCHES)
        logger.close()
    assert (folder / "stats" / "run-3").is_dir()
    assert [step for step, _ in curves_of(folder)["loss"]] == [1]


def test_sessions_without_curves_are_named(pair, tmp_path):
    with pytest.raises(ConfigError, match="the session a has no curve 'loss': its folder stats has no curves"):
        run(*pair, "--plot", tmp_path / "curves.png")
    with pytest.raises(ConfigError, match="--curve names what --plot FILE draws"):
        run(*pair, "--curve", "loss")


# --- the command


def test_the_command_prints_tables_or_json(pair, capsys):
    run(*pair)
    assert "optimization.lr  0.01  0.02" in capsys.readouterr().out
    run(*pair, "--json", "--maximize", "validation_loss")
    data = json.loads(capsys.readouterr().out)
    assert data["config"] == {"optimization.lr": {"a": 0.01, "b": 0.02}}
    assert data["metrics"]["validation_loss"] == {
        "values": {"a": 0.25, "b": 0.125},
        "direction": "maximize",
        "best": ["a"],
    }


@pytest.mark.slow
def test_what_cannot_be_compared_is_named(pair, tmp_path):
    first, second = pair
    empty = session(tmp_path / "generated", None, {}, "generate")
    stopped = session(tmp_path / "stopped", None, {})
    search = session(tmp_path / "search", None, {}, "search")
    (tmp_path / "other").mkdir()
    for paths, text in (
        ([first], "one session alone cannot be compared"),
        ([first, second, tmp_path / "x" / ".." / "a"], "there is no session"),
        ([first, second, second / ".." / "a"], "are the same session; name each once"),
        ([first, tmp_path / "nowhere"], "there is no session"),
        ([first, tmp_path / "other"], "other is not a session"),
        ([first, empty], "generated has no metrics: it is one of physgym generate"),
        ([first, stopped], "stopped has no metrics: no epoch was completed there"),
        ([first, search], r"search is a search; compare its trials: .*/search/trials/\*"),
    ):
        with pytest.raises(ConfigError, match=text):
            run(*paths)
