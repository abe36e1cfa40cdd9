"""The table of figures beside the wanted ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def wanted(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("wanted")


@pytest.fixture
def form(wanted):
    return importlib.import_module("wanted_rows")


@pytest.mark.parametrize(
    ("value", "goal", "better", "reached", "missing"),
    [
        (1.2, 1.0, "more", True, 0),
        (1.0, 1.0, "more", True, 0),
        (0.75, 1.0, "more", False, 0.25),
        (0.2, 0.1, "less", False, 0.5),
        (0.1, 0.2, "less", True, 0),
        (float("nan"), 1.0, "more", False, None),
        (float("nan"), 1.0, "less", False, None),
    ],
)
def test_what_is_missing(form, value, goal, better, reached, missing):
    row = form.WantedRow("a", value, goal, "of b", better)
    assert row.reached == reached
    if missing is not None:
        assert row.missing == pytest.approx(missing)


def test_rows_are_appended_and_printed(wanted, form, tmp_path, capsys):
    file = tmp_path / "rows"
    rows = [
        form.WantedRow("a/b", 0.5, 1.0, "of peer", beside={"peer 2.0": 877e3}),
        form.WantedRow("c", 3.0, 8.0, "ms", "less"),
    ]
    for row in rows:
        form.write_rows(file, [row])
    assert form.read_rows(file) == rows
    assert wanted.main(["--from", str(file)]) == 0
    printed = capsys.readouterr().out
    first, second = (line for line in printed.splitlines() if line.startswith(("a/b", "c ")))
    assert "50%" in first
    assert "peer 2.0: 8.77e+05" in first
    assert "at most 8" in second
    assert "%" not in second
    assert "1 of 2 figures are reached" in printed


def test_a_benchmark_that_fails_or_is_not_known_is_named(wanted, monkeypatch, capsys, tmp_path):
    (tmp_path / "good.py").write_text(
        "import sys\nfrom wanted_rows import *\nfrom pathlib import Path\n"
        "write_rows(Path(sys.argv[2]), [WantedRow('good', 1.0, 1.0, 'of it')])\n"
    )
    (tmp_path / "bad.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(wanted, "__file__", str(tmp_path / "wanted.py"))
    monkeypatch.setattr(wanted, "BENCHMARKS", ("good", "bad"))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    assert wanted.main([]) == 1
    printed = capsys.readouterr()
    assert "failed: bad" in printed.out
    assert "bad: 3" in printed.err  # stderr of this process; that of benchmarks is not captured here
    assert "1 of 1 figures are reached" in printed.out
    with pytest.raises(SystemExit) as raised:
        wanted.main(["nothing"])
    assert raised.value.code == 2


def test_each_named_benchmark_knows_the_option(wanted):
    for name in wanted.BENCHMARKS:
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--help"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True).stdout
        assert "--rows" in said
