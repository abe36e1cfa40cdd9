"""Measure the rows of `compare.py` with the physgym of one environment.

`compare.py` starts this file with the Python of each environment. It names a row; then it asks for one round at a
time, and gets a number per second for each. Requests and answers are lines of JSON. Only public names of physgym stand
here, and where they have moved, also the module of before: an old commit must run this file too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # as in the workers; before numpy is imported

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402
from workloads import Idle, Pixels  # noqa: E402

Step = Callable[[], int]  # does some of the work and returns how much
Row = Callable[[Path], contextlib.AbstractContextManager[Step]]

WORKERS = 2
PATIENCE = 60.0  # seconds, for a wait
EPISODE = 32  # samples
POOL = 64  # batches of samples that are written again and again


def found(name: str, *modules: str) -> Any:
    """Return an object by its name from the first of some modules that has it."""
    for module in modules:
        with contextlib.suppress(ImportError):
            if hasattr(importlib.import_module(module), name):
                return getattr(importlib.import_module(module), name)
    raise ImportError(f"none of {', '.join(modules)} has {name}")


# --- stepping


@contextlib.contextmanager
def stepping(folder: Path, make: Callable[[], gym.Env[Any, Any]], num_envs: int, **options: Any) -> Iterator[Step]:
    """Count steps of environments in lockstep."""
    from physgym import SocketVectorEnv

    with contextlib.closing(SocketVectorEnv([make] * num_envs, **options)) as envs:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        actions = itertools.cycle([envs.action_space.sample() for _ in range(16)])

        def step() -> int:
            envs.step(next(actions))
            return num_envs

        yield step


@contextlib.contextmanager
def sending(folder: Path, make: Callable[[], gym.Env[Any, Any]], num_envs: int) -> Iterator[Step]:
    """Count steps of environments of which a quarter is asked again as soon as it is ready."""
    from physgym import SocketVectorEnv

    with contextlib.closing(SocketVectorEnv([make] * num_envs, num_workers=WORKERS)) as envs:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        actions = itertools.cycle([envs.action_space.sample() for _ in range(16)])
        envs.send(next(actions), np.arange(num_envs))

        def step() -> int:
            ready = envs.recv(min_envs=num_envs // 4, timeout=PATIENCE)[-1]
            envs.send(next(actions)[ready], ready)
            return len(ready)

        yield step
        envs.recv(min_envs=num_envs, timeout=PATIENCE)


# --- generation


def cart_pole() -> gym.Env[Any, Any]:
    """Return CartPole whose transitions are samples."""
    from physgym import RecordTransition

    return RecordTransition(gym.make("CartPole-v1"))


@contextlib.contextmanager
def generating(folder: Path, env: Any, portion: int) -> Iterator[Step]:
    """Count samples that two workers generate into a dataset."""
    stream_class = found("SampleStream", "physgym.data", "physgym.generation.stream", "physgym.data.generate")
    with stream_class(env, path=folder / "data", num_workers=WORKERS) as stream:
        stream.take(portion)  # the start of the processes is not what is measured
        counts = [stream.writer.count]

        def step() -> int:
            stream.take(portion)
            counts.append(stream.writer.count)
            return int(counts[-1] - counts[-2])

        yield step


# --- writing and reading


def spec_of(**shapes: tuple[int, ...]) -> Any:
    """Return a sample of float32 fields, the first one an input and the others targets."""
    from physgym.sample import Field, SampleSpec

    roles = itertools.chain(["input"], itertools.repeat("target"))
    fields = [Field(name, shape, np.dtype("f4"), role) for (name, shape), role in zip(shapes.items(), roles)]  # noqa: B905
    return SampleSpec(fields)


SMALL, LARGE = {"x": (10,), "y": (10,)}, {"x": (5_000, 3), "y": (5_000, 3)}


def batches_of(shapes: dict[str, tuple[int, ...]], rows: int, count: int) -> list[dict[str, Any]]:
    """Return so many batches of random samples."""
    rng = np.random.default_rng(0)
    return [{n: rng.standard_normal((rows, *shape)).astype("f4") for n, shape in shapes.items()} for _ in range(count)]


def fill(folder: Path, shapes: dict[str, tuple[int, ...]], count: int) -> Any:
    """Return a dataset of so many samples."""
    from physgym import SampleDataset

    rows = min(count, 1024)
    writer_class = found("SampleWriter", "physgym.data", "physgym.data.writer")
    with writer_class(folder, spec_of(**shapes)) as writer:
        for start in range(0, count, rows):
            i = np.arange(start, start + rows)
            writer.append(batches_of(shapes, rows, 1)[0], episode=i // EPISODE, step=i % EPISODE, seed=i // EPISODE)
    return SampleDataset(folder)


@contextlib.contextmanager
def appending(folder: Path, shapes: dict[str, tuple[int, ...]], rows: int, most: int) -> Iterator[Step]:
    """Count samples that are appended; begin a new dataset where one has so many."""
    writer_class = found("SampleWriter", "physgym.data", "physgym.data.writer")
    batches = itertools.cycle(batches_of(shapes, rows, POOL if rows < POOL else 4))
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def begin() -> Any:
            stack.close()
            return stack.enter_context(writer_class(folder / str(next(numbers)), spec_of(**shapes)))

        state = {"writer": begin(), "row": 0}

        def step() -> int:
            if state["row"] >= most:
                state.update(writer=begin(), row=0)
            for _ in range(max(1, 64 // rows)):
                i = np.arange(state["row"], state["row"] + rows)
                state["writer"].append(next(batches), episode=i // EPISODE, step=i % EPISODE, seed=i // EPISODE)
                state["row"] += rows
            return max(1, 64 // rows) * rows

        yield step


@contextlib.contextmanager
def loading(folder: Path, shapes: dict[str, tuple[int, ...]], count: int, batch: int) -> Iterator[Step]:
    """Count samples that come in shuffled batches."""
    from physgym import Loader

    loader = Loader(fill(folder / "data", shapes, count), batch_size=batch, shuffle=True)

    def step() -> int:
        return sum(len(values["x"]) for values in loader)

    yield step


# --- training


@contextlib.contextmanager
def training(folder: Path, shapes: dict[str, tuple[int, ...]], batch: int, batches: int, hidden: int) -> Iterator[Step]:
    """Count samples that a Trainer of a small network takes, from disk."""
    import torch

    from physgym.nn import MLP
    from physgym.training import Trainer

    torch.set_num_threads(1)
    dataset = fill(folder / "data", shapes, batch * batches)
    quiet = {"validation": None, "progress": False, "batch_size": batch, "device": "cpu"}

    def step() -> int:
        torch.manual_seed(0)
        network = MLP(shapes["x"], shapes["y"], hidden=(hidden, hidden))
        Trainer(network, dataset, epochs=1, **quiet).fit()
        return batch * batches

    yield step


ROWS: dict[str, Row] = {
    "step: no-op, 64 envs, 2 workers": functools.partial(stepping, make=Idle, num_envs=64, num_workers=WORKERS),
    "step: no-op, 8 envs, 2 workers": functools.partial(stepping, make=Idle, num_envs=8, num_workers=WORKERS),
    "step: no-op, 8 envs, this process": functools.partial(stepping, make=Idle, num_envs=8, num_workers=0),
    "step: CartPole, 8 envs, 2 workers": functools.partial(
        stepping, make=functools.partial(gym.make, "CartPole-v1"), num_envs=8, num_workers=WORKERS
    ),
    "step: (84,84,4), 64 envs, 2 workers": functools.partial(stepping, make=Pixels, num_envs=64, num_workers=WORKERS),
    "send and recv: no-op, 64 envs, 2 workers": functools.partial(sending, make=Idle, num_envs=64),
    "generate: CartPole, 2 workers": functools.partial(generating, env=cart_pole, portion=4096),
    "generate: Spring, 2 workers": functools.partial(generating, env="physgym/Spring-v0", portion=4096),
    "generate: Beam, 2 workers": functools.partial(generating, env="physgym/Beam-v0", portion=64),
    "append: 80 bytes, one": functools.partial(appending, shapes=SMALL, rows=1, most=100_000),
    "append: 80 bytes, 32 at once": functools.partial(appending, shapes=SMALL, rows=32, most=400_000),
    "append: 120 kB, 32 at once": functools.partial(appending, shapes=LARGE, rows=32, most=2_048),
    "Loader: 80 bytes, batch 256": functools.partial(loading, shapes=SMALL, count=1 << 17, batch=256),
    "Loader: 120 kB, batch 32": functools.partial(loading, shapes=LARGE, count=2_048, batch=32),
    "train: MLP of 32, batch 256": functools.partial(training, shapes=SMALL, batch=256, batches=256, hidden=32),
    "train: MLP of 256, batch 64": functools.partial(
        training, shapes={"x": (208, 3), "y": (208, 3)}, batch=64, batches=64, hidden=256
    ),
}


def measured(step: Step, seconds: float) -> float:
    """Return what calls return, added up, per second."""
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        count += step()
    return count / (now - start)


def main() -> None:
    """Answer requests until there is none: a row, then so many seconds for each round of it."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    import physgym

    print(json.dumps({"physgym": str(Path(physgym.__file__).parent), "python": sys.version.split()[0]}), file=answers)
    name = json.loads(sys.stdin.readline())["row"]
    with tempfile.TemporaryDirectory(dir=os.environ.get("COMPARE_FOLDER")) as folder, ROWS[name](Path(folder)) as step:
        step()
        measured(step, 0.2)
        print(json.dumps({"ready": name}), file=answers)
        for line in sys.stdin:
            print(json.dumps({"rate": measured(step, json.loads(line)["seconds"])}), file=answers)


if __name__ == "__main__":
    main()
