"""Surgery that is killed at a system call leaves nothing that reads as a dataset, or the whole."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from physgym.data import surgery
from physgym.sample import SampleSpec
from tests.support.datasets import PARAMETERS, SPEC, write
from tests.support.killing import KILL, Attempts, assert_same_files, compile_shim, fresh, in_processes

POINTS = 8  # of some 100 calls
ONE = SampleSpec([SPEC["energy"]])


def merged(folder: Path, acknowledge, *, sources: list[Path]) -> None:
    surgery.merge(sources, folder / "out")
    acknowledge(1)


def killed(folder: str) -> dict:
    """Kill at some calls, evenly spaced, and at the last ones; after each do it again, unharmed."""
    root, attempts = Path(folder), Attempts()
    sources = [root / "a", root / "b"]
    for number, path in enumerate(sources):
        write(path, 7 + number, parameters=PARAMETERS, spec=ONE, mode="training")
    write(sources[0], 7, spec=ONE, mode="validation")
    scenario = functools.partial(merged, sources=sources)
    work, reference = root / "work", root / "reference"
    calls = sum(attempts.run(scenario, fresh(reference, root / "empty")).calls.values())
    outcomes = []
    for at in [*range(1, calls, max(1, calls // POINTS)), *range(calls - 3, calls + 2)]:
        outcome = attempts.run(scenario, fresh(work, root / "empty"), at, KILL)
        seen = sorted(path.name for path in work.iterdir() if not path.name.startswith("."))
        if seen:
            assert_same_files(work / "out", reference / "out")
        else:
            attempts.run(scenario, work)
            assert sorted(path.name for path in work.iterdir()) == ["out"], "what was left over is still there"
            assert_same_files(work / "out", reference / "out")
        outcomes.append((outcome.killed, bool(seen)))
    return {"outcomes": outcomes}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* of the .* episodes of")
def test_killed_surgery_leaves_nothing_or_the_whole(tmp_path):
    shim = compile_shim(tmp_path)
    (tmp_path / "empty").mkdir()
    (report,) = in_processes("tests.data.test_surgery_killed:killed", [{"folder": str(tmp_path)}], library=shim)
    assert [True, False] in report["outcomes"]
    assert report["outcomes"][-1] == [False, True]
    assert sum(killed for killed, _ in report["outcomes"]) >= POINTS
