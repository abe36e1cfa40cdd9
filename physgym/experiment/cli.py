"""The command line: ``physgym generate|train|run|demo|check``. Every expected fault is one message and exit code 2."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from physgym._version import __version__
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment.config import read_yaml

USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    name="physgym",
    help="Numerical simulations and deep learning: generate samples, train on them, run the network.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EnvId = Annotated[str, typer.Argument(metavar="ENV", help='Registered id; "module:id" imports a module first.')]
EnvArguments = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="KEY=VALUE", help="Argument of the environment's constructor; may be repeated."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed; equal seeds give equal results.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"physgym {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one.")
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    env: EnvId,
    out: Annotated[Path, typer.Option(help="Dataset folder.")],
    samples: Annotated[int, typer.Option(help="How many samples the dataset shall have.")] = 1000,
    workers: Annotated[int | None, typer.Option(help="Worker processes; by default one per core.")] = None,
    envs: Annotated[int | None, typer.Option(help="Environments; by default one per worker.")] = None,
    seed: Seed = 0,
    arg: EnvArguments = None,
    mode: Annotated[str, typer.Option(help="training, validation or prediction.")] = "training",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the dataset after its last sample.")] = False,
    max_rejects: Annotated[int, typer.Option(help="Give up after so many rejected steps in a row.")] = 10,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a worker.")] = 120.0,
) -> None:
    """Run a simulation in parallel and store its samples.

    Example: physgym generate physgym/Beam-v0 --out data/beam --samples 2000
    """
    from physgym.data.generate import generate as run

    try:
        dataset = run(
            env,
            out,
            samples=samples,
            num_workers=workers,
            num_envs=envs,
            seed=seed,
            env_kwargs=_arguments(arg),
            mode=mode,  # type: ignore[arg-type]  # checked by the writer
            resume=resume,
            max_rejects=max_rejects,
            timeout=timeout,
        )
    except KeyboardInterrupt:
        kept = f"complete samples are in {out}. Continue with the same command and --resume"
        print(f"\ninterrupted; {kept if out.exists() else 'no sample was complete'}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(f"{len(dataset)} samples in {out}")
    for field in dataset.spec.values():
        unit = f" [{field.unit}]" if field.unit else ""
        print(f"  {field.name}: {field.role}, {field.dtype} {field.shape}{unit}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; a session's config.yaml shows every key.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changed keys.")] = None,
) -> None:
    """Train a network as a configuration file says, in a new session folder.

    Example: physgym train examples/beam.yaml training.epochs=20
    """
    from physgym.experiment.build import train as run
    from physgym.experiment.config import load_config

    try:
        outcome = run(load_config(config, overrides or ()))
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'interrupted'}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    last = outcome.history.epochs[-1] if outcome.history.epochs else {}
    print("  ".join(f"{name} {value:.4g}" for name, value in last.items()))
    print(f"session: {outcome.session}\ncurves:  tensorboard --logdir {outcome.session / 'stats'}")
    if outcome.history.interrupted:
        networks = outcome.session / "networks"
        saved = f"the last checkpoint is in {networks}" if networks.exists() else "there is no checkpoint yet"
        print(f"interrupted; {saved}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


@app.command()
def run(
    session: Annotated[Path, typer.Argument(help="Session folder of a training.")],
    steps: Annotated[
        int, typer.Option(help="Steps; 0 goes on until Ctrl-C and reports no errors, or to the end of a replay.")
    ] = 100,
    which: Annotated[str, typer.Option(help="Checkpoint: last, best, or an epoch that is kept.")] = "last",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the run; other than the training's shows unseen episodes.")
    ] = 1,
    record: Annotated[Path | None, typer.Option(help="Dataset folder for samples and predictions.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Dataset whose samples are run again, from their seeds.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Folder for a picture of each step.")] = None,
) -> None:
    """Run a trained network inside its simulation, next to the solver.

    Example: physgym run sessions/beam --steps 200 --frames frames
    """
    from physgym.data.dataset import SampleDataset
    from physgym.experiment.config import check_config
    from physgym.experiment.session import CONFIG, read_config
    from physgym.runner import Runner, SaveFrames
    from physgym.training import load_checkpoint

    if steps < 0:
        raise ConfigError(f"--steps must not be negative, got {steps}")
    config = check_config(read_config(session), str(session / CONFIG))
    arguments = dict(config.environment.arguments)
    if frames is not None:
        arguments["render_mode"] = "rgb_array"
    predictor = load_checkpoint(session, int(which) if which.isdecimal() else which)
    with Runner(config.environment.id, predictor, seed=seed, env_kwargs=arguments, record=record) as runner:
        report = runner.run(
            steps or None,
            replay=None if replay is None else SampleDataset(replay),
            callbacks=[SaveFrames(frames)] if frames is not None else [],
        )
    print(f"{report.steps} steps, {report.rejected} rejected")
    for name, errors in report.errors.items():
        unit = runner.spec[name].unit
        summary = errors.summary
        print(
            f"{name}: relative L2 error {summary['relative_l2']:.2%}, mean error {summary['mean_error']:.4g} {unit}, "
            f"largest {summary['max_error']:.4g} {unit}"
        )
    if len(report.solver_seconds):
        print(
            f"median time per step: simulation {np.median(report.solver_seconds) * 1e3:.2f} ms, "
            f"network {np.median(report.network_seconds) * 1e3:.2f} ms"
        )
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


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


def _arguments(pairs: list[str] | None) -> dict[str, Any]:
    """Constructor arguments of ``--arg key=value``; values are read as YAML."""
    arguments = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--arg {pair!r}: write key=value")
        try:
            arguments[key] = read_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--arg {pair!r}: the value is not YAML") from error
    return arguments


def main() -> None:
    """Entry point of the console script."""
    with contextlib.suppress(FileNotFoundError):  # the folder may have been deleted
        sys.path.insert(0, str(Path.cwd()))  # "module:id" means a module of the user, who stands beside it
    try:
        app()
    except PhysGymError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
