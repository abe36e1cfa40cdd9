"""Datasets of thousands of partitions: opening, `physgym info`, their memory, and a rotation while one appends.

Each figure is beside that of a dataset of a tenth as many partitions, made in the same run. Everything is made below a
folder and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import numpy as np  # noqa: E402
from isolated import call, environment  # noqa: E402
from wanted_rows import WantedRow, add_rows_option, write_rows  # noqa: E402

from physgym import SampleDataset  # noqa: E402
from physgym.data.writer import SampleWriter  # noqa: E402
from physgym.sample import Field, SampleSpec  # noqa: E402

PARTITIONS, ROWS, EPISODE = 7571, 512, 100
ROTATIONS = 100
TIMEOUT = 900.0  # seconds for each measurement
SPEC = SampleSpec([Field(name, (10,), np.dtype("f4"), role) for name, role in (("x", "input"), ("y", "target"))])
WANTED = {"open": (1.0, "s"), "info": (2.0, "s"), "memory": (150.0, "MB"), "rotation": (8.0, "ms")}


def fill(writer: SampleWriter, first: int, count: int) -> list[float]:
    """Append so many partitions; the seconds of each."""
    rng, seconds = np.random.default_rng(first), []
    samples = {name: rng.random((ROWS, 10), np.float32) for name in SPEC}
    for number in range(first, first + count):
        i = np.arange(number * ROWS, (number + 1) * ROWS)
        last = i[i % EPISODE == EPISODE - 1]
        begin = time.perf_counter()
        steps = np.full(len(last), EPISODE)
        writer.add_endings(episode=last // EPISODE, steps=steps, how=["truncated"] * len(last))
        writer.append(samples, episode=i // EPISODE, step=i % EPISODE, seed=(i // EPISODE).astype("u8"))
        writer.commit()
        seconds.append(time.perf_counter() - begin)
    return seconds


def made(folder: str, count: int) -> None:
    """Write a dataset."""
    with SampleWriter(folder, SPEC, max_rows=ROWS, endings=True) as writer:
        fill(writer, 0, count)


def opened(folder: str, count: int) -> dict[str, float]:
    """Open a dataset and gather a batch from all over it: seconds to open, to gather, and MB at most."""
    start = time.perf_counter()
    dataset = SampleDataset(folder)
    middle = time.perf_counter()
    assert len(dataset.partitions) == count
    dataset.gather(np.linspace(0, len(dataset) - 1, 256).astype(np.int64))
    return {"open": middle - start, "gather": time.perf_counter() - middle, "memory": most_memory()}


def most_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def informed(folder: Path) -> dict[str, float]:
    """Run `physgym info` as a command: its seconds, and MB at most."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "physgym", "info", str(folder)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"physgym info ended with status {process.returncode}")
    return {"info": time.perf_counter() - start, "memory": used.ru_maxrss / 1000}


def rotated(folder: str, count: int, rotations: int) -> dict[str, float]:
    """Continue a dataset: seconds until the first sample is taken, then ms of each partition that is filled."""
    start = time.perf_counter()
    with SampleWriter(folder, SPEC, max_rows=ROWS, endings=True, resume=True) as writer:
        assert writer.count == count * ROWS
        fill(writer, count, 1)
        middle = time.perf_counter()
        fill(writer, count + 1, rotations)
        # with what the thread of the writer does: it takes turns with the appending one
        each = (time.perf_counter() - middle) / rotations
    return {"resume": middle - start, "rotation": 1e3 * each}


def measured(folder: Path, count: int, rotations: int, repeats: int) -> dict[str, float]:
    data = str(folder / f"{count} partitions")
    call("partitions", "made", "physgym", TIMEOUT, folder=data, count=count)
    rounds = []
    for _ in range(repeats):
        one = call("partitions", "opened", "physgym", TIMEOUT, folder=data, count=count)
        info = informed(Path(data))
        rounds.append({**one, **info, "memory": max(one["memory"], info["memory"])})
    found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return found | call("partitions", "rotated", "physgym", TIMEOUT, folder=data, count=count, rotations=rotations)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help=f"of {ROWS} rows each; %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; %(default)s")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it works; the figures say nothing")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    add_rows_option(parser)
    given = parser.parse_args(argv)
    many, rotations, repeats = (30, 3, 1) if given.quick else (given.partitions, ROTATIONS, given.repeats)
    few = max(1, many // 10)
    with tempfile.TemporaryDirectory(prefix="physgym-partitions-", dir=given.folder) as folder:
        found = {count: measured(Path(folder), count, rotations, repeats) for count in (few, many)}
    units = {"open": "s", "gather": "s, the first batch", "info": "s", "memory": "MB", "resume": "s", "rotation": "ms"}
    print(f"{'':<28}" + "".join(f"{count:>10} partitions" for count in found))
    for name, unit in units.items():
        print(f"{f'{name}, {unit}':<28}" + "".join(f"{figures[name]:>21.3g}" for figures in found.values()))
    if given.json:
        given.json.write_text(json.dumps({str(count): figures for count, figures in found.items()}, indent=2) + "\n")
    if given.rows:
        rows = [
            WantedRow(
                f"partitions/{many} of {ROWS} rows/{name}",
                found[many][name],
                wanted,
                unit,
                better="less",
                beside={f"{few} partitions": found[few][name]},
            )
            for name, (wanted, unit) in WANTED.items()
        ]
        write_rows(given.rows, rows)


if __name__ == "__main__":
    main()
