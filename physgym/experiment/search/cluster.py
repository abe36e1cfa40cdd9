"""The same worker processes on the machines of a Ray cluster, each started and minded by an actor."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError
from physgym.experiment.search.pool import PATIENCE, TrialMessage, TrialProcess
from physgym.machines.ray_cluster import RayCluster

LISTEN = 1.0  # seconds for which an actor waits for its worker's messages
CALLS = 4  # that an actor answers at once: while it listens, it takes messages
ANSWER = 60.0  # seconds to wait for an actor


class Cluster:
    """Worker processes on a Ray cluster.

    Args:
        address: "auto" for the cluster of this machine, "local" for one that is started here, or host:port.
        threads: Of each worker.
        gpus: Of each worker.
        log: File for what workers print between trials; ``-0`` and so on go behind its name.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or none of its machines has what a worker takes.
    """

    def __init__(self, address: str, *, threads: int, gpus: int, log: Path) -> None:
        self._cluster, self._request = RayCluster(address), {"num_cpus": float(threads), "num_gpus": float(gpus)}
        self._ray: Any = self._cluster.ray
        try:
            self._cluster.capacity(self._request)
        except ConfigError:
            self._cluster.close()
            raise
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._log = log
        self._workers: dict[int, Any] = {}
        self._listening: dict[Any, int] = {}

    def open(self, number: int) -> None:
        """Have a process started where there is room."""
        log = str(self._log.with_name(f"{self._log.stem}-{number}{self._log.suffix}"))
        arguments = (str(Path.cwd()), self._environment, log)
        self._workers[number] = self._cluster.place(TrialProcess, self._request, *arguments, calls=CALLS)
        self._listen(number)

    def _listen(self, number: int) -> None:
        self._listening[self._workers[number].receive.remote(LISTEN)] = number

    def send(self, number: int, message: TrialMessage) -> None:
        """Tell a process something."""
        self._workers[number].send.remote(message)

    def poll(self, timeout: float) -> list[tuple[int, TrialMessage]]:
        """Wait for messages of processes; one whose machine is gone is dead."""
        if not self._listening:
            time.sleep(timeout)
            return []
        found: list[tuple[int, TrialMessage]] = []
        ready, _ = self._ray.wait(list(self._listening), num_returns=len(self._listening), timeout=timeout)
        for answer in ready:
            number = self._listening.pop(answer)
            if number not in self._workers:
                continue
            try:
                messages = self._ray.get(answer, timeout=ANSWER)
            except self._ray.exceptions.RayError as error:
                messages = [{"kind": "dead", "reason": f"is lost: {str(error).splitlines()[0]}"}]
            found += [(number, message) for message in messages]
            if messages and messages[-1]["kind"] == "dead":
                self._release(number)
            else:
                self._listen(number)
        return found

    def interrupt(self, number: int) -> None:
        """Send Ctrl-C to a process."""
        self._workers[number].interrupt.remote()

    def kill(self, number: int) -> None:
        """End a process at once."""
        if number in self._workers:
            with contextlib.suppress(self._ray.exceptions.RayError):  # its machine is gone
                self._ray.get(self._workers[number].kill.remote(), timeout=2 * PATIENCE)
            self._release(number)

    def _release(self, number: int) -> None:
        """Give its place back."""
        self._cluster.end(self._workers.pop(number))

    def close(self) -> None:
        """End all processes."""
        try:
            for number in list(self._workers):
                self.kill(number)
        finally:
            self._cluster.close()
