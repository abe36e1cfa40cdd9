"""Commands that train networks."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physgym.cli.app import INTERRUPTED, app, config_of
from physgym.cli.continuing import Begun, beginning, begun_session, origin_of
from physgym.cli.flags import Command, Flags, Overrides, with_flags
from physgym.cli.machines import Listening, with_listening
from physgym.cli.options import VIEW
from physgym.cli.reports import NoReport, write_session_report
from physgym.cli.search import Ray, resume_search
from physgym.errors import ConfigError
from physgym.files import short

if TYPE_CHECKING:
    from physgym.experiment.provenance import Origin
    from physgym.experiment.runs import Outcome
    from physgym.experiment.schema import Config
    from physgym.launch.base import Launcher
    from physgym.viewing import shown


@app.command(cls=Command)
@with_flags
@with_listening
def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="YAML file, see physgym schema; or a session, to train again from the start with its configuration.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    view: VIEW = None,
    *,
    resume: Begun = False,
    no_report: NoReport = False,
    listening: Listening,
    flags: Flags,
) -> None:
    """Train a network or an agent by a configuration file.

    All files are in a new session folder, which records the code: commit everything before, or use --save-diff.

    Examples: physgym train examples/beam.yaml training.epochs=20

    physgym train examples/beam.yaml --mini --no-logging
    """
    from physgym.experiment.sections import options_in
    from physgym.generation.options import GenerationOptions
    from physgym.viewing.shown import view_of

    settings = flags.load(config, overrides)
    how = view_of(view)
    begun = begun_session(settings, "train") if resume else None
    origin, log = origin_of(flags, config, overrides, begun)
    ids = [] if settings.environment is None else [settings.environment.id]
    with listening.reception(ids, options_in(settings.dataset, GenerationOptions)) as launcher:
        _run_training(settings, begun, origin, log, how, reported=not no_report, launcher=launcher)


@app.command(cls=Command)
@with_flags
def resume(
    session: Annotated[
        Path,
        typer.Argument(metavar="SESSION", help="Session folder of what was interrupted or killed.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Changed keys; training.epochs trains longer."),
    ] = None,
    *,
    ray: Ray = None,
    no_report: NoReport = False,
    flags: Flags,
) -> None:
    """Continue an interrupted training, generation or search.

    On a CPU the result has the same bits as without the interruption. A training continues from the last checkpoint;
    where there is none yet, from the last sample that was stored. A search finishes its trials; search.trials=N gives
    it more.

    Example: physgym resume sessions/beam
    """
    from physgym.experiment.config import load_config
    from physgym.experiment.record import read_record

    stored = load_config(config_of(session))
    config = flags.load(session, overrides)
    last = read_record(session)["runs"][-1]
    if last.get("from_python"):
        raise ConfigError(
            f"{session} was trained by a program in Python ({shlex.join(last['command'])}), which alone knows its "
            f"network and callbacks. Continue it there, with everything else as it was: "
            f"Trainer(..., session={str(session)!r}, resume=True).fit()"
        )
    _check_folder(session, config, last["folder"])
    origin, _ = origin_of(flags, session, overrides, session)
    if ray is not None and last["kind"] != "search":
        raise ConfigError("--ray: a cluster takes the trials of a search; this session is none")
    if last["kind"] == "search":
        resume_search(session, config, origin, ray, reported=not no_report)
        return
    if last["kind"] == "generate":
        _resume_generation(config, session, origin)
        return
    _check_epochs(session, config, stored)
    if last["outcome"] == "completed" and config == stored:
        print(f"{short(session)} is completed: there is nothing left to train", file=sys.stderr)
    _run_training(config, session, origin, reported=not no_report)


def _check_epochs(session: Path, config: Config, stored: Config) -> None:
    """Raise ConfigError where there are to be other epochs than the learning rate was planned for."""
    from physgym.experiment.parts import planned

    if config.training.epochs != stored.training.epochs and planned(stored):
        raise ConfigError(
            f"training.epochs: the schedule {stored.optimization.schedule.type} spans the {stored.training.epochs} "
            "epochs that were planned. Train its network further in a new session: "
            f"{further(session, stored, config.training.epochs - stored.training.epochs)}"
        )


def further(session: Path, config: Config, epochs: int) -> str:
    """Return the command that trains the network of a session further, in a session of its own."""
    from physgym.experiment.schema import TransformsSection

    begun = {"start_from": str(session), "which": "last"}
    changes: dict[str, Any] = {"network": begun, "training.epochs": max(1, epochs)}
    # what the network brings along
    changes |= {name: None for name in ("inputs", "outputs") if getattr(config, name) is not None}
    if config.transforms != TransformsSection():
        changes["transforms"] = {}
    if config.dataset.path is None and (session / "dataset").is_dir():
        changes |= {"dataset.path": str(session / "dataset"), "dataset.samples": None}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return shlex.join(["physgym", "train", str(session), *overrides])


def _check_folder(session: Path, config: Config, folder: str) -> None:
    """Raise ConfigError where paths in the configuration would mean something else than they did."""
    from physgym.experiment.references import actions_of, checkpoints_of, get
    from physgym.experiment.reproduce import PATHS

    if not Path(folder).is_dir() or Path(folder).samefile(Path.cwd()):
        return
    data = config.model_dump()
    paths = {f"{section}.{name}": get(data, section, name) for section, name in PATHS}
    paths |= {"sampler.actions": (actions_of(data) or [None])[0], "training.checkpoints.path": checkpoints_of(data)}
    paths |= {f"training.test.{name}": path for name, path in data["training"]["test"].items()}
    named = ((key, path) for key, found in paths.items() for path in (found if isinstance(found, list) else [found]))
    for key, path in named:
        if path is not None and "://" not in path and not Path(path).expanduser().is_absolute():
            raise ConfigError(
                f"{key}: {path} is relative to {folder}, where the session was begun. Go there first, "
                f"or give the whole path; then: physgym resume {session.absolute()}"
            )


def _run_training(
    config: Config,
    session: Path | None,
    origin: Origin,
    log: bool = True,
    view: shown.LiveView | None = None,
    *,
    reported: bool = True,
    launcher: Launcher[Any] | None = None,
) -> None:
    with beginning():
        from physgym.experiment.runs import train as run
        from physgym.viewing.shown import UNSEEN

    try:
        outcome = run(config, session, origin, log=log, view=view or UNSEEN, launcher=launcher)
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'interrupted'}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if outcome.rank == 0:  # the others have nothing else to say
        _report(config, outcome)
    if outcome.history.interrupted:
        raise typer.Exit(INTERRUPTED)
    if (made := outcome.session) is not None and outcome.rank == 0:
        write_session_report(made, wanted=reported)


def _report(config: Config, outcome: Outcome) -> None:
    from physgym.experiment.parts import build_loggers

    last = outcome.history.epochs[-1] if outcome.history.epochs else {}
    print("  ".join(f"{name} {value:.4g}" for name, value in last.items()))
    if outcome.history.stopped:
        print(f"stopped: {outcome.history.stopped}")
    if outcome.session is not None:
        print(f"session: {short(outcome.session)}")
        for logger in build_loggers(config, outcome.session):
            print(f"curves:  {logger.shown_by()}")
    if outcome.history.interrupted:
        onward = "nothing was kept"
        if outcome.session is not None:
            named = shlex.quote(short(outcome.session))
            onward = f"continue with: physgym resume {named}"
            print(f"a report until here: physgym report {named}", file=sys.stderr)
        print(f"interrupted; {onward}", file=sys.stderr)


def _resume_generation(config: Config, session: Path, origin: Origin) -> None:
    from physgym.experiment.runs import generate_samples

    try:
        dataset = generate_samples(config, session, origin)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(f"{len(dataset)} samples in {short(dataset.paths[0])}")
