"""Pictures of the simulations in other languages, whose programs dial in as workers."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import physgym
from docs.pictures import drawing
from docs.pictures.work import EXAMPLES, ROOT
from physgym.machines.address import Address
from physgym.machines.reception import Reception

CLIENT = ROOT / "clients" / "c"


@dataclass(frozen=True)
class _Program:
    """A program that serves a simulation.

    Attributes:
        file: Its text.
        env: Id of the simulation, for those who ask for it.
        command: What starts it, in the root folder.
        make: What compiles it before; empty for nothing.
    """

    file: Path
    env: str
    command: str
    make: str = ""


PROGRAMS = {
    "worker": _Program(EXAMPLES / "workers" / "worker.js", "Pendulum", "node examples/workers/worker.js"),
    **{
        file.stem: _Program(file, env, f"clients/c/{file.stem}", "make -C clients/c")
        for file, env in (
            (CLIENT / "spring.c", "physgym/Spring-v0"),
            (CLIENT / "heat_plate.c", "physgym/Heat-v0"),
            (CLIENT / "pendulum.cpp", "example/Pendulum-v0"),
        )
    },
}


def _samples(name: str, samples: int) -> physgym.SampleDataset:
    """Return samples of a program, which are generated unless that is done."""
    program, folder = PROGRAMS[name], Path("data").absolute() / f"program_{name}"
    if folder.exists():
        return physgym.SampleDataset(folder)
    words = program.command.split()
    if program.make:
        words = [str(Path(name).absolute())]
        subprocess.run(["make", "-C", str(CLIENT), f"OUT={Path.cwd()}", *words], check=True)
    token = secrets.token_bytes(32)
    file = Path("token").absolute()
    file.touch(mode=0o600)
    file.write_text(token.hex())
    env = f"worker:{program.env}"  # which Python need not know
    reception = Reception(Address("127.0.0.1", 0), token, None, envs=[env])
    dialling = [*words, str(reception.address), "--token-file", str(file), "--envs", "1"]
    with subprocess.Popen(dialling, cwd=ROOT) as running:
        try:
            return physgym.generate(env, folder, samples=samples, seed=3, launcher=reception)
        finally:
            reception.close()
            running.terminate()


def worker() -> Figure:
    """Show the swings of pendulums of several lengths under torques that are drawn anew at each step."""
    dataset = _samples("worker", 200)
    figure, axes = drawing.new(1, 5.6, 2.8)
    for number in range(4):
        episode = dataset.episode(number)
        angle = np.arctan2(episode["next_state"][:, 1], episode["next_state"][:, 0])
        seconds = 0.02 * np.arange(1, len(angle) + 1)
        axes.plot(seconds, angle, label=f"{float(episode['length'][0].squeeze()):.2f} m")
    drawing.finish(axes, "time (s)", "angle (rad)", "four pendulums of a program in JavaScript, by length")
    return figure


def spring() -> Figure:
    """Show episodes of the program in C, and the same ones in Python."""
    own = _samples("spring", 300)
    python = physgym.generate("physgym/Spring-v0", "data/spring_of_python", samples=300, seed=3, resume=True)
    figure, axes = drawing.new(1, 5.6, 2.8)
    for number, colour in enumerate(("tab:blue", "tab:orange", "tab:green")):
        for dataset, style in ((python, {"linewidth": 4, "alpha": 0.35}), (own, {"linewidth": 1})):
            position = dataset.episode(number)["next_state"][:, 0]
            axes.plot(0.1 * np.arange(1, len(position) + 1), position, color=colour, **style)
    title = "wide: physgym/Spring-v0 in Python; thin: the program in C"
    drawing.finish(axes, "time (s)", "position (m)", title, legend=False)
    return figure


def heat_plate() -> Figure:
    """Show a plate of the program in C at four steps of an episode."""
    episode = _samples("heat_plate", 100).episode(0)["next_temperature"]
    figure, panels = drawing.new(4, 8.4, 2.2)
    limits = {"vmin": float(episode.min()), "vmax": float(episode.max())}
    for axes, step in zip(panels, (0, 5, 10, 19), strict=True):
        drawing.image(axes, np.squeeze(episode[step]), f"step {step + 1}", "K", cmap="inferno", **limits)
    return figure


def pendulum() -> Figure:
    """Show pendulums that a motor turns: angle and speed of six episodes."""
    dataset = _samples("pendulum", 300)
    figure, axes = drawing.new(1, 5.6, 2.9)
    for number in range(6):
        state = dataset.episode(number)["next_state"]
        axes.plot(state[:, 0], state[:, 1])
        axes.plot(*state[0], "o", color=axes.lines[-1].get_color(), markersize=4)
    drawing.finish(axes, "angle (rad)", "angular velocity (rad/s)", "six episodes, from the dots on", legend=False)
    return figure
