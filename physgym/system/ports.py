"""TCP ports of this machine: free ones, and the processes that listen at one."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

LISTENS = "0A"  # state of a socket in the kernel's tables


def is_free(port: int) -> bool:
    """Return whether a program could listen at a port now, on every address of this machine."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """Return a port at which nobody listens now."""
    with socket.create_server(("", 0)) as found:
        return int(found.getsockname()[1])


def answers(host: str, port: int, timeout: float) -> bool:
    """Return whether somebody accepts a connection within so many seconds."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout):
        return True
    return False


def holders(port: int) -> set[int]:
    """Return the processes that listen at a port, as far as this user may know; empty also where none is known."""
    sockets = {f"socket:[{number}]" for number in _listening(port)}
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd") if sockets else ():
        with contextlib.suppress(OSError):  # of another user, or gone
            for entry in folder.iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()) in sockets:
                        found.add(int(folder.parent.name))
    return found


def _listening(port: int) -> set[str]:
    """Return the numbers (inodes) of the sockets that listen at a port, on any address of this machine."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, _, _, number, *_ = line.split()
                if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                    found.add(number)
    return found
