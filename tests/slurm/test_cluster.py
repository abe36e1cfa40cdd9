"""Jobs on a SLURM of two nodes: they save, go back into the queue, and end with what one uninterrupted run makes."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest
import yaml

from physgym.data.dataset import SampleDataset
from physgym.errors import PhysGymError
from physgym.experiment.record import read_record
from physgym.training import list_checkpoints
from tests.machines.test_dialled_worker import PAUSE, SLOW
from tests.support.commands import run_command
from tests.support.repositories import identity, ignoring
from tests.support.slurm import slurm
from tests.training.test_ranks import together

__all__ = ["identity"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds for something to begin


@pytest.fixture(scope="module")
def cluster():
    with slurm() as found:
        yield found


@pytest.fixture
def folder(tmp_path, cluster, identity, monkeypatch):
    """A repository in which jobs are submitted."""
    variables = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
    for name, value in (variables | cluster.environment).items():
        monkeypatch.setenv(name, value)
    made = tmp_path / "work"
    made.mkdir()
    ignoring(made)
    return made


def submitted(folder, settings, *options):
    """Submit a configuration; the number of its job."""
    (folder / "c.yaml").write_text(yaml.safe_dump(settings))
    words = ("--time", "0:10:00", "--notice", "30", "--out", "job", "--go")
    done = run_command(folder, "submit", "c.yaml", *words, *options)
    assert done.returncode == 0, done.stderr
    return re.search(r"Submitted batch job (\d+)", done.stdout)[1]


def wait_until(there, log):
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline, log()
        time.sleep(0.1)


def test_samples_of_workers_on_both_nodes(cluster, folder, monkeypatch):
    """Told once that the time is over, and preempted once."""
    monkeypatch.setenv(PAUSE, "0.01")
    settings = {"environment": {"id": SLOW}, "dataset": {"samples": 1200}}
    job = submitted(folder, settings, "--nodes", "2", "--per-node", "1", "--only-samples")

    def log():
        return (folder / "job" / f"{job}.log").read_text()

    def samples():
        try:
            return len(SampleDataset(folder / "job" / "dataset"))
        except (OSError, PhysGymError):  # there is none yet
            return 0

    wait_until(lambda: samples() > 50, log)
    steps = cluster.ask("squeue", "-h", "--steps", "--job", job, "-o", "%i %N")
    assert f"{job}.0 n1" in steps.splitlines() or f"{job}.1 n1" in steps.splitlines()
    assert "n[1-2]" in steps
    first = samples()
    cluster.ask("scancel", "--batch", "--signal=USR2", job)
    cluster.begin_now(job)
    assert "USR2: what runs is completed and saved" in log()
    assert log().count("goes back into the queue") == 1
    wait_until(lambda: samples() > first + 50, log)
    assert samples() < 1200
    other = cluster.ask("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "true")
    cluster.wait(job, "PENDING", log=log)
    assert "TERM: what runs is completed and saved" in log()
    cluster.wait(other, "COMPLETED")
    cluster.begin_now(job)
    monkeypatch.setenv(PAUSE, "0")
    cluster.wait(job, "COMPLETED", log=log)
    assert cluster.state(job)["Restarts"] == "2"
    local = run_command(folder, "generate", "c.yaml", "dataset.path=here", "--workers", "0")
    assert local.returncode == 0, local.stderr
    digests = [hashlib.sha256((folder / name / "training-00000.h5").read_bytes()) for name in ("here", "job/dataset")]
    assert digests[0].hexdigest() == digests[1].hexdigest()


@pytest.mark.sweep
def test_a_training_on_both_nodes(cluster, folder):
    """Put back into the queue in the middle."""
    made = run_command(folder, "generate", "physgym/Spring-v0", "--out", "data", "--samples", "2000", "--workers", "0")
    assert made.returncode == 0, made.stderr
    settings = {"environment": {"id": "physgym/Spring-v0"}, "dataset": {"path": "data", "samples": 2000}}
    settings |= {"training": {"epochs": 30, "batch_size": 32}, "session": "one"}
    job = submitted(folder, settings, "--nodes", "2", "--processes", "1")

    def log():
        return (folder / "job" / f"{job}.log").read_text()

    session = folder / "job" / "session"
    wait_until(lambda: (session / "networks").is_dir() and list_checkpoints(session / "networks"), log)
    cluster.ask("scontrol", "requeue", job)
    cluster.begin_now(job)
    cluster.wait(job, "COMPLETED", log=log)
    statuses, _, errors = together(folder, "train", "c.yaml", "--no-report")
    assert statuses == [0, 0], errors
    runs, whole = (read_record(folder / name)["runs"] for name in ("job/session", "one"))
    assert [run["outcome"] for run in runs] == ["interrupted", "completed"]
    assert runs[-1]["weights"] == whole[-1]["weights"]
    assert runs[-1]["results"]["loss"] == whole[-1]["results"]["loss"]


@pytest.mark.sweep
def test_a_search_by_an_array(cluster, folder):
    """Its driver is to end before the search does; the other element drives on."""
    settings = {
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"samples": 640, "max_steps": 20, "num_workers": 0},
        "training": {"epochs": 6, "batch_size": 8},
        "search": {"parameters": {"optimization.lr": {"low": 1e-4, "high": 1e-2}}, "trials": 6},
    }
    job = submitted(folder, settings, "--array", "2")

    def log():
        return "".join(file.read_text() for file in (folder / "job").glob("*.log"))

    session = folder / "job" / "session"
    wait_until(lambda: any("send" in file.read_text() for file in session.glob("lent/*/asked")), log)
    logs = {f"{job}_{number}": folder / "job" / f"{job}_{number}.log" for number in (0, 1)}
    driver, other = sorted(logs, key=lambda element: "generate: " not in logs[element].read_text())
    cluster.ask("scancel", "--batch", "--signal=USR2", driver)
    cluster.wait(other, "COMPLETED", log=log)
    assert "goes back into the queue" in log()
    cluster.begin_now(driver)
    cluster.wait(driver, "COMPLETED", log=log)
    assert (session / "results.csv").read_text().count(",complete,") == 6
    assert [run["outcome"] for run in read_record(session)["runs"]][:2] == ["interrupted", "completed"]


def test_a_job_that_fails_ends_with_its_workers(cluster, folder):
    settings = {"environment": {"id": SLOW}, "dataset": {"samples": 10, "path": "data"}}
    job = submitted(folder, settings, "--nodes", "2", "--per-node", "1", "--only-samples", "--setup", "touch data")
    cluster.wait(job, "FAILED")
    assert cluster.state(job)["ExitCode"] == "2:0"
    assert not cluster.ask("squeue", "-h", "--steps", "--job", job)
