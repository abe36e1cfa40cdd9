"""`Invitation`: a file with which a run tells workers where it listens: those of the same job."""

from __future__ import annotations

import json
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from physgym.errors import ConfigError
from physgym.files import absolute, read_regular, replacing
from physgym.machines.address import Address

LARGEST = 1 << 12  # bytes of a file
PATIENCE = 600.0  # seconds for a run to begin, which imports torch from a file system that may be slow
LOOK = 0.5  # seconds between two looks for it


@dataclass(frozen=True)
class Invitation:
    """The address of a run, and what its certificate is known by.

    Attributes:
        host: Name or address at which workers find it; empty where the run is over.
        port: TCP port.
        fingerprint: Of the certificate that the run has made itself; empty for one of an authority.
        plain: Whether there is no TLS.
    """

    host: str
    port: int
    fingerprint: str = ""
    plain: bool = False

    @property
    def is_over(self) -> bool:
        """Return whether the run needs no workers any more."""
        return not self.host

    @property
    def address(self) -> Address:
        """Return where to connect."""
        return Address(self.host, self.port)

    def write(self, file: Path) -> None:
        """Write a file that nobody else may change: who does could lead workers to another run.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            with replacing(absolute(file)) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_text(json.dumps(asdict(self)) + "\n")
        except OSError as error:
            raise ConfigError(f"--invitation: {file} cannot be written: {error.strerror}") from error


def read_invitation(file: Path, patience: float = PATIENCE) -> Invitation:
    """Return the invitation in a file, as soon as a run has written it.

    Args:
        file: The file.
        patience: Seconds to wait for it.

    Raises:
        ConfigError: It does not come, it holds none, or others can change it.
    """
    deadline = time.monotonic() + patience
    while not file.exists():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"there is no invitation {file} after {patience:g} s; physgym generate and train write it with "
                "--listen HOST:PORT --invitation FILE"
            )
        time.sleep(LOOK)
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        found = json.loads(read_regular(file, LARGEST))
        invitation = Invitation(**found)
        right = all(isinstance(getattr(invitation, name), type(value)) for name, value in asdict(OVER).items())
    except OSError as error:
        raise ConfigError(f"the invitation {file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError):
        right = False
    if not right or not 0 <= invitation.port < 1 << 16:
        raise ConfigError(f"{file} holds no invitation; name the file that --invitation of the run has written")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"others can change the invitation {file}; keep it to yourself: chmod 600 {file}")
    return invitation


OVER = Invitation("", 0)  # of a run that has ended
