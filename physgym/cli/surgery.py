"""Commands that make datasets of other datasets, ``physgym data ...``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from physgym.cli.app import Commands, app
from physgym.errors import ConfigError

data = Commands(
    name="data",
    help="Merge, filter, change and compare datasets.\n\nA changed dataset is a new one; the old one stays as it is.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data)

Source = Annotated[str, typer.Argument(metavar="DATA", help="Dataset: a folder, or s3://bucket/prefix.")]
Out = Annotated[str, typer.Option(help="Folder of the new dataset, or s3://bucket/prefix; nothing is there yet.")]
Part = Annotated[str | None, typer.Option("--mode", help="Only this part: training, validation, test or prediction.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check all but checksums, say what would come out, write nothing.")
]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Say what Ctrl-C leaves."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; nothing was written") from None


@data.command()
def merge(
    sources: Annotated[list[str], typer.Argument(metavar="DATA DATA ...", help="Two datasets or more.")],
    out: Out,
    mode: Part = None,
    dry_run: DryRun = False,
) -> None:
    """Put the samples of several datasets into one.

    Episodes are renumbered, so that none is joined with another.

    Example: physgym data merge data/monday data/tuesday --out data/week
    """
    from physgym.data import surgery

    with _interruptible():
        print(surgery.merge(sources, out, mode=mode, dry_run=dry_run, progress=True))  # type: ignore[arg-type]


@data.command("filter")
def filter_(
    source: Source,
    where: Annotated[str, typer.Option(metavar="EXPRESSION", help="Which samples stay; see the examples.")],
    out: Out,
    mode: Part = None,
    dry_run: DryRun = False,
) -> None:
    """Keep the samples that fulfil a condition.

    They keep their numbers. An expression has comparisons, and, or, not, arithmetic; min, max, mean, norm and isfinite,
    which make one number of an array; abs, and indices such as force[0]. Its names are fields, parameters of the
    episode, episode and step; one that is no name in Python stands in quotes.

    Examples: physgym data filter data/beam --where "norm(forces) < 10 and step > 0" --out data/small

    physgym data filter data/beam --where 'isfinite("group/x") and not stiffness > 1e5' --out data/soft --dry-run
    """
    from physgym.data import surgery

    with _interruptible():
        print(surgery.filter(source, where, out, mode=mode, dry_run=dry_run, progress=True))  # type: ignore[arg-type]


@data.command()
def drop(
    source: Source,
    fields: Annotated[list[str], typer.Argument(metavar="FIELD ...", help="Fields to leave out.")],
    out: Out,
    mode: Part = None,
    dry_run: DryRun = False,
) -> None:
    """Leave fields out.

    Example: physgym data drop data/beam stress --out data/slim
    """
    from physgym.data import surgery

    with _interruptible():
        print(surgery.drop(source, fields, out, mode=mode, dry_run=dry_run, progress=True))  # type: ignore[arg-type]


@data.command()
def rename(
    source: Source,
    old: Annotated[str, typer.Argument(help="The name that a field has.")],
    new: Annotated[str, typer.Argument(help="The name that it gets.")],
    out: Out,
    mode: Part = None,
    dry_run: DryRun = False,
) -> None:
    """Give a field another name.

    Example: physgym data rename data/beam forces loads --out data/loads
    """
    from physgym.data.surgery import rename as rename_field

    with _interruptible():
        print(rename_field(source, old, new, out, mode=mode, dry_run=dry_run, progress=True))  # type: ignore[arg-type]


@data.command()
def add(
    source: Source,
    field: Annotated[str, typer.Argument(help="Name of the new field.")],
    function: Annotated[
        str,
        typer.Option("--with", metavar="MODULE:FUNCTION", help="Computes its value from a sample, a dictionary."),
    ],
    out: Out,
    role: Annotated[str, typer.Option(help="input, target or additional.")] = "additional",
    unit: Annotated[str, typer.Option(help="Its unit.")] = "",
    dtype: Annotated[
        str | None, typer.Option(help="Its dtype, such as float32; by default that of the values.")
    ] = None,
    nonfinite: Annotated[str, typer.Option(help="error, or allow to store what is not finite.")] = "error",
    workers: Annotated[
        int | None, typer.Option(help="Processes that compute it, 0 for none; by default one per core.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the values of some samples.")] = 600.0,
    mode: Part = None,
    dry_run: DryRun = False,
) -> None:
    """Add a field that a function computes from each sample.

    The function is called with a dictionary of arrays by field, and returns a number or an array. One of two arguments
    also gets the episode, step, seed and parameters of the sample.

    Example: physgym data add data/beam energy --with my_module:energy --unit J --out data/with_energy
    """
    from physgym.data import surgery

    options: dict[str, Any] = {"role": role, "unit": unit, "dtype": dtype, "nonfinite": nonfinite, "mode": mode}
    options |= {"num_workers": workers, "timeout": timeout}
    with _interruptible():
        print(surgery.add(source, field, function, out, **options, dry_run=dry_run, progress=True))


@data.command()
def describe(
    source: Source,
    words: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Text to note; KEY= removes it. May be repeated."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="New dataset; without it only dataset.json is replaced.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Note a licence, a unit or other texts about a dataset.

    Without --set it prints them. FIELD.unit, .role, .dimensions, .kind, .mask and .feeds are about a field, and need
    --out; all other keys are about the dataset, and without --out no partition is touched.

    Examples: physgym data describe data/beam --set licence=CC-BY-4.0 --set author="A. Mason"

    physgym data describe data/beam --set forces.unit=kN --out data/kn
    """
    from physgym.data import surgery
    from physgym.data.surgery.sources import SourceDataset
    from physgym.scene.declared import in_words

    if words is None and out is None:
        for key, text in SourceDataset.open(source).metadata.items():
            print(f"{key}: {in_words(key, text)}")
        return
    said = {}
    for pair in words or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r}: write KEY=VALUE")
        said[key] = text
    with _interruptible():
        print(surgery.describe(source, said, out, dry_run=dry_run, progress=True))


@data.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="DATA", help="Dataset.")],
    second: Annotated[str, typer.Argument(metavar="DATA", help="Dataset to compare it with.")],
    mode: Part = None,
) -> None:
    """Show what differs between two datasets.

    Compares fields, samples by episode and step, values and sources. Exit status 0: no difference; 1: a difference.

    Example: physgym data diff data/monday data/tuesday
    """
    from physgym.data import surgery

    found = surgery.diff(first, second, mode=mode, progress=True)  # type: ignore[arg-type]
    print(found if found else "no difference")
    if found:
        raise typer.Exit(1)


@data.command()
def imitate(
    source: Source,
    out: Out,
    mode: Annotated[str, typer.Option(help="Part: training, validation or test.")] = "training",
) -> None:
    """Write a recording for imitation, with its labels applied.

    Steps that are labelled bad are left out, and actions are corrected. Labels are given in the player (physgym view
    DATA). In the new dataset observations are inputs, actions are targets.

    Example: physgym data imitate data/me --out data/to_imitate
    """
    from physgym.data.labels import apply_labels

    with _interruptible():
        print(apply_labels(source, out, mode=mode))
