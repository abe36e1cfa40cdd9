"""`SampleWriter`: appends samples to a dataset folder of partitions."""

from __future__ import annotations

import atexit
import contextlib
import copy
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from physgym import limits
from physgym._version import __version__
from physgym.checks import at_least, integer, one_of
from physgym.data import constants
from physgym.data.capacity import capacity
from physgym.data.continuing import BOUNDED, check_continued, json_copy, source_text
from physgym.data.description import DESCRIPTION, LOCK, Description, Mode, check_mode, partition_files
from physgym.data.description_writer import DescriptionWriter
from physgym.data.fault import WriterFault
from physgym.data.flusher import Flusher
from physgym.data.folder_claim import FolderClaim
from physgym.data.layout import ENDING, ENDINGS, EPISODES, REASON, REJECTED, PartitionLayout
from physgym.data.partition_set import PartitionForm, PartitionSet, existing_partitions
from physgym.data.sample_buffer import SampleBuffer, as_column
from physgym.data.sample_checks import SampleChecks, check_storable, cut, row_counts
from physgym.data.side_tables import SideTables
from physgym.data.statistics import Statistics
from physgym.data.upkeep import Upkeep
from physgym.errors import ConfigError, DatasetError, PhysGymError, SampleError, StorageError
from physgym.sample import SampleSpec
from physgym.scene.declared import METADATA
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.storage.location import Location, place
from physgym.system.disk_space import check_room

if TYPE_CHECKING:
    from physgym.data.upload import Mirror

DEFAULT_BUFFER = 1 << 20
DEFAULT_COMMIT_INTERVAL = 0.5


class SampleWriter:
    """Append samples to a dataset; what was committed stays readable after any fault.

    Samples are collected in a buffer and committed when it is full, after `commit_interval` and by `commit`. A thread
    of the writer does the latter, seals partitions that are full and keeps the statistics. So `append` waits for one
    write of a buffer at most (or, where the disk is slower than the samples, for the seal of a partition). All methods
    may be called from any thread. What interrupts them (Ctrl-C) leaves every sample taken before in its place; of the
    samples of an interrupted `append` the first ones may be stored. A forked child has no part in a writer.

    Args:
        path: The dataset's folder, created if needed; or ``s3://bucket/prefix``, see `physgym.storage`.
        spec: The sample fields.
        mode: Which part of the dataset to write.
        source: JSON data that says where the samples come from; a continued dataset must have the same.
        resume: Continue existing samples of this mode; without it their existence is an error.
        max_file_size: Largest size of a partition's file in bytes, its metadata included.
        max_rows: Most samples of a partition; None for as many as fit into the file.
        parameters: Parameters to store per episode, by `add_parameters`.
        rejected: Whether to store rejected samples too, by `add_rejected`.
        endings: Whether to store how episodes ended, by `add_endings`; a continued dataset stores it if it did so.
        nonfinite: What to do with a sample that has a value which is not finite: "error" raises, "reject" leaves it
            out, "allow" stores it.
        bounded: Whether old partitions may be dropped, see `drop_oldest`; a continued dataset says the same.
        durable: Whether a commit survives a power cut as well: it waits for the disk.
        commit_interval: Seconds after which samples are committed; 0 commits in every `append`.
        buffer_size: Bytes of samples to collect at most.
        attributes: Further text attributes of the partitions.
        provenance: JSON data about the code and the run that make the samples, kept in ``dataset.json`` and never in a
            partition; None keeps what is recorded already. See the property `provenance`.

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
        max_file_size: int = limits.MAX_FILE_SIZE,
        max_rows: int | None = None,
        parameters: SampleSpec | None = None,
        rejected: bool = False,
        endings: bool = False,
        nonfinite: NonFinite = "error",
        bounded: bool = False,
        durable: bool = False,
        commit_interval: float = DEFAULT_COMMIT_INTERVAL,
        buffer_size: int = DEFAULT_BUFFER,
        attributes: Mapping[str, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        check_mode(mode)
        one_of("nonfinite", nonfinite, get_args(NonFinite))
        max_file_size = integer("max_file_size", max_file_size, 1)
        buffer_size = integer("buffer_size", buffer_size, 1)
        at_least("commit_interval", commit_interval, 0)
        found = place(path)
        self.path, self.spec, self.mode = found if isinstance(found, Path) else Path(), spec, mode
        for field in (*spec.values(), *(parameters or {}).values()):
            check_storable(field)
        counts = row_counts(spec)
        layout = PartitionLayout(spec, parameters, rejected, endings)
        self._interval = commit_interval
        said = source_text(source or {})
        known = None if provenance is None else json_copy(provenance, "provenance")
        texts = {"mode": mode, "source": said, "physgym": __version__, **(attributes or {})}
        texts |= {BOUNDED: "true"} if bounded else {}
        most = math.inf if max_rows is None else integer("max_rows", max_rows, 1)
        form = PartitionForm(mode, layout, int(min(capacity(layout, max_file_size, texts), most)), texts, durable)

        self._lock = threading.RLock()
        self._fault = WriterFault()
        self._buffer = SampleBuffer(layout, buffer_size, lambda: self._flusher.names())
        self._mirror: Mirror | None = None
        if isinstance(found, Location):
            if bounded:
                raise ConfigError(f"{path} is in a storage, from which no partitions are dropped; write to the disk")
            from physgym.data.upload import Mirror

            self._mirror = Mirror(found)
            self.path = self._mirror.folder
        self._upkeep = Upkeep(
            f"writer of {self.path}", commit_interval or DEFAULT_COMMIT_INTERVAL, self._keep_up, self._upkeep_failed
        )
        self._claim = FolderClaim(self.path)
        try:
            if self._mirror is not None:
                self._mirror.prepare(mode, resume)
            partitions, described = existing_partitions(self.path, mode, resume)
            self._description = DescriptionWriter(
                self._claim, mode, described, provenance=known, durable=durable, written=self._uploadable
            )
            if bounded:
                self._description.declare_bounded()
            if partitions and partitions[0].layout.endings != endings:  # of a version that did not store them
                layout = replace(layout, endings=partitions[0].layout.endings)
                form = replace(form, layout=layout, capacity=int(min(capacity(layout, max_file_size, texts), most)))
            check_continued(partitions, layout, said, bounded=bounded)
            self._side_tables = SideTables(layout, partitions)
            self._checks = SampleChecks(spec, counts, nonfinite, self._side_tables)
            self._partitions = PartitionSet(
                self._claim, form, partitions, self._description, filled=self._upkeep.wake, failed=self._failed
            )
            self._flusher = Flusher(layout, self._buffer, self._checks, self._side_tables, self._partitions)
            if self._mirror is not None:
                self._mirror.begin()
        except BaseException:
            self._claim.release()
            raise
        atexit.register(self.close, seal=False)  # what a program that forgets to close it has in the buffer
        self._upkeep.start()

    # --- what there is

    @property
    def closed(self) -> bool:
        """Return whether `close` was called."""
        return self._claim.given_up

    @property
    def count(self) -> int:
        """Return the number of samples of this mode, those that wait in the buffer included."""
        with self._lock:
            return self._flusher.waiting + self._partitions.written

    @property
    def committed(self) -> int:
        """Return the number of samples of this mode that are committed."""
        with self._lock:
            return self._partitions.committed

    @property
    def dropped(self) -> int:
        """Return the number of partitions that a bounded dataset has dropped."""
        return self._description.dropped

    @property
    def discarded(self) -> int:
        """Return the number of samples that were left out because they are not finite."""
        return self._checks.discarded

    @property
    def last(self) -> tuple[int, int] | None:
        """Return episode and step of the last sample, None if there is none."""
        with self._lock:
            return self._flusher.last

    @property
    def provenance(self) -> Any:
        """Return where the samples of this mode come from, as ``dataset.json`` says; setting it records it at once.

        It is JSON data: "unknown" where nothing was said, None in a dataset that was begun before this was recorded.
        """
        return copy.deepcopy(self._description.provenance)

    @provenance.setter
    def provenance(self, value: Any) -> None:
        value = json_copy(value, "provenance")
        with self._lock:
            self._usable()
            self._description.provenance = value
            self._partitions.write_description()

    @property
    def constants(self) -> dict[str, Array]:
        """Return the arrays that the dataset stores once, see `set_constants`; empty where there are none."""
        return constants.read(self.path, self._description.constants)

    def set_scene(self, text: str) -> None:
        """Keep a scene (`physgym.scene.declared.kept_scene`) as metadata; one that is there already stays."""
        with self._lock:
            self._usable()
            self._description.metadata[METADATA] = text
            self._partitions.write_description()

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
            self._description.store_constants(values)
            self._partitions.write_description()

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Return statistics of all committed samples of this mode, by real-valued field."""
        with self._lock:
            return self._partitions.statistics()

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
        count, buffer = len(episode), self._buffer
        index = (episode, step, seed, env)
        with self._lock:
            try:
                self._usable()
                if not buffer.has_room(count):
                    self._make_room(count)
                if count > buffer.size or not buffer.put(samples, index, count):
                    names = dict(zip(("episode", "step", "seed"), index, strict=False))
                    rows = buffer.as_columns(
                        samples, {**names, "env": np.zeros(count, "i4") if env is None else env}, count
                    )
                    buffer.taken.take(rows["index/episode"], rows["index/step"])
                    if count > buffer.size:
                        self._make_room(count)
                        self._flusher.store_rows(rows, count)
                    else:
                        buffer.put_columns(rows, count)
                if self._interval == 0:
                    self._commit(asked=True)
            except BaseException:
                buffer.taken.forget()  # names of samples that are not stored are free again
                raise

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
        buffer = self._buffer
        with self._lock:
            try:
                self._usable()
                if not buffer.has_room(1):
                    self._make_room(1)
                buffer.put_one(sample, episode, step, seed, env)
                if self._interval == 0:
                    self._commit(asked=True)
            except BaseException:
                buffer.taken.forget()  # names of samples that are not stored are free again
                raise

    def check_room(self, samples: int) -> None:
        """Raise an error where so many samples more do not fit on the disk; in a storage there is always room.

        Args:
            samples: How many are going to be appended.

        Raises:
            DatasetError: They need more than is free.
        """
        if self._mirror is None:
            check_room(self.path, samples, self._buffer.row_nbytes)

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
        self._add_to_side_table(EPISODES, rows, len(episode))

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
        """Take rejected samples; they are stored in a table of their own, with the first accepted ones that follow.

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
        rows = {f"rejected/{name}": value for name, value in self._buffer.as_columns(samples, index, count).items()}
        rows["rejected/reason"] = np.array([cut(reason) for reason in reasons], REASON)
        self._add_to_side_table(REJECTED, rows, count)

    def add_endings(self, *, episode: Array, steps: Array, how: Sequence[str]) -> None:
        """Take note of how episodes ended; it is stored with their last samples.

        A continued dataset of a version that did not store this continues without.

        Args:
            episode: Index of each episode, shape (n,), ascending.
            steps: How many steps it had, shape (n,).
            how: "terminated", "truncated" or "cut".

        Raises:
            DatasetError: The arrays do not fit.
        """
        if ENDINGS in self._side_tables:
            words = np.array([word.encode() for word in how], ENDING)
            rows = {"endings/episode": episode, "endings/steps": steps, "endings/how": words}
            self._add_to_side_table(ENDINGS, rows, len(words))

    def _add_to_side_table(self, table: str, given: Mapping[str, Any], count: int) -> None:
        if table not in self._side_tables:
            raise DatasetError(f"this writer of {self.path} was not asked to store {table}; say so when making it")
        forms = self._side_tables[table].forms
        if set(given) != set(forms):
            raise DatasetError(f"got {sorted(given)}, the dataset has {sorted(forms)}")
        rows = {name: as_column(name, given[name], *form, count).copy() for name, form in forms.items()}
        with self._lock:
            self._usable()
            self._side_tables[table].add(rows)

    def commit(self) -> None:
        """Make everything taken so far readable, and with `durable` safe from power cuts.

        Raises:
            SampleError: A value is not finite; see `append`.
            DatasetError: The disk refuses.
        """
        with self._lock:
            self._usable()
            self._commit(asked=True)

    def drop_oldest(self, count: int) -> None:
        """Drop the oldest partitions of a bounded dataset, at most those that are sealed; all their samples are gone.

        The description is changed first, so that a reader finds what it names.

        Args:
            count: How many.

        Raises:
            DatasetError: The dataset is not bounded, or the disk refuses.
        """
        with self._lock:
            self._usable()
            self._partitions.drop_oldest(count)

    def _usable(self) -> None:
        """Raise an error that is due; store what an interrupted call has left over."""
        if self._claim.given_up:
            raise DatasetError(f"the writer of {self.path} is closed; make a new one with resume=True")
        if self._flusher.pending is not None and self._fault.error is None:
            self._flusher.store()
        if self._fault.error is not None:
            self._fault.check()

    def _make_room(self, count: int) -> None:
        """Store what the buffer has; commit it unless that waits for the disk."""
        self._flusher.make_room(count)
        self._partitions.commit(wait=False)

    def _commit(self, *, asked: bool = False) -> None:
        self._flusher.flush(asked=asked)
        self._partitions.commit()

    def _failed(self, error: DatasetError) -> None:
        """Take nothing more."""
        self._fault.set(error, raised=not self._upkeep.current)
        self._flusher.drop()

    def _uploadable(self) -> None:
        if self._mirror is not None:
            self._mirror.wake()

    # --- the thread

    def _keep_up(self) -> None:
        """Commit what waits, seal what is full, keep the statistics."""
        with self._lock:
            if not self._idle():
                self._commit()
        self._partitions.seal_full(until=self._idle)
        self._partitions.keep_statistics()
        if self._mirror is not None:
            self._mirror.check()

    def _idle(self) -> bool:
        """Return whether the thread has nothing more to store."""
        return self._fault.error is not None or self._claim.given_up or self._upkeep.stopping

    def _upkeep_failed(self, error: Exception) -> None:
        """Let the next call raise an error of the thread, of any class."""
        unforeseen = DatasetError(f"the thread that writes {self.path} failed: {error!r}")
        unforeseen.__cause__ = error
        with self._lock:
            if self._fault.error is None:
                self._fault.set(error if isinstance(error, PhysGymError) else unforeseen)

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
        if self._claim.given_up:
            return
        try:
            self._upkeep.stop()
            self._upkeep.join()
            fault = self._fault.error
            if isinstance(fault, DatasetError) and not isinstance(fault, StorageError):
                if not self._fault.raised:
                    raise fault
                return
            with self._lock:  # another thread may be in `commit`
                self._commit()
                self._flusher.store_remaining_side_rows()
                self._partitions.complete(seal=seal)
            if isinstance(fault, StorageError) and self._fault.raised:
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
            self._upkeep.join()  # it must not seal without the lock
            if self._mirror is not None:
                self._mirror.stop()
            try:
                self._partitions.close()
                self._buffer.clear()  # it may hold a map of a file
            finally:
                self._claim.release()
            atexit.unregister(self.close)

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        close_after(self, kind)


def close_after(writer: SampleWriter, error: type[BaseException] | None) -> None:
    """Close a writer after a block that may have failed: then at once, without hiding its error behind another."""
    if error is None:
        writer.close()
    else:
        with contextlib.suppress(DatasetError, SampleError):
            writer.close(seal=False)


@contextlib.contextmanager
def all_or_nothing(writer: SampleWriter) -> Iterator[None]:
    """Run a block that writes a new mode of a dataset: where it breaks off, nothing of it stays.

    In S3 it stays, to be continued or deleted.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, DatasetError, SampleError):  # the fault of the block is what matters
            writer.close(seal=False)
            if writer._mirror is None:
                remove_mode(writer.path, writer.mode)
        raise


def remove_mode(folder: Path, mode: Mode) -> None:
    """Remove a mode of a dataset, whose folder nobody writes to, and the folder if there is nothing else in it."""
    described = Description.read(folder)
    others = {other: kept for other, kept in described.modes.items() if other != mode}
    if others:  # first: a file that is named is there
        replace(described, modes=others).write(folder)
    for file in partition_files(folder, mode):
        file.unlink()
    if others or any(partition_files(folder, other) for other in get_args(Mode)):
        return
    for name in (DESCRIPTION, LOCK, constants.CONSTANTS):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
