"""`Unroll`: a training over several of the network's own steps, and which of them count how much."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from physgym.checks import integer, is_integer, is_real, one_of
from physgym.errors import ConfigError

NoiseUnits = Literal["normalized", "physical"]


class Unroll:
    """Form of a training in which a network makes several steps, each from its own last one.

    The loss of a window of n steps is the weighted mean of the losses of its steps. The first step begins at the stored
    state. From then on, the outputs that are inputs of the next step (the feedback of the samples) are fed back in
    physical units, through the transforms of the inputs. Inputs that nothing feeds are the stored ones of each step.

    Args:
        steps: How many steps; by default the largest number of the curriculum.
        push_forward: How many steps at the end of a window count in the training: those before are made without a
            gradient, so that the network learns from states that it has made (Brandstetter et al. 2022,
            arXiv:2202.03376, for 1). None for all.
        curriculum: Steps by the epoch from which on a window has them, such as ``{0: 1, 20: 4, 50: 8}``; epochs count
            from 0. The windows are always as long as the largest number, and their first steps are trained on.
        noise: Standard deviation of Gaussian noise on the inputs that outputs feed, at the first step, in the training
            alone; or one for each by name. It is a function of seed, epoch and window.
        noise_units: The units of `noise`: "normalized", in scales of the field's normalization, or "physical".
        weights: How much the loss of each step counts, one number for each; the same for all by default. Of a window
            with fewer steps the first ones.
        truncate: Cut the gradient after so many steps each, so that memory holds the steps of one cut only. None for
            the gradient through all.

    Raises:
        ConfigError: An argument is out of range, or they contradict each other.
    """

    def __init__(
        self,
        steps: int | None = None,
        *,
        push_forward: int | None = None,
        curriculum: Mapping[int, int] | None = None,
        noise: float | Mapping[str, float] = 0.0,
        noise_units: NoiseUnits = "normalized",
        weights: Sequence[float] | None = None,
        truncate: int | None = None,
    ) -> None:
        self.curriculum = None if curriculum is None else _checked_curriculum(curriculum)
        largest = None if self.curriculum is None else max(self.curriculum.values())
        if steps is None and largest is None:
            raise ConfigError("say how many steps: steps=4, or curriculum={0: 1, 20: 4}")
        self.steps: int = integer("steps", largest if steps is None else steps, 1)
        if largest is not None and largest != self.steps:
            raise ConfigError(
                f"the curriculum goes up to {largest} steps, and steps is {self.steps}; leave steps out, or end the "
                "curriculum there"
            )
        self.push_forward = None if push_forward is None else integer("push_forward", push_forward, 1)
        self.truncate = None if truncate is None else integer("truncate", truncate, 1)
        for name in ("push_forward", "truncate"):
            if (given := getattr(self, name)) is not None and given > self.steps:
                raise ConfigError(f"{name} is {given}, and a window has {self.steps} steps; at most so many")
        self.noise = _checked_noise(noise)
        one_of("noise_units", noise_units, get_args(NoiseUnits))
        self.noise_units: NoiseUnits = noise_units
        self.weights = None if weights is None else _checked_weights(weights, self.steps)
        for steps in {self.steps, *(self.curriculum or {}).values()}:
            if not sum(self.shares(steps, self.first_counted(steps))) or not sum(self.shares(steps)):
                raise ConfigError(f"weights: of a window of {steps} steps, none of those that count has a weight")

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if value)
        return f"Unroll({given})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unroll) and self.settings == other.settings

    __hash__ = None  # type: ignore[assignment]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments as data: lists, and dictionaries by text."""
        return {
            "steps": self.steps,
            "push_forward": self.push_forward,
            "curriculum": self.curriculum and {str(epoch): steps for epoch, steps in self.curriculum.items()},
            "noise": dict(self.noise) if isinstance(self.noise, Mapping) else self.noise,
            "noise_units": self.noise_units,
            "weights": self.weights and list(self.weights),
            "truncate": self.truncate,
        }

    def steps_in(self, epoch: int) -> int:
        """Return the steps of a window in an epoch of the training; epochs count from 0."""
        if self.curriculum is None:
            return self.steps
        return self.curriculum[max(begin for begin in self.curriculum if begin <= epoch)]

    def first_counted(self, steps: int) -> int:
        """Return the first step that counts in the training, from 0, of a window of so many steps."""
        return 0 if self.push_forward is None else max(0, steps - self.push_forward)

    def shares(self, steps: int, first: int = 0) -> list[float]:
        """Return the share of each step in the loss: their sum is 1, or all are 0 where no step counts.

        Args:
            steps: Steps of the window.
            first: The first step that counts; those before have no share.
        """
        weights = [1.0] * steps if self.weights is None else list(self.weights[:steps])
        weights[:first] = [0.0] * first
        total = math.fsum(weights)
        return [weight / total for weight in weights] if total else weights


def as_unroll(unroll: Unroll | int | None, epochs: int) -> Unroll | None:
    """Return an unroll as it is, or that of a number of steps; warn where its curriculum does not come to its end.

    Args:
        unroll: The form, a number of steps, or None.
        epochs: Epochs of the training.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(unroll, Unroll):
        if late := [epoch for epoch in unroll.curriculum or {} if epoch >= epochs]:
            warnings.warn(
                f"the curriculum of unroll has other steps from the epochs {late} on, and a training of {epochs} "
                f"epochs ends with epoch {epochs - 1}: {unroll.steps_in(epochs - 1)} steps of {unroll.steps} at the "
                "end. Let it begin earlier, or train for more epochs",
                UserWarning,
                stacklevel=3,
            )
        return unroll
    if unroll is None:
        return None
    if not is_integer(unroll):
        raise ConfigError(f"unroll must be a number of steps, or an Unroll, not {unroll!r}")
    return Unroll(integer("unroll", unroll, 1))


def _checked_curriculum(curriculum: Any) -> dict[int, int]:
    """Return steps by epoch, in the order of the epochs."""
    example = "curriculum={0: 1, 20: 4}, steps by the epoch from which on they hold"
    if not isinstance(curriculum, Mapping) or not curriculum:
        raise ConfigError(f"the curriculum is {curriculum!r}; write {example}")
    for epoch, steps in curriculum.items():
        if not is_integer(epoch, 0) or not is_integer(steps, 1):
            raise ConfigError(
                f"the curriculum has {epoch!r}: {steps!r}; an epoch is an integer from 0 on, and its steps at least 1: "
                f"write {example}"
            )
    if 0 not in curriculum:
        raise ConfigError(
            f"the curriculum begins at epoch {min(curriculum)}, and the first epoch is 0; say how many steps it has"
        )
    return {int(epoch): int(curriculum[epoch]) for epoch in sorted(curriculum)}


def _checked_noise(noise: Any) -> float | dict[str, float]:
    """Return a standard deviation, or one by name."""
    named = isinstance(noise, Mapping)
    for name, std in noise.items() if named else [("", noise)]:
        if not is_real(std) or not 0 <= std < math.inf:
            raise ConfigError(
                f"noise{f' of {name!r}' if name else ''} must be a standard deviation from 0 on, not {std!r}"
            )
    return {str(name): float(std) for name, std in noise.items()} if named else float(noise)


def _checked_weights(weights: Any, steps: int) -> tuple[float, ...]:
    """Return the weights of all steps."""
    if isinstance(weights, (str, Mapping)) or not isinstance(weights, Sequence) or len(weights) != steps:
        raise ConfigError(f"weights must be a list of {steps} numbers, one for each step, not {weights!r}")
    for weight in weights:
        if not is_real(weight) or not 0 <= weight < math.inf:
            raise ConfigError(f"a weight must be a number from 0 on, not {weight!r}")
    if not math.isfinite(sum(map(float, weights))):
        raise ConfigError(f"the sum of the weights {list(weights)} is too large; their shares alone matter")
    return tuple(float(weight) for weight in weights)
