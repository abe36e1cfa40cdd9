"""Trainings of agents that a configuration describes, in a session or without one."""

from __future__ import annotations

import difflib
import inspect
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import has_partitions
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.experiment import components
from physgym.experiment.agent_section import AgentSection
from physgym.experiment.config import check_config
from physgym.experiment.generation_plan import environment_arguments
from physgym.experiment.parts import build_loggers, make_part
from physgym.experiment.provenance import Origin
from physgym.experiment.record import read_config
from physgym.experiment.recorded_environment import check_recordings
from physgym.experiment.run import Run
from physgym.experiment.schema import Config
from physgym.experiment.session import CONFIG, REPLAY, is_empty, new_session
from physgym.files import short
from physgym.launch.base import Launcher
from physgym.rl.agent import Agent
from physgym.rl.agent_trainer import AgentTrainer
from physgym.training import History, list_checkpoints
from physgym.training.argument_checks import check_device
from physgym.viewing.shown import UNSEEN, LiveView

VALIDATION, EVALUATION = "validation_", "evaluation_"  # in front of names of values
GIVEN = ("observation_space", "action_space", "seed", "device")  # arguments of an agent that are no keys of the section
# keys with which a training may be continued
CHANGEABLE = (
    "steps",
    "num_workers",
    "evaluate_every",
    "evaluate_episodes",
    "save_every",
    "keep",
    "timeout",
    "on_error",
)


def train_agent(
    given: Config,
    config: Config,
    resume: Path | None,
    origin: Origin | None,
    *,
    log: bool,
    callbacks: Sequence[Callback],
    view: LiveView,
    launcher: Launcher[Any] | None = None,
) -> tuple[Path | None, AgentTrainer, History]:
    """Train the agent of a configuration, as `physgym.experiment.runs.train` trains a network.

    Args:
        given: The configuration as it was written, for the record.
        config: The same with absolute paths.
        resume: Session to continue from its last checkpoint.
        origin: How this run came about.
        log: Whether there is a session.
        callbacks: More callbacks.
        view: How the environments are shown meanwhile.
        launcher: What brings their workers from elsewhere; None for workers here.

    Returns:
        The session, None without one; the trainer; the history.

    Raises:
        PhysGymError: An error of one of the parts; what was complete stays in the session.
        KeyboardInterrupt: Ctrl-C twice.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("an agent is trained by one process: start physgym train without torchrun")
    callbacks = [*callbacks, *own_callbacks(config)]
    if not log:
        trainer = make_agent_trainer(config, None, callbacks=callbacks, view=view, launcher=launcher)
        return None, trainer, trainer.fit()
    recordings = None if config.agent is None or config.agent.cache is None else SampleDataset(config.agent.cache)
    if resume is not None:
        check_resumed(config, resume)
    session = new_session(config.session) if resume is None else resume
    recorded = given.model_copy(update={"session": str(session)}).model_dump()
    with Run(session, "train", recorded, origin) as run:
        callbacks = [*callbacks, *build_loggers(config, session)]
        trainer = make_agent_trainer(
            config,
            session,
            callbacks=callbacks,
            resume=resume is not None,
            view=view,
            launcher=launcher,
            allow_changed_code=origin is not None and origin.allow_changed_code,
        )
        run.note_device(trainer.ranks.device)
        if recordings is not None:
            run.describe_dataset(recordings, "cache")
        run.accepted()
        try:
            history = trainer.fit()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_after_interrupt(session)) from None
        finally:
            describe_replay(run, session)
        run.outcome = f"stopped: {history.stopped}" if history.stopped else run.outcome
        run.outcome = "interrupted" if history.interrupted else run.outcome
        run.results = dict(history.epochs[-1]) if history.epochs else {}
    return session, trainer, history


def make_agent_trainer(
    config: Config,
    session: Path | None,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    view: LiveView = UNSEEN,
    launcher: Launcher[Any] | None = None,
    allow_changed_code: bool = False,
) -> AgentTrainer:
    """Make the trainer of the agent of a configuration, which is to be closed unless its `fit` is called.

    Raises:
        ConfigError: Its parts cannot be made, or do not fit each other.
    """
    section = config.agent
    assert section is not None
    check_device(config.device)
    _check_arguments(section)
    check_recordings(config)
    given = section.model_dump(exclude={"type", "arguments", "callbacks", "evaluate_arguments"})
    return AgentTrainer(
        components.AGENTS.get(section.type, section.type),
        None if config.environment is None else config.environment.id,
        agent_kwargs=section.arguments,
        env_kwargs=None if config.environment is None else environment_arguments(config)[0],
        evaluate_kwargs=section.evaluate_arguments,
        seed=config.seed,
        device=config.device,
        session=session,
        callbacks=callbacks,
        resume=resume,
        view=view,
        launcher=launcher,
        allow_changed_code=allow_changed_code,
        record=False,
        **given,
    )


def _check_arguments(section: AgentSection) -> None:
    """Raise ConfigError where the constructor of an agent does not take its arguments."""
    found = components.find_class(section.type, components.AGENTS, "agent.type", Agent)
    parameters = inspect.signature(found).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    known = [name for name in parameters if name not in GIVEN]
    for name in section.arguments:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        hint = f"it is a key of the configuration, {name}" if name in ("seed", "device") else hint
        raise ConfigError(f"agent.arguments: {section.type} has no argument {name!r}; {hint}")


def check_agent(config: Config, metric: str | None = None) -> None:
    """Check the training of an agent before its first step.

    Args:
        config: Describes it.
        metric: A value of a record that is wanted.

    Raises:
        ConfigError: Something is wrong.
    """
    assert config.agent is not None
    make_agent_trainer(config, None, callbacks=own_callbacks(config)).close()
    if metric is None:
        return
    if metric.startswith(VALIDATION):
        raise ConfigError(
            f"search.metric: {metric!r} is a value of a network's training, and the agent of this one has none; set "
            "search.metric=evaluation_return (or return, of the training's episodes) and search.direction=maximize"
        )
    if metric.startswith(EVALUATION) and not 0 < config.agent.evaluate_every <= config.agent.steps:
        raise ConfigError(
            f"search.metric: {metric!r} is a value of evaluations, and this training makes none: set "
            f"agent.evaluate_every to at most agent.steps, {config.agent.steps}"
        )


def own_callbacks(config: Config) -> list[Callback]:
    """Return the callbacks that the section agent names."""
    assert config.agent is not None
    parts = config.agent.callbacks
    return [make_part(part, components.CALLBACKS, "agent.callbacks", Callback) for part in parts]


def check_resumed(config: Config, session: Path) -> None:
    """Raise ConfigError where an agent would continue with other keys than it began with.

    Args:
        config: The configuration to continue with.
        session: The session, which has that of before.
    """
    before = check_config(read_config(session), str(session / CONFIG))
    if config.agent is None or before.agent is None:
        raise ConfigError(f"agent: {session} was {'no' if before.agent is None else 'a'} training of an agent")
    was, now = before.agent.model_dump(), config.agent.model_dump()
    changed = [f"agent.{name}" for name in now if name not in CHANGEABLE and now[name] != was[name]]
    changed += [name for name in ("environment", "seed") if getattr(config, name) != getattr(before, name)]
    if changed:
        raise ConfigError(
            f"{changed[0]}: an agent continues as it began, but for "
            f"{', '.join(f'agent.{name}' for name in CHANGEABLE)}. Leave it as it was, or begin a new session"
        )


def describe_replay(run: Run, session: Path) -> None:
    """Note what an agent has recorded while it learned."""
    replay = session / REPLAY
    if has_partitions(replay, "training"):
        run.describe_replay(SampleDataset(replay))


def _after_interrupt(session: Path) -> str:
    """Return what is there after a second Ctrl-C, and how to continue."""
    if is_empty(session):
        return "interrupted before the first checkpoint; nothing is kept. Begin again with the same command"
    kept = "no checkpoint was saved"
    if checkpoints := list_checkpoints(session / "networks"):
        kept = f"the last complete checkpoint is {short(str(list(checkpoints)[-1]))}"
    return f"interrupted; {kept}. Continue with: physgym resume {shlex.quote(short(session))}"
