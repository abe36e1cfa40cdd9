"""The folder into which an FMU is unpacked, once for each environment, and which nobody leaves behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

from physgym.adapters.held_folder import HeldFolder
from physgym.errors import ConfigError, needs

PREFIX = "physgym-fmu-"


class FmuFolder:
    """An unpacked FMU in a temporary folder, see `HeldFolder`.

    Args:
        fmu: The file of the FMU.

    Attributes:
        path: The folder.

    Raises:
        ConfigError: It cannot be unpacked.
    """

    def __init__(self, fmu: Path) -> None:
        with needs("fmpy", "fmu", "an FMU"):
            from fmpy import extract

        self._folder = HeldFolder(PREFIX)
        self.path = self._folder.path
        try:
            extract(fmu, self.path)
        except Exception as error:
            self.close()
            raise ConfigError(
                f"{fmu} cannot be unpacked: {error}. Temporary folders are made in {tempfile.gettempdir()}; the "
                "environment variable TMPDIR names another place"
            ) from error

    def close(self) -> None:
        """Remove the folder; calling it again does no harm."""
        self._folder.close()
