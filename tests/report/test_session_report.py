"""Reports of sessions: trainings, generations and searches, running, died and damaged; and of runs and evaluations."""

import re
from dataclasses import replace

import numpy as np
import pytest

from physgym import evaluate
from physgym.errors import ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.evaluate import network_for
from physgym.experiment.run import Run
from physgym.experiment.runs import train
from physgym.experiment.unseen_samples import unseen_samples
from physgym.nn import MLP
from physgym.report.prediction_sections import NetworkErrors, drawn_episodes
from physgym.report.reports import evaluation_report, run_report, session_report, write_report
from physgym.running.prediction_errors import compare
from physgym.running.run_report import RunReport
from physgym.training import Trainer
from tests.report.test_dataset_report import numbers, without_pictures, words

__all__ = ["without_pictures"]

EVIL = "<script>alert(1)"


def config(folder, **more):
    return check_config(
        {
            "session": str(folder / "session"),
            "description": f"what {EVIL}",
            "dataset": {"path": str(folder / "data")},
            "network": {"arguments": {"hidden": [4]}},
            "training": {"epochs": 3, "batch_size": 20},
            "validation": {"fraction": 0.25},
            **more,
        },
        "the test",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    numbers(folder / "data", np.random.default_rng(0).normal(size=200))
    return train(config(folder))


def test_a_report_says_what_was_run_and_what_came_out(trained):
    page = session_report(trained.session, trained.session)
    text = words(page)
    evaluated = evaluate(trained.session, trained.trainer.validation, progress=False)
    for said in (
        *("completed outcome", f"what {EVIL}", "3 epochs", "validation loss, last"),
        *("What was run", "Curves", "Errors of the network", "Measured on the validation part"),
        *("50 samples of 5 episodes", f"relative_l2 {evaluated['relative_l2/y']:.4g}", "Best", "Median", "Worst"),
        *("Throughput", "samples/s", "config.yaml", "networks", "200 samples in"),
    ):
        assert said in text, said
    assert EVIL not in page.html()


def test_the_report_of_a_session_lies_in_it(trained, tmp_path):
    file = write_report(trained.session)
    assert file == trained.session / "report.html"
    text = file.read_text()
    assert 'href="record.json"' in text
    assert len(text) < 10e6
    elsewhere = write_report(trained.session, tmp_path / "a.html").read_text()
    assert f'/{trained.session.name}/record.json"' in elsewhere


def test_unseen_samples_are_those_of_the_training(trained):
    found = unseen_samples(trained.session)
    assert (found.unseen, found.name) == (True, "the validation part")
    held = trained.trainer.validation
    assert (found.dataset.index("episode") == held.index("episode")).all()
    assert (found.dataset[:]["x"] == held[:]["x"]).all()


def test_unseen_samples_of_a_training_in_python_are_those_held_out(tmp_path):
    dataset = numbers(tmp_path / "data", np.arange(100.0))
    network = MLP.from_spec(dataset.spec, hidden=(2,))
    trainer = Trainer(network, dataset, epochs=1, validation=0.3, seed=5, session=tmp_path / "s", progress=False)
    trainer.fit()
    found = unseen_samples(trainer.session)
    assert found.unseen
    assert (found.dataset.index("episode") == trainer.validation.index("episode")).all()
    assert "Measured on the validation part" in words(session_report(trainer.session, tmp_path))


@pytest.mark.slow
def test_a_test_part_comes_first_and_training_samples_with_a_warning(tmp_path):
    numbers(tmp_path / "data", np.arange(40.0))
    session = train(config(tmp_path, validation={"fraction": 0})).session
    assert not unseen_samples(session).unseen
    assert "the error on unseen samples may be larger" in words(session_report(session, tmp_path))
    numbers(tmp_path / "data", np.arange(20.0), mode="test", seed=90)
    found = unseen_samples(session)
    assert (found.name, len(found.dataset), found.dataset.mode) == ("the test part", 20, "test")


def test_few_episodes_are_drawn_from_many(tmp_path):
    dataset = numbers(tmp_path / "d", np.arange(200.0))
    drawn = drawn_episodes(dataset, 35)
    assert len(drawn) == 35
    assert len(np.unique(drawn.episodes)) == 4
    assert (drawn.index("episode") == drawn_episodes(dataset, 35).index("episode")).all()
    assert drawn_episodes(dataset, 200) is dataset


def test_a_figure_of_drawn_samples_says_so(trained):
    found = unseen_samples(trained.session)
    measured = NetworkErrors.measure(trained.trainer.predictor, found.dataset, 20)
    assert measured.drawn.startswith("drawn from 20 of 50 samples, by episode")
    assert len(measured.report.errors["y"]) == 20


def test_an_evaluation_has_the_error_of_each_sample(trained):
    samples = trained.trainer.validation
    report = evaluate(trained.trainer.predictor, samples, progress=False)
    errors = report.errors["y"]
    assert errors.shape == (50,)
    assert errors[report.worst[0].sample] == report.worst[0].value == errors.max()
    assert "errors" not in repr(report)
    assert replace(report, errors={}) == report


def test_an_evaluation_has_a_report(trained):
    samples, network = trained.trainer.validation, network_for(trained.session, None, None)
    report = evaluate(network, samples, progress=False)
    text = words(evaluation_report("mine", report, network, samples, f"physgym evaluate {EVIL}"))
    assert f"relative_l2 {report['relative_l2/y']:.4g}" in text
    assert "predicted against true" in text
    assert "Worst" in text


def test_a_run_has_a_report():
    target = np.ones((30, 2))
    errors = compare(target + 0.1, target)
    seconds = np.r_[5.0, np.full(29, 0.001)]
    report = RunReport({"y": errors}, seconds, seconds / 2, steps=31, rejected=1, nonfinite=2, units={"y": "m"})
    text = words(run_report("mine", report, "physgym run mine"))
    for said in ("31 steps", "1 rejected", "0.1 relative L2 error, y", "2 predictions are not finite"):
        assert said in text, said
    assert text.count("1 step took longer") == 2  # of the network, and of the solver
    assert "There was no solver" in words(run_report("mine", RunReport(steps=3), ""))


def test_a_session_at_work_and_one_that_was_killed(trained, tmp_path, monkeypatch):
    session = tmp_path / "at-work"
    with Run(session_folder(session), "train", {}):
        text = words(session_report(session, tmp_path))
        assert "still running" in text
        assert "no checkpoint with a completed epoch" in text
        assert "They were not measured" in text
    record = session / "record.json"
    record.write_text(re.sub(r'"outcome": "[^"]*"', '"outcome": null', record.read_text()))
    assert "was killed" in words(session_report(session, tmp_path))
    record.write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        write_report(session)
    assert not list(session.glob("*.html"))


def session_folder(session):
    session.mkdir()
    (session / "config.yaml").write_text("description: ''\n")
    return session


def test_a_generation_without_samples_says_so(tmp_path):
    session = session_folder(tmp_path / "s")
    with Run(session, "generate", {}):
        pass
    assert "There are none" in words(session_report(session, tmp_path))
    numbers(session / "dataset", np.arange(30.0))
    text = words(session_report(session, tmp_path))
    assert "30 samples" in text
    assert "Duplicates" in text


@pytest.mark.slow
def test_a_dataset_that_is_gone_leaves_the_curves(trained, tmp_path):
    numbers(tmp_path / "data", np.arange(40.0))
    session = train(config(tmp_path)).session
    (tmp_path / "data").rename(tmp_path / "moved")
    text = words(session_report(session, tmp_path))
    assert "They were not measured" in text
    assert "Loss" in text


def test_steps_that_took_long_are_left_out_of_their_own_plot_alone():
    solver = np.full(40, 1e-3)
    report = RunReport({}, np.linspace(1e-3, 2e-3, 40), np.append(solver, 1.0), steps=41)
    assert words(run_report("mine", report, "")).count("1 step took longer") == 1
