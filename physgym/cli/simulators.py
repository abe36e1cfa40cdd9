"""The commands of a service of simulators, and of its clients, ``physgym simulators ...``."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.cli.app import Commands, app
from physgym.cli.machines import check_certificates, listening_certificate
from physgym.cli.parameters import with_values
from physgym.errors import ConfigError, SimulatorError

if TYPE_CHECKING:
    from physgym.machines.dialling import Dialling
    from physgym.simulators.client import ServiceClient

simulators = Commands(
    name="simulators",
    help="Share simulators with other machines, or use shared ones.\n\nThese simulators are programs of their own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(simulators)

TokenFile = Annotated[Path, typer.Option(help="File with the secret of the service.", show_default=False)]
ServicePlace = Annotated[
    str, typer.Argument(metavar="HOST:PORT", help="Where the service listens.", show_default=False)
]
LeaseName = Annotated[
    str, typer.Argument(metavar="LEASE", help="Name of the lease, as `request` has printed it.", show_default=False)
]


@dataclass(frozen=True)
class Reaching:
    """Values of the options with which a client connects to a service."""

    fingerprint: Annotated[
        str, typer.Option(help="Fingerprint of the service's certificate, which the service has printed.")
    ] = ""
    authorities: Annotated[
        Path | None,
        typer.Option(help="Certificates (PEM) that may have signed that of the run, in place of --fingerprint."),
    ] = None
    plain: Annotated[bool, typer.Option("--plain", help="No TLS; on loopback addresses alone.")] = False
    certificate: Annotated[Path | None, typer.Option(help="Certificate of this client (PEM).")] = None
    key: Annotated[Path | None, typer.Option(help="Key of --certificate (PEM).")] = None

    def service(self, address: str, token_file: Path) -> Dialling:
        """Return how to connect to a service.

        Raises:
            ConfigError: An option is wrong.
        """
        from physgym.simulators.client import described_service

        check_certificates(self.plain, self.certificate, self.key, self.fingerprint, self.authorities)
        given = {name: value for name, value in vars(self).items() if value}
        return described_service({"address": address, "token_file": str(token_file), **given})

    def client(self, address: str, token_file: Path) -> ServiceClient:
        """Return a connection to a service.

        Raises:
            ConfigError: An option is wrong.
            SimulatorError: It cannot be reached.
        """
        from physgym.simulators.client import ServiceClient

        return ServiceClient(self.service(address, token_file))


with_reaching = with_values(Reaching, "reaching")


@simulators.command()
def serve(
    command: Annotated[
        str,
        typer.Option(help="Program and arguments of a simulator; {port} stands for its port.", show_default=False),
    ],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients connect.", show_default=False)],
    token_file: Annotated[
        Path, typer.Option(help="Secret, the same file on all machines; made here if it does not exist.")
    ],
    most: Annotated[int, typer.Option("--max", min=1, help="Simulators at a time.")] = 8,
    ports: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="Ports of simulators; by default any free ones.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address of this machine at which simulators are asked whether they answer.")
    ] = "127.0.0.1",
    advertise: Annotated[
        str, typer.Option(metavar="HOST", help="Where clients find the simulators; by default where they connected.")
    ] = "",
    start_timeout: Annotated[float, typer.Option(help="Seconds until a simulator must accept connections.")] = 60.0,
    lease: Annotated[float, typer.Option(help="Seconds until a simulator is ended that no client has renewed.")] = 60.0,
    idle: Annotated[float, typer.Option(help="Seconds until one is ended that nobody has wanted.")] = 600.0,
    status: Annotated[
        int | None, typer.Option(metavar="PORT", help="Show a page at this port of 127.0.0.1; 0 for a free one.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="No TLS, on a loopback address, as for tunnels of ssh.")
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate (PEM); by default this machine makes its own.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key of --certificate (PEM).")] = None,
    clients: Annotated[
        Path | None, typer.Option(help="Clients need a certificate that one of this file has signed.")
    ] = None,
) -> None:
    """Start simulators for clients, and end unused ones.

    Ctrl-C ends all.

    It prints the argument with which an environment takes its simulators from here. The simulators themselves have no
    secret: protect their ports by a firewall or a tunnel.

    Example: physgym simulators serve --command "donkey_sim --port {port}" --max 8 --listen 0.0.0.0:7100 --token-file t
    """
    from physgym.machines.address import Address, parse_address, read_token
    from physgym.simulators.pool import PoolSettings
    from physgym.simulators.service import SimulatorService
    from physgym.simulators.status import StatusPage
    from physgym.system.children import ParentPipe
    from physgym.system.process_tree import marked, new_mark, start_guard

    address = parse_address(listen)
    check_certificates(plain, certificate, key, clients)
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--command cannot be read: {error}") from error
    settings = PoolSettings(words, most, _ports(ports), host, advertise, start_timeout, lease, idle)
    token = read_token(token_file, make=True)
    found = listening_certificate(plain, certificate, key)
    context = None if found is None or clients is None else found.context(clients)
    mark, pipe = new_mark(), ParentPipe()
    os.environ.update(marked(os.environ, mark))
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(SimulatorService(settings, address, token, found, clients=context, say=_said))
        start_guard(pipe.read, mark)  # where this process is killed, also what has left its simulator's group ends
        pipe.close_read()  # the other end closes with this process
        mine = platform.node() if address.host in ("0.0.0.0", "::") else address.host
        reached = Address(advertise or mine, service.address.port)
        described: dict[str, Any] = {"address": str(reached), "token_file": str(token_file)}
        if found is None:
            described["plain"] = True
        elif found.own:
            described["fingerprint"] = found.fingerprint
        entry = json.dumps([described], ensure_ascii=False)
        _said(f"simulators are shared at {service.address}; environments take them with:")
        _said(f"  {shlex.join(['--arg', f'simulators={entry}'])}")
        if found is not None and not found.own:
            _said('  and "authorities": FILE, unless their machines know already who has signed the certificate')
        if clients is not None:
            _said('  and "certificate": FILE, "key": FILE, which one of --clients has signed')
        if status is not None:
            page = StatusPage(status, str(service.address), most, lambda: service.state)
            stack.callback(page.close)
            _said(f"status: {page.url}")
        try:
            service.wait()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("all simulators were ended") from None


@simulators.command(brief=True)
@with_reaching
def request(
    address: ServicePlace,
    token_file: TokenFile,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait while all are in use.")] = 0.0,
    hold: Annotated[
        bool, typer.Option("--hold", help="Keep it, and give it back at Ctrl-C; else renew it by `ping`.")
    ] = False,
    *,
    reaching: Reaching,
) -> None:
    """Take a simulator: print its address and its lease.

    The lease lasts for some time (--lease of the service) unless `ping` renews it.
    """
    from physgym.simulators.client import LentSimulator

    if hold:
        lent = LentSimulator([reaching.service(address, token_file)], wait)
        try:
            print(f"{lent.host}:{lent.port}", flush=True)
            while lent.running:
                time.sleep(0.2)
        finally:
            lent.end()
        raise SimulatorError("the service did not renew the lease; the simulator is lost")
    with reaching.client(address, token_file) as client:
        found = client.request(wait)
    print(f"{found.host}:{found.port} {found.lease}")


@simulators.command(brief=True)
@with_reaching
def ping(address: ServicePlace, lease: LeaseName, token_file: TokenFile, *, reaching: Reaching) -> None:
    """Renew a lease; print for how many seconds."""
    with reaching.client(address, token_file) as client:
        print(f"{client.ping(lease):g}")


@simulators.command(brief=True)
@with_reaching
def release(address: ServicePlace, lease: LeaseName, token_file: TokenFile, *, reaching: Reaching) -> None:
    """Give a simulator back, for others."""
    with reaching.client(address, token_file) as client:
        client.release(lease)


@simulators.command(brief=True)
@with_reaching
def kill(
    address: ServicePlace,
    lease: Annotated[
        str,
        typer.Argument(metavar="LEASE|NUMBER", help="Name of its lease, or its number in `list`.", show_default=False),
    ],
    token_file: TokenFile,
    *,
    reaching: Reaching,
) -> None:
    """End a simulator, also one that somebody uses."""
    with reaching.client(address, token_file) as client:
        client.kill(lease)


@simulators.command("list", brief=True)
@with_reaching
def list_simulators(address: ServicePlace, token_file: TokenFile, *, reaching: Reaching) -> None:
    """List the simulators of a service, and who has them."""
    with reaching.client(address, token_file) as client:
        found = client.list()
    print(f"{len(found['simulators'])} of {found['most']}")
    for line in _table(found["simulators"]):
        print(line)


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table."""
    from physgym.machines.reception import shown

    if not rows:
        return
    cells = [list(rows[0]), *([shown(str(value)) or "-" for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def _ports(text: str | None) -> tuple[int, int] | None:
    """Return the range that a text says."""
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not dash or not first.isdecimal() or not last.isdecimal():
        raise ConfigError(f"--ports {text!r}: write FIRST-LAST, such as 9100-9107")
    return int(first), int(last)


def _said(line: str) -> None:
    with contextlib.suppress(OSError):  # of a log on a full disk, or a reader that is gone: simulators go on
        print(line, file=sys.stderr, flush=True)
