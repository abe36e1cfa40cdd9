"""The command that measures a trained network on stored samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from physgym.cli.app import app
from physgym.cli.reports import EVALUATION_REPORT, NoReport, typed, write_at_end
from physgym.errors import ConfigError

if TYPE_CHECKING:
    from physgym.report.page import Page


@app.command()
def evaluate(
    session: Annotated[Path, typer.Argument(help="Session folder of a training, or a checkpoint.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Dataset folder, or s3://bucket/prefix; by default that of the session. May be repeated."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="Part: training, validation, test or prediction; by default test if there is one, or all."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="mse, rmse, mae, max_error, relative_l2, r2, nrmse or module:function; may be repeated."),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst samples of each field to name.")] = 5,
    by: Annotated[
        str | None, typer.Option(help="The metric by which they are the worst.", show_default="relative_l2")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON, for programs.")
    ] = None,
    which: Annotated[str | None, typer.Option(help="Checkpoint: last, best, or an epoch that is kept.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda, or auto.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Compute on the CPU.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples that are predicted at once.")] = 256,
    nonfinite: Annotated[
        str, typer.Option(help="raise, or leave_out to count samples whose prediction or target is not finite.")
    ] = "raise",
    allow_changed_code: Annotated[
        bool,
        typer.Option("--allow-changed-code", help="Also samples of other code than what the network learned from."),
    ] = False,
    no_report: NoReport = False,
) -> None:
    """Measure a trained network on the stored samples of a dataset, step by step, in physical units.

    Prints each metric of each field with its unit, that of each component, and the worst samples by episode and step.

    Examples: physgym evaluate sessions/beam --data data/beam --mode test

    physgym evaluate sessions/beam --data data/other --metric mae --metric my_module:overshoot --json figures.json
    """
    from physgym.experiment.evaluate import evaluate as run
    from physgym.experiment.evaluate import network_for, samples_for
    from physgym.experiment.session import CONFIG
    from physgym.files import write_atomically
    from physgym.running.evaluation import UsualMetrics

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {json_file.absolute().parent}")
    if cpu and device not in (None, "cpu"):
        raise ConfigError(f"--cpu and --device {device}: leave one of them out")
    report = run(
        session,
        data,
        part=mode,  # type: ignore[arg-type]  # checked by it
        metrics=metric or UsualMetrics,
        worst=worst,
        worst_by=by,
        which=which,
        device="cpu" if cpu else device,
        batch_size=batch_size,
        nonfinite=nonfinite,  # type: ignore[arg-type]  # checked by it
        allow_changed_code=allow_changed_code,
    )
    if json_file is not None:
        try:
            write_atomically(json_file, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {json_file}: {error.strerror}") from error
    print(report)
    if not (session / CONFIG).is_file():
        return  # a checkpoint has no place for a report

    def make() -> Page:
        from physgym.report.reports import evaluation_report

        network = network_for(session, which, "cpu" if cpu else device)
        samples = samples_for(session, data, mode)  # type: ignore[arg-type]  # which was checked
        return evaluation_report(session.absolute().name, report, network, samples, typed())

    write_at_end(make, session / EVALUATION_REPORT, wanted=not no_report)
