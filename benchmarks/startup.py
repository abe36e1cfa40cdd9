"""Starting vector envs: seconds from construction to the first observations, and memory per environment.

The time is also given over that of importing, in a fresh interpreter, what a worker needs: of ours its own module, of
the others Gymnasium. Memory is that of the worker processes, after a few steps, as the difference between the larger
and the smaller number of environments per environment: what is theirs alone (USS), and with their shares of what they
share with others (PSS). Libraries are imported before the clock runs, and start their workers as
they do by default, but for TorchRL, whose workers are forked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
from contestants import CONTESTANTS, LIBRARIES, of_libraries, versions
from isolated import Failed, call, environment
from workloads import WORKLOADS

WORKLOAD = "cartpole"
FEW, MANY = 2, 64  # environments
STEPS = 20  # before memory is read: pages that every step touches shall be there
TIMEOUT = 500.0  # seconds
UNITS = {"physgym": "physgym.worker.main"}  # what one worker imports
UNIT = "gymnasium, numpy"
# by default, unlike where only steps are measured; 64 interpreters that import TorchRL would fill many a memory
OPTIONS = {"sb3": {}}


def started(name, num_envs, workers):
    """Return the seconds to start, and the bytes of the workers."""
    contestant = CONTESTANTS[name]
    options = OPTIONS.get(name, contestant.options)
    start = time.perf_counter()
    with contestant.open(WORKLOADS[WORKLOAD].make, num_envs, workers, **options) as step:
        seconds = time.perf_counter() - start
        for _ in range(STEPS):
            step()
        memory = [process.memory_full_info() for process in psutil.Process().children(recursive=True)]
        return {
            "seconds": seconds,
            "processes": len(memory),
            "uss": sum(found.uss for found in memory),
            "pss": sum(getattr(found, "pss", 0) for found in memory),  # Linux alone has it
        }


def importing(modules):
    """Return the seconds to start an interpreter that imports these."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], env=environment(), check=True)
    return time.perf_counter() - start


def middle(rounds, key):
    return statistics.median(found[key] for found in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(LIBRARIES), help="which of %(default)s; '' for none")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="of ours; %(default)s")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    arguments = parser.parse_args()
    names = ["ours", *of_libraries(arguments.peers, {})]
    found = versions(names, {})
    print(", ".join(f"{name} {version}" for name, version in found.items()), f"- {os.cpu_count()} cores")

    units = {UNIT: [], **{unit: [] for unit in UNITS.values()}}
    rounds, failures = {name: {FEW: [], MANY: []} for name in names}, {}
    for _ in range(arguments.repeats):
        for unit, seconds in units.items():
            seconds.append(importing(unit))
        for name in names:
            for num_envs in (FEW, MANY):
                if name in failures:
                    continue
                module = CONTESTANTS[name].module
                what = {"name": name, "num_envs": num_envs, "workers": arguments.workers}
                try:
                    rounds[name][num_envs].append(call("startup", "started", module, TIMEOUT, **what))
                except Failed as error:
                    failures[name] = str(error)

    unit_seconds = {unit: statistics.median(seconds) for unit, seconds in units.items()}
    for unit, seconds in unit_seconds.items():
        print(f"import {unit}: {seconds:.2f} s")
    print(
        f"\n{'CartPole-v1':<24}{f'start {FEW}, s':>12}{f'start {MANY}, s':>13}{f'/ import {UNIT}':>27}"
        f"{'/ import its worker':>21}{'processes':>11}{'KB USS/env':>12}{'KB PSS/env':>12}"
    )
    for name in names:
        title = CONTESTANTS[name].title
        if name in failures:
            print(f"{title}: skipped: {' '.join(failures[name].split())}")
            continue
        few, many = rounds[name][FEW], rounds[name][MANY]
        seconds = middle(many, "seconds")
        own = unit_seconds[UNITS.get(CONTESTANTS[name].distribution, UNIT)]
        processes = middle(many, "processes")
        more = [(middle(many, key) - middle(few, key)) / (MANY - FEW) / 1e3 for key in ("uss", "pss")]
        uss, pss = (f"{value:,.0f}" if processes else "-" for value in more)
        print(
            f"{title:<24}{middle(few, 'seconds'):>12.2f}{seconds:>13.2f}{seconds / unit_seconds[UNIT]:>27.2f}"
            f"{seconds / own:>21.2f}{processes:>11.0f}{uss:>12}{pss:>12}"
        )
    if arguments.json:
        report = {"versions": found, "cores": os.cpu_count(), "workers": arguments.workers, "imports": units}
        arguments.json.write_text(json.dumps({**report, "rounds": rounds, "failures": failures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
