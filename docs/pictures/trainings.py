"""Pictures of the ways to train: `examples/training`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import physgym
from docs.pictures import drawing
from docs.pictures.work import printed, step_of
from physgym.training import load_checkpoint
from physgym.training.stored_history import read_history

SESSIONS = Path("sessions")


def from_scratch() -> Figure:
    """Show losses by epoch."""
    return _losses("from_scratch", "simulated once, used in every epoch")


def always() -> Figure:
    """Show losses by epoch, of samples that no epoch has twice."""
    return _losses("always", "no sample is used twice")


def online() -> Figure:
    """Show losses by epoch, and how often samples were used."""
    figure = _losses("online", "learns while it is simulated", panels=2)
    epochs = read_history(SESSIONS / "online")[0].epochs
    axes = figure.axes[1]
    for name, label in (("online_repeats", "mean"), ("online_most_repeats", "most")):
        axes.plot(range(1, len(epochs) + 1), [epoch[name] for epoch in epochs], label=label)
    drawing.finish(axes, "epoch", "times that a sample was used", "4,000 samples came meanwhile")
    return figure


def _losses(name: str, title: str, panels: int = 1) -> Figure:
    printed(f"training/{name}")
    found = read_history(SESSIONS / name)[0]
    figure, axes = drawing.new(panels, 5.2 if panels == 1 else 7.4, 2.8)
    curves = {"training": found["loss"], "validation": found["validation_loss"]}
    drawing.history(axes if panels == 1 else axes[0], curves, title)
    return figure


def from_dataset() -> Figure:
    """Show losses by epoch, and a prediction beside what the solver has."""
    printed("training/from_dataset")
    session = SESSIONS / "from_dataset"
    found = read_history(session)[0]
    sample, prediction, error = step_of("physgym/Burgers-v0", session)
    figure, (left, right) = drawing.new(2, 7.4, 2.8)
    drawing.history(left, {"training": found["loss"], "validation": found["validation_loss"]}, y="relative L2")
    right.plot(sample["initial"], color="tab:orange", linewidth=1, label="initial")
    right.plot(sample["final"], **drawing.SOLVER)
    right.plot(prediction["final"], **drawing.NETWORK)
    drawing.finish(right, "grid point", "velocity", f"an unseen field; mean error of 50: {error:.1%}")
    return figure


def from_network() -> Figure:
    """Show validation losses of a network, of the one that goes on from it, and of one for stiffer springs."""
    printed("training/from_network")
    out = SESSIONS / "from_network"
    beside, first = read_history(out / "first")[0], read_history(out / "first", 15)[0]
    figure, axes = drawing.new(1, 5.6, 2.9)
    length = len(first.epochs)
    axes.semilogy(range(1, length + 1), first["validation_loss"], label="first network")
    axes.semilogy(
        range(length + 1, 2 * length + 1), beside["validation_loss"][-length:], label="goes on from it, gently"
    )
    stiffer = read_history(out / "second")[0]["validation_loss"]
    axes.semilogy(range(length + 1, length + 1 + len(stiffer)), stiffer, label="goes on from it, stiffer springs")
    drawing.finish(axes, "epoch", "validation loss", "three trainings, two sessions")
    return figure


def load_samples() -> Figure:
    """Show a stored field of a coarse grid, and what a finer simulation makes of the same initial one."""
    printed("training/load_samples")
    coarse, fine = (physgym.SampleDataset(SESSIONS / "load_samples" / name)[3] for name in ("coarse", "fine"))
    predictor = load_checkpoint(SESSIONS / "load_samples")
    figure, (left, right) = drawing.new(2, 7.4, 2.8)
    for axes, sample, title in (
        (left, coarse, "stored: 64 points, viscosity 0.1"),
        (right, fine, "made anew: 128 points, 0.05"),
    ):
        places = [(number + 0.5) / len(sample["initial"]) for number in range(len(sample["initial"]))]
        axes.plot(places, sample["initial"], ".-", markersize=3, color="tab:orange", linewidth=1, label="initial")
        axes.plot(places, sample["final"], ".-", markersize=3, color="0.5", label="final, solver")
        if len(places) == 128:
            prediction = predictor.predict({"initial": sample["initial"]})
            axes.plot(places, prediction["final"], color="tab:blue", label="network")
        drawing.finish(axes, "place", "velocity", title)
    return figure


def physics() -> Figure:
    """Show error and residual by epoch."""
    printed("training/physics")
    found = read_history(SESSIONS / "physics")[0]
    figure, axes = drawing.new(1, 5.2, 2.8)
    drawing.history(
        axes, {"error of the prediction": found["error"], "residual of the heat equation": found["residual"]}
    )
    return figure


def resume() -> Figure:
    """Show losses by epoch of a training that was killed, and of one that was not."""
    said = printed("training/resume")
    whole, killed = (read_history(SESSIONS / "resume" / name)[0]["loss"] for name in ("whole", "killed"))
    figure, axes = drawing.new(1, 5.6, 2.9)
    epochs = range(1, len(whole) + 1)
    axes.semilogy(epochs, whole, color="0.75", linewidth=6, label="never killed")
    axes.semilogy(epochs, killed, "o-", markersize=4, label="killed in epoch 6, and resumed")
    axes.axvline(len(whole) // 2 + 0.5, color="tab:red", linestyle="--", linewidth=1, label="the power is cut")
    drawing.finish(axes, "epoch", "loss", said.strip().splitlines()[-1])
    return figure
