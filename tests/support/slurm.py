"""A real SLURM of two nodes on this machine, with its own key and ports, which ends with the block."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
START = 30.0  # seconds for the nodes to be there
END = 15.0  # seconds for everything to end
CPUS = 4  # that each node says it has

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


class Slurm:
    """Commands to a SLURM that runs.

    Args:
        folder: With its configuration.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """Run a command of SLURM; what it prints."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """Return what is known of a job; of an element of an array by ARRAY_INDEX."""
        return dict(
            pair.split("=", 1) for pair in self.ask("scontrol", "show", "job", "-o", job).split() if "=" in pair
        )

    def wait(self, job: str, *states: str, seconds: float = 100.0, log: Callable[[], str] = str) -> None:
        """Wait until a job has one of some states."""
        deadline = time.monotonic() + seconds
        while (found := self.state(job)["JobState"]) not in states:
            assert time.monotonic() < deadline, f"job {job} is {found}: {log()}"
            time.sleep(0.2)

    def begin_now(self, job: str) -> None:
        """Start a job that was put back into the queue: it would wait there for two minutes.

        It is told more than once, for it may be given these two minutes after it is seen in the queue.
        """
        self.wait(job, "PENDING")
        deadline = time.monotonic() + 100.0
        while (state := self.state(job)["JobState"]) == "PENDING":
            assert time.monotonic() < deadline, f"job {job} is {state}"
            with contextlib.suppress(AssertionError):  # it has begun meanwhile
                self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(1.0)


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Run a SLURM of two nodes within the block; skip the test where this cannot be done."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"there is no SLURM here: no {', '.join(missing)} (Debian's slurm-wlm and munge)")
    with contextlib.ExitStack() as stack:
        # not in the folder of the test: names of sockets are short
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm")))
        (folder / "state").mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        names = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder}
        (folder / "slurm.conf").write_text(CONF.format(**names, ports=_free_ports(3), cpus=CPUS))
        if _version() >= (23, 11):  # there it would want a control group of its own
            (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        found = Slurm(folder)
        files = {"socket": "munge.socket", "key-file": "key", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "seed"}
        options = [f"--{name}={folder / file}" for name, file in files.items()]
        try:
            _begin(stack, folder, "munged", "--foreground", "--force", *options)
            _until(lambda: (folder / "munge.socket").exists(), folder)
            _begin(stack, folder, "slurmctld", "-D")
            for node in ("n1", "n2"):
                _begin(stack, folder, "slurmd", "-D", "-N", node)
            _until(lambda: "2" in _idle(found), folder)
            yield found
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                found.ask("scancel", "--full", "--user", getpass.getuser())
        finally:
            _end_all(folder)


def _version() -> tuple[int, ...]:
    said = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, timeout=60, check=False).stdout
    return tuple(map(int, re.findall(r"\d+", said)))[:2]


def _idle(found: Slurm) -> str:
    with contextlib.suppress(AssertionError):
        return found.ask("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D")
    return ""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _begin(stack: contextlib.ExitStack, folder: Path, *words: str) -> None:
    """Start a program of SLURM, which `_end_all` ends before it is waited for."""
    with (folder / f"{words[0]}-{words[-1]}.out".replace("/", "_")).open("wb") as log:
        process = subprocess.Popen(
            words,
            env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stack.callback(process.wait, END)


def _until(there: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + START
    while not there():
        if time.monotonic() > deadline:
            last = [text[-500:] for file in folder.glob("*.log") if (text := file.read_text(errors="replace"))]
            pytest.skip(f"SLURM does not start here: {last}")
        time.sleep(0.2)


def _ours(folder: Path) -> Sequence[psutil.Process]:
    """Return the processes that belong to the SLURM of a folder: its own, and those of its jobs."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            names = [*process.cmdline(), process.environ().get("SLURM_CONF", "")]
            if process.name() == "slurmstepd":  # it writes over both
                names += [file.path for file in process.open_files()]
            if any(str(folder) in name for name in names):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def _end_all(folder: Path) -> None:
    """End all processes, at first in order."""
    deadline = time.monotonic() + END
    number = signal.SIGTERM
    while (left := _ours(folder)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=2.0)
        number = signal.SIGKILL
    assert not _ours(folder), "processes of SLURM are left"
