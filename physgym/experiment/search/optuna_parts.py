"""The study, sampler and pruner of Optuna that a search names."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import ConfigError
from physgym.experiment.components import find_class, make
from physgym.experiment.schema import Config
from physgym.experiment.search.section import PRUNERS, SAMPLERS, SearchSection
from physgym.experiment.search.space import Space

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.jsonl"
NAME = "search"  # of the study; which trials hyperband puts together depends on it


def open_study(session: Path, space: Space, config: Config) -> optuna.Study:
    """Open the study in a session, which nobody else has open.

    Raises:
        ConfigError: The journal is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = (session / JOURNAL).resolve()
    if path.exists():
        _repair(path)
    was = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # a lock by exclusive creation, which network file systems have
        backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        return optuna.create_study(
            study_name=NAME,
            storage=optuna.storages.JournalStorage(backend),
            direction=space.section.direction,
            sampler=make_sampler(space, 0),
            pruner=make_pruner(space.section, config.training.epochs),
            load_if_exists=True,
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"{path} is damaged: {error}. Start a new search") from error
    finally:
        optuna.logging.set_verbosity(was)


def _repair(path: Path) -> None:
    """Remove the leftovers of a killed search: a line half written, and its lock."""
    data = path.read_bytes()
    if (whole := data.rfind(b"\n") + 1) < len(data):
        with path.open("r+b") as journal:
            journal.truncate(whole)
    for leftover in path.parent.glob(f"{path.name}.lock*"):
        leftover.unlink()


def make_sampler(space: Space, number: int) -> optuna.samplers.BaseSampler:
    """Make the sampler of a trial's values; each trial has its own, so that a resumed search draws the same values."""
    from optuna import samplers

    section = space.section
    seed = int(np.random.SeedSequence((section.seed, number)).generate_state(1)[0])
    if section.sampler not in SAMPLERS:
        kind = find_class(section.sampler, {}, "search.sampler", samplers.BaseSampler)
        own: samplers.BaseSampler = _make(kind, "search.sampler", samplers.BaseSampler, seed=seed)
        return own
    if section.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if section.sampler == "tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=section.startup)
    if section.sampler == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=section.startup)

    class Grid(samplers.GridSampler):
        """Sampler of all points, in an order that the seed gives."""

        def after_trial(self, *_: Any) -> None:
            """Do nothing: Optuna's would stop a loop that is not there."""

    return Grid(space.grid(), seed=section.seed)


def make_pruner(section: SearchSection, epochs: int) -> optuna.pruners.BasePruner:
    """Make the pruner, which ends trials early; Optuna's steps are epochs from 0."""
    from optuna import pruners

    if section.pruner not in PRUNERS:
        kind = find_class(section.pruner, {}, "search.pruner", pruners.BasePruner)
        own: pruners.BasePruner = _make(kind, "search.pruner", pruners.BasePruner)
        return own
    if section.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=section.startup, n_warmup_steps=section.warmup)
    if section.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=section.warmup)
    if section.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=section.warmup, max_resource=max(epochs, section.warmup))
    return pruners.NopPruner()


def _make(kind: Any, key: str, wanted: type, **options: Any) -> Any:
    """Make a part of Optuna that a configuration names as ``module:attr``, with those options that it has."""
    parameters = inspect.signature(kind).parameters
    made = make(kind, key, **{name: value for name, value in options.items() if name in parameters})
    if not isinstance(made, wanted):
        raise ConfigError(f"{key}: it gives {made!r}, which is no {wanted.__module__}.{wanted.__name__}")
    return made
