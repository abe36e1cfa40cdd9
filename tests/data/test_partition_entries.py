"""What the description says of partitions is made once for those that are sealed, and is the same as if made anew."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from physgym.data import partition_entries
from physgym.data.dataset import SampleDataset
from physgym.data.description import DESCRIPTION, Description, as_text
from physgym.data.partition import Partition
from physgym.data.partition_entries import PartitionEntries, as_lines
from physgym.data.writer import SampleWriter
from tests.support.datasets import SOURCE, SPEC, assert_rows, rows, where, write


@pytest.fixture
def parts(tmp_path):
    """Four partitions, of which the last one is open."""
    write(tmp_path / "d", 36, max_rows=12)
    write(tmp_path / "d", 40, start=36, max_rows=12, resume=True, close=False)
    return [Partition(file) for file in sorted((tmp_path / "d").glob("*.h5"))]


@pytest.fixture
def made(monkeypatch):
    """Names of the partitions of which an entry was made."""
    seen, real = [], partition_entries._entry
    monkeypatch.setattr(
        partition_entries, "_entry", lambda part, sealed: seen.append(part.path.name) or real(part, sealed=sealed)
    )
    return seen


def check(found, parts):
    anew = PartitionEntries().updated(parts)
    assert (found.entries, found.sealed, found.samples) == (anew.entries, anew.sealed, anew.samples)
    assert found.text == as_lines(found.entries)
    assert json.loads(found.text) == found.entries
    assert found.samples == sum(part.count for part in parts)


def test_only_what_is_new_is_described(parts, made):
    sealed = [part for part in parts if part.sealed]
    assert len(sealed) == 3
    found = PartitionEntries().updated(parts[:2])
    made.clear()
    found = found.updated(parts)
    assert made == [part.path.name for part in parts[2:]]
    check(found, parts)
    made.clear()
    found = found.updated(parts)
    assert made == [part.path.name for part in parts if not part.sealed]
    check(found, parts)


def test_dropped_and_replaced_partitions_are_forgotten(parts):
    found = PartitionEntries().updated(parts)
    check(found.updated(parts[1:]), parts[1:])
    check(found.updated([]), [])
    again = [parts[0], Partition(parts[1].path), *parts[2:]]
    check(found.updated(again), again)
    check(found.updated(parts[1:2]), parts[1:2])
    check(PartitionEntries().updated(parts[2:]).updated(parts), parts)


def test_a_partition_that_takes_rows_again_is_called_open(parts):
    sealed = [part for part in parts if part.sealed]
    found = PartitionEntries().updated(sealed).updated(sealed, reopened=sealed[-1].path)
    assert [entry["sealed"] for entry in found.entries] == [*[True] * (len(sealed) - 1), False]
    assert found.entries[-1]["sha256"] == ""
    assert found.text == as_lines(found.entries)
    check(found.updated(sealed), sealed)


def test_the_file_is_what_would_be_written_anew(tmp_path, monkeypatch):
    """Whatever is kept from one version to the next; two modes, a resume, and old partitions that are dropped."""
    write(tmp_path / "d", 30, mode="validation", max_rows=7)
    seen, real = [], Description.put

    def put(self, folder, lines=None, *, durable=False):
        found = real(self, folder, lines, durable=durable)
        seen.append((folder / DESCRIPTION).read_text() == as_text(self.content))
        return found

    monkeypatch.setattr(Description, "put", put)
    options = {"source": SOURCE, "max_rows": 8, "bounded": True}
    for start, resume in ((0, False), (60, True)):
        with SampleWriter(tmp_path / "d", SPEC, resume=resume, **options) as writer:
            for begin in range(start, start + 60, 10):
                writer.append(rows(begin, begin + 10), **where(begin, begin + 10))
                writer.drop_oldest(1)
    assert len(seen) > 20
    assert all(seen)
    description = json.loads((tmp_path / "d" / DESCRIPTION).read_text())["modes"]["training"]
    dataset = SampleDataset(tmp_path / "d")
    assert description["samples"] == len(dataset) == 120 - description["bounded"]["samples"]
    assert_rows(dataset, 120 - len(dataset), 120)


def test_the_description_is_written_about_once_for_each_partition(tmp_path, monkeypatch):
    written, real = [], Description.put
    monkeypatch.setattr(Description, "put", lambda *given, **options: written.append(1) or real(*given, **options))
    with SampleWriter(tmp_path / "d", SPEC, source=SOURCE, max_rows=10, commit_interval=1000) as writer:
        for start in range(0, 400, 10):
            writer.append(rows(start, start + 10), **where(start, start + 10))
            writer.commit()
    assert len(written) <= 40 + 5
    entries = json.loads((tmp_path / "d" / DESCRIPTION).read_text())["modes"]["training"]["partitions"]
    assert all(entry["sealed"] for entry in entries)


def test_a_seal_is_described_though_nothing_follows(tmp_path):
    """The thread does it at its next turn; the partition that follows would have."""
    described = threading.Event()

    def look():
        entries = Description.read(tmp_path / "d").modes["training"]["partitions"]
        return [entry["sealed"] for entry in entries]

    with SampleWriter(tmp_path / "d", SPEC, source=SOURCE, max_rows=10, commit_interval=0.05) as writer:
        writer.append(rows(0, 15), **where(0, 15))
        writer.commit()
        for _ in range(600):
            if look() == [True, False]:
                break
            described.wait(0.05)
        assert look() == [True, False]


def test_the_number_of_samples_is_right_whatever_happens_to_partitions(tmp_path):
    folder = tmp_path / "d"
    options = {"source": SOURCE, "max_rows": 10, "bounded": True}
    with SampleWriter(folder, SPEC, **options) as writer:
        assert (writer.count, writer.committed) == (0, 0)
        for start in range(0, 45, 5):
            writer.append(rows(start, start + 5), **where(start, start + 5))
            assert writer.count == start + 5
            writer.commit()
            assert writer.committed == start + 5
    with SampleWriter(folder, SPEC, resume=True, **options) as writer:
        assert (writer.count, writer.committed) == (45, 45)
        writer.append(rows(45, 52), **where(45, 52))
        assert writer.count == 52
        writer.drop_oldest(2)
        assert writer.count == 52 - 10 * writer.dropped == 32
        writer.commit()
        assert writer.committed == 32
    assert_rows(SampleDataset(folder), 20, 52)
    np.testing.assert_array_equal(SampleDataset(folder).index("step"), where(20, 52)["step"])
