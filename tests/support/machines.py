"""Workers that dial in, as processes of this machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from physgym.machines.address import Address
from physgym.machines.dialled_worker import DialIn
from physgym.machines.reception import Reception
from physgym.transport.certificates import own_certificate

ROOT = Path(__file__).resolve().parents[2]
TOKEN = bytes(range(32))


def digests(folder: Path) -> list[str]:
    """The SHA-256 of the partitions of a dataset."""
    files = sorted(folder.glob("*.h5"))
    assert files
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@contextmanager
def listening(folder: Path, *, plain: bool = False, **options: Any) -> Iterator[Reception]:
    """Let workers in within the block."""
    certificate = None if plain else own_certificate(folder / "state")
    reception = Reception(Address("127.0.0.1", 0), TOKEN, certificate, **options)
    try:
        yield reception
    finally:
        reception.close()


def offers(reception: Reception) -> int:
    """Count the workers that wait to be given work."""
    with reception._lock:
        return sum(caller.offer is not None for caller in reception._callers.values())


def settings_for(reception: Reception, folder: Path, **changed: Any) -> DialIn:
    """What a worker has to know to dial to a reception."""
    known = {"address": tuple(reception.address), "token": TOKEN.hex(), "patience": 20.0}
    plain = "--plain" in reception.command
    known |= {"plain": True} if plain else {"fingerprint": own_certificate(folder / "state").fingerprint}
    return DialIn(**{**known, **changed})


def started(settings: DialIn) -> subprocess.Popen[bytes]:
    """A process that dials in once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "physgym.machines.dialled_worker"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(settings.to_line())
    process.stdin.flush()
    return process


@contextmanager
def workers(settings: DialIn, count: int = 1) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that dial in, ended with the block."""
    processes = [started(settings) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=60)
