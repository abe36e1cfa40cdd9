"""Stepping vector envs: env-steps/s of ours and Gymnasium's, as ratios within one run.

Two workers, environments in one lockstep. "raw" is a bare loop over one environment in one process, times two cores.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import physgym

WORKERS = 2
CASES = (("CartPole-v1", 8), ("CartPole-v1", 64), ("physgym/Spring-v0", 64), ("physgym/Heat-v0", 8))


def raw(make, seconds):
    env = make()
    env.reset(seed=0)
    env.action_space.seed(0)
    action, count, start = env.action_space.sample(), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _, _, terminated, truncated, _ = env.step(action)
        count += 1
        if terminated or truncated:
            env.reset()
    env.close()
    return WORKERS * count / (time.perf_counter() - start)


def stepping(envs, seconds):
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions, count = envs.action_space.sample(), 0
    for _ in range(3):
        envs.step(actions)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        envs.step(actions)
        count += envs.num_envs
    rate = count / (time.perf_counter() - start)
    envs.close()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'environment':<20}{'envs':>5}{'raw x 2':>12}{'physgym':>12}{'/ raw':>8}{'/ Async':>9}{'/ Sync':>8}")
    for env_id, num_envs in CASES:
        make = functools.partial(gym.make, env_id)
        seconds, makers = arguments.seconds, [make] * num_envs
        measure = {
            "raw": functools.partial(raw, make, seconds),
            "ours": lambda m=makers: stepping(physgym.SocketVectorEnv(m, num_workers=WORKERS), arguments.seconds),
            "async": lambda m=makers: stepping(AsyncVectorEnv(m), arguments.seconds),
            "sync": lambda m=makers: stepping(SyncVectorEnv(m), arguments.seconds),
        }
        rounds = [{name: run() for name, run in measure.items()} for _ in range(arguments.repeats)]
        rate = {name: statistics.median(r[name] for r in rounds) for name in measure}
        ours = rate["ours"]
        print(
            f"{env_id:<20}{num_envs:>5}{rate['raw']:>12,.0f}{ours:>12,.0f}"
            f"{ours / rate['raw']:>8.2f}{ours / rate['async']:>9.1f}{ours / rate['sync']:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
