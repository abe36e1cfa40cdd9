"""The commands run and evaluate with the session of an agent: what they take, and what they print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from physgym.cli.app import INTERRUPTED, again
from physgym.cli.reports import EVALUATION_REPORT, RUN_REPORT, typed, write_at_end
from physgym.errors import ConfigError

if TYPE_CHECKING:
    from physgym.experiment.schema import Config
    from physgym.report.page import Page
    from physgym.rl.evaluation import AgentEvaluation
    from physgym.rl.offline import OfflineEvaluation
    from physgym.viewing.shown import LiveView

# options of a run that are about a network next to a solver
NETWORKS = {
    "runner.surrogate": "--surrogate",
    "runner.batch_size": "--batch-size",
    "runner.engine": "--engine",
    "runner.actions": "--actions",
    "runner.parameters": "--parameters",
    "runner.num_workers": "--workers",
    "runner.num_envs": "--envs",
    "runner.timeout": "--timeout",
}


def run_agent(
    session: Path,
    config: Config,
    options: Mapping[str, Any],
    given: Mapping[str, Any],
    only: Mapping[str, Any],
    *,
    resume: bool,
    view: LiveView,
    allow_changed_code: bool,
    reported: bool,
) -> None:
    """Let the agent of a session act in its environment, and say what came of it.

    Args:
        session: The folder.
        config: Its configuration.
        options: Its section runner with the options that were given, by name.
        given: These options by key.
        only: Options for networks alone by name, None for those that were not given.
        resume: Whether to continue the recording.
        view: How the environment is shown.
        allow_changed_code: Whether its code may have changed.
        reported: Whether to write a report.
    """
    from physgym.experiment.agent_acting import run_agent_of

    wrong = [option for key, option in NETWORKS.items() if key in given]
    wrong += [f"--{name}" for name, value in only.items() if value]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: for a network next to its simulation, and {session} has an agent, which acts in one "
            "environment of this process. Leave it out; physgym evaluate lets it act in many episodes"
        )
    record, steps = options["record"], options["steps"]
    if resume and record is None:
        raise ConfigError("--resume continues a recording: name it with --record")
    found = run_agent_of(
        session,
        config,
        frames=None if options["frames"] is None else Path(options["frames"]),
        **{name: options[name] for name in ("steps", "which", "seed", "record")},
        resume=resume,
        view=view,
        allow_changed_code=allow_changed_code,
    )
    print(found)
    if found.interrupted:
        rest = () if not steps else ("--steps", str(steps - found.steps))
        onward = "" if record is None else f"; continue with: {again('--resume', *rest)}"
        print(f"interrupted{onward}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)

    def make() -> Page:
        from physgym.report.reports import agent_run_report

        return agent_run_report(session.absolute().name, found, typed())

    write_at_end(make, session / RUN_REPORT, wanted=reported)


def tell_evaluation(session: Path, found: AgentEvaluation | OfflineEvaluation, *, reported: bool) -> None:
    """Print what came of an evaluation of the agent of a session, and write the report."""
    print(found)

    def make() -> Page:
        from physgym.report.reports import agent_evaluation_report

        return agent_evaluation_report(session.absolute().name, found, typed())

    write_at_end(make, session / EVALUATION_REPORT, wanted=reported)
