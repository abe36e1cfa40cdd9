"""Pictures of the ways to train: `examples/training`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import physgym
from docs.pictures import drawing
from docs.pictures.work import imported, printed, steps_of
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
    figure, (losses, fields) = drawing.new(2, 7.8, 2.9)
    drawing.history(losses, {"training": found["loss"], "validation": found["validation_loss"]}, y="relative L2")
    steps, error = steps_of("physgym/Burgers-v0", session)
    steps.sort(key=lambda step: -np.ptp(step[0]["final"]))  # most fields are nearly constant at that time
    for number, (sample, prediction) in enumerate(steps[:5]):
        places = (np.arange(len(sample["final"])) + 0.5) / len(sample["final"])
        fields.plot(places, sample["final"], **{**drawing.SOLVER, "label": None if number else "solver"})
        fields.plot(places, prediction["final"], **{**drawing.NETWORK, "label": None if number else "network"})
    title = f"5 of 50 unseen fields, at time 1; mean error {error:.1%}"
    drawing.finish(fields, "place", "velocity", title)
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
    session = SESSIONS / "load_samples"
    if not session.exists():
        imported("training/load_samples")["main"](3000, 40)
    stored, made = (physgym.SampleDataset(session / name) for name in ("coarse", "fine"))
    number = int(np.ptp(made[:200]["final"], axis=1).argmax())  # others are nearly constant at that time
    coarse, fine = stored[number], made[number]
    predictor = load_checkpoint(SESSIONS / "load_samples")
    prediction = predictor.predict({"initial": fine["initial"]})
    figure, (left, right) = drawing.new(2, 7.8, 2.9)
    drawn: list[tuple[Any, str, dict[str, Any]]] = [
        (coarse, "stored: 64 points, viscosity 0.1", {"color": "tab:orange", "marker": "o", "markersize": 3}),
        (fine, "made anew: 128 points, 0.05", {"color": "0.55", "linewidth": 2.5}),
    ]
    for sample, label, style in drawn:
        for axes, name in ((left, "initial"), (right, "final")):
            places = (np.arange(len(sample[name])) + 0.5) / len(sample[name])
            axes.plot(places, sample[name], **style, label=label)
    right.plot(places, prediction["final"], **{**drawing.NETWORK, "label": "network for the finer grid"})
    drawing.finish(left, "place", "velocity", "the initial field, taken from the stored sample", legend=False)
    drawing.finish(right, "place", "", "the field at time 1", legend=False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
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
