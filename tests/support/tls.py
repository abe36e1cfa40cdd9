"""A transport over TLS, whose workers are told the parent's certificate with its address, and accept no other."""

from __future__ import annotations

import functools
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from physgym.protocol.messages import Role
from physgym.transport.base import Channel, Transport
from physgym.transport.tcp import TcpListener
from physgym.transport.tls import TlsChannel

NAME = "parent.physgym.test"


class TlsListener(TcpListener):
    """The parent's socket, whose address includes the certificate."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.address = [*self.address, certificate()]

    def channel(self, sock: socket.socket) -> Channel:
        return TlsChannel(sock, Role.PARENT, parent_context())


class Tls(Transport):
    """TLS over TCP."""

    dials = True

    def listen(self, port: int) -> TlsListener:
        return TlsListener(port)

    @classmethod
    def dial(cls, address: Any, timeout: float) -> Channel:
        host, port, certificate = address
        sock = socket.create_connection((host, port), timeout)
        return TlsChannel(sock, Role.WORKER, worker_context(certificate), NAME)


def tls_pair() -> tuple[TlsChannel, TlsChannel]:
    """Return both ends of a connection, between which TLS has shaken hands."""
    ours, theirs = socket.socketpair()
    parent = TlsChannel(ours, Role.PARENT, parent_context())
    worker = TlsChannel(theirs, Role.WORKER, worker_context(certificate()), NAME)
    deadline = time.monotonic() + 20
    while not (worker._shake() & parent._shake()):
        assert time.monotonic() < deadline
        for end in (parent, worker):
            end._take_in(wait=False)
    return parent, worker


@functools.cache
def key_and_certificate(name: str = NAME) -> tuple[str, str]:
    """Make a key and a certificate for it, with OpenSSL's command; return both as text."""
    with tempfile.TemporaryDirectory() as folder:
        key, made = Path(folder) / "key", Path(folder) / "certificate"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", f"subjectAltName=DNS:{name}"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return key.read_text(), made.read_text()


def certificate() -> str:
    """Return the parent's certificate, as PEM."""
    return key_and_certificate()[1]


@functools.cache
def parent_context() -> ssl.SSLContext:
    """Return the context of a parent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write("".join(key_and_certificate()))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def worker_context(certificate: str) -> ssl.SSLContext:
    """Return the context of a worker that trusts one certificate."""
    return ssl.create_default_context(cadata=certificate)
