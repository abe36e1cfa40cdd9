"""The simulation that a configuration names with stored samples, compared with the one that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.data.origins import arguments_of
from physgym.data.provenance import runs_of
from physgym.data.recorded_numbers import read_numbers
from physgym.errors import ConfigError
from physgym.experiment.generation_plan import environment_arguments, environment_id
from physgym.experiment.schema import Config
from physgym.files import short
from physgym.generation.recorded_arguments import describes_object
from physgym.generation.source import describable
from physgym.naming import env_name, same_name
from physgym.registration import defaults_of

STORED_ALONE = "To train on the stored samples alone, leave the environment out (environment=null)"
# arguments that show what happens, and change nothing
SHOWN = ("render_mode", "disable_env_checker")


def check_recorded_name(config: Config, dataset: SampleDataset) -> None:
    """Raise ConfigError if a configuration names another simulation than the one that made the samples of a folder."""
    recorded = dataset.source.get("env")
    if config.environment is None or recorded is None or same_name(recorded, env_name(config.environment.id)):
        return
    raise ConfigError(
        f"dataset.path: {dataset.paths[0]} holds samples of {recorded}, the configuration names "
        f"{config.environment.id}; set environment.id, or choose another dataset"
    )


def check_recorded_arguments(config: Config, dataset: SampleDataset) -> None:
    """Raise ConfigError if a configuration gives a simulation arguments with which none of the samples were made.

    Of several arguments in a dataset the configuration may name some. Where nothing is recorded, as of imported
    samples, nothing is compared. Neither are objects, of which a dataset has a description alone.

    Args:
        config: Names the simulation and its arguments.
        dataset: The stored samples, in one folder or several.
    """
    env = environment_id(config, "dataset.path")
    known = []  # arguments of the samples, each with the defaults of that time
    for source, provenance in dataset.origins()[0]:
        if source.get("env") and "env_kwargs" in source:
            runs = runs_of(provenance)
            before = runs[-1].get("defaults") if runs else None
            each = arguments_of(source["env_kwargs"])
            known += [(read_numbers(one or {}), before if isinstance(before, Mapping) else {}) for one in each]
    now = describable([defaults_of(env)])
    for given in map(dict, arguments_of(describable(environment_arguments(config)))):
        found = [_differences(given, now, *one) for one in known]
        if found and all(found):
            texts = "; ".join(min(found, key=len)[:3])
            raise ConfigError(
                f"environment.arguments: the samples in {', '.join(short(str(one)) for one in dataset.paths)} were "
                f"made with other arguments of {env}: {texts}. Name those of the samples, or choose another dataset. "
                f"{STORED_ALONE}: physgym run then takes the arguments of the samples too"
            )


def _differences(
    given: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any], before: Mapping[str, Any]
) -> list[str]:
    """Say which arguments differ.

    Args:
        given: Arguments that a configuration names.
        now: Defaults of the constructor.
        recorded: Arguments that samples were made with.
        before: Defaults of the constructor at that time, as far as they are recorded.
    """
    texts = []
    for name in sorted({*given, *recorded} - {*SHOWN}):
        wanted, made = given.get(name, now.get(name)), recorded.get(name, before.get(name, now.get(name)))
        if not (describes_object(made) or describes_object(wanted) or _are_equal(wanted, made)):
            texts.append(f"{name} was {_text(made)}, the configuration says {_text(wanted)}")
    return texts


def _are_equal(one: Any, other: Any) -> bool:
    return bool(one == other) or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _text(value: Any) -> str:
    return json.dumps(value)
