"""The processes that run trials on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, Protocol

from physgym.launch.processes import exit_text
from physgym.system.children import Child
from physgym.system.cores import usable_cores

MODULE = "physgym.experiment.search.worker"
PATIENCE = 10.0  # seconds for a process to end by itself
READ_SIZE = 1 << 16

TrialMessage = dict[str, Any]


class Pool(Protocol):
    """Processes that run trials, by number."""

    def open(self, number: int) -> None:
        """Start a process; it says when it is ready."""

    def send(self, number: int, message: TrialMessage) -> None:
        """Tell a process something."""

    def poll(self, timeout: float) -> list[tuple[int, TrialMessage]]:
        """Wait for messages of processes for at most so many seconds; "dead" is the last that comes from one."""

    def interrupt(self, number: int) -> None:
        """Send Ctrl-C to a process."""

    def kill(self, number: int) -> None:
        """End a process at once, with all that it has started; nothing comes from it any more."""

    def close(self) -> None:
        """End all processes, those at work too."""


class TrialProcess:
    """One process, with its messages.

    Args:
        folder: Where it works.
        environment: Variables that it gets besides those of this process.
        log: File for what it prints between trials.
    """

    def __init__(self, folder: str, environment: Mapping[str, str], log: str) -> None:
        with Path(log).open("ab") as output:
            # Ctrl-C in a terminal reaches the search alone, which decides
            self._child = Child(
                [sys.executable, "-m", MODULE],
                {**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                bufsize=0,
            )
        self._process = self._child.process
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self.output: IO[bytes] = self._process.stdout
        self._rest = b""
        self._dead = False

    def send(self, message: TrialMessage) -> None:
        """Tell it something; of its death `receive` tells."""
        data = (json.dumps(message) + "\n").encode()
        with contextlib.suppress(BrokenPipeError, ValueError):
            while data:
                data = data[self._input.write(data) :]

    def receive(self, timeout: float) -> list[TrialMessage]:
        """Wait for its messages for at most so many seconds."""
        if self._dead:
            return []
        if not wait([self.output.fileno()], timeout):
            # what it has forked may hold its output open
            return [] if self._process.poll() is None else [self._death()]
        data = os.read(self.output.fileno(), READ_SIZE)
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        return messages if data else [*messages, self._death()]

    def _death(self) -> TrialMessage:
        return {"kind": "dead", "reason": exit_text(self.kill(PATIENCE))}

    def interrupt(self) -> None:
        """Send Ctrl-C to a process."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self, patience: float = 0.0) -> int | None:
        """End it and what it has started, after it had time to end by itself; its exit status."""
        self._dead = True
        with contextlib.suppress(OSError):
            self._input.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        status = self._child.end()
        self.output.close()
        return status


class Processes:
    """Worker processes on this machine.

    Args:
        environments: Variables of each worker.
        log: File for what they print between trials.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], log: Path) -> None:
        self._environments, self._log = environments, log
        self._workers: dict[int, TrialProcess] = {}

    def open(self, number: int) -> None:
        """Start a process."""
        environment = self._environments[number % len(self._environments)]
        self._workers[number] = TrialProcess(str(Path.cwd()), environment, str(self._log))

    def send(self, number: int, message: TrialMessage) -> None:
        """Tell a process something."""
        self._workers[number].send(message)

    def poll(self, timeout: float) -> list[tuple[int, TrialMessage]]:
        """Wait for messages of processes."""
        if self._workers:
            wait([worker.output.fileno() for worker in self._workers.values()], timeout)
        else:
            time.sleep(timeout)
        found = []
        for number, worker in list(self._workers.items()):
            for message in worker.receive(0):
                found.append((number, message))
                if message["kind"] == "dead":
                    del self._workers[number]
        return found

    def interrupt(self, number: int) -> None:
        """Send Ctrl-C to a process."""
        self._workers[number].interrupt()

    def kill(self, number: int) -> None:
        """End a process at once."""
        if (worker := self._workers.pop(number, None)) is not None:
            worker.kill()

    def close(self) -> None:
        """End all processes."""
        for number in list(self._workers):
            self.kill(number)


def environments(workers: int, threads: int | None, device: str) -> list[dict[str, str]]:
    """Return the variables of each worker: they share the cores, and the GPUs where there are several.

    Args:
        workers: How many.
        threads: Of each; by default OMP_NUM_THREADS, else an equal share of the cores.
        device: Where they train.
    """
    shared: dict[str, str] = {}
    if threads is not None or "OMP_NUM_THREADS" not in os.environ:
        count = threads or max(1, usable_cores() // workers)
        shared = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(count))
    gpus: list[str] = []
    if device == "cuda":
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else {})
        for number in range(workers)
    ]
