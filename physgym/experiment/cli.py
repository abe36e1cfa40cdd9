"""The command line: ``physgym generate|train|resume|run|replay|demo|check|info|export|import``.

Every expected fault is one message and exit code 2.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from physgym._version import __version__
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment.config import read_yaml

if TYPE_CHECKING:
    from physgym.experiment.config import Config

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
Actions = Annotated[
    str | None,
    typer.Option(
        metavar="SAMPLER",
        help="Where actions come from: uniform, gaussian, sobol, lhs[:STRATA], grid[:POINTS] or network:SESSION; "
        "by default the environment's own sampler, else uniform.",
    ),
]
Parameters = Annotated[
    str | None,
    typer.Option(
        metavar="SAMPLER",
        help="Where the parameters of episodes come from: uniform, gaussian, sobol, lhs[:STRATA], grid[:POINTS] or "
        "breed; by default the environment draws them.",
    ),
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
    out: Annotated[Path, typer.Option(help="Dataset folder, or s3://bucket/prefix.")],
    samples: Annotated[int, typer.Option(help="How many samples the dataset shall have.")] = 1000,
    workers: Annotated[int | None, typer.Option(help="Worker processes; by default one per core.")] = None,
    envs: Annotated[int | None, typer.Option(help="Environments; by default one per worker.")] = None,
    seed: Seed = 0,
    arg: EnvArguments = None,
    mode: Annotated[str, typer.Option(help="training, validation or prediction.")] = "training",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the dataset after its last sample.")] = False,
    actions: Actions = None,
    parameters: Parameters = None,
    keep_rejected: Annotated[
        bool, typer.Option("--keep-rejected", help="Keep the samples of rejected steps apart, with the reasons.")
    ] = False,
    nonfinite: Annotated[
        str,
        typer.Option(help="What a sample with NaN or infinity is: error, reject (a rejected step) or allow (stored)."),
    ] = "error",
    max_rejects: Annotated[int, typer.Option(help="Give up after so many rejected steps in a row.")] = 10,
    max_steps: Annotated[int, typer.Option(help="End an episode after so many steps.")] = 1000,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start a worker that dies or hangs again; the samples are the same.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a worker.")] = 120.0,
) -> None:
    """Run a simulation in parallel and store its samples.

    The same command gives the same samples, whatever the number of workers, crashes and resumes.

    Example: physgym generate physgym/Spring-v0 --out data/spring --samples 2000 --parameters sobol
    """
    from physgym.data.generate import generate as run
    from physgym.storage import Location, place

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
            max_steps=max_steps,
            timeout=timeout,
            on_error="restart" if restart else "raise",
            actions=actions,
            parameters=parameters,
            keep_rejected=keep_rejected,
            nonfinite=nonfinite,  # type: ignore[arg-type]  # checked by the stream
        )
    except KeyboardInterrupt:
        kept = f"complete samples are in {place(out)}. Continue with the same command and --resume"
        some = isinstance(place(out), Location) or out.exists()
        print(f"\ninterrupted; {kept if some else 'no sample was complete'}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(f"{len(dataset)} samples in {place(out)}")
    for field in dataset.spec.values():
        unit = f" [{field.unit}]" if field.unit else ""
        print(f"  {field.name}: {field.role}, {field.dtype} {field.shape}{unit}")
    if (parameters_of := dataset.parameter_episodes) is not None:
        print(f"parameters of {len(parameters_of)} episodes: {', '.join(dataset.parameters or {})}")
    if dataset.rejected is not None:
        print(f"{len(dataset.rejected.reasons)} rejected samples")


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


@app.command()
def info(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every partition with its checksum.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write dataset.json anew, from the partitions alone.")
    ] = False,
) -> None:
    """Say what a dataset holds: samples, partitions, fields with statistics, where it comes from.

    Example: physgym info data/beam --verify
    """
    from physgym.data.dataset import SampleDataset
    from physgym.data.describe import describe, stored
    from physgym.data.writer import rebuild_description

    if rebuild:
        rebuild_description(data)
    for line in describe(data):
        print(line)
    if verify:
        modes = {mode: parts for mode, parts in stored(data).items() if any(part.count for part in parts)}
        for mode in modes:
            SampleDataset(data, mode=mode).verify()
        sealed = [part.sealed for parts in modes.values() for part in parts]
        unsealed = len(sealed) - sum(sealed)
        note = f"; {unsealed} open ones have none yet" if unsealed else ""
        print(f"the checksums of {sum(sealed)} partitions are right{note}")


@app.command()
def export(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder, or file .npz, to write.")] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Copy with zstd, blosc, lz4 or gzip; none makes an archive a dataset again."
        ),
    ] = None,
    level: Annotated[int | None, typer.Option(help="Compression level.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted compressed copy.")] = False,
    to: Annotated[str | None, typer.Option(metavar="FORMAT", help="numpy or minari.")] = None,
    name: Annotated[str | None, typer.Option(help='Name in Minari, such as "beam/random-v0".')] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=FIELD", help="What Minari's observations, actions, ... are; may be repeated."),
    ] = None,
    mode: Annotated[str, typer.Option(help="training, validation or prediction; a copy has all.")] = "training",
) -> None:
    """Copy a dataset: compressed, as arrays of numpy, or as a dataset of Minari.

    Example: physgym export data/beam --compress zstd --out beam-archive
    """
    from physgym.data.archive import archive
    from physgym.data.dataset import SampleDataset

    if (compress is None) == (to is None):
        raise ConfigError("say either --compress METHOD or --to FORMAT")
    if to == "minari":
        if name is None:
            raise ConfigError("Minari keeps its datasets by name: add --name, such as --name beam/random-v0")
        with _needs("minari", "minari"):
            from physgym.interop.minari import export_minari

            fields = _pairs(field, "--field") or None
            made = export_minari(SampleDataset(data, mode=mode), name, fields=fields, progress=True)  # type: ignore[arg-type]
        print(f"{made.total_episodes} episodes, {made.total_steps} steps in {made.storage.data_path}")
        return
    if out is None:
        raise ConfigError("add --out, where to write")
    if compress is not None:
        archive(data, out, compression=compress, level=level, resume=resume, progress=True)  # type: ignore[arg-type]
    elif to == "numpy":
        from physgym.interop.arrays import export_numpy

        export_numpy(SampleDataset(data, mode=mode), out, progress=True)  # type: ignore[arg-type]
    else:
        raise ConfigError(f"--to must be numpy or minari, not {to!r}")
    print(f"written: {out}")


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Folder of .npy files, a file .npz, or the name of a Minari dataset.")],
    out: Annotated[Path, typer.Option(help="Dataset folder.")],
    role: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=ROLE", help="input, target or additional; may be repeated.")
    ] = None,
    info: Annotated[list[str] | None, typer.Option(help="An info of Minari to keep; may be repeated.")] = None,
    mode: Annotated[str, typer.Option(help="training, validation or prediction.")] = "training",
) -> None:
    """Make a dataset of arrays of numpy or of a dataset of Minari.

    Example: physgym import D4RL/pen/human-v2 --out data/pen
    """
    if Path(source).exists():
        from physgym.interop.arrays import import_numpy

        dataset = import_numpy(source, out, roles=_pairs(role, "--role"), mode=mode, progress=True)  # type: ignore[arg-type]
    else:
        with _needs("minari", "minari"):
            from physgym.interop.minari import import_minari

            dataset = import_minari(source, out, infos=info or (), mode=mode, progress=True)  # type: ignore[arg-type]
    print(f"{len(dataset)} samples in {out}")


@contextlib.contextmanager
def _needs(package: str, extra: str) -> Iterator[None]:
    """Make a message of the lack of an optional package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigError(f"this needs {package}: pip install 'physgym[{extra}]'") from error


def _pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    table = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"{option} {pair!r}: write name=value")
        table[key] = value
    return table


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
