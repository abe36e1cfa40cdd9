"""`physgym new`: what it writes works as it is; what it refuses, it refuses with another proposal."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tests
from physgym.errors import ConfigError
from physgym.experiment import project as module
from physgym.experiment.project import new_project
from tests.support.commands import run_command

BIN = Path(sys.executable).parent
ROOT = Path(next(iter(tests.__path__))).parent
AUTHOR = {"NAME": "A", "EMAIL": "a@example.org"}
IDENTITY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in AUTHOR.items()}
NOBODY = {
    "PYTHONPATH": str(ROOT),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CEILING_DIRECTORIES": "/",
}


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A folder in which git knows nobody."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def somebody(nobody, monkeypatch):
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    return nobody


def call(folder, *command, code=0):
    """What a command prints, which is run as a user would in this folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**environment, **NOBODY, **IDENTITY}
    if command[0] == "physgym":
        done = run_command(folder, *command[1:], env=environment)
    else:
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A project that the command line has just written."""
    folder = tmp_path_factory.mktemp("new")
    said = call(folder, "physgym", "new", "demo_sim")
    assert "cd demo_sim" in said
    assert "physgym check demo_sim:demo_sim/DemoSim-v0" in said
    assert [path.name for path in folder.iterdir()] == ["demo_sim"]
    return folder / "demo_sim"


@pytest.mark.slow
def test_it_passes_its_own_tests(demo):
    said = call(demo, "pytest", "-q", "-W", "error")
    assert " passed" in said
    assert " passed, 2 skipped in" in said  # rules of hooks that it does not have


@pytest.mark.slow
def test_its_simulation_keeps_the_rules(demo):
    said = call(demo, "physgym", "check", "demo_sim:demo_sim/DemoSim-v0")
    assert "FAIL" not in said
    assert "ok   a network can stand in for the solver" in said


@pytest.mark.slow
def test_its_network_is_trained_and_run(demo):
    assert "session: sessions/demo_sim" in call(demo, "physgym", "train", "config.yaml")
    said = call(demo, "physgym", "run", "sessions/demo_sim", "--steps", "40")
    error = float(said.split("next_temperature: relative L2 error ")[1].split("%")[0])
    assert error < 3
    assert git(demo, "status", "--porcelain") == ""  # what a training writes is no change of the repository


@pytest.mark.slow
def test_its_tests_find_a_mistake(somebody):
    made = new_project("broken")
    file = made.folder / "broken" / "simulation.py"
    text = file.read_text()
    assert "2 * conductance" in text
    file.write_text(text.replace("2 * conductance", "1.9 * conductance"))
    assert "test_heat_is_neither_made_nor_lost" in call(made.folder, "pytest", "-q", "-k", "heat", code=1)


def test_every_placeholder_is_filled_in_and_the_places_to_change_are_marked(nobody):
    made = new_project("heat-in-fins", git=False)
    assert (made.package, made.env_id, made.note) == ("heat_in_fins", "heat_in_fins/HeatInFins-v0", "")
    files = sorted(str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file())
    assert files == [
        ".gitignore",
        "README.md",
        "config.yaml",
        "heat_in_fins/__init__.py",
        "heat_in_fins/simulation.py",
        "pyproject.toml",
        "tests/test_simulation.py",
    ]
    text = {name: (made.folder / name).read_text() for name in files}
    assert not any("$" in content for content in text.values())
    assert tomllib.loads(text["pyproject.toml"])["project"]["name"] == "heat-in-fins"
    assert text["heat_in_fins/simulation.py"].count("# CHANGE: ") >= 8
    assert all(name in text["README.md"] for name in files if "/" in name or name.endswith("yaml"))


def test_the_templates_are_part_of_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = Path(module.__file__).parent
    packed = {path for pattern in patterns[module.__name__] for path in folder.glob(pattern)}
    assert packed == {path for path in (folder / "template").rglob("*") if path.is_file()}
    assert len(packed) == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1sim", "begins with a letter .*physgym new my_1sim$"),
        ("_sim", "physgym new sim$"),
        ("class", "a word of Python's own.*physgym new my_class$"),
        ("numpy", "'import numpy' means another package already.*physgym new my_numpy$"),
        ("json", "physgym new my_json$"),
        ("physgym", "physgym new my_physgym$"),
        ("Beam Sim", "physgym new beam_sim$"),
        ("beam.sim", "physgym new beam_sim$"),
        ("wärme", "physgym new w_rme$"),
        ("tests", "another folder of the project.*physgym new my_tests$"),
        ("../data", "physgym new my_data$"),
        (".", "physgym new my_simulation$"),
        ("..", "physgym new my_simulation$"),
    ],
)
def test_names_that_would_not_work_are_refused_with_another(nobody, name, text):
    (nobody / "in").mkdir()
    os.chdir("in")
    with pytest.raises(ConfigError, match=text):
        new_project(name)
    assert not list(Path().iterdir())
    assert [path.name for path in nobody.iterdir()] == ["in"]


@pytest.mark.slow
def test_odd_names_that_work(somebody):
    code = "import sys, gymnasium\n"
    for name in ("my-sim", "Simulation", "Any", "x", "package", "some/where/np"):
        made = new_project(name)
        assert made.note == ""
        assert made.package == name.rpartition("/")[2].replace("-", "_").lower()
        code += f"sys.path.insert(0, {str(made.folder)!r})\n"
        code += f"env = gymnasium.make('{made.package}:{made.env_id}')\n"
        code += "env.reset(seed=0); assert env.step(env.action_space.sample())[-1]['sample']\n"
    call(somebody, Path(sys.executable).name, "-c", code)


def test_a_folder_that_is_there_is_left_alone(nobody):
    (nobody / "sim").mkdir()
    assert new_project("sim", git=False).folder.is_dir()  # an empty one is taken
    mine = nobody / "sim" / "config.yaml"
    mine.write_text("mine")
    with pytest.raises(ConfigError, match="sim exists and is not empty"):
        new_project("sim")
    (nobody / "file").write_text("")
    with pytest.raises(ConfigError, match="file exists"):
        new_project("file")
    with pytest.raises(ConfigError, match="cannot write file/sim"):
        new_project("file/sim")
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in nobody.iterdir()) == ["file", "sim"]


def test_what_breaks_off_leaves_nothing(nobody, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("physgym.experiment.project.new._under_git", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new_project("sim")
    assert not list(nobody.iterdir())


def test_a_new_repository_has_a_commit(somebody):
    made = new_project("sim")
    assert made.note == ""
    assert git(made.folder, "status", "--porcelain") == ""
    assert git(made.folder, "log", "--format=%an %s") == "A A new simulation, as physgym new wrote it"


def test_without_an_identity_the_command_is_said(nobody):
    made = new_project("sim")
    assert made.note.startswith("git made no commit (it does not know who you are")
    assert "cd sim && git add . && git commit" in made.note
    assert git(made.folder, "status", "--porcelain").startswith("A")


def test_without_git_there_is_still_a_project(nobody, monkeypatch):
    monkeypatch.setenv("PATH", str(nobody))
    made = new_project("sim")
    assert "git made no commit" in made.note
    assert (made.folder / "config.yaml").exists()


def test_inside_of_a_repository_none_is_made(somebody):
    git(somebody, "init", "--quiet")
    made = new_project("sims/first")
    assert not (made.folder / ".git").exists()
    assert str(somebody) in made.note
    command = made.note.partition(": ")[2]
    subprocess.run(command, shell=True, cwd=made.folder.parent, check=True, timeout=60, capture_output=True)
    assert git(somebody, "status", "--porcelain") == ""


def test_no_git_means_none(nobody):
    assert not (new_project("sim", git=False).folder / ".git").exists()
