"""Sessions of trainings in Python; notes, and what is left of what was refused."""

from __future__ import annotations

import sys

import pytest

from physgym import generate
from physgym.errors import ConfigError
from physgym.experiment.cli import main
from physgym.experiment.session import INFO, Run, read_record, state
from physgym.nn import MLP
from physgym.training import Trainer, load_checkpoint


def made(dataset, **more):
    network = MLP.from_spec(dataset.spec, hidden=(4,))
    return Trainer(network, dataset, epochs=1, progress=False, **more)


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["physgym", *words])
    with pytest.raises(SystemExit):
        main()
    done = capsys.readouterr()
    return done.out + done.err


@pytest.mark.slow
def test_a_training_in_python_is_a_session(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = generate("physgym/Spring-v0", "data", samples=40, max_steps=10, num_workers=1, progress=False)
    first = made(dataset, session="sessions/first")
    first.fit()
    record = read_record(first.session)
    assert state(first.session) == "completed"
    assert record["runs"][0]["dataset"]["samples"] == 30
    assert record["runs"][0]["results"]["epoch"] == 1
    second = made(dataset, session="sessions/first")
    second.fit()
    assert second.session.name == "first-2"  # a name that is taken is not continued without a word
    assert "is taken" in capsys.readouterr().err
    made(dataset, session="sessions/first", resume=True).fit()
    assert len(read_record(first.session)["runs"]) == 2
    Trainer(load_checkpoint(first.session), dataset, epochs=2, session=first.session, progress=False).fit()
    assert len(read_record(first.session)["runs"]) == 3

    listed = command(monkeypatch, capsys, "list")
    assert "first " in listed
    assert "first-2" in listed
    assert "trained from Python" in command(monkeypatch, capsys, "show", "sessions/first")
    assert "3 steps" in command(monkeypatch, capsys, "run", "sessions/first", "--steps", "3")
    assert "resume=True" in command(monkeypatch, capsys, "resume", "sessions/first")
    assert "a program in Python made it" in command(monkeypatch, capsys, "reproduce", "sessions/first")


def test_notes_are_kept(tmp_path):
    with Run(tmp_path, "train", {}):
        pass
    file = tmp_path / INFO
    file.write_text(f"{file.read_text()}\nmy note\nof two lines\n")
    with Run(tmp_path, "train", {}) as run:
        run.accepted()
    assert file.read_text().endswith("my note\nof two lines\n")
    assert file.read_text().count("my note") == 1
    assert "2 runs" in file.read_text()


@pytest.mark.parametrize("error", [ConfigError("wrong"), KeyboardInterrupt()], ids=str)
def test_what_is_refused_late_takes_no_name(tmp_path, error):
    session = tmp_path / "s"
    session.mkdir()
    (session / ".gitignore").write_text("*\n")
    with pytest.raises(type(error)):
        refused(session, error)
    assert not session.exists()
    session.mkdir()
    with pytest.raises(type(error)):
        refused(session, error, "one")
    assert read_record(session)["runs"][0]["outcome"]


def refused(session, error, *files):
    with Run(session, "train", {}):
        (session / "networks").mkdir()
        for name in files:
            (session / "networks" / name).touch()
        raise error
