"""Pictures of the configurations: each is trained, then looked at in episodes that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from matplotlib.figure import Figure

from docs.pictures import drawing
from docs.pictures.plates import plate
from docs.pictures.work import IMAGES, configured, rolled_out, step_of
from physgym.experiment.search.report import read_results
from physgym.training.stored_history import read_history

SECONDS = "time (s)"


SMALLER = {  # budgets of some pictures, for minutes in place of an hour
    "kuramoto_sivashinsky": ("dataset.samples=1000", "training.epochs=8"),
    "burgers_step": ("dataset.samples=1000", "training.epochs=8"),
    "darcy": ("environment.arguments={size: 29}", "dataset.samples=300", "training.epochs=10"),
    "heat_physics": ("training.epochs=5",),
    "heat_batch": ("dataset.samples=3000", "training.epochs=16"),
    "navier_stokes": ("environment.arguments={size: 32}", "dataset.samples=500", "training.epochs=12"),
    "search": ("search.trials=8", "dataset.samples=2000", "training.epochs=4"),
    "dqn_cartpole": ("agent.steps=20000",),
    "beam_full": ("dataset.samples=4000", "training.epochs=15"),
}


def _session(name: str, command: str = "train") -> Path:
    """Return the session of a configuration, trained with the budget of its picture."""
    return configured(name, *SMALLER.get(name, ()), command=command)


def _circle(values: np.ndarray) -> np.ndarray:
    """Return the places of the points of a circle of circumference 1."""
    return np.arange(len(values)) / len(values)


def _rolled(name: str, env: str, field: str, horizon: int, length: float, unit: str = "") -> Figure:
    """Return a picture of rollouts on a circle: solver and network over time, and how the error grows."""
    report = rolled_out(env, _session(name), horizon)
    one = report.examples[0]
    figure, (left, middle, right) = drawing.new(3, 8.4, 2.8)
    limit = float(np.abs(one.true[field]).max())
    for axes, values, title in ((left, one.true, "solver"), (middle, one.predicted, "network, from its own steps")):
        extent = (0, length, 0, float(one.seconds[-1]))
        drawing.image(axes, values[field], title, unit, limit, aspect="auto", extent=extent)
        axes.set_xticks([0, length])
        axes.set_yticks([0, extent[3]])
        axes.tick_params(labelsize=8)
        axes.set_xlabel("place", fontsize=9)
        axes.set_ylabel("time", fontsize=9)
    drawing.horizons(right, report, field, "10 unseen episodes", "time")
    return figure


def _maps(name: str, env: str, given: str, made: str, titles: tuple[str, str], unit: str, **options: Any) -> Figure:
    """Return a picture of a map from field to field: input, solver, network, and their difference."""
    sample, prediction, error = step_of(env, _session(name), **options)
    figure, panels = drawing.new(4, 9.6, 2.3)
    drawing.image(panels[0], np.squeeze(sample[given]), titles[0], options.get("given_unit", unit))
    true, predicted = np.squeeze(sample[made]), np.squeeze(prediction[made])
    limits = {"vmin": float(true.min()), "vmax": float(true.max())}
    drawing.image(panels[1], true, f"{titles[1]}: solver", unit, **limits)
    drawing.image(panels[2], predicted, "network", unit, **limits)
    difference = predicted - true
    drawing.image(panels[3], difference, f"difference; mean error {error:.2%}", unit, float(np.abs(difference).max()))
    return figure


def spring() -> Figure:
    """Show a mass on a spring for 100 steps, by the solver and by the network alone."""
    report = rolled_out("physgym/Spring-v0", _session("spring"), 100)
    one = report.examples[0]
    figure, (left, right) = drawing.new()
    left.plot(one.seconds, one.true["next_state"][:, 0], **drawing.SOLVER)
    left.plot(one.seconds, one.predicted["next_state"][:, 0], **drawing.NETWORK)
    drawing.finish(left, SECONDS, "position (m)", "the network goes on from its own steps")
    drawing.horizons(right, report, "next_state", "10 unseen episodes")
    return figure


def heat() -> Figure:
    """Show a plate after 10 seconds, by the solver and by the network alone."""
    return plate(_session("heat"), "physgym/Heat-v0")


def heat_batch() -> Figure:
    """Show a plate of any diffusivity after 10 seconds."""
    return plate(_session("heat_batch"), "physgym/HeatBatch-v0", size=32)


def heat_online() -> Figure:
    """Show a plate after 10 seconds, by a network that learned while the simulation ran."""
    return plate(_session("heat_online"), "physgym/Heat-v0")


def heat_physics() -> Figure:
    """Show a plate after 10 seconds, by a network with the residual of the equation in its loss."""
    return plate(_session("heat_physics"), "physgym/Heat-v0", size=32)


def burgers() -> Figure:
    """Show initial fields, and what becomes of them by solver and network."""
    session = _session("burgers")
    figure, panels = drawing.new(3, 8.4, 2.7)
    for number, axes in enumerate(panels):
        sample, prediction, error = step_of(
            "physgym/Burgers-v0", session, env_kwargs={"viscosity": 0.01}, skipped=number
        )
        places = _circle(sample["initial"])
        axes.plot(places, sample["initial"], color="tab:orange", linewidth=1, label="initial")
        axes.plot(places, sample["final"], **drawing.SOLVER)
        axes.plot(places, prediction["final"], **drawing.NETWORK)
        drawing.finish(axes, "place", "velocity" if number == 0 else "", legend=number == 0)
    panels[1].set_title(f"unseen fields, at time 1; mean error of 50: {error:.2%}", fontsize=9)
    return figure


def burgers_step() -> Figure:
    """Show a wave over 20 steps."""
    return _rolled("burgers_step", "physgym/BurgersStep-v0", "next_state", 20, 1.0)


def kuramoto_sivashinsky() -> Figure:
    """Show a chaotic field over 100 steps."""
    return _rolled("kuramoto_sivashinsky", "physgym/KuramotoSivashinsky-v0", "next_state", 100, 64.0)


def darcy() -> Figure:
    """Show a permeability, and the pressure of the flow through it."""
    titles = ("permeability", "pressure")
    return _maps("darcy", "physgym/Darcy-v0", "permeability", "pressure", titles, "", env_kwargs={"size": 29})


def navier_stokes() -> Figure:
    """Show the vorticity of a flow before and after a unit of time."""
    titles = ("vorticity", "a unit of time later")
    return _maps(
        "navier_stokes",
        "physgym/NavierStokes2D-v0",
        "state",
        "next_state",
        titles,
        "",
        env_kwargs={"size": 32},
        skipped=20,
    )


def beam() -> Figure:
    """Show bent beams by solver and network."""
    return _beams("beam", "physgym/Beam-v0")


def beam_full() -> Figure:
    """Show bent beams of the fine mesh by solver and network."""
    return _beams("beam_full", "physgym/BeamFull-v0")


def _beams(name: str, id: str) -> Figure:
    """Return a picture of a bent beam, by the solver and by the network."""
    session, env = _session(name), gymnasium.make(id).unwrapped
    sample, prediction, error = step_of(id, session, skipped=3)
    figure, (left, right) = drawing.new(2, 8.0, 2.6)
    limit = float(np.linalg.norm(sample["displacement"], axis=1).max())
    drawing.bent(left, env, sample["displacement"], "solver, an unseen load", limit)
    drawing.bent(right, env, prediction["displacement"], f"network; mean relative L2 error of 50: {error:.1%}", limit)
    return figure


def track() -> Figure:
    """Show the way of a car for 40 steps by the simulation and by the network alone."""
    kwargs = {"observation": "state", "tracks": [1000, 1020]}
    report = rolled_out("physgym/Track-v0", _session("track"), 40, examples=10, env_kwargs=kwargs)
    ((field, errors),) = report.errors["relative_l2"].items()
    one = drawing.median_example(report, field)
    figure, (left, middle, right) = drawing.new(3, 8.8, 2.8)
    for axes, column, name in ((left, 0, "distance from the middle (m)"), (middle, 2, "speed (m/s)")):
        axes.plot(one.seconds, one.true[field][:, column], **drawing.SOLVER)
        axes.plot(one.seconds, one.predicted[field][:, column], **drawing.NETWORK)
        drawing.finish(axes, SECONDS, name, legend=axes is left)
    figure.suptitle(f"the median of {len(errors)} drives on unseen roads, and the errors of all", fontsize=9)
    drawing.horizons(right, report, field)
    return figure


def _agent(name: str, title: str) -> Figure:
    """Return a picture of what an agent reaches while it learns."""
    epochs = read_history(_session(name))[0].epochs
    figure, axes = drawing.new(1, 5.6, 2.8)
    learned = [(epoch["step"], epoch["return"]) for epoch in epochs if "return" in epoch]
    judged = [(epoch["step"], epoch["evaluation_return"]) for epoch in epochs if "evaluation_return" in epoch]
    axes.plot(*zip(*learned, strict=True), color="0.6", label="while it explores")
    axes.plot(*zip(*judged, strict=True), "o-", label="without exploration")
    drawing.finish(axes, "steps of all environments", "mean return", title)
    return figure


def dqn_cartpole() -> Figure:
    """Show returns while the agent learns to balance."""
    return _agent("dqn_cartpole", "a pole on a cart; 500 is the most")


def dqn_track_pixels() -> Figure:
    """Show the laps of the agent on 20 unseen roads while it learns, from a training of 100,000 steps."""
    return drawing.shown(IMAGES / "driving_learning.png", 5.0, columns=(0.75, 1.0))


def search() -> Figure:
    """Show the loss of each trial over its learning rate and its batch size."""
    trials = read_results(_session("search", "search"))
    figure, panels = drawing.new(2, 7.2, 2.8)
    done = [trial for trial in trials if trial.value is not None]
    for axes, key in zip(panels, ("optimization.lr", "training.batch_size"), strict=True):
        axes.scatter([trial.values[key] for trial in done], [trial.value for trial in done], s=20)
        drawing.finish(axes, key, "validation loss", f"{len(done)} trials", legend=False)
        axes.set_yscale("log")
    panels[0].set_xscale("log")
    return figure
