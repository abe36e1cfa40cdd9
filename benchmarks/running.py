"""What a run costs beside its network: the time per step over that of a bare ``network(obs)``, in microseconds.

The simulation does nothing, and the network is a small MLP in one thread. Times are those of the processor, since
nothing waits. Cases are measured in rounds, in random order, so that they meet the same machine; differences and ratios
are those of one round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from physgym import SampleDataset
from physgym.nn import MLP, Predictor
from physgym.runner import Runner, SurrogateEnv, SurrogateVectorEnv
from physgym.sample import SampleSpec

SIZE = 8
ENVS = 64


class Nothing(gym.Env):
    """Returns the same arrays at every step."""

    action_space = spaces.Box(-1, 1, (SIZE,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (SIZE,), np.float32)
    sample_space = spaces.Dict({"x": action_space, "y": observation_space})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012 - as a simulation declares them
    state = np.zeros(SIZE, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.state, {}

    def step(self, action):
        return self.state, 0.0, False, False, {"sample": {"x": self.state, "y": self.state}}

    def observation(self):
        return self.state

    def inputs(self, action):
        return {"x": action}

    def adopt(self, action, prediction):
        self.state = prediction["y"]


def quiet(observation, rng):
    return Nothing.state


def cases(folder: Path, predictor: Predictor, stack: ExitStack) -> dict[str, Callable[[int], None]]:
    """Return what is measured, each a function that makes so many steps."""
    network, batch = predictor.network, torch.zeros(1, SIZE)
    sample = {"x": Nothing.state}

    def bare(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                network(batch)

    def predict(steps: int) -> None:
        for _ in range(steps):
            predictor.predict(sample)

    def running(**options) -> Callable[[int], None]:
        runner = stack.enter_context(Runner(Nothing, predictor, actions=quiet, **options))
        return lambda steps: runner.run(steps, progress=False)

    recorded = folder / "recorded"
    with Runner(Nothing, predictor, record=recorded) as runner:
        runner.run(4096, progress=False)
    stored = SampleDataset(recorded, "prediction")
    replayer = stack.enter_context(Runner(None, predictor))
    batches = stack.enter_context(Runner(None, predictor, batch_size=64))

    def replay(runner: Runner) -> Callable[[int], None]:
        return lambda steps: runner.run(steps, replay=stored, progress=False)

    surrogate = stack.enter_context(SurrogateEnv(Nothing, predictor))
    surrogate.reset(seed=0)
    vector = SurrogateVectorEnv(Nothing, predictor, ENVS)
    stack.callback(vector.close)
    vector.reset(seed=0)
    actions = np.zeros((ENVS, SIZE), np.float32)

    def surrogate_steps(steps: int) -> None:
        for _ in range(steps):
            surrogate.step(Nothing.state)

    def vector_steps(steps: int) -> None:
        for _ in range(steps // ENVS):
            vector.step(actions)

    return {
        "network(obs)": bare,
        "predictor.predict": predict,
        "Runner, no record": running(),
        "Runner, with record": running(record=folder / "running"),
        "Runner, nothing compared": running(compare=False),
        "replay": replay(replayer),
        "replay, batches of 64": replay(batches),
        "SurrogateEnv": surrogate_steps,
        f"SurrogateVectorEnv of {ENVS}, per environment": vector_steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2048, help="per case and round, at most 4096")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = SampleSpec.from_env(Nothing())
    predictor = Predictor(MLP.from_spec(spec, hidden=(64, 64)), spec).eval()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        chosen = cases(Path(folder), predictor, stack)
        for run in chosen.values():
            run(256)
        times: dict[str, list[float]] = {name: [] for name in chosen}
        order = list(chosen)
        for _ in range(arguments.rounds):
            random.shuffle(order)
            for name in order:
                start = time.process_time()
                chosen[name](arguments.steps)
                times[name].append((time.process_time() - start) / arguments.steps * 1e6)
    bare = times["network(obs)"]
    print(f"{'us per step':<42}{'median':>8}{'least':>8}{'over bare':>11}{'ratio':>7}")
    for name, found in times.items():
        over = statistics.median(one - other for one, other in zip(found, bare, strict=True))
        ratio = statistics.median(one / other for one, other in zip(found, bare, strict=True))
        print(f"{name:<42}{statistics.median(found):>8.1f}{min(found):>8.1f}{over:>11.1f}{ratio:>7.2f}")


if __name__ == "__main__":
    main()
