"""The section ``search`` of a configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from physgym.experiment.components import REFERENCE, check_name

SAMPLERS, PRUNERS = ("tpe", "gp", "random", "grid"), ("median", "halving", "hyperband", "none")
NEW_TRIALS = 20  # where the section does not say how many
PRUNED = "pruned by the search"  # why a training stopped that a search ended early


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("must be a number")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]  # 16 stays a whole one


class ParameterSection(BaseModel):
    """The values that a searched key may take: a range, or a list of choices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Number | None = Field(None, description="smallest value")
    high: Number | None = Field(None, description="largest value")
    log: bool = Field(False, description="draw on a logarithmic scale")
    step: Number | None = Field(None, gt=0, description="only low, low + step, low + 2 step, ...")
    choices: list[Any] | None = Field(None, description="the values themselves, in place of a range; any YAML")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("give either choices or a range of low and high, not both")
            _check_choices(self.choices)
        elif self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        elif self.low >= self.high:
            raise ValueError(f"low must be less than high, but {self.low} is not less than {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"a logarithmic scale begins above 0, but low is {self.low}")
        elif self.log and self.step is not None:
            raise ValueError("a logarithmic scale has no steps; leave step or log out, or give choices")
        elif self.step is not None:
            _check_steps(self.low, self.high, self.step)
        return self


def _check_choices(choices: list[Any]) -> None:
    if not choices:
        raise ValueError("choices is empty")
    try:
        texts = [json.dumps(choice, allow_nan=False) for choice in choices]
    except (TypeError, ValueError) as error:
        raise ValueError(f"choices may be numbers, texts, true, false, null, lists and sections: {error}") from error
    if twice := {text for text in texts if texts.count(text) > 1}:
        raise ValueError(f"choices has {', '.join(sorted(twice))} more than once")


def _check_steps(low: float, high: float, step: float) -> None:
    first, last, width = (Decimal(str(number)) for number in (low, high, step))
    steps = (last - first) // width
    if (reached := first + steps * width) != last:
        raise ValueError(
            f"steps of {step} lead from {low} to {reached} and {reached + width}, not to high, {high}; set high to one"
        )


def _dotted(parameters: Any) -> Any:
    """Return parameters by dotted key: nested ones, as overrides make them, change those that are there."""
    if not isinstance(parameters, Mapping):
        return parameters
    if not parameters:
        raise ValueError("empty; say what to search, such as {optimization.lr: {low: 1e-4, high: 1e-2, log: true}}")
    found: dict[str, Any] = {}

    def walk(prefix: str, section: Mapping[Any, Any]) -> None:
        for key, value in section.items():
            name = f"{prefix}{key}"
            if _is_nested(value):
                walk(f"{name}.", value)
                continue
            known = found.get(name)
            found[name] = {**known, **value} if isinstance(known, Mapping) and isinstance(value, Mapping) else value

    walk("", parameters)
    return found


def _is_nested(value: Any) -> bool:
    """Return whether this is a section with parameters in it, not a parameter."""
    if not isinstance(value, Mapping) or not value or set(value) & set(ParameterSection.model_fields):
        return False
    return all(isinstance(inner, Mapping) for inner in value.values())


def _one_of(known: tuple[str, ...]) -> AfterValidator:
    return AfterValidator(lambda name: check_name(name, known))


def _names_of(known: tuple[str, ...]) -> dict[str, Any]:
    return {"anyOf": [{"enum": list(known)}, {"type": "string", "pattern": f"^{REFERENCE.pattern}$"}]}


class SearchSection(BaseModel):
    """A search for the best values of some keys: many trainings, called trials."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: Annotated[dict[str, ParameterSection], BeforeValidator(_dotted)] = Field(
        description="what is searched: low and high, or choices, by dotted key of the configuration"
    )
    trials: int | None = Field(
        None, ge=1, description=f"how many trainings; by default {NEW_TRIALS}, with the grid all of its points"
    )
    workers: int = Field(1, ge=1, description="trials at the same time, each in a process")
    threads: int | None = Field(
        None, ge=1, description="threads of each worker; by default the cores are divided among them, with Ray one"
    )
    metric: str = Field("validation_loss", description="value of an epoch that the search improves")
    which: Literal["best", "last"] = Field("best", description="whether its best epoch counts, or the last one")
    direction: Literal["minimize", "maximize"] = Field(
        "minimize", description="whether small or large values of the metric are better"
    )
    sampler: Annotated[str, _one_of(SAMPLERS), WithJsonSchema(_names_of(SAMPLERS))] = Field(
        "tpe",
        description="what chooses values: tpe (Parzen trees), gp (Gaussian process), random, grid (all combinations), "
        "or module:attr, a sampler of Optuna",
    )
    pruner: Annotated[str, _one_of(PRUNERS), WithJsonSchema(_names_of(PRUNERS))] = Field(
        "median",
        description="what ends trials early: median (worse than it), halving (successive halving), hyperband, none, or "
        "module:attr, a pruner of Optuna",
    )
    startup: int = Field(
        5, ge=1, description="trials at random from which tpe and gp learn first; also before median ends any"
    )
    warmup: int = Field(1, ge=1, description="epochs in which no trial is ended early")
    seed: int = Field(0, ge=0, description="seed of the sampler; the trainings keep the configuration's seed")
    timeout: float | None = Field(None, gt=0, description="begin no trial after so many seconds")
    trial_timeout: float | None = Field(None, gt=0, description="seconds after which a trial is ended as failed")
