"""A writer killed at every system call that changes files, whole or torn: nothing is lost that was committed."""

from __future__ import annotations

import functools
import itertools
import os
import traceback
from pathlib import Path

import pytest

from tests.support.killing import (
    CHANGES,
    DATA,
    KILL,
    KILL_TORN,
    Attempts,
    assert_same_files,
    compile_shim,
    fresh,
    in_processes,
)
from tests.support.stored import TOTAL, check, produce

# what is written: some partitions that are full, and one that is not
SCENARIOS = {
    "beside": {"side": True},
    "durable": {"side": True, "durable": True},
    "every append": {"buffer_size": 1, "commit_every": 1000},
    "one by one": {"batch": 1, "commit_every": 1},
    "second mode": {"mode": "validation", "total": 5},
}
SOME = 3  # one call in so many is tried, but every one where "beside", in which all kinds of calls occur, is killed
PREPARED = {"second mode": {"total": 5}}  # what is there before
# what is there before, written with these options and not killed, and what it is continued with
RESUMED = {
    "open": ({"total": 3, "seal": False, "side": True}, {"side": True}),
    "sealed": ({"total": 3, "side": True}, {"side": True}),
    "full": ({"total": 4, "seal": False}, {}),
    "complete": ({"seal": False}, {}),
}


def options_of(name: str) -> tuple[dict | None, dict]:
    """What is there before, if anything, and what is written."""
    return RESUMED[name] if name in RESUMED else (PREPARED.get(name), SCENARIOS[name])


def sweep(name: str, way: int, first: int, stride: int, folder: str) -> dict:
    """Kill at the calls `first`, `first + stride` ... until one run ends by itself; check after each."""
    before, options = options_of(name)
    side, mode = options.get("side", False), options.get("mode", "training")
    attempts, scenario = Attempts(), functools.partial(produce, **options)
    kinds = DATA if way == KILL_TORN else CHANGES  # what cannot be torn is killed whole
    root = Path(folder)
    prepared, reference, dataset = (root / part for part in ("prepared", "reference", "dataset"))
    acknowledged = 0
    if before is not None:
        produce(prepared, **before)
        acknowledged = before.get("total", TOTAL) if before.get("mode", "training") == mode else 0
    whole = attempts.run(scenario, fresh(reference, prepared if before else None), kinds=kinds)
    assert whole.acknowledged == options.get("total", TOTAL)
    produce(reference, **{**options, "seal": True})
    failures, points = [], 0
    for at in itertools.count(first, stride):
        outcome = attempts.run(scenario, fresh(dataset, prepared if before else None), at, way, kinds=kinds)
        points += outcome.killed
        try:
            attempts.calm(dataset)
            check(dataset, max(outcome.acknowledged, acknowledged), side=side, mode=mode)
            produce(dataset, **{**options, "seal": True})
            assert_same_files(dataset, reference)
        except Exception:  # noqa: BLE001  # all points are to be tried
            failures.append((at, traceback.format_exc()[-1500:]))
        if not outcome.killed:
            break
    return {"points": points, "calls": whole.calls, "failures": failures}


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


def swept(shim, tmp_path, name, way):
    shards, every = max(2, os.cpu_count() or 1), 1 if (name, way) == ("beside", KILL) else SOME
    jobs = [
        {"name": name, "way": way, "first": 1 + i * every, "stride": shards * every, "folder": str(tmp_path / str(i))}
        for i in range(shards)
    ]
    reports = in_processes("tests.data.test_kill_writer:sweep", jobs, library=shim)
    failures = sorted(failure for report in reports for failure in report["failures"])
    points = sum(report["points"] for report in reports)
    assert not failures, f"{len(failures)} of {points} kills; the first, at call {failures[0][0]}:\n{failures[0][1]}"
    calls = reports[0]["calls"]
    # HDF5 does not always write its metadata in as many portions
    assert abs(points * every - sum(calls.values())) <= 10 + every
    return points, calls


@pytest.mark.sweep
@pytest.mark.alone
@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, KILL) for name in (*SCENARIOS, *RESUMED)),
        *((name, KILL_TORN) for name in ("beside", "every append", "open")),
    ],
)
def test_a_writer_killed_at_any_call_loses_nothing_that_was_committed(shim, tmp_path, name, way):
    points, calls = swept(shim, tmp_path, name, way)
    assert points >= 8
    assert calls["pwrite64"] >= 10
    assert ("rename" in calls) == (way == KILL)


def relentless(folder: str, step: int) -> dict:
    """Kill each run at its n-th call, n growing by one once a run no longer gets further, until one ends by itself."""
    attempts, scenario = Attempts(), functools.partial(produce, side=True)
    root = Path(folder)
    produce(root / "reference", side=True)
    dataset, at, kills, known = root / "dataset", step, 0, 0
    while (outcome := attempts.run(scenario, dataset, at, (KILL, KILL_TORN)[kills % 2])).killed:
        kills += 1
        count = check(dataset, max(known, outcome.acknowledged), side=True) if known or dataset.exists() else 0
        assert count >= known
        at += count == known
        known = count
    assert check(dataset, TOTAL, side=True) == TOTAL
    assert_same_files(dataset, root / "reference")
    return {"kills": kills}


@pytest.mark.sweep
def test_a_writer_killed_again_and_again_gets_there(shim, tmp_path):
    jobs = [{"folder": str(tmp_path / str(step)), "step": step} for step in (1, 8)]
    reports = in_processes("tests.data.test_kill_writer:relentless", jobs, library=shim)
    assert all(report["kills"] >= 8 for report in reports)
