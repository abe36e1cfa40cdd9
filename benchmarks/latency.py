"""The latency of a prediction: the beam's MLP after each step of its solver, over a tight loop, and by each engine.

Runs with torch's own number of threads, as a user has it, alone and beside processes that compute. Untrained weights:
they cost as much. The tight loop is one of `Predictor.predict`, which calls the modules of the network one by one; a
run takes a shorter way to the same bits.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from wanted_rows import WantedRow, add_rows_option, write_rows

import physgym
from physgym.engine_names import ENGINES
from physgym.nn import MLP, Predictor, Transforms
from physgym.nn.prepared import PreparedPredictor
from physgym.runner import Runner

HIDDEN = (256, 256, 256)
WANTED = {"onnx": 2.0, "compiled": 1.5}  # times as fast as torch


def network(folder: Path) -> Predictor:
    samples = physgym.generate("physgym/Beam-v0", folder / "samples", samples=20, num_workers=0, progress=False)
    torch.manual_seed(0)
    mlp = MLP.from_spec(samples.spec, hidden=HIDDEN, residual=True)
    return Predictor(mlp, samples.spec, transforms=Transforms.normalization(samples)).eval()


def alone(prepared: PreparedPredictor | Predictor, count: int = 300) -> float:
    """Return the median time of a prediction in a tight loop, in ms."""
    fields = [prepared.spec[name] for name in prepared.inputs]
    sample = {field.name: np.ones(field.shape, field.dtype) for field in fields}
    times = []
    for _ in range(count):
        start = time.perf_counter()
        prepared.predict(sample)
        times.append(time.perf_counter() - start)
    return statistics.median(times[count // 10 :]) * 1e3


def in_run(predictor: Predictor, steps: int, **options) -> dict[str, float]:
    with Runner("physgym/Beam-v0", predictor, seed=1, **options) as runner:
        return runner.run(steps, progress=False).latency_ms


def _compute() -> None:
    while True:
        pass


@contextmanager
def others(count: int) -> Iterator[None]:
    """Have so many processes compute within the block."""
    processes = [multiprocessing.get_context("spawn").Process(target=_compute, daemon=True) for _ in range(count)]
    for one in processes:
        one.start()
    try:
        yield
    finally:
        for one in processes:
            one.kill()
            one.join()


def rows(steps: int) -> list[WantedRow]:
    with tempfile.TemporaryDirectory() as folder:
        predictor = network(Path(folder))
        tight, prepared = alone(predictor), alone(PreparedPredictor(predictor))
        beside = {"tight loop, ms": tight, "prepared, ms": prepared, "torch's threads": float(torch.get_num_threads())}
        found = []
        for name, count in (("alone", 0), ("beside other work", (os.cpu_count() or 1) + 1)):
            with others(count):
                median = in_run(predictor, steps)["network_median"]
            found.append(WantedRow(f"prediction in a run/{name}", median, 2 * tight, "ms", "less", beside))
        for engine, wanted in WANTED.items():
            faster = tight / alone(PreparedPredictor(predictor, engine=engine))
            found.append(WantedRow(f"prediction/engine {engine}", faster, wanted, "times as fast as torch"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    add_rows_option(parser)
    arguments = parser.parse_args()
    if arguments.rows is not None:
        write_rows(arguments.rows, rows(arguments.steps))
        return
    with tempfile.TemporaryDirectory() as folder:
        predictor = network(Path(folder))
        print(f"{'ms per prediction':<12}{'tight loop':>12}{'in a run':>12}{'95 %':>8}")
        for engine in ENGINES:
            tight = alone(PreparedPredictor(predictor, engine=engine))
            run = in_run(predictor, arguments.steps, engine=engine)
            print(f"{engine:<12}{tight:>17.3f}{run['network_median']:>12.3f}{run['network_p95']:>8.3f}", flush=True)


if __name__ == "__main__":
    main()
