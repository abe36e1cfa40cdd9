"""Commands that run trained networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.cli import rollouts
from physgym.cli.agents import run_agent
from physgym.cli.app import INTERRUPTED, again, app, check_there, config_of
from physgym.cli.options import REPLAYING, RUNNING, VIEW, in_section, with_options
from physgym.cli.reports import RUN_REPORT, NoReport, typed, write_at_end
from physgym.errors import ConfigError
from physgym.files import short

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset
    from physgym.experiment.schema import Config
    from physgym.report.page import Page
    from physgym.running.rollout_report import RolloutReport
    from physgym.running.run_report import RunReport

RunOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changed keys, such as environment.arguments.order=2."),
]
AllowChangedCode = Annotated[
    bool,
    typer.Option("--allow-changed-code", help="Run even if the code of the simulation is not that of the training."),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Compute on the CPU.")]


@app.command()
@with_options(*RUNNING)
def run(
    session: Annotated[Path, typer.Argument(help="Session folder of a training.")],
    overrides: RunOverrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the record after its last sample.")] = False,
    allow_changed_code: AllowChangedCode = False,
    cpu: Cpu = False,
    rollout: rollouts.STEPS = None,
    episodes: rollouts.EPISODES = None,
    data: rollouts.DATA = None,
    mode: rollouts.MODE = None,
    metric: rollouts.METRICS = None,
    threshold: rollouts.THRESHOLDS = None,
    out: rollouts.OUT = None,
    no_animations: rollouts.NO_ANIMATIONS = False,
    no_report: NoReport = False,
    view: VIEW = None,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="RECORD", help="Repeat recorded inputs of a person; see --view."),
    ] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Run a network in its simulation, or let an agent act.

    Next to the solver, it prints the errors of the network and the times of both. Defaults of options are in the
    section runner of the session's configuration.

    With --rollout the network continues from its own predictions, in fresh episodes or those of a dataset. Then it
    prints how the error grows from step to step.

    An agent acts without exploration, in fresh episodes; --record keeps them as a recording.

    Examples: physgym run sessions/beam --steps 200 --frames frames

    physgym run sessions/spring --rollout 100 --episodes 20 --threshold 0.1 --out rollout
    """
    if session.is_file():
        raise ConfigError(f"{session} is a file: name the folder of a session, which a training prints at its end")
    file = config_of(session)
    check_there(stored=() if data is None else (data,))
    from physgym.experiment.component_section import Component
    from physgym.experiment.config import Edits, load_config
    from physgym.experiment.generation_plan import build_sampler
    from physgym.experiment.sections import options_in
    from physgym.running.options import RunnerOptions

    config = load_config(file, Edits(overrides=overrides or (), cpu=cpu))
    samplers = {name: Component(type=given[name]) for name in ("runner.actions", "runner.parameters") if name in given}
    chosen = config.runner.model_copy(update=in_section(given | samplers, "runner"))
    options = options_in(chosen, RunnerOptions)
    only = {"episodes": episodes, "data": data, "mode": mode, "metric": metric, "threshold": threshold, "out": out}
    only["no-animations"] = no_animations
    if config.agent is not None:
        run_agent(
            session,
            config,
            dict(chosen),
            given,
            {"rollout": rollout, **only, "inputs": inputs},
            resume=resume,
            view=_view(view, session),
            allow_changed_code=allow_changed_code,
            reported=not no_report,
        )
        return
    rollouts.check_options(rollout, only, given, resume=resume)
    if rollout is not None:
        if view is not None:
            raise ConfigError("--view shows a run, and --rollout measures episodes: leave one of them out")
        if inputs is not None:
            raise ConfigError("--inputs belongs to a run, and --rollout measures episodes: leave one of them out")
        drawn = {name: build_sampler(getattr(chosen, name), name, "runner") for name in ("actions", "parameters")}
        found = _roll_out(session, config, chosen.which, rollout, {**options, **drawn}, only, allow=allow_changed_code)
        _report(session, found, wanted=not no_report)
        return
    if chosen.frames is not None and (options["num_workers"] is not None or options["num_envs"] is not None):
        raise ConfigError("frames need the simulation in this process: leave workers and environments out")
    report = _run(
        session,
        config,
        chosen.which,
        chosen.steps,
        frames=None if chosen.frames is None else Path(chosen.frames),
        resume=resume,
        allow_changed_code=allow_changed_code,
        view=_view(view, session),
        inputs=inputs,
        record_inputs=_kept_inputs(session, options["record"], new=view is not None and inputs is None),
        actions=build_sampler(chosen.actions, "actions", "runner"),
        parameters=build_sampler(chosen.parameters, "parameters", "runner"),
        **options,
    )
    _report(session, report, wanted=not no_report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)


def _kept_inputs(session: Path, record: str | Path | None, *, new: bool) -> Path | None:
    """Return where the inputs of a person are kept: in the session, unless they lie next to samples on this disk.

    Args:
        session: The session.
        record: Where samples are recorded; None where they are not.
        new: Whether a person may give inputs now, in a window or page.
    """
    from physgym.running.input_record import free_name, name_for
    from physgym.storage.location import scheme_of

    if record is not None:
        return name_for(session, str(record)) if scheme_of(str(record)) else None
    return free_name(session) if new else None


def _report(session: Path, found: RunReport | RolloutReport, *, wanted: bool) -> None:
    def make() -> Page:
        from physgym.report.reports import run_report

        return run_report(session.absolute().name, found, typed())

    write_at_end(make, session / RUN_REPORT, wanted=wanted)


@app.command()
@with_options(*REPLAYING)
def replay(
    session: Annotated[Path, typer.Argument(help="Session folder of a training.")],
    overrides: RunOverrides = None,
    *,
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    mode: Annotated[
        str | None,
        typer.Option(
            help="Part of the dataset: training, validation, test or prediction.",
            show_default="test, else validation, else training",
        ),
    ] = None,
    solver: Annotated[
        bool, typer.Option("--solver", help="Run the simulation too, from the stored seeds, and check that it agrees.")
    ] = False,
    steps: Annotated[int, typer.Option(min=0, help="Number of samples; 0 takes all.")] = 0,
    allow_changed_code: AllowChangedCode = False,
    cpu: Cpu = False,
    view: VIEW = None,
    given: dict[str, Any],
) -> None:
    """Predict stored samples with a network, without the solver.

    Prints the errors of the predictions, and their times.

    Example: physgym replay sessions/beam --data data/beam --record predictions
    """
    more = in_section(given, "runner")
    frames, which = more.pop("frames", None), more.pop("which", None)
    if not solver and (frames is not None or "actions" in more):
        raise ConfigError("--frames and --actions need the simulation: add --solver")
    check_there(trained=session, stored=(data,))
    from physgym.experiment.config import Edits, load_config
    from physgym.experiment.session import CONFIG
    from physgym.scene.inputs import RECORD

    config = None  # a training from Python alone has none
    if solver or overrides or (session / CONFIG).exists():
        config = load_config(config_of(session), Edits(overrides=overrides or (), cpu=cpu))
    dataset, more["trained_on"] = _replayed(session, data, mode)
    more |= {"allow_changed_code": allow_changed_code, "view": _view(view, session)}
    if solver and (kept := data / RECORD).exists():
        more["inputs"] = kept
    if _run(session, config, which, steps, frames=frames, stored=dataset, solver=solver, **more).interrupted:
        raise typer.Exit(INTERRUPTED)


def _replayed(session: Path, data: Path, mode: str | None) -> tuple[SampleDataset, SampleDataset | None]:
    """Return the samples that a replay takes, and those of the training; where nobody names a part, say which."""
    from physgym.data.provenance import learned_samples
    from physgym.experiment.evaluate import open_part, recorded_split
    from physgym.experiment.unseen_samples import learned_without, unseen_samples

    if mode is not None:
        chosen = open_part(data, mode, recorded_split(session, data))  # type: ignore[arg-type]  # checked by it
        return chosen, learned_samples(session)
    found = unseen_samples(session, data)
    none = "" if found.unseen else ", since there is no test or validation part"
    print(f"replayed: {found.name} of {short(data)}, {len(found.dataset)} samples{none} (--mode)", file=sys.stderr)
    return found.dataset, learned_without(session, found.dataset) if found.unseen else learned_samples(session)


def _view(name: str | None, session: Path) -> Any:
    """Return how a run of a session's network is shown."""
    from physgym.viewing.shown import LiveView

    return LiveView(name, (session,))


def _roll_out(
    session: Path,
    config: Config,
    which: str | None,
    horizon: int,
    options: dict[str, Any],
    only: dict[str, Any],
    *,
    allow: bool,
) -> RolloutReport:
    """Roll a session's network out in fresh episodes of its simulation, or in those of a dataset."""
    from physgym.code.record import check_same, recorded_code
    from physgym.code.search import code_of
    from physgym.experiment.evaluate import open_part, recorded_split
    from physgym.experiment.generation_plan import environment_arguments
    from physgym.experiment.networks import by_python, load_network

    env = dataset = None
    if only["data"] is not None:
        dataset = open_part(only["data"], only["mode"] or "test", recorded_split(session, only["data"]))
    else:
        config = config if config.environment is not None else _with_simulation(config, session)
        assert config.environment is not None
        env = config.environment.id, environment_arguments(config)
        recorded = recorded_code(session) if _environment_of(session) in (None, env[0]) else None
        if recorded is not None:
            check_same(
                recorded, code_of(env[0], config.environment.arguments), f"the network of {session}", allow=allow
            )
    network = load_network(None if by_python(session) else config, session, which)
    return rollouts.roll_out(network, config, horizon, options, env=env, dataset=dataset, only=only)


def _run(
    session: Path,
    config: Config | None,
    which: str | None,
    steps: int,
    *,
    frames: Path | None,
    stored: Any = None,
    solver: bool = True,
    **more: Any,
) -> RunReport:
    """Run a session's network, with the solver or on stored samples alone, and print what came out.

    Returns:
        That; where Ctrl-C ended the run, of the steps before.
    """
    from physgym.code.record import recorded_code
    from physgym.data.provenance import learned_samples
    from physgym.experiment.generation_plan import environment_arguments
    from physgym.experiment.networks import by_python, load_network
    from physgym.running.runner import Runner
    from physgym.running.save_frames import SaveFrames

    env: str | None = None
    if solver:
        assert config is not None
        config = config if config.environment is not None else _with_simulation(config, session)
        assert config.environment is not None
        pictures = {} if frames is None else {"render_mode": "rgb_array"}
        env, more["env_kwargs"] = config.environment.id, environment_arguments(config, **pictures)
        compared = _environment_of(session) in (None, env) and stored is None
        more["learned"] = recorded_code(session) if compared else {}
    if "trained_on" not in more:
        more["trained_on"] = learned_samples(session)
    try:
        with Runner(env, load_network(None if by_python(session) else config, session, which), **more) as runner:
            report = runner.run(
                steps or None,
                replay=stored,
                solver=solver and stored is not None,
                callbacks=[SaveFrames(frames, resume=more.get("resume", False))] if frames is not None else [],
            )
            if (file := runner.kept_inputs) is not None:
                print(f"inputs: {short(file)}; --inputs {short(file)} makes them again", file=sys.stderr)
    except KeyboardInterrupt:  # before the first step, or the second one
        record = more.get("record")
        kept = "" if record is None else f"; {record} keeps what it had, and with --resume a run continues behind it"
        print(f"\ninterrupted at once{kept}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(report)
    if report.interrupted:
        if (record := more.get("record")) is None:
            print("interrupted", file=sys.stderr)
        elif stored is not None:
            print(f"interrupted; {record} has the first {report.steps}. Remove it to replay all", file=sys.stderr)
        else:
            rest = () if not steps else ("--steps", str(steps - report.steps))
            print(f"interrupted; continue with: {again('--resume', *rest)}", file=sys.stderr)
    return report


def _with_simulation(config: Config, session: Path) -> Config:
    """Return the configuration of a session that names no simulation, with the one that made its samples.

    Raises:
        ConfigError: They do not say it, or it cannot be imported by its name.
    """
    from physgym.data.provenance import learned_samples
    from physgym.experiment.schema import EnvironmentSection
    from physgym.registration import find_spec

    samples = learned_samples(session)
    name = None if samples is None else samples.source.get("env")
    if samples is None or not isinstance(name, str):
        raise ConfigError(
            "environment: missing; name the simulation, as in environment.id=physgym/Beam-v0, or "
            "environment.id=module:Class"
        )
    try:
        if name.startswith("__main__:"):  # which is another program here
            raise ConfigError("it is a class of a script")
        find_spec(name)
    except ConfigError as error:
        raise ConfigError(
            f"environment: missing; the samples of the training were made by {name!r}, which cannot be imported by "
            f"that name: {error}. Put the class at the top of a module that can be imported, and name it: "
            "environment.id=module:Class"
        ) from error
    arguments = samples.source.get("env_kwargs") or {}
    return config.model_copy(update={"environment": EnvironmentSection(id=name, arguments=arguments)})


def _environment_of(session: Path) -> str | None:
    """Return the simulation that a session names; one that is put in its place has other code."""
    from physgym.experiment.record import read_config

    environment = read_config(session).get("environment")
    return environment.get("id") if isinstance(environment, dict) else None
