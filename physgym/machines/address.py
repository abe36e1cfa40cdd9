"""Addresses and tokens by which processes on several machines find and prove each other."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from physgym.errors import ConfigError
from physgym.files import absolute, creating, read_regular
from physgym.registration import ELSEWHERE
from physgym.transport.certificates import Certificate

CALLER = -1  # index of a worker that has none yet
TOKEN_BYTES = 32
LONGEST_TOKEN = 1024  # bytes of a file


class Address(NamedTuple):
    """The address of a listener.

    Attributes:
        host: Name or address.
        port: TCP port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """Return HOST:PORT, with brackets around an address of IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether the address is one of this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Return the address that a text says.

    Raises:
        ConfigError: It is none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{text!r} is no address; write HOST:PORT, such as 0.0.0.0:7000, or port 0 for a free one")
    return Address(host, int(port))


def read_token(file: str | Path, *, make: bool = False) -> bytes:
    """Return the secret in a file.

    Args:
        file: The file, which nobody else may read.
        make: Make it where it does not exist.

    Raises:
        ConfigError: It cannot be read, others can read it, or it holds no token.
    """
    path = absolute(file)
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), creating(path) as temporary:  # two runs may begin together
                temporary.touch(mode=0o600)
                temporary.write_text(secrets.token_hex(TOKEN_BYTES) + "\n")
        mode = stat.S_IMODE(path.stat().st_mode)
        text = read_regular(path, LONGEST_TOKEN).decode("ascii").strip()
        token = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError(
            f"the token file {path} cannot be read: {error.strerror}. Copy it from the machine that listens"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no token; copy the file that --listen has made") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and os.name == "posix":
        raise ConfigError(f"others can read the token file {path}; keep it to yourself: chmod 600 {path}")
    if len(token) < TOKEN_BYTES:
        raise ConfigError(f"the token in {path} has {len(token)} bytes, and needs {TOKEN_BYTES}; delete the file")
    return token


def worker_command(address: Address, token_file: str, certificate: Certificate | None, envs: Sequence[str]) -> str:
    """Return what to type on another machine for a worker, or for a program that alone knows the id."""
    elsewhere = any(env.startswith(ELSEWHERE) for env in envs)
    words = ["PROGRAM"] if elsewhere else ["physgym", "worker"]
    words += [str(address), "--token-file", token_file or "FILE"]
    if certificate is not None and certificate.own:
        words += ["--fingerprint", certificate.fingerprint]
    elif certificate is None and not elsewhere:
        words.append("--plain")
    for env in envs if not elsewhere else ():
        words += ["--env", env]
    return shlex.join(words)
