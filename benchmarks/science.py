"""Yardsticks of the science: errors of trained networks on problems whose figures are published, and what they cost.

burgers: the set-up of the Fourier neural operator (Li et al. 2020, arXiv:2010.08895, section 5.1; published relative
L2 error 0.0139): 1,000 training and 200 test samples of physgym/Burgers-v0 at 256 points; also at a tenth of its
viscosity, which leaves steep fronts. Baselines: the mean of the initial field, and the best linear map.
beam: physgym/BeamFull-v0, 20,000 training and 500 test samples. Baselines: rest, and the best linear map.

Errors are means over the test samples of the relative L2 error, with the weights of the last epoch. The linear map's
ridge is chosen by looking at the test samples, in its favour.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from physgym import SampleDataset, generate
from physgym.nn import FNO, MLP, Optimization, RelativeL2, Transforms, UNet
from physgym.running.prediction_errors import compare
from physgym.training import Trainer

BURGERS_FNO = partial(FNO.from_spec, modes=16, width=64, coordinates=False)
# the coarsest of its grids has four points, so that each point sees the whole circle
BURGERS_UNET = partial(
    UNet.from_spec,
    depth=6,
    width=(32, 32, 48, 64, 64, 96, 96),
    boundary="circular",
    norm="none",
    activation="gelu",
)
BEAM_MLP = partial(MLP.from_spec, hidden=(512,) * 3, residual=True)
BEAM_UNET = partial(UNet.from_spec, nodes=(25, 5, 5), depth=2, width=24, boundary="replicate", norm="none")

RIDGES = (1e-6, 1e-4, 1e-2, 1.0)  # relative to the mean diagonal


@dataclass(frozen=True)
class Settings:
    """What all parts share: where datasets are kept, whether all is tiny, the seed of everything, what networks."""

    folder: Path
    quick: bool
    seed: int
    networks: frozenset[str]

    def wants(self, network: str) -> bool:
        return not self.networks or network in self.networks


Row = dict[str, Any]
Rows = Iterable[Row]


def burgers(settings: Settings) -> Rows:
    n_train, n_test, epochs = (40, 10, 2) if settings.quick else (1000, 200, 60)
    size = 32 if settings.quick else 256
    for viscosity in (0.1, 0.01):
        case = f"burgers, viscosity {viscosity:g}"
        arguments = {"size": size, "viscosity": viscosity}
        train, test = samples("physgym/Burgers-v0", n_train, n_test, settings, **arguments)
        x, y = test[:]["initial"], test[:]["final"]
        yield row(case, "mean of the initial field", np.broadcast_to(x.mean(1, keepdims=True), y.shape), y)
        yield row(case, "linear", linear_map(train, test, "initial", "final"), y)
        networks: dict[str, tuple[float, Callable[..., nn.Module]]] = {
            "FNO": (3e-3, partial(FNO.from_spec, modes=4, width=8) if settings.quick else BURGERS_FNO),
            "UNet": (2e-3, partial(UNet.from_spec, depth=3, width=4) if settings.quick else BURGERS_UNET),
        }
        for name, (lr, make) in networks.items():
            if settings.wants(name):
                yield trained(case, name, make, train, test, "final", epochs, 20, lr, settings)


def beam(settings: Settings) -> Rows:
    n_train, n_test = (40, 10) if settings.quick else (20_000, 500)
    env_id = "physgym/Beam-v0" if settings.quick else "physgym/BeamFull-v0"
    nodes = (13, 4, 4) if settings.quick else (25, 5, 5)
    train, test = samples(env_id, n_train, n_test, settings)
    y = test[:]["displacement"]
    yield row("beam", "rest", np.zeros_like(y), y)
    yield row("beam", "linear", linear_map(train, test, "forces", "displacement"), y)
    networks: dict[str, tuple[int, Callable[..., nn.Module]]] = {
        "MLP": (60, partial(MLP.from_spec, hidden=(16,)) if settings.quick else BEAM_MLP),
        "UNet": (10, partial(UNet.from_spec, nodes=nodes, depth=1, width=4) if settings.quick else BEAM_UNET),
    }
    for name, (epochs, make) in networks.items():
        if settings.wants(name):
            epochs = 1 if settings.quick else epochs
            yield trained("beam", name, make, train, test, "displacement", epochs, 64, 1e-3, settings)


PARTS: dict[str, Callable[[Settings], Rows]] = {"burgers": burgers, "beam": beam}


def samples(
    env_id: str, n_train: int, n_test: int, settings: Settings, **arguments: Any
) -> tuple[SampleDataset, SampleDataset]:
    """Training and test samples of a simulation; those that an earlier run has left in the folder are taken."""
    found = []
    name = "-".join([env_id.split("/")[1], *(f"{key}{value}" for key, value in arguments.items())])
    for what, count, seed in (("train", n_train, settings.seed), ("test", n_test, settings.seed + 1)):
        folder = settings.folder / f"{name}-{what}-{count}-{seed}"
        found.append(
            generate(
                env_id,
                folder,
                samples=count,
                num_workers=0 if settings.quick else 2,
                seed=seed,
                env_kwargs=arguments,
                resume=folder.exists(),
            )
        )
    return found[0], found[1]


def linear_map(train: SampleDataset, test: SampleDataset, input_: str, target: str) -> np.ndarray:
    """Return the predictions of the best ridge regression."""
    x, y = (train[:][name].reshape(len(train), -1).astype(np.float64) for name in (input_, target))
    given, wanted = (test[:][name].reshape(len(test), -1) for name in (input_, target))
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram, cross = (x - mean_x).T @ (x - mean_x), (x - mean_x).T @ (y - mean_y)
    unit = np.trace(gram) / len(gram) * np.eye(len(gram))
    maps = (np.linalg.solve(gram + ridge * unit, cross) for ridge in RIDGES)
    predictions = [(given - mean_x) @ weights + mean_y for weights in maps]
    best = min(predictions, key=lambda prediction: compare(prediction, wanted).relative_l2.mean())
    return best.reshape(test[:][target].shape)


def trained(
    case: str,
    name: str,
    make: Callable[..., nn.Module],
    train: SampleDataset,
    test: SampleDataset,
    target: str,
    epochs: int,
    batch_size: int,
    lr: float,
    settings: Settings,
) -> Row:
    """Return the error of a network trained with the relative error as loss and one cycle of the learning rate."""
    torch.manual_seed(settings.seed)
    network = make(train.spec)
    steps = epochs * -(-len(train) // batch_size)
    optimization = Optimization(
        network,
        loss=RelativeL2,
        optimizer=partial(torch.optim.AdamW, weight_decay=1e-4),
        lr=lr,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1),
        scheduler_every="batch",
    )
    trainer = Trainer(
        network,
        train,
        epochs=epochs,
        batch_size=batch_size,
        validation=None,
        optimization=optimization,
        transforms=Transforms.normalization(train, scale="field", physical_loss=True),
        seed=settings.seed,
        progress=sys.stderr.isatty(),
    )
    start, used = time.perf_counter(), time.process_time()
    history = trainer.fit()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - used
    if history.interrupted:
        raise KeyboardInterrupt
    given = test[:]
    parts = [
        trainer.predictor.predict(
            {field: given[field][i : i + 100] for field in trainer.predictor.inputs}, batched=True
        )
        for i in range(0, len(test), 100)
    ]
    prediction = np.concatenate([part[target] for part in parts])
    found = row(case, name, prediction, given[target])
    done = {"training_loss": history["loss"][-1], "epochs": epochs, "steps": trainer.step}
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    return {**found, "parameters": trainer.predictor.num_parameters, **done, **times}


def row(case: str, name: str, prediction: np.ndarray, target: np.ndarray) -> Row:
    errors = compare(prediction, target)
    return {
        "case": case,
        "network": name,
        "relative_l2": float(errors.relative_l2.mean()),
        "median": float(np.median(errors.relative_l2)),
        "worst": float(errors.relative_l2.max()),
        "mean_error": float(errors.mean.mean()),
    }


COLUMNS = {  # heading, width, format
    "relative_l2": ("relative L2", 13, ".4f"),
    "median": ("median", 9, ".4f"),
    "worst": ("worst", 9, ".4f"),
    "mean_error": ("mean error", 12, ".3g"),
    "parameters": ("parameters", 12, ",d"),
    "epochs": ("epochs", 8, "d"),
    "seconds": ("training, s", 13, ".0f"),
    "cpu_seconds": ("of CPU, s", 11, ".0f"),  # what says something on a machine shared with others
}


def show(found: Mapping[str, Any]) -> None:
    cells = (
        f"{format(found[name], form) if name in found else '-':>{width}}" for name, (_, width, form) in COLUMNS.items()
    )
    print(f"{found['case']:<26}{found['network']:<28}" + "".join(cells), flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--networks", default="", help="only these, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of samples, weights and order; %(default)s")
    parser.add_argument("--folder", type=Path, help="keep the datasets here, and take those that are there")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it works; the figures say nothing")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    report: dict[str, Any] = {"versions": versions, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, seed {arguments.seed}"
    )
    print(f"{'':<54}" + "".join(f"{heading:>{width}}" for heading, width, _ in COLUMNS.values()))
    with tempfile.TemporaryDirectory() as temporary:
        networks = frozenset(filter(None, arguments.networks.split(",")))
        folder = arguments.folder or Path(temporary)
        settings = Settings(folder, arguments.quick, arguments.seed, networks)
        for part in arguments.parts or PARTS:
            report[part] = []
            for found in PARTS[part](settings):
                show(found)
                report[part].append(found)
                if arguments.json:  # after each, so that a run that is broken off is not lost
                    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
