"""Rollouts of ``physgym run SESSION --rollout STEPS``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.errors import ConfigError
from physgym.files import short

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset
    from physgym.experiment.schema import Config
    from physgym.running.rollout_report import RolloutReport

STEPS = Annotated[
    int | None,
    typer.Option(
        "--rollout",
        metavar="STEPS",
        min=1,
        help="Let the network continue from its own predictions for so many steps, and print how its error grows. It "
        "starts from the first states of episodes, under the same actions. The feedback must be declared.",
    ),
]
EPISODES = Annotated[
    int | None,
    typer.Option(min=1, help="With --rollout: how many episodes; by default 10 fresh ones, or all of --data."),
]
DATA = Annotated[
    Path | None,
    typer.Option(help="With --rollout: dataset whose episodes are taken, in place of fresh ones of the simulation."),
]
MODE = Annotated[
    str | None,
    typer.Option(help="With --data: its part: test, validation, prediction or training.", show_default="test"),
]
METRICS = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="With --rollout: relative_l2, rmse, mae, mse, max_error, or module:function of (prediction, target), both "
        "of shape (steps, *field shape), that returns a number for each step. May be repeated.",
        show_default="relative_l2",
    ),
]
THRESHOLDS = Annotated[
    list[float] | None,
    typer.Option(
        "--threshold",
        metavar="ERROR",
        help="With --rollout: say how long it takes until the first metric exceeds this. May be repeated.",
    ),
]
OUT = Annotated[
    Path | None,
    typer.Option(
        help="With --rollout: new folder for the figures (rollout.json, rollout.csv), plots (PNG) and animations (GIF)."
    ),
]
NO_ANIMATIONS = Annotated[
    bool, typer.Option("--no-animations", help="With --out: only the figures and plots; animations take longest.")
]
SINGLE_STEPS = {  # options of a run that a rollout has no use for
    "runner.steps": "--steps",
    "runner.surrogate": "--surrogate",
    "runner.frames": "--frames",
    "runner.engine": "--engine",
}
FRESH = {  # those of fresh episodes alone
    "actions": "actions",
    "parameters": "parameters",
    "seed": "seed",
    "workers": "num_workers",
    "envs": "num_envs",
    "timeout": "timeout",
}
LONGEST_WINDOW = 1000  # steps that the windows of a network may need besides


def check_options(rollout: int | None, only: Mapping[str, Any], given: Mapping[str, Any], *, resume: bool) -> None:
    """Check that options of a rollout are given with one, and others without.

    Args:
        rollout: Its steps; None without a rollout.
        only: Values of the options of a rollout, by their names; None for those that were not given.
        given: Values of the others that were given, by key.
        resume: Whether a record is to be continued.

    Raises:
        ConfigError: Some do not fit.
    """
    wanted = [f"--{name}" for name, value in only.items() if value]
    if rollout is None and wanted:
        raise ConfigError(f"{', '.join(wanted)}: for a rollout alone; add --rollout STEPS")
    if rollout is None:
        return
    if only["no-animations"] and only["out"] is None:
        raise ConfigError("--no-animations leaves animations out of the folder of --out; add --out FOLDER")
    others = [option for key, option in SINGLE_STEPS.items() if key in given] + ["--resume"] * resume
    if only["data"] is not None:
        others += [f"--{name}" for name, key in FRESH.items() if f"runner.{key}" in given]
    elif only["mode"]:
        raise ConfigError("--mode is the part of a dataset; add --data DATASET")
    if others:
        of = "the episodes of a dataset" if only["data"] is not None else "a rollout"
        raise ConfigError(f"{', '.join(others)}: not for {of}; leave it out")


def roll_out(
    network: Any,
    config: Config,
    horizon: int,
    options: Mapping[str, Any],
    *,
    env: tuple[str, Any] | None,
    dataset: SampleDataset | None,
    only: Mapping[str, Any],
) -> RolloutReport:
    """Measure rollouts of a network and print their errors.

    Args:
        network: The network.
        config: The configuration of its session.
        horizon: Steps.
        options: Those of the run: seed, samplers, workers, batch size and record.
        env: Id and arguments of the simulation; None for episodes of a dataset.
        dataset: These episodes.
        only: The options of a rollout alone, by name.

    Raises:
        ConfigError: The folder for the results is there, or as for `RolloutEvaluation`.
    """
    from physgym.running.rollout_evaluation import RolloutEvaluation

    if (out := only["out"]) is not None and out.exists():
        raise ConfigError(f"{out} is there already; choose another folder for the results of the rollout")
    metrics = [_metric(name) for name in only["metric"] or ["relative_l2"]]
    feedback = config.dataset.feedback
    workers: dict[str, Any] = {}
    if env is None:
        assert dataset is not None
        evaluation = RolloutEvaluation(dataset, feedback=feedback)
    else:
        names = ("seed", "actions", "parameters")
        drawn: dict[str, Any] = {name: options[name] for name in names}
        drawn["max_steps"] = horizon + LONGEST_WINDOW
        evaluation = RolloutEvaluation(env[0], env_kwargs=env[1], feedback=feedback, **drawn)
        workers = {name: options[name] for name in ("num_envs", "num_workers", "timeout")}
        if workers["num_envs"] is None and workers["num_workers"] is None:
            workers["num_workers"] = 0
    report = evaluation.measure(
        network,
        horizon,
        episodes=only["episodes"],
        metrics=metrics,
        thresholds=only["threshold"] or (),
        record=options["record"],
        batch_size=options["batch_size"],
        progress=True,
        **workers,
    )
    print(report, flush=True)
    if out is not None:
        _save(report, out)
        print(f"\nfigures and plots: {short(out)}", flush=True)
        if not only["no-animations"]:
            _animate(report, out)
    return report


def _metric(name: str) -> Any:
    """Return a metric as `RolloutEvaluation` takes it."""
    from physgym.experiment.components import REFERENCE, find

    if not REFERENCE.fullmatch(name):
        return name
    found = find(name, {}, "--metric")
    if not callable(found):
        raise ConfigError(f"--metric: {name} is {found!r}, and no function")
    return found


def _save(report: RolloutReport, out: Path) -> None:
    """Write the figures and plots into a new folder, or nothing."""
    from physgym.files import absolute, creating

    try:
        with creating(absolute(out), durable=False) as folder:
            folder.mkdir(parents=True)
            report.save_json(folder / "rollout.json")
            report.save_csv(folder / "rollout.csv")
            for metric in report.errors:
                report.plot(folder / f"{_word(metric)}.png", metric)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error


def _animate(report: RolloutReport, out: Path) -> None:
    """Add the animations to the folder, which is complete otherwise.

    Raises:
        KeyboardInterrupt: With a text that says what is there.
    """
    from physgym.progress import Progress
    from physgym.running.rollout_animation import can_animate, frames_of

    shown = report.examples[0]
    moving = [name for name, true in shown.true.items() if can_animate(true.shape[1:]) and shown.finite]
    drawn = 0
    try:
        with Progress(len(moving) * frames_of(shown), "draw animations", "frame") as bar:
            for name in moving:
                report.animate(out / f"{_word(name)}.gif", name, drawn=bar.update)
                drawn += 1
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the figures and plots are complete in {short(out)}, with {drawn} of {len(moving)} "
            "animations (--no-animations leaves them out)"
        ) from None
    if moving:
        print(f"animations: {short(out)}")


def _word(name: str) -> str:
    return name.replace("/", "-")
