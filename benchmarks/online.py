"""Online training against offline: a network learns the heat of a plate from simulations that run meanwhile.

The set-up of Melissa (Meyer et al., ICML and SC 2023), smaller: a plate of 24 x 24 points with a random initial
temperature and random temperatures of its four edges, all in 100 to 500 K; a fully connected network maps these five
numbers and a time to the temperatures of the plate. A simulation gives the temperatures at 100 times. Two workers
simulate: online while the network is trained, and the buffer decides what it sees; offline before, into a dataset.

Equal steps: every training makes as many gradient steps with batches of the same size.
Equal time: every training has as many seconds, offline ones those that their simulations took included.
Slow: a step of the simulation takes --pause seconds more, for which it needs no core, as where simulations are dear or
run elsewhere; so it is for equal time, too.

Errors are mean squared errors over other simulations, in units of (400 K)^2, with the weights of the last step. They
are stored as soon as they are measured, with a record of what made them; `benchmarks/science_page.py` makes the tables
of docs/howto/online.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # one core trains, the other one simulates; before numpy is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gymnasium import spaces  # noqa: E402
from scipy.fft import dstn, idstn  # noqa: E402
from yardsticks.results import FOLDER, Results  # noqa: E402

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


def compared(settings: argparse.Namespace, seconds: float | None) -> dict[str, Callable[..., dict[str, float]]]:
    """Return what is compared, at equal steps or at so many seconds: by name, functions that train and measure."""
    names = [*RULES, "reservoir, slow"] if seconds is None else [*RULES]
    online_ones = {name: partial(online, name, settings, seconds=seconds) for name in names}
    offline_ones = {
        f"offline, {count}": partial(offline, count, settings, seconds=seconds) for count in settings.offline
    }
    return {**online_ones, **offline_ones}


def simulators(settings: argparse.Namespace, seed: int, slow: bool) -> dict[str, object]:
    """Return the options of the simulations that are trained on."""
    return {"seed": 1000 * seed, "num_workers": 2, "env_kwargs": {"pause": settings.pause} if slow else {}}


def online(
    name: str, settings: argparse.Namespace, test: SampleDataset, folder: Path, seed: int, *, seconds: float | None
) -> dict[str, float]:
    """Train while the simulations run, and return the figures."""
    rule, _, pausing = name.partition(", ")
    start = time.perf_counter()
    options = simulators(settings, seed, slow=bool(pausing) or seconds is not None)
    stream = SampleStream(Plate, num_envs=2, **options)
    source = Online(stream, capacity=settings.capacity, minimum=settings.minimum, rule=rule, seed=seed)
    made = time.perf_counter() - start  # the workers have started
    rest = None if seconds is None else seconds - made
    # one epoch: nothing happens at its end
    steps = settings.steps if seconds is None else 10**7
    run, took = trained(settings, seed, rest, source=source, produce="always", epochs=1, batches_per_epoch=steps)
    report = source.report()
    said = {"waiting %": 100 * report.waiting, "paused s": report.paused, "most": float(report.most)}
    return {**figures(run, test, made + took, report.received / STEPS), **said, "repeats": report.repeats}


def offline(
    simulations: int,
    settings: argparse.Namespace,
    test: SampleDataset,
    folder: Path,
    seed: int,
    *,
    seconds: float | None,
) -> dict[str, float]:
    """Simulate, then train, and return the figures; none where the simulations alone take the time."""
    start, samples = time.perf_counter(), simulations * STEPS
    options = simulators(settings, seed, slow=seconds is not None)
    dataset = generate(Plate, folder / str(simulations), samples=samples, progress=False, **options)
    made = time.perf_counter() - start
    if seconds is not None and made >= seconds:
        return {}
    epochs = 10**6 if seconds is not None else max(1, round(settings.steps * settings.batch / samples))
    rest = None if seconds is None else seconds - made
    run, took = trained(settings, seed, rest, dataset=dataset, epochs=epochs)
    repeats = run.step * settings.batch / samples
    return {**figures(run, test, made + took, simulations), "repeats": repeats}


def measured(
    settings: argparse.Namespace, folder: Path, seed: int, chosen: dict[str, Callable[..., dict[str, float]]]
) -> Iterator[Row]:
    """Yield the name and the figures of each training of a seed."""
    test = generate(Plate, folder / "test", samples=settings.test * STEPS, seed=77, num_workers=2, progress=False)
    for name, train in chosen.items():
        row = train(test, folder, seed)
        if not row:
            return  # the simulations took all the time, as the more numerous ones after it would
        yield name, row


def show(title: str, found: dict[str, list[dict[str, float]]]) -> None:
    columns = ("error", "steps", "seconds", "simulations", "waiting %", "paused s", "repeats", "most")
    print(f"\n{title}\n{'':18}" + "".join(f"{column:>12}" for column in columns))
    for name, rows in found.items():
        means = [f"{statistics.mean(row[c] for row in rows):12.4g}" if c in rows[0] else " " * 12 for c in columns]
        print(f"{name:18}" + "".join(means))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="gradient steps, for equal steps")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each training, for equal time")
    parser.add_argument("--pause", type=float, default=1e-3, help="seconds that a slow step takes longer")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--capacity", type=int, default=6000)
    parser.add_argument("--minimum", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, order and simulations")
    parser.add_argument("--test", type=int, default=50, help="simulations to test with")
    parser.add_argument(
        "--offline", type=int, nargs="*", default=(40, 160, 640), help="simulations of offline trainings"
    )
    parser.add_argument("--only", choices=("steps", "time"), help="one of the two comparisons")
    parser.add_argument("--trainings", nargs="+", default=[], help='only these, as "fifo" and "offline, 40"')
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument(
        "--results", type=Path, default=FOLDER, help="folder of the figures; benchmarks/science_results"
    )
    settings = parser.parse_args()
    if settings.quick:
        settings.steps, settings.seconds, settings.seeds, settings.test, settings.offline = 40, 4.0, [0], 2, (5,)
        settings.capacity, settings.minimum = 600, 100
    torch.set_num_threads(1)
    comparisons = {}
    for what, seconds in (("steps", None), ("time", settings.seconds)):
        if settings.only in (None, what):
            known = compared(settings, seconds)
            if missing := [name for name in settings.trainings if name not in known]:
                parser.error(f"equal {what} has no training {missing[0]!r}; it has {', '.join(map(repr, known))}")
            names = [name for name in known if name in (settings.trainings or known)]
            comparisons[f"equal {what}"] = {name: known[name] for name in names}
    for case, chosen in comparisons.items():
        results = Results(settings.results, "online", "quick" if settings.quick else "small")
        results.begin(command(settings, case, parser.parse_args([])))
        compare(settings, case, chosen, results)


def compare(
    settings: argparse.Namespace, case: str, chosen: dict[str, Callable[..., dict[str, float]]], results: Results
) -> None:
    """Measure, store and print the trainings of a comparison."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in settings.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for name, row in measured(settings, Path(folder), seed, chosen):
                results.put({"case": case, "network": name, "seed": seed, "test_simulations": settings.test, **row})
                found.setdefault(name, []).append(row)
                print(f"seed {seed}: {name}: error {row['error']:.3g}, {row['seconds']:.1f} s", flush=True)
    show(f"{case}, mean of {len(settings.seeds)} seeds", found)


def command(settings: argparse.Namespace, case: str, usual: argparse.Namespace) -> str:
    """Return the command that measures the same again."""
    words = ["python benchmarks/online.py --only", case.removeprefix("equal ")]
    words += ["--seeds", *map(str, settings.seeds)]
    if settings.trainings:
        words += ["--trainings", *(f'"{name}"' if " " in name else name for name in settings.trainings)]
    if settings.quick:
        return " ".join([*words, "--quick"])
    for option in ("steps", "seconds", "pause", "batch", "capacity", "minimum", "test"):
        if (given := getattr(settings, option)) != getattr(usual, option):
            words += [f"--{option}", f"{given:g}"]
    if tuple(settings.offline) != usual.offline:
        words += ["--offline", *map(str, settings.offline)]
    return " ".join(words)


if __name__ == "__main__":
    main()
