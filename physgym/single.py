"""Simulators that exist once per process or machine, or are costly to start, and say so in their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from physgym.errors import ConfigError, SharedMachine, SharedProcess

SINGLE = "physgym.single"  # key of an environment's metadata
COSTLY_START = "physgym.costly_start"  # likewise
PROCESS: Literal["process"] = "process"
MACHINE: Literal["machine"] = "machine"


def single_of(metadata: Mapping[str, Any]) -> Literal["process", "machine"] | None:
    """Return what may hold one environment alone, by its metadata: a "process" or a "machine"; None for no limit.

    Raises:
        ConfigError: The declaration is neither of both.
    """
    if SINGLE not in metadata:
        return None
    said = metadata[SINGLE]
    if said not in (PROCESS, MACHINE):
        raise ConfigError(
            f'metadata[{SINGLE!r}] is "{PROCESS}" (one environment per process) or "{MACHINE}" (one per machine), not '
            f"{said!r}; leave it out where several may share a process"
        )
    return said  # type: ignore[no-any-return]  # one of both


def starts_slowly(metadata: Mapping[str, Any]) -> bool:
    """Return whether the metadata of an environment declare that it is costly to start.

    Raises:
        ConfigError: The declaration is neither True nor False.
    """
    said = metadata.get(COSTLY_START, False)
    if said is not True and said is not False:
        raise ConfigError(f"metadata[{COSTLY_START!r}] is True or False, not {said!r}")
    return bool(said)


def refuse_together(metadata: Mapping[str, Any], count: int, *, local: bool) -> None:
    """Check that so many environments may share a process.

    Args:
        metadata: Of one of them.
        count: How many there are to be.
        local: Whether the process is that of the caller; else it is a worker.

    Raises:
        SharedProcess: A process may hold one alone.
        SharedMachine: A machine may hold one alone.
        ConfigError: The declaration is wrong.
    """
    single = single_of(metadata)
    if single is None or count < 2:
        return
    if single == MACHINE:
        raise SharedMachine(
            f'{count} environments are to share a machine, but they declare {SINGLE} = "{MACHINE}". Make one here '
            "(num_envs=1); others run in workers of other machines, which connect (physgym worker)"
        )
    if local:
        raise SharedProcess(
            f"num_workers=0 puts {count} environments into this process, but they declare {SINGLE}: one environment "
            "per process. Leave num_workers out, or make one environment"
        )
    raise SharedProcess(
        f"{count} environments that declare {SINGLE} are to share a worker; a worker that connects offers one "
        "(physgym worker --envs 1)"
    )
