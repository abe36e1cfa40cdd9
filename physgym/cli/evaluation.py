"""The command that measures a trained network on stored samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.cli.agents import tell_evaluation
from physgym.cli.app import EnvArguments, app, arguments_of, check_there
from physgym.cli.reports import EVALUATION_REPORT, NoReport, typed, write_at_end
from physgym.errors import ConfigError

if TYPE_CHECKING:
    from physgym.report.page import Page
    from physgym.rl.evaluation import AgentEvaluation
    from physgym.rl.offline import OfflineEvaluation


# options that are about a network and about an agent alone, by the names of their parameters
NETWORK = ("metric", "worst", "by", "batch_size", "nonfinite")
AGENT = ("episodes", "seed", "arg", "envs", "workers")


@app.command()
def evaluate(
    context: typer.Context,
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
        str | None, typer.Option(help="The metric that ranks the worst samples.", show_default="relative_l2")
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
        typer.Option("--allow-changed-code", help="Also measure samples of other code than that of the training."),
    ] = False,
    episodes: Annotated[int, typer.Option(min=1, help="Of an agent: how many.")] = 100,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of an agent: seed of the episodes.", show_default="runner.seed")
    ] = None,
    arg: EnvArguments = None,
    envs: Annotated[int, typer.Option(min=1, help="Of an agent: environments at once.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Of an agent: processes that they run in; by default as it needs.")
    ] = None,
    no_report: NoReport = False,
) -> None:
    """Measure the errors of a network, or the return of an agent.

    A network predicts the stored samples of a dataset, step by step. An agent acts in its environment.

    Prints each metric of each field with its unit, that of each component, and the worst samples by episode and step.

    An agent acts without exploration, in episodes that its training has not seen; with --data it is compared with the
    returns of a recording.

    Examples: physgym evaluate sessions/beam --data data/beam --mode test

    physgym evaluate sessions/beam --data data/other --metric mae --metric my_module:overshoot --json figures.json

    physgym evaluate sessions/track --episodes 20 --arg tracks=[1000,1020]
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {json_file.absolute().parent}")
    if cpu and device not in (None, "cpu"):
        raise ConfigError(f"--cpu and --device {device}: leave one of them out")
    device = "cpu" if cpu else device
    check_there(trained=session)
    from physgym.experiment.record import has_agent

    agent = has_agent(session)
    _check_options(context, session, agent=agent, recorded=data is not None)
    check_there(stored=data or ())
    from physgym.experiment.evaluate import evaluate as run
    from physgym.experiment.evaluate import network_for, samples_for
    from physgym.experiment.session import CONFIG
    from physgym.running.evaluation import UsualMetrics

    if agent:
        from physgym.experiment.agent_acting import compare_agent_of, evaluate_agent_of

        found: AgentEvaluation | OfflineEvaluation
        if data is not None:
            part: Any = mode or "training"  # which is checked where it is read
            found = compare_agent_of(session, data, mode=part, which=which, device=device)
        else:
            found = evaluate_agent_of(
                session,
                episodes=episodes,
                which=which,
                seed=seed,
                arguments=arguments_of(arg),
                num_envs=envs,
                num_workers=workers,
                device=device,
                allow_changed_code=allow_changed_code,
            )
        _write_json(json_file, found)
        tell_evaluation(session, found, reported=not no_report)
        return
    report = run(
        session,
        data,
        part=mode,  # type: ignore[arg-type]  # checked by it
        metrics=metric or UsualMetrics,
        worst=worst,
        worst_by=by,
        which=which,
        device=device,
        batch_size=batch_size,
        nonfinite=nonfinite,  # type: ignore[arg-type]  # checked by it
        allow_changed_code=allow_changed_code,
    )
    _write_json(json_file, report)
    print(report)
    if not (session / CONFIG).is_file():
        return  # a checkpoint has no place for a report

    def make() -> Page:
        from physgym.report.reports import evaluation_report

        network = network_for(session, which, device)
        samples = samples_for(session, data, mode)  # type: ignore[arg-type]  # which was checked
        return evaluation_report(session.absolute().name, report, network, samples, typed())

    write_at_end(make, session / EVALUATION_REPORT, wanted=not no_report)


def _write_json(file: Path | None, report: Any) -> None:
    """Write the figures of a report into a file, if one is named."""
    from physgym.files import write_atomically

    if file is None:
        return
    try:
        write_atomically(file, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error


def _check_options(context: typer.Context, session: Path, *, agent: bool, recorded: bool) -> None:
    """Raise ConfigError for options that are about something else than what is measured.

    Args:
        context: Knows what was given.
        session: What is measured.
        agent: Whether it has an agent.
        recorded: Whether recordings or samples are named.
    """
    others: tuple[str, ...] = AGENT
    what = "an agent in its environment"
    if agent and not recorded:
        others, what = (*NETWORK, "mode"), "a network, or recordings (--data)"
    elif agent:
        others, what = (*NETWORK, *AGENT), "something else than recordings"
    sources = {name: context.get_parameter_source(name) for name in others}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        has = "an agent" if agent else "a network"
        raise ConfigError(f"{options}: about {what}, and {session} has {has}; leave it out")
