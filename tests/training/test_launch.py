"""What launchers leave in the environment: named where it is wrong, waited for with an end where it is right."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from physgym.errors import ConfigError
from physgym.training import launch
from physgym.training.ranks import Ranks

WHOLE = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29540"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=''"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "2"}, "RANK='2' .* from 0 to 1"),
        ({"RANK": "x"}, "RANK='x'"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT='x'"),
        ({"RANK": None, "MASTER_ADDR": None, "MASTER_PORT": None}, "RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
    ],
)
def test_a_variable_that_is_wrong_or_missing_is_named(changed, named, monkeypatch):
    for name, value in {**WHOLE, **changed}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{named}.* unset WORLD_SIZE"):
        Ranks("cpu")


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"RANK": "3", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},  # of salloc, in whose shell this runs
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMI_RANK": "0"},
    ],
)
def test_what_others_leave_does_not_matter(left, caplog):
    assert launch.read_launch(left) == launch.Launch()
    launch.warn_of_separate_trainings(left)
    assert not caplog.records


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_processes_that_train_apart_say_so(name, monkeypatch, caplog):
    monkeypatch.setenv(name, "4")
    ranks = Ranks("cpu")
    assert (ranks.rank, ranks.size) == (0, 1)
    (record,) = caplog.records
    assert f"{name}=4" in record.getMessage()
    assert "torchrun" in record.getMessage()


def test_who_does_not_come_is_named_with_the_variables_and_not_waited_for_without_end(monkeypatch, caplog):
    monkeypatch.setattr(launch, "SILENT", 0.0)
    never = threading.Event()
    found = launch.read_launch(WHOLE)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"did not meet within 1 s: WORLD_SIZE=2 RANK=0 MASTER_ADDR=127"):
        launch.meet(never.wait, found, {**WHOLE, launch.TIMEOUT: "1"})
    never.set()
    assert time.monotonic() - start < 60
    (record,) = caplog.records
    assert record.getMessage().startswith("waiting for 2 processes to train together: WORLD_SIZE=2 RANK=0 MASTER_ADDR")
    assert "unset WORLD_SIZE RANK MASTER_ADDR MASTER_PORT" in record.getMessage()


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_at_once():
    code = """
        import sys
        from physgym.training import launch
        launch.SILENT = 0.2
        from physgym.training.ranks import Ranks
        try:
            Ranks("cpu")
        except KeyboardInterrupt:
            sys.exit(7)
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, **WHOLE, "MASTER_PORT": str(port)}
    command = [
        sys.executable,
        "-c",
        "import signal; signal.signal(2, signal.default_int_handler)\n" + textwrap.dedent(code),
    ]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()  # which comes once it waits
        assert "waiting for 2 processes" in line
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 7
        assert time.monotonic() - start < 30
        process.stderr.read()


def test_a_process_that_cannot_meet_the_others_says_why(monkeypatch):
    def refuse():
        raise RuntimeError("address in use")

    with pytest.raises(ConfigError, match=r"cannot meet: address in use.* unset WORLD_SIZE"):
        launch.meet(refuse, launch.read_launch(WHOLE), WHOLE)
    with pytest.raises(ConfigError, match=f"{launch.TIMEOUT}='soon'"):
        launch.meet(refuse, launch.read_launch(WHOLE), {**WHOLE, launch.TIMEOUT: "soon"})


def test_alone_nothing_is_averaged_or_sent():
    layer = torch.nn.Linear(2, 1)
    ranks = Ranks("cpu")
    ranks.average(layer.parameters())
    ranks.alike(layer.parameters())
    ranks.agree(layer)
    assert layer.weight.grad is None
