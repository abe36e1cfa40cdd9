"""Pictures of the simulations among the examples, and of what networks make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.figure import Figure

from docs.pictures import drawing
from docs.pictures.work import IMAGES, imported, printed, rolled_out


def beam() -> Figure:
    """Show the report of the study, here with the budget of ``physgym demo``."""
    return drawing.shown(IMAGES / "beam.png", 9.0)


def autoencoder() -> Figure:
    """Show pictures, and what the autoencoder makes of them."""
    printed("autoencoder")
    pictures = sorted(Path("sessions/autoencoder/compared").glob("*.png"))
    figure = drawing.shown(pictures[-1], 6.0, 3 / 5)
    figure.suptitle("left: what a driver sees; right: the same from 32 numbers", fontsize=9)
    return figure


def my_simulation() -> Figure:
    """Show the flights of balls by the solver and by the network."""
    names = imported("my_simulation", "__main__")
    predictor, env = names["trainer"].predictor, names["Ball"]()
    figure, axes = drawing.new(1, 6.0, 2.9)
    generator = np.random.default_rng(5)
    for number in range(4):
        low, high = env.action_space.low, env.action_space.high
        throw = generator.uniform(low, high).astype(np.float32)
        sample = env.step(throw)[-1]["sample"]
        flight, predicted = sample["flight"], predictor.predict({"throw": throw})["flight"]
        only = number == 0
        axes.plot(*flight.T, **{**drawing.SOLVER, "label": "solver" if only else None})
        axes.plot(*predicted.T, **{**drawing.NETWORK, "label": "network" if only else None})
    axes.axhline(0, color="black", linewidth=0.8)
    drawing.finish(axes, "distance (m)", "height (m)", "unseen throws, for 2 s")
    return figure


def batched() -> Figure:
    """Show a plate after 10 seconds, and how the error grows over own steps; nine of the ten epochs were trained."""
    from docs.pictures.plates import plate

    printed("batched")
    return plate(Path("sessions/batched"), "physgym/HeatBatch-v0", size=32)


def reacher() -> Figure:
    """Show the angles of both joints by MuJoCo and by the network alone."""
    names = imported("reacher", "__main__")
    report = rolled_out("example/Reacher-v0", names["trainer"].session, 25, examples=10)
    one = drawing.median_example(report, "next_state")
    figure, panels = drawing.new(3, 8.8, 2.8)
    for joint, axes in enumerate(panels[:2]):
        axes.plot(one.seconds, one.true["next_state"][:, joint], **{**drawing.SOLVER, "label": "MuJoCo"})
        axes.plot(one.seconds, one.predicted["next_state"][:, joint], **drawing.NETWORK)
        drawing.finish(axes, "time (s)", "angle (rad)", f"joint {joint + 1}", legend=joint == 0)
    figure.suptitle("the median of 10 unseen episodes, by the network from its own steps, and all errors", fontsize=9)
    drawing.horizons(panels[2], report, "next_state", "state of both joints")
    return figure


def sofa_beam() -> Figure:
    """Show a load of the example, and what physgym's own solver computes for it: SOFA was not at hand."""
    env: Any = gymnasium.make("physgym/BeamFull-v0", young_modulus=10_000.0).unwrapped
    rest, generator = env.rest_positions, np.random.default_rng(6)
    high, forces = rest.max(0), np.zeros_like(rest)
    sides = ((rest[:, 1:] == 0) | (rest[:, 1:] == high[1:])).any(1)
    low = generator.uniform(-5, high - 10)
    loaded = sides & ((rest >= low) & (rest <= generator.uniform(low + 10, high + 5))).all(1)
    direction = generator.uniform(-1, 1, 3)
    forces[loaded] = 20 * direction / np.linalg.norm(direction)
    env.reset(seed=0)
    displacement = env.step(forces.astype(np.float32))[-1]["sample"]["displacement"]
    figure, axes = drawing.new(1, 7.0, 2.4)
    drawing.bent(axes, env, displacement, f"20 N on each of {loaded.sum()} nodes")
    return figure


def overlap() -> Figure:
    """Show what the network has learned: states of CartPole that follow on others, and its predictions of them."""
    network = imported("overlap", "__main__")["network"]
    env, rows = gymnasium.make("CartPole-v1"), []
    state, over = env.reset(seed=1)[0], False
    while len(rows) < 200:
        before, action = state, int(env.np_random.integers(2))
        state, _, over, _, _ = env.step(action)
        rows.append((before, state))
        if over:
            state, _ = env.reset()
    before, after = (torch.as_tensor(np.array(states)) for states in zip(*rows, strict=True))
    found = network(before).detach()
    figure, panels = drawing.new(4, 9.6, 2.7)
    names = ("position (m)", "velocity (m/s)", "angle (rad)", "angular velocity (rad/s)")
    for axes, column, name in zip(panels, range(4), names, strict=True):
        true, said = after[:, column].numpy(), found[:, column].numpy()
        ends = (min(true.min(), said.min()), max(true.max(), said.max()))
        axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
        axes.scatter(true, said, s=9, alpha=0.5, linewidths=0)
        axes.set_box_aspect(1)
        drawing.finish(axes, "simulated", "predicted" if column == 0 else "", f"next {name}", legend=False)
        axes.locator_params(nbins=4)
    return figure
