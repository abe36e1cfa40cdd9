"""What generation loses where its simulations run behind a slow link.

    python benchmarks/machines.py                    # steps of 1 ms, a round trip of 20 ms

Simulations that wait in each step are run by workers of this process, and by workers that dial in through a relay that
delays all bytes, in turn; the ratio of the samples per second is printed, with the interval of 95 % of its median.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the relay is one of the tests' tools

import gymnasium as gym
import numpy as np
from scipy.stats import quantile_test

from physgym.generation.stream import SampleStream
from tests.support.machines import listening, settings_for, workers
from tests.support.relay import Relay

ENV = "benchmarks.machines:Waiting"


class Waiting(gym.Env):
    """Waits in each step, as a simulator elsewhere does.

    Args:
        seconds: How long.
        steps: Of an episode.
    """

    observation_space = action_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    sample_space = gym.spaces.Dict({"x": action_space, "y": action_space})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, seconds: float = 1e-3, steps: int = 50):
        self.seconds, self.steps = seconds, steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        until = time.perf_counter() + self.seconds
        time.sleep(max(0.0, self.seconds - 1e-4))
        while time.perf_counter() < until:
            pass
        self.count += 1
        return action, 0.0, False, self.count == self.steps, {"sample": {"x": action, "y": -action}}


def rate(stream: SampleStream, seconds: float) -> float:
    """Return the samples per second."""
    taken, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        taken += len(stream.take(1000))
    return taken / (now - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round-trip", type=float, default=0.02, help="seconds")
    parser.add_argument("--step", type=float, default=1e-3, help="seconds of a step")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--pairs", type=int, default=15)
    arguments = parser.parse_args()
    options = {"env_kwargs": {"seconds": arguments.step}, "actions": "uniform"}
    with (
        tempfile.TemporaryDirectory() as folder,
        listening(Path(folder)) as reception,
        Relay(tuple(reception.address), arguments.round_trip / 2) as relay,
        workers(settings_for(reception, Path(folder), envs=[ENV], address=relay.address), arguments.workers),
        SampleStream(ENV, num_workers=arguments.workers, **options) as here,
        SampleStream(ENV, launcher=reception, timeout=60.0, **options) as there,
    ):
        for stream in (here, there):
            rate(stream, 3.0)
        pairs = [(rate(here, arguments.seconds), rate(there, arguments.seconds)) for _ in range(arguments.pairs)]
    ratios = [far / near for near, far in pairs]
    found = quantile_test(ratios, q=0, p=0.5).confidence_interval(0.95)
    print(
        f"{arguments.workers} workers, {1e3 * arguments.step:g} ms a step, round trip {1e3 * arguments.round_trip:g}: "
        f"{statistics.median(far for _, far in pairs):.0f} samples/s over {statistics.median(n for n, _ in pairs):.0f} "
        f"here, {statistics.median(ratios):.3f} ({found.low:.3f} to {found.high:.3f})"
    )


if __name__ == "__main__":
    main()
