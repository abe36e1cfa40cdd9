"""`SampleWriter`: appends samples to a dataset folder of partitions."""

from __future__ import annotations

import atexit
import contextlib
import copy
import errno
import json
import operator
import os
import re
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from physgym import files
from physgym._version import __version__
from physgym.casting import CastError, as_dtype
from physgym.data import constants
from physgym.data.capacity import capacity
from physgym.data.description import DESCRIPTION as DESCRIPTION
from physgym.data.description import LOCK as LOCK
from physgym.data.description import Description, open_partitions
from physgym.data.description import Mode as Mode
from physgym.data.description import check_mode as check_mode
from physgym.data.description import describe_partitions as describe_partitions
from physgym.data.description import partition_files as partition_files
from physgym.data.description import rebuild_description as rebuild_description
from physgym.data.layout import ENDING, ENDINGS, EPISODES, REASON, REJECTED, SAMPLES, Layout, row_nbytes
from physgym.data.names import TakenNames
from physgym.data.partition import COPY, Partition
from physgym.data.partition_file import Appender, create_partition, seal, unseal
from physgym.data.statistics import Accumulator, Statistics, merged, present_rows, real_fields
from physgym.data.texts import SIGNATURE, encoded
from physgym.errors import ConfigError, DatasetError, PhysGymError, SampleError, StorageError
from physgym.sample import NOT_FINITE, Field, SampleSpec, counts_rows
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.storage.location import Location, place
from physgym.system.descriptors import above_standard
from physgym.system.disk_space import check_room

if TYPE_CHECKING:
    from physgym.data.upload import Mirror

DEFAULT_MAX_FILE_SIZE = 1 << 30
DEFAULT_BUFFER = 1 << 20
DEFAULT_COMMIT_INTERVAL = 0.5
MOST_PARTITIONS = 100_000  # their names have five digits
# names like those of files under construction, which a killed writer leaves; see `_delete_leftovers`
LEFTOVER = re.compile(r"\.(dataset\.json|constants\.npz|[a-z]+-\d{5}\.h5)-[0-9a-f]{16}\.tmp")
MOVED = (
    "the folder was moved away, replaced or removed while it was written; nothing more is written. Move it back, then "
    "continue with resume"
)
BEGINNINGS = {".h5": SIGNATURE, ".json": b"{", ".npz": b"PK"}  # of files by suffix
NOT_OURS = (
    "{folder} has {names}, named like files that a killed writer leaves, but not known to be such; they are kept. "
    "Delete them, or give them other names"
)
NO_MASK = (
    "field {name!r} has the mask {mask!r}, which is no field of the samples; they have {known}. Add that field, or "
    "take the mask away"
)
COUNT = (
    "{where}: {name!r} says that {value} rows of {field!r} are there; it has {most}. A mask that is an integer counts "
    "the rows from the first one"
)
WAITING = 2  # full partitions that may wait for their seal before appending waits for it


@dataclass(frozen=True)
class _Portion:
    """Samples that are being stored.

    Attributes:
        rows: Their columns.
        done: How many of them are stored.
        count: How many there are.
        error: What to raise after that.
    """

    rows: Mapping[str, Array]
    done: int
    count: int
    error: SampleError | None


_open_writers: weakref.WeakSet[SampleWriter] = weakref.WeakSet()


def _forget_writers() -> None:
    """In a forked child: the samples and the lock are the parent's."""
    for writer in _open_writers:
        writer._give_up_lock()


os.register_at_fork(after_in_child=_forget_writers)


class SampleWriter:
    """Appends samples to a dataset; whatever happens, what was committed stays readable.

    Samples are collected in a buffer and committed when it is full, after `commit_interval` and by `commit`. A thread
    of the writer does the latter, seals partitions that are full and keeps the statistics, so that `append` waits for
    one write of a buffer at most (or, where the disk is slower than the samples, for the seal of a partition). All
    methods may be called from any thread. What interrupts them (Ctrl-C) leaves every sample taken before in its place;
    of the samples of an interrupted `append` the first ones may be stored. A forked child has no part in a writer.

    Args:
        path: The dataset's folder, created if needed; or ``s3://bucket/prefix``, see `physgym.storage`.
        spec: The sample fields.
        mode: Which part of the dataset to write.
        source: JSON data that says where the samples come from; a continued dataset must have the same.
        resume: Continue existing samples of this mode; without it their existence is an error.
        max_file_size: Largest size of a partition's file in bytes, its metadata included.
        parameters: Parameters to store per episode, by `add_parameters`.
        rejected: Whether to store rejected samples apart, by `add_rejected`.
        endings: Whether to store how episodes ended, by `add_endings`; a continued dataset stores it if it did so.
        nonfinite: What to do with a sample that has a value which is not finite: "error" raises, "reject" leaves it
            out, "allow" stores it.
        durable: Whether a commit survives a power cut as well: it waits for the disk.
        commit_interval: Seconds after which samples are committed; 0 commits in every `append`.
        buffer_size: Bytes of samples to collect at most.
        attributes: Further text attributes of the partitions.
        provenance: JSON data about the code and the run that make the samples, kept in ``dataset.json`` and never in a
            partition; None keeps what is recorded already. See the property `provenance`.

    Attributes:
        discarded: Samples that were left out because they are not finite.

    Raises:
        DatasetError: The folder holds samples already, another writer is at work, or the existing samples do not fit.
        ConfigError: An argument is out of range, `source` is not JSON data, or a field cannot be stored.
    """

    def __init__(
        self,
        path: str | Path | Location,
        spec: SampleSpec,
        *,
        mode: Mode = "training",
        source: Mapping[str, Any] | None = None,
        resume: bool = False,
        max_file_size: int = DEFAULT_MAX_FILE_SIZE,
        parameters: SampleSpec | None = None,
        rejected: bool = False,
        endings: bool = False,
        nonfinite: NonFinite = "error",
        durable: bool = False,
        commit_interval: float = DEFAULT_COMMIT_INTERVAL,
        buffer_size: int = DEFAULT_BUFFER,
        attributes: Mapping[str, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        check_mode(mode)
        if nonfinite not in get_args(NonFinite):
            raise ConfigError(f"nonfinite must be one of {get_args(NonFinite)}, not {nonfinite!r}")
        for name, value in (("max_file_size", max_file_size), ("buffer_size", buffer_size)):
            if value < 1:
                raise ConfigError(f"{name} must be positive bytes, not {value}")
        if not commit_interval >= 0:
            raise ConfigError(f"commit_interval must not be negative, got {commit_interval}")
        found = place(path)
        self.path, self.spec, self.mode = found if isinstance(found, Path) else Path(), spec, mode
        for field in (*spec.values(), *(parameters or {}).values()):
            _check_storable(field)
        self._counts = _row_counts(spec)
        self._layout = Layout(spec, parameters, rejected, endings)
        self._max_file_size = max_file_size
        self._nonfinite, self._durable, self._interval = nonfinite, durable, commit_interval
        try:
            self._source = json.dumps(dict(source or {}), sort_keys=True)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"source must be JSON data with texts as keys: {error}") from error
        self._provenance = None if provenance is None else _json(provenance, "provenance")
        self._attributes = {"mode": mode, "source": self._source, "physgym": __version__, **(attributes or {})}
        self._capacity = capacity(self._layout, max_file_size, self._attributes)
        self.discarded = 0

        forms = self._layout.tables[SAMPLES]
        rows = max(1, buffer_size // sum(row_nbytes(form) for form in forms.values()))
        self._buffer: dict[str, Array] = {name: np.zeros((rows, *shape), dt) for name, (shape, dt) in forms.items()}
        self._size, self._fill = rows, 0
        self._portion: _Portion | None = None  # what `_store` is at
        self._looked_at = any(field.dtype.kind == "U" for field in spec.values())  # texts, which may not be storable
        self._taken = TakenNames(self._stored_names)
        self._names = [self._buffer[f"index/{name}"] for name in ("episode", "step", "seed", "env")]
        self._targets = [(name, self._buffer[f"data/{name}"], f.shape, f.dtype) for name, f in spec.items()]

        self._lock = threading.RLock()  # buffer and partitions
        self._counting = threading.RLock()  # statistics and seals
        self._appender: Appender | None = None
        self._full: deque[Partition] = deque()
        self._accumulators: dict[Path, dict[str, Accumulator]] = {}
        self._fault: PhysGymError | None = None
        self._fault_raised = False
        self._stop, self._wake = threading.Event(), threading.Event()
        self._describing = threading.Lock()  # the description
        self._constants: dict[str, Any] | str | None = None  # what the description says of them
        self._described: dict[str, Any] = {}  # by file, as it names the partitions now
        self._mirror: Mirror | None = None
        if isinstance(found, Location):
            from physgym.data.upload import Mirror

            self._mirror = Mirror(found)
            self.path = self._mirror.folder
        self._made_folder = not self.path.exists()
        self._flock, self._folder = self._acquire()
        try:
            if self._mirror is not None:
                self._mirror.prepare(mode, resume)
            self._partitions = self._existing(resume)
            self._sides = {name: _Side(name, self._partitions) for name in self._layout.tables if name != SAMPLES}
            self._full.extend(p for p in self._partitions[:-1] if not p.sealed)
            self._ended = 0  # partitions that take no more
            if self._mirror is not None:
                self._mirror.begin()
        except BaseException:
            self._release()
            raise
        _open_writers.add(self)
        atexit.register(self.close, seal=False)  # what a program that forgets to close it has in the buffer
        self._thread = threading.Thread(target=self._keep_up, name=f"writer of {self.path}", daemon=True)
        self._thread.start()

    # --- opening

    def _acquire(self) -> tuple[int, int]:
        """Make the folder and take its lock; the descriptors of both."""
        lock = -1
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            folder = above_standard(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                lock = files.open_regular(self.path / LOCK, os.O_RDWR | os.O_CREAT)
                taken = files.lock(lock, self.path) == "taken"  # a killed writer loses it at once
            except BaseException:
                os.close(folder)
                raise
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            what = "lock" if lock >= 0 else "create a dataset at"
            raise DatasetError(f"cannot {what} {self.path}: {error.strerror or error}") from error
        if taken:
            os.close(lock)
            os.close(folder)
            raise DatasetError(f"{self.path} is being written by another process; wait for it or choose another")
        return lock, folder

    def _existing(self, resume: bool) -> list[Partition]:
        found = partition_files(self.path, self.mode)
        if found and not resume:
            raise DatasetError(
                f"{self.path} already holds {self.mode} samples ({len(found)} partitions). "
                "Continue it with physgym generate --resume (resume=True), or choose another folder"
            )
        _delete_leftovers(self.path)
        partitions, description = open_partitions(self.path, self.mode)
        named = {part.path for part in partitions}
        for file in found:
            if file not in named:  # it is empty: its writer was killed before the description named it
                file.unlink()
        self._constants = description.constants or constants.recorded(self.path)
        described = description.modes.get(self.mode)
        if described is not None:
            self._described = {part["file"]: part for part in described["partitions"]}
        if self._provenance is None:
            self._provenance = description.provenance(self.mode)
        if partitions and partitions[0].layout.endings != self._layout.endings:  # of a version that did not store them
            self._layout = replace(self._layout, endings=partitions[0].layout.endings)
            self._capacity = capacity(self._layout, self._max_file_size, self._attributes)
        for part in partitions:
            if part.spec != self.spec:
                raise DatasetError(f"{part.path} has the fields {part.spec}, the new samples {self.spec}")
            if part.layout != self._layout:
                raise DatasetError(
                    f"{part.path} has the parameters {part.layout.parameters} and "
                    f"{'' if part.layout.rejected else 'no '}rejected samples; continue it in the same way"
                )
            if part.attributes["source"] != self._source:
                raise DatasetError(
                    f"{part.path} was made with another {_differing(part.attributes['source'], self._source)}; "
                    "resume with the same environment, arguments, samplers and seed, or write another dataset"
                )
        return partitions

    # --- what there is

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._flock < 0

    @property
    def count(self) -> int:
        """Samples of this mode, those that wait in the buffer included."""
        with self._lock:
            waiting = self._fill + (self._portion.count - self._portion.done if self._portion else 0)
            return waiting + sum(part.tables[SAMPLES].written for part in self._partitions)

    @property
    def committed(self) -> int:
        """Samples of this mode that are committed."""
        with self._lock:
            return sum(part.count for part in self._partitions)

    @property
    def last(self) -> tuple[int, int] | None:
        """Episode and step of the last sample, None if there is none."""
        with self._lock:
            portion = self._portion or _Portion({}, 0, 0, None)
            for rows, count in ((self._buffer, self._fill), (portion.rows, portion.count - portion.done)):
                if count:
                    end = self._fill if rows is self._buffer else portion.count
                    return int(rows["index/episode"][end - 1]), int(rows["index/step"][end - 1])
            for part in reversed(self._partitions):
                written = part.tables[SAMPLES].written
                if written:
                    episode, step = (
                        int(part.read(f"index/{name}", written - 1, written)[0]) for name in ("episode", "step")
                    )
                    return episode, step
            return None

    @property
    def provenance(self) -> Any:
        """Where the samples of this mode come from, as ``dataset.json`` says: JSON data; setting it records it at once.

        "unknown" where nothing was said, None in a dataset that was begun before this was recorded.
        """
        return copy.deepcopy(self._provenance)

    @provenance.setter
    def provenance(self, value: Any) -> None:
        value = _json(value, "provenance")
        with self._lock:
            self._usable()
            self._provenance = value
            if self._partitions:
                self._describe()

    @property
    def constants(self) -> dict[str, Array]:
        """Arrays that the dataset stores once, see `set_constants`; empty where there are none."""
        return constants.read(self.path, self._constants)

    def set_constants(self, values: Mapping[str, Any]) -> None:
        """Store arrays once for the whole dataset: every mode, run and resume has the same.

        Args:
            values: Arrays of numbers, flags or texts by name, such as ``{"mesh/nodes": nodes}``; all that there are.

        Raises:
            ConfigError: A name or a value cannot be stored.
            DatasetError: The dataset has others; the text names those that differ. Or the disk refuses.
        """
        with self._lock:
            self._usable()
            try:
                self._check_place()
                self._constants = constants.store(self.path, values, durable=self._durable)
            except OSError as error:
                raise DatasetError(f"cannot write the constants of {self.path}: {error.strerror or error}") from error
            if self._partitions:
                self._describe()

    def _stored_names(self) -> Iterator[tuple[Array, Array]]:
        """Episodes and steps of all samples, those that wait included."""
        for part in self._partitions:
            written = part.tables[SAMPLES].written
            step = COPY // 16
            for start in range(0, written, step):
                stop = min(written, start + step)
                episodes, steps = (part.read(f"index/{name}", start, stop) for name in ("episode", "step"))
                yield episodes, steps
        if self._portion is not None:
            rows, left = self._portion.rows, slice(self._portion.done, self._portion.count)
            yield rows["index/episode"][left], rows["index/step"][left]
        yield self._names[0][: self._fill], self._names[1][: self._fill]

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Statistics of all committed samples of this mode, by real-valued field."""
        with self._lock, self._counting:
            return merged((p.statistics if p.sealed else self._count_in(p) for p in self._partitions), self.spec)

    # --- appending

    def append(
        self,
        samples: Mapping[str, Array],
        *,
        episode: Array,
        step: Array,
        seed: Array,
        env: Array | None = None,
    ) -> None:
        """Take samples, to be committed within `commit_interval`.

        Args:
            samples: Every field, each of shape (n, *field shape) and its declared dtype.
            episode: Index of the episode of each sample, shape (n,).
            step: Step within the episode of each sample, shape (n,).
            seed: Seed of the episode of each sample, shape (n,).
            env: Number of the simulation that gave each sample where a dataset has several, shape (n,); 0 by default.

        Raises:
            SampleError: A value is not finite, or a mask counts rows that its field does not have; the text names
                field, episode and step. What came before is stored. It may be raised by a later call, since samples
                are looked at when they leave the buffer.
            DatasetError: The arrays do not fit the fields, in kind or values, there is a sample of the same episode
                and step already, or the disk refuses the write, now or in the time since the last call.
        """
        count = len(episode)
        index = (episode, step, seed, env)
        with self._lock:
            try:
                self._usable()
                if self._fill + count > self._size:
                    self._flush()
                if count > self._size or not self._buffered(samples, index, count):
                    names = dict(zip(("episode", "step", "seed"), index, strict=False))
                    rows = self._columns(
                        samples, {**names, "env": np.zeros(count, "i4") if env is None else env}, count
                    )
                    self._taken.take(rows["index/episode"], rows["index/step"])
                    if count > self._size:
                        self._flush()
                        self._store_rows(rows, count)
                    else:
                        for name, column in rows.items():
                            self._buffer[name][self._fill : self._fill + count] = column
                        self._fill += count
                if self._interval == 0:
                    self._commit()
            except BaseException:
                self._taken.forget()  # those of samples that are not stored are free again
                raise

    def _buffered(self, samples: Mapping[str, Array], index: Sequence[Any], count: int) -> bool:
        """Put samples of exactly the right form in the buffer; the others need a closer look."""
        start, end = self._fill, self._fill + count
        if len(samples) != len(self._targets) or self._looked_at:
            return False
        for name, target, shape, dtype in self._targets:
            value = samples.get(name)
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != (count, *shape):
                return False
            target[start:end] = value
        for target, value in zip(self._names, index, strict=True):
            if value is not None and (
                type(value) is not np.ndarray
                or value.shape != (count,)
                or not (value.dtype == target.dtype or (value.dtype.kind in "iu" and _same(value, target.dtype)))
            ):
                return False
            target[start:end] = 0 if value is None else value
        if count == 1:
            self._taken.take_one(int(self._names[0][start]), int(self._names[1][start]))
        else:
            self._taken.take(self._names[0][start:end], self._names[1][start:end])
        self._fill = end
        return True

    def add(self, sample: Mapping[str, Any], *, episode: int, step: int, seed: int, env: int = 0) -> None:
        """Take one sample, as `append` takes many.

        Args:
            sample: Every field, each of its shape and dtype.
            episode: Index of the episode.
            step: Step within the episode.
            seed: Seed of the episode.
            env: Number of the simulation where a dataset has several.

        Raises:
            SampleError: As `append`.
            DatasetError: As `append`.
        """
        with self._lock:
            try:
                self._usable()
                if self._fill == self._size:
                    self._flush()
                i = self._fill
                if len(sample) != len(self._targets):
                    raise self._other_fields(sample)
                for name, target, shape, dtype in self._targets:
                    value = sample.get(name)
                    if (
                        type(value) is not np.ndarray
                        or value.dtype != dtype
                        or value.shape != shape
                        or dtype.kind == "U"
                    ):
                        if name not in sample:
                            raise self._other_fields(sample)
                        value = _column(f"data/{name}", value, shape, dtype)
                        _check_texts({name: value})
                    target[i] = value
                try:
                    episodes, steps, seeds, envs = self._names
                    episodes[i], steps[i] = operator.index(episode), operator.index(step)
                    seeds[i], envs[i] = operator.index(seed), operator.index(env)
                except (TypeError, OverflowError) as error:
                    raise DatasetError(
                        f"episode {episode}, step {step}, seed {seed}, env {env} do not name a sample: {error}"
                    ) from error
                self._taken.take_one(int(episode), int(step))
                self._fill = i + 1
                if self._interval == 0:
                    self._commit()
            except BaseException:
                self._taken.forget()  # those of samples that are not stored are free again
                raise

    def check_room(self, samples: int) -> None:
        """Raise an error where so many samples more do not fit on the disk; in a storage there is always room.

        Args:
            samples: How many are going to be appended.

        Raises:
            DatasetError: They need more than is free.
        """
        if self._mirror is None:
            row = sum(row_nbytes(form) for form in self._layout.tables[SAMPLES].values())
            check_room(self.path, samples, row)

    def add_parameters(self, parameters: Mapping[str, Array], *, episode: Array, seed: Array) -> None:
        """Take the parameters of episodes; they are stored with the first samples that follow.

        Args:
            parameters: Every parameter, each of shape (n, *parameter shape).
            episode: Index of each episode, shape (n,), ascending; those up to the last one taken before are left out.
            seed: Seed of each episode, shape (n,).

        Raises:
            DatasetError: The arrays do not fit, or the writer was made without parameters.
        """
        rows = {f"parameters/{name}": value for name, value in parameters.items()}
        rows |= {"episodes/episode": episode, "episodes/seed": seed}
        self._add_side(EPISODES, rows, len(episode))

    def add_rejected(
        self,
        samples: Mapping[str, Array],
        reasons: Sequence[str],
        *,
        episode: Array,
        step: Array,
        seed: Array,
        env: Array | None = None,
    ) -> None:
        """Take rejected samples; they are stored apart, with the first accepted ones that follow.

        Args:
            samples: As in `append`; values need not be finite.
            reasons: Why each was rejected; cut to 200 bytes.
            episode: As in `append`. A writer that resumes leaves out those up to the last one stored.
            step: As in `append`.
            seed: As in `append`.
            env: As in `append`.

        Raises:
            DatasetError: The arrays do not fit, or the writer was made without rejected samples.
        """
        count = len(reasons)
        index = {"episode": episode, "step": step, "seed": seed, "env": np.zeros(count, "i4") if env is None else env}
        rows = {f"rejected/{name}": value for name, value in self._columns(samples, index, count).items()}
        rows["rejected/reason"] = np.array([_cut(reason) for reason in reasons], REASON)
        self._add_side(REJECTED, rows, count)

    def add_endings(self, *, episode: Array, steps: Array, how: Sequence[str]) -> None:
        """Take note of how episodes ended; it is stored with their last samples.

        A continued dataset of a version that did not store this goes on without.

        Args:
            episode: Index of each episode, shape (n,), ascending.
            steps: How many steps it had, shape (n,).
            how: "terminated", "truncated" or "cut".

        Raises:
            DatasetError: The arrays do not fit.
        """
        if self._layout.endings:
            words = np.array([word.encode() for word in how], ENDING)
            rows = {"endings/episode": episode, "endings/steps": steps, "endings/how": words}
            self._add_side(ENDINGS, rows, len(words))

    def _add_side(self, table: str, given: Mapping[str, Any], count: int) -> None:
        if table not in self._sides:
            raise DatasetError(f"this writer of {self.path} was not asked to store {table}; say so when making it")
        forms = self._layout.tables[table]
        if set(given) != set(forms):
            raise DatasetError(f"got {sorted(given)}, the dataset has {sorted(forms)}")
        rows = {name: _column(name, given[name], shape, dtype, count).copy() for name, (shape, dtype) in forms.items()}
        with self._lock:
            self._usable()
            self._sides[table].add(rows)

    def commit(self) -> None:
        """Make everything taken so far readable, and with `durable` safe from power cuts.

        Raises:
            SampleError: A value is not finite; see `append`.
            DatasetError: The disk refuses.
        """
        with self._lock:
            self._usable()
            self._commit()

    def _columns(self, samples: Mapping[str, Any], index: Mapping[str, Any], count: int) -> dict[str, Array]:
        """All columns of some samples, of the right form.

        Raises:
            DatasetError: They are not.
        """
        if samples.keys() != self.spec.keys():
            raise self._other_fields(samples)
        given = {f"data/{name}": value for name, value in samples.items()}
        given |= {f"index/{name}": value for name, value in index.items()}
        forms = self._layout.tables[SAMPLES]
        columns = {name: _column(name, given[name], shape, dtype, count) for name, (shape, dtype) in forms.items()}
        if self._looked_at:
            _check_texts(columns)
        return columns

    def _other_fields(self, samples: Mapping[str, Any]) -> DatasetError:
        missing, extra = sorted(set(self.spec) - set(samples)), sorted(set(samples) - set(self.spec))
        return DatasetError(f"the samples lack the fields {missing} and have {extra} beyond those of the dataset")

    def _usable(self) -> None:
        if self._flock < 0:
            raise DatasetError(f"the writer of {self.path} is closed; make a new one with resume=True")
        if self._portion is not None and self._fault is None:
            self._store()
        fault = self._fault
        if fault is not None:
            self._fault_raised = True
            if isinstance(fault, SampleError):
                self._fault = None  # it concerns one sample, and is said once
            raise fault

    # --- storing; all of it with the lock held

    def _flush(self) -> None:
        """Store what the buffer has; commit it unless that waits for the disk."""
        self._empty()
        if not self._durable:
            self._end()

    def _commit(self) -> None:
        self._empty()
        self._end()

    def _empty(self) -> None:
        """Store what the buffer has, after what an interrupted call has left."""
        if self._portion is not None:
            self._store()
        if self._fill:
            with self._whole():
                rows = {name: column[: self._fill] for name, column in self._buffer.items()}
                self._portion, self._fill = self._checked(rows, self._fill), 0
            self._store()

    def _store_rows(self, rows: Mapping[str, Array], count: int) -> None:
        """Store samples that are too many for the buffer."""
        try:
            with self._whole():
                self._portion = self._checked(rows, count)
            self._store()
        except BaseException:
            self._portion = None  # the caller may change the arrays
            raise

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What is interrupted within has not happened, so that it is done again."""
        state = self._portion, self._fill, self._ended, self.discarded
        sides = [(side, side.state) for side in self._sides.values()]
        tables = [] if self._appender is None else list(self._appender.partition.tables.values())
        written = [table.written for table in tables]
        try:
            yield
        except BaseException:
            self._portion, self._fill, self._ended, self.discarded = state
            for side, before in sides:
                side.state = before
            for table, count in zip(tables, written, strict=True):
                table.written = count
            raise

    def _end(self) -> None:
        if self._appender is not None:
            with self._disk(self._appender.partition):
                self._appender.commit()

    def _store(self) -> None:
        """Write the portion, whatever belongs to its samples before them, into as many partitions as that takes."""
        while (portion := self._portion) is not None and portion.done < portion.count:
            appender = self._with_room()
            room = appender.partition.tables[SAMPLES].room
            with self._disk(appender.partition), self._whole():
                fit = min(portion.count, portion.done + room)
                stop = portion.done + self._store_sides(appender, portion.rows, portion.done, fit)
                if stop > portion.done:
                    part = slice(portion.done, stop)
                    appender.write(SAMPLES, {n: portion.rows[n][part] for n in self._layout.tables[SAMPLES]})
                if stop < fit or stop == portion.done + room:
                    self._ended = len(self._partitions)
                self._portion = replace(portion, done=stop)
            if self._ended == len(self._partitions):
                self._rotate()
        error = portion.error if portion is not None else None
        if error is not None:
            self._end()
        self._portion = None
        if error is not None:
            raise error

    def _checked(self, rows: Mapping[str, Array], count: int) -> _Portion:
        """The samples to store, which are those before one with a number of rows that its fields do not have."""
        for name, (field, most) in self._counts.items():
            values = rows[f"data/{name}"][:count]
            wrong = (values < 0) | (values > most)
            if wrong.any():
                first = int(np.argmax(wrong))
                where = f"episode {rows['index/episode'][first]}, step {rows['index/step'][first]}"
                text = COUNT.format(where=where, name=name, value=values[first], field=field, most=most)
                self._taken.forget()  # it and those after it are not stored
                before = self._checked(rows, first)
                return before if before.error is not None else replace(before, error=SampleError(text))
        return self._finite(rows, count)

    def _finite(self, rows: Mapping[str, Array], count: int) -> _Portion:
        """Those of the samples that are finite, or are allowed not to be."""
        if self._nonfinite == "allow":
            return _Portion(rows, 0, count, None)
        for field in self.spec.values():
            values = rows[f"data/{field.name}"][:count]
            if field.dtype.kind not in "fc" or np.isfinite(values).all():
                continue
            finite = np.isfinite(values.reshape(count, -1)).all(1)
            if self._nonfinite == "error":
                first = int(np.argmin(finite))
                bad = np.argwhere(~np.isfinite(values[first]))
                text = NOT_FINITE.format(
                    where=f"episode {rows['index/episode'][first]}, step {rows['index/step'][first]}",
                    name=field.name,
                    count=len(bad),
                    index=tuple(int(i) for i in bad[0]),
                )
                self._taken.forget()  # it and those after it are not stored
                before = self._finite(rows, first)
                return before if before.error is not None else replace(before, error=SampleError(text))
            if REJECTED in self._sides:
                apart = {f"rejected/{name}": column[:count][~finite] for name, column in rows.items()}
                reasons = np.full(count - finite.sum(), _cut(f"{field.name} is not finite"), REASON)
                self._sides[REJECTED].add({**apart, "rejected/reason": reasons})
            self.discarded += int(count - finite.sum())
            rows, count = {name: column[:count][finite] for name, column in rows.items()}, int(finite.sum())
        return _Portion(rows, 0, count, None)

    def _store_sides(self, appender: Appender, rows: Mapping[str, Array], start: int, stop: int) -> int:
        """Write what precedes the samples from `start` to `stop` in other tables; how many samples then fit."""
        for name, side in self._sides.items():
            episodes, steps = (rows[f"index/{key}"][start:stop] for key in ("episode", "step"))
            table = appender.partition.tables[name]
            due = side.until(episodes[-1], steps[-1])
            if due:
                appender.write(name, side.take(min(due, table.room)))
            if side.until(episodes[-1], steps[-1]):  # the rest goes into the next partition, with the samples after it
                stop = start + side.before_next(episodes, steps)
                if stop == start:
                    break
        return stop - start

    def _with_room(self) -> Appender:
        """The appender of a partition that takes further samples."""
        if self._appender is not None:
            if self._ended < len(self._partitions):
                return self._appender
            self._rotate()
        ended = 0 < len(self._partitions) == self._ended
        current = self._partitions[-1] if self._partitions else None
        number = 1 + (-1 if current is None else int(current.path.stem[-5:]))
        file = self.path / f"{self.mode}-{number:05d}.h5"
        try:
            self._check_place()
            if number == MOST_PARTITIONS:
                raise DatasetError("a dataset has 100000 partitions at most; begin another one with larger ones")
            part_full = current is None or current.archive or current.count >= self._capacity
            if current is not None and current.sealed and not part_full and not ended:
                # so that a dataset does not depend on the portions in which it was made
                file = current.path
                self._describe(reopened=file)  # first: what it says of a partition holds for a reader at any time
                current = self._partitions[-1] = unseal(current, self._capacity, durable=self._durable)
            if current is None or current.sealed or ended or not current.tables[SAMPLES].room:
                if current is not None and not current.sealed and current not in self._full:
                    self._full.append(current)
                current = create_partition(file, self._layout, self._capacity, self._attributes, durable=self._durable)
                self._partitions.append(current)
            # named before it has rows, so that no kill makes a file with samples that the description does not know
            if self._described.get(current.path.name, {}).get("sealed", True):
                self._describe()
            self._appender = Appender(current, durable=self._durable)
        except (OSError, RuntimeError, ValueError, DatasetError) as error:  # h5py reports a full disk as any of them
            raise self._fail(
                f"cannot create {file}: {error}. The {self._intact()} committed samples of the dataset are intact; "
                "free space or repair the folder, then resume"
            ) from error
        return self._appender

    def _rotate(self) -> None:
        """Commit the partition, which is full, and leave it to the thread to seal it."""
        assert self._appender is not None
        self._end()
        appender, self._appender = self._appender, None
        appender.close()
        self._full.append(appender.partition)  # interrupted before it: `_with_room` does that
        self._wake.set()
        while len(self._full) > WAITING:
            self._seal_one()

    def _intact(self) -> int:
        return sum(part.count for part in self._partitions)

    @contextlib.contextmanager
    def _disk(self, part: Partition) -> Any:
        """Translates what the disk says."""
        try:
            self._check_place()
            if not part.path.exists():
                raise FileNotFoundError(2, "it was removed while it was written")
            yield
        except OSError as error:
            raise self._fail(
                f"cannot write to {part.path}: {error.strerror or error}. The {self._intact()} committed samples of "
                "the dataset are intact; free space or repair the folder, then resume"
            ) from error

    def _check_place(self) -> None:
        """Raise OSError if the folder is no longer the one whose lock this writer has."""
        try:
            same = os.path.samestat(self.path.stat(), os.fstat(self._folder))
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(errno.ESTALE, MOVED)

    def _fail(self, text: str) -> DatasetError:
        """The error after which the writer takes nothing more."""
        error = DatasetError(text)
        self._fault, self._fault_raised = error, threading.current_thread() is not self._thread
        self._portion, self._fill = None, 0
        for part in self._partitions:
            for table in part.tables.values():
                table.written = table.count
        return error

    # --- the thread

    def _keep_up(self) -> None:
        """Commit what waits, seal what is full, keep the statistics: until the writer is closed."""
        while not self._stop.is_set():
            self._wake.wait(min(self._interval or DEFAULT_COMMIT_INTERVAL, threading.TIMEOUT_MAX))
            self._wake.clear()
            try:
                with self._lock:
                    if self._fault is None and self._flock >= 0 and not self._stop.is_set():
                        self._commit()
                while self._full and self._fault is None and not self._stop.is_set():
                    self._seal_one()
                with self._counting:  # a partition that is sealed within would be counted in vain
                    current = self._partitions[-1] if self._partitions else None
                    if current is not None and not current.sealed:
                        self._count_in(current)
                if self._mirror is not None:
                    self._mirror.check()
            except Exception as error:  # noqa: BLE001  # whatever it is, the next call raises it
                unforeseen = DatasetError(f"the thread that writes {self.path} failed: {error!r}")
                unforeseen.__cause__ = error
                fault = error if isinstance(error, PhysGymError) else unforeseen
                with self._lock:
                    if self._fault is None:
                        self._fault, self._fault_raised = fault, False

    def _count_in(self, part: Partition) -> dict[str, Statistics]:
        """Statistics of a partition that is not sealed; takes in what was committed since the last time."""
        found = {}
        with self._counting:
            made = self._accumulators.setdefault(
                part.path, {field.name: Accumulator(field.shape, field.dtype) for field in real_fields(self.spec)}
            )
            count = part.count

            def read(name: str, start: int, stop: int) -> Array:
                return part.read(f"data/{name}", start, stop)

            for name, accumulator in made.items():
                field = self.spec[name]
                while count - (start := accumulator.rows) >= accumulator.block:
                    stop = start + accumulator.block
                    accumulator.add(read(name, start, stop), present_rows(self.spec, field, read, start, stop))
                rest = read(name, start, count)
                found[name] = accumulator.with_rest(rest, present_rows(self.spec, field, read, start, count))
        return found

    def _seal_one(self) -> None:
        """Seal the partition that has waited longest."""
        with self._counting:
            if not self._full:
                return
            part = self._full[0]
            self._seal(part)
            self._full.popleft()
            self._describe()

    def _seal(self, part: Partition) -> None:
        try:
            self._check_place()
            sealed = seal(part, self._count_in(part), durable=self._durable)
        except (OSError, RuntimeError, DatasetError) as error:  # h5py reports a full disk as any of them
            raise DatasetError(
                f"cannot complete {part.path}: {error}. The {self._intact()} committed samples of the dataset are "
                "intact; free space or repair the folder, then resume"
            ) from error
        self._accumulators.pop(part.path, None)
        for i, other in enumerate(self._partitions):
            if other is part:
                self._partitions[i] = sealed

    def _describe(self, reopened: Path | None = None) -> None:
        """Write the description, which names the partitions, with what it says of other modes.

        Args:
            reopened: The sealed partition that is about to take further rows.
        """
        with self._describing:
            try:
                self._check_place()
                modes = dict(Description.read(self.path).modes)  # a damaged one is made anew
                modes.pop(self.mode, None)
                if partitions := list(self._partitions):
                    modes[self.mode] = describe_partitions(partitions, self._provenance, reopened)
                ordered = {mode: modes[mode] for mode in get_args(Mode) if mode in modes}
                Description(ordered, self._constants).write(self.path, durable=self._durable)
            except OSError as error:
                raise DatasetError(
                    f"cannot write {self.path / DESCRIPTION}: {error.strerror or error}. Free space, then continue the "
                    "dataset"
                ) from error
            self._described = {part["file"]: part for part in modes.get(self.mode, {}).get("partitions", [])}
        if self._mirror is not None:
            self._mirror.wake()

    # --- closing

    def close(self, *, seal: bool = True) -> None:
        """Complete the dataset; one without samples leaves nothing behind. Calling it again does no harm.

        Args:
            seal: Copy the last partition to its exact size. Without, it stays open: larger than its content, as
                readable, and continued in place by the next writer.

        Raises:
            SampleError: A value is not finite; see `append`.
            DatasetError: The disk refuses, or has refused since the last call; what was committed is readable all the
                same.
        """
        if self._flock < 0:
            return
        try:
            self._stop.set()
            self._wake.set()
            self._thread.join()
            fault = self._fault
            if isinstance(fault, DatasetError) and not isinstance(fault, StorageError):
                if not self._fault_raised:
                    raise fault
                return
            with self._lock:  # another thread may be in `commit`
                self._commit()
                self._store_left()
                self._complete(seal)
            if isinstance(fault, StorageError) and self._fault_raised:
                return
            if self._mirror is not None:
                self._mirror.finish()
            if fault is not None:
                raise fault
        except PhysGymError:
            raise
        except BaseException:  # an interrupt: what is in the buffer is committed all the same
            with contextlib.suppress(PhysGymError), self._lock:
                self._commit()
            raise
        finally:
            self._thread.join()  # it must not seal without the lock
            if self._mirror is not None:
                self._mirror.stop()
            self._release()

    def _store_left(self) -> None:
        """Store what was to precede samples that did not come."""
        while any(side.waiting for side in self._sides.values()):
            appender = self._with_room()
            with self._disk(appender.partition), self._whole():
                for name, side in self._sides.items():
                    if side.waiting:
                        appender.write(name, side.take(min(side.waiting, appender.partition.tables[name].room)))
                if any(side.waiting for side in self._sides.values()):
                    self._ended = len(self._partitions)
            self._end()
            if self._ended == len(self._partitions):
                self._rotate()

    def _complete(self, seal: bool) -> None:
        if self._appender is not None:
            self._appender.close()
            self._appender = None
        while self._full and seal:
            self._seal_one()
        last = self._partitions[-1] if self._partitions else None
        if last is not None and not last.sealed:
            if last.empty:
                self._partitions.pop()
                self._describe()  # first: a file that is named is there
                last.path.unlink()
            elif seal:
                self._seal(last)
        if self._partitions or Description.read(self.path).modes:
            self._describe()
        elif any(partition_files(self.path, mode) for mode in get_args(Mode)):
            pass  # of other modes, whose description is gone
        else:
            for name in (DESCRIPTION, constants.CONSTANTS):
                (self.path / name).unlink(missing_ok=True)

    def _release(self) -> None:
        try:
            if self._appender is not None:
                self._appender.close()
                self._appender = None
            with contextlib.suppress(OSError):  # it may have been removed
                self._check_place()
                if self._made_folder and not any(p for p in self.path.iterdir() if p.name != LOCK):
                    (self.path / LOCK).unlink()
                    self.path.rmdir()
        finally:
            self._give_up_lock()
        atexit.unregister(self.close)

    def _give_up_lock(self) -> None:
        held, self._flock, self._folder = (self._flock, self._folder), -1, -1
        for handle in held:
            if handle >= 0:
                os.close(handle)

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        close_after(self, kind)


def close_after(writer: SampleWriter, error: type[BaseException] | None) -> None:
    """Close after a block that may have failed: then at once, and without hiding its error behind another."""
    if error is None:
        writer.close()
    else:
        with contextlib.suppress(DatasetError, SampleError):
            writer.close(seal=False)


@contextlib.contextmanager
def all_or_nothing(writer: SampleWriter) -> Iterator[None]:
    """A block in which a new mode of a dataset is written: where it breaks off, nothing of it stays.

    In S3 it stays, to be continued or deleted.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, DatasetError, SampleError):  # the fault of the block is what matters
            writer.close(seal=False)
            if writer._mirror is None:
                _remove(writer.path, writer.mode)
        raise


def _remove(folder: Path, mode: Mode) -> None:
    """Remove a mode of a dataset, and the folder if there is nothing else in it."""
    described = Description.read(folder)
    left = {other: kept for other, kept in described.modes.items() if other != mode}
    if left:  # first: a file that is named is there
        replace(described, modes=left).write(folder)
    for file in partition_files(folder, mode):
        file.unlink()
    if left or any(partition_files(folder, other) for other in get_args(Mode)):
        return
    for name in (DESCRIPTION, LOCK, constants.CONSTANTS):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _json(value: Any, name: str) -> Any:
    """A copy of JSON data.

    Raises:
        ConfigError: It is none.
    """
    try:
        return json.loads(json.dumps(dict(value) if isinstance(value, Mapping) else value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be JSON data with texts as keys: {error}") from error


def _differing(then: str, now: str) -> str:
    """What two sources of samples, as JSON, differ in."""
    one, other = json.loads(then), json.loads(now)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return ", ".join(f"{name} ({one.get(name)}, the new samples with {other.get(name)})" for name in names)


def _delete_leftovers(folder: Path) -> None:
    """Delete the files under construction that a killed writer left; what may be somebody else's is named and kept."""
    kept = []
    for file in sorted(folder.iterdir()):
        if (found := LEFTOVER.fullmatch(file.name)) is None:
            continue
        if files.is_temporary(file.name) and _begins(file, BEGINNINGS[Path(found[1]).suffix]):
            file.unlink()
        else:
            kept.append(file.name)
    if kept:
        warnings.warn(NOT_OURS.format(folder=folder, names=", ".join(kept)), RuntimeWarning, stacklevel=4)


def _begins(file: Path, beginning: bytes) -> bool:
    """Whether a regular file begins like this, or ends within it."""
    try:
        handle = files.open_regular(file)
    except OSError:
        return False
    try:
        return beginning.startswith(os.read(handle, len(beginning)))
    finally:
        os.close(handle)


def _cut(reason: str) -> bytes:
    """A text that fits, without half a character at its end."""
    return reason.encode()[: REASON.itemsize].decode(errors="ignore").encode()


def _check_storable(field: Field) -> None:
    """Raise ConfigError if HDF5 cannot hold a field as it is declared."""
    dtype, text = field.dtype, f"{field.name}{field.unit}"
    if dtype.kind not in "biufcSUV" or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise ConfigError(
            f"{field.name} has dtype {dtype}; a dataset holds numbers, flags, and texts and bytes of a fixed length"
        )
    if "\0" in text or text.encode(errors="replace").decode() != text:
        raise ConfigError(f"the name or unit of {field.name!r} is no text that HDF5 can hold; rename it")


def _row_counts(spec: SampleSpec) -> dict[str, tuple[str, int]]:
    """The masks that count rows: by name the field of the fewest rows that each is of, and how many these are.

    Raises:
        ConfigError: The mask of a field is no field.
    """
    found: dict[str, tuple[str, int]] = {}
    for field in spec.values():
        if field.mask and field.mask not in spec:
            raise ConfigError(NO_MASK.format(name=field.name, mask=field.mask, known=list(spec)))
        if field.mask and counts_rows(field, spec[field.mask]):
            rows = field.shape[0]
            if field.mask not in found or rows < found[field.mask][1]:
                found[field.mask] = (field.name, rows)
    return found


def _column(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], count: int | None = None) -> Array:
    """Values as an array of a shape and dtype; with a count, of so many samples.

    Raises:
        DatasetError: They do not fit.
    """
    try:
        column = as_dtype(value, dtype)
    except CastError as error:
        raise DatasetError(f"{name} {error}") from error
    wanted = shape if count is None else (count, *shape)
    if column.shape != wanted:
        who = "it needs" if count is None else f"{count} samples need"
        raise DatasetError(f"{name} has shape {column.shape}; {who} {wanted}")
    return column


def _check_texts(columns: Mapping[str, Array]) -> None:
    """Raise DatasetError if a text cannot be stored as UTF-8."""
    for name, column in columns.items():
        try:
            encoded(column)
        except UnicodeEncodeError as error:
            raise DatasetError(f"{name} has a text that cannot be stored: {error}") from error


def _same(values: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds the values."""
    return bool((values.astype(dtype) == values).all())


class _Side:
    """Rows of a table beside the samples that wait for the samples they precede.

    Args:
        table: Its name.
        partitions: What is stored already; rows named there are left out, since a resumed generation repeats them.

    Attributes:
        state: What waits, replaced as a whole: rows, their episodes and steps, the name up to which rows are left out.
    """

    def __init__(self, table: str, partitions: Sequence[Partition]) -> None:
        self._table = table
        first = np.iinfo(np.int64).min
        last = first, first
        for part in reversed(partitions):
            count = part.tables[table].count
            if count:
                names = self._names({n: part.read(n, count - 1, count) for n in part.tables[table].columns})
                last = int(names[0][0]), int(names[1][0])
                break
        nothing = np.empty(0, np.int64)
        self.state: tuple[dict[str, Array], Array, Array, tuple[int, int]] = {}, nothing, nothing, last

    def _names(self, rows: Mapping[str, Array]) -> tuple[Array, Array]:
        """Episodes and steps of rows; parameters come before the first step."""
        if self._table == EPISODES:
            return rows["episodes/episode"], np.full(len(rows["episodes/episode"]), -1)
        if self._table == ENDINGS:
            return rows["endings/episode"], rows["endings/steps"] - 1
        return rows["rejected/index/episode"], rows["rejected/index/step"]

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self.state[1])

    def add(self, rows: Mapping[str, Array]) -> None:
        """Take rows.

        Raises:
            DatasetError: Episodes of parameters do not ascend.
        """
        waiting, _, _, last = self.state
        episodes, steps = self._names(rows)
        if self._table == EPISODES and (np.diff(episodes) <= 0).any():
            raise DatasetError("parameters come once per episode, in ascending order of the episodes")
        new = ~_at_most(episodes, steps, *last)
        kept = {name: column[new] for name, column in rows.items()}
        if self._table == EPISODES and new.any():
            last = int(episodes[-1]), -1
        if waiting:
            kept = {name: np.concatenate([waiting[name], column]) for name, column in kept.items()}
        self.state = kept, *self._names(kept), last

    def until(self, episode: int, step: int) -> int:
        """How many rows, from the first on, precede this sample or belong to it."""
        _, episodes, steps, _ = self.state
        late = ~_at_most(episodes, steps, episode, step)
        return int(np.argmax(late)) if late.any() else self.waiting

    def before_next(self, episodes: Array, steps: Array) -> int:
        """How many samples, from the first on, precede the next row."""
        _, waiting, at, _ = self.state
        late = ~_at_most(episodes, steps, waiting[0], at[0] - 1)
        return int(np.argmax(late)) if late.any() else len(episodes)

    def take(self, count: int) -> dict[str, Array]:
        """The next rows, no longer waiting."""
        rows, episodes, steps, last = self.state
        rest = {name: column[count:] for name, column in rows.items()}
        self.state = rest, episodes[count:], steps[count:], last
        return {name: column[:count] for name, column in rows.items()}


def _at_most(episodes: Array, steps: Array, episode: int, step: int) -> Array:
    """Which names are not after a given one."""
    found: Array = (episodes < episode) | ((episodes == episode) & (steps <= step))
    return found
