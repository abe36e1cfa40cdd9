"""What parallel workers bring to a search, and what a trial costs more than its training."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before NumPy is imported; workers and bare trainings alike

from physgym.experiment.config import check_config  # noqa: E402
from physgym.experiment.record import read_record  # noqa: E402
from physgym.experiment.runs import train  # noqa: E402
from physgym.experiment.schema import Config  # noqa: E402
from physgym.experiment.search.study import search  # noqa: E402
from physgym.system.cores import usable_cores  # noqa: E402


def configuration(folder: Path, workers: int, trials: int, epochs: int) -> Config:
    """Return trials of equal cost: what is searched changes nothing in the time they take."""
    return check_config(
        {
            "session": str(folder / f"search-{workers}"),
            "environment": {"id": "physgym/Spring-v0"},
            "dataset": {"path": str(folder / "dataset"), "samples": 4000, "max_steps": 50, "num_workers": 1},
            "network": {"arguments": {"hidden": [64, 64]}},
            "training": {"epochs": epochs, "batch_size": 32},
            "search": {
                "trials": trials,
                "workers": workers,
                "pruner": "none",
                "sampler": "random",
                "parameters": {"optimization.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
            },
        },
        "the benchmark",
    )


def span(session: Path) -> float:
    """Return the seconds from the first trial's begin to the last one's end, without workers' start and plots."""
    runs = [read_record(trial)["runs"][0] for trial in (session / "trials").iterdir() if trial.is_dir()]
    begins, ends = ([datetime.fromisoformat(run[name]) for run in runs] for name in ("start", "end"))
    return (max(ends) - min(begins)).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        alone = configuration(folder, 1, arguments.trials, arguments.epochs).model_copy(
            update={"search": None, "session": str(folder / "bare")}
        )
        train(alone)  # makes the samples, and imports what is needed
        start = time.perf_counter()
        for _ in range(arguments.trials):
            train(alone)
        bare = (time.perf_counter() - start) / arguments.trials
        print(f"bare training: {bare:.2f} s")
        seconds = {}
        for workers in (1, 2):
            start = time.perf_counter()
            found = search(configuration(folder, workers, arguments.trials, arguments.epochs))
            whole = time.perf_counter() - start
            assert found.session is not None
            seconds[workers] = span(found.session)
            rate, rest = 3600 * arguments.trials / seconds[workers], whole - seconds[workers]
            print(f"{workers} worker(s): {rate:.0f} trials/h; besides, to start and to end the search, {rest:.1f} s")
        print(f"a trial with 1 worker over a bare training: {seconds[1] / arguments.trials - bare:+.3f} s")
        print(f"trials per hour, 2 workers over 1: {seconds[1] / seconds[2]:.2f} on {usable_cores()} cores")


if __name__ == "__main__":
    main()
