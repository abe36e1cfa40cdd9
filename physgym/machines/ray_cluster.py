"""A Ray cluster as a place for processes: connected to, asked what it has, and given actors to run.

Ray pickles what it carries by itself. Of physgym it carries the names of classes, texts and bytes, nothing else;
samples of simulations take a way of their own, see `physgym.machines.ray_launcher`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError, needs
from physgym.interrupt import kept_handlers
from physgym.machines.address import TOKEN_BYTES, parse_address

LOCAL, AUTO = "local", "auto"
ADDRESS, SERVER = "RAY_ADDRESS", "gcs_server"  # variable of Ray, and the process of its head
REACH = 5.0  # seconds for a connection to the port of a cluster; Ray itself waits for minutes, and then exits
MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # variables of Ray
OWN = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # Ray's resources, and what it calls requests for them


class RayCluster:
    """A connection to a Ray cluster.

    Args:
        address: "auto" for the cluster of this machine, "local" for one that is started here, or host:port.
        what: Option or argument that has asked for it, for errors.

    Attributes:
        host: Address of this machine, as those of the cluster see it.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or it refuses the token.
    """

    def __init__(self, address: str, what: str = "--ray") -> None:
        if address not in (LOCAL, AUTO):
            _reach(address, what)
        _choose_token(make=address == LOCAL)
        with needs("ray", "ray", what):
            import ray
        self.ray: Any = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            if address == AUTO:
                _reach_noted(what)
            self._connect(address, what)
        if os.environ.get(MODE, "").lower() != "token":
            warnings.warn(
                f"this Ray cluster asks for no token ({MODE} is not token): everybody who reaches its ports can run "
                f"programs on its machines. Set {MODE}=token and {TOKEN} or {TOKEN_FILE} on all of them, and here. "
                "Ray itself encrypts only with RAY_USE_TLS; samples of simulations have TLS of physgym's",
                RuntimeWarning,
                stacklevel=3,
            )
        self.host: str = "127.0.0.1" if address == LOCAL else self.ray.util.get_node_ip_address()

    def _connect(self, address: str, what: str) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == LOCAL:
            quiet["include_dashboard"] = False
        try:
            with kept_handlers((signal.SIGTERM,)):
                self.ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, self.ray.exceptions.RayError, SystemExit) as error:
            token = "" if address == LOCAL else f". If it asks for a token: {_token_here()}"
            said = "Ray has given up" if isinstance(error, SystemExit) else error
            raise ConfigError(f"{what} {address}: no cluster takes this process in: {said}{token}") from error

    def capacity(self, request: Mapping[str, float]) -> int:
        """Return how many actors with a request for resources fit on the machines of the cluster, nothing else there.

        Args:
            request: Amounts by name: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, and the cluster's own.

        Raises:
            ConfigError: None fits on any machine.
        """
        wanted = {name: amount for name, amount in request.items() if amount > 0}
        names = {own: name for name, own in OWN.items()}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        counts = [
            min(
                (int(node.get(names.get(name, name), 0.0) / amount + 1e-9) for name, amount in wanted.items()),
                default=1,
            )
            for node in nodes
        ]
        if not sum(counts):
            raise ConfigError(
                f"no machine of the Ray cluster has {_shown(wanted)}; they have "
                + "; ".join(
                    _shown({OWN.get(name, name): node[name] for name in sorted(node) if _can_be_requested(name)})
                    for node in nodes
                )
            )
        return sum(counts)

    def place(self, kind: type, request: Mapping[str, float], *arguments: Any, calls: int = 1) -> Any:
        """Have an actor started where there is room; return Ray's handle of it.

        Args:
            kind: Class of the actor, which the machines import by its name.
            request: Resources, as for `capacity`, which has been asked.
            *arguments: Of the constructor: numbers, texts and bytes.
            calls: How many calls it answers at a time.
        """
        options: dict[str, Any] = {name: amount for name, amount in request.items() if name in OWN.values()}
        others = {name: amount for name, amount in request.items() if name not in OWN.values()}
        options |= {"num_cpus": options.get("num_cpus", 0), "resources": others, "scheduling_strategy": "SPREAD"}
        return self.ray.remote(kind).options(max_concurrency=calls, **options).remote(*arguments)

    def end(self, actor: Any) -> None:
        """End an actor at once, and the processes that end with it."""
        with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
            self.ray.kill(actor)

    def close(self) -> None:
        """Leave the cluster, whose actors of this process end; one that was started here ends as well."""
        if self._owns:
            with kept_handlers((signal.SIGTERM,)):
                self.ray.shutdown()


def parse_request(text: str) -> dict[str, float]:
    """Return the resources that a text asks for, such as ``num_cpus=2,num_gpus=0.5,licence=1``.

    Raises:
        ConfigError: It is no such text.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, amount = (word.strip() for word in part.partition("="))
        try:
            value = float(amount)
        except ValueError:
            value = -1.0
        if not equals or not name or not 0 <= value < float("inf") or name in found:
            raise ConfigError(
                f"{part!r} is no resource; write NAME=AMOUNT,..., each name once, as in num_cpus=2,num_gpus=0.5"
            )
        if OWN.get(name, name) != name:
            raise ConfigError(f"{name}={amount}: Ray calls a request for that {OWN[name]}")
        if value > 1 and value != int(value) and name != "num_cpus":
            raise ConfigError(f"{name}={amount}: Ray takes parts of one, or integers")
        found[name] = value
    return {"num_cpus": 1.0, **found}


def _reach(address: str, what: str) -> None:
    """Check that somebody listens at the address of a cluster.

    Raises:
        ConfigError: Nobody does, or it is no address.
    """
    if "://" in address:
        raise ConfigError(
            f"{what} takes auto, local or HOST:PORT, the address that `ray start` prints, not {address!r}"
        )
    host, port = parse_address(address)
    try:
        socket.create_connection((host, port), REACH).close()
    except OSError as error:
        raise ConfigError(f"{what} {address}: nothing answers there: {error.strerror or error}") from error


def _reach_noted(what: str) -> None:
    """Check that somebody listens where Ray looks for the cluster of this machine; Ray itself waits for minutes.

    Raises:
        ConfigError: Nobody does.
    """
    given = os.environ.get(ADDRESS, "")
    if given not in ("", AUTO):
        _reach(given, f"{what} auto, and {ADDRESS} says")
        return
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        noted = note.read_text().strip()
        parse_address(noted)
    except (OSError, UnicodeError, ConfigError):
        return  # Ray says at once that there is none
    try:
        _reach(noted, what)
    except ConfigError as error:
        if not any(_name(process) == SERVER for process in Path("/proc").glob("[0-9]*")):  # which Ray would take
            raise ConfigError(
                f"{what} auto: the cluster of this machine is at {noted}, says {note}, and nothing answers there. "
                f"Start one with `ray start --head`, or write {what} local"
            ) from error


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except (OSError, UnicodeError):
        return ""


def _choose_token(*, make: bool) -> None:
    """Have Ray prove a token where there is one, as it does by itself from some version on.

    Args:
        make: Make one that lasts as long as this process, for a cluster of its own; Ray would keep one in a file.
    """
    if MODE in os.environ or "ray" in sys.modules:  # which reads the mode when it is imported
        return
    file = os.environ.get(TOKEN_FILE) or Path.home() / ".ray" / "auth_token"
    if make and not os.environ.get(TOKEN) and not Path(file).is_file():
        os.environ[TOKEN] = secrets.token_hex(TOKEN_BYTES)
    if os.environ.get(TOKEN) or Path(file).is_file():
        os.environ[MODE] = "token"


def _token_here() -> str:
    """Return in words what Ray knows of a token here."""
    if os.environ.get(MODE, "").lower() != "token":
        return f"set {MODE}=token, and {TOKEN} or {TOKEN_FILE}; here is none"
    return f"that of {TOKEN}, {TOKEN_FILE} or ~/.ray/auth_token was sent; compare it with the cluster's"


def _can_be_requested(name: str) -> bool:
    """Return whether a resource is one that somebody asks for."""
    return not name.startswith("node:") and name != "object_store_memory"


def _shown(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={amount:.15g}" for name, amount in amounts.items()) or "nothing"
