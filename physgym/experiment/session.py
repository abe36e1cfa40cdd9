"""A session: one folder with everything that belongs to one training."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from physgym._version import __version__
from physgym.errors import ConfigError
from physgym.storage.location import local

CONFIG = "config.yaml"
INFO = "info.txt"


def new_session(path: str | Path) -> Path:
    """A new folder for a session; a name already taken gets a suffix, so that nothing is ever overwritten.

    Args:
        path: The wanted folder.

    Returns:
        The folder made: `path`, or `path` with ``-2``, ``-3``, ... behind it.

    Raises:
        ConfigError: The folder cannot be made.
    """
    wanted, number = local(path, "a session"), 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # atomic: of two sessions started at once only one gets the name
            return folder
        except FileExistsError as error:
            if not folder.is_dir():
                raise ConfigError(f"cannot make the session folder {folder}: a file of this name exists") from error
            number += 1
        except OSError as error:
            raise ConfigError(f"cannot make the session folder {folder}: {error.strerror}") from error


def write_record(session: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    """Write the resolved configuration and a description for people; again at the end, with the results."""
    (session / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    lines = [
        f"physgym session {session.name}",
        f"written {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC by physgym {__version__}",
        "",
        str(config.get("description") or "(no description)"),
        "",
        "dataset/    samples, unless the configuration names another place",
        "networks/   checkpoints",
        "stats/      TensorBoard curves",
        f"{CONFIG} the resolved configuration",
        "",
        *(f"{name}: {value}" for name, value in results.items()),
    ]
    (session / INFO).write_text("\n".join(lines) + "\n")


def read_config(session: Path) -> dict[str, Any]:
    """The resolved configuration of a session.

    Raises:
        ConfigError: The folder is not a session.
    """
    try:
        config = yaml.safe_load((session / CONFIG).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{session} is not a session: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{session / CONFIG} does not hold a configuration")
    return config


class Run:
    """Provisional."""

    def __init__(self, session: Path, kind: str, config: dict[str, Any], origin: Any = None) -> None:
        self.session, self.config = session, config
        self.results: dict[str, Any] = {}
        self.outcome = "completed"
        write_record(session, config, {"outcome": "not completed"})

    def describe_dataset(self, dataset: Any) -> None:
        """Note it."""

    def __enter__(self) -> Any:
        """Enter."""
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Exit."""
        outcome = self.outcome
        if error is not None and not isinstance(error, KeyboardInterrupt):
            outcome = f"{type(error).__name__}: {error}"
        write_record(self.session, self.config, {"outcome": outcome, **self.results})
