"""What it costs simulations to be watched, and not to be.

    python benchmarks/viewing.py                     # a viewer that only counts
    python benchmarks/viewing.py --sink vedo         # one that draws, on the same cores

"nobody": the comparisons that a vector step makes with nobody watching, as a part of a step of simulations that do
nothing.

"watched": steps per second with a viewer of some environments over those without one. Both have one round each in turn,
in random order, in the same vector env; the median of the ratios of the pairs is printed with its interval of 95 %. The
same for the steps per second of processors that the processes of the run take, which others disturb less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import tempfile
import time
import timeit
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from scipy.stats import quantile_test

import physgym
from physgym.scene.changes import apply
from physgym.scene.sinks.table import make_sink
from physgym.viewing.places import find
from physgym.viewing.shown import LiveView, show
from physgym.viewing.wire import dial

PATIENCE = 60.0  # seconds for a viewer to start


class Nothing(gym.Env):
    """Returns the same array at every step."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    state = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.state, {}

    def step(self, action):
        return self.state, 0.0, False, False, {}


def view(path: str, token: str, sink_name: str, chosen: list[int], rate: float, orders: Connection) -> None:
    """Show environments while the other end says so; runs in a process of its own."""
    link, words = dial(path, token)
    options = {"offscreen": True} if sink_name == "vedo" else {}
    sink = make_sink(sink_name, chosen=chosen, **options)
    sink.open(words["title"], words["environments"])
    orders.send("ready")
    snapshots: dict[int, Any] = {}
    count = 0
    while True:
        if orders.poll():
            order = orders.recv()
            if order == "end":
                break
            link.send({"watch": chosen if order == "on" else [], "interval": 1 / rate})
            snapshots.clear()
            if order == "off":
                orders.send(count)
                count = 0
        message = link.receive(0.02)
        if message is not None and "frame" in message and (message["env"] in snapshots or message["frame"]["full"]):
            env = message["env"]
            snapshots[env] = apply(snapshots.get(env), message["frame"])
            sink.show({env: snapshots[env]})
            count += 1
        sink.poll()
    sink.close()
    link.close()


def busy(pids: list[int]) -> float:
    """Return the time on processors of all threads of some processes, in s."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def both_of(envs: physgym.SocketVectorEnv, actions: Any, seconds: float) -> tuple[float, float]:
    """Return the steps of all environments per second, and per second of the run's processes on processors."""
    pids = [os.getpid(), *(worker.handle.pid for worker in envs._pool.workers)]
    begun, before = time.perf_counter(), busy(pids)
    rate = rate_of(envs, actions, seconds)
    count = rate * (time.perf_counter() - begun)
    return rate, count / (busy(pids) - before)


def rate_of(envs: physgym.SocketVectorEnv, actions: Any, seconds: float) -> float:
    """Return the steps of all environments per second."""
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        envs.step(actions)
        count += 1
    return count / (now - start)


def interval(values: list[float]) -> tuple[float, float]:
    """Return the interval of 95 % of the median."""
    found = quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    return float(found.low), float(found.high)


def measure_nobody(arguments: argparse.Namespace) -> None:
    with physgym.SocketVectorEnv([Nothing] * arguments.envs, num_workers=arguments.workers) as envs:
        envs.reset(seed=0)
        actions = np.zeros((arguments.envs, 1), np.float32)
        rate_of(envs, actions, 0.5)
        step = statistics.median(1 / rate_of(envs, actions, 0.2) for _ in range(10))
        runner = envs._runner
        parent = (
            min(timeit.repeat("if runner._views.attention: pass", globals={"runner": runner}, number=100_000)) / 1e5
        )
    with physgym.SocketVectorEnv([Nothing], num_workers=0) as envs:
        stepper = envs._pool.workers[0].group._stepper
        worker = min(timeit.repeat("if s._offers.watched: pass", globals={"s": stepper}, number=100_000)) / 1e5
    part = (parent + worker) / step
    print(
        f"nobody: {1e9 * parent:.0f} ns in the parent and {1e9 * worker:.0f} ns in a worker, of {1e6 * step:.0f} us "
        f"for a step of {arguments.envs} environments that do nothing: {part:.3%}"
    )


def measure_watched(env: str, arguments: argparse.Namespace, folder: Path) -> None:
    envs = physgym.make_vec(env, num_envs=arguments.envs, num_workers=arguments.workers)
    with envs:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        actions = envs.action_space.sample()
        show(envs.views, LiveView(places=(folder,)), env)
        entry = find(folder)
        ours, theirs = multiprocessing.Pipe()
        chosen = list(range(0, arguments.envs, max(1, arguments.envs // arguments.watched)))[: arguments.watched]
        viewer = multiprocessing.get_context("spawn").Process(
            target=view, args=(entry.socket, entry.token, arguments.sink, chosen, arguments.rate, theirs), daemon=True
        )
        viewer.start()
        assert ours.poll(PATIENCE)
        ours.recv()
        rate_of(envs, actions, 1.0)
        ratios, costs, frames, rates = [], [], [], []
        for _ in range(arguments.pairs):
            found = {}
            for order in random.sample(["on", "off"], 2):
                if order == "on":
                    ours.send("on")
                    time.sleep(0.1)
                rate_of(envs, actions, 0.2)  # the wish has come
                found[order] = both_of(envs, actions, arguments.seconds)
                if order == "on":
                    ours.send("off")
                    while not ours.poll(0):
                        envs.step(actions)
                    frames.append(ours.recv() / (arguments.seconds + 0.2))
            ratios.append(found["on"][0] / found["off"][0])
            costs.append(found["on"][1] / found["off"][1])
            rates.append(found["off"][0])
        ours.send("end")
        viewer.join(PATIENCE)
    shown = " and ".join(
        f"{statistics.median(values):.4f} {what} ({interval(values)[0]:.4f} to {interval(values)[1]:.4f})"
        for what, values in {"of the steps per second": ratios, "of those per second of a processor": costs}.items()
    )
    print(
        f"watched: {env}, {len(chosen)} of {arguments.envs} environments at {arguments.rate:g}/s, {arguments.sink}: "
        f"{shown}, {len(ratios)} pairs; {statistics.median(rates):.0f} steps/s unwatched, "
        f"{statistics.median(frames):.0f} frames/s seen"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--environments", nargs="*", default=["physgym/Spring-v0", "physgym/Heat-v0", "physgym/Beam-v0"]
    )
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--watched", type=int, default=4)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--sink", default="count")
    arguments = parser.parse_args()
    measure_nobody(arguments)
    for env in arguments.environments:
        with tempfile.TemporaryDirectory() as folder:
            measure_watched(env, arguments, Path(folder))


if __name__ == "__main__":
    main()
