"""What an interrupted command says to continue with: run as a shell reads it, it continues."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import physgym
from physgym import cli
from tests.support.commands import run_command
from tests.support.repositories import commit, git, identity  # noqa: F401 - a fixture

SIMULATION = '''
import os, pathlib, signal
import numpy as np
import physgym
from gymnasium import spaces
from physgym.training import Callback


def press(where):
    """Press Ctrl-C, once and at one place."""
    armed = pathlib.Path(__file__).with_name("armed")
    if armed.exists() and armed.read_text() == where:
        armed.unlink()
        os.kill(os.getpid(), signal.SIGINT)


class Half(physgym.Simulation):
    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=action_space)
    sample_roles = {"x": "input", "y": "target"}
    made = 0

    def begin(self, options):
        self.x = np.zeros(2, np.float32)

    def advance(self, action):
        Half.made += 1
        if Half.made == 12:
            press("generation")
        self.x = action

    def observation(self):
        return self.x

    def sample(self):
        return {"x": self.x, "y": self.x / 2}


class Pressed(Callback):
    adds = ()

    def epoch_end(self, trainer, values):
        press("training")
'''
CONFIG = {
    "session": "sessions/a run",
    "environment": {"id": "halves:Half"},
    "dataset": {"samples": 20, "num_workers": 0, "max_steps": 4},
    "network": {"arguments": {"hidden": []}},
    "training": {"epochs": 2, "batch_size": 8, "callbacks": ["halves:Pressed"]},
    "validation": {"fraction": 0.2},
    "search": {
        "trials": 1,
        "workers": 1,
        "sampler": "random",
        "parameters": {"optimization.lr": {"low": 0.01, "high": 0.1}},
    },
}
COMMANDS = {
    "train, while it generates": (("train", "config.yaml"), "generation"),
    "train": (("train", "config.yaml"), "training"),
    "generate": (("generate", "config.yaml"), "generation"),
    "generate --out": (("generate", "config.yaml", "--out", "some data"), "generation"),
    "search": (("search", "config.yaml"), "generation"),
}


@pytest.fixture
def project(tmp_path, monkeypatch, identity):  # noqa: F811
    folder = tmp_path / "my project"
    folder.mkdir()
    (folder / "halves.py").write_text(SIMULATION)
    (folder / "config.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("halves", None)


def interrupted(arguments, monkeypatch, capsys):
    """Run a command that is interrupted; return what it says to continue with."""
    monkeypatch.setattr(sys, "argv", ["physgym", *arguments])
    try:
        code = cli.app(list(arguments), standalone_mode=False)
    except typer.Exit as ended:
        code = ended.exit_code
    said = capsys.readouterr().err
    assert code == 130, said
    found = re.search(r"continue with: (physgym .*)$", said, re.IGNORECASE | re.MULTILINE)
    assert found, said
    return found[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *((name, False) for name in COMMANDS if name != "search"),
        *((name, True) for name in ("generate", "train", "search")),
    ],
)
def test_what_is_printed_continues(project, monkeypatch, capsys, name, kept):
    arguments, place = COMMANDS[name]
    if kept:
        (project / "halves.py").write_text(f"{SIMULATION}\n# a change\n")
        arguments = (*arguments, "--save-diff")
    (project / "armed").write_text(place)
    onward = interrupted(arguments, monkeypatch, capsys)
    assert not (project / "armed").exists()
    path = [str(Path(physgym.__file__).parents[1]), str(project), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    words = subprocess.run(f"printf '%s\\0' {onward}", shell=True, capture_output=True, text=True, check=True).stdout
    program, *arguments_onward = words.removesuffix("\0").split("\0")
    assert program == "physgym"
    done = run_command(project, *arguments_onward)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = project / ("some data" if "--out" in arguments else "sessions/a run/dataset")
    dataset = physgym.SampleDataset(folder)
    assert dataset.index("episode").tolist() == [row // 4 for row in range(20)]
    if "--out" in arguments:
        return
    runs = json.loads((project / "sessions/a run/record.json").read_text())["runs"]
    assert [run["outcome"].split(";")[0].startswith("interrupted") for run in runs] == [True, False]
    if name.startswith("train"):
        assert (project / "sessions/a run/networks/epoch-0002").is_dir()
    if name == "search":
        assert (project / "sessions/a run/trials/0000/networks").is_dir()
