"""Generation by a worker in C against one in Python: the spring, one worker each, over plain TCP on this machine.

    python benchmarks/clients.py                     # 200,000 samples, 7 pairs; some 40 s

Both make the same dataset, byte for byte, which is checked. The time is that of `physgym.generate`, from the moment at
which the worker has dialled in until the dataset is complete; the ratio of the samples per second is printed, with the
interval of 95 % of its median.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what starts workers is one of the tests' tools

from scipy.stats import quantile_test

import physgym
from physgym.machines.reception import Reception
from tests.support.machines import listening, settings_for, workers
from tests.support.programs import CLIENT, built, dialling

ENV = "physgym/Spring-v0"


def generated(folder: Path, program: Path | None, samples: int) -> tuple[float, str]:
    """Return the samples per second, and the digest of the dataset.

    Args:
        folder: An empty one.
        program: The worker in C; None for that in Python.
        samples: How many.
    """

    def worker(reception: Reception) -> AbstractContextManager[Any]:
        if program is None:
            return workers(settings_for(reception, folder, envs=[ENV]))
        return dialling([program], reception, folder)

    with listening(folder, plain=True, on_difference="warn") as reception, worker(reception):
        reception.first(60.0)
        begun = time.perf_counter()
        physgym.generate(ENV, folder / "data", samples=samples, seed=1, launcher=reception, progress=False)
        seconds = time.perf_counter() - begun
    digest = hashlib.sha256()
    for file in sorted((folder / "data").glob("*.h5")):
        digest.update(file.read_bytes())
    return samples / seconds, digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # that C is not Python
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        program = built(CLIENT / "spring.c", Path(folder) / "spring", "-O2")
        for turn in range(-1, arguments.pairs):  # the first one imports and compiles, and does not count
            found = []
            for way in (None, program) if turn % 2 else (program, None):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    found.append((way is not None, *generated(Path(place), way, arguments.samples)))
            (_, python, first), (_, c, second) = sorted(found)
            if first != second:
                raise SystemExit("both workers are to make the same dataset, and do not")
            if turn >= 0:
                pairs.append((python, c))
    ratios = [c / python for python, c in pairs]
    near = quantile_test(ratios, q=0, p=0.5).confidence_interval(0.95)
    python, c = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    print(
        f"{c:.0f} samples/s by C, {python:.0f} by Python, the same bytes: {statistics.median(ratios):.2f} "
        f"({near.low:.2f} to {near.high:.2f}, {len(pairs)} pairs; {min(ratios):.2f} at least)"
    )


if __name__ == "__main__":
    main()
