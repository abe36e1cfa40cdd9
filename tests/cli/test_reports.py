"""``physgym report``, and the reports that commands write at their end."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import yaml

from physgym import cli
from physgym.cli import reports
from physgym.errors import ConfigError
from physgym.experiment.search.report import TrialRow, read_results, write_results
from physgym.experiment.settings import read_settings
from tests.support.commands import run_command
from tests.support.repositories import ignoring, set_identity

WRITE = {**os.environ, "PHYSGYM_REPORTS": "write"}


def physgym(folder, *arguments, code=0, env=WRITE):
    done = run_command(folder, *arguments, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A training of the command line, with its report; its samples have a feedback."""
    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        set_identity(patch)
        ignoring(folder)
        data = {
            "session": "spring",
            "environment": {"id": "physgym/Spring-v0"},
            "dataset": {"samples": 200, "max_steps": 20, "num_workers": 1},
            "network": {"arguments": {"hidden": [8]}},
            "training": {"epochs": 2, "batch_size": 32},
            "validation": {"fraction": 0.2},
        }
        (folder / "spring.yaml").write_text(yaml.safe_dump(data))
        said = physgym(folder, "train", "spring.yaml", env={**os.environ, "PHYSGYM_REPORTS": "write"})
    return SimpleNamespace(folder=folder, path=folder / "spring", said=said.stdout)


@pytest.mark.slow
def test_a_training_ends_with_a_report(session):
    assert "report:  spring/report.html (" in session.said
    text = (session.path / "report.html").read_text()
    for said in ("Loss", "Error by horizon", "Measured on the validation part", "physgym train spring.yaml"):
        assert said in text, said


@pytest.mark.slow
def test_runs_rollouts_and_evaluations_end_with_a_report(session):
    folder = session.folder
    assert "report:  spring/report-run.html" in physgym(folder, "run", "spring", "--steps", "20").stdout
    text = (session.path / "report-run.html").read_text()
    assert "Time of a step" in text
    assert "physgym run spring --steps 20" in text
    physgym(folder, "run", "spring", "--rollout", "5", "--data", "spring/dataset", "--mode", "training")
    assert "Error by horizon" in (session.path / "report-run.html").read_text()
    said = physgym(folder, "evaluate", "spring", "--metric", "mae", "--metric", "relative_l2").stdout
    assert "report:  spring/report-evaluate.html" in said
    text = (session.path / "report-evaluate.html").read_text()
    assert "predicted against true" in text
    assert "physgym evaluate spring --metric mae" in text


@pytest.mark.slow
def test_a_search_ends_with_a_report(session):
    data = yaml.safe_load((session.folder / "spring.yaml").read_text())
    data |= {
        "session": "found",
        "search": {"trials": 2, "parameters": {"optimization.lr": {"low": 1e-3, "high": 1e-2}}},
    }
    data["dataset"] = {"path": "spring/dataset"}
    (session.folder / "search.yaml").write_text(yaml.safe_dump(data))
    assert "report:  found/report.html" in physgym(session.folder, "search", "search.yaml").stdout
    text = (session.folder / "found" / "report.html").read_text()
    for said in ("How the search went", "optimization.lr", "best trial", "2 trials: 2 complete"):
        assert said in text, said
    assert not list((session.folder / "found").glob("trials/*/report.html"))


@pytest.mark.slow
def test_no_report_where_nobody_wants_one(session, tmp_path):
    again = shutil.copytree(session.path, tmp_path / "spring")
    for old in again.glob("*.html"):
        old.unlink()
    assert "report" not in physgym(tmp_path, "run", "spring", "--steps", "2", "--no-report").stdout
    assert (
        "report"
        not in physgym(tmp_path, "run", "spring", "--steps", "2", env={**WRITE, "PHYSGYM_REPORTS": "none"}).stdout
    )
    assert not list(again.glob("*.html"))


def in_this_process(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["physgym", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert in_this_process(monkeypatch, "report", "nowhere") == 2
    assert capsys.readouterr().err == "error: there is no nowhere: name the folder of a session or of a dataset\n"


def test_ctrl_c_during_a_report_says_what_is_complete(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setenv("PHYSGYM_REPORTS", "write")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("physgym.report.reports.session_report", interrupted)
    text = "^interrupted; the session is complete but for its report: physgym report 'sessions/a b'$"
    with pytest.raises(KeyboardInterrupt, match=text):
        reports.write_session_report(tmp_path / "sessions/a b")
    text = "^interrupted; the figures above are complete, their report was not written; --no-report leaves it out$"
    with pytest.raises(KeyboardInterrupt, match=text):
        reports.write_at_end(interrupted, tmp_path / "report-run.html")
    monkeypatch.setattr("physgym.report.reports.write_report", interrupted)
    (tmp_path / "data").mkdir()
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; no report was written, and one that was there is as"):
        reports.report("data")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_what_a_report_fails_of_ends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PHYSGYM_REPORTS", "write")
    monkeypatch.chdir(tmp_path)

    def refused():
        raise ConfigError("no room")

    def wrong():
        raise ZeroDivisionError("a fault of ours")

    for make in (refused, wrong):
        reports.write_at_end(make, tmp_path / "report.html")
    reports.write_at_end(wrong, tmp_path / "report.html", wanted=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reports.write_at_end(wrong, tmp_path / "report.html")
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "no report: no room",
        "no report: ZeroDivisionError: a fault of ours",
        "no report: a report needs plotly: pip install 'physgym[report]'",
    ]
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_a_setting_switches_reports_off(tmp_path, monkeypatch):
    monkeypatch.delenv("PHYSGYM_REPORTS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert read_settings(tmp_path).reports == "write"
    (tmp_path / "pyproject.toml").write_text('[tool.physgym]\nreports = "none"\n')
    assert read_settings(tmp_path).reports == "none"
    (tmp_path / "pyproject.toml").write_text('[tool.physgym]\nreports = "off"\n')
    with pytest.raises(ConfigError, match="reports must be one of write, none, not 'off'"):
        read_settings(tmp_path)


def test_the_table_of_trials_is_read_as_it_was_written(tmp_path):
    rows = [
        TrialRow(0, "complete", 0.125, 3, 1.5, "", {"a": [1, 2], "b": "text", "c": 1e-3}),
        TrialRow(1, "failed", None, None, None, "no, it is\nwrong", {"a": "x"}),
    ]
    assert read_results(tmp_path) == []
    write_results(tmp_path, rows, ["a", "b", "c"])
    assert read_results(tmp_path) == rows
    (tmp_path / "results.csv").write_text("trial,state\none,two\n")
    with pytest.raises(ConfigError, match="is no table of trials"):
        read_results(tmp_path)
