"""The comparison of speed with an old commit finds what is slower."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path

import pytest

import physgym

ROOT = Path(__file__).resolve().parents[1]
ROW = "append: 80 bytes, one"
ROUNDS = argparse.Namespace(seconds=0.1, pairs=8, width=0.04)


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("compare")


@pytest.fixture
def slower(tmp_path):
    """Return a folder with a physgym whose writer takes its time."""
    shutil.copytree(Path(physgym.__file__).parent, tmp_path / "slower" / "physgym")
    with (tmp_path / "slower" / "physgym" / "data" / "writer.py").open("a") as module:
        module.write(
            "\n\ndef _slower(self, *args, _append=SampleWriter.append, **options):\n"
            "    import time\n\n    time.sleep(0.001)\n    return _append(self, *args, **options)\n\n\n"
            "SampleWriter.append = _slower\n"
        )
    return tmp_path / "slower"


@pytest.mark.slow
def test_a_slower_writer_is_found_whichever_environment_has_it(compare, slower):
    python = Path(sys.executable)
    old, new = compare.Environment("old", python, ROOT), compare.Environment("new", python, slower)
    low, middle, _ = compare.interval([b / a for a, b in compare.compare(ROW, [old, new], ROUNDS)])
    assert low <= middle < 0.9
    old, new = compare.Environment("old", python, slower), compare.Environment("new", python, ROOT)
    rates = compare.compare(ROW, [old, new], ROUNDS)
    assert len(rates) <= 8
    assert compare.interval([b / a for a, b in rates])[1] > 1.1


def test_pairs_end_as_soon_as_their_interval_is_narrow(compare):
    class Steady:
        def __init__(self, title, rate):
            self.title, self._rate = title, rate

        def rate(self, seconds):
            return self._rate

    rounds = argparse.Namespace(seconds=1.0, pairs=60, width=0.04)
    assert list(compare.pairs(Steady("old", 4.0), Steady("new", 2.0), rounds)) == [(4.0, 2.0)] * 8


def test_few_ratios_have_no_interval_and_many_have_one_around_their_middle(compare):
    assert compare.interval([1.0, 1.1]) == (0.0, 1.05, float("inf"))
    low, middle, high = compare.interval([0.9 + 0.01 * i for i in range(21)])
    assert middle == pytest.approx(1.0)
    assert 0.9 < low < middle < high < 1.1


def test_an_environment_that_is_none_is_an_error(compare, tmp_path):
    with pytest.raises(SystemExit, match="neither a virtual environment"):
        compare.Environment.at(tmp_path)


@pytest.mark.slow
def test_the_same_physgym_twice_is_an_error(compare):
    with pytest.raises(SystemExit, match="both environments have the physgym of"):
        compare.main([str(ROOT), "--only", ROW])
