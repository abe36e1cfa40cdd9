"""`view`: the samples of a dataset or a session, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import PARTS, has_partitions
from physgym.data.description import Mode
from physgym.errors import ConfigError
from physgym.experiment.session_samples import dataset_of
from physgym.scene.sample_view import SampleView, ViewOptions
from physgym.storage.location import Location, place

MODES: tuple[Mode, ...] = (*PARTS, "prediction")


def view(
    data: SampleDataset | str | Path | Location | Sequence[str | Path | Location],
    *,
    mode: Mode | None = None,
    **options: Unpack[ViewOptions],
) -> SampleView:
    """Return stored samples to look at: a notebook shows them, and they may be saved as a film or shown in a window.

    Args:
        data: A dataset, its folder or ``s3://bucket/prefix``, several of these, or the folder of a session.
        mode: "training", "validation", "test" or "prediction"; by default the first of these that there is.
        **options: Those of `SampleView`: `episode`, `step`, `sample`, `samples`, `rejected`, `sides`, `grid`, `speed`,
            `fps`, `size`, `live` and `allow_changed_code`.

    Raises:
        ConfigError: An option is wrong, or there is no such sample.
        DatasetError: There is no such dataset, or it has no samples of this mode.
    """
    if isinstance(data, SampleDataset):
        if mode not in (None, data.mode):
            raise ConfigError(f"the dataset has {data.mode} samples; take dataset.of_mode({mode!r})")
        return SampleView(data, **options)
    places = places_of(data)
    return SampleView(SampleDataset(places, mode=mode or only_mode(places)), **options)


def places_of(data: str | Path | Location | Sequence[str | Path | Location]) -> list[Path | Location]:
    """Return where samples are: those of a session where a path is one.

    Raises:
        ConfigError: The session has no samples.
    """
    found: list[Path | Location] = []
    for one in [data] if isinstance(data, (str, Path, Location)) else data:
        at = place(one)
        inside = dataset_of(at) if isinstance(at, Path) else at
        found += inside if isinstance(inside, list) else [inside]
    return found


def only_mode(places: Sequence[Path | Location]) -> Mode:
    """Return the first mode of which there are samples: training, validation, test or prediction."""
    return next((mode for mode in MODES if any(has_partitions(one, mode) for one in places)), MODES[0])
