"""`physgym submit`: what it writes, and what it refuses before anything is written."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from physgym import cli
from physgym.errors import ConfigError
from physgym.experiment.config import load_config
from tests.support.repositories import identity, ignoring

__all__ = ["identity"]  # a fixture
SPRING = {"environment": {"id": "physgym/Spring-v0"}, "dataset": {"samples": 100}, "training": {"epochs": 1}}
TIME = ("--time", "1:00:00")


@pytest.fixture
def folder(tmp_path, identity, monkeypatch):
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*words, settings=SPRING):
    Path("c.yaml").write_text(yaml.safe_dump({"session": "sessions/c", **settings}))
    cli.app(["submit", "c.yaml", *words], standalone_mode=False)


def test_a_job(folder, capsys):
    words = ("--nodes", "3", "--per-node", "8", "--sbatch=--mem=4G", "--setup", "module load x", "--gpus", "1")
    submit(*TIME, *words, "training.epochs=7")
    said = capsys.readouterr().out
    assert "3 node(s), at most 1 h" in said
    assert "sbatch sessions/c-job/job.sh" in said
    job = folder / "sessions" / "c-job"
    text = (job / "job.sh").read_text()
    assert subprocess.run(["bash", "-n", str(job / "job.sh")], check=False).returncode == 0
    assert "#SBATCH --cpus-per-task=8" in text
    token = (job / "token").read_text().strip()
    assert token not in text
    assert [stat.S_IMODE(path.stat().st_mode) for path in (job, job / "token", job / "job.sh")] == [0o700, 0o600, 0o700]
    config = load_config(job / "config.yaml")
    assert (config.training.epochs, config.session) == (7, str(job / "session"))
    assert subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, check=True).stdout == b""


def test_samples_alone_have_a_place_in_the_job(folder):
    submit(*TIME, "--only-samples", "--out", "job", "--allow-dirty-repo")
    assert load_config(folder / "job" / "config.yaml").dataset.path == str(folder / "job" / "dataset")
    text = (folder / "job" / "job.sh").read_text()
    assert "generate" in text
    assert "--allow-dirty-repo" in text
    assert not (folder / "job" / "token").exists()


def test_a_training_by_several_processes_has_its_samples_first(folder):
    submit(*TIME, "--nodes", "2", "--processes", "4", "--per-node", "8", "--out", "job")
    text = (folder / "job" / "job.sh").read_text()
    assert text.index("generate") < text.index("torch.distributed.run")
    assert "#SBATCH --cpus-per-task=8" in text


def test_an_array_of_a_search(folder):
    search = {"parameters": {"optimization.lr": {"low": 1e-4, "high": 1e-2}}, "workers": 3}
    submit(*TIME, "--array", "20", "--out", "job", settings={**SPRING, "search": search})
    text = (folder / "job" / "job.sh").read_text()
    assert "#SBATCH --array=0-19\n" in text
    assert "#SBATCH --cpus-per-task=3\n" in text
    assert f"--output={folder}/job/%A_%a.log" in text
    assert "config.yaml --join" in text


ONLINE = {"environment": {"id": "physgym/Spring-v0"}, "dataset": {"samples": 10, "produce": "online"}}


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (("--time", "4h"), SPRING, "HOURS:MINUTES:SECONDS"),
        (("--time", "1:00"), SPRING, "leave none of them"),
        (TIME, {"training": {"epochs": 1}}, "name a simulation, or a dataset"),
        ((*TIME, "--per-node", "2"), {"dataset": {"path": "none"}}, "there is none"),
        ((*TIME, "--per-node", "2"), {**SPRING, "environment": {"id": "worker:my/Sim-v0"}}, "have that connect"),
        ((*TIME, "--nodes", "2"), SPRING, "--per-node N"),
        ((*TIME, "--processes", "2"), ONLINE, "produce=before"),
        ((*TIME, "--out", "a b"), SPRING, "without spaces; by default it is that of the session"),
        ((*TIME, "--out", "c.yaml"), SPRING, "a folder of its own: name one with --out"),
        ((*TIME, "--partition", "a b"), SPRING, "--partition"),
        ((*TIME, "--sbatch", "mem=8G"), SPRING, "--mem=8G"),
        ((*TIME, "--setup", "a\nb"), SPRING, "one line"),
        ((*TIME, "--advertise", 'a"; rm b'), SPRING, "without quotes"),
        ((*TIME, "--only-samples", "--processes", "2"), SPRING, "trains nothing"),
        ((*TIME, "--array", "2"), SPRING, "needs a section search"),
        ((*TIME, "--no-logging"), SPRING, "continues from its session"),
        ((*TIME, "network.type=None"), SPRING, "network"),
    ],
)
def test_what_is_wrong_is_one_error(folder, words, settings, said):
    before = {path.name for path in folder.iterdir()} | {"c.yaml"}
    with pytest.raises(ConfigError, match=re.escape(said)):
        submit(*words, settings=settings)
    assert {path.name for path in folder.iterdir()} == before


def test_go_needs_sbatch(folder, monkeypatch):
    (folder / "bin").mkdir()
    (folder / "bin" / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(folder / "bin"))
    with pytest.raises(ConfigError, match="no sbatch"):
        submit(*TIME, "--go")
    assert not (folder / "sessions").exists()


def test_what_sbatch_says_is_handed_on(folder, monkeypatch, capsys):
    program = folder / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text("#!/bin/bash\ncat answer\ncat refusal >&2 && exit 1\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (folder / "answer").write_text("Submitted batch job 5")
    submit(*TIME, "--go", "--out", "one")
    assert "batch job 5" in capsys.readouterr().out
    (folder / "refusal").write_text("invalid partition")
    with pytest.raises(ConfigError, match=r"invalid partition\n.*sbatch .*two/job.sh"):
        submit(*TIME, "--go", "--out", "two")
    assert (folder / "two" / "job.sh").exists()
