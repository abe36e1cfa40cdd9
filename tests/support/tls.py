"""A channel over TLS, as proof that the interface of transports fits it.

It takes no flags, encrypts and decrypts records in memory, and so holds bytes which the socket's descriptor does not
show. A worker is told the parent's certificate with its address, and accepts no other.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from physgym.errors import ProtocolError
from physgym.protocol.messages import Role
from physgym.transport.base import Channel, PeerGone, Transport
from physgym.transport.sockets import above
from physgym.transport.tcp import TcpListener

RECORD = 1 << 14  # bytes of a record
TAKEN = 1 << 18  # bytes that are taken from the socket at once
NAME = "parent.physgym.test"


class TlsChannel(Channel):
    """A connection over TLS.

    Args:
        sock: A connected stream socket; the channel owns it.
        role: Which end this is; the parent is the server.
        context: The parent's with its certificate, or the worker's, which trusts this certificate.
    """

    def __init__(self, sock: socket.socket, role: Role, context: ssl.SSLContext) -> None:
        super().__init__(role)
        self.sock = above(sock)
        self.sock.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = role is Role.PARENT
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server, None if server else NAME)
        self._shaken = self._ended = False
        self._plain = bytearray()  # decrypted, and not handed on
        self._sealed = b""  # encrypted, and not taken by the socket
        self._timeout: float | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def close(self) -> None:
        if self.sock.fileno() < 0:
            return
        with contextlib.suppress(ssl.SSLError):  # the answer of the peer is not waited for
            self._tls.unwrap()
        with contextlib.suppress(PeerGone):
            self._push(wait=False)
        self.sock.close()

    @property
    def has_input(self) -> bool:
        return bool(self._plain)

    @property
    def unsent(self) -> bool:
        return bool(self._outbox or self._sealed)

    @property
    def wants(self) -> int:
        return select.POLLIN | (select.POLLOUT if self._sealed or (self._outbox and self._shaken) else 0)

    def flush(self) -> None:
        self._push(wait=self.blocks)
        super().flush()

    def write(self, parts: list[memoryview]) -> int:
        while not self._shake():
            if not self.blocks:
                return 0
            self._take_in(wait=True)
        self._push(wait=self.blocks)
        taken = 0
        while not self._sealed and taken < sum(map(len, parts)):
            taken += self._tls.write(_beginning(parts, taken))
            self._push(wait=self.blocks)
        return taken

    def read(self, buffer: memoryview, *, wait: bool) -> int | None:
        while not self._plain and not self._ended:
            if self._shake():
                self._decrypt()
            if not self._plain and not self._ended and not self._take_in(wait=wait):
                return None
        piece = self._plain[: len(buffer)]
        buffer[: len(piece)] = piece
        del self._plain[: len(piece)]
        return len(piece)

    def _shake(self) -> bool:
        """Go on with the handshake of TLS; return whether it is complete."""
        if not self._shaken:
            try:
                self._tls.do_handshake()
                self._shaken = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._push(wait=False)  # says why
                raise ProtocolError(f"the handshake of TLS failed: {error}") from error
            self._push(wait=self.blocks)
        return self._shaken

    def _decrypt(self) -> None:
        try:
            while data := self._tls.read(TAKEN):
                self._plain += data
        except ssl.SSLWantReadError:
            return
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        except ssl.SSLError as error:
            raise ProtocolError(f"what came is not what was sent: {error}") from error
        self._end()

    def _end(self) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)  # so that the descriptor shows the end as long as it is open

    def _take_in(self, *, wait: bool) -> bool:
        """Take encrypted bytes from the socket; return whether there were some, or their end."""
        while True:
            try:
                data = self.sock.recv(TAKEN)
            except BlockingIOError:
                if not wait:
                    return False
                self._await(select.POLLIN)
            except OSError as error:
                raise PeerGone(f"the peer closed the connection ({error})") from error
            else:
                self._incoming.write(data) if data else self._incoming.write_eof()
                if not data and not self._shaken:
                    raise PeerGone("the peer closed the connection")
                return True

    def _push(self, *, wait: bool) -> None:
        """Give encrypted bytes to the socket."""
        self._sealed += self._outgoing.read()
        while self._sealed:
            try:
                sent = self.sock.send(self._sealed)
            except BlockingIOError:
                if not wait:
                    return
                self._await(select.POLLOUT, forever=True)
            except OSError as error:
                raise PeerGone(f"the peer closed the connection ({error})") from error
            else:
                self._sealed = self._sealed[sent:]

    def _await(self, event: int, *, forever: bool = False) -> None:
        poll = select.poll()
        poll.register(self.sock.fileno(), event)
        if not poll.poll(None if forever or self._timeout is None else self._timeout * 1000):
            raise ProtocolError(f"nothing arrived for {self._timeout} s")


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
        return TlsChannel(sock, Role.WORKER, worker_context(certificate))


def tls_pair() -> tuple[TlsChannel, TlsChannel]:
    """Return both ends of a connection, between which TLS has shaken hands."""
    ours, theirs = socket.socketpair()
    parent = TlsChannel(ours, Role.PARENT, parent_context())
    worker = TlsChannel(theirs, Role.WORKER, worker_context(certificate()))
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


def _beginning(parts: list[memoryview], taken: int) -> bytes:
    """Return the bytes of a record behind those that were taken."""
    record = bytearray()
    for part in parts:
        if taken >= len(part):
            taken -= len(part)
            continue
        record += part[taken : taken + RECORD - len(record)]
        taken = 0
        if len(record) == RECORD:
            break
    return bytes(record)
