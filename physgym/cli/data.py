"""Commands that make datasets, look at them and convert them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from physgym.cli.app import (
    INTERRUPTED,
    EnvArguments,
    again,
    app,
    arguments_of,
    check_there,
    lists_of,
    pairs_of,
)
from physgym.cli.continuing import beginning
from physgym.cli.flags import Command, Flags, Overrides, with_flags
from physgym.cli.machines import Listening, with_listening
from physgym.cli.options import GENERATION, VIEW, with_options
from physgym.errors import ConfigError, DatasetError
from physgym.files import short
from physgym.formats import registry


@app.command(cls=Command)
@with_flags
@with_listening
@with_options(*GENERATION)
def generate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|ENV",
            help='YAML file, or a session; or an environment\'s id alone ("module:id" imports a module first).',
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    arg: EnvArguments = None,
    mode: Annotated[str, typer.Option(help="training, validation, test or prediction.")] = "training",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the dataset after its last sample.")] = False,
    view: VIEW = None,
    *,
    given: dict[str, Any],
    listening: Listening,
    flags: Flags,
) -> None:
    """Run a simulation in parallel and store its samples.

    The same command gives the same samples, for any number of workers, crashes and resumes. Options stand for keys
    of the configuration; without --out and dataset.path there is a session, as of a training.

    Examples: physgym generate physgym/Spring-v0 --out data/spring --samples 2000 --parameters sobol

    physgym generate examples/beam.yaml dataset.path=data/beam
    """
    with beginning():
        from physgym.experiment.config import check_config
        from physgym.experiment.dataset_plan import ONE_DATASET
        from physgym.experiment.runs import generate_samples
        from physgym.experiment.sections import options_in
        from physgym.generation.options import GenerationOptions
        from physgym.storage import Location, place
        from physgym.viewing.shown import view_of

    given |= {f"environment.arguments.{name}": value for name, value in arguments_of(arg).items()}
    file = Path(source) if source.endswith((".yaml", ".yml")) or Path(source).is_dir() else None
    if file is not None:
        config = flags.load(file, overrides, given)
    else:
        data: dict[str, Any] = {"environment": {"id": source}}
        flags.edits(overrides, given).data(data)
        config = check_config(data, "the command")
    origin = None
    if isinstance(config.dataset.path, list):
        raise ConfigError(ONE_DATASET)
    there = None if config.dataset.path is None else place(config.dataset.path)
    if config.dataset.path is not None and flags.save_diff:
        raise ConfigError("--save-diff keeps changes in a session, which there is none with --out or dataset.path")
    if config.dataset.path is None:
        if resume:
            raise ConfigError("--resume needs --out or dataset.path; continue a session by physgym resume SESSION")
        origin, log = flags.origin(file, overrides, given)
        if not log:
            raise ConfigError("there is nothing to generate samples for: name a place with --out, or keep the session")
    try:
        allowed = flags.allow_changed_code
        part: Any = mode
        ids = [] if config.environment is None else [config.environment.id]
        with listening.reception(ids, options_in(config.dataset, GenerationOptions)) as launcher:
            dataset = generate_samples(
                config,
                None,
                origin,
                mode=part,
                more=resume,
                allow_changed_code=allowed,
                view=view_of(view),
                launcher=launcher,
            )
    except KeyboardInterrupt as interrupt:
        if there is None:
            print(f"\n{interrupt}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        kept = f"complete samples are in {short(str(there))}"
        if isinstance(there, Location):  # where looking for them might take long
            kept = f"complete samples, if there were any, are in {there}"
        elif not there.exists():
            kept = "no sample was complete"
        print(f"\ninterrupted; {kept}. Continue with: {again('--resume')}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    wanted = config.dataset.samples
    more = wanted is not None and resume and len(dataset) > wanted
    note = f", more than {wanted}: there was nothing to generate" if more else ""
    print(f"{len(dataset)} samples in {short(str(there or dataset.paths[0]))}{note}")
    for field in dataset.spec.values():
        unit = f" [{field.unit}]" if field.unit else ""
        print(f"  {field.name}: {field.role}, {field.dtype} {field.shape}{unit}")
    if (parameters_of := dataset.parameter_episodes) is not None:
        print(f"parameters of {len(parameters_of)} episodes: {', '.join(dataset.parameters or {})}")
    if dataset.rejected is not None:
        print(f"{len(dataset.rejected.reasons)} rejected samples are kept")


@app.command()
def info(
    data: Annotated[Path, typer.Argument(help="Dataset folder, or the file of an FMU.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every partition with its checksum.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write dataset.json again, from the partitions alone.")
    ] = False,
) -> None:
    """Describe a dataset: samples, fields, statistics, origin.

    Of an FMU (model.fmu): its variables, with types, units, bounds and start values.

    Example: physgym info data/beam --verify
    """
    if data.suffix == ".fmu":
        from physgym.adapters.fmu_description import read_description

        if verify or rebuild:
            raise ConfigError("--verify and --rebuild are for datasets")
        for line in read_description(data).lines():
            print(line)
        return
    from physgym.data.dataset import SampleDataset
    from physgym.data.description import rebuild_description
    from physgym.data.summary import stored, summarize

    if rebuild:
        rebuild_description(data)
    for line in summarize(data):
        print(line)
    if verify:
        modes = {mode: parts for mode, parts in stored(data).items() if any(part.count for part in parts)}
        for mode in modes:
            SampleDataset(data, mode=mode).verify(progress=True)
        sealed = [part.sealed for parts in modes.values() for part in parts]
        unsealed = len(sealed) - sum(sealed)
        note = f"; {unsealed} open ones have none yet" if unsealed else ""
        print(f"the checksums of {sum(sealed)} partitions are right{note}")


@app.command()
def export(
    data: Annotated[
        Path | None,
        typer.Argument(help="Dataset folder; or a session, for its network or its samples.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder, or file .npz, .pt2 or .onnx, to write.")] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Copy with zstd, blosc, lz4 or gzip; none makes an archive a dataset again."
        ),
    ] = None,
    level: Annotated[int | None, typer.Option(help="Compression level.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue with an interrupted compressed copy.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help=f"{' or '.join(registry.names())}; or, for a network, {' or '.join(registry.network_names())}.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help='Name in Minari, such as "beam/random-v0".')] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=FIELD", help="Field for Minari's observations, actions, ...; repeat it for more."),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=NAME,NAME", help="Names of a field's axes, for netcdf, vtkhdf; may be repeated."),
    ] = None,
    nodes: Annotated[
        str | None, typer.Option(metavar="NAME", help="Constant or field with the nodes of a mesh, for vtkhdf.")
    ] = None,
    cells: Annotated[
        str | None, typer.Option(metavar="NAME[=KIND]", help="Constant with the cells of a mesh, for vtkhdf.")
    ] = None,
    episode: Annotated[int | None, typer.Option(help="Only this episode, in one file, for vtkhdf.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="training (if nothing is said), validation, test or prediction; a compressed copy has all."),
    ] = None,
    which: Annotated[
        str | None, typer.Option(help="Checkpoint of a network: last, best, or an epoch that is kept.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Compare a file .vtkhdf with the partitions that it shows; nothing is written."
        ),
    ] = None,
) -> None:
    """Convert a dataset or a network to another format.

    A dataset may also be compressed. A network then runs without physgym.

    Examples: physgym export data/beam --compress zstd --out beam-archive

    physgym export data/beam --to vtkhdf

    physgym export sessions/beam --to onnx --out beam.onnx
    """
    mesh = {"--nodes": nodes, "--cells": cells, "--episode": episode}
    if check is not None:
        if data is not None or compress is not None or to is not None:
            raise ConfigError("--check FILE compares a file that was exported, and takes nothing else")
        _check(check)
        return
    if data is None:
        raise ConfigError("say which dataset or session: physgym export DATA ...")
    if (compress is None) == (to is None):
        raise ConfigError("say either --compress METHOD or --to FORMAT")
    if to is not None and to in registry.network_names():
        given = {"--mode": mode, "--name": name, "--field": field, "--dim": dim, "--level": level, "--resume": resume}
        given |= mesh
        if unused := _given(given):
            raise ConfigError(f"{' and '.join(unused)}: a network has no such option; they are for datasets")
        _export_network(data, out, to, which)
        return
    if which is not None:
        raise ConfigError(f"--which chooses a network, which goes --to {' or '.join(registry.network_names())}")
    if to is not None:
        from physgym.data.dataset import SampleDataset
        from physgym.experiment.session_samples import dataset_of

        form = registry.find(to)
        if resume or level is not None:
            raise ConfigError("--resume and --level are for --compress; an export is made as a whole")
        asked: dict[str, Any] = {"out": out, "name": name, "fields": field, "dims": dim}
        asked |= {"nodes": nodes, "cells": cells, "episode": episode}
        options_of = {"fields": "--field", "dims": "--dim"}
        words = {key: options_of.get(key, f"--{key}") for key in asked}
        if unused := _given({words[key]: asked[key] for key in asked if key not in form.uses}):
            known = ", ".join(words[key] for key in asked if key in form.uses)
            raise ConfigError(f"{' and '.join(unused)}: {to} has no such option; it has {known}")
        dims = {of: names.split(",") for of, names in pairs_of(dim, "--dim").items()}
        fields = lists_of(field, "--field")
        options = registry.ExportOptions(out, name, fields, dims, nodes, cells, episode, progress=True)
        with form.needed():
            print(form.write(SampleDataset(dataset_of(data), mode=mode or "training"), options))  # type: ignore[arg-type]
        return
    from physgym.experiment.session_samples import dataset_of
    from physgym.formats.archive import archive

    if out is None:
        raise ConfigError("add --out, where to write")
    given = {"--name": name, "--field": field, "--dim": dim, **mesh}
    if unused := _given(given):
        raise ConfigError(f"{' and '.join(unused)}: a compressed copy has no such option; they go with --to")
    if mode is not None:
        raise ConfigError("--mode goes with --to: a compressed copy has all parts of the dataset")
    if isinstance(source := dataset_of(data), list):
        raise ConfigError(
            f"{data} is a session of several datasets; copy them one by one: {', '.join(map(str, source))}"
        )
    try:
        archive(source, out, compression=compress, level=level, resume=resume, progress=True)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {again('--resume')}") from None
    print(f"written: {out}")


def _given(options: dict[str, Any]) -> list[str]:
    """Return the names of those options that a user gave, zero included."""
    return [name for name, value in options.items() if value not in (None, "", []) and value is not False]


def _check(file: Path) -> None:
    """Compare a file of VTK with the partitions that it shows."""
    from physgym.formats.vtk.side_file import check_side_file

    if wrong := check_side_file(file):
        raise DatasetError(f"{file} does not show what it did: {'; '.join(wrong)}")
    print(f"the partitions that {file} shows are there, and are the same")


def _export_network(session: Path, out: Path | None, to: str, which: str | None) -> None:
    """Write the network of a session or checkpoint."""
    if out is None:
        raise ConfigError("add --out, where to write")
    check_there(trained=session)
    form = registry.find_network(to)
    from physgym.experiment.networks import network_of

    print(form.write(network_of(session, which), out))


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help=f"File, folder or name of a dataset: {', '.join(registry.import_names())}.")
    ],
    out: Annotated[Path, typer.Option(help="Dataset folder.")],
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=ROLE", help="Role of a field: input, target or additional; may be repeated."),
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=UNIT", help="Unit of a field; may be repeated.")
    ] = None,
    info: Annotated[list[str] | None, typer.Option(help="An info of Minari to keep; may be repeated.")] = None,
    episode: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The array that says which rows belong to one episode.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The array with the step of each row in its episode.")
    ] = None,
    mode: Annotated[str, typer.Option(help="training, validation, test or prediction.")] = "training",
) -> None:
    """Make a dataset from one in another file format.

    For example from arrays of NumPy, or a dataset of Minari.

    Example: physgym import D4RL/pen/human-v2 --out data/pen
    """
    form = registry.of_source(source)
    if info and not form.has_infos:
        raise ConfigError(f"--info is for datasets of Minari; {source} is {form.title}")
    options = registry.ImportOptions(
        pairs_of(role, "--role"),
        info or (),
        episode,
        step,
        mode,  # type: ignore[arg-type]
        pairs_of(unit, "--unit"),
        progress=True,
    )
    missing = f"there is no file or folder {source}, and {form.title}"
    with form.needed("this" if Path(source).exists() else missing):
        dataset = form.read(source, out, options)
    print(f"{len(dataset)} samples in {out}")
    for each in dataset.spec.values():
        shown = f" [{each.unit}]" if each.unit else ""
        print(f"  {each.name}: {each.role}, {each.dtype} {each.shape}{shown}")
