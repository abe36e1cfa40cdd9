"""The command that says what works."""

from __future__ import annotations

import json

import pytest

from physgym import cli
from physgym.doctor import examination
from physgym.doctor.examination import repository as repository_of
from physgym.doctor.finding import Finding
from physgym.errors import ConfigError
from tests.support.repositories import git, identity, repository

__all__ = ["identity", "repository"]  # fixtures


def doctor(*arguments):
    """Return the exit status."""
    return cli.app(["doctor", *arguments], standalone_mode=False) or 0


@pytest.fixture
def found(monkeypatch):
    """Give the findings of the next examination."""
    findings = [
        Finding("cores", "ok", "2", values={"usable": 2}),
        Finding("locks", "note", "are slow\nhere", "mount them"),
    ]
    monkeypatch.setattr(examination, "examination", lambda path: iter(findings))
    return findings


def test_findings_as_lines(found, capsys, tmp_path):
    assert doctor("--folder", str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok       cores          2",
        "note     locks          are slow",
        "                        here",
        "                        -> mount them",
    ]


def test_findings_as_json(found, capsys):
    assert doctor("--json") == 0
    printed = json.loads(capsys.readouterr().out)["findings"]
    assert printed[0] == {"subject": "cores", "state": "ok", "text": "2", "remedy": "", "values": {"usable": 2}}
    assert [one["state"] for one in printed] == ["ok", "note"]


def test_a_problem_is_an_exit_status(found, capsys):
    found.append(Finding("workers", "problem", "do not start", "look"))
    assert doctor("--json") == 1
    assert json.loads(capsys.readouterr().out)["findings"][2]["remedy"] == "look"


def test_a_folder_that_is_not_there(found, tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        doctor("--folder", str(tmp_path / "none"))


def test_what_is_said_of_a_repository(repository, tmp_path, monkeypatch):
    assert repository_of(repository).state == "ok"
    (repository / "README").write_text("other words\n")
    (repository / "code.py").touch()
    assert "--save-diff" in repository_of(repository).remedy
    assert repository_of(tmp_path).state == "note"
    assert "git init" in repository_of(tmp_path).remedy
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "-q")
    assert "no commit yet" in repository_of(tmp_path / "new").text
    monkeypatch.setenv("PATH", "")
    assert "--allow-dirty-repo" in repository_of(repository).remedy
