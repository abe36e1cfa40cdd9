"""What it gains to compute environments together, and to train on tensors where they are.

    python benchmarks/batched.py                          # on the CPU
    python benchmarks/batched.py --device cuda --rows 64 1024 4096

For each number of rows, of the heated plates of physgym/HeatBatch-v0:

- steps: rows times steps per second of a vector environment, as one batch in one worker, as so many environments that
  one worker steps one by one (batches of one row, and plates of physgym/Heat-v0), and the bare simulation in tensors;
- samples: samples per second that a training gets as tensors on the device, from a `TensorSource` and from a
  `SampleStream` in one worker, whose arrays are copied there.

Each pair is measured in turn; what is printed is the median, and the ratio with its lowest and highest value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import physgym
from physgym.envs.heat_batch import HeatBatch
from physgym.generation.stream import SampleStream
from physgym.training import TensorSource
from physgym.vector.make import env_factory

BATCH = "physgym/HeatBatch-v0"


def rate(work: Callable[[], int], seconds: float) -> float:
    """Call a function for some seconds; return how many of what it counts it has made per second."""
    work()
    begun, made = time.perf_counter(), 0
    while (took := time.perf_counter() - begun) < seconds:
        made += work()
    return made / took


def stepped(envs, rows: int) -> Callable[[], int]:
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)

    def work() -> int:
        for _ in range(4):
            envs.step(actions)
        return 4 * rows

    return work


def in_tensors(simulation: HeatBatch) -> Callable[[], int]:
    simulation.reset(seed=0)
    actions = torch.zeros(simulation.num_envs, simulation.size, simulation.size, device=simulation.device)

    def work() -> int:
        for _ in range(20):
            simulation.step_rows(actions)
        if simulation.device.type == "cuda":
            torch.cuda.synchronize()
        return 20 * simulation.num_envs

    return work


def drawn(source, device: str) -> Callable[[], int]:
    def work() -> int:
        batch = source.draw(256)
        tensors = [torch.as_tensor(value).to(device) for value in batch.values()]
        if device == "cuda":
            torch.cuda.synchronize()
        return len(tensors[0])

    return work


def compared(title: str, works: dict[str, Callable[[], int]], seconds: float, repeats: int) -> None:
    """Print the rates of several functions, measured in turn, and that of the first over each."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            rates[name].append(rate(work, seconds))
    first = next(iter(rates.values()))
    print(title)
    for name, found in rates.items():
        ratios = sorted(one / other for one, other in zip(first, found, strict=True))
        middle = statistics.median(ratios)
        print(
            f"  {name:<44}{statistics.median(found):>12,.0f}/s   first over this {middle:>7.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--size", type=int, default=32, help="grid points per side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    plate = {"size": given.size, "device": given.device}
    for rows in given.rows:
        alone = env_factory(BATCH, plate)
        batch = physgym.make_vec(BATCH, rows, **plate)
        single = physgym.SocketVectorEnv([lambda made=alone: made()] * rows, num_workers=1)
        heat = physgym.make_vec("physgym/Heat-v0", rows, num_workers=1, size=given.size)
        tensors = HeatBatch(rows, **plate)
        source = TensorSource(BATCH, num_envs=rows, env_kwargs=plate)
        stream = SampleStream(BATCH, num_envs=rows, env_kwargs=plate)
        try:
            works = {
                "one batch in one worker": stepped(batch, rows),
                "batches of one row in one worker": stepped(single, rows),
                "Heat-v0 in one worker": stepped(heat, rows),
                "in tensors, in this process": in_tensors(tensors),
            }
            compared(f"{rows} rows: steps", works, given.seconds, given.repeats)
            works = {
                "TensorSource": drawn(source, given.device),
                "SampleStream, one worker": drawn(stream, given.device),
            }
            compared(f"{rows} rows: samples", works, given.seconds, given.repeats)
        finally:
            for one in (batch, single, heat, tensors, source, stream):
                one.close()


if __name__ == "__main__":
    main()
