"""Stepping vector envs: env-steps/s of ours and of other libraries', as ratios within one run.

Every measurement has a process of its own; those of one round follow one another, so that a slow minute of the machine
meets all alike; medians of the rounds are printed. An env-step is a call of an environment's `step` or `reset`.

Observations are handed out as copies, which the caller may keep, or as views of a buffer that is written again. The
columns "ours /" compare with physgym with so many workers, "our best /" with its fastest setting. All of it takes most
of an hour.

"raw" is a bare loop over one environment in one process, times the workers: nobody can do better. "raw, together" is
that loop in as many processes at the same time, added up: the limit on cores that share caches, power and neighbours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

from contestants import CONTESTANTS, LIBRARIES, OURS, installed, interpreters, of_libraries, pick, versions
from isolated import Failed, call
from wanted_rows import WantedRow, add_rows_option, write_rows
from workloads import WORKLOADS

LIMITS = {"raw": "raw x {workers}", "together": "raw x {workers}, together"}
RAW_CHUNK = 64  # steps between two looks at the clock: one look costs as much as a no-op step
# 64 environments: the workload, its name, and the wanted parts of SyncVectorEnv's rate: default, copy=False, one buffer
SYNC_ROWS = (
    ("noop", "no-op", (1.0, 1.0, 1.0)),
    ("cartpole", "CartPole", (1.35, 1.35, 1.35)),
    ("pixels", "(84,84,4)", (1.0, 1.0, 1.0)),
    ("field", "(10000,3)", (1.0, 1.0, 1.0)),
)
DEFAULTS = ("ours-default", "ours-default-views", "ours-default-one")
START_TIMEOUT = 300.0  # seconds
JOIN_TIMEOUT = 30.0


# --- what runs in a process of its own


def rate(step, seconds):
    """Return the sum of what calls of `step` return, per second."""
    warm = time.perf_counter() + min(0.5, 0.2 * seconds)
    step()
    while time.perf_counter() < warm:
        step()
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        count += step()
    return count / (now - start)


def raw(workload, seconds):
    """Run a bare loop; like Gymnasium's vector envs it takes a step's time to reset."""
    env = WORKLOADS[workload].make()
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(RAW_CHUNK)]
    ended = False

    def step():
        nonlocal ended
        for action in actions:
            if ended:
                env.reset()
                ended = False
            else:
                _, _, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
        return RAW_CHUNK

    found = rate(step, seconds)
    env.close()
    return found


def raw_beside(workload, seconds, barrier, found):
    barrier.wait(START_TIMEOUT)
    found.put(raw(workload, seconds))


def raw_together(workload, workers, seconds):
    barrier, found = multiprocessing.Barrier(workers), multiprocessing.Queue()
    arguments = (workload, seconds, barrier, found)
    processes = [multiprocessing.Process(target=raw_beside, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    rates = [found.get(timeout=START_TIMEOUT + seconds) for _ in processes]
    for process in processes:
        process.join(JOIN_TIMEOUT)
    return sum(rates)


def measure(name, workload, num_envs, workers, seconds):
    if name == "raw":
        return workers * raw(workload, seconds)
    if name == "together":
        return raw_together(workload, workers, seconds)
    contestant = CONTESTANTS[name]
    with contestant.open(WORKLOADS[workload].make, num_envs, workers, **contestant.options) as step:
        return rate(step, seconds)


# --- what starts those


def compare(workload, num_envs, names, arguments):
    """Return the rates of every round, and why there are none."""
    rates, failures = {name: [] for name in names}, {}
    limit = START_TIMEOUT + 3 * arguments.seconds
    for _ in range(arguments.repeats):
        for name in names:
            if name in failures:
                continue
            module = CONTESTANTS[name].module if name in CONTESTANTS else "gymnasium"
            what = {"name": name, "workload": workload, "num_envs": num_envs}
            how = {"workers": arguments.workers, "seconds": arguments.seconds}
            try:
                python = arguments.pythons.get(name.partition("-")[0], sys.executable)
                rates[name].append(call("vector", "measure", module, limit, python=python, **what, **how))
            except Failed as error:
                failures[name] = str(error)
    return {name: found for name, found in rates.items() if name not in failures}, failures


def over(above, below):
    return f"{above / below:.3g}" if above and below else "-"


def best_of(median, library):
    """Return the median of a library's fastest setting."""
    return max((value for name, value in median.items() if name.partition("-")[0] == library), default=None)


def show(workload, num_envs, rates, failures, workers):
    """Print a table and return the medians."""
    median = {name: statistics.median(found) for name, found in rates.items()}
    print(f"\n{WORKLOADS[workload].title}, {num_envs} envs")
    print(
        f"{'':<24}{'env-steps/s':>13}{'least - most':>25}{'/ raw':>10}{'/ together':>12}"
        f"{'ours /':>10}{'our best /':>12}  observations"
    )
    for name, value in median.items():
        limit, contestant = name in LIMITS, CONTESTANTS.get(name)
        print(
            f"{LIMITS[name].format(workers=workers) if limit else contestant.title:<24}{value:>13,.0f}"
            f"{f'{min(rates[name]):,.0f} - {max(rates[name]):,.0f}':>25}{over(value, median.get('raw')):>10}"
            f"{over(value, median.get('together')):>12}{over(median.get('ours'), value):>10}"
            f"{over(best_of(median, 'ours'), value):>12}  {'one env' if limit else contestant.observations}"
        )
    for name, reason in failures.items():
        title = LIMITS[name].format(workers=workers) if name in LIMITS else CONTESTANTS[name].title
        print(f"{title}: skipped: {' '.join(reason.split())}")
    sys.stdout.flush()
    return median


def summarize(medians, names):
    """Return ours over each library at its best, for all that was measured."""
    libraries = list(dict.fromkeys(name.partition("-")[0] for name in names))
    print(f"\n{'ours /':<32}" + "".join(f"{library:>10}" for library in libraries))
    for (workload, num_envs), median in medians.items():
        plain, best = median.get("ours"), best_of(median, "ours")
        rows = [(f"{WORKLOADS[workload].title}, {num_envs}", plain)]
        if best != plain:
            rows.append(("    at our best", best))
        for title, value in rows:
            print(f"{title:<32}" + "".join(f"{over(value, best_of(median, library)):>10}" for library in libraries))


def measure_rows(file):
    """Measure the rows that have wanted figures, and append them to a file; takes about three minutes."""
    how = argparse.Namespace(workers=2, seconds=0.8, repeats=3, pythons={})
    beside = versions(["sync"], {})["gymnasium"]
    for workload, name, wanted in SYNC_ROWS:
        rates, failures = compare(workload, 64, ["sync", "sync-views", *DEFAULTS], how)
        if failures:
            raise SystemExit(f"{workload}: {failures}")
        for ours, setting, least in zip(
            DEFAULTS, ("default", "copy=False", "copy=False, one buffer"), wanted, strict=True
        ):
            sync = "sync" if setting == "default" else "sync-views"
            theirs = statistics.median(rates[sync])
            value = statistics.median(ours / other for ours, other in zip(rates[ours], rates[sync], strict=True))
            row = f"stepping/{name}/{setting}"
            write_rows(
                file, [WantedRow(row, value, least, "of SyncVectorEnv", beside={f"SyncVectorEnv {beside}": theirs})]
            )
    for workload in ("cpu", "exponential"):
        rates, failures = compare(workload, 64, ["raw", "together", "ours-default", "ours-ready"], how)
        if failures:
            raise SystemExit(f"{workload}: {failures}")
        limit = {LIMITS[name].format(workers=2): statistics.median(rates[name]) for name in ("raw", "together")}
        for ours, setting, least in (("ours-default", "lockstep", 0.94), ("ours-ready", "send/recv", 0.97)):
            value = statistics.median(one / raw for one, raw in zip(rates[ours], rates["raw"], strict=True))
            row = f"stepping/{WORKLOADS[workload].title}/{setting}"
            write_rows(file, [WantedRow(row, value, least, "of raw x 2", beside=limit)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which of %(default)s")
    parser.add_argument("--peers", default=",".join(LIBRARIES), help="which of %(default)s; '' for none")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement; %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; %(default)s")
    parser.add_argument(
        "--num-envs",
        default="2,8,64",
        help="%(default)s; large observations and steps that compute are measured at the last alone",
    )
    parser.add_argument("--workers", type=int, default=2, help="of ours, and what raw is multiplied by; %(default)s")
    parser.add_argument("--json", type=Path, help="write every round's rates to this file")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="LIBRARY=INTERPRETER",
        help="measure a library in another environment, which has psutil as well: PufferLib 3.0 needs NumPy 1",
    )
    add_rows_option(parser)
    arguments = parser.parse_args()
    if arguments.rows is not None:
        measure_rows(arguments.rows)
        return
    arguments.pythons = interpreters(arguments.python)
    workloads = pick(arguments.workloads, WORKLOADS, "workload")
    counts = [int(count) for count in arguments.num_envs.split(",")]
    peers = of_libraries(arguments.peers, arguments.pythons)
    found = versions(["ours", *peers], arguments.pythons)
    print(", ".join(f"{name} {version}" for name, version in found.items()), f"- {os.cpu_count()} cores")

    settings = {"workers": arguments.workers, "seconds": arguments.seconds, "repeats": arguments.repeats}
    report = {**settings, "cores": os.cpu_count(), "versions": found, "results": []}
    medians = {}
    for name in workloads:
        workload = WORKLOADS[name]
        if not installed(workload.module):
            print(f"\n{workload.title}: {workload.module} is not installed, skipped; pip install gymnasium[mujoco]")
            continue
        compared = [key for key in [*peers, *OURS] if not (only := CONTESTANTS[key].only) or getattr(workload, only)]
        for num_envs in counts if workload.any_number else counts[-1:]:
            rates, failures = compare(name, num_envs, [*LIMITS, *compared], arguments)
            median = medians[name, num_envs] = show(name, num_envs, rates, failures, arguments.workers)
            result = {"workload": name, "num_envs": num_envs, "median": median, "rates": rates, "failures": failures}
            report["results"].append(result)
            if arguments.json:  # after each, so that a run that is broken off is not lost
                arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    summarize(medians, [*LIMITS, *peers])


if __name__ == "__main__":
    main()
