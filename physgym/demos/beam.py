"""The main job, end to end: beam samples, a network trained on them, and the network next to the solver.

``physgym demo`` runs it small; ``examples/beam.py`` runs it with a larger budget.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from physgym.data.dataset import SampleDataset
from physgym.experiment.run import Run
from physgym.experiment.schema import Config
from physgym.experiment.session import new_session
from physgym.generation.generate import generate
from physgym.nn import MLP, Optimization, Predictor, RelativeL2, Transforms
from physgym.running.prediction_errors import compare
from physgym.running.runner import Runner
from physgym.scene.frames import mesh_frame
from physgym.scene.plots import whole_ticks
from physgym.spaces import Array
from physgym.training import Callback, History, Trainer

INPUT, TARGET = "forces", "displacement"
RIDGES = (1e-6, 1e-4, 1e-2, 1.0)  # relative to the mean diagonal; the best one on the test set is taken
VALIDATION = 0.1  # of the episodes
WEIGHT_DECAY = 1e-4
UNSEEN = 1  # added to the seed for the episodes that the network is judged on
FRAME = (800, 420)  # pixels of a beam in the report
BATCH = 256  # for the network's time per sample in a batch


@dataclass(frozen=True)
class Budget:
    """Sizes of a demonstration.

    Attributes:
        env_id: The simulation.
        samples: To train and validate on.
        held_out: Episodes to compare network and solver on.
        epochs: Of training.
        batch_size: Samples per batch.
        hidden: Widths of the network's layers.
        lr: Largest learning rate.
    """

    env_id: str = "physgym/Beam-v0"
    samples: int = 4000
    held_out: int = 200
    epochs: int = 40
    batch_size: int = 64
    hidden: tuple[int, ...] = (256, 256, 256)
    lr: float = 1e-3


DEMO = Budget()
QUICK = Budget(samples=200, held_out=20, epochs=5)
LARGE = Budget(samples=20_000, epochs=60)
FULL_SIZE = Budget(env_id="physgym/BeamFull-v0", samples=20_000, epochs=60, hidden=(512, 512, 512))


def study(budget: Budget, out: str | Path, *, num_workers: int = 2, seed: int = 0) -> dict[str, Any]:
    """Generate, train, compare, report.

    Args:
        budget: How much to spend.
        out: Folder for everything; a taken name gets a suffix.
        num_workers: Worker processes.
        seed: Of samples, weights and order.

    Returns:
        The figures, which are also printed and saved as ``report.json``.
    """
    folder = new_session(out)
    with Run(folder, "demo", _config(budget, folder, num_workers, seed).model_dump()) as run:
        results = _study(budget, folder, num_workers, seed, run)
    _tell(results, folder)
    return results


def _config(budget: Budget, folder: Path, num_workers: int, seed: int) -> Config:
    """Return the study's training as a configuration, so that its network can be run like that of any session."""
    return Config.model_validate(
        {
            "description": f"demo: {budget.samples} samples, compared on {budget.held_out} unseen episodes",
            "session": str(folder),
            "seed": seed,
            "environment": {"id": budget.env_id},
            "dataset": {"samples": budget.samples, "num_workers": num_workers},
            "network": {"type": "MLP", "arguments": {"hidden": list(budget.hidden), "residual": True}},
            "transforms": {"physical_loss": True},
            "optimization": {
                "loss": "relative_l2",
                "optimizer": "adamw",
                "lr": budget.lr,
                "weight_decay": WEIGHT_DECAY,
                "schedule": "one_cycle",
            },
            "training": {"epochs": budget.epochs, "batch_size": budget.batch_size},
            "validation": {"fraction": VALIDATION},
        }
    )


def _study(budget: Budget, folder: Path, num_workers: int, seed: int, run: Run) -> dict[str, Any]:
    started = time.perf_counter()
    _say(f"1. {budget.samples} samples of {budget.env_id} with {num_workers} workers")
    dataset = generate(budget.env_id, folder / "dataset", samples=budget.samples, num_workers=num_workers, seed=seed)
    generated = time.perf_counter()
    run.describe_dataset(dataset)

    _say(f"2. training for {budget.epochs} epochs")
    trainer = make_trainer(budget, dataset, folder, seed)
    history = trainer.fit()
    run.results |= history.epochs[-1] if history.epochs else {}
    if history.interrupted:
        raise KeyboardInterrupt
    trained = time.perf_counter()

    _say(f"3. the network inside the simulation, next to the solver, on {budget.held_out} unseen episodes")
    collector = _Collect()
    with Runner(budget.env_id, trainer.predictor, seed=seed + UNSEEN) as runner:
        report = runner.run(budget.held_out, callbacks=[collector])
    if report.interrupted:
        raise KeyboardInterrupt
    inputs, targets = (np.stack([fields[name] for fields in collector.fields]) for name in (INPUT, TARGET))
    predictions = np.stack([fields[f"prediction/{TARGET}"] for fields in collector.fields])

    network = report.errors[TARGET].summary
    results = {
        "budget": asdict(budget),
        "seed": seed,
        "network": network,
        "baselines": {name: compare(predict(inputs), targets).summary for name, predict in baselines(dataset).items()},
        "parameters": trainer.predictor.num_parameters,
        "samples_per_second": budget.samples / (generated - started),
        "seconds": {"generate": generated - started, "train": trained - generated},
        "milliseconds_per_sample": {
            "solver": float(np.median(report.solver_seconds) * 1e3),
            "network": float(np.median(report.network_seconds) * 1e3),
            f"network in batches of {BATCH}": _batched_milliseconds(trainer.predictor, inputs),
        },
        "median_largest_displacement": float(np.median(np.linalg.norm(targets, axis=-1).max(-1))),
        "held_out": len(targets),
        "rejected": report.rejected,
    }
    (folder / "report.json").write_text(json.dumps(results, indent=1) + "\n")
    draw_report(folder / "report.png", budget, inputs, targets, predictions, history, results)
    run.results |= {f"held_out/{name}": value for name, value in network.items()}
    return results


def make_trainer(budget: Budget, dataset: SampleDataset, folder: Path, seed: int) -> Trainer:
    """Make the network, the optimization and the trainer of the study."""
    torch.manual_seed(seed)
    training, validation = dataset.split(VALIDATION, seed)
    network = MLP.from_spec(dataset.spec, hidden=budget.hidden, residual=True)
    steps = budget.epochs * -(-len(training) // budget.batch_size)
    optimization = Optimization(
        network,
        loss=RelativeL2,
        optimizer=partial(torch.optim.AdamW, weight_decay=WEIGHT_DECAY),
        lr=budget.lr,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, budget.lr, total_steps=steps + 1),
        scheduler_every="batch",
    )
    return Trainer(
        network,
        training,
        validation=validation,
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        optimization=optimization,
        transforms=Transforms.normalization(training, physical_loss=True),
        session=folder,
        record=False,
        seed=seed,
    )


def baselines(dataset: SampleDataset) -> dict[str, Callable[[Array], Array]]:
    """Fit the baselines: the mean displacement, and a linear map from forces to displacements."""
    samples = dataset[:]
    x, y = (samples[name].reshape(len(dataset), -1).astype(np.float64) for name in (INPUT, TARGET))
    shape = dataset.spec[TARGET].shape
    mean = y.mean(0)
    offset = x.mean(0)
    gram, cross = (x - offset).T @ (x - offset), (x - offset).T @ (y - mean)
    scale = np.trace(gram) / len(gram)

    def linear(weights: Array, inputs: Array) -> Array:
        predicted: Array = (inputs.reshape(len(inputs), -1) - offset) @ weights + mean
        return predicted.reshape(-1, *shape)

    predictors: dict[str, Callable[[Array], Array]] = {"mean": partial(linear, np.zeros_like(cross))}
    for ridge in RIDGES:
        weights = np.linalg.solve(gram + ridge * scale * np.eye(len(gram)), cross)
        predictors[f"linear, ridge {ridge:g}"] = partial(linear, weights)
    return predictors


class _Collect(Callback):
    """Keeps the fields of every step that was not rejected."""

    def __init__(self) -> None:
        self.fields: list[dict[str, Array]] = []

    def sample_end(self, pipeline: Any, sample: Any) -> None:
        if sample:
            self.fields.append(dict(sample))


def _batched_milliseconds(predictor: Predictor, inputs: Array) -> float:
    batch = np.resize(inputs, (BATCH, *inputs.shape[1:]))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        predictor.predict({INPUT: batch}, batched=True)
        times.append(time.perf_counter() - start)
    return float(np.median(times) / BATCH * 1e3)


def _say(text: str) -> None:
    print(text, flush=True)  # between progress bars on stderr


def _tell(results: dict[str, Any], folder: Path) -> None:
    network, best = results["network"], best_baseline(results)
    times = results["milliseconds_per_sample"]
    print(
        f"\nnetwork: {network['relative_l2']:.2%} mean relative L2 error on {results['held_out']} unseen episodes\n"
        f"  mean nodal error    {network['mean_error']:.3f} mm, "
        f"{network['relative_to_mean_size']:.2%} of the mean displacement of {network['mean_size']:.2f} mm\n"
        f"  largest nodal error {network['max_error']:.3f} mm "
        f"(median of the largest displacement: {results['median_largest_displacement']:.1f} mm)\n"
        "baselines:"
    )
    for name, summary in results["baselines"].items():
        print(f"  {name:<20} {summary['relative_l2']:.1%}, mean nodal error {summary['mean_error']:.3f} mm")
    print(f"  the network's error is {network['relative_l2'] / best['relative_l2']:.2f} of the best one's")
    print("time per sample: " + ", ".join(f"{name} {value:.3f} ms" for name, value in times.items()))
    print(
        f"generated {results['samples_per_second']:.0f} samples/s, "
        f"trained {results['parameters']} parameters in {results['seconds']['train']:.0f} s\n\n"
        f"pictures:   {folder / 'report.png'}\nfigures:    {folder / 'report.json'}\n"
        f"samples:    {folder / 'dataset'}, to look at: physgym view {folder / 'dataset'}\n"
        f"network:    {folder / 'networks'}\n"
        f"curves:     tensorboard --logdir {folder / 'stats'}"
    )


def best_baseline(results: dict[str, Any]) -> dict[str, float]:
    """Return the figures of the best baseline."""
    found: dict[str, float] = min(results["baselines"].values(), key=lambda summary: summary["relative_l2"])
    return found


def draw_report(
    path: Path,
    budget: Budget,
    inputs: Array,
    targets: Array,
    predictions: Array,
    history: History,
    results: dict[str, Any],
) -> None:
    """Draw truth, prediction and error on the deformed beam for a typical and the worst sample; loss curves; errors."""
    from matplotlib.figure import Figure

    env: Any = gymnasium.make(budget.env_id).unwrapped
    relative = compare(predictions, targets).relative_l2
    order = np.argsort(relative)
    episodes = {"typical episode": int(order[len(order) // 2]), "worst episode": int(order[-1])}
    figure = Figure(figsize=(15, 9), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    upper, lower = halves
    pictures, plots = upper.subplots(2, 3), lower.subplots(1, 3)
    for row, (label, sample) in enumerate(episodes.items()):
        true, predicted = env.rest_positions + targets[sample], env.rest_positions + predictions[sample]
        positions = np.stack([true, predicted])
        error = np.linalg.norm(predicted - true, axis=1)
        panels = (
            (f"{label}: solver", true, np.linalg.norm(targets[sample], axis=1)),
            ("network", predicted, np.linalg.norm(predictions[sample], axis=1)),
            (f"nodal error (relative L2 {relative[sample]:.2%})", predicted, error),
        )
        for axes, (title, points, values) in zip(pictures[row], panels, strict=True):
            frame = mesh_frame(
                points,
                env.surface_faces,
                scalars=values,
                bounds=np.stack([positions.min((0, 1)), positions.max((0, 1))]),
                limits=(0.0, float(values.max() if values is error else panels[0][2].max())),
                size=FRAME,
                unit="mm",
            )
            axes.imshow(_cropped(frame))
            axes.set_title(title, fontsize=11)
            axes.set_axis_off()
    _draw_curves(plots[0], history)
    _draw_errors(plots[1], relative, results)
    _draw_times(plots[2], results)
    figure.suptitle(
        f"{budget.env_id}: {budget.samples} samples, {budget.epochs} epochs; on {len(targets)} unseen episodes "
        f"{results['network']['relative_l2']:.2%} mean relative L2 error (best baseline "
        f"{best_baseline(results)['relative_l2']:.1%})"
    )
    figure.savefig(path, dpi=100)


def _cropped(frame: Array) -> Array:
    """Return a picture without the white rows and columns around its content."""
    inked: Array = np.any(frame < 255, axis=-1)
    rows, columns = (np.flatnonzero(np.any(inked, axis=axis)) for axis in (1, 0))
    return frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_curves(axes: Any, history: History) -> None:
    epochs = np.arange(1, len(history.epochs) + 1)
    axes.semilogy(epochs, history["loss"], label="training")
    axes.semilogy(epochs, history["validation_loss"], label="validation")
    axes.set(xlabel="epoch", ylabel="loss (relative L2)", title="loss")
    whole_ticks(axes)
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_errors(axes: Any, relative: Array, results: dict[str, Any]) -> None:
    best = best_baseline(results)["relative_l2"]
    axes.plot(np.sort(relative) * 100, np.linspace(0, 100, len(relative)), label="network")
    axes.axvline(results["network"]["relative_l2"] * 100, color="C0", linestyle=":", label="network, mean")
    axes.axvline(best * 100, color="C3", linestyle="--", label="best linear map, mean")
    axes.set(xscale="log", xlabel="relative L2 error (%)", ylabel="unseen episodes (%)", title="error")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _draw_times(axes: Any, results: dict[str, Any]) -> None:
    times = results["milliseconds_per_sample"]
    labels = [name.replace(" in ", "\nin ") for name in times]
    bars = axes.barh(labels, list(times.values()), color=["C3", "C0", "C0"], log=True)
    axes.bar_label(bars, fmt="%.2g ms", padding=4)
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.set(xlabel="ms", title="time per sample")
