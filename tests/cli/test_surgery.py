"""``physgym data``: its words, its options, and its exit codes."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from physgym import SampleDataset, files
from physgym.cli import app
from physgym.data import surgery
from physgym.errors import ConfigError, DatasetError
from physgym.sample import SampleSpec
from physgym.scene import Scene, field
from physgym.scene.declared import scene_text
from tests.support.commands import run_command
from tests.support.datasets import SPEC, write

FEW = SampleSpec([SPEC["forces"], SPEC["energy"]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with two datasets and a module of functions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "flush", lambda path: None)
    for name, count in (("a", 10), ("b", 7)):
        write(tmp_path / name, count, spec=FEW)
    return tmp_path


def data(*arguments, code=0):
    """Run a command in this process; return what it prints, or raise what it raises."""
    done = CliRunner().invoke(app, ["data", *arguments], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.return_value in (None, code) or done.exit_code == code, done.output
    return done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* of the .* episodes of")
def test_datasets_are_merged_filtered_and_changed(folder):
    assert "training: 17 samples of 10 + 7; forces, energy" in data("merge", "a", "b", "--out", "c")
    said = data("filter", "c", "--where", "energy < 1 and step > 0", "--out", "d", "--dry-run")
    assert "training: 4 samples of 17" in said
    assert "nothing was written to d (dry run)" in said
    data("drop", "c", "forces", "--out", "e")
    data("rename", "e", "energy", "work", "--out", "f")
    (folder / "surgery_functions.py").write_text("def half(sample):\n    return sample['work'] / 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        data("add", "f", "half", "--with", "surgery_functions:half", "--unit", "J", "--workers", "0", "--out", "g")
    found = SampleDataset(folder / "g")
    np.testing.assert_array_equal(found[:]["half"], found[:]["work"] / 2)
    data("describe", "g", "--set", "licence=MIT", "--set", "half.unit=kJ", "--out", "h")
    assert SampleDataset(folder / "h").spec["half"].unit == "kJ"
    assert data("describe", "h") == "licence: MIT\n"
    assert "'half' has unit 'J' and 'kJ'" in data("diff", "g", "h", code=1)
    assert data("diff", "a", "a") == "no difference\n"


def test_a_scene_among_the_words_is_the_names_of_its_objects(folder):
    scene = Scene()
    scene.text("strength", "{:.1f} J", values=field("energy"))
    surgery.describe(folder / "a", {"scene": scene_text(scene.declaration()), "licence": "MIT"})
    assert data("describe", "a") == "scene: strength\nlicence: MIT\n"


def test_what_is_wrong_is_one_error_and_leaves_nothing(folder):
    before = sorted(folder.iterdir())
    for arguments, error, problem in [
        (("filter", "a", "--where", "speed > 1", "--out", "c"), ConfigError, "no field or parameter 'speed'"),
        (("filter", "a", "--where", "step > 1", "--out", "b"), DatasetError, "b exists"),
        (("drop", "a", "speed", "--out", "c"), ConfigError, "no field 'speed'"),
        (("add", "a", "x", "--with", "json:nothing", "--out", "c"), ConfigError, "no function 'nothing'"),
        (("describe", "a", "--set", "licence"), ConfigError, "write KEY=VALUE"),
        (("describe", "a", "--set", "forces.unit=kN"), ConfigError, "add --out"),
        (("merge", "a", "nothing", "--out", "c"), DatasetError, "there is no dataset at nothing"),
    ]:
        with pytest.raises(error, match=problem):
            data(*arguments)
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
def test_errors_exit_with_2_and_differences_with_1(folder):
    done = run_command(folder, "data", "filter", "a", "--where", "speed > 1", "--out", "c")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: there is no field or parameter 'speed'")
    assert run_command(folder, "data", "merge", "a", "b").returncode == 2
    assert run_command(folder, "data", "diff", "a", "b").returncode == 1
    assert run_command(folder, "data", "diff", "a", "a").returncode == 0
