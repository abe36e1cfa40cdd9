"""Pictures of the examples with programs of others, and with workers elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from matplotlib.figure import Figure

import physgym
from docs.pictures import drawing
from docs.pictures.work import ROOT, imported, on_path, printed
from physgym.training import load_checkpoint


def calculix_beam() -> Figure:
    """Show a bent beam, and the way of its end over force and stiffness, as CalculiX computes them."""
    printed("calculix_beam")
    dataset = physgym.SampleDataset("calculix_data")
    rows = dataset[:]
    moved = rows["displacement"]
    most = int(np.abs(moved[:, -1, 1]).argmax())
    env: Any = gymnasium.make("physgym/Beam-v0").unwrapped  # whose mesh the input file of CalculiX has
    figure, (left, right) = drawing.new(2, 8.2, 2.9)
    drawing.bent(left, env, moved[most], "the run that bends most")
    right.scatter(rows["force"][:, 0] / rows["young_modulus"].ravel(), moved[:, -1, 1], s=14, alpha=0.6, linewidths=0)
    drawing.finish(
        right, "force over modulus (mm²)", "displacement of the end (mm)", "100 runs of CalculiX", legend=False
    )
    return figure


def fmu() -> Figure:
    """Show the ways of two masses of an FMU under inputs that are drawn anew at each step."""
    with on_path(ROOT):
        from tests.support.fmus import make_fmu
    path = make_fmu(Path("springs.fmu"), 3)
    dataset = physgym.SampleDataset("data/fmu") if Path("data/fmu").exists() else imported("fmu")["main"](path)
    figure, panels = drawing.new(2, 7.4, 2.8)
    for axes, number in zip(panels, (0, 1), strict=True):
        episode = dataset.episode(number)
        (name,) = [name for name in episode if name.startswith("next_outputs/x")]
        for mass in range(2):
            axes.plot(np.arange(1, len(episode[name]) + 1), episode[name][:, mass], ".-", label=f"mass {mass + 1}")
        drawing.finish(axes, "step", "position (m)", f"episode {number + 1}, parameters and pushes of its own")
    return figure


def mpi_heat() -> Figure:
    """Show the temperature of a rod over the steps of an episode."""
    printed("mpi_heat")
    episode = physgym.SampleDataset("data/rod").episode(0)
    (name,) = [name for name in episode if name.startswith("next_") and "temperature" in name]
    figure, axes = drawing.new(1, 5.6, 2.8)
    values = episode[name]
    drawing.image(axes, values, "heated in the first cell", "temperature (K)", cmap="inferno", aspect="auto")
    axes.axvline(15.5, color="white", linestyle="--")
    axes.text(7.5, len(values) - 3, "rank 0", color="white", ha="center", fontsize=9)
    axes.text(23.5, len(values) - 3, "rank 1", color="white", ha="center", fontsize=9)
    axes.set_xlabel("cell", fontsize=9)
    axes.set_ylabel("step", fontsize=9)
    axes.set_xticks([0, 15, 31])
    axes.set_yticks([0, len(values) - 1])
    axes.tick_params(labelsize=8)
    return figure


def umbridge() -> Figure:
    """Show the descent to the force that stops a mass."""
    from physgym.adapters.umbridge_client import UmBridgeModel

    asked: list[tuple[float, float]] = []

    class Recorded(UmBridgeModel):
        def evaluate(self, inputs: Any) -> Any:
            outputs = super().evaluate(inputs)
            asked.append((float(inputs[0][0]), float(outputs[0][1])))
            return outputs

    main = imported("umbridge")["main"]
    main.__globals__["UmBridgeModel"] = Recorded
    main()
    force, velocity = np.array(asked).T
    figure, (left, right) = drawing.new(2, 7.0, 2.7)
    left.plot(force, ".-")
    drawing.finish(left, "gradient step", "force (N)", "asked of the served network", legend=False)
    right.plot(np.abs(velocity), ".-", color="tab:orange")
    right.set_yscale("log")
    drawing.finish(right, "gradient step", "velocity that is left (m/s)", legend=False)
    return figure


def lent_simulators() -> Figure:
    """Show the distance of two cars from the middle of the road."""
    seen: list[np.ndarray] = []
    inner = physgym.SocketVectorEnv

    class Recorded(inner):  # type: ignore[misc,valid-type]
        def step(self, actions: Any) -> Any:
            found = super().step(actions)
            seen.append(np.array(found[-1]["cte"]))
            return found

    physgym.SocketVectorEnv = Recorded
    try:
        imported("lent_simulators")["main"](200)
    finally:
        physgym.SocketVectorEnv = inner
    figure, axes = drawing.new(1, 5.6, 2.8)
    for car, values in enumerate(np.array(seen).T):
        axes.plot(values, label=f"car {car + 1}")
    drawing.finish(axes, "step", "distance from the middle (m)", "two simulators that a service lends")
    return figure


def ray_workers() -> Figure:
    """Show samples that two workers placed by Ray have made."""
    printed("ray_workers")
    dataset = physgym.SampleDataset("data/ray_workers")
    figure, panels = drawing.new(4, 8.4, 2.2)
    for axes, row in zip(panels, (0, 300, 600, 900), strict=True):
        drawing.image(axes, np.squeeze(dataset[row]["next_temperature"]), f"sample {row}", "K", cmap="inferno")
    return figure


def openfoam_cavity() -> Figure:
    """Show the velocity on the middle line of three cavities by OpenFOAM and by the network."""
    printed("openfoam_cavity")
    dataset, predictor = physgym.SampleDataset("data/cavity"), load_checkpoint("sessions/openfoam_cavity")
    figure, axes = drawing.new(1, 5.6, 2.9)
    height = np.linspace(0, 0.1, 32)
    order = np.argsort(dataset[:]["lid_speed"].ravel())
    for number, colour in zip(order[[0, len(order) // 2, -1]], ("tab:blue", "tab:orange", "tab:green"), strict=True):
        sample = dataset[int(number)]
        found = predictor.predict({name: sample[name] for name in predictor.inputs})
        speed, viscosity = float(sample["lid_speed"]), float(sample["viscosity"])
        axes.plot(sample["velocity"][:, 0], height, color=colour, linewidth=4, alpha=0.35)
        label = f"lid {speed:.2f} m/s, viscosity {viscosity:.3f} m²/s"
        axes.plot(found["velocity"][:, 0], height, color=colour, label=label)
    drawing.finish(axes, "velocity along the lid (m/s)", "height (m)", "wide: OpenFOAM; thin: network")
    return figure
