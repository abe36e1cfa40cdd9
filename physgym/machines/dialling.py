"""Connections to a process of another machine that listens, with TLS or, on loopback addresses, without."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from physgym.errors import ConfigError
from physgym.machines.address import Address
from physgym.protocol.messages import Role
from physgym.transport.base import Channel
from physgym.transport.sockets import SocketChannel, lasting
from physgym.transport.tls import TlsChannel, pinning_context, without_password


@dataclass(frozen=True)
class Dialling:
    """Settings of a process that connects to one that listens.

    Attributes:
        address: Of the one that listens.
        token: The secret, as hexadecimal digits.
        fingerprint: Of its certificate; empty where `authorities` decide.
        plain: Whether to do without TLS, on a loopback address alone.
        authorities: File with the certificates that sign its one; None for those of the system.
        chain: File with a certificate of this process; None for none.
        key: Its key.
    """

    address: tuple[str, int]
    token: str
    fingerprint: str = ""
    plain: bool = False
    authorities: str | None = None
    chain: str | None = None
    key: str | None = None

    def connected(self, timeout: float) -> Channel:
        """Connect, without a word.

        Raises:
            OSError: Nobody listens there.
            ConfigError: A file for TLS cannot be used.
        """
        host, port = self.address
        sock = socket.create_connection((host, port), timeout)
        lasting(sock)
        if self.plain:
            if not Address(*sock.getpeername()[:2]).is_loopback:
                sock.close()
                raise ConfigError(f"--plain is for loopback addresses; {host} is none. Leave it out, or use a tunnel")
            return SocketChannel(sock, Role.WORKER)
        try:
            context = pinning_context() if self.fingerprint else ssl.create_default_context(cafile=self.authorities)
            if self.chain is not None:
                context.load_cert_chain(self.chain, self.key, without_password)
        except (OSError, ssl.SSLError) as error:
            sock.close()
            raise ConfigError(f"the certificates for TLS cannot be used: {error}") from error
        except ConfigError:
            sock.close()
            raise
        return TlsChannel(sock, Role.WORKER, context, None if self.fingerprint else host, self.fingerprint)
