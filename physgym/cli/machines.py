"""The command of a worker that connects, and the options with which a run lets such workers in."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.cli.app import USAGE, app, arguments_of
from physgym.cli.parameters import with_values
from physgym.errors import ConfigError

if TYPE_CHECKING:
    from physgym.generation.options import GenerationOptions
    from physgym.launch.base import DialInLauncher
    from physgym.machines.ray_launcher import RayLauncher
    from physgym.machines.reception import Reception
    from physgym.transport.certificates import Certificate


@dataclass(frozen=True)
class Listening:
    """Values of the options with which a run lets in workers of other machines."""

    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Use workers on other machines, which connect to this address."),
    ] = None
    advertise: Annotated[str, typer.Option(metavar="HOST", help="Name or address of this machine for the workers.")] = (
        ""
    )
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the secret of --listen, the same on all machines; made if it does not exist."),
    ] = None
    plain: Annotated[
        bool, typer.Option("--plain", help="With --listen on a loopback address: no TLS, as for tunnels of ssh.")
    ] = False
    certificate: Annotated[
        Path | None, typer.Option(help="With --listen: certificate (PEM); by default this machine makes its own.")
    ] = None
    key: Annotated[Path | None, typer.Option(help="Key of --certificate (PEM).")] = None
    clients: Annotated[
        Path | None, typer.Option(help="With --listen: workers need a certificate that one of this file has signed.")
    ] = None
    on_difference: Annotated[
        str,
        typer.Option(metavar="refuse|warn", help="What to do with workers that have other versions or other code."),
    ] = "refuse"

    invitation: Annotated[
        Path | None,
        typer.Option(help="With --listen: file to write for physgym worker --invitation FILE."),
    ] = None

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Have a Ray cluster place the workers: auto, local, or host:port; dataset.num_workers says how many.",
        ),
    ] = None
    ray_resources: Annotated[
        str,
        typer.Option(
            metavar="NAME=AMOUNT,...", help="Resources of each worker, as in num_cpus=2,num_gpus=0.5,licence=1."
        ),
    ] = "num_cpus=1"

    @contextmanager
    def reception(
        self, envs: Sequence[str], options: GenerationOptions | None = None
    ) -> Iterator[DialInLauncher[Any] | None]:
        """Let workers in within the block; give what brings them, None where nobody listens.

        Args:
            envs: Ids that they are to make.
            options: Say how many workers Ray is to place, by default as many as fit, and how many environments these
                host together, by default one each.

        Raises:
            ConfigError: An option is wrong, the address is taken, or there is no such cluster.
        """
        if self.ray is not None:
            with self._placed(self.ray, envs, options or {}) as launcher:
                yield launcher
            return
        if self.ray_resources != Listening.ray_resources:
            raise ConfigError("--ray-resources goes with --ray ADDRESS")
        if self.listen is None:
            if alone := [name for name, value in vars(self).items() if value != getattr(Listening, name)]:
                raise ConfigError(f"--{alone[0].replace('_', '-')} goes with --listen HOST:PORT")
            yield None
            return
        from physgym.machines.address import parse_address, read_token
        from physgym.machines.reception import Reception

        address = parse_address(self.listen)
        if self.token_file is None:
            raise ConfigError("--listen needs --token-file FILE, the secret that workers prove; it is made if need be")
        check_certificates(self.plain, self.certificate, self.key, self.clients)
        token = read_token(self.token_file, make=True)
        certificate = listening_certificate(self.plain, self.certificate, self.key)
        found = Reception(
            address,
            token,
            certificate,
            clients=None if certificate is None or self.clients is None else certificate.context(self.clients),
            advertise=self.advertise,
            token_file=str(self.token_file),
            envs=envs,
            on_difference=self.on_difference,  # type: ignore[arg-type]
        )
        try:
            print(f"workers connect with:\n  {found.command}", file=sys.stderr, flush=True)
            with self._invited(found, certificate):
                yield found
        finally:
            found.close()

    def _placed(self, cluster: str, envs: Sequence[str], options: GenerationOptions) -> RayLauncher:
        """Have Ray place workers."""
        from physgym.machines.address import parse_address
        from physgym.machines.ray_cluster import parse_request
        from physgym.machines.ray_launcher import RayLauncher

        usable = ("listen", "advertise", "on_difference", "ray", "ray_resources")
        if others := [one for one in vars(self) if one not in usable and getattr(self, one) != getattr(Listening, one)]:
            raise ConfigError(
                f"--{others[0].replace('_', '-')} has no use with --ray, which brings token and certificate"
            )
        workers, num_envs = options.get("num_workers"), options.get("num_envs")
        if workers == 0:
            raise ConfigError("num_workers=0 keeps the environments in this process, and --ray places them elsewhere")
        return RayLauncher(
            cluster,
            envs,
            workers=workers,
            count=1 if num_envs is None or workers is None else -(-num_envs // workers),
            request=parse_request(self.ray_resources),
            listen=None if self.listen is None else parse_address(self.listen),
            advertise=self.advertise,
            on_difference=self.on_difference,  # type: ignore[arg-type]
        )

    @contextmanager
    def _invited(self, reception: Reception, certificate: Certificate | None) -> Iterator[None]:
        """Keep the file of --invitation within the block."""
        from physgym.machines.invitation import OVER, Invitation

        if self.invitation is None:
            yield
            return
        fingerprint = certificate.fingerprint if certificate is not None and certificate.own else ""
        host = self.advertise or reception.address.host
        Invitation(host, reception.address.port, fingerprint, certificate is None).write(self.invitation)
        try:
            yield
        finally:
            OVER.write(self.invitation)  # workers that have not found it yet need not wait


def check_certificates(plain: bool, certificate: Path | None, key: Path | None, *others: object) -> None:
    """Check options of TLS before anything is made.

    Args:
        plain: Whether there is to be none.
        certificate: The file of ``--certificate``.
        key: The file of ``--key``.
        *others: Values of further options that concern certificates.

    Raises:
        ConfigError: They contradict each other.
    """
    if plain and (certificate is not None or any(others)):
        raise ConfigError("--plain does without TLS, and so without certificates; leave one of both out")
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key go together")


def listening_certificate(plain: bool, certificate: Path | None, key: Path | None) -> Certificate | None:
    """Return the certificate of what listens: that of the options, or this machine's own; None with ``--plain``.

    Raises:
        ConfigError: A file holds none.
    """
    from physgym.transport.certificates import given_certificate, own_certificate

    if plain:
        return None
    if certificate is None or key is None:
        return own_certificate()
    return given_certificate(certificate, key)


with_listening = with_values(Listening, "listening")


@app.command()
def worker(
    address: Annotated[
        str | None, typer.Argument(metavar="HOST:PORT", help="Where the run listens.", show_default=False)
    ] = None,
    *,
    token_file: Annotated[
        Path, typer.Option(help="File with the secret of the run; copy it from there.", show_default=False)
    ],
    invitation: Annotated[
        Path | None, typer.Option(help="File of the run that says where it listens, in place of HOST:PORT.")
    ] = None,
    fingerprint: Annotated[
        str, typer.Option(help="Fingerprint of the run's certificate, which the run has printed.")
    ] = "",
    authorities: Annotated[
        Path | None,
        typer.Option(help="Certificates (PEM) that may have signed that of the run, in place of --fingerprint."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="No TLS; on loopback addresses alone.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="Certificate of this worker (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of --certificate (PEM).")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of an environment that the run may make here; may be repeated. By default harmless shipped ones."
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Argument of environments that the run cannot change; may be repeated."),
    ] = None,
    envs: Annotated[int, typer.Option(min=1, help="Environments in each process.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per usable core.")] = None,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to try to connect before giving up.")] = 60.0,
    stay: Annotated[bool, typer.Option("--stay", help="Connect again when the run is over, for the next one.")] = False,
) -> None:
    """Run simulations for a run on another machine.

    The run listens with --listen. Only what this command allows is made here; the run cannot change that. It ends with
    the run.

    Example: physgym worker node1:7000 --token-file token --fingerprint 3f5c... --env my_package.sims:my/Sim-v0
    """
    from physgym.machines.address import parse_address, read_token
    from physgym.machines.dialled_worker import DialIn
    from physgym.machines.invitation import read_invitation
    from physgym.machines.supervisor import Supervisor
    from physgym.machines.versions import versions_here
    from physgym.placement import declared_metadata
    from physgym.single import MACHINE, SINGLE, single_of
    from physgym.system.cores import usable_cores
    from physgym.vector.make import env_factory

    if (address is None) == (invitation is None):
        raise ConfigError("say where the run listens: either HOST:PORT, or --invitation FILE")
    if invitation is not None and (plain or fingerprint or authorities or stay):
        raise ConfigError(
            "--invitation says how the run is known, for that run alone: leave --plain, --fingerprint, --authorities "
            "and --stay out"
        )
    check_certificates(plain, certificate, key, fingerprint, authorities)
    envs_allowed = env or []
    versions_here(envs_allowed)  # an id that is unknown here is an error now
    if invitation is not None:
        invited = read_invitation(invitation)
        if invited.is_over:
            print(f"the run of {invitation} is over", file=sys.stderr)
            return
        found, fingerprint, plain = invited.address, invited.fingerprint, invited.plain
    else:
        found = parse_address(address or "")
    settings = DialIn(
        (found.host, found.port),
        read_token(token_file).hex(),  # a run that writes an invitation has made its token before
        fingerprint.lower().replace(":", ""),
        plain,
        authorities=_absolute(authorities),
        chain=_absolute(certificate),
        key=_absolute(key),
        envs=envs_allowed,
        fixed=arguments_of(arg),
        count=envs,
        patience=patience,
    )
    alone = [one for one in settings.envs if single_of(declared_metadata(env_factory(one, {}))) == MACHINE]
    if alone and max(workers or 1, envs) > 1:
        raise ConfigError(f"a machine holds one {alone[0]} alone ({SINGLE}); leave --workers and --envs out")
    status = Supervisor(settings, workers or (1 if alone else usable_cores()), stay=stay).run()
    if status:
        raise typer.Exit(USAGE)


def _absolute(file: Path | None) -> str | None:
    return None if file is None else str(file.absolute())
