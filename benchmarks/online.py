"""Online training against offline: a network learns the heat of a plate from simulations that run meanwhile.

The set-up of Melissa (Meyer et al., ICML and SC 2023), smaller: a plate of 24 x 24 points with a random initial
temperature and random temperatures of its four edges, all in 100 to 500 K; a fully connected network maps these five
numbers and a time to the temperatures of the plate. A simulation gives the temperatures at 100 times. Two workers
simulate: online while the network is trained, and the buffer decides what it sees; offline before, into a dataset.

Equal steps: every training makes as many gradient steps with batches of the same size.
Equal time: every training has as many seconds, offline ones those that their simulations took included.
Slow: a step of the simulation takes --pause seconds more, for which it needs no core, as where simulations are dear or
run elsewhere; so it is for equal time, too.

Errors are mean squared errors over other simulations, in units of (400 K)^2, with the weights of the last step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # one core trains, the other one simulates; before numpy is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gymnasium import spaces  # noqa: E402
from scipy.fft import dstn, idstn  # noqa: E402

from physgym import SampleDataset, Simulation, generate  # noqa: E402
from physgym.generation.online import Online  # noqa: E402
from physgym.generation.stream import SampleStream  # noqa: E402
from physgym.nn import MLP, Optimization  # noqa: E402
from physgym.training import Callback, Trainer  # noqa: E402

SIZE, STEPS = 24, 100
COLDEST, HOTTEST = 100.0, 500.0  # K
RULES = ("fifo", "firo", "reservoir")
Row = tuple[str, dict[str, float]]


class Plate(Simulation):
    """Heat conduction in a plate with edges of fixed temperatures; finite differences in space, exact in time.

    Args:
        diffusivity: In plate sides squared per unit of time, of which a simulation has one.
        pause: Seconds that a step takes longer.
    """

    action_space = spaces.Box(0, 1, (1,), np.float32)  # means nothing
    observation_space = spaces.Box(0, 1, (SIZE, SIZE), np.float32)
    sample_space = spaces.Dict(
        [
            ("conditions", spaces.Box(0, 1, (5,), np.float32)),
            ("time", spaces.Box(0, 1, (1,), np.float32)),
            ("temperature", observation_space),
        ]
    )
    sample_roles = {"conditions": "input", "time": "input", "temperature": "target"}  # noqa: RUF012
    parameter_space = spaces.Dict({"conditions": spaces.Box(COLDEST, HOTTEST, (5,), np.float64)})

    def __init__(self, *, diffusivity: float = 0.05, pause: float = 0.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.pause = pause
        axis = np.arange(1, SIZE + 1)
        rate = 2 * (SIZE + 1) ** 2 * (1 - np.cos(np.pi * axis / (SIZE + 1)))
        self._rates = rate[:, None] + rate
        self._decay = np.exp(-diffusivity * self._rates / STEPS)

    def begin(self, options) -> None:
        initial, *edges = self.parameters["conditions"]
        source = np.zeros((SIZE, SIZE))  # what the edges contribute to the Laplacian of their neighbours
        for edge, where in zip(edges, ([0], [-1], (slice(None), [0]), (slice(None), [-1])), strict=True):
            source[where] += edge * (SIZE + 1) ** 2
        self._steady = idstn(dstn(source, type=1) / self._rates, type=1)
        self._modes = dstn(initial - self._steady, type=1)
        self._plate, self._count = np.full((SIZE, SIZE), initial), 0

    def advance(self, action) -> None:
        if self.pause:
            time.sleep(self.pause)
        self._modes *= self._decay
        self._plate = self._steady + idstn(self._modes, type=1)
        self._count += 1

    def observation(self) -> np.ndarray:
        return scaled(self._plate).astype(np.float32)

    def sample(self) -> dict[str, np.ndarray]:
        conditions, plate = scaled(self.parameters["conditions"]), scaled(self._plate)
        return {"conditions": conditions, "time": np.array([self._count / STEPS]), "temperature": plate}

    def outcome(self) -> tuple[float, bool]:
        return 0.0, self._count == STEPS


def scaled(temperature: np.ndarray) -> np.ndarray:
    """Return temperatures scaled from 0 for the coldest to 1 for the hottest."""
    return (temperature - COLDEST) / (HOTTEST - COLDEST)


class Deadline(Callback):
    """Ends a training after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, 0.0

    def train_begin(self, pipeline) -> None:
        self._end = time.monotonic() + self.seconds

    def batch_end(self, pipeline, values) -> None:
        if time.monotonic() > self._end:
            pipeline.stop("the time is over")


def trained(settings: argparse.Namespace, seed: int, seconds: float | None, **options) -> tuple[Trainer, float]:
    """Return a network after so many seconds, or after the steps of the settings, and the seconds that it took."""
    torch.manual_seed(seed)
    network = MLP([(5,), (1,)], [(SIZE, SIZE)], hidden=[256, 256])
    run = Trainer(
        network,
        batch_size=settings.batch,
        validation=None,
        normalize=False,  # the samples are
        optimization=Optimization(network, lr=1e-3),
        callbacks=[] if seconds is None else [Deadline(seconds)],
        seed=seed,
        progress=False,
        **options,
    )
    start = time.perf_counter()
    run.fit()
    return run, time.perf_counter() - start


def figures(run: Trainer, test: SampleDataset, seconds: float, simulations: float) -> dict[str, float]:
    samples = test[:]
    predicted = run.predictor.predict(samples, batched=True)["temperature"]
    error = float(np.mean((predicted - samples["temperature"]) ** 2))
    return {"error": error, "steps": run.step, "seconds": seconds, "simulations": simulations}


def measure(settings: argparse.Namespace, folder: Path, seed: int, seconds: float | None) -> Iterator[Row]:
    slow = {"pause": settings.pause}
    shared = {"seed": 1000 * seed, "num_workers": 2, "env_kwargs": {} if seconds is None else slow}
    test = generate(Plate, folder / "test", samples=settings.test * STEPS, seed=77, num_workers=2, progress=False)
    for name in (*RULES, "reservoir, slow") if seconds is None else RULES:
        rule, _, pausing = name.partition(", ")
        start = time.perf_counter()
        stream = SampleStream(Plate, num_envs=2, **{**shared, **({"env_kwargs": slow} if pausing else {})})
        source = Online(stream, capacity=settings.capacity, minimum=settings.minimum, rule=rule, seed=seed)
        made = time.perf_counter() - start  # the workers have started
        rest = None if seconds is None else seconds - made
        # one epoch: nothing happens at its end
        steps = settings.steps if seconds is None else 10**7
        run, took = trained(settings, seed, rest, source=source, produce="always", epochs=1, batches_per_epoch=steps)
        report = source.report()
        told = {"waiting %": 100 * report.waiting, "paused s": report.paused, "most": report.most}
        yield name, {**figures(run, test, made + took, report.received / STEPS), **told, "repeats": report.repeats}
    for simulations in settings.offline:
        start, samples = time.perf_counter(), simulations * STEPS
        dataset = generate(Plate, folder / str(simulations), samples=samples, progress=False, **shared)
        made = time.perf_counter() - start
        if seconds is not None and made >= seconds:
            return
        epochs = 10**6 if seconds is not None else max(1, round(settings.steps * settings.batch / samples))
        rest = None if seconds is None else seconds - made
        run, took = trained(settings, seed, rest, dataset=dataset, epochs=epochs)
        repeats = run.step * settings.batch / samples
        yield f"offline, {simulations}", {**figures(run, test, made + took, simulations), "repeats": repeats}


def show(title: str, found: dict[str, list[dict[str, float]]]) -> None:
    columns = ("error", "steps", "seconds", "simulations", "waiting %", "paused s", "repeats", "most")
    print(f"\n{title}\n{'':18}" + "".join(f"{column:>12}" for column in columns))
    for name, rows in found.items():
        means = [f"{statistics.mean(row[c] for row in rows):12.4g}" if c in rows[0] else " " * 12 for c in columns]
        print(f"{name:18}" + "".join(means))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="gradient steps, for equal steps")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each training, for equal time")
    parser.add_argument("--pause", type=float, default=1e-3, help="seconds that a slow step takes longer")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--capacity", type=int, default=6000)
    parser.add_argument("--minimum", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--test", type=int, default=50, help="simulations to test with")
    parser.add_argument(
        "--offline", type=int, nargs="*", default=(40, 160, 640), help="simulations of offline trainings"
    )
    parser.add_argument("--only", choices=("steps", "time"), help="one of the two comparisons")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    settings = parser.parse_args()
    if settings.quick:
        settings.steps, settings.seconds, settings.seeds, settings.test, settings.offline = 40, 4.0, 1, 2, (5,)
        settings.capacity, settings.minimum = 600, 100
    torch.set_num_threads(1)
    for what, seconds in (("steps", None), ("time", settings.seconds)):
        if settings.only not in (None, what):
            continue
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(settings.seeds):
            with tempfile.TemporaryDirectory() as folder:
                for name, row in measure(settings, Path(folder), seed, seconds):
                    found.setdefault(name, []).append(row)
                    print(f"seed {seed}: {name}: error {row['error']:.3g}, {row['seconds']:.1f} s", flush=True)
        show(f"equal {what}, mean of {settings.seeds} seeds", found)


if __name__ == "__main__":
    main()
