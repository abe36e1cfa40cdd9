"""Sessions of trainings that are made in Python, with the same record as sessions of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium

from physgym.data.dataset import SampleDataset
from physgym.data.stream_origin import origin_of
from physgym.data.windows import without_windows
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.experiment.agent_training import describe_replay
from physgym.experiment.provenance import Origin
from physgym.experiment.run import Run
from physgym.experiment.session import CONFIG, RECORD, check_session, new_session
from physgym.files import write_atomically
from physgym.naming import is_importable
from physgym.rl.agent_trainer import AgentTrainer
from physgym.rl.cache import TransitionCache
from physgym.storage.location import place
from physgym.training.metrics import Metrics
from physgym.training.trainer import Trainer


def is_taken(session: Path) -> bool:
    """Return whether a folder has the record of a session, networks or curves."""
    if (session / RECORD).exists() or (session / CONFIG).exists():
        return True
    return any(path.is_file() for name in ("networks", "stats") for path in (session / name).rglob("*"))


def own_session(path: str | Path) -> Path:
    """Return the folder of a new training: the wanted one, or one with a number behind it where that is taken.

    Raises:
        ConfigError: It cannot be made.
    """
    wanted = check_session(path)
    return new_session(wanted) if is_taken(wanted) else wanted


@contextlib.contextmanager
def recorded(trainer: Trainer | AgentTrainer, session: Path, callbacks: Iterable[Callback]) -> Iterator[None]:
    """Write the record of a training that is made in Python, from its beginning to its end.

    Args:
        trainer: The training, of a network or an agent.
        session: Its folder.
        callbacks: Its callbacks, whose test sets are noted.

    Raises:
        ConfigError: Another process works in the session, its record is damaged, or the disk refuses.
        ChangedCode: The session's simulation had other code, and `trainer.allow_changed_code` is not set.
    """
    try:
        made = not session.exists()
        session.mkdir(parents=True, exist_ok=True)
        if made:
            write_atomically(session / ".gitignore", "*\n")
    except OSError as error:
        raise ConfigError(f"cannot make the session folder {session}: {error.strerror}") from error
    origin = replace(Origin.here(), allow_changed_code=trainer.allow_changed_code)
    config = _config(trainer, session) if isinstance(trainer, Trainer) else _agent_config(trainer, session)
    with Run(session, "train", config, origin, from_python=True, device=trainer.ranks.device) as run:
        run.accepted()
        if isinstance(trainer, Trainer):
            _describe_samples(run, trainer, callbacks)
        elif (cache := config["agent"]["cache"]) is not None:
            run.describe_dataset(SampleDataset(cache), "cache")
        try:
            yield
        finally:
            if not isinstance(trainer, Trainer):
                describe_replay(run, session)
            history = trainer.history
            run.outcome = f"stopped: {history.stopped}" if history.stopped else run.outcome
            run.outcome = "interrupted" if history.interrupted else run.outcome
            run.results = dict(history.epochs[-1]) if history.epochs else {}


def _describe_samples(run: Run, trainer: Trainer, callbacks: Iterable[Callback]) -> None:
    """Note the samples of the training of a network."""
    training, validation = (without_windows(samples) for samples in (trainer.training, trainer.validation))
    if isinstance(training, SampleDataset):
        run.describe_dataset(training)
    if isinstance(validation, SampleDataset) and not trainer.held_out:
        run.describe_dataset(validation, "validation")
    for name, tested in (pair for one in callbacks if isinstance(one, Metrics) for pair in one.tests.items()):
        if isinstance(samples := without_windows(tested), SampleDataset):
            run.describe_test(name, samples)


def _agent_config(trainer: AgentTrainer, session: Path) -> dict[str, Any]:
    """Return the configuration of the training of an agent, as far as it is known."""
    acting, evaluating, cache = trainer.given
    agent, policy, settings = trainer.agent, trainer.policy, trainer.settings
    normalized = {} if policy.normalization is None else policy.normalization.config
    config: dict[str, Any] = {
        "session": str(session),
        "description": "trained from Python",
        "seed": settings.seed,
        "device": str(trainer.device),
        "agent": {
            "type": agent.name or f"{type(agent).__module__}:{type(agent).__qualname__}",
            "arguments": {name: value for name, value in agent.config.items() if name not in ("seed", "device")},
            **{name: value for name, value in asdict(settings).items() if name not in ("limit", "infos", "seed")},
            "max_episode_steps": None if settings.limit is None else settings.limit.config,
            "infos": list(settings.infos),
            "preprocessing": policy.preprocessing.config,
            "normalize_observations": bool(normalized.get("observations")),
            "normalize_rewards": bool(normalized.get("rewards")),
            "cache": _folders(cache),
            "evaluate_arguments": dict(evaluating or {}),
        },
    }
    if isinstance(env := trainer.env, str) and (env in gymnasium.registry or is_importable(env)):
        config["environment"] = {"id": env, "arguments": dict(acting) if isinstance(acting, Mapping) else {}}
    return config


def _folders(cache: Any) -> list[str] | None:
    """Return the places of recordings; None for none."""
    if cache is None:
        return None
    if isinstance(cache, (str, Path)):
        return [str(place(cache))]
    dataset = cache.dataset if isinstance(cache, TransitionCache) else cache
    return [str(one) for one in (dataset.places if isinstance(dataset, SampleDataset) else map(place, dataset))]


def _config(trainer: Trainer, session: Path) -> dict[str, Any]:
    """Return the configuration of a training, as far as it is known."""
    config: dict[str, Any] = {
        "session": str(session),
        "description": "trained from Python",
        "seed": trainer.seed,
        "dataset": {},
        "training": {"epochs": trainer.epochs, "batch_size": trainer.batch_size},
    }
    if trainer.unroll is not None:
        config["training"]["unroll"] = trainer.unroll.settings
    training = without_windows(trainer.training)
    source: Mapping[str, Any]
    if isinstance(training, SampleDataset):
        config["dataset"] = {"path": str(training.paths[0]), "samples": None}
        source = training.source
    else:
        origin = origin_of(trainer.source)
        source = {} if origin is None else origin.source
    env, arguments = source.get("env"), source.get("env_kwargs")
    if isinstance(env, str) and (env in gymnasium.registry or is_importable(env)):
        config["environment"] = {"id": env, "arguments": arguments or {}}
    return config
