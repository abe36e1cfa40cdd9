"""The table of transports: their names, and the classes as module:class, which both ends import when they use them."""

from __future__ import annotations

import importlib
from typing import Any

from physgym.errors import ConfigError
from physgym.transport.base import Transport

TRANSPORTS = {
    "unix": "physgym.transport.unix:Unix",
    "tcp": "physgym.transport.tcp:Tcp",
}
INHERITED, DIALLED = "unix", "tcp"  # where none is named


def register_transport(name: str, entry: str) -> None:
    """Add a transport of another package to the table.

    Args:
        name: What `physgym.SocketVectorEnv` is to know it by.
        entry: Its subclass of `Transport`, as module:class. A worker imports the module by this name.

    Raises:
        ConfigError: The name stands for another transport.
    """
    if TRANSPORTS.setdefault(name, entry) != entry:
        raise ConfigError(f"the transport {name!r} is {TRANSPORTS[name]} already; choose another name")


def imported(entry: str) -> type[Transport]:
    """Return the class that an entry of the table names."""
    module, _, name = entry.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    kind: type[Transport] = found
    return kind


def entry_of(transport: Transport) -> str:
    """Return the class of a transport as an entry of the table."""
    return f"{type(transport).__module__}:{type(transport).__qualname__}"


def transport_of(transport: str | Transport | None, port: int, *, inherit: bool) -> Transport:
    """Return a transport.

    Args:
        transport: Its name, or itself; None takes one that fits.
        port: TCP port on which workers are wanted to connect; 0 for no such wish.
        inherit: Whether workers can inherit a connection.

    Raises:
        ConfigError: There is none of this name, a worker cannot import it, or workers would have to inherit what they
            cannot.
    """
    if transport is None:
        transport = INHERITED if inherit and not port else DIALLED
    if not isinstance(transport, Transport):
        if transport not in TRANSPORTS:
            known = " or ".join(f'"{name}"' for name in TRANSPORTS)
            raise ConfigError(f"transport must be {known}, not {transport!r}; or pass an object of a Transport")
        transport = imported(TRANSPORTS[transport])()
    if not inherit and not transport.dials:
        raise ConfigError(
            f"over {type(transport).__name__} workers inherit their connection, which those of this launcher cannot; "
            f'use a transport over which they connect, such as "{DIALLED}"'
        )
    entry = entry_of(transport)
    if entry.startswith("__main__:") or "<locals>" in entry:
        raise ConfigError(f"a worker cannot import {entry}; put the class into a module, outside of functions")
    return transport
