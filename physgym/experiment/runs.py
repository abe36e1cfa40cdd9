"""Runs of a configuration: a training, or the generation of its samples."""

from __future__ import annotations

import functools
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.errors import ConfigError
from physgym.experiment.agent_training import check_agent, train_agent
from physgym.experiment.dataset_plan import (
    ONE_DATASET,
    DatasetFolders,
    dataset_folder,
    dataset_has_samples,
    is_complete,
    samples_to_load,
    wanted_samples,
)
from physgym.experiment.generation_plan import (
    answering_network,
    environment_arguments,
    environment_id,
    generation_options,
)
from physgym.experiment.provenance import Origin
from physgym.experiment.run import Run
from physgym.experiment.schema import Config
from physgym.experiment.session import is_empty, new_session
from physgym.experiment.summary import SessionSummary
from physgym.experiment.training_plan import TrainingPlan, make_trainer
from physgym.files import short
from physgym.generation.generate import generate
from physgym.launch.base import Launcher
from physgym.rl.agent_trainer import AgentTrainer
from physgym.storage.location import place
from physgym.training import (
    Callback,
    History,
    Trainer,
    list_checkpoints,
)
from physgym.training.ranks import Ranks
from physgym.training.trainer import ALONE
from physgym.vector.make import env_factories
from physgym.viewing.shown import UNSEEN, LiveView


@dataclass(frozen=True)
class Outcome:
    """Result of a training from a configuration.

    Attributes:
        session: Its folder; None where nothing was logged.
        trainer: The trainer, with the network and the samples; that of an agent with the agent.
        history: What was done.
        rank: Which of several processes that train together this one is.
    """

    session: Path | None
    trainer: Trainer | AgentTrainer
    history: History
    rank: int = 0

    def _repr_html_(self) -> str:
        session = "" if self.session is None else SessionSummary(self.session)._repr_html_()
        return f"{session}\n{self.history._repr_html_()}"


def train(
    config: Config,
    resume: Path | None = None,
    origin: Origin | None = None,
    *,
    log: bool = True,
    callbacks: Sequence[Callback] = (),
    view: LiveView = UNSEEN,
    launcher: Launcher[Any] | None = None,
) -> Outcome:
    """Run the training that a configuration describes, in a new session folder or in that of an interrupted one.

    Where it has an agent, the agent is trained, else a network. What can be wrong with it and all else that the
    configuration names is found before the first sample is generated.

    Args:
        config: What to do.
        resume: Session to continue from its last checkpoint, or from where its samples end.
        origin: How this run came about, for the record; by default what can be seen from here.
        log: Whether there is a session. Without one nothing is kept: no checkpoints, no curves, and the samples only
            where ``dataset.path`` says so.
        callbacks: More callbacks of the training.
        view: How its simulations are shown meanwhile.
        launcher: What brings the workers of its simulations from elsewhere; None for workers here.

    Started by ``torchrun``, the processes train one network together, from a dataset that is complete.

    Raises:
        PhysGymError: An error of one of the parts; what was complete stays in the session.
        KeyboardInterrupt: Ctrl-C while samples were generated; the text says where they are. During training it ends
            in the outcome instead.
    """
    given, config = config, located(config)
    if config.agent is not None:
        return Outcome(
            *train_agent(given, config, resume, origin, log=log, callbacks=callbacks, view=view, launcher=launcher)
        )
    begun = None if resume is None else dataset_folder(config, resume)
    allowed = origin is not None and origin.allow_changed_code
    _check_view(config, resume, view)
    plan = TrainingPlan(config, begun, callbacks, allow_changed_code=allowed, view=view, launcher=launcher)
    ranks = Ranks(config.device)  # torchrun starts all of them; the first one has the session
    if ranks.size > 1 and not is_complete(config, resume):
        raise ConfigError(f"{ALONE}: physgym generate, then dataset.path")
    if not log:
        with tempfile.TemporaryDirectory(prefix="physgym-") as temporary:
            return _fit(plan, dataset_folder(config, Path(temporary)), None, None)
    session = resume
    if session is None:
        plan.foresee_samples(ranks.size)
        session = Path(ranks.share(str(new_session(config.session)) if ranks.rank == 0 else ""))
    folder = dataset_folder(config, session)
    plan.show_in(session)
    # the record stands before the first step, and names the folder that the session really has
    recorded = given.model_copy(update={"session": str(session)}).model_dump()
    if ranks.rank > 0:
        return _fit(plan, folder, session, None, resume=resume is not None)
    with Run(session, "train", recorded, origin) as run:
        try:
            return _fit(plan, folder, session, run, resume=resume is not None)
        except KeyboardInterrupt as interrupt:
            if is_empty(session):
                there = f"samples are in {folder}" if dataset_has_samples(folder) else "nothing is kept"
                text = f"interrupted before the training; {there}. Begin again with the same command"
                raise KeyboardInterrupt(text) from None
            kept = (
                f"complete samples are in {short(str(folder))}"
                if dataset_has_samples(folder)
                else "no sample was complete"
            )
            if checkpoints := list_checkpoints(config.training.checkpoints.path or session / "networks"):
                kept = f"the last complete checkpoint is {short(str(list(checkpoints)[-1]))}"
            run.outcome = str(interrupt) or "interrupted before the training"
            onward = f"physgym resume {shlex.quote(short(session))}"
            raise KeyboardInterrupt(f"{run.outcome}; {kept}. Continue with: {onward}") from None


def _fit(
    plan: TrainingPlan, folder: DatasetFolders, session: Path | None, run: Run | None, *, resume: bool = False
) -> Outcome:
    """Train, in a session or without one."""
    trainer, source = make_trainer(plan, folder, session, run, resume=resume)
    if run is not None:
        run.note_device(trainer.ranks.device)
        run.accepted()  # only now it is known that the last checkpoint fits
    try:
        history = trainer.fit()
    except KeyboardInterrupt:  # the second one: the first ends in the history
        raise KeyboardInterrupt("interrupted twice") from None
    finally:
        if source is not None:
            source.close()
    if run is not None:
        run.outcome = f"stopped: {history.stopped}" if history.stopped else run.outcome
        run.outcome = "interrupted" if history.interrupted else run.outcome
        run.results = dict(history.epochs[-1]) if history.epochs else {}
        if source is not None and dataset_has_samples(folder):  # which were made meanwhile
            run.describe_dataset(SampleDataset(folder))
    return Outcome(session, trainer, history, trainer.ranks.rank)


def generate_samples(
    config: Config,
    resume: Path | None = None,
    origin: Origin | None = None,
    *,
    mode: Mode = "training",
    more: bool = False,
    allow_changed_code: bool = False,
    view: LiveView = UNSEEN,
    launcher: Launcher[Any] | None = None,
) -> SampleDataset:
    """Generate the samples that a configuration describes: where ``dataset.path`` says, or in a session of their own.

    Args:
        config: What to do.
        resume: Session to continue.
        origin: How this run came about, for the record of a session.
        mode: Part of the dataset to write.
        more: Continue the dataset in ``dataset.path`` after its last sample.
        allow_changed_code: Continue it with another code of the simulation too; of a session `origin` says it.
        view: How the simulations are shown meanwhile.
        launcher: What brings the workers from elsewhere; None for workers here.

    Raises:
        ConfigError: The configuration has no environment.
        PhysGymError: What `physgym.generate` raises.
    """
    given, config = config, located(config)
    if config.agent is not None:
        raise ConfigError(
            "agent: what an agent does is recorded while it learns (physgym train), and when it acts (physgym run "
            "SESSION --record FOLDER); physgym generate has samplers of actions: leave the section agent out (--delete "
            "agent)"
        )
    if config.dataset.type is not None:
        raise ConfigError("dataset.type: names samples that are there, and there are none to generate; leave it out")
    env, load, options = environment_id(config, "physgym generate"), samples_to_load(config), generation_options(config)
    drawing = options["parameters"]
    counted = load is not None or (drawing is not None and drawing.episodes is not None)
    samples = None if counted and config.dataset.samples is config.dataset.mini is None else wanted_samples(config)
    options["allow_changed_code"] = allow_changed_code or (origin is not None and origin.allow_changed_code)
    if resume is not None:  # the part that was begun
        mode = next((part for part in get_args(Mode) if dataset_has_samples(resume / "dataset", part)), mode)
    options |= {"samples": samples, "episodes": config.dataset.episodes, "mode": mode, "load": load}
    options |= {"predictor": answering_network(config), "view": view, "launcher": launcher}
    make: Any = functools.partial(generate, env, **options)
    if isinstance(config.dataset.path, list):
        raise ConfigError(ONE_DATASET)
    if config.dataset.path is not None:
        return cast(SampleDataset, make(config.dataset.path, resume=more))
    env_factories(env, environment_arguments(config))  # raises before there is a session
    session = new_session(config.session) if resume is None else resume
    recorded = given.model_copy(update={"session": str(session)}).model_dump()
    with Run(session, "generate", recorded, origin) as run:
        run.accepted()
        if load is not None:
            run.describe_dataset(load, "load_samples")
        try:
            dataset: SampleDataset = make(session / "dataset", resume=resume is not None)
        except KeyboardInterrupt:
            if is_empty(session):
                raise KeyboardInterrupt("interrupted before the first sample; nothing is kept") from None
            onward = f"physgym resume {shlex.quote(short(session))}"
            raise KeyboardInterrupt(
                f"interrupted; complete samples are in {short(session)}. Continue with: {onward}"
            ) from None
        run.describe_dataset(dataset)
        return dataset


def _check_view(config: Config, resume: Path | None, view: LiveView) -> None:
    """Raise ConfigError where a training is to be shown that runs no simulation."""
    if view.sink is None:
        return
    if config.dataset.type is not None or (config.dataset.produce == "before" and is_complete(config, resume)):
        raise ConfigError(
            "--view: this training runs no simulation, since its samples are there already. Leave it out; physgym view "
            "shows stored samples"
        )


def check(config: Config, metric: str | None = None) -> None:
    """Check what `train` checks before the first sample is generated.

    Args:
        config: What to do.
        metric: A value of an epoch that is wanted.
    """
    if config.agent is not None:
        check_agent(config, metric)
    else:
        TrainingPlan(config, None, (), metric)


def located(config: Config) -> Config:
    """Return a configuration whose paths are absolute: a simulation may change the folder that the process is in."""

    def at(path: Any) -> Any:
        if path is None:
            return None
        return str(place(path)) if isinstance(path, str) else [at(one) for one in path]

    dataset, training = config.dataset, config.training
    checkpoints = training.checkpoints.model_copy(update={"path": at(training.checkpoints.path)})
    changed: dict[str, Any] = {
        "dataset": dataset.model_copy(update={"path": at(dataset.path), "load_samples": at(dataset.load_samples)}),
        "network": config.network.model_copy(update={"start_from": at(config.network.start_from)}),
        "training": training.model_copy(update={"checkpoints": checkpoints}),
        "validation": config.validation.model_copy(update={"path": at(config.validation.path)}),
    }
    if config.agent is not None:
        changed["agent"] = config.agent.model_copy(update={"cache": at(config.agent.cache)})
    return config.model_copy(update=changed)
