"""A path means what it meant when it was given, wherever a simulation or a caller goes later."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import files
from physgym.errors import SampleError
from physgym.experiment.config import check_config
from physgym.experiment.runs import generate_samples, train
from physgym.formats.numpy_arrays import export_numpy, import_numpy
from physgym.nn import MLP
from physgym.runner import RolloutEvaluation, Runner, SaveFrames
from physgym.storage.location import place
from physgym.training import Trainer, load_checkpoint


class Solver(physgym.Simulation):
    """Works in a case folder, as wrappers of command-line solvers do."""

    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=action_space)
    sample_roles: ClassVar = {"x": "input", "y": "target"}
    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def begin(self, options):
        Path("case").mkdir(exist_ok=True)
        os.chdir("case")
        self.s = np.zeros(2, np.float32)

    def advance(self, action):
        self.a, self.s = action, action * np.float32(0.5)

    def observation(self):
        return self.s

    def sample(self):
        return {"x": self.a, "y": self.s}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_simulation_that_changes_the_folder_moves_nothing(home):
    data = physgym.generate(Solver, "data", samples=12, num_workers=0, max_steps=4, progress=False)
    os.chdir(home)
    assert (home / "data" / "dataset.json").exists()
    network = MLP.from_spec(data.spec, hidden=(4,))
    rollout = RolloutEvaluation(Solver, steps=2, seed=1)
    trainer = Trainer(network, data, epochs=2, session="sessions/a", progress=False, rollout=rollout)
    trainer.fit()
    os.chdir(home)
    with Runner(Solver, trainer.predictor, record="record", env_kwargs={"render_mode": "rgb_array"}) as runner:
        runner.run(6, callbacks=[SaveFrames("frames")], progress=False)
    os.chdir(home)
    assert not [path for path in everything(home) if path.startswith("case")]
    assert load_checkpoint("sessions/a") is not None
    assert len(physgym.SampleDataset("record", mode="prediction")) == 6
    assert len(list((home / "frames").glob("*.png"))) == 6


def test_a_dataset_is_read_where_it_was_opened(home, tmp_path_factory):
    physgym.generate("physgym/Spring-v0", "data", samples=8, num_workers=0, progress=False)
    dataset = physgym.SampleDataset("data")
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(dataset[:]["force"]) == 8
    assert dataset.statistics["force"].count == 8


def test_a_configuration_is_of_the_folder_where_it_was_run(home):
    config = {
        "environment": {"id": f"{__name__}:Solver"},
        "session": "sessions/b",
        "dataset": {"path": "mine", "samples": 12, "num_workers": 0, "max_steps": 4},
        "training": {"epochs": 1, "checkpoints": {"path": "weights"}},
        "network": {"arguments": {"hidden": [4]}},
    }
    train(check_config(config, "test"))
    os.chdir(home)
    assert (home / "mine" / "dataset.json").exists()
    assert list((home / "weights").iterdir())
    config["dataset"]["path"] = "other"
    generate_samples(check_config(config, "test"))
    os.chdir(home)
    assert (home / "other" / "dataset.json").exists()


def test_home_is_expanded(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home / "me"))
    assert place("~/data") == home / "me" / "data"
    physgym.generate("physgym/Spring-v0", "~/data", samples=4, num_workers=0, progress=False)
    assert (home / "me" / "data" / "dataset.json").exists()
    export_numpy(physgym.SampleDataset("~/data"), "~/arrays.npz")
    assert (home / "me" / "arrays.npz").exists()
    assert len(import_numpy("~/arrays.npz", "~/again")) == 4
    assert not (home / "~").exists()


def test_home_is_expanded_on_the_command_line(home, monkeypatch):
    from physgym.cli import main

    monkeypatch.setenv("HOME", str(home / "me"))
    line = ["physgym", "generate", "physgym/Spring-v0", "--out=~/spring", "--samples", "4", "--workers", "0"]
    monkeypatch.setattr("sys.argv", line)
    with contextlib.suppress(SystemExit):
        main()
    assert (home / "me" / "spring" / "dataset.json").exists()
    assert not (home / "~").exists()


def test_links_and_unknown_users_stay(home):
    (home / "real" / "inner").mkdir(parents=True)
    (home / "link").symlink_to(home / "real" / "inner")
    assert files.absolute("link/../x") == home / "link" / ".." / "x"
    assert files.absolute("~nobody-of-this-name/x") == home / "~nobody-of-this-name" / "x"


def test_paths_are_shown_as_one_types_them(home, monkeypatch):
    (home / "work" / "inner").mkdir(parents=True)
    (home / "link").symlink_to(home / "work" / "inner")
    monkeypatch.chdir(home / "work")
    assert files.short(home / "work" / "data" / "one") == "data/one"
    assert files.short("data/one") == "data/one"
    assert files.short("../again") == str(home / "again")
    assert files.short(home / "work" / ".." / "again") == str(home / "again")
    assert files.short("../work/inner/x") == "inner/x"
    assert files.short(home / "link" / ".." / "x") == "x"  # where it leads
    assert files.short("s3://bucket/a") == "s3://bucket/a"


@pytest.mark.parametrize(
    "picture", [None, np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), int), np.zeros((8, 8), bool), "x", [], 1.0]
)
def test_what_is_no_picture_is_named(picture):
    from physgym.running.save_frames import checked_picture

    with pytest.raises(SampleError, match=r"step 3: render\(\) gave .* no picture"):
        checked_picture(picture, "step 3")


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 4)])
def test_pictures_are_taken(shape):
    from physgym.running.save_frames import checked_picture

    for picture in (np.zeros(shape, np.uint8), np.ones(shape)):
        assert checked_picture(picture, "step 0").shape in (shape, shape[:2])
