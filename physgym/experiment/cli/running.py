"""Commands that run trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physgym.errors import ConfigError
from physgym.experiment.cli.app import INTERRUPTED, Actions, Parameters, app

Which = Annotated[str, typer.Option(help="Checkpoint: last, best, or an epoch that is kept.")]
Record = Annotated[Path | None, typer.Option(help="Dataset folder for samples, predictions and errors.")]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Predict for so many samples at once, where nothing waits for a single prediction.")
]
Frames = Annotated[Path | None, typer.Option(help="Folder for a picture of each step.")]


@app.command()
def run(
    session: Annotated[Path, typer.Argument(help="Session folder of a training.")],
    steps: Annotated[int, typer.Option(min=0, help="Steps; 0 goes on until Ctrl-C.")] = 100,
    which: Which = "last",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the run; other than the training's shows unseen episodes.")
    ] = 1,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes that run the simulation; by default it runs in this one.")
    ] = None,
    envs: Annotated[int | None, typer.Option(help="Environments in workers; by default one per worker.")] = None,
    surrogate: Annotated[
        bool, typer.Option("--surrogate", help="The network makes the steps, in place of the solver.")
    ] = False,
    record: Record = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the record after its last sample.")] = False,
    frames: Frames = None,
    batch_size: BatchSize = 1,
    actions: Actions = None,
    parameters: Parameters = None,
) -> None:
    """Run a trained network inside its simulation, next to the solver.

    Says how far its predictions are from what the solver gives, and what both cost.

    Example: physgym run sessions/beam --steps 200 --frames frames
    """
    if frames is not None and (workers is not None or envs is not None):
        raise ConfigError("--frames needs the simulation in this process: leave --workers and --envs out")
    _run(
        session,
        which,
        steps,
        frames=frames,
        seed=seed,
        num_workers=workers,
        num_envs=envs,
        surrogate=surrogate,
        record=record,
        resume=resume,
        batch_size=batch_size,
        actions=actions,
        parameters=parameters,
    )


@app.command()
def replay(
    session: Annotated[Path, typer.Argument(help="Session folder of a training.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    mode: Annotated[str, typer.Option(help="Part of the dataset: training, validation or prediction.")] = "training",
    solver: Annotated[
        bool, typer.Option("--solver", help="Run the simulation too, from the stored seeds, and check that it agrees.")
    ] = False,
    steps: Annotated[int, typer.Option(min=0, help="Samples; 0 takes all.")] = 0,
    which: Which = "last",
    record: Record = None,
    frames: Frames = None,
    batch_size: BatchSize = 1,
    actions: Annotated[
        str | None, typer.Option(metavar="SAMPLER", help="With --solver: what gave the actions, if it was a network.")
    ] = None,
) -> None:
    """Let a trained network predict the stored samples of a dataset again, without the simulation.

    Says how far its predictions are from what is stored, and what they cost.

    Example: physgym replay sessions/beam --data data/beam --record predictions
    """
    from physgym.data.dataset import SampleDataset

    if not solver and (frames is not None or actions is not None):
        raise ConfigError("--frames and --actions need the simulation: add --solver")
    dataset = SampleDataset(data, mode=mode)  # type: ignore[arg-type]  # checked by it
    more: dict[str, Any] = {"record": record, "batch_size": batch_size, "actions": actions}
    _run(session, which, steps, frames=frames, stored=dataset, solver=solver, **more)


def _run(
    session: Path, which: str, steps: int, *, frames: Path | None, stored: Any = None, solver: bool = True, **more: Any
) -> None:
    """Run a session's network, with the solver or on stored samples alone, and print the report."""
    from physgym.experiment.config import check_config
    from physgym.experiment.session import CONFIG, read_config
    from physgym.runner import Runner, SaveFrames
    from physgym.training import load_checkpoint

    env: str | None = None
    if solver:
        environment = check_config(read_config(session), str(session / CONFIG)).environment
        env, more["env_kwargs"] = environment.id, dict(environment.arguments)
        if frames is not None:
            more["env_kwargs"]["render_mode"] = "rgb_array"
    predictor = load_checkpoint(session, int(which) if which.isdecimal() else which)
    with Runner(env, predictor, **more) as runner:
        report = runner.run(
            steps or None,
            replay=stored,
            solver=solver and stored is not None,
            callbacks=[SaveFrames(frames)] if frames is not None else [],
        )
    print(report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
