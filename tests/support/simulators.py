"""Services of simulators in this process, and simulators that are small programs with bad habits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from physgym.machines.address import Address
from physgym.machines.dialling import Dialling
from physgym.simulators.pool import PoolSettings
from physgym.simulators.service import SimulatorService
from physgym.transport.certificates import Certificate, own_certificate
from tests.support.machines import TOKEN

PROGRAM = """
import os, signal, socket, subprocess, sys, time
port, habits = int(sys.argv[1]), sys.argv[2:]
sleeper = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
if "stays" in habits:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "fails" in habits:
    sys.exit("the licence has expired \\x1b[31m<script>")
if "forks" in habits:
    subprocess.Popen(sleeper)
    subprocess.Popen(sleeper, start_new_session=True)
while "late" in habits:
    time.sleep(1)
while "prints" in habits and not os.path.exists("enough"):
    os.write(1, b"x" * (1 << 20))
server = socket.create_server(("127.0.0.1", port))
while "dies" not in habits or not os.path.exists("die"):
    server.settimeout(0.05)
    try:
        server.accept()[0].close()
    except TimeoutError:
        pass
    if "prints" in habits:
        os.write(1, b"x" * (1 << 20))
    if "hangs" in habits and os.path.exists("hang"):
        server.close()
        time.sleep(600)
sys.exit(7)
"""


def program(*habits: str) -> list[str]:
    """The command of a simulator with habits: what it does that it should not."""
    return [sys.executable, "-I", "-S", "-c", PROGRAM, "{port}", *habits]


@contextmanager
def lending(
    folder: Path,
    *habits: str,
    plain: bool = True,
    command: list[str] | None = None,
    certificate: Certificate | None = None,
    clients: Path | None = None,
    **settings: Any,
) -> Iterator[SimulatorService]:
    """Lend simulators within the block; what the service says is the list ``said`` of it."""
    said: list[str] = []
    if not plain:
        certificate = own_certificate(folder / "state")
    context = None if clients is None or certificate is None else certificate.context(clients)
    pool = PoolSettings(command or program(*habits), **settings)
    place = Address("127.0.0.1", 0)
    with SimulatorService(pool, place, TOKEN, certificate, clients=context, say=said.append) as service:
        service.said = said  # type: ignore[attr-defined]
        yield service


def reaching(service: SimulatorService, folder: Path | None = None, **changed: Any) -> Dialling:
    """What a client has to know to connect to a service; a folder for one with TLS."""
    known: dict[str, Any] = {"address": tuple(service.address), "token": TOKEN.hex(), "plain": folder is None}
    if folder is not None:
        known["fingerprint"] = own_certificate(folder / "state").fingerprint
    return Dialling(**{**known, **changed})
