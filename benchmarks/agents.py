"""Agents that act and learn: how fast and how well, beside Stable-Baselines3 and a script in the manner of CleanRL.

--speed: environment steps in a second of acting and learning together, and the share of the time in which a gradient
step is made. Beside Stable-Baselines3 with 8 environments, both with a gradient step of 128 transitions for every 32
steps; beside the script with its one environment and its defaults, a gradient step for every 10 steps. The algorithm is
plain Q-learning everywhere, the networks are those of the other side. Each figure is of a process of its own, in turn;
shown are medians of several rounds, and the medians of the ratios of each round.

--learn TASK: returns, or laps on 20 roads that nobody trained on, while learning and in the end, each seed in a run of
its own. The network that counts is the last one. A run that was interrupted is continued, ours from its session, a
peer's from its beginning; one that is done is left alone. Time is that of training, without the judging.

--draw FILE: the learning curves of all runs in the folder.

Everything computes with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from agent_peers import Clock, baselines, sb3_speed, sb3_trained, script_speed  # noqa: E402
from agent_tasks import BINS, CAMERA, PICTURE, STATE, TASKS, Task, judged  # noqa: E402
from isolated import Failed, call  # noqa: E402

from physgym.events import Callback  # noqa: E402
from physgym.files import write_atomically  # noqa: E402

TARGETS = {"sb3": (1.5, 1.5, 1.0), "script": (1.0, 1.0, 1.0)}  # least ratio, for each of WORKS
EPSILON = 0.05


# --- speed


ONE = {"simulations_per_step": 1}
WORKS = {
    "CartPole": Task("CartPole-v1", {}, {}),
    "track, state": Task("physgym/Track-v0", {}, {}, env_kwargs={**STATE, **ONE}, preprocessing=BINS),
    "track, pixels": Task(
        "physgym/Track-v0", {}, {}, env_kwargs={**CAMERA, **ONE}, preprocessing=[*PICTURE, *BINS], stack=4
    ),
}
WAYS = {  # peer, and what is compared with it
    "sb3": ("Stable-Baselines3", "Stable-Baselines3, a process each", "physgym", "physgym, 2 workers"),
    "script": ("script", "physgym, 1 environment", "physgym, 10 environments"),
}


def speed_of(work: str, peer: str, way: str, seconds: float, warm: int) -> dict[str, float]:
    """Return the figures of a way; called in a process of its own."""
    torch.set_num_threads(1)
    task, clock = WORKS[work], Clock(warm, seconds)
    capacity = 20_000 if task.stack > 1 else 100_000
    if way == "script":
        settings = {"learning_starts": warm // 2, "buffer_size": min(10_000, capacity)}
        return script_speed(task.stacked, clock, first_epsilon=EPSILON, last_epsilon=EPSILON, **settings)
    if way.startswith("Stable-Baselines3"):
        settings = {
            "policy": "CnnPolicy" if task.stack > 1 else "MlpPolicy",
            "batch_size": 128,
            "train_freq": 4,
            "gradient_steps": 1,
            "learning_starts": warm // 2,
            "buffer_size": capacity,
            "exploration_initial_eps": EPSILON,
            "exploration_final_eps": EPSILON,
        }
        return sb3_speed(task.stacked, 8, settings, clock, processes="process" in way)
    hidden = [64, 64] if peer == "sb3" else [120, 84]
    network = {"type": "MLP", "arguments": {"hidden": hidden, "activation": "relu"}}
    if task.stack > 1:
        network = {"type": "CNN"}
    envs = {"physgym, 1 environment": 1, "physgym, 10 environments": 10}.get(way, 8)
    return ours_speed(
        task,
        clock,
        network=network,
        num_envs=envs,
        num_workers=2 if "workers" in way else 0,
        learn_every=32 if peer == "sb3" else 10,
        learning_starts=warm // 2,
        capacity=capacity,
    )


def ours_speed(task: Task, clock: Clock, *, network: Any, **settings: Any) -> dict[str, float]:
    from physgym.rl.agent_trainer import AgentTrainer

    kwargs = {"epsilon_start": EPSILON, "epsilon_end": EPSILON, "double": False, "network": network}

    class Timing(Callback):
        def train_begin(self, trainer: Any) -> None:
            learning = trainer._parts.learning
            learning.step = clock.timed(learning.step)

    trainer = AgentTrainer(
        "dqn",
        task.env,
        env_kwargs=task.env_kwargs,
        agent_kwargs=kwargs,
        callbacks=[Timing()],
        record=False,
        preprocessing=task.preprocessing,
        stack=task.stack,
        steps=10**9,
        batch_size=128,
        gradient_steps=1,
        report_every=10**6,
        save_every=0,
        progress=False,
        **settings,
    )
    act = trainer.agent.act

    def acting(*args: Any, **more: Any) -> np.ndarray:
        if not clock.stepped(trainer.agent.steps):
            trainer.stop("it was measured")
        return act(*args, **more)

    trainer.agent.act = acting

    trainer.fit()
    return clock.figures


def measured(rounds: int, seconds: float, quick: bool, works: list[str]) -> dict[str, Any]:
    """Return the figures of all ways, measured in turn."""
    found: dict[str, Any] = {}
    for work in works:
        for peer, ways in WAYS.items():
            chosen = [way for way in ways if not (quick and ("workers" in way or "process" in way))]
            rows: dict[str, list[dict[str, float]]] = {way: [] for way in chosen}
            for turn in range(rounds):
                for way in chosen if turn % 2 == 0 else chosen[::-1]:
                    how = {"work": work, "peer": peer, "way": way, "seconds": seconds, "warm": 300 if quick else 3000}
                    try:
                        figures = speed_of(**how) if quick else call("agents", "speed_of", "torch", 600, **how)
                        rows[way].append(figures)
                    except Failed as error:
                        print(f"{work}, {way}: {error}", file=sys.stderr, flush=True)
            found[f"{work} beside {peer}"] = rows
            show_speed(work, peer, rows)
    return found


def show_speed(work: str, peer: str, rows: Mapping[str, list[dict[str, float]]]) -> None:
    limit, (base, *_) = dict(zip(WORKS, TARGETS[peer], strict=True))[work], rows
    print(f"\n{work}, beside {base}\n{'steps/s':<40}{'':>10}{'learning':>10}{'ratio':>8}")
    for way, figures in rows.items():
        if not figures:
            continue
        speed, learning = (statistics.median(one[name] for one in figures) for name in ("steps_per_second", "learning"))
        pairs = [a["steps_per_second"] / b["steps_per_second"] for a, b in zip(figures, rows[base], strict=False)]
        ratio, mark = statistics.median(pairs) if pairs else 0.0, ""
        if way.startswith("physgym"):
            mark = " *" if ratio >= limit else " !"
        print(f"{way:<40}{speed:>10,.0f}{learning:>10.0%}{ratio:>8.2f}{mark}", flush=True)


# --- learning


class Run:
    """The record of one run, in a file that is written after each judgement.

    Args:
        folder: Of all runs.
        task: Name of the task.
        way: "physgym" or "sb3".
        seed: Of the run.
        minutes: Of training.
        quick: Whether it is tiny.
    """

    def __init__(self, folder: Path, task: str, way: str, seed: int, minutes: float, quick: bool) -> None:
        self.name, self.task, self.quick = f"{task}-{way}-{seed}", TASKS[task], quick
        self.file, self.session = (folder / f"{self.name}.json", folder / "sessions" / self.name)
        self.minutes = minutes
        self.steps = 600 if quick else self.task.steps
        self.every = self.steps if quick else max(1, self.steps // self.task.evaluations)
        self.judged = 2 if quick else self.task.judged
        given = {"task": task, "way": way, "seed": seed, "steps": self.steps, "minutes": minutes}
        self.record: dict[str, Any] = {**given, "done": False, "points": [], "seconds": 0.0}
        if self.file.exists():
            self.record = json.loads(self.file.read_text())
        self._began = time.perf_counter()

    @property
    def done(self) -> bool:
        return bool(self.record["done"])

    def restart(self) -> None:
        """Begin the record anew."""
        self.record |= {"points": [], "seconds": 0.0}

    def begin(self) -> None:
        """Begin to count the time."""
        self._began = time.perf_counter() - self.record["seconds"]

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def over(self) -> bool:
        return self.seconds > 60 * self.minutes

    def judge(self, steps: int, act: Any, make: Any, *, last: bool = False) -> dict[str, Any]:
        """Take note of what an agent reaches after so many steps; the time stands still meanwhile."""
        self.record["seconds"] = self.seconds
        count = self.judged if self.quick or self.task.on_track or not last else 100
        found = judged(self.task, act, count, make, self.quick)
        point = {"steps": steps, "seconds": round(self.record["seconds"], 2), **found}
        if last:
            self.record |= {"final": point, "done": True, "torch": torch.__version__, "cores": os.cpu_count()}
        else:
            self.record["points"].append(point)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, json.dumps(self.record, indent=1) + "\n")
        words = ", ".join(f"{name} {found[name]:.4g}" for name in ("return", "laps", "distance") if name in found)
        print(f"{self.name}: {steps} steps, {point['seconds']:.0f} s: {words}{' (last)' if last else ''}", flush=True)
        self.begin()
        return found


def learn_ours(run: Run) -> None:
    from physgym.rl import AgentTrainer, load_agent

    task = run.task

    def policy(trainer: Any) -> Callable[[np.ndarray], np.ndarray]:
        trainer.policy.reset()
        return trainer.policy.act

    class Judging(Callback):
        def train_begin(self, trainer: Any) -> None:
            run.record["points"] = [point for point in run.record["points"] if point["steps"] <= trainer.step]
            run.begin()

        def epoch_end(self, trainer: Any, values: dict[str, float]) -> None:
            run.judge(trainer.step, policy(trainer), task.make)
            if run.over:
                trainer.stop("the time is over")

    ours = dict(task.ours)
    agent, resume = ours.pop("agent"), run.session.exists()
    if not resume:
        run.restart()
    if run.quick:
        ours |= {"learning_starts": 100}
    if task.chosen is not None:
        ours |= {**task.chosen, "evaluate_every": run.every}
    trainer = AgentTrainer(
        agent,
        task.env,
        env_kwargs=task.env_kwargs,
        preprocessing=task.preprocessing,
        stack=task.stack,
        num_envs=task.envs,
        num_workers=0,
        steps=run.steps,
        seed=run.record["seed"],
        report_every=run.every,
        save_every=run.every,
        session=run.session,
        resume=resume,
        callbacks=[Judging()],
        record=False,
        progress=False,
        **ours,
    )
    if trainer.fit().interrupted:
        raise KeyboardInterrupt
    if task.chosen is not None:
        best = load_agent(run.session, which="best")
        run.record["chosen"] = judged(task, best.act, run.judged, task.make, run.quick)
    run.judge(trainer.step, policy(trainer), task.make, last=True)


def learn_sb3(run: Run) -> None:
    task = run.task
    run.restart()
    settings = dict(task.peer)
    if run.quick:
        settings |= {"learning_starts": 100}
    model, vector = baselines(task.stacked, task.envs, task.peer_name, settings, seed=run.record["seed"])
    after = [run.every]

    def act(observations: np.ndarray) -> np.ndarray:
        return model.predict(observations, deterministic=True)[0]

    def watch(model: Any) -> bool:
        if model.num_timesteps >= after[0]:
            after[0] += run.every
            run.judge(model.num_timesteps, act, task.stacked)
        return model.num_timesteps < run.steps and not run.over

    with contextlib.closing(vector):
        run.begin()
        sb3_trained(model, run.steps, watch)
        run.judge(model.num_timesteps, act, task.stacked, last=True)


LEARNERS = {"physgym": learn_ours, "sb3": learn_sb3}


def summary(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all runs by name, and print what they reached."""
    runs = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    runs = {name: one for name, one in runs.items() if "points" in one}
    for name, one in runs.items():
        task = TASKS[one["task"]]
        value = "laps" if task.on_track else "return"
        reached = next((point for point in one["points"] if point[value] >= task.enough), None)
        first = f"{reached['steps']:,} steps, {reached['seconds']:.0f} s" if reached else "-"
        last = one.get("final") or (one["points"] or [{}])[-1]
        if "chosen" in one:
            print(f"{name:<28}{value} {one['chosen'][value]:>8.4g} of the network that other episodes chose")
        print(
            f"{name:<28}{value} {last.get(value, float('nan')):>8.4g} in the end; {task.enough:g} first after {first}"
        )
    return runs


def draw(runs: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw the learning curves of each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in TASKS if any(one["task"] == name and one["points"] for one in runs.values())]
    titles = {
        "cartpole": "CartPole, DQN",
        "track-dqn": "track from state, double DQN",
        "track-sac": "track from state, SAC",
        "track-pixels": "track from pixels, double DQN",
    }
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.9), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        value = "laps" if TASKS[name].on_track else "return"
        for way, colour, label in (("physgym", "#1f6fb4", "physgym"), ("sb3", "#b0b0b0", "Stable-Baselines3")):
            for one in runs.values():
                if one["task"] == name and one["way"] == way and one["points"]:
                    steps = [0, *(point["steps"] for point in one["points"])]
                    values = [0, *(point[value] for point in one["points"])]
                    axis.plot(steps, values, color=colour, linewidth=1.2, label=label)
                    label = None
        axis.axhline(TASKS[name].enough, color="black", linewidth=0.6, linestyle="dotted")
        axis.set(title=titles[name], xlabel="environment steps", ylim=(0, None))
        axis.set_ylabel("lap on unseen roads" if value == "laps" else "mean return")
        axis.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k")
    axes[0][0].legend(loc="lower right", fontsize="small")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure the speed")
    parser.add_argument("--works", nargs="*", choices=[*WORKS], default=[*WORKS], help="where; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="of speeds; %(default)s")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each speed; %(default)s")
    parser.add_argument("--learn", nargs="*", choices=[*TASKS], default=[], help="what to learn")
    parser.add_argument("--ways", nargs="*", choices=[*LEARNERS], default=[*LEARNERS], help="whose; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="%(default)s")
    parser.add_argument("--minutes", type=float, default=45.0, help="of each run at the most; %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("agents"), help="of the runs; %(default)s")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the curves of all runs into a picture")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it works; the figures say nothing")
    parser.add_argument("--json", type=Path, help="write speeds and runs to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "gymnasium": gymnasium.__version__},
        "cores": os.cpu_count(),
    }
    if arguments.json and arguments.json.exists():
        report = json.loads(arguments.json.read_text()) | report
    if arguments.speed:
        seconds, rounds = (0.2, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
        report["speed"] = measured(rounds, seconds, arguments.quick, arguments.works)
    for task in arguments.learn:
        for seed in arguments.seeds:
            for way in arguments.ways:
                run = Run(arguments.folder, task, way, seed, arguments.minutes, arguments.quick)
                if not run.done:
                    LEARNERS[way](run)
    if arguments.folder.is_dir():
        report["runs"] = summary(arguments.folder)
    if arguments.draw:
        draw(report.get("runs", {}), arguments.draw)
    if arguments.json:
        write_atomically(arguments.json, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
