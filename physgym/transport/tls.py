"""Channels over TLS, between a parent and workers on other machines.

A channel takes no flags, encrypts and decrypts records in memory, and so holds bytes which the socket's descriptor does
not show. A worker may know its parent by the fingerprint of its certificate alone, independent of its signature: then
neither names nor clocks matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import select
import socket
import ssl
from typing import NamedTuple

from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.messages import Role
from physgym.transport.base import Channel, PeerGone
from physgym.transport.sockets import above, lasting

RECORD = 1 << 14  # bytes of a record
TAKEN = 1 << 18  # bytes that are taken from the socket at once
SELF_SIGNED = 18  # code of OpenSSL for a certificate that nobody else has signed, such as our own
REFUSED = ("CERTIFICATE", "UNKNOWN_CA", "DECRYPT_ERROR")  # alerts; the last: signed by another key of that name
PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"}  # what OpenSSL calls bytes that are no record


class _Records(NamedTuple):
    """Encrypted bytes that have come from the socket, and those that are to go there."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class TlsChannel(Channel):
    """A connection over TLS.

    Args:
        sock: A connected stream socket; the channel owns it.
        role: Which end this is; the parent is the server.
        context: The parent's with its certificate, or the worker's.
        name: For the worker: the name that the parent's certificate is to have; None where it need not have any.
        fingerprint: For the worker: that of the parent's certificate, see `fingerprint_of`; empty where the context
            decides whom to trust.
    """

    def __init__(
        self, sock: socket.socket, role: Role, context: ssl.SSLContext, name: str | None = None, fingerprint: str = ""
    ) -> None:
        super().__init__(role)
        self.sock = above(sock)
        self.sock.setblocking(False)
        lasting(self.sock)
        self._fingerprint, self._owner = fingerprint, os.getpid()
        self._records = _Records(ssl.MemoryBIO(), ssl.MemoryBIO())
        self._tls = context.wrap_bio(*self._records, role is Role.PARENT, name)
        self._shaken = self._ended = False
        self._plain = bytearray()  # decrypted, and not handed on
        self._sealed = b""  # encrypted, and not taken by the socket
        self._timeout: float | None = None

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        """Limit how long a channel that blocks waits for bytes, None for no limit."""
        self._timeout = seconds

    def close(self) -> None:
        """Say goodbye and close the socket; calling it again does no harm.

        A fork of the process whose connection it is closes its copy without a word: the connection continues.
        """
        if self.sock.fileno() >= 0 and os.getpid() == self._owner:
            with contextlib.suppress(ssl.SSLError):  # the answer of the peer is not waited for
                self._tls.unwrap()
            with contextlib.suppress(PeerGone):
                self._push(wait=False)
        self.sock.close()

    @property
    def has_input(self) -> bool:
        """Return whether there are decrypted bytes, which the descriptor does not show."""
        return bool(self._plain)

    @property
    def unsent(self) -> bool:
        """Return whether something waits for `flush`."""
        return bool(self._outbox or self._sealed)

    @property
    def wants(self) -> int:
        """Return the events to wait for; before the end of the handshake there is nothing else to write."""
        return select.POLLIN | (select.POLLOUT if self._sealed or (self._outbox and self._shaken) else 0)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        self._push(wait=self.blocks)
        super().flush()

    def write(self, parts: list[memoryview]) -> int:
        """Encrypt bytes and give them to the socket, as many as it takes at once; return how many."""
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
        """Put decrypted bytes into a buffer; return how many."""
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
        """Continue with the handshake of TLS; return whether it is complete."""
        if not self._shaken:
            try:
                self._tls.do_handshake()
                self._shaken = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                with contextlib.suppress(PeerGone):
                    self._push(wait=False)  # says why
                raise ProtocolError(_failure(error)) from error
            self._push(wait=self.blocks)
            if self._shaken and self._fingerprint:
                self._check_fingerprint()
        return self._shaken

    def _check_fingerprint(self) -> None:
        """Check that the parent is the one whose fingerprint this worker knows.

        Raises:
            ProtocolError: It has another certificate.
        """
        found = fingerprint_of(self._tls.getpeercert(binary_form=True) or b"")
        if not hmac.compare_digest(found.encode(), self._fingerprint.encode()):
            self._shaken = False
            raise ProtocolError(
                f"the other end has the certificate {found}, and this one was given {self._fingerprint}: somebody else "
                "answers at this address, or it has made a new certificate; take the fingerprint that it prints now"
            )

    def _decrypt(self) -> None:
        try:
            while data := self._tls.read(TAKEN):
                self._plain += data
        except ssl.SSLWantReadError:
            return
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        except ssl.SSLError as error:
            raise ProtocolError(_end_of_words(error)) from error
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
                self._records.incoming.write(data) if data else self._records.incoming.write_eof()
                if not data and not self._shaken:
                    raise PeerGone("the peer closed the connection")
                return True

    def _push(self, *, wait: bool) -> None:
        """Give encrypted bytes to the socket."""
        self._sealed += self._records.outgoing.read()
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


def fingerprint_of(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate in its binary form (DER), as hexadecimal digits."""
    return hashlib.sha256(certificate).hexdigest()


def pinning_context() -> ssl.SSLContext:
    """Return the context of a worker that knows its parent by a fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def without_password() -> str:
    """Refuse to ask for the password of a key: nobody may be there to type it, and every process would ask.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        "the key is encrypted with a password; give one without it, which nobody else can read: "
        "openssl pkey -in KEY -out NEW"
    )


def _failure(error: ssl.SSLError) -> str:
    """Return why a handshake failed, and what to do."""
    if error.reason in PLAIN:
        return (
            "the handshake of TLS failed: the other end does not speak TLS. One of both was started with --plain, or "
            "it is no physgym"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        if error.verify_code == SELF_SIGNED:
            why += ". Give the --fingerprint that the other end prints"
        return (
            f"the handshake of TLS failed: the certificate is not accepted, {why}. Check "
            "who has signed it, for which name it is, and the clocks of both machines"
        )
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the handshake of TLS failed: the other end gives no certificate, and --clients asks for one"
    if "ALERT" in reason and any(word in reason for word in REFUSED):
        return (
            f"the handshake of TLS failed: the other end does not accept the certificate of this one ({reason}). Check "
            "its --fingerprint or --authorities, the dates of the certificate, and the clocks of both machines"
        )
    return f"the handshake of TLS failed: {error}"


def _end_of_words(error: ssl.SSLError) -> str:
    """Return why nothing can be read any more. A worker learns here, behind its handshake, what a parent refuses."""
    reason = error.reason or ""
    if "ALERT" not in reason:
        return f"what came is not what was sent: {error}"
    if any(word in reason for word in REFUSED):
        return (
            f"the other end does not accept the certificate of this one, or there is none ({reason}). Give one with "
            "--certificate and --key that its --clients file has signed, and check the clocks of both machines"
        )
    return f"the other end ends the connection of TLS: {error}"


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
