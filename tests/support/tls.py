"""A transport over TLS, whose workers are told the parent's certificate with its address, and accept no other."""

from __future__ import annotations

import datetime
import functools
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from physgym.protocol.messages import Role
from physgym.transport.base import Channel, Transport
from physgym.transport.certificates import Certificate, given_certificate
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
    deadline = time.monotonic() + 60
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
        subprocess.run(command, check=True, capture_output=True, timeout=110)
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


def of_days(folder: Path, begins: float, ends: float, name: str = "node.test") -> Certificate:
    """Make a certificate for a name, signed by another one, that is valid between two days from now."""
    now, keys = datetime.datetime.now(datetime.UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in "ab"]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in ("authority", name)]
    made = []
    for number, (subject, key) in enumerate(zip(names, keys, strict=True)):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(names[0]).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now + datetime.timedelta(days=begins if number else -9))
        builder = builder.not_valid_after(now + datetime.timedelta(days=ends if number else 9))
        if number:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        else:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, data in (("authority", made[0]), ("chain", made[1]), ("key", secret)):
        (folder / file).write_bytes(data)
    return given_certificate(folder / "chain", folder / "key")
