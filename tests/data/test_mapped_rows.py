"""Samples that are stored into a map of their partition's file: the same files as by calls, whatever breaks it off."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from physgym.data import flusher, mapped_rows, sample_buffer
from physgym.data.dataset import SampleDataset
from physgym.data.mapped_rows import MappedRows
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError, SampleError
from physgym.sample import Field, SampleSpec
from physgym.system.file_systems import file_system_of
from tests.support.killing import assert_same_files
from tests.support.stored import SPEC, check, names, produce, samples

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in mapped_rows.ORDERED or sys.platform != "linux", reason="stores keep no order here"
)
ALLOWED = {*mapped_rows.IN_PLACE, "overlay"}  # tests may lie where a writer would not map, as long as the disk has room


@pytest.fixture
def eager(monkeypatch):
    """Map from the first commit on."""
    monkeypatch.setattr(flusher, "OFTEN", 1)
    monkeypatch.setattr(flusher, "FEW", 1)
    monkeypatch.setattr(mapped_rows, "IN_PLACE", ALLOWED)


def lie_in_a_map(writer: SampleWriter) -> bool:
    return writer._buffer.mapped is not None


def append(writer: SampleWriter, start: int, stop: int) -> None:
    i = np.arange(start, stop)
    writer.append(samples(i), **names(i))


def test_samples_are_mapped_where_commits_are_often_and_small_and_until_they_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_rows, "IN_PLACE", ALLOWED)
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        for i in range(flusher.OFTEN):
            assert not lie_in_a_map(writer)
            append(writer, i, i + 1)
            writer.commit()
        assert lie_in_a_map(writer)
        calls, reader = [], SampleDataset(tmp_path / "d")
        monkeypatch.setattr(os, "pwrite", lambda *arguments: calls.append(arguments))
        for i in range(flusher.OFTEN, 100):
            append(writer, i, i + 1)
            writer.commit()
            assert writer.committed == writer.count == i + 1
            reader.refresh()
            assert len(reader) == i + 1
            np.testing.assert_array_equal(reader[i]["x"], samples(np.array([i]))["x"][0])
        assert not calls  # a commit is a store
        monkeypatch.undo()
        done = 100
        while lie_in_a_map(writer):  # full buffers are written by calls again
            append(writer, done, done + 1000)
            done += 1000
        assert done < 100 + 3 * writer._buffer.size
    assert check(tmp_path / "d", done) == done


@pytest.mark.parametrize(
    "options",
    [
        {"commit_every": 1},
        {"commit_every": 1, "side": True, "total": 20},
        {"commit_every": 2, "batch": 3, "total": 23},
        {"commit_every": 1, "batch": 9, "total": 31},  # larger than a partition
        {"batch": 1, "commit_interval": 0, "total": 9, "per_file": 100, "seal": False},
    ],
)
def test_the_files_are_those_that_calls_write(tmp_path, monkeypatch, eager, options):
    mapped = []
    monkeypatch.setattr(
        flusher.Flusher, "_map", lambda self, *a, real=flusher.Flusher._map: mapped.append(1) or real(self, *a)
    )
    produce(tmp_path / "mapped", **options)
    assert mapped
    monkeypatch.undo()
    monkeypatch.setattr(MappedRows, "possible", lambda *_: False)
    produce(tmp_path / "called", **options)
    for folder in ("mapped", "called"):
        produce(tmp_path / folder, **{**options, "seal": True})
    assert_same_files(tmp_path / "mapped", tmp_path / "called")


@pytest.mark.parametrize("length", range(8))
def test_columns_may_lie_at_any_place_of_the_file(tmp_path, eager, length):
    """Where they begin depends on the sizes of those before; what is not aligned cannot be assigned in every way."""
    kinds = {"flag": "u1", "count": "i4", "value": "f4"}
    spec = SampleSpec([Field(name, (), np.dtype(kind), "input") for name, kind in kinds.items()])
    places = set()
    with SampleWriter(tmp_path, spec, max_rows=200 + length) as writer:
        for i in range(40):
            fields = {name: np.full(3, i, kind) for name, kind in kinds.items()}
            writer.append(fields, episode=np.full(3, i), step=np.arange(3), seed=np.full(3, i, "u8"))
            writer.commit()
            if mapped := writer._buffer.mapped:
                places |= {column.offset % 8 for column in mapped.table.columns.values()}
    assert places
    data = SampleDataset(tmp_path)
    assert data[:]["count"].tolist() == data.index("seed").tolist() == np.repeat(np.arange(40), 3).tolist()


def test_a_table_before_the_samples_is_committed_before_them(tmp_path, eager):
    produce(tmp_path / "d", side=True, commit_every=1, total=12, per_file=100, seal=False)
    assert check(tmp_path / "d", 12, side=True) == 12


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_value_that_is_not_finite_is_found_in_a_map(tmp_path, eager, bad, place):
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        append(writer, 0, 2)
        writer.commit()
        assert lie_in_a_map(writer)
        wrong = samples(np.arange(2, 5))
        wrong["x"].reshape(3, -1)[1, place] = bad
        writer.append(wrong, **names(np.arange(2, 5)))
        with pytest.raises(SampleError, match="episode 1, step 0"):
            writer.commit()
        assert writer.committed == 3
        append(writer, 3, 9)
        writer.commit()
    assert check(tmp_path / "d", 9) == 9


def test_what_is_rejected_leaves_no_gap_in_a_map(tmp_path, eager):
    with SampleWriter(tmp_path / "d", SPEC, nonfinite="reject", rejected=True, commit_interval=1000) as writer:
        append(writer, 0, 2)
        writer.commit()
        for start in (2, 6):
            i = np.arange(start, start + 4)
            wrong = samples(i)
            wrong["x"][1] = np.nan
            writer.append(wrong, **names(i))
            writer.commit()
        assert writer.discarded == 2
    dataset = SampleDataset(tmp_path / "d")
    kept = np.array([0, 1, 2, 4, 5, 6, 8, 9])
    np.testing.assert_array_equal(dataset[:]["x"], samples(kept)["x"])
    np.testing.assert_array_equal(dataset.index("step"), names(kept)["step"])
    assert len(dataset.rejected.reasons) == 2


def test_large_values_are_finite_though_their_squares_are_not(tmp_path, eager):
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        for step in range(4):
            writer.add({"x": np.full(2, 3e38, "f4")}, episode=0, step=step, seed=0)
            writer.commit()
    assert (SampleDataset(tmp_path / "d")[:]["x"] == np.float32(3e38)).all()


def test_environments_of_a_refused_call_are_not_those_of_the_next(tmp_path, eager):
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        append(writer, 0, 2)
        writer.commit()
        assert lie_in_a_map(writer)
        with pytest.raises(DatasetError, match="already"):
            writer.append(samples(np.array([1])), **names(np.array([1])), env=np.array([7], "i4"))
        with pytest.raises(DatasetError, match="env"):
            writer.append(samples(np.array([2])), **names(np.array([2])), env=np.array([1 << 40]))
        append(writer, 2, 4)
    np.testing.assert_array_equal(SampleDataset(tmp_path / "d").index("env"), np.zeros(4))


def test_a_removed_or_moved_folder_is_noticed_where_samples_are_mapped(tmp_path, monkeypatch, eager):
    for change in (shutil.rmtree, lambda folder: folder.rename(tmp_path / "elsewhere")):
        folder = tmp_path / "d"
        writer = SampleWriter(folder, SPEC, commit_interval=1000)
        append(writer, 0, 2)
        writer.commit()
        assert lie_in_a_map(writer)
        change(folder)
        monkeypatch.setattr(flusher, "LOOK", 0)
        append(writer, 2, 4)
        with pytest.raises(DatasetError, match=r"moved away, replaced or removed.*2 committed samples"):
            writer.commit()
        writer.close()
    assert check(tmp_path / "elsewhere", 2) == 2


def test_the_folder_is_looked_at_every_now_and_then(tmp_path, monkeypatch, eager):
    looked, real = [], flusher.PartitionSet.disk
    monkeypatch.setattr(flusher.PartitionSet, "disk", lambda self, part: looked.append(1) or real(self, part))
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        append(writer, 0, 1)
        writer.commit()
        looked.clear()
        done, begun = 1, time.monotonic()
        while len(looked) < 6:
            append(writer, done, done + 1)
            writer.commit()
            done += 1
            assert time.monotonic() < begun + 60
        assert time.monotonic() > begun + 4 * flusher.LOOK
        assert lie_in_a_map(writer)


def test_a_full_disk_is_an_error_and_no_signal(tmp_path, monkeypatch, eager):
    """Room for mapped rows is asked for by writing; without it samples are written by calls, which say so."""
    real, full = os.pwrite, [False]

    def pwrite(handle, data, offset):
        if full[0] and (full[0] == "all" or len(data) > 4096):
            raise OSError(28, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    writer = SampleWriter(tmp_path / "d", SPEC, commit_interval=1000)
    full[0] = "zeros"
    append(writer, 1, 3)
    writer.commit()
    assert not lie_in_a_map(writer)
    full[0] = False
    append(writer, 3, 5)
    writer.commit()
    assert lie_in_a_map(writer)
    full[0], ready = "all", writer._buffer.mapped.ready
    for start in itertools.count(5, 1000):  # those for which there is room are stored
        with contextlib.suppress(DatasetError):
            append(writer, start, start + 1000)
            writer.commit()
            continue
        break
    assert ready - 1000 <= writer.committed <= ready
    with pytest.raises(DatasetError, match=rf"No space left on device. The {writer.committed} committed samples"):
        writer.commit()
    writer.close()
    i = np.arange(1, 1 + writer.committed)
    np.testing.assert_array_equal(SampleDataset(tmp_path / "d").index("step"), names(i)["step"])


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (SampleSpec([Field("x", (), np.dtype("U4"), "input")]), {}),
        (SampleSpec([Field("x", (), np.dtype("f4"), "input")]), {"durable": True}),
    ],
)
def test_texts_and_durable_commits_are_written_by_calls(tmp_path, eager, spec, options):
    with SampleWriter(tmp_path / "d", spec, **options) as writer:
        for step in range(4):
            writer.add({"x": np.zeros((), spec["x"].dtype)}, episode=0, step=step, seed=0)
            writer.commit()
            assert not lie_in_a_map(writer)


@pytest.mark.parametrize("change", [("platform.machine", lambda: "aarch64"), ("sys.platform", "darwin")])
def test_elsewhere_samples_are_written_by_calls(tmp_path, monkeypatch, eager, change):
    with monkeypatch.context() as patch:
        patch.setattr(f"physgym.data.mapped_rows.{change[0]}", change[1])
        with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
            append(writer, 0, 2)
            writer.commit()
            assert not lie_in_a_map(writer)
    assert check(tmp_path / "d", 2) == 2


def test_a_file_system_that_copies_on_write_is_written_by_calls(tmp_path, monkeypatch, eager):
    monkeypatch.setattr(mapped_rows, "file_system_of", lambda handle: "btrfs")
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        append(writer, 0, 2)
        writer.commit()
        assert not lie_in_a_map(writer)


def test_the_file_system_of_a_file_is_known():
    with Path("/proc/self/status").open("rb") as file:
        assert file_system_of(file.fileno()) == "proc"


def test_where_no_map_is_to_be_had_samples_are_written_by_calls(tmp_path, monkeypatch, eager):
    def refused(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mapped_rows.mmap, "mmap", refused)
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        for i in range(3):
            append(writer, i, i + 1)
            writer.commit()
            assert not lie_in_a_map(writer)
    assert check(tmp_path / "d", 3) == 3


def test_no_memory_stays_mapped_behind_a_writer(tmp_path, eager):
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=1000) as writer:
        append(writer, 0, 2)
        writer.commit()
        assert lie_in_a_map(writer)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


# --- killed


class Killer:
    """Kills this process at its n-th line of the modules that store samples."""

    def __init__(self, at: int) -> None:
        self.left, self._files = at, {module.__file__ for module in (flusher, mapped_rows, sample_buffer)}

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in self._files:
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def killed(folder, at: int, options) -> bool:
    """Return whether a writer was killed at its n-th line."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.settrace(Killer(at))
            produce(folder, **options)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "stride"), [({"batch": 1, "commit_every": 1}, 67), ({"side": True, "commit_every": 1}, 131)]
)
def test_a_writer_killed_at_any_line_loses_nothing_that_was_committed(tmp_path, eager, options, stride):
    side = options.get("side", False)
    options = {**options, "total": 6, "per_file": 4, "durable": False}
    produce(tmp_path / "reference", **options)
    counts = []
    for at in itertools.count(1, stride):
        folder = tmp_path / str(at)
        if not killed(folder, at, options):
            break
        counts.append(check(folder, 0, side=side))
        assert counts[-1] >= (counts[-2] if len(counts) > 1 else 0)
        produce(folder, **options)
        assert_same_files(folder, tmp_path / "reference")
    assert len(counts) >= 8
    assert len(set(counts)) >= 3


@pytest.mark.slow
def test_a_reader_and_a_kill_find_whole_rows(tmp_path, eager):
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException), SampleWriter(folder, SPEC) as writer:
                for i in itertools.count(0, 3):
                    append(writer, i, i + 3)
                    writer.commit()
            os._exit(1)
        try:
            seen, looks, end = 0, 0, time.monotonic() + 60
            while (seen <= 60 or looks < 10) and time.monotonic() < end:  # while rows come
                seen, looks = max(seen, check(folder, seen)), looks + 1
            assert seen > 60
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert check(folder, seen) >= seen
