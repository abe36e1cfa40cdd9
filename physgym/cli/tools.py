"""Commands for a first look: the demo, and the rules that environments keep."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import INTERRUPTED, USAGE, EnvArguments, Seed, app, arguments_of
from physgym.errors import ConfigError


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything; a taken name gets a suffix.")] = Path("demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few samples, few epochs: a check of the installation.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    seed: Seed = 0,
) -> None:
    """Go from a beam simulation to a trained network.

    Generates, trains, compares, and draws report.png.

    Example: physgym demo --out demo
    """
    from physgym.demos.beam import DEMO, QUICK, study

    try:
        study(QUICK if quick else DEMO, out, num_workers=workers, seed=seed)
    except KeyboardInterrupt:
        print("\ninterrupted; what is complete stays, physgym demo starts again", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def check(
    env: Annotated[
        str,
        typer.Argument(
            metavar="[ENV]",
            help='Registered id; "module:id" imports a module first. With --worker: the environment that it makes; by '
            "default that of its offer.",
        ),
    ] = "",
    worker: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Check a program that connects, in any language, against the protocol."),
    ] = None,
    arg: EnvArguments = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer of --worker.")] = 30.0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of the longest episode, by default 5; longer ones find later faults. Not with --worker."
        ),
    ] = None,
) -> None:
    """Test a simulation, or a worker, against the rules.

    The rules are those that the rest of physgym relies on; for a worker, those of the protocol.

    Examples: physgym check my_package.sims:my/Sim-v0

    physgym check --worker "node worker.js"
    """
    from physgym.testing import check_env, check_worker
    from physgym.testing.conformance import STEPS

    def report(rule: str, fault: str) -> None:
        print(f"{'FAIL' if fault else 'ok  '} {rule.removeprefix('test_').replace('_', ' ')}", flush=True)

    def note(rule: str, text: str) -> None:
        print(f"note {rule.removeprefix('test_').replace('_', ' ')}: {text}", flush=True)

    def skip(rule: str, text: str) -> None:
        print(f"skip {rule.removeprefix('test_').replace('_', ' ')}: {text}", flush=True)

    try:
        if worker is not None and steps is not None:
            raise ConfigError("--steps is for an environment; a worker is checked by rules with steps of their own")
        if worker is not None:
            try:
                command = shlex.split(worker)
            except ValueError as error:
                raise ConfigError(f"--worker {worker!r} is no command: {error}") from error
            check_worker(command, env, arguments_of(arg), report, skip, timeout=timeout)
        elif env:
            longest = steps or STEPS
            episodes, made = check_env(env, report, note, arguments=arguments_of(arg), steps=longest, skip=skip)
            print(
                f"checked the samples of {made} steps in {episodes} episodes, of at most {longest} steps each. "
                f"Faults that come later in an episode need longer ones: --steps {max(60, 2 * longest)}"
            )
        else:
            raise ConfigError("name an environment, or give --worker COMMAND")
    except AssertionError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(USAGE) from None


@app.command(brief=True)
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; by default it is printed.")] = None,
) -> None:
    """Print the JSON schema of configuration files.

    Editors complete and check files with it. Write it to a file, and name that on a configuration's first line: #
    yaml-language-server: $schema=schema.json

    Example: physgym schema --out schema.json
    """
    from physgym.experiment.config import json_schema

    text = json.dumps(json_schema(), indent=2)
    if out is None:
        print(text)
        return
    try:
        out.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error


@app.command(brief=True)
def keys(
    key: Annotated[
        str, typer.Argument(metavar="[KEY]", help="One key or section, such as training or training.epochs; else all.")
    ] = "",
) -> None:
    """Explain the keys of configuration files.

    Prints type, default and meaning of each.

    Example: physgym keys training
    """
    from physgym.experiment.keys import key_text

    print(key_text(key))
