"""Disks that are full, failing, closed or gone: an error says where and how far; the same command continues later."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import subprocess
import traceback
from pathlib import Path

import h5py
import numpy as np
import pytest

from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from tests.support.killing import (
    CHANGES,
    DATA,
    FAIL,
    FAIL_ONCE,
    FAIL_TORN,
    HALF_ONCE,
    MAKE,
    OPEN,
    REMOVE,
    SYNC,
    Attempts,
    assert_same_files,
    compile_shim,
    fresh,
    in_processes,
)
from tests.support.stored import SPEC, TOTAL, check, names, produce, samples

FAULTS = {  # how, the error, and the calls that it befalls
    "full": (FAIL, errno.ENOSPC, DATA | MAKE | SYNC),
    "full in the middle of a write": (FAIL_TORN, errno.ENOSPC, DATA),
    "over the quota for a moment": (FAIL_ONCE, errno.EDQUOT, DATA | MAKE),
    "failing": (FAIL, errno.EIO, CHANGES),
    "permission lost": (FAIL, errno.EACCES, MAKE | REMOVE | OPEN),
    "read-only from now on": (FAIL, errno.EROFS, DATA | MAKE | REMOVE | OPEN),
    "short of breath": (HALF_ONCE, 0, DATA),  # a write that takes half of its bytes is no error at all
}
OPTIONS = {"side": True, "commit_every": 1}


def told(text: str, folder: Path, acknowledged: int, there: int) -> None:
    """An error names a file, or the folder where there is none, and how many samples of it, or of all, are safe."""
    file = re.search(r"(training-\d{5}\.h5|dataset\.json)", text)
    assert file or str(folder) in text, text
    if acknowledged and file and file[0] != "dataset.json":
        number = re.search(r"\b(\d+) (committed )?samples", text)
        assert number, text
        of_file = stored(folder / file[0])
        # the write of a count may be refused when half of it is done, and be done all the same
        assert int(number[1]) <= of_file or acknowledged <= int(number[1]) <= there, f"{there} are there: {text}"


def stored(file: Path) -> int:
    if not file.exists():
        return 0
    with h5py.File(file) as part:
        return int(part["num_samples"][0])


def sweep(name: str, first: int, stride: int, folder: str) -> dict:
    """Refuse the calls `first`, `first + stride` ... and those after each, until one run ends without an error."""
    way, error, kinds = FAULTS[name]
    attempts, scenario = Attempts(), functools.partial(produce, **OPTIONS)
    reference, dataset = Path(folder, "reference"), Path(folder, "dataset")
    whole = attempts.run(scenario, reference, kinds=kinds)
    failures, refused = [], 0
    tried = range(first, int(1.1 * sum(whole.calls.values())) + 2, stride)  # beyond the last call as well
    for at in tried:
        try:
            outcome = attempts.run(scenario, fresh(dataset), at, way, error, kinds)
            refused += outcome.refused is not None
            attempts.calm(dataset)
            assert not (way == HALF_ONCE and outcome.refused), outcome.refused
            there = check(dataset, outcome.acknowledged, side=True)
            if outcome.refused is not None:
                told(outcome.refused, dataset, outcome.acknowledged, there)
                produce(dataset, **OPTIONS)
            assert_same_files(dataset, reference)
        except Exception:  # noqa: BLE001  # all points are to be tried
            failures.append((at, traceback.format_exc()[-2500:]))
    return {"refused": refused, "points": len(tried), "failures": failures}


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.mark.sweep
@pytest.mark.alone
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_call_is_told_and_can_be_recovered_from(shim, tmp_path, name):
    every = 1 if name == "full" else 3  # of the others, one call in three
    jobs = [
        {"name": name, "first": 1 + i * every, "stride": 2 * every, "folder": str(tmp_path / str(i))} for i in range(2)
    ]
    reports = in_processes("tests.system.test_disk:sweep", jobs, library=shim)
    failures = sorted(failure for report in reports for failure in report["failures"])
    points, refused = (sum(report[key] for report in reports) for key in ("points", "refused"))
    assert not failures, f"{len(failures)} of {points} faults; the first, at call {failures[0][0]}:\n{failures[0][1]}"
    assert points >= 12 / every
    assert refused == 0 if FAULTS[name][0] == HALF_ONCE else refused > 0.5 * points


def fill(folder: str, total: int) -> str | None:
    """Write until the disk is full; the error's text."""
    try:
        produce(Path(folder), total=total, batch=50, side=True, per_file=4000)
    except DatasetError as error:
        return str(error)
    return None


def mount(*options: str) -> bool:
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path):
    disk, total = tmp_path / "disk", 4000
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)):
        pytest.skip("mounting is not permitted here")
    try:
        job = {"folder": str(disk / "d"), "total": total}
        (text,) = in_processes("tests.system.test_disk:fill", [job])
        assert text is not None
        assert "No space left on device" in text
        there = check(disk / "d", 0, side=True)
        assert there > 500
        told(text, disk / "d", there, there)
        assert mount("-o", "remount,size=16m", str(disk))
        assert in_processes("tests.system.test_disk:fill", [job]) == [None]
        assert check(disk / "d", total, side=True) == total
        produce(tmp_path / "reference", total=total, batch=50, side=True, per_file=4000)
        assert_same_files(disk / "d", tmp_path / "reference")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("what", ["folder", "partition"])
def test_a_folder_that_is_removed_while_it_is_written(tmp_path, what):
    folder = tmp_path / "d"
    writer = SampleWriter(folder, SPEC)
    with writer:
        for start in range(0, 6, 3):
            i = range(start, start + 3)
            _append(writer, i)
        shutil.rmtree(folder) if what == "folder" else (folder / "training-00000.h5").unlink()
        with pytest.raises(DatasetError, match=r"training-00000\.h5.*6 (committed )?samples"):
            _append(writer, range(6, 9))
    if what == "partition":  # which the description names
        with pytest.raises(DatasetError, match=r"lacks training-00000\.h5"):
            produce(folder)
        return
    produce(folder)  # the same command begins again
    assert check(folder, TOTAL) == TOTAL


def _append(writer: SampleWriter, numbers: range) -> None:
    i = np.array(numbers)
    writer.append(samples(i), **names(i))
    writer.commit()
