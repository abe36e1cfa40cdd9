"""Two hosts on this machine: network namespaces with a link between them, which can be taken down."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60, check=False)
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

    def limit(self, rate: str) -> None:
        """Limit what passes from either host to the other one, such as to "2mbit"; skip the test without tbf."""
        for host, name in enumerate(self.names):
            words = ["tc", "-n", name, "qdisc", "add", "dev", f"v{host}", "root", "tbf", "rate", rate]
            done = subprocess.run([*words, "burst", "16kb", "latency", "200ms"], capture_output=True, timeout=60)
            if done.returncode:
                pytest.skip(f"the rate of a link cannot be limited here: {done.stderr.decode().strip()}")

    def kill(self, host: int) -> None:
        """Kill all that runs on a host, as the loss of its power does."""
        done = subprocess.run(["ip", "netns", "pids", self.names[host]], capture_output=True, text=True, timeout=60)
        for pid in done.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

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
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=60, check=False)
