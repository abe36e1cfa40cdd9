"""Clients of simulator services: requests one by one, and `LentSimulator`, which is renewed until it is given back."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from physgym import placement
from physgym.checks import at_least, finite, flag
from physgym.errors import ConfigError, ProtocolError, SimulatorError
from physgym.machines.address import CALLER, Address, parse_address, read_token
from physgym.machines.dialling import Dialling
from physgym.machines.reception import shown
from physgym.protocol.messages import Refusal, ServiceAnswer, ServiceRequest
from physgym.transport.auth import greet
from physgym.transport.base import Channel, PeerGone

GREETING = 15.0  # seconds for both handshakes
ANSWER = 10.0  # seconds for an answer that nothing delays
STARTS = 600.0  # seconds that a simulator may take to start, besides the wait
RENEWALS = 3  # in the time of a lease
PATIENCE = 5.0  # seconds for a new connection, or for the thread that waits on the old one
AGAIN = 0.5  # seconds until services are asked again of which none has a free simulator
SHARE = 5.0  # seconds that are waited for the simulator of one service, while others may have one earlier
KEYS = ("address", "token_file", "fingerprint", "plain", "authorities", "certificate", "key")


class Lent(NamedTuple):
    """A simulator that a service has given to this client.

    Attributes:
        host: Where it listens.
        port: Where it listens.
        lease: Name of the lease, by which it is renewed and given back.
        seconds: How long the lease lasts unless it is renewed.
    """

    host: str
    port: int
    lease: str
    seconds: float


def described_service(description: Mapping[str, Any]) -> Dialling:
    """Return how to connect to a service that is described by JSON data.

    Args:
        description: ``address`` ("HOST:PORT") and ``token_file``, and what else `physgym simulators serve` prints:
            ``fingerprint`` of its certificate, or ``authorities``, a file with those that may have signed it; ``plain``
            for no TLS; ``certificate`` and ``key``, files of this client.

    Raises:
        ConfigError: It is wrong, or the token cannot be read.
    """
    if not isinstance(description, Mapping) or not {"address", "token_file"} <= description.keys() <= set(KEYS):
        raise ConfigError(
            f"a simulator service is described by address and token_file, and maybe {', '.join(KEYS[2:])}, as in "
            f"{{address: 'node1:7100', token_file: token, fingerprint: 3f5c...}}, not {description!r}"
        )
    address = parse_address(str(description["address"]))
    plain = flag("plain", description.get("plain", False))
    files = {name: description.get(name) for name in ("authorities", "certificate", "key")}
    fingerprint = str(description.get("fingerprint", "")).lower().replace(":", "")
    if plain and (fingerprint or files["authorities"] or files["certificate"]):
        raise ConfigError("plain does without TLS, and so without certificates; leave one of both out")
    if (files["certificate"] is None) != (files["key"] is None):
        raise ConfigError("certificate and key go together")
    return Dialling(
        (address.host, address.port),
        read_token(str(description["token_file"])).hex(),
        fingerprint,
        plain,
        *(None if file is None else str(Path(file).absolute()) for file in files.values()),
    )


def described_services(descriptions: Sequence[Mapping[str, Any]]) -> list[Dialling]:
    """Return how to connect to the services that are described by a list of JSON data, see `described_service`.

    Raises:
        ConfigError: It is none, or empty.
    """
    if not isinstance(descriptions, (list, tuple)) or not descriptions:
        raise ConfigError(
            "simulators is a list of services, as in [{address: 'node1:7100', token_file: token}], not "
            f"{descriptions!r}"
        )
    return [described_service(description) for description in descriptions]


class ServiceClient:
    """A connection to a simulator service, on which one question is asked after the other.

    Args:
        service: How to connect.
        timeout: Seconds for that.

    Raises:
        SimulatorError: The service is not there, or another one.
    """

    def __init__(self, service: Dialling, timeout: float = GREETING) -> None:
        self.place = Address(*service.address)
        try:
            self._channel = self._connected(service, min(timeout, PATIENCE) if service.plain else timeout)
        except PeerGone as error:
            raise SimulatorError(
                f"the simulator service at {self.place} hangs up: it does not know this token, or is crowded"
            ) from error
        except ProtocolError as error:
            hint = ""
            if service.plain and "nothing arrived" in str(error):
                hint = ". A service that waits too speaks TLS: leave plain out, and give its fingerprint"
            raise SimulatorError(f"the simulator service at {self.place}: {error}{hint}") from error
        except OSError as error:
            raise SimulatorError(
                f"no simulator service answers at {self.place} ({error.strerror or error}); start it there with "
                "physgym simulators serve"
            ) from error

    @staticmethod
    def _connected(service: Dialling, timeout: float) -> Channel:
        channel = service.connected(timeout)
        try:
            channel.set_timeout(timeout)
            greet(channel, bytes.fromhex(service.token), CALLER, os.getpid())
            return channel
        except BaseException:
            channel.close()
            raise

    def request(self, wait: float = 0.0, *, holder: str = "", attached: bool = False) -> Lent:
        """Return a simulator that answers.

        Args:
            wait: Seconds to wait while all are in use.
            holder: Who has it, for others; by default the user, the machine and the process.
            attached: Whether the lease ends soon after the connection, as where this process is killed.

        Raises:
            ConfigError: `wait` is no number of seconds.
            SimulatorError: None is free in time, none could be started, or the service has gone.
        """
        at_least("wait", finite("wait", wait), 0)
        asked = {"wait": float(wait), "holder": holder or who(), "attached": attached}
        found = self._ask("request", asked, wait + STARTS)
        try:
            host, port = str(found["host"]) or self.place.host, int(found["port"])
            return Lent(host, port, str(found["lease"]), float(found["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SimulatorError(f"the simulator service at {self.place} answers what cannot be read") from error

    def ping(self, lease: str, *, attached: bool = False) -> float:
        """Renew a lease; return the seconds that it lasts.

        Raises:
            SimulatorError: There is none, or the service has gone.
        """
        return float(self._ask("renew", {"lease": lease, "attached": attached}).get("seconds", 0.0))

    def release(self, lease: str) -> None:
        """Give a simulator back, for others.

        Raises:
            SimulatorError: There is no such lease, or the service has gone.
        """
        self._ask("release", {"lease": lease})

    def kill(self, lease: str) -> None:
        """Have a simulator ended, by the name of its lease or its number.

        Raises:
            SimulatorError: There is none, or the service has gone.
        """
        self._ask("kill", {"lease": lease})

    def list(self) -> dict[str, Any]:
        """Return ``most``, how many simulators there may be, and ``simulators``: a dictionary for each.

        Raises:
            SimulatorError: The service has gone.
        """
        return self._ask("list", {})

    def close(self) -> None:
        """Close the connection; calling it again does no harm."""
        self._channel.close()

    def _ask(self, action: str, arguments: dict[str, Any], timeout: float = ANSWER) -> dict[str, Any]:
        try:
            self._channel.set_timeout(timeout)
            self._channel.send(ServiceRequest(action, arguments))
            answer = self._channel.next()
        except (ProtocolError, OSError) as error:
            raise SimulatorError(f"the simulator service at {self.place} has gone: {error}") from error
        if isinstance(answer, Refusal):
            raise SimulatorError(f"there is no simulator service at {self.place}: {shown(answer.reason)}")
        assert isinstance(answer, ServiceAnswer)
        if answer.error:
            raise SimulatorError(f"the simulator service at {self.place}: {shown(answer.error)}")
        return answer.values

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LentSimulator:
    """A simulator of a service, whose lease a thread renews until it is given back.

    Args:
        services: How to connect to the services; the first one that is asked differs among parallel environments.
        timeout: Seconds within which one of them must have a free simulator.

    Attributes:
        host: Where it listens.
        port: Where it listens.

    Raises:
        SimulatorError: No service has a simulator in time; the text says why, of each.
    """

    def __init__(self, services: Sequence[Dialling], timeout: float) -> None:
        first = placement.current().env_index % len(services)
        self._client, self._service, lent = _first_free([*services[first:], *services[:first]], timeout)
        self.host, self.port = lent.host, lent.port
        self._lease, self._seconds = lent.lease, lent.seconds
        self._lock, self._over = threading.Lock(), threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, name=f"lease of {self.host}:{self.port}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Return whether the lease holds, as far as is known."""
        return not self._lost and not self._over.is_set()

    def end(self, *, broken: bool = False) -> None:
        """Give it back; calling it again does no harm.

        Args:
            broken: Whether it must be ended, since it does not do what it should.
        """
        if self._over.is_set():
            return
        self._over.set()
        if self._lock.acquire(timeout=PATIENCE):  # else its lease ends with the connection, or by itself
            with contextlib.suppress(SimulatorError):
                (self._client.kill if broken else self._client.release)(self._lease)
            self._lock.release()
        self._client.close()

    def _renew(self) -> None:
        """Renew the lease; where the link is cut, by another connection."""
        expires = time.monotonic() + self._seconds
        pause = self._seconds / RENEWALS
        while not self._over.wait(pause):
            try:
                with self._lock:
                    if not self._over.is_set():
                        self._client.ping(self._lease, attached=True)
                expires, pause = time.monotonic() + self._seconds, self._seconds / RENEWALS
            except SimulatorError:
                if time.monotonic() > expires:
                    self._lost = True
                    return
                pause = min(AGAIN, self._seconds / RENEWALS)
                with self._lock, contextlib.suppress(SimulatorError, ConfigError):
                    self._client.close()
                    self._client = ServiceClient(self._service, min(PATIENCE, self._seconds))


def _first_free(services: Sequence[Dialling], timeout: float) -> tuple[ServiceClient, Dialling, Lent]:
    """Return a simulator of the first service that has one, with the connection and how it was made.

    Raises:
        SimulatorError: None has one in time.
    """
    deadline, wait = time.monotonic() + timeout, 0.0
    while True:
        reasons = []
        for service in services:
            try:
                client = ServiceClient(service, min(GREETING, max(PATIENCE, timeout)))
            except SimulatorError as error:
                reasons.append(str(error))
                continue
            try:
                return client, service, client.request(wait, attached=True)
            except SimulatorError as error:
                reasons.append(str(error))
                client.close()
            except BaseException:
                client.close()
                raise
        if time.monotonic() >= deadline:
            raise SimulatorError("\n".join(dict.fromkeys(reasons)))
        wait = max(0.0, min(SHARE, deadline - time.monotonic()))
        time.sleep(min(AGAIN, wait))


def who() -> str:
    """Return who asks for a simulator: user, machine and process."""
    user = "?"
    with contextlib.suppress(KeyError, OSError, ImportError):  # a user without a name, as in a container
        user = getpass.getuser()
    return f"{user} on {platform.node()}, process {os.getpid()}"
