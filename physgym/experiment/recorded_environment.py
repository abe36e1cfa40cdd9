"""The simulation that a configuration names with stored samples, compared with the one that made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.data.origins import arguments_of, merged_of
from physgym.data.partition import Partition
from physgym.data.provenance import runs_of
from physgym.data.recorded_numbers import read_numbers
from physgym.errors import ConfigError
from physgym.experiment.generation_plan import environment_arguments, environment_id
from physgym.experiment.record import read_config
from physgym.experiment.schema import Config
from physgym.experiment.session import CONFIG, REPLAY
from physgym.files import short
from physgym.generation.recorded_arguments import describes_object
from physgym.generation.source import describable
from physgym.naming import class_name, env_name, same_name
from physgym.registration import TRANSITIONS, defaults_of
from physgym.rl.recordings import open_recordings

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
        if texts := _least_different(given, now, known):
            raise ConfigError(
                f"environment.arguments: the samples in {', '.join(short(str(one)) for one in dataset.paths)} were "
                f"made with other arguments of {env}: {texts}. Name those of the samples, or choose another dataset. "
                f"{STORED_ALONE}: physgym run then takes the arguments of the samples too"
            )


def check_recordings(config: Config) -> None:
    """Raise ConfigError if an agent acts in another environment than that of its recordings, or with other arguments.

    Compared is what the recordings say: those of a training of an agent, by the configuration around them; those of a
    Recorder, where Gymnasium could describe the environment; imported ones mostly say nothing. Objects are not
    compared.

    Args:
        config: Names the environment, its arguments, and the recordings.
    """
    if config.agent is None or config.agent.cache is None or config.environment is None:
        return
    env = config.environment.id
    alone = (
        "To learn from the recordings alone, leave the environment out (environment=null); a program can mix them "
        "(AgentTrainer)"
    )
    name, now = class_name(env_name(env)), describable([defaults_of(env)])
    (given,) = map(dict, arguments_of(describable(environment_arguments(config))))
    for part in open_recordings(config.agent.cache).partitions:
        where = short(str(part.path.parent))
        for recorded, arguments in _recorded(part):
            if not same_name(class_name(recorded), name):
                raise ConfigError(
                    f"agent.cache: {where} holds steps of {recorded}, the agent acts in {env_name(env)}. Set "
                    f"environment.id, or choose other recordings. {alone}"
                )
            if texts := _least_different(given, now, [(one, {}) for one in arguments]):
                raise ConfigError(
                    f"environment.arguments: the steps in {where} were made with other arguments of {env}: {texts}. "
                    f"Name those of the recordings, or choose others. {alone}"
                )


def _recorded(part: Partition) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield the name of each environment that was recorded, and its possible arguments; none where they are unknown."""
    source = json.loads(part.attributes["source"])
    described = json.loads(part.attributes.get("env_spec") or "{}") or {}
    session = part.path.parent.parent
    for one in [dict(entry["source"]) for entry in merged_of(source)] or [source]:
        if name := one.get("env"):
            known = arguments_of(one.get("env_kwargs"))
        elif name := one.get("recorded"):
            known = [described["kwargs"]] if "kwargs" in described else []
            if part.path.parent.name == REPLAY and (session / CONFIG).is_file():
                known = [(read_config(session).get("environment") or {}).get("arguments")]
        else:
            continue
        yield str(name).removeprefix(TRANSITIONS), [read_numbers(each or {}) for each in known]


def _least_different(
    given: Mapping[str, Any], now: Mapping[str, Any], known: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> str:
    """Say how arguments differ from the nearest ones of samples; empty where some are the same, or none are known.

    Args:
        given: Arguments that a configuration names.
        now: Defaults of the constructor.
        known: Arguments of samples, each with the defaults of that time.
    """
    found = [_differences(given, now, *one) for one in known]
    return "; ".join(min(found, key=len)[:3]) if found and all(found) else ""


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
