"""The samples of a session, where a command takes the path of a dataset."""

from __future__ import annotations

from pathlib import Path

from physgym.errors import ConfigError
from physgym.experiment.record import read_record
from physgym.experiment.session import CONFIG, RECORD
from physgym.storage.location import Location, place


def dataset_of(path: Path) -> Path | Location | list[Path | Location]:
    """Return the place of a dataset, or of several that are read as one; for a session, the place of its last run's.

    Raises:
        ConfigError: The session has no samples, or its record is damaged.
    """
    if not any((path / name).is_file() for name in (RECORD, CONFIG)):
        return path
    used = read_record(path)["runs"][-1].get("dataset") if (path / RECORD).is_file() else None
    if used:
        places = [place(one) for one in str(used["path"]).split(", ")]
        return places[0] if len(places) == 1 else places
    if (path / "dataset").is_dir():
        return path / "dataset"
    raise ConfigError(f"{path} is a session that has no samples; name the folder of a dataset")
