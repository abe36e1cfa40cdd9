"""Commands that train networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from physgym.errors import ConfigError
from physgym.experiment.cli.app import INTERRUPTED, app

if TYPE_CHECKING:
    from physgym.experiment.config import Config


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; a session's config.yaml shows every key.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changed keys.")] = None,
) -> None:
    """Train a network as a configuration file says, in a new session folder.

    Example: physgym train examples/beam.yaml training.epochs=20
    """
    from physgym.experiment.config import load_config

    _train(load_config(config, overrides or ()))


@app.command()
def resume(
    session: Annotated[Path, typer.Argument(help="Session folder of a training that was interrupted or killed.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changed keys; training.epochs trains longer."),
    ] = None,
) -> None:
    """Continue a training: on a CPU to the same weights as if it had never been interrupted.

    It goes on from the last checkpoint; where there is none yet, from the last sample that was stored.

    Example: physgym resume sessions/beam
    """
    from physgym.experiment.config import check_config, load_config
    from physgym.experiment.session import CONFIG, read_config

    stored = check_config(read_config(session), str(session / CONFIG))
    config = load_config(session / CONFIG, overrides or ())
    if config.training.epochs != stored.training.epochs and config.optimization.schedule != "constant":
        raise ConfigError(
            f"training.epochs: the schedule {config.optimization.schedule} spans the {stored.training.epochs} epochs "
            f"that were planned. Start a new session with network.start_from={session}"
        )
    _train(config, session)


def _train(config: Config, session: Path | None = None) -> None:
    from physgym.experiment.build import train as run

    try:
        outcome = run(config, session)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'interrupted'}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    last = outcome.history.epochs[-1] if outcome.history.epochs else {}
    print("  ".join(f"{name} {value:.4g}" for name, value in last.items()))
    if outcome.history.stopped:
        print(f"stopped: {outcome.history.stopped}")
    print(f"session: {outcome.session}\ncurves:  tensorboard --logdir {outcome.session / 'stats'}")
    if outcome.history.interrupted:
        print(f"interrupted; continue with: physgym resume {outcome.session}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
