"""Losses of batches that stay on the device until somebody looks at them: fetching each would wait for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from physgym.training.diagnosis import BatchPlace, Diagnosis
from physgym.training.history import Means, TrainingProgress, length

FETCH_EVERY = 50  # batches whose losses are fetched together, at most
HELD = 256 << 20  # bytes of batches that are held until then, so that a message can name what is wrong with one

Numbers = Mapping[str, Tensor | float]  # scalars of a batch, or of a part of it, by name

_LATER = float("nan")  # stands, as this very object, for a number that is yet to be fetched


class LateValues(dict[str, float]):
    """Values of a batch by name, which are fetched from the device when one of them is looked at.

    Names are known at once, and values may be added, without that.

    Args:
        names: Names of the values.
        fetch: Fetches them; calls `fill`.
    """

    def __init__(self, names: Sequence[str], fetch: Callable[[], None]) -> None:
        super().__init__(dict.fromkeys(names, _LATER))
        self._fetch = fetch
        self._views = [self]  # itself and its copies, until the values are there

    def fill(self, values: Mapping[str, float]) -> None:
        """Put the values in, in copies too; what was set meanwhile stays."""
        views, self._views = self._views, []
        for view in views:
            view._views = []
            for name, value in values.items():
                if dict.get(view, name) is _LATER:
                    dict.__setitem__(view, name, value)

    def copy(self) -> LateValues:
        """Return a copy, of values that are yet to be fetched too."""
        made = LateValues((), self._fetch)
        made._views = self._views
        if self._views:
            self._views.append(made)
        made.update({name: dict.__getitem__(self, name) for name in dict.keys(self)})
        return made

    def _look(self) -> None:
        if self._views:
            self._fetch()

    def __getitem__(self, name: str) -> float:
        self._look()
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:  # without a method of its own, Python would copy what is stored
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        self._look()
        return super().__eq__(other)

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        return {**self, **other}

    def __ror__(self, other: Any) -> Any:
        return {**other, **self}

    def __repr__(self) -> str:
        self._look()
        return super().__repr__()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value, or the default where there is none of that name."""
        self._look()
        return super().get(name, default)

    def items(self) -> ItemsView[str, float]:  # type: ignore[override]
        """Return names and values."""
        self._look()
        return super().items()

    def values(self) -> ValuesView[float]:  # type: ignore[override]
        """Return the values."""
        self._look()
        return super().values()

    def pop(self, *arguments: Any) -> Any:
        """Take a value out."""
        self._look()
        return super().pop(*arguments)

    def popitem(self) -> tuple[str, float]:
        """Take the last value out."""
        self._look()
        return super().popitem()

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a value, after setting it where there is none of that name."""
        self._look()
        return super().setdefault(name, default)


@dataclass
class LateStep:
    """A step whose losses are on the device.

    Attributes:
        parts: For each part of the batch the names of the values of each of its summands, and its samples.
        snapshot: All values, those of a part after the other, then the flag of numbers that are not finite; shape (n,).
        batch: Fields of shape (batch, *shape).
        place: The place of the batch.
        values: What callbacks have of it.
    """

    parts: list[tuple[list[list[str]], int]]
    snapshot: Tensor
    batch: Mapping[str, Tensor]
    place: BatchPlace
    values: LateValues

    def filled(self, numbers: Sequence[float]) -> tuple[dict[str, float], bool]:
        """Return the means over the parts, and whether loss and gradient are finite.

        Args:
            numbers: Those of the snapshot.
        """
        means, at = Means(), 0
        for summands, samples in self.parts:
            own: dict[str, float] = {}
            for names in summands:
                own = {name: own.get(name, 0.0) + numbers[at + place] for place, name in enumerate(names)}
                at += len(names)
            means.add(own, samples)
        values = means.values()
        self.values.fill(values)
        return values, math.isfinite(values["loss"]) and not numbers[at]


@dataclass
class LateLosses:
    """The steps whose losses are on the device.

    Attributes:
        progress: Where the training is; gets the losses.
        diagnosis: Explains a loss that is not finite.
        steps: Those steps.
        held: Bytes of their batches.
    """

    progress: TrainingProgress
    diagnosis: Diagnosis
    steps: list[LateStep] = field(default_factory=list)
    held: int = 0

    def add(
        self,
        parts: Sequence[tuple[Sequence[Numbers], int]],
        flag: Tensor,
        batch: Mapping[str, Tensor],
        place: BatchPlace,
    ) -> LateValues:
        """Note a step, and return its values, for callbacks.

        Args:
            parts: For each part of the batch the summands of its losses, and the number of its samples.
            flag: Set where they, or the gradient, are not finite, and from then on.
            batch: Fields of shape (batch, *shape).
            place: The place of the batch.
        """
        numbers = [number for summands, _ in parts for losses in summands for number in losses.values()]
        names = [([list(losses) for losses in summands], count) for summands, count in parts]
        values = LateValues(names[-1][0][-1], self.fetch)
        self.steps.append(LateStep(names, _snapshot([*numbers, flag], flag.device), batch, place, values))
        self.held += sum(value.nbytes for value in batch.values())
        return values

    @property
    def full(self) -> bool:
        """Return whether it is time to fetch them."""
        return len(self.steps) >= FETCH_EVERY or self.held >= HELD

    def fetch(self) -> None:
        """Fetch the losses of all steps, and add them to the means of the epoch.

        Raises:
            DivergedError: One is not finite, or a gradient was not. The training is back at that batch, whose step, as
                those after it, has not changed the weights.
        """
        steps, self.steps, self.held = self.steps, [], 0
        if not steps:
            return
        numbers = torch.cat([step.snapshot for step in steps]).tolist()  # waits for the device
        found, at = [], 0
        for step in steps:
            found.append(step.filled(numbers[at : at + len(step.snapshot)]))
            at += len(step.snapshot)
        for step, (values, finite) in zip(steps, found, strict=True):
            if not finite:
                self.progress.batch, self.progress.step = step.place.batch, step.place.step
                self.diagnosis.refuse(values, step.batch, step.place)
            self.progress.means.add(values, length(step.batch))


def _snapshot(numbers: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """Return numbers as they are now, shape (n,), in a dtype that holds each of them."""
    tensors = [one.detach() if isinstance(one, Tensor) else torch.tensor(one, dtype=torch.float64) for one in numbers]
    flat = [tensor.to(device, non_blocking=True).reshape(()) for tensor in tensors]
    if len({tensor.dtype for tensor in flat}) > 1:
        flat = [tensor.double() for tensor in flat]
    return torch.stack(flat)
