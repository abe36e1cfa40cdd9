"""Datasets that are large: read from the page cache if it holds them, mapped ahead by a thread."""

from __future__ import annotations

import gc
import mmap
import threading
import time

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.loading import populating, reading
from physgym.loading.loader import Loader
from physgym.sample import Field, SampleSpec
from physgym.system.page_cache import populate

COUNT = 6_000
SPEC = SampleSpec([Field("x", (8,), np.dtype("f4"), "input"), Field("name", (), np.dtype("U3"), "input")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "data"
    with SampleWriter(path, SPEC, max_file_size=200_000) as writer:
        i = np.arange(COUNT)
        x = np.repeat(i.astype("f4")[:, None], 8, axis=1)
        writer.append({"x": x, "name": np.full(COUNT, "abc")}, episode=i // 100, step=i % 100, seed=i.astype("u8"))
    return path


@pytest.mark.parametrize("rank", [None, 0])
def test_more_than_must_be_chosen_by_size_is_chosen_by_the_page_cache(folder, monkeypatch, rank):
    dataset, ranks = SampleDataset(folder), {} if rank is None else {"rank": rank, "world_size": 2}
    assert Loader(dataset, 10, fields=["x"], **ranks).order == "random"  # small, whatever the cache holds
    monkeypatch.setattr(reading, "FITS_ANYWHERE", 1000)
    found = {}
    for cached in (0.95, 0.5, None):
        monkeypatch.setattr(SampleDataset, "cached_fraction", lambda self, fields, cached=cached: cached)
        made = Loader(dataset, 10, fields=["x"], **ranks)
        found[cached] = made.order, made.reason
    if rank is not None:  # each has a page cache of its own
        assert len(set(found.values())) == 1
        return
    assert found[0.95] == ("random", "of 0.000192 GB of samples 95% are in the page cache")
    assert found[0.5][0] == "window"
    assert "50% are in the page cache, less than 90%" in found[0.5][1]
    assert found[None][0] == "random"
    assert "available memory" in found[None][1]
    monkeypatch.setattr(SampleDataset, "cached_fraction", lambda self, fields: 0.0)
    sequential = Loader(dataset, 10, fields=["x"], shuffle=False)
    assert (sequential.order, sequential.blockwise) == ("sequential", True)
    assert Loader(dataset, 10, fields=["x"], shuffle="random").order == "random"


def test_a_dataset_says_how_much_of_it_is_in_the_cache(folder):
    dataset = SampleDataset(folder)
    dataset.read(0, COUNT)
    assert dataset.cached_fraction() in (1, None)
    assert dataset.cached_fraction(["x"]) == dataset.cached_fraction()


def populates():
    """Return whether the system maps pages when it is told to."""
    with mmap.mmap(-1, mmap.PAGESIZE) as mapped:
        return populate(np.frombuffer(mapped, np.uint8).ctypes.data, mmap.PAGESIZE)


def test_pages_are_mapped_once(folder):
    dataset = SampleDataset(folder)
    done = list(dataset.populate())
    assert sum(done) <= COUNT * 32  # texts are read otherwise, and so is what begins at no whole page
    assert any(done) or not populates()
    assert list(dataset.populate()) == []
    assert list(SampleDataset(folder, fields=["name"]).populate()) == []


def ended(thread):
    deadline = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not thread.is_alive()


@pytest.mark.parametrize("memory", [1 << 40, 1000, None])
def test_a_thread_maps_what_fits_the_memory(folder, monkeypatch, memory):
    dataset, threads, reached = SampleDataset(folder), [], threading.Event()

    def pieces(self, fields):
        yield 0
        threads.append(threading.current_thread())
        while True:  # until it is told to stop
            reached.set()
            yield 1

    monkeypatch.setattr(SampleDataset, "populate", pieces)
    monkeypatch.setattr(populating, "available_memory", lambda: memory)
    small = Loader(dataset, 10, shuffle="random", fields=["x"])
    assert len(next(iter(small))["x"]) == 10
    monkeypatch.setattr(populating, "LEAST", 1000)
    made = Loader(dataset, 10, shuffle="random", fields=["x"])
    made.indices(0, 0)  # reads nothing
    assert threads == []
    assert len(next(iter(Loader(dataset, 10, shuffle=False, fields=["x"])))["x"]) == 10
    assert threads == []
    batches = iter(made)
    next(batches)
    if memory != 1 << 40:
        assert threads == []
    else:
        assert reached.wait(60)
        batches.close()
    del batches
    gc.collect()
    assert all(map(ended, threads))
