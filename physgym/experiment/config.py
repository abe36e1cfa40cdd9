"""The schema of configuration files, and errors that name the key and the nearest right one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from physgym.errors import ConfigError


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2 and everywhere else; PyYAML takes it for text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """The data of a YAML text; raises yaml.YAMLError."""
    return yaml.load(text, Loader)


class Section(BaseModel):
    """A part of a configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EnvironmentSection(Section):
    """Which simulation."""

    id: str = Field(description="registered id; 'module:id' imports a module first")
    arguments: dict[str, Any] = Field(default_factory=dict, description="of the environment's constructor")


class OnlineSection(Section):
    """The buffer between running simulators and the training."""

    capacity: int = Field(4096, ge=1, description="samples that it holds")
    minimum: int = Field(512, ge=1, description="samples that must be there before the training draws")
    rule: Literal["reservoir", "fifo", "firo"] = Field("reservoir", description="what leaves the buffer")
    samples: int | None = Field(None, ge=1, description="end the production after so many; null goes on")


class DatasetSection(Section):
    """Where samples come from."""

    path: str | None = Field(None, description="dataset folder; by default 'dataset' in the session")
    samples: int | None = Field(
        None, ge=1, description="how many it shall have: missing ones are generated. None takes it as it stands"
    )
    num_workers: int | None = Field(None, ge=0, description="worker processes; by default one per core, 0 for none")
    num_envs: int | None = Field(None, ge=1, description="environments; by default one per worker")
    produce: Literal["before", "first_epoch", "always", "online"] = Field(
        "before",
        description="generate before the training, in its first epoch, anew for every epoch, or while it trains",
    )
    actions: str | None = Field(None, description="sampler of actions, such as sobol; by default the environment's own")
    parameters: str | None = Field(None, description="sampler of the parameters of episodes, such as lhs:16")
    load_samples: str | None = Field(None, description="dataset whose samples drive the simulation")
    online: OnlineSection = OnlineSection.model_construct()


class NetworkSection(Section):
    """Which network; the sizes of input and output follow from the samples."""

    type: str = Field("MLP", description="registered network: MLP, UNet, FNO")
    arguments: dict[str, Any] = Field(default_factory=dict, description="of its constructor")
    start_from: str | None = Field(
        None, description="session or checkpoint whose network is trained further, in place of a new one"
    )
    which: str = Field("last", description="which checkpoint of it: last, best, an epoch or a name")


class OptimizationSection(Section):
    """How the network is optimized."""

    loss: Literal["mse", "l1", "huber", "relative_l2"] = "mse"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(1, ge=1, description="parts in which the gradient of a batch is computed")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="in which the network computes")


class CheckpointsSection(Section):
    """When the training is saved, and what is kept."""

    every: int = Field(1, ge=1, description="save after so many epochs")
    steps: int | None = Field(None, ge=1, description="also after so many batches")
    minutes: float | None = Field(None, gt=0, description="also after so many minutes")
    keep: int | None = Field(1, ge=1, description="how many of the newest; null keeps all")
    best: bool = Field(True, description="also keep the best one")


class EarlyStoppingSection(Section):
    """When to stop before the last epoch."""

    monitor: str = Field("validation_loss", description="value of an epoch that is to fall")
    patience: int = Field(10, ge=1, description="epochs without a lower one")
    min_delta: float = Field(0.0, ge=0, description="what counts as lower")


class RolloutSection(Section):
    """The costlier validation: the network in the simulation, compared with the solver."""

    steps: int = Field(50, ge=1, description="steps of the simulation")
    every: int = Field(5, ge=1, description="after so many epochs, and after the last one")


class TrainingSection(Section):
    """How long and on what."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    batches_per_epoch: int | None = Field(None, ge=1)
    validation: float = Field(0.1, ge=0, lt=1, description="fraction of the episodes held out; 0 holds out none")
    rollout: RolloutSection | None = Field(None, description="null for none")
    early_stopping: EarlyStoppingSection | None = Field(None, description="null for none")
    checkpoints: CheckpointsSection = CheckpointsSection.model_construct()
    normalize: bool = True
    on_nonfinite: Literal["raise", "skip"] = Field("raise", description="what to do with a batch without a finite loss")
    loader_workers: int = Field(0, ge=0, description="processes that gather batches; 0 for a thread")
    compile: bool = Field(False, description="call the network through torch.compile")
    device: str = "cpu"


class Config(Section):
    """A training, from simulation to network."""

    description: str = Field("", description="what this is for, for your future self")
    session: str = Field("sessions/default", description="folder of the session; a taken name gets a suffix")
    seed: int = Field(0, ge=0)
    environment: EnvironmentSection
    dataset: DatasetSection = DatasetSection.model_construct()
    inputs: list[str] | None = Field(None, description="fields that feed the network; by default those of role input")
    outputs: list[str] | None = Field(None, description="fields that it predicts; by default those of role target")
    network: NetworkSection = NetworkSection.model_construct()
    optimization: OptimizationSection = OptimizationSection.model_construct()
    training: TrainingSection = TrainingSection.model_construct()


NEW_SAMPLES = 1000  # where there is no dataset and the configuration does not say how many


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file.

    Args:
        path: A YAML file.
        overrides: ``key.sub=value``, applied before checking; values are read as YAML.

    Raises:
        ConfigError: The file is missing or wrong; the text lists all faults, each with its key and the nearest right
            one.
    """
    try:
        data = read_yaml(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return check_config(data, str(path))


def check_config(data: dict[str, Any], where: str) -> Config:
    """The configuration that the data describes; raises as `load_config` does."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"- {_explain(fault)}" for fault in error.errors())
        raise ConfigError(f"{where} has {error.error_count()} fault(s):\n{faults}") from error


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not an override; write key.sub=value")
    *path, last = key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{override!r}: {part!r} is a value, not a section")
    try:
        data[last] = read_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{override!r}: the value is not YAML") from error


def _explain(fault: Any) -> str:
    """A fault as a person would put it."""
    path = [str(part) for part in fault["loc"]]
    name = ".".join(path)
    if fault["type"] != "extra_forbidden":
        return f"{name}: {fault['msg']} (got {fault['input']!r})" if fault["type"] != "missing" else f"{name}: missing"
    known = _keys(path[:-1])
    near = difflib.get_close_matches(path[-1], known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{name}: unknown key; {hint}"


def _keys(path: list[str]) -> list[str]:
    model: Any = Config
    for part in path:
        annotation = model.model_fields[part].annotation
        model = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
    return list(model.model_fields)
