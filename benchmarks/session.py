"""What a session costs: its record, and the rule that what runs is committed, over what a training needs anyway.

Each figure is the time in a fresh process over that of importing torch in another one, which every training begins
with; and the time of a command that trains next to nothing over the same with --no-logging. The current folder must be
in a repository without changes; `git status` takes its time with the number of files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMEOUT = 120.0  # seconds
RECORD = """
import time
import torch
from physgym.experiment.provenance import Origin
from physgym.experiment.repository import check_repository, find_repository
from physgym.experiment.schema import Config
from physgym.experiment.run import Run
from physgym.experiment.session import new_session
config = Config(environment={"id": "physgym/Spring-v0"}).model_dump()
times = [time.perf_counter()]
repository = find_repository()
times.append(time.perf_counter())
origin = Origin.here()
times.append(time.perf_counter())
with Run(new_session(FOLDER), "train", config, origin):
    times.append(time.perf_counter())
times.append(time.perf_counter())
print(*(later - earlier for earlier, later in zip(times, times[1:])))
"""
PARTS = ("git, for the rule", "origin: git once more, packages, machine", "record before the first step", "its end")
TRAIN = (
    *("train", "examples/spring.yaml", "dataset.num_workers=1", "dataset.samples=640", "training.epochs=1"),
    *("validation.rollout=null",),
)


def seconds(*command):
    """Return the seconds that a process takes."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    rounds = parser.parse_args()
    importing, parts, kept, unkept = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "physgym", *TRAIN]
        for number in range(rounds.rounds):
            importing.append(seconds(sys.executable, "-c", "import torch")[0])
            script = RECORD.replace("FOLDER", repr(f"{folder}/record-{number}"))
            parts.append([float(part) for part in seconds(sys.executable, "-c", script)[1].split()])
            unkept.append(seconds(*train, "--no-logging")[0])
            kept.append(seconds(*train, f"session={folder}/train-{number}")[0])
    unit = statistics.median(importing)
    print(f"importing torch: {unit:.2f} s; over it:")
    figures = {}
    for name, times in zip(PARTS, zip(*parts, strict=True), strict=True):
        figures[name] = statistics.median(times) / unit
        print(f"  {name}: {figures[name]:.3f} ({statistics.median(times) * 1e3:.0f} ms)")
    figures["command with a session over without"] = statistics.median(kept) / statistics.median(unkept)
    print(f"a command with a session over one without: {figures['command with a session over without']:.2f}")
    if rounds.json is not None:
        rounds.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
