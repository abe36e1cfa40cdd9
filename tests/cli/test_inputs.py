"""`physgym run --inputs`, and who takes none."""

from __future__ import annotations

import sys

import pytest

from physgym import cli
from physgym.generation.generate import generate
from physgym.nn import MLP
from physgym.running.runner import Runner
from physgym.scene.inputs import RECORD
from physgym.training import Trainer, load_checkpoint
from tests.support.watching import Person


def status_of(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["physgym", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    options = {"samples": 40, "max_steps": 10, "num_envs": 1, "num_workers": 0, "progress": False}
    dataset = generate("physgym/Spring-v0", folder / "data", **options)
    network = MLP.from_spec(dataset.spec, hidden=(4,))
    Trainer(network, dataset, epochs=1, session=folder / "spring", progress=False).fit()
    return folder / "spring"


@pytest.mark.slow
def test_a_session_is_run_with_the_inputs_of_a_person_once_more(tmp_path, session, monkeypatch, capsys):
    person = Person(monkeypatch, {2: [[0, "push", 2.0]]})
    original = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, *a, **k: original(self, *a, **{**k, "callbacks": [person]}))
    first, again = tmp_path / "first", tmp_path / "again"
    options = ("--steps", "8", "--no-report", "--cpu")
    cli.app(["run", str(session), *options, "--record", str(first), "--view", "vedo"], standalone_mode=False)
    assert "inputs: " in capsys.readouterr().err
    monkeypatch.setattr(Runner, "run", original)
    cli.app(["run", str(session), *options, "--record", str(again), "--inputs", str(first)], standalone_mode=False)
    files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (first, again)]
    assert files[0] == files[1]
    replayed = ["replay", str(session), "--data", str(first), "--mode", "prediction", "--solver", "--cpu"]
    cli.app(replayed, standalone_mode=False)
    person = Person(monkeypatch, {1: [[0, "stop", True]]})
    monkeypatch.setattr(Runner, "run", lambda self, *a, **k: original(self, *a, **{**k, "callbacks": [person]}))
    cli.app(["run", str(session), *options, "--view", "vedo"], standalone_mode=False)
    assert (session / RECORD).exists()


@pytest.mark.slow
def test_what_is_no_record_is_one_error_and_nothing_is_written(tmp_path, session, monkeypatch, capsys):
    run = ("run", session, "--steps", "2", "--cpu", "--no-report", "--record", tmp_path / "r", "--inputs")
    assert status_of(monkeypatch, *run, tmp_path / "none") == 2
    assert "there is no record of inputs" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert status_of(monkeypatch, "run", session, "--rollout", "2", "--inputs", tmp_path) == 2
    assert "--inputs belongs to a run" in capsys.readouterr().err
    assert load_checkpoint(session)


@pytest.mark.parametrize(
    "words",
    [("generate", "physgym/Spring-v0", "--out", "d"), ("train", "c.yaml"), ("watch", "d")],
    ids=lambda words: words[0],
)
def test_generate_train_and_watch_take_no_inputs(monkeypatch, capsys, words):
    assert status_of(monkeypatch, *words, "--inputs", "record") == 2
    assert "--inputs" in capsys.readouterr().err
