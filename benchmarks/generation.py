"""Generation against its limit: samples/s into a dataset by two workers, over a bare loop in one process times two.

For the shipped simulations the bare loop runs the same seeded episodes and throws the samples away. For CartPole and
the environment that computes for a millisecond it only steps, with one action, and resets where an episode ends.

At the end: seconds for few samples of a slow simulation, the start of the processes and their end included, by one
worker and by two, with episodes of a known length. Their ratio shows whether the work is in proportion.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # as in the workers; before numpy is imported

import gymnasium as gym  # noqa: E402
from gymnasium.wrappers import TimeLimit  # noqa: E402
from wanted_rows import WantedRow, add_rows_option, write_rows  # noqa: E402
from workloads import Busy  # noqa: E402

from physgym import RecordTransition, generate  # noqa: E402
from physgym.episode import episode_seed, require_spec, run_episode  # noqa: E402
from physgym.generation.stream import SampleStream  # noqa: E402

WORKERS = 2
WANTED = {"generation/CartPole": 0.55, "generation/Heat": 0.8}
FEW, LENGTH, PAUSE = 400, 50, 0.010  # samples, steps of an episode, seconds of a step


def raw(env_id, samples):
    if callable(env_id):
        return stepping(env_id().env, samples)
    env = gym.make(env_id)
    spec, count, episode, start = require_spec(env), 0, 0, time.perf_counter()
    while count < samples:
        count += sum(t.sample is not None for t in run_episode(env, spec, seed=episode_seed(0, episode), check=False))
        episode += 1
    return count / (time.perf_counter() - start)


def stepping(env, samples):
    env.reset(seed=0)
    env.action_space.seed(0)
    action, start = env.action_space.sample(), time.perf_counter()
    for _ in range(samples):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return samples / (time.perf_counter() - start)


def cart_pole():
    return RecordTransition(gym.make("CartPole-v1"))


def millisecond():
    return RecordTransition(TimeLimit(Busy(), 100))


class Slow(gym.Env):
    """Takes its time for a step, in which it does nothing; an episode never ends."""

    observation_space = gym.spaces.Box(-1, 1, (2,), "f4")
    action_space = gym.spaces.Box(-1, 1, (2,), "f4")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(2, "f4"), {}

    def step(self, action):
        time.sleep(PAUSE)
        return self.np_random.random(2, "f4"), 0.0, False, False, {}


def slow():
    return RecordTransition(Slow())


def seconds_for_few(workers):
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate(slow, Path(folder) / "d", samples=FEW, max_steps=LENGTH, num_workers=workers, progress=False)
        return time.perf_counter() - start


def generated(env_id, samples):
    with (
        tempfile.TemporaryDirectory() as folder,
        SampleStream(env_id, path=Path(folder) / "d", num_workers=WORKERS) as stream,
    ):
        stream.take(samples)  # the start of the processes is not what is measured
        first, start = stream.writer.count, time.perf_counter()
        while stream.writer.count < samples:
            stream.take(samples)
        return (stream.writer.count - first) / (time.perf_counter() - start)


def compared(env_id, samples, repeats):
    """Return samples/s of the bare loop and of the generation: medians of rounds in turn."""
    rounds = [(raw(env_id, max(1, samples // 2)), generated(env_id, samples)) for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def wanted_rows(repeats):
    for row, env_id, samples in (
        ("generation/CartPole", cart_pole, 120_000),
        ("generation/Heat", "physgym/Heat-v0", 8000),
    ):
        bare, ours = compared(env_id, samples, repeats)
        beside = {"bare loop, samples/s": bare}
        yield WantedRow(row, ours / (WORKERS * bare), WANTED[row], f"of the bare loop times {WORKERS}", beside=beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    add_rows_option(parser)
    arguments = parser.parse_args()
    if arguments.rows:
        write_rows(arguments.rows, wanted_rows(2 * arguments.repeats + 1))
        return
    print(f"{'environment':<20}{'samples':>9}{'raw, 1 core':>13}{'generated':>11}{'/ (2 raw)':>11}")
    for env_id, samples in (
        (millisecond, 2000),
        (cart_pole, 60_000),
        ("physgym/Beam-v0", 600),
        ("physgym/BeamFull-v0", 100),
        ("physgym/Burgers-v0", 800),
        ("physgym/Heat-v0", 8000),
        ("physgym/Spring-v0", 40_000),
    ):
        bare, ours = compared(env_id, samples, arguments.repeats)
        name = env_id if isinstance(env_id, str) else env_id.__name__
        print(f"{name:<20}{samples:>9}{bare:>13,.0f}{ours:>11,.0f}{ours / (WORKERS * bare):>11.2f}", flush=True)
    rounds = [(seconds_for_few(1), seconds_for_few(WORKERS)) for _ in range(arguments.repeats)]
    one, both = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{FEW} samples, {1000 * PAUSE:.0f} ms a step, max_steps={LENGTH}: one worker {one:.2f} s, ", end="")
    print(f"{WORKERS} workers {both:.2f} s, ratio {both / one:.2f}")


if __name__ == "__main__":
    main()
