"""What parallel workers bring to a search, and what a trial costs more than its training."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before NumPy is imported; workers and bare trainings alike

from physgym.experiment.build import train  # noqa: E402
from physgym.experiment.config import check_config  # noqa: E402
from physgym.experiment.schema import Config  # noqa: E402
from physgym.experiment.search.study import search  # noqa: E402
from physgym.vector.vector_env import usable_cores  # noqa: E402


def configuration(folder: Path, workers: int, trials: int, epochs: int) -> Config:
    """Trials of equal cost: what is searched changes nothing in the time they take."""
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
        rates = {}
        for workers in (1, 2):
            start = time.perf_counter()
            search(configuration(folder, workers, arguments.trials, arguments.epochs))
            seconds = time.perf_counter() - start
            rates[workers] = 3600 * arguments.trials / seconds
            print(
                f"{workers} worker(s): {rates[workers]:.0f} trials/h, {seconds:.1f} s in all, "
                f"{seconds / arguments.trials - bare / workers:+.2f} s per trial over the training alone"
            )
        print(f"2 workers over 1: {rates[2] / rates[1]:.2f} on {usable_cores()} cores")


if __name__ == "__main__":
    main()
