"""`--resume` of commands with a session: the same command, typed again, goes on."""

from __future__ import annotations

import json

import pytest
import yaml

from physgym import cli
from physgym.errors import ConfigError
from tests.support.repositories import identity, ignoring

__all__ = ["identity"]  # a fixture
pytestmark = pytest.mark.slow
DATA = {"environment": {"id": "physgym/Spring-v0"}, "dataset": {"samples": 250, "num_workers": 0}, "session": "s"}
CONFIG = DATA | {"training": {"epochs": 1}}
SEARCH = CONFIG | {"search": {"parameters": {"optimization.lr": {"low": 1e-4, "high": 1e-2}}, "trials": 1}}


@pytest.fixture
def folder(tmp_path, identity, monkeypatch):
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, settings in {"train": CONFIG, "search": SEARCH}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def command(kind, *words):
    cli.app([kind, f"{kind}.yaml", "--resume", "--no-report", *words], standalone_mode=False)


def outcomes(folder):
    return [run["outcome"] for run in json.loads((folder / "s" / "record.json").read_text())["runs"]]


@pytest.mark.parametrize("kind", ["train", "search"])
def test_it_begins_and_then_goes_on(folder, kind):
    (folder / "s").mkdir()  # as one that was killed before it had written a word
    (folder / "s" / ".gitignore").write_text("*\n")
    command(kind)
    assert outcomes(folder) == ["completed"]
    command(kind)
    assert outcomes(folder) == ["completed", "completed"]
    assert [path.name for path in folder.iterdir() if path.is_dir() and path.name != ".git"] == ["s"]


def test_another_configuration_is_refused(folder):
    command("train")
    with pytest.raises(ConfigError, match=r"other values of training.epochs, training.batch_size\. "):
        command("train", "training.epochs=2", "training.batch_size=7")
    with pytest.raises(ConfigError, match="a session of physgym train"):
        command("search")
    (folder / "s" / "record.json").unlink()
    with pytest.raises(ConfigError, match="not a session"):
        command("train")
    assert (folder / "s" / "networks").is_dir()
