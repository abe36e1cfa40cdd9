"""Pictures of the examples with agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import physgym
from docs.pictures import drawing
from docs.pictures.work import numbers, printed
from physgym.adapters.donkeycar import DonkeyCarEnv
from physgym.rl import load_agent
from physgym.testing.fake_donkey import FakeDonkey
from physgym.training import load_checkpoint
from physgym.training.stored_history import read_history

SESSIONS = Path("sessions")


def _learning(axes: Any, session: Path, title: str) -> None:
    """Draw what an agent reaches while it learns."""
    epochs = read_history(session)[0].epochs
    learned = [(epoch["step"], epoch["return"]) for epoch in epochs if np.isfinite(epoch.get("return", np.nan))]
    judged = [(epoch["step"], epoch["evaluation_return"]) for epoch in epochs if "evaluation_return" in epoch]
    axes.plot(*zip(*learned, strict=True), color="0.6", label="while it explores")
    if judged:
        axes.plot(*zip(*judged, strict=True), "o-", label="without exploration")
    drawing.finish(axes, "steps of all environments", "mean return", title, legend=bool(judged))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def dqn_cartpole() -> Figure:
    """Show returns while the agent learns to balance."""
    printed("dqn_cartpole", "--session", "sessions/dqn_cartpole_py")
    figure, axes = drawing.new(1, 5.6, 2.8)
    _learning(axes, SESSIONS / "dqn_cartpole_py", "a pole on a cart; 500 is the most")
    return figure


def dqn_track() -> Figure:
    """Show the way of the agent on a road that it has never seen, and returns while it learned."""
    printed("dqn_track", "--steps", "100000")
    agent = load_agent(SESSIONS / "dqn_track")
    figure, (left, right) = drawing.new(2, 7.4, 3.0)
    env = gymnasium.make("physgym/Track-v0", observation="state", tracks=(1000, 1020))
    env = gymnasium.wrappers.DiscretizeAction(env, bins=(7, 2))
    places, speeds = [], []
    observation, over = env.reset(seed=3)[0], False
    while not over and len(places) < 1000:
        places.append(env.unwrapped._position.copy())
        speeds.append(observation[2])
        observation, _, terminated, truncated, _ = env.step(int(agent.act(observation[None])[0]))
        over = terminated or truncated
    _road(left, env.unwrapped.course)
    left.plot(*np.array(places).T, color="tab:blue", linewidth=1.2, zorder=3)
    left.plot(*places[0], "o", color="tab:blue", markersize=5, zorder=4)
    left.set_title(f"{len(places) * 0.05:.0f} s on an unseen road, {np.mean(speeds):.1f} m/s on average", fontsize=9)
    _learning(right, SESSIONS / "dqn_track", "returns on 1,000 roads, while it explores")
    return figure


def _road(axes: Any, course: Any) -> None:
    """Draw a road of 3.5 m on both sides of its middle."""
    points = np.vstack([course.points, course.points[:1]])
    axes.plot(*points.T, color="0.85", linewidth=11, solid_capstyle="round", zorder=1)
    axes.plot(*points.T, color="white", linewidth=0.8, linestyle="--", zorder=2)
    axes.set_aspect("equal")
    axes.set_xlabel("x (m)", fontsize=9)
    axes.set_ylabel("y (m)", fontsize=9)
    axes.tick_params(labelsize=8)


def ppo() -> Figure:
    """Show returns while the policy learns to balance."""
    found = numbers(r"(\d+) steps +\d+/s +mean return of +\d+ episodes: +([\d.]+)", printed("ppo"))
    figure, axes = drawing.new(1, 5.6, 2.8)
    axes.plot(*found.T, "o-", markersize=3)
    drawing.finish(
        axes, "steps of 16 environments", "mean return of 100 episodes", "CartPole-v1; 500 is the most", legend=False
    )
    return figure


def surrogate_policy() -> Figure:
    """Show what the policy of each round reaches in the network and in the simulation."""
    text = printed("surrogate_policy")
    found = numbers(r"round (\d+), (\d+) transitions", text)
    returns = numbers(r"surrogate +([\d.]+)[^\n]*\nsimulation +([\d.]+)", text)
    figure, axes = drawing.new(1, 5.6, 2.8)
    places = found[:, 0]
    axes.bar(places - 0.2, returns[:, 0], 0.4, color="0.7", label="in the network")
    axes.bar(places + 0.2, returns[:, 1], 0.4, color="tab:blue", label="in the simulation")
    axes.set_xticks(places, [f"{int(number)}\n{int(count):,}" for number, count in found])
    drawing.finish(axes, "round, transitions that the network has seen", "mean return", "a policy trained on a network")
    return figure


def from_recordings() -> Figure:
    """Show the returns of recorded drives, and that of the agent that learned from them."""
    text = printed("from_recordings")
    dataset = physgym.SampleDataset("data/drives")
    returns = np.bincount(dataset.index("episode"), weights=dataset[:]["reward"].ravel())
    reached = numbers(r"return ([\d.]+) ± [\d.]+, length", text)[0, 0]
    figure, axes = drawing.new(1, 5.6, 2.8)
    axes.bar(range(len(returns)), np.sort(returns), color="0.7", label="recorded, with random actions")
    axes.axhline(reached, color="tab:blue", label="agent, mean of 10 unseen roads")
    drawing.finish(axes, "recorded drive, in the order of its return", "return", "learned from recordings alone")
    return figure


def imitation() -> Figure:
    """Show what the rule does and what the network would do, in the states of a recording."""
    text = printed("imitation")
    dataset = physgym.SampleDataset(SESSIONS / "imitation" / "to_imitate")
    predictor = load_checkpoint(SESSIONS / "imitation" / "session")
    rows = dataset[:: max(1, len(dataset) // 800)]
    answers = np.array([predictor.predict({"observation": one})["action"] for one in rows["observation"]])
    figure, panels = drawing.new(2, 7.0, 2.9)
    for axes, column, name in zip(panels, (0, 1), ("steering", "throttle"), strict=True):
        low, high = rows["action"][:, column].min(), rows["action"][:, column].max()
        axes.plot([low, high], [low, high], color="0.8", zorder=0)
        axes.scatter(rows["action"][:, column], answers[:, column], s=4)
        drawing.finish(axes, f"{name} of the rule", f"{name} of the network", legend=False)
    driven = text.strip().splitlines()[-1]
    figure.suptitle(
        f"the network then drives {driven.removesuffix(' by the network')} on three unseen roads", fontsize=9
    )
    return figure


def donkeycar() -> Figure:
    """Show returns of the first 6,000 steps in a simulator of DonkeyCar."""
    printed("donkeycar", "sessions/donkeycar", "6000")
    epochs = read_history(SESSIONS / "donkeycar")[0].epochs
    learned = [(epoch["step"], epoch["return"]) for epoch in epochs if np.isfinite(epoch.get("return", np.nan))]
    figure, (left, right) = drawing.new(2, 7.6, 2.8)
    with FakeDonkey(period=0.01) as simulator:
        env = DonkeyCarEnv(port=simulator.port, max_cte=4.0, timeout=20.0)
        try:
            env.reset(seed=0)
            for _ in range(40):
                picture = env.step(np.array([0.0, 0.5], np.float32))[0]
        finally:
            env.close()
    left.imshow(picture)
    left.axhline(39.5, color="white", linestyle="--", linewidth=1)
    left.set_axis_off()
    left.set_title("its camera; the network sees what is below the line", fontsize=9)
    right.plot(*zip(*learned, strict=True), "o-", color="0.5", markersize=4)
    right.set_ylim(bottom=0)
    drawing.finish(right, "step", "mean return", "the first 6,000 steps, while it explores", legend=False)
    return figure
