"""`SampleDataset`: the samples in one or several dataset folders, as arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from physgym.data import loader
from physgym.data.partition import INDEX, Partition
from physgym.data.statistics import BLOCK, RunningStatistics, Statistics, real_fields
from physgym.data.writer import DESCRIPTION, Mode, check_mode, partition_files
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array


class SampleDataset:
    """Samples on disk: map-style, so that `torch.utils.data.DataLoader` takes it as it is.

    Args:
        path: A dataset folder, or several that are read as one; all need the same fields.
        mode: Which part to read.
        fields: Only these fields, in this order; all by default.
        mini: Only the first so many samples.
        rows: Only these samples, by index; what `split` uses.

    Attributes:
        spec: The sample fields.

    Raises:
        DatasetError: A folder has no samples of this mode, or a partition is damaged or differs in its fields.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        mode: Mode = "training",
        fields: Sequence[str] | None = None,
        mini: int | None = None,
        rows: Array | None = None,
    ) -> None:
        check_mode(mode)
        self.paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(p) for p in path]
        if not self.paths:
            raise ConfigError("no dataset folder is given")
        self.mode = mode
        self._partitions = [(i, part) for i, folder in enumerate(self.paths) for part in _open(folder, mode)]
        first = self._partitions[0][1]
        for _, part in self._partitions:
            if part.spec != first.spec:
                raise DatasetError(f"{part.path} has the fields {part.spec}, {first.path} has {first.spec}")
        self._fields = None if fields is None else list(fields)
        self.spec = first.spec if fields is None else _subset(first.spec, fields)
        self._maps = [part.map() for _, part in self._partitions]
        self._bounds = np.cumsum([0, *(part.count for _, part in self._partitions)])
        total = int(self._bounds[-1])
        if mini is not None and mini < 1:
            raise ConfigError(f"mini must be at least 1 sample, not {mini}")
        # an index into all samples, None for all of them: the common case needs no table
        self._rows = None if rows is None else _integers(rows, total)
        if mini is not None and mini < len(self):
            self._rows = (np.arange(total) if self._rows is None else self._rows)[:mini]

    def __len__(self) -> int:
        return int(self._bounds[-1]) if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        where = ", ".join(str(path) for path in self.paths)
        return f"SampleDataset({where}, mode={self.mode!r}, {len(self)} samples, {self.spec})"

    def __reduce__(self) -> tuple[Any, ...]:
        # paths instead of memory maps, so that the workers of a DataLoader open the files themselves
        return _reopen, (self.paths, self.mode, self._fields, self._rows)

    @property
    def source(self) -> dict[str, Any]:
        """Where the samples come from, as their writer recorded it: environment, arguments, seed."""
        source: dict[str, Any] = json.loads(self._partitions[0][1].attributes["source"])
        return source

    # --- access

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sample: ...

    def __getitem__(self, index: int | slice) -> Sample:
        if isinstance(index, slice):
            return self.gather(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a dataset with {len(self)}")
        return {name: value[0] for name, value in self.gather(np.array([index % len(self)])).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples at once, as `torch.utils.data.DataLoader` asks for them."""
        batch = self.gather(np.asarray(indices))
        return [{name: value[i] for name, value in batch.items()} for i in range(len(indices))]

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """Samples at the given indices, stacked.

        Args:
            indices: Integers between 0 and ``len(self) - 1``, shape (n,); or a mask of shape (len(self),), bool.
            fields: Only these fields.

        Returns:
            Field names to new arrays of shape (n, *field shape).
        """
        names = list(self.spec) if fields is None else list(_subset(self.spec, fields))
        return self._take([f"data/{name}" for name in names], names, _integers(indices, len(self)))

    def index(self, name: str) -> Array:
        """Where samples come from: "episode", "step" or "seed" of every sample, shape (len(self),)."""
        if name not in INDEX:
            raise ConfigError(f"there is no index {name!r}; there are {', '.join(INDEX)}")
        return self._take([f"index/{name}"], [name], np.arange(len(self)))[name]

    def _take(self, columns: list[str], names: list[str], indices: Array) -> Sample:
        rows = indices if self._rows is None else self._rows[indices]
        owner = np.searchsorted(self._bounds, rows, side="right") - 1
        batch: Sample = {}
        for column, name in zip(columns, names, strict=True):
            shape, dtype = self._maps[0][column].shape[1:], self._maps[0][column].dtype
            if len(self._maps) == 1:
                batch[name] = np.take(self._maps[0][column], rows, axis=0)
                continue
            batch[name] = np.empty((len(rows), *shape), dtype)
            for part in np.unique(owner):
                mine = owner == part
                batch[name][mine] = self._maps[part][column][rows[mine] - self._bounds[part]]
        return batch

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        fields: Sequence[str] | None = None,
    ) -> Iterator[Sample]:
        """Mini-batches of one epoch; see `physgym.data.loader.batches`."""
        return loader.batches(self, batch_size, shuffle=shuffle, seed=seed, epoch=epoch, fields=fields)

    # --- splitting

    @property
    def episodes(self) -> Array:
        """An integer per sample that names its episode, across folders; shape (len(self),)."""
        folder = np.repeat([i for i, _ in self._partitions], [part.count for _, part in self._partitions])
        keys = np.stack([folder if self._rows is None else folder[self._rows], self.index("episode")], axis=1)
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)

    def split(self, validation_fraction: float, seed: int = 0) -> tuple[SampleDataset, SampleDataset]:
        """Training and validation parts, by episode: no episode is in both.

        Args:
            validation_fraction: Fraction of the episodes for validation, at least one, between 0 and 1.
            seed: Which episodes.

        Raises:
            ConfigError: The fraction is out of range, or there are fewer than two episodes.
        """
        if not 0 < validation_fraction < 1:
            raise ConfigError(f"validation fraction must lie between 0 and 1, not {validation_fraction}")
        episodes = self.episodes
        count = int(episodes.max()) + 1
        if count < 2:
            raise ConfigError(
                "a split by episode needs at least two episodes, this dataset has one; add samples or hold out none"
            )
        held = min(count - 1, max(1, round(validation_fraction * count)))
        chosen = np.isin(episodes, np.random.default_rng(seed).permutation(count)[:held])
        return self.subset(np.flatnonzero(~chosen)), self.subset(np.flatnonzero(chosen))

    def subset(self, indices: Array) -> SampleDataset:
        """The samples at the given indices, or under a mask of shape (len(self),), as a dataset of its own."""
        rows = _integers(indices, len(self))
        return SampleDataset(
            self.paths, mode=self.mode, fields=self._fields, rows=rows if self._rows is None else self._rows[rows]
        )

    # --- statistics

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Mean and standard deviation per field: as the writer kept them, computed where that does not apply."""
        return self._stored_statistics() or self.compute_statistics()

    def compute_statistics(self) -> dict[str, Statistics]:
        """Mean and standard deviation per field, from the samples."""
        running = RunningStatistics(self.spec)
        for start in range(0, len(self), BLOCK):
            running.add(self.gather(np.arange(start, min(len(self), start + BLOCK))))
        return running.result()

    def _stored_statistics(self) -> dict[str, Statistics] | None:
        if self._rows is not None or len(self.paths) != 1:
            return None
        try:
            mode = json.loads((self.paths[0] / DESCRIPTION).read_text())["modes"][self.mode]
            stored = {f.name: Statistics.from_json(mode["statistics"][f.name]) for f in real_fields(self.spec)}
        except (OSError, ValueError, KeyError, TypeError):
            return None  # the description is a convenience; the samples are the truth
        return stored if all(s.count == len(self) for s in stored.values()) else None


def _open(folder: Path, mode: str) -> list[Partition]:
    if not folder.is_dir():
        raise DatasetError(f"there is no dataset at {folder}")
    partitions = [Partition(file) for file in partition_files(folder, mode)]
    if not sum(part.count for part in partitions):
        raise DatasetError(f"{folder} holds no {mode} samples; generate some first, or choose another mode")
    return partitions


def _integers(indices: Any, length: int) -> Array:
    """Indices as integers in range; a mask becomes those where it is true.

    Raises:
        ConfigError: They are no integers, or out of range.
    """
    array = np.asarray(indices)
    if array.dtype == np.bool_ and array.shape == (length,):
        return np.flatnonzero(array)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ConfigError(f"indices must be integers, or a mask of shape ({length},), not {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() >= length:
        raise ConfigError(f"indices must lie between 0 and {length - 1}, got {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _subset(spec: SampleSpec, names: Sequence[str]) -> SampleSpec:
    if unknown := [name for name in names if name not in spec]:
        raise ConfigError(f"fields {unknown} are not in the dataset, which has {list(spec)}")
    return SampleSpec([spec[name] for name in names])


def _reopen(paths: list[Path], mode: Mode, fields: list[str] | None, rows: Array | None) -> SampleDataset:
    return SampleDataset(paths, mode=mode, fields=fields, rows=rows)
