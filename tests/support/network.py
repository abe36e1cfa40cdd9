"""Two hosts on this machine: network namespaces with a link between them, which can be taken down."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Hosts:
    """Two network namespaces.

    Args:
        name: What their names begin with.
    """

    def __init__(self, name: str) -> None:
        self.names = [f"{name}a", f"{name}b"]

    def within(self, host: int, command: Sequence[str]) -> list[str]:
        """Return a command that runs on a host."""
        return ["ip", "netns", "exec", self.names[host], *command]

    def link(self, state: str) -> None:
        """Take the link "down" or "up"."""
        _ip("-n", self.names[1], "link", "set", "v1", state)


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Make two hosts, with the addresses of `ADDRESSES`; skip the test where this may not be done."""
    if shutil.which("ip") is None:
        pytest.skip("there is no program `ip`, which makes network namespaces")
    found = Hosts(f"physgym{os.getpid()}")
    try:
        try:
            for name in found.names:
                _ip("netns", "add", name)
            _ip(
                "-n", found.names[0], "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", found.names[1]
            )
            for host, (name, address) in enumerate(zip(found.names, ADDRESSES, strict=True)):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", f"v{host}")
                _ip("-n", name, "link", "set", f"v{host}", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except OSError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield found
    finally:
        for name in found.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)
