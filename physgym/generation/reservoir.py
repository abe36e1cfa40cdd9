"""`Reservoir`: a buffer of samples between simulations that fill it and a training that draws from it.

It is arrays and a rule alone; `physgym.generation.online.Online` has the lock and does the waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from physgym.checks import is_integer, one_of
from physgym.errors import ConfigError
from physgym.generation.named_samples import SampleNames
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array
from physgym.system.memory import available_memory

Rule: TypeAlias = Literal["fifo", "firo", "reservoir"]


class Reservoir:
    """A buffer of so many samples, in memory that is taken at the beginning.

    Rules, by what a draw takes and what leaves:

    - "fifo": the samples that came first; each is drawn once, and leaves with it.
    - "firo": random ones; each is drawn once, and leaves with it.
    - "reservoir": uniformly random ones of all, again and again. When the buffer is full a new sample takes the place
      of a random one among those that have been drawn; one that has not been drawn never leaves.

    Args:
        spec: The sample fields.
        capacity: How many samples it holds.
        rule: See above.
        seed: Of the random choices.

    Attributes:
        received: Samples that came in.
        drawn: Samples that were drawn, repeats included.
        distinct: Samples that were drawn at least once.
        most: How often one sample was drawn at most.
        unseen: Samples in the buffer that have not been drawn.

    Raises:
        ConfigError: An argument is out of range, or there is no memory for so many samples.

    Source of "firo" and "reservoir":
        Meyer et al., "High Throughput Training of Deep Surrogates from Large Ensemble Runs", SC 2023, section 3.
    """

    def __init__(self, spec: SampleSpec, capacity: int, rule: Rule = "reservoir", seed: int = 0) -> None:
        one_of("rule", rule, get_args(Rule))
        if not is_integer(capacity, 1):
            raise ConfigError(f"capacity must be at least 1 sample, not {capacity}")
        free = available_memory()
        if free is not None and capacity * spec.nbytes > free:
            raise ConfigError(
                f"a buffer of {capacity} samples of {spec.nbytes / 1e6:.3g} MB takes "
                f"{capacity * spec.nbytes / 1e6:.0f} MB, of which this machine has {free / 1e6:.0f}; lower its capacity"
            )
        self.spec, self.capacity, self.rule = spec, capacity, rule
        self.received = self.drawn = self.distinct = self.most = self.unseen = 0
        self._rng = np.random.default_rng(seed)
        self._fields = {field.name: np.empty((capacity, *field.shape), field.dtype) for field in spec.values()}
        self._names = SampleNames(
            np.empty(capacity, np.int64), np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
        )
        # in the first `_count` of them are samples; where each is drawn once, in the order in which they came
        self._slots = np.arange(capacity)
        self._count = 0
        self._times = np.zeros(capacity, np.int64)  # that the sample in a slot was drawn
        self._seen = np.zeros(capacity, np.bool_)

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """Return the number of samples that may come in now."""
        return self.capacity - (self.unseen if self.rule == "reservoir" else self._count)

    def add(self, samples: Mapping[str, Array], names: SampleNames, *, seen: bool = False) -> None:
        """Take samples, at most as many as there is room for.

        Args:
            samples: Every field, shape (n, *field shape).
            names: Their names.
            seen: Whether they count as drawn before: a reservoir gives their place away first.
        """
        count = len(names)
        assert count <= self.room
        fresh = min(count, self.capacity - self._count)
        slots = self._slots[self._count : self._count + fresh]
        if fresh < count:
            replaceable = np.flatnonzero(self._seen[: self._count])
            chosen = self._rng.choice(len(replaceable), count - fresh, replace=False)
            slots = np.concatenate([slots, replaceable[chosen]])
        for name, column in self._fields.items():
            column[slots] = samples[name]
        for column, given in zip(self._names.columns, names.columns, strict=True):
            column[slots] = given
        self._times[slots], self._seen[slots] = 0, seen
        self._count += fresh
        if not seen:
            self.received += count
            self.unseen += count

    def draw(self, count: int) -> tuple[Sample, SampleNames]:
        """Draw samples by the rule, at most as many as there are where each is drawn once.

        Args:
            count: How many; there must be a sample.

        Returns:
            Fields of shape (n, *field shape), and the names.
        """
        if self.rule == "reservoir":
            slots = self._rng.integers(self._count, size=count)
            first = np.unique(slots[self._times[slots] == 0])
            self.unseen -= int(np.count_nonzero(~self._seen[first]))
            self._seen[first] = True
            np.add.at(self._times, slots, 1)
            self.distinct += len(first)
            self.most = max(self.most, int(self._times[slots].max()))
        else:
            count = min(count, self._count)
            slots = self._leave(count)
            self.unseen -= count
            self.distinct += count
            self.most = 1
        self.drawn += len(slots)
        samples = {name: np.take(column, slots, axis=0) for name, column in self._fields.items()}
        return samples, self._names.cut(slots)

    def _leave(self, count: int) -> Array:
        """Return the slots of the next samples, which are free from now on."""
        used = self._slots[: self._count]
        if self.rule == "fifo":
            slots, rest = used[:count].copy(), used[count:].copy()
        else:
            chosen = self._rng.choice(self._count, count, replace=False)
            slots, rest = used[chosen], np.delete(used, chosen)
        self._count -= count
        self._slots[: self._count], self._slots[self._count : self._count + count] = rest, slots
        return slots

    def state_dict(self) -> dict[str, Any]:
        """Return the number of samples that came in, and the state of the random generator, as JSON data."""
        return {"received": self.received, "generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`.

        Raises:
            ConfigError: It is not what `state_dict` gives.
        """
        try:
            received = int(state["received"])
            self._rng.bit_generator.state = state["generator"]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not the state of a buffer: {error!r}") from error
        self.received = received
