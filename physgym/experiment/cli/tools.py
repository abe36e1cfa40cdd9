"""Commands for a first look: the demo, and the rules that environments keep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from physgym.experiment.cli.app import INTERRUPTED, USAGE, EnvId, Seed, app


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything; a taken name gets a suffix.")] = Path("demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few samples, few epochs: a check of the installation.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    seed: Seed = 0,
) -> None:
    """From a beam simulation to a trained network: generate, train, compare, report.png.

    Example: physgym demo --out demo
    """
    from physgym.experiment.beam_study import DEMO, QUICK, study

    try:
        study(QUICK if quick else DEMO, out, num_workers=workers, seed=seed)
    except KeyboardInterrupt:
        print("\ninterrupted; what is complete stays", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def check(env: EnvId) -> None:
    """Check an environment against the rules that physgym's parts rely on.

    Example: physgym check my_package.sims:my/Sim-v0
    """
    from physgym.testing import check_env

    def report(rule: str, fault: str) -> None:
        print(f"{'FAIL' if fault else 'ok  '} {rule.removeprefix('test_').replace('_', ' ')}")

    try:
        check_env(env, report)
    except AssertionError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(USAGE) from None
