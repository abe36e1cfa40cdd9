"""The space of a search: keys of a configuration, the values that they may take, and the configuration of a trial."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError
from physgym.experiment.config import annotation_of, check_config, kinds_of, section_at
from physgym.experiment.schema import Config
from physgym.experiment.search.section import NEW_TRIALS, ParameterSection, SearchSection

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

# keys of which nothing in a training depends
FIXED = ("search", "session", "description", "runner", "stats", "training.checkpoints.path")
# those on which the samples depend
SAMPLES = ("environment", "sampler", "seed", "dataset")
# but for these of the dataset
NOT_SAMPLES = tuple(f"dataset.{key}" for key in ("mini", "num_workers", "num_envs", "timeout", "on_error", "recycle"))


class Space:
    """The searched keys of a configuration.

    Args:
        config: With a section ``search``.

    Attributes:
        section: This section.
        trials: How many there shall be.

    Raises:
        ConfigError: There is no such section, a key does not exist, or a value is none that the schema takes.
    """

    def __init__(self, config: Config) -> None:
        if config.search is None:
            raise ConfigError(
                "the configuration has no section search; say what to search, such as\n"
                "search: {parameters: {optimization.lr: {low: 1e-4, high: 1e-2, log: true}}}"
            )
        self.section: SearchSection = config.search
        self._data = config.model_copy(update={"search": None}).model_dump()
        self._whole: dict[str, bool] = {}
        faults = self._faults()
        if faults:
            lines = "\n".join(f"- search.{fault}" for fault in faults)
            raise ConfigError(f"the search has {len(faults)} fault(s):\n{lines}")
        points = math.prod(len(values) for values in self.grid().values()) if self.section.sampler == "grid" else None
        wanted = self.section.trials or points or NEW_TRIALS
        self.trials = wanted if points is None else min(wanted, points)

    @property
    def keys(self) -> list[str]:
        """Return the searched keys."""
        return list(self.section.parameters)

    def config(self, values: Mapping[str, Any], **more: Any) -> Config:
        """Return the configuration of a trial.

        Args:
            values: By searched key.
            **more: Other values by key, with "__" for the dot.

        Raises:
            ConfigError: The values do not go together.
        """
        data = copy.deepcopy(self._data)
        for key, value in [*values.items(), *((key.replace("__", "."), value) for key, value in more.items())]:
            *path, last = key.split(".")
            section_at(data, path, key)[last] = value
        return check_config(data, "the combination of values")

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions; a choice is its JSON text, since Optuna takes scalars alone."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for key, known in self.section.parameters.items():
            if known.choices is not None:
                found[key] = CategoricalDistribution([json.dumps(choice) for choice in known.choices])
                continue
            assert known.low is not None
            assert known.high is not None
            if self._whole[key]:
                step = 1 if known.step is None else int(known.step)
                found[key] = IntDistribution(int(known.low), int(known.high), log=known.log, step=step)
            else:
                found[key] = FloatDistribution(known.low, known.high, log=known.log, step=known.step)
        return found

    def draw(self, trial: Trial) -> None:
        """Let Optuna choose the values of a trial that it has not chosen yet."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        for key, of in self.distributions().items():
            if isinstance(of, CategoricalDistribution):
                trial.suggest_categorical(key, of.choices)
            elif isinstance(of, IntDistribution):
                trial.suggest_int(key, of.low, of.high, step=of.step, log=of.log)
            elif isinstance(of, FloatDistribution):
                trial.suggest_float(key, of.low, of.high, step=of.step, log=of.log)

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the keys for what Optuna has drawn."""
        parameters = self.section.parameters
        return {
            key: json.loads(drawn[key]) if parameters[key].choices is not None else drawn[key]
            for key in self.keys
            if key in drawn
        }

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of each key, as Optuna has them."""
        from optuna.distributions import CategoricalDistribution

        points: dict[str, list[Any]] = {}
        for key, of in self.distributions().items():
            if isinstance(of, CategoricalDistribution):
                points[key] = list(of.choices)
            else:
                known: Any = of
                low, high, step = (Decimal(str(number)) for number in (known.low, known.high, known.step))
                points[key] = [type(known.low)(low + number * step) for number in range(int((high - low) / step) + 1)]
        return points

    def corner(self, end: int) -> dict[str, Any]:
        """Return the first value of each key, or with -1 the last."""
        return {
            key: known.choices[end] if known.choices is not None else (known.low, known.high)[end]
            for key, known in self.section.parameters.items()
        }

    def own_samples(self) -> bool:
        """Return whether every trial makes its own samples, as a searched key or the way of producing them demands.

        Raises:
            ConfigError: Trials with samples of their own would share a folder.
        """
        dataset = self._data["dataset"]
        if self._data["agent"] is not None:
            return True
        if "dataset.path" in self.keys or dataset.get("type") is not None:
            return True
        changing = [key for key in self.keys if key.split(".")[0] in SAMPLES and key not in NOT_SAMPLES]
        if dataset["produce"] != "before":
            changing.insert(0, f"dataset.produce: {dataset['produce']}")
        if dataset["path"] is not None and (changing := [key for key in changing if key != "seed"]):
            raise ConfigError(
                f"dataset.path: with {changing[0]} every trial has samples of its own, which cannot all be in "
                f"{dataset['path']}; leave it out"
            )
        return bool(changing) and dataset["path"] is None

    def _faults(self) -> list[str]:
        """Return the faults of keys, ranges and values."""
        faults = []
        for key, known in self.section.parameters.items():
            found = [*self._faults_of(key, known)] or [*self._misfits(key, known)]
            faults += [f"parameters.{key}: {fault}" for fault in found]
        if (path := self._data["training"]["checkpoints"]["path"]) is not None:
            faults.append(f"parameters: all trials would be saved in {path}; leave training.checkpoints.path out")
        metric = self.section.metric
        varied = any(key == "validation" or key.startswith("validation.rollout") for key in self.keys)
        if metric.startswith("rollout_") and self._data["validation"]["rollout"] is None and not varied:
            faults.append(
                f"metric: {metric!r} needs a rollout, which the configuration leaves out; set validation.rollout"
            )
        if metric.endswith("return") and self.section.direction == "minimize":
            faults.append(f"direction: of {metric!r} large values are better; set search.direction=maximize")
        return faults

    def _faults_of(self, key: str, known: ParameterSection) -> Iterator[str]:
        """Yield the faults of a key and its range."""
        annotation = annotation_of(key.split("."))
        if annotation is None:
            yield self._refusal(key, None).removeprefix(f"{key}: ").removeprefix(f"{key!r}: ")
            return
        kinds = kinds_of(annotation)
        if f"{key}.".startswith(tuple(f"{fixed}." for fixed in FIXED)):
            yield "no training depends on it; leave it out"
        for other in self.keys:
            if other.startswith(f"{key}."):
                yield f"{other} is a part of it; search one of both"
        if known.choices is not None:
            return
        whole = all(isinstance(number, int) for number in (known.low, known.high, known.step or 1))
        if int in kinds and float not in kinds and not whole:
            yield "takes whole numbers; write low, high and step without a fraction"
        self._whole[key] = whole and float not in kinds
        if self.section.sampler == "grid" and (known.log or (known.step is None and not self._whole[key])):
            yield "the grid needs a step, or choices"

    def _misfits(self, key: str, known: ParameterSection) -> Iterator[str]:
        """Return the values that the schema does not take."""
        for value in known.choices if known.choices is not None else (known.low, known.high):
            if refusal := self._refusal(key, value):
                yield f"the value {value!r} is not taken: {refusal}"

    def _refusal(self, key: str, value: Any) -> str:
        """Return the reason why the schema does not take a value; empty if it does."""
        try:
            self.config({key: value})
        except ConfigError as error:
            lines = str(error).splitlines()
            return "; ".join(line.removeprefix("- ") for line in lines[1:] or lines)
        return ""
