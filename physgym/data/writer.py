"""`SampleWriter`: appends samples to a dataset folder of partitions."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from physgym._version import __version__
from physgym.data.partition import Appender, Partition, columns_of, replace_durably, row_bytes
from physgym.data.statistics import RunningStatistics, Statistics
from physgym.errors import ConfigError, DatasetError
from physgym.sample import SampleSpec
from physgym.spaces import Array

Mode = Literal["training", "validation", "prediction"]
DESCRIPTION = "dataset.json"
LOCK = ".lock"
DEFAULT_MAX_FILE_SIZE = 1 << 30


def partition_files(folder: Path, mode: str) -> list[Path]:
    """The partitions of a mode, in order."""
    pattern = re.compile(rf"{re.escape(mode)}-\d{{5}}\.h5")
    return sorted(path for path in folder.glob(f"{mode}-*.h5") if pattern.fullmatch(path.name))


def check_mode(mode: str) -> None:
    """Raise ConfigError unless mode is one of a dataset's modes."""
    if mode not in get_args(Mode):
        raise ConfigError(f"mode must be one of {get_args(Mode)}, not {mode!r}")


class SampleWriter:
    """Appends samples to a dataset; whatever happens, what was committed stays readable.

    Args:
        path: The dataset's folder; created if needed.
        spec: The sample fields.
        mode: Which part of the dataset to write.
        source: JSON data that says where the samples come from; a continued dataset must have the same.
        resume: Continue existing samples of this mode; without it their existence is an error.
        max_file_size: Largest size of a partition in bytes.

    Attributes:
        count: Samples of this mode that are committed.

    Raises:
        DatasetError: The folder holds samples already, another writer is at work, or the existing samples do not fit.
    """

    def __init__(
        self,
        path: str | Path,
        spec: SampleSpec,
        *,
        mode: Mode = "training",
        source: Mapping[str, Any] | None = None,
        resume: bool = False,
        max_file_size: int = DEFAULT_MAX_FILE_SIZE,
    ) -> None:
        check_mode(mode)
        if max_file_size < 1:
            raise ConfigError(f"max_file_size must be positive bytes, not {max_file_size}")
        self.path, self.spec, self.mode = Path(path), spec, mode
        self._source = json.dumps(dict(source or {}), sort_keys=True)
        self._capacity = max(1, max_file_size // row_bytes(spec))
        self._made_folder = not self.path.exists()
        self._appender: Appender | None = None
        self._lock = self._acquire()
        try:
            self._partitions = self._existing(resume)
            self.count = sum(p.count for p in self._partitions)
            self._statistics = self._initial_statistics()
        except BaseException:
            self._release()
            raise

    # --- opening

    def _acquire(self) -> int:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DatasetError(f"cannot create a dataset at {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a killed writer loses it at once
        except OSError as error:
            os.close(lock)
            raise DatasetError(
                f"{self.path} is being written by another process; wait for it or choose another"
            ) from error
        return lock

    def _existing(self, resume: bool) -> list[Partition]:
        files = partition_files(self.path, self.mode)
        if files and not resume:
            raise DatasetError(
                f"{self.path} already holds {self.mode} samples ({len(files)} partitions). "
                "Continue it with physgym generate --resume (resume=True), or choose another folder"
            )
        for leftover in (*self.path.glob(f"{self.mode}-[0-9][0-9][0-9][0-9][0-9].tmp"), *self.path.glob("dataset.tmp")):
            leftover.unlink()
        partitions = [Partition(file) for file in files]
        for part in partitions:
            if part.spec != self.spec:
                raise DatasetError(f"{part.path} has the fields {part.spec}, the new samples {self.spec}")
            if part.attributes["source"] != self._source:
                raise DatasetError(
                    f"{part.path} comes from {part.attributes['source']}, the new samples from {self._source}; "
                    "resume with the same environment, arguments and seed, or write another dataset"
                )
        return partitions

    def _initial_statistics(self) -> RunningStatistics:
        running = RunningStatistics(self.spec)
        for part in self._partitions:
            rows = part.map()
            running.add({name: rows[f"data/{name}"] for name in self.spec})
        return running

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Mean and standard deviation of all samples of this mode, by real-valued field."""
        return self._statistics.result()

    @property
    def last(self) -> tuple[int, int] | None:
        """Episode and step of the last committed sample, None if there is none."""
        for part in reversed(self._partitions):
            if part.count:
                rows = part.map()
                return int(rows["index/episode"][-1]), int(rows["index/step"][-1])
        return None

    # --- appending

    def append(self, samples: Mapping[str, Array], *, episode: Array, step: Array, seed: Array) -> None:
        """Write samples and commit them.

        Args:
            samples: Every field, each of shape (n, *field shape) and its declared dtype.
            episode: Index of the episode of each sample, shape (n,).
            step: Step within the episode of each sample, shape (n,).
            seed: Seed of the episode of each sample, shape (n,).

        Raises:
            DatasetError: The arrays do not fit the fields, or the disk refuses the write.
        """
        if self._lock < 0:
            raise DatasetError(f"the writer of {self.path} is closed; make a new one with resume=True")
        rows: dict[str, Array] = {f"data/{name}": np.asarray(value) for name, value in samples.items()}
        rows |= {"index/episode": np.asarray(episode), "index/step": np.asarray(step), "index/seed": np.asarray(seed)}
        total = len(rows["index/episode"])
        self._check(rows, total)
        start = 0
        while start < total:
            if self._appender is None or self._appender.room == 0:
                self._next_partition()
            assert self._appender is not None
            stop = min(total, start + self._appender.room)
            self._appender.append({name: value[start:stop] for name, value in rows.items()})
            self.count += stop - start
            start = stop
        self._statistics.add(samples)

    def _check(self, rows: dict[str, Array], total: int) -> None:
        expected = columns_of(self.spec)
        if set(rows) != set(expected):
            raise DatasetError(f"got the fields {sorted(rows)}, the dataset has {sorted(expected)}")
        for name, (shape, dtype) in expected.items():
            value = rows[name]
            if value.shape != (total, *shape):
                raise DatasetError(f"{name} has shape {value.shape}; {total} samples need {(total, *shape)}")
            if not np.can_cast(value.dtype, dtype, "same_kind"):
                raise DatasetError(f"{name} has dtype {value.dtype}, which does not convert to {dtype}")

    def _next_partition(self) -> None:
        self._finish_partition()
        current = self._partitions[-1] if self._partitions else None
        if current is None or current.sealed:
            number = 1 + max((int(p.path.stem[-5:]) for p in self._partitions), default=-1)
            attributes = {"mode": self.mode, "source": self._source, "physgym": __version__}
            file = self.path / f"{self.mode}-{number:05d}.h5"
            try:
                current = Partition.create(file, self.spec, self._capacity, attributes)
            except (OSError, RuntimeError) as error:
                file.with_suffix(".tmp").unlink(missing_ok=True)
                raise DatasetError(
                    f"cannot create {file}: {error}. {self.count} committed samples are intact"
                ) from error
            self._partitions.append(current)
        self._appender = current.appender()

    def _finish_partition(self, *, seal: bool = True) -> None:
        """Seal a partition; the description follows it."""
        if self._appender is None:
            return
        part = self._appender.partition
        self._appender.close()
        self._appender = None
        try:
            if seal:
                part.seal()
            self._describe()
        except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
            for leftover in (part.path, self.path / DESCRIPTION):
                leftover.with_suffix(".tmp").unlink(missing_ok=True)
            raise DatasetError(
                f"cannot complete {part.path}: {error}. Its {part.count} samples are committed and readable; free "
                "space, then continue the dataset"
            ) from error

    def _describe(self) -> None:
        """Write the JSON description: a convenience for readers, never the only place of anything."""
        file = self.path / DESCRIPTION
        description: dict[str, Any] = {"format": "physgym-dataset", "version": 1, "modes": {}}
        if file.exists():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: later writers make it anew
                description["modes"] = json.loads(file.read_text())["modes"]
        description["modes"][self.mode] = {
            "samples": self.count,
            "partitions": [{"file": p.path.name, "samples": p.count} for p in self._partitions],
            "fields": self.spec.to_json(),
            "source": json.loads(self._source),
            "statistics": {name: s.to_json() for name, s in self.statistics.items()},
        }
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(description, indent=1))
        replace_durably(temporary, file)

    # --- closing

    def close(self, *, seal: bool = True) -> None:
        """Complete the dataset; one without samples leaves nothing behind. Calling it again does no harm.

        Args:
            seal: Copy the last partition to its exact size. Without, it stays open: larger than its content, as
                readable, and continued in place by the next writer.

        Raises:
            DatasetError: The disk refuses; what was committed is readable all the same.
        """
        if self._lock < 0:
            return
        try:
            if self._appender is None and self._partitions and not self._partitions[-1].sealed:
                self._appender = self._partitions[-1].appender()  # left open by an earlier writer
            if self._appender is not None and self._appender.partition.count == 0:
                self._appender.close()
                self._appender.partition.path.unlink()
                self._partitions.remove(self._appender.partition)
                self._appender = None
            self._finish_partition(seal=seal)
        finally:
            self._release()

    def _release(self) -> None:
        if self._appender is not None:
            self._appender.close()
        if self._made_folder and not any(p for p in self.path.iterdir() if p.name != LOCK):
            (self.path / LOCK).unlink()
            self.path.rmdir()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        close_after(self, kind)


def close_after(writer: SampleWriter, error: type[BaseException] | None) -> None:
    """Close after a block that may have failed: then at once, and without hiding its error behind another."""
    if error is None:
        writer.close()
    else:
        with contextlib.suppress(DatasetError):
            writer.close(seal=False)
