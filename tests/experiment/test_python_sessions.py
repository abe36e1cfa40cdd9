"""Sessions of trainings in Python; notes, and what is left of what was refused."""

from __future__ import annotations

import importlib
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from physgym import generate
from physgym.cli import main
from physgym.errors import ChangedCode, ConfigError
from physgym.experiment.provenance import dataset_hash
from physgym.experiment.record import read_config, read_record, state
from physgym.experiment.run import Run
from physgym.experiment.session import INFO
from physgym.nn import MLP
from physgym.training import Metrics, Trainer, load_checkpoint
from tests.support import toys
from tests.support.memory_samples import linear_samples


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
    far = generate("physgym/Spring-v0", "far", samples=10, max_steps=5, seed=3, num_workers=0, progress=False)
    first = made(dataset, session="sessions/first", callbacks=[Metrics(tests={"far": far})])
    first.fit()
    record = read_record(first.session)
    assert record["runs"][0]["others"]["test far"]["hash"] == dataset_hash(far)
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


def test_the_record_is_written_when_the_training_begins_and_when_it_ends(tmp_path, monkeypatch):
    written = []
    usual = Run._save
    monkeypatch.setattr(
        Run, "_save", lambda run: usual(run) or written.append(read_record(tmp_path / "one")["runs"][-1])
    )
    made(linear_samples(40), session=tmp_path / "one").fit()
    assert [run["device"] for run in written] == ["cpu", "cpu"]
    assert [run["outcome"] for run in written] == [None, "completed"]


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


SIMULATION = """
from tests.support.toys import Line

class Own(Line):
    def __init__(self, factor=1):
        super().__init__()

def make():
    return Own()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user with a simulation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_module.py").write_text(SIMULATION)
    yield importlib.import_module("own_module")
    sys.modules.pop("own_module", None)


OPTIONS = {"samples": 12, "num_workers": 0, "progress": False, "max_steps": 4}


@pytest.mark.parametrize("arguments", [{"factor": 2}, [{"factor": 2}, {"factor": 3}]], ids=["one", "several"])
@pytest.mark.parametrize("imported", [True, False], ids=["imported", "not imported"])
def test_a_session_with_a_class_runs_in_its_simulation(own, arguments, imported, monkeypatch, capsys):
    dataset = generate(own.Own, "data", env_kwargs=arguments, **OPTIONS)
    if not imported:  # in the program that trains
        del sys.modules["own_module"]
    made(dataset, session="sessions/first").fit()
    config = read_config(Path("sessions/first"))
    assert (config.get("environment") is not None) == imported
    if imported:
        assert config["environment"] == {"id": "own_module:Own", "arguments": arguments}
    assert "3 steps" in command(monkeypatch, capsys, "run", "sessions/first", "--steps", "3")
    whole = ("--data", "data", "--mode", "training", "--solver")
    with pytest.warns(UserWarning, match="are among those of the samples that the network was trained on"):
        said = command(monkeypatch, capsys, "replay", "sessions/first", *whole)
    assert "12 steps" in said


def test_a_training_whose_simulation_has_changed_is_continued_where_that_is_allowed(own):
    dataset = generate(own.Own, "data", **OPTIONS)
    trainer = made(dataset, session="sessions/first")
    trainer.fit()
    Path("own_module.py").write_text(f"{SIMULATION}# changed")
    with pytest.raises(ChangedCode, match=r"the session .*first was made by other code .* own_module has changed"):
        made(dataset, session="sessions/first", resume=True).fit()
    assert len(read_record(trainer.session)["runs"]) == 1
    made(dataset, session="sessions/first", resume=True, allow_changed_code=True).fit()
    first, second = (run["code"]["modules"]["own_module"] for run in read_record(trainer.session)["runs"])
    assert first != second  # both are recorded


def local():
    class Local(toys.Line):
        pass

    return Local


@pytest.mark.parametrize("kind", ["local", "function", "script", "nothing"])
def test_a_simulation_that_cannot_be_imported_by_its_name_is_said(own, kind, monkeypatch, capsys):
    env = {"local": local(), "function": own.make, "script": own.Own, "nothing": own.make}[kind]
    if kind == "script":
        monkeypatch.setattr(own.Own, "__module__", "__main__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made(generate(env, "data", **OPTIONS), session="sessions/first").fit()
    if kind == "nothing":
        shutil.rmtree("data")
    said = " ".join(command(monkeypatch, capsys, "run", "sessions/first", "--steps", "3").split())
    assert "environment.id=module:Class" in said
    assert "Traceback" not in said
    name = {
        "script": "'__main__:Own'",
        "function": "'own_module:make'",
        "local": "Local'",
        "nothing": "physgym/Beam-v0",
    }
    assert name[kind] in said
