"""Commands that make datasets, look at them and convert them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from physgym.errors import ConfigError
from physgym.experiment.cli.app import (
    INTERRUPTED,
    Actions,
    EnvArguments,
    EnvId,
    Parameters,
    Seed,
    app,
    arguments_of,
    needs,
    pairs_of,
)


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
            env_kwargs=arguments_of(arg),
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
        with needs("minari", "minari"):
            from physgym.interop.minari import export_minari

            fields = pairs_of(field, "--field") or None
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

        dataset = import_numpy(source, out, roles=pairs_of(role, "--role"), mode=mode, progress=True)  # type: ignore[arg-type]
    else:
        with needs("minari", "minari"):
            from physgym.interop.minari import import_minari

            dataset = import_minari(source, out, infos=info or (), mode=mode, progress=True)  # type: ignore[arg-type]
    print(f"{len(dataset)} samples in {out}")
