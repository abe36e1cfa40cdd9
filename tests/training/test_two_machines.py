"""Two hosts, each with a torchrun, that train one network: to the weights of two processes on one machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from physgym.experiment.record import read_record
from physgym.training import list_checkpoints
from tests.support.commands import run_command
from tests.support.network import ADDRESSES, hosts
from tests.support.repositories import identity, ignoring
from tests.training.test_ranks import together

__all__ = ["identity"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.sweep, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds for imports of torch by four processes, on a machine that others use too
CONFIG = {
    "environment": {"id": "physgym/Spring-v0"},
    "dataset": {"path": "data", "samples": 2000},
    "training": {"epochs": 40, "batch_size": 32},
}


def kill(process):
    """End a torchrun and the process that it has started, at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
    process.wait(60)


def test_one_host_is_killed_and_both_go_on(tmp_path, identity):
    ignoring(tmp_path)
    made = run_command(
        tmp_path, "generate", "physgym/Spring-v0", "--out", "data", "--samples", "2000", "--workers", "0"
    )
    assert made.returncode == 0, made.stderr
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    with hosts() as two, contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w+"))

        def begin(host):
            options = ["--nnodes=2", f"--node-rank={host}", f"--master-addr={ADDRESSES[0]}", "--master-port=29500"]
            words = ["-m", "physgym", "train", "c.yaml", "session=two", "--resume", "--no-report"]
            process = subprocess.Popen(
                two.within(host, [sys.executable, "-m", "torch.distributed.run", *options, *words]),
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"v{host}"},
                stdout=log,
                stderr=log,
            )
            stack.callback(kill, process)
            return process

        first, second = begin(0), begin(1)
        deadline = time.monotonic() + PATIENCE
        while not ((tmp_path / "two" / "networks").is_dir() and list_checkpoints(tmp_path / "two" / "networks")):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        kill(second)
        assert first.wait(PATIENCE) == 1, "a process that is left alone must end"
        again = [begin(0), begin(1)]
        assert [process.wait(PATIENCE) for process in again] == [0, 0], (tmp_path / "log").read_text()
    statuses, _, errors = together(tmp_path, "train", "c.yaml", "session=one", "--no-report")
    assert statuses == [0, 0], errors
    runs, whole = (read_record(tmp_path / name)["runs"] for name in ("two", "one"))
    assert (len(runs), runs[-1]["outcome"]) == (2, "completed")
    assert runs[-1]["weights"] == whole[-1]["weights"]
    assert runs[-1]["results"]["validation_loss"] == whole[-1]["results"]["validation_loss"]
