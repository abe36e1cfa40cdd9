"""Compare the speed of this physgym with that of another environment, row by row.

    python -m venv ../old/.venv && ../old/.venv/bin/pip install -c constraints.txt ../old    # a checkout of before
    python benchmarks/compare.py ../old/.venv

OLD_ENVIRONMENT is a virtual environment, or a folder with the source of an old physgym (with `physgym/__init__.py`),
which then runs with the packages of this environment.

Each row has two processes, one per environment, which measure one round each in turn; who begins changes from pair to
pair. Pairs are added until the 95 % interval of the median of new speed / old speed is narrower than 0.04, or there
are 60. A row is met where that interval begins at 0.96 or above and the median is 0.98 or more. The exit status is 1
if a row is missed, and 2 if one could not be measured. All of it takes about an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from compare_rows import ROWS
from isolated import Failed
from scipy.stats import quantile_test

START_TIMEOUT = 300.0  # seconds until a row is ready to be measured
JOIN_TIMEOUT = 30.0
LEAST_PAIRS = 8  # fewer have no interval of 95 %, or one by luck
LOWER, MIDDLE = 0.96, 0.98


class Environment:
    """A Python with a physgym.

    Args:
        title: As printed.
        python: The interpreter.
        source: A folder that its physgym is imported from; None for the installed one.

    Raises:
        SystemExit: There is no such environment.
    """

    def __init__(self, title: str, python: Path, source: Path | None = None) -> None:
        self.title, self.python, self.source = title, python, source

    @classmethod
    def at(cls, path: Path) -> Environment:
        """Return the environment of a virtual environment or of a folder with physgym's source."""
        if (path / "physgym" / "__init__.py").is_file():
            return cls("old", Path(sys.executable), path.resolve())
        python = path / "bin" / "python"
        if not python.exists():
            sys.exit(f"{path} is neither a virtual environment (no bin/python) nor a folder with physgym/__init__.py")
        return cls("old", python.absolute())

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment variables of its processes."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**kept, "PYTHONWARNINGS": "ignore", **({"PYTHONPATH": str(self.source)} if self.source else {})}


class Measurement:
    """A process that measures one row in one environment.

    Args:
        environment: The environment.
        row: Name of the row.

    Attributes:
        physgym: The folder of the package that it has imported.

    Raises:
        Failed: It died, or is not ready in time.
    """

    def __init__(self, environment: Environment, row: str) -> None:
        self.title = environment.title
        script = Path(__file__).with_name("compare_rows.py")
        self.process = subprocess.Popen(
            [str(environment.python), str(script)], env=environment.variables, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            self.physgym = str(self._answer(START_TIMEOUT)["physgym"])
            self._ask({"row": row})
            self._answer(START_TIMEOUT)
        except BaseException:
            self.process.kill()
            self.process.wait(JOIN_TIMEOUT)
            raise

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.process.communicate(timeout=JOIN_TIMEOUT if kind is None else 1.0)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(JOIN_TIMEOUT)

    def rate(self, seconds: float) -> float:
        """Return the rate of one round."""
        self._ask({"seconds": seconds})
        return float(self._answer(START_TIMEOUT + 10 * seconds)["rate"])

    def _ask(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if ready else ""
        if not ready:
            raise Failed(f"{self.title}: no answer within {timeout:.0f} s")
        if not line:
            raise Failed(f"{self.title}: it died; what it printed stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower end, the median and the upper end of the 95 % interval of the median."""
    found = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    low, high = (end if math.isfinite(end) else default for end, default in ((found.low, 0.0), (found.high, math.inf)))
    return float(low), statistics.median(ratios), float(high)


def pairs(old: Measurement, new: Measurement, arguments: argparse.Namespace) -> Iterator[tuple[float, float]]:
    """Yield the rates of an old round and of a new one, as many pairs as are needed."""
    ratios: list[float] = []
    for turn in range(arguments.pairs):
        order = (old, new) if turn % 2 == 0 else (new, old)
        rates = {measurement.title: measurement.rate(arguments.seconds) for measurement in order}
        yield rates["old"], rates["new"]
        ratios.append(rates["new"] / rates["old"])
        if len(ratios) >= min(LEAST_PAIRS, arguments.pairs):
            low, _, high = interval(ratios)
            if high - low < arguments.width:
                return


def compare(row: str, environments: Sequence[Environment], arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Return the rates of all pairs of a row.

    Raises:
        Failed: A process died or gave no answer.
        SystemExit: Both environments have the same physgym.
    """
    old_environment, new_environment = environments
    with Measurement(old_environment, row) as old, Measurement(new_environment, row) as new:
        if old.physgym == new.physgym:
            sys.exit(f"both environments have the physgym of {old.physgym}")
        return list(pairs(old, new, arguments))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line per row, and end with the status that says whether all are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD_ENVIRONMENT", type=Path, help="a virtual environment, or a source folder")
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round; %(default)s")
    parser.add_argument("--pairs", type=int, default=60, help="at most, for a row; %(default)s")
    parser.add_argument("--width", type=float, default=0.04, help="of the interval that is enough; %(default)s")
    parser.add_argument("--json", type=Path, help="write all rates to this file")
    arguments = parser.parse_args(argv)
    rows = [row for row in ROWS if arguments.only in row]
    if not rows:
        sys.exit("\n".join(["no row has this text; there are:", *ROWS]))
    here = Path(__file__).resolve().parents[1]
    environments = Environment.at(arguments.old), Environment("new", Path(sys.executable), here)
    print(f"new speed / old speed, {os.cpu_count()} cores, {arguments.seconds:g} s a round; ", end="")
    print(f"wanted: from {LOWER}, middle {MIDDLE}")
    print(f"{'':<42}{'old, /s':>12}{'new, /s':>12}{'from':>8}{'middle':>8}{'to':>8}{'pairs':>7}{'s':>6}", flush=True)
    report, missed, failed = {}, 0, 0
    for row in rows:
        start = time.monotonic()
        try:
            rates = compare(row, environments, arguments)
        except Failed as error:
            failed += 1
            print(f"{row:<42}{error}", flush=True)
            continue
        low, middle, high = interval([new / old for old, new in rates])
        met = low >= LOWER and middle >= MIDDLE
        missed += not met
        medians = [statistics.median(column) for column in zip(*rates, strict=True)]
        print(
            f"{row:<42}{medians[0]:>12,.0f}{medians[1]:>12,.0f}{low:>8.3f}{middle:>8.3f}{high:>8.3f}"
            f"{len(rates):>7}{time.monotonic() - start:>6.0f}{'' if met else '  !'}",
            flush=True,
        )
        report[row] = {"rates": rates, "from": low, "middle": middle, "to": high, "met": met}
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1))
    print(f"{len(rows) - missed - failed} of {len(rows)} rows are met")
    sys.exit(2 if failed else int(missed > 0))


if __name__ == "__main__":
    main()
