"""`RayLauncher`: workers that a Ray cluster places on its machines, and that connect from there.

Ray says where a process runs and minds it; assignments and samples go the way of all workers that connect, over TLS.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from physgym.checks import integer
from physgym.errors import WorkerError
from physgym.launch.base import DialInLauncher, Order
from physgym.machines.address import TOKEN_BYTES, Address
from physgym.machines.dialled_worker import DialIn
from physgym.machines.placed_worker import PlacedWorker, sealed
from physgym.machines.ray_cluster import RayCluster
from physgym.machines.reception import DialledWorker, Differences, Reception
from physgym.transport.certificates import own_certificate

LOOK = 0.5  # seconds between two looks at the cluster
WAIT = 0.05  # seconds between two looks at who has dialled in
END = 5.0  # seconds for the thread to end
ATTEMPTS = 3  # actors in a row that have not come up, beyond one for each worker
CPU = {"num_cpus": 1.0}


class RayLauncher(DialInLauncher[DialledWorker]):
    """Has workers placed on the machines of a Ray cluster; use it in a ``with`` statement, or close it.

    Each is an actor with a request for resources, which keeps a process running that connects. One that is lost with
    its machine is placed again, where there is room. It may be used for one run after the other.

    Args:
        address: Of the cluster: "auto" for that of this machine, "local" for one that is started here, or host:port.
        envs: Ids of the environments that workers are to make.
        workers: How many there are; by default as many as fit on the machines of the cluster.
        count: How many environments each hosts.
        request: Resources of each by name: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, and the cluster's own.
        listen: Where they connect; by default a free port of the address by which the cluster knows this machine.
        advertise: Host to which they connect; by default that of `listen`.
        on_difference: What to do with workers of other versions, see `Reception`.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, none of its machines has the resources, or an
            argument is wrong.
    """

    def __init__(
        self,
        address: str,
        envs: Sequence[str],
        *,
        workers: int | None = None,
        count: int = 1,
        request: Mapping[str, float] = CPU,
        listen: Address | None = None,
        advertise: str = "",
        on_difference: Differences = "refuse",
    ) -> None:
        if workers is not None:
            integer("workers", workers, 1, hint="; leave it out for as many as fit")
        integer("count", count, 1)
        certificate = own_certificate()
        self.on_difference = on_difference
        self._cluster = RayCluster(address)
        try:
            fits = self._cluster.capacity(request)
            self._token = secrets.token_bytes(TOKEN_BYTES)
            where = listen or Address(self._cluster.host, 0)
            self._reception = Reception(where, self._token, certificate, envs=envs, on_difference=on_difference)
        except BaseException:
            self._cluster.close()
            raise
        self._reception.command = "(Ray is to place them; `ray status` says what it waits for)"
        dialled = (advertise or where.host, self._reception.address.port)
        self._settings = DialIn(dialled, "", certificate.fingerprint, envs=list(envs), count=count)
        self._request, self._workers = dict(request), workers or fits
        self._waiting: dict[Any, Any] = {}  # actors that have not come up, by what they are asked
        self._running: dict[Any, Any] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._said: list[str] = []
        self._problem = ""  # for which no further actor is placed
        self._thread = threading.Thread(target=self._run, name="physgym-ray", daemon=True)
        self._thread.start()

    # --- what a fleet asks

    def start(self, order: Order) -> DialledWorker:
        """Want a worker, as `Reception.start` says."""
        return self._reception.start(order)

    def end(
        self, handles: Sequence[DialledWorker], patience: float, hang_up: Callable[[], None] = lambda: None
    ) -> None:
        """Want workers no more; their actors continue, for the next run."""
        self._reception.end(handles, patience, hang_up)

    def callers(self) -> list[int]:
        """Return for each worker that waits for an order how many environments it hosts; each is named once."""
        return self._reception.callers()

    def news(self) -> list[str]:
        """Return what there is to say of workers that were lost or not let in, once."""
        with self._lock:
            said, self._said = self._said, []
        return [*said, *self._reception.news()]

    def expect(self) -> None:
        """Do nothing: all processes end with their actors."""

    def first(self, timeout: float) -> int:
        """Wait for a worker; return how many environments it hosts.

        Raises:
            WorkerError: None has come in time, or none will.
        """
        deadline = time.monotonic() + timeout
        while (count := self._reception.offered()) is None:
            with self._lock:
                placed, left = len(self._running), bool(self._waiting or self._running)
            problem = "" if left and self._thread.is_alive() else self._problem
            if problem or time.monotonic() > deadline:
                said = "".join(f"\n{text}" for text in self.news())
                where = Address(*self._settings.address)
                raise WorkerError(
                    problem
                    or f"no worker that Ray places has connected to {where} within {timeout:g} s; {placed} of "
                    f"{self._workers} have a place on the cluster, and each asks for {self._request}{said}"
                )
            time.sleep(WAIT)
        return count

    def close(self) -> None:
        """End all workers and leave the cluster; calling it again does no harm."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._reception.close()
        self._thread.join(END)
        for actor in (*self._waiting.values(), *self._running.values()):
            self._cluster.end(actor)
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    # --- the thread

    def _run(self) -> None:
        try:
            self._mind()
        except Exception as error:  # noqa: BLE001 - said by whoever waits for workers
            if not self._closed.is_set():
                self._note(f"the connection to the Ray cluster is lost: {error!r}", problem=True)

    def _mind(self) -> None:
        """Place actors, and others for those that are lost."""
        fruitless = 0
        for _ in range(self._workers):
            self._place()
        while not self._closed.is_set():
            asked = [*self._waiting, *self._running]
            if not asked:
                return
            ready, _ = self._cluster.ray.wait(asked, num_returns=1, timeout=LOOK)
            for answer in ready:
                if self._closed.is_set():
                    return
                if answer in self._waiting:
                    fruitless = 0 if self._come_up(answer) else fruitless + 1
                else:
                    self._gone(answer)
            if fruitless >= self._workers + ATTEMPTS:
                return

    def _place(self) -> None:
        actor = self._cluster.place(PlacedWorker, self._request)
        with self._lock:
            self._waiting[actor.public_key.remote()] = actor

    def _come_up(self, answer: Any) -> bool:
        """Tell an actor that has come up where to connect; return whether it has."""
        try:
            key = self._cluster.ray.get(answer)
        except self._cluster.ray.exceptions.RayError as error:
            self._note(f"Ray cannot start a worker: {_brief(error)}", problem=True)
            self._place()
            with self._lock:
                del self._waiting[answer]
            return False
        settings, secret = json.dumps(asdict(self._settings)), sealed(self._token, key)
        with self._lock:  # in one go: `first` looks whether any is left
            actor, self._problem = self._waiting.pop(answer), ""
            self._running[actor.run.remote(settings, secret, str(Path.cwd()))] = actor
        return True

    def _gone(self, answer: Any) -> None:
        """Deal with the end of an actor."""
        actor = self._running[answer]
        errors, lost = self._cluster.ray.exceptions, False
        try:
            said = self._cluster.ray.get(answer)
        except errors.RayError as error:
            said, lost = _brief(error), isinstance(error, errors.RayActorError)
        self._cluster.end(actor)  # which may live where the way to it is lost
        if lost:
            self._note(f"a worker that Ray has placed is lost, and is placed again: {said}")
            self._place()
        else:
            self._note(f"a worker that Ray has placed is of no use: {said}", problem=True)
        with self._lock:
            del self._running[answer]

    def _note(self, text: str, *, problem: bool = False) -> None:
        with self._lock:
            self._said.append(text)
            if problem:
                self._problem = text


def _brief(error: Exception) -> str:
    """Return the part of Ray's text of an error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2] if len(lines) < 3 else [lines[0], lines[-1]])
