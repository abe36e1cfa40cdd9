"""How much of a file is in the page cache."""

from __future__ import annotations

import mmap
import os
import sys

import numpy as np
import pytest

from physgym.system import page_cache
from physgym.system.page_cache import cached_fraction, populate

PAGES = 512


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(0).bytes(PAGES * mmap.PAGESIZE))
    handle = os.open(path, os.O_RDWR)
    yield handle
    os.close(handle)


def emptied(handle):
    """Take the file out of the cache; skip where it stays there, as in a file system in memory."""
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # read nothing ahead
    if page_cache._sampled(handle, 0, PAGES * mmap.PAGESIZE):
        pytest.skip("the file system keeps the file in memory")


@pytest.mark.skipif(sys.platform != "linux", reason="systems differ in what they say")
@pytest.mark.parametrize("counts", [True, False])
def test_the_fraction_of_ranges_that_is_in_the_cache(file, monkeypatch, counts):
    if not counts:
        monkeypatch.setattr(page_cache, "_counted", lambda *_: None)
        monkeypatch.setattr(page_cache, "SAMPLED", PAGES)
    whole, half = PAGES * mmap.PAGESIZE, PAGES // 2 * mmap.PAGESIZE
    assert cached_fraction(file, [(0, whole)]) == 1
    emptied(file)
    assert cached_fraction(file, [(0, whole)]) == 0
    os.pread(file, half, half)
    assert cached_fraction(file, [(0, whole)]) == 0.5
    assert cached_fraction(file, [(half + 7, half - 7), (0, 0)]) == 1
    assert cached_fraction(file, [(0, half), (half, half // 2)]) == pytest.approx(1 / 3)


def test_nothing_and_what_cannot_be_asked_have_no_fraction(file, monkeypatch):
    assert cached_fraction(file, []) is None
    monkeypatch.setattr(page_cache, "_counted", lambda *_: None)
    reader, writer = os.pipe()
    assert cached_fraction(reader, [(0, 100)]) is None
    os.close(reader), os.close(writer)


def test_of_a_file_of_others_nothing_is_said(file, monkeypatch):
    monkeypatch.setattr(page_cache.os, "access", lambda *_: False)
    assert page_cache._sampled(file, 0, mmap.PAGESIZE) is None


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_mapped_bytes_are_read_into_the_cache(file):
    emptied(file)
    with mmap.mmap(file, 0, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        done = populate(view.ctypes.data, PAGES // 2 * mmap.PAGESIZE)
        assert not populate(view.ctypes.data + 1, 1)  # no whole page
        del view
    if not done:
        pytest.skip("a kernel before 5.14")
    assert cached_fraction(file, [(0, PAGES // 2 * mmap.PAGESIZE)]) == 1
