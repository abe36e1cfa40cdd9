"""Print a table of figures beside the wanted ones, and say which fall short.

    python benchmarks/wanted.py                     # measures all of them, one benchmark after the other
    python benchmarks/wanted.py storage training    # those of two benchmarks
    python benchmarks/wanted.py --from FILE         # figures that were measured before

Each figure is measured with what it is compared with in one run. Other work on the machine falsifies it. The exit
status is 1 if a benchmark failed; figures that fall short do not change it, since they depend on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from wanted_rows import read_rows, table

BENCHMARKS = ("vector", "generation", "storage", "large", "partitions", "latency", "training")  # those that know --rows
TIMEOUT = 1800.0  # seconds for the rows of one benchmark


def measure(names, file):
    """Return the names of the benchmarks that failed; the others have appended their rows to `file`."""
    failed = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, str(Path(__file__).parent / f"{name}.py"), "--rows", str(file)]
        try:
            status = subprocess.run(command, stdout=2, timeout=TIMEOUT, check=False).returncode
        except subprocess.TimeoutExpired:
            status = f"took more than {TIMEOUT:.0f} s"
        if status:
            print(f"{name}: {status}", file=sys.stderr)
            failed.append(name)
    return failed


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all of them by default")
    parser.add_argument("--from", dest="file", type=Path, help="a file of rows that exists")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.benchmarks) - set(BENCHMARKS)):
        parser.error(f"no rows are wanted of {', '.join(unknown)}, but of {', '.join(BENCHMARKS)}")
    with tempfile.TemporaryDirectory(prefix="physgym-wanted-") as folder:
        file, failed = given.file, []
        if file is None:
            file = Path(folder) / "rows"
            file.touch()
            failed = measure(given.benchmarks or BENCHMARKS, file)
        rows = read_rows(file)
    print(table(rows))
    short = sum(not row.reached for row in rows)
    print(
        f"\n{len(rows) - short} of {len(rows)} figures are reached"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
