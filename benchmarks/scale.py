"""What connections cost one run: stepping over 10 and over 200 of them, samples that are received and written, memory.

    python benchmarks/scale.py                       # some 80 seconds
    python benchmarks/scale.py --part turnover       # 10,000 episodes while workers join and leave

Workers that dial in, of which one process speaks for all, host 5 environments each that compute nothing: what is left
is the cost of the run itself. `docs/concepts/scale.md` has the model that these numbers go into.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the crowd is one of the tests' tools

import gymnasium as gym
import numpy as np

from physgym import SocketVectorEnv
from physgym.generation.stream import SampleStream
from physgym.machines.dialled_worker import DialIn
from physgym.machines.reception import Reception
from physgym.protocol.messages import Message, Rollout, RolloutResult
from physgym.vector.make import env_factory
from tests.support.crowd import Crowd, Member
from tests.support.machines import listening, settings_for

ENV, EACH, STEPS = "benchmarks.scale:Still", 5, 50
PART_SECONDS = 0.05  # a worker sends a part of its samples that is so old


class Still(gym.Env):
    """Computes nothing.

    Args:
        size: Numbers in each of both fields of a sample, of 4 bytes.
    """

    observation_space = action_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, size: int = 4):
        field = gym.spaces.Box(-1, 1, (size,), np.float32)
        self.sample_space = gym.spaces.Dict({"x": field, "y": field})
        self.observation, self.sample = np.zeros(4, np.float32), np.zeros(size, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation.copy(), {}

    def step(self, action):
        self.count += 1
        info = {"sample": {"x": self.sample.copy(), "y": self.sample.copy()}}
        return self.observation.copy(), 0.0, False, self.count == STEPS, info


class Ready(Member):
    """A worker whose episodes are there already, so that the run alone is what takes time.

    Attributes:
        rows: Samples in a message.
    """

    rows = STEPS

    def _served(self, message: Message) -> Message:
        if not isinstance(message, Rollout):
            return super()._served(message)
        *parts, last = [part for entry in message.episodes for part in self._parts(entry[0])]
        for part in parts:
            self.channel.send(part)
        return replace(last, last=True)

    def _parts(self, episode: int) -> Iterator[RolloutResult]:
        values = np.zeros((self.rows, self.group.spec["x"].shape[0]), np.float32)
        for begin in range(0, STEPS, self.rows):
            steps = np.arange(begin, min(begin + self.rows, STEPS))
            field = values[: len(steps)]
            ended = [[episode, STEPS, STEPS, 0.0, {}, "truncated"]] if steps[-1] == STEPS - 1 else []
            episodes = np.full(len(steps), episode)
            yield RolloutResult(episodes, steps, {"x": field, "y": field}, ended, last=False)


@contextlib.contextmanager
def workers(
    settings: DialIn, count: int, turnover: float = 0.0, make: Callable[..., Member] = Member
) -> Iterator[None]:
    """Have so many workers dial in, all in one other process."""
    stop, end = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=Crowd(settings, count, turnover, make, stop).run)
    process.start()
    try:
        yield
    finally:
        os.close(end)
        process.terminate()
        process.join(10)
        os.close(stop)


@contextlib.contextmanager
def reception(plain: bool) -> Iterator[tuple[Reception, DialIn]]:
    with tempfile.TemporaryDirectory() as folder, listening(Path(folder), plain=plain) as found:
        yield found, settings_for(found, Path(folder), envs=[ENV], count=EACH)


def resident() -> float:
    """Return the memory of this process in KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def stepping(plain: bool, rounds: int, seconds: float) -> None:
    """Measure steps of all environments over 10 and over 200 connections, in turn."""
    with contextlib.ExitStack() as stack:
        envs, memory = {}, {}
        for connections in (10, 200):
            found, settings = stack.enter_context(reception(plain))
            stack.enter_context(workers(settings, connections))
            before = resident()
            factories = [env_factory(ENV, {})] * (EACH * connections)
            envs[connections] = stack.enter_context(
                SocketVectorEnv(factories, num_workers=connections, launcher=found, timeout=60)
            )
            envs[connections].reset(seed=1)
            for _ in range(10):
                envs[connections].step(np.zeros((EACH * connections, 4), np.float32))
            memory[connections] = (resident() - before) / connections
        wall: dict[int, list[float]] = {10: [], 200: []}
        used: dict[int, list[float]] = {10: [], 200: []}
        for _ in range(rounds):
            for connections, one in envs.items():
                actions, steps = np.zeros((one.num_envs, 4), np.float32), 0
                begun, cpu = time.perf_counter(), time.process_time()
                while (now := time.perf_counter()) < begun + seconds:
                    one.step(actions)
                    steps += 1
                wall[connections].append(1e6 * (now - begun) / steps / one.num_envs)
                used[connections].append(1e6 * (time.process_time() - cpu) / steps / one.num_envs)
    few, many = (statistics.median(wall[connections]) for connections in (10, 200))
    ratio = statistics.median(b / a for a, b in zip(wall[10], wall[200], strict=True))
    print(
        f"{'plain' if plain else 'TLS':5}: a step of an environment takes {few:.1f} us over 10 connections, {many:.1f} "
        f"over 200, ratio {ratio:.2f}; of the run's own time {statistics.median(used[10]):.1f} and "
        f"{statistics.median(used[200]):.1f} us; {memory[200]:.0f} KiB a connection",
        flush=True,
    )


def generating(size: int, rows: int, seconds: float, *, written: bool) -> float:
    """Measure samples that come over 50 connections with TLS; return the microseconds that the run takes for each.

    Args:
        size: Numbers in each of both fields.
        rows: Samples in a message.
        seconds: How long.
        written: Whether they are stored, or thrown away.
    """
    make = type("Sending", (Ready,), {"rows": rows})
    with (
        reception(False) as (found, settings),
        workers(settings, 50, make=make),
        tempfile.TemporaryDirectory() as there,
    ):
        options = {"path": Path(there) / "data"} if written else {}
        with SampleStream(
            ENV, launcher=found, timeout=60.0, env_kwargs={"size": size}, actions="uniform", **options
        ) as s:
            taken, end = 0, time.perf_counter() + 1.0  # by which all are there
            while (begun := time.perf_counter()) < end:
                s.take(1000)
            cpu = time.process_time()
            while (now := time.perf_counter()) < begun + seconds:
                taken += len(s.take(1000))
            spent = 1e6 * (time.process_time() - cpu) / taken
    print(
        f"{8 * size} bytes, {rows:2} samples a message, {'written' if written else 'taken'}: "
        f"{taken / (now - begun):.0f} a second, of the run's own time {spent:.1f} us each",
        flush=True,
    )
    return spent


def model(seconds: float) -> None:
    """Fit what a sample, a message and a byte cost, and say how many simulators that feeds on."""
    one, many = (generating(4, rows, seconds, written=True) for rows in (1, STEPS))
    message = (one - many) * STEPS / (STEPS - 1)
    sample = one - message
    found = generating(4, 5, seconds, written=True)
    print(
        f"a sample takes {sample:.1f} us, a message {message:.1f}: 5 samples a message should take "
        f"{sample + message / 5:.1f} us each, and take {found:.1f}"
    )
    large = generating(1024, STEPS, seconds, written=True)
    print(f"a KiB takes {(large - many) / 8:.2f} us")
    for step in (1e-3, 1e-2, 1.0):
        cost = sample + message / max(1, PART_SECONDS / step)
        print(f"simulators of {1e3 * step:g} ms: one run feeds on {1e6 * step / cost:.0f}, at {cost:.1f} us a sample")


def turnover(episodes: int) -> None:
    """Take so many episodes while workers join and leave, and say what grows."""
    warnings.simplefilter("ignore", RuntimeWarning)
    with (
        reception(False) as (found, settings),
        workers(settings, 20, turnover=20.0),
        SampleStream(ENV, launcher=found, timeout=60.0, actions="uniform") as stream,
    ):
        for part in range(4):
            begun = time.perf_counter()
            while stream.position is None or stream.position[0] < (part + 1) * episodes // 4:
                stream.take(10_000)
            print(
                f"{stream.position[0]} episodes, {time.perf_counter() - begun:.1f} s: {resident() / 1024:.1f} MiB, "
                f"{len([*Path('/proc/self/fd').iterdir()])} descriptors, {stream._envs.num_workers} workers of "
                f"{stream._envs._turnover._next} that have come",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "stepping", "generating", "turnover"), default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a round")
    parser.add_argument("--episodes", type=int, default=10_000, help="of --part turnover")
    arguments = parser.parse_args()
    if arguments.part in ("all", "stepping"):
        for plain in (True, False):
            stepping(plain, arguments.rounds, arguments.seconds)
    if arguments.part in ("all", "generating"):
        model(2 * arguments.seconds)
    if arguments.part in ("all", "turnover"):
        turnover(arguments.episodes)


if __name__ == "__main__":
    main()
