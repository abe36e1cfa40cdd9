"""`EpisodeSplit`: which episodes of a dataset are for training, for validation, and for the test."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from physgym.checks import integer
from physgym.data.description import Mode, partition_files
from physgym.errors import ConfigError
from physgym.spaces import Array
from physgym.storage.location import Location

DatasetPart = Literal["training", "validation", "test"]
PARTS: tuple[DatasetPart, ...] = ("training", "validation", "test")
METADATA = "split"  # what a dataset says of its split
LARGEST_BLOCK = 100  # episodes among which fractions are kept, at most
NEAR = 1e-3  # what a fraction may differ from one of a block
MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)  # of splitmix64


@dataclass(frozen=True)
class EpisodeSplit:
    """Division of the episodes of a dataset into training, validation and test part.

    The part of an episode follows from its number and the seed alone and never changes: a dataset may grow, be
    filtered, or be read in any order. Episodes are taken in blocks of consecutive numbers, the smallest in which the
    fractions are whole numbers (10 for 0.8, 0.1 and 0.1). Of each whole block exactly so many are in each part, drawn
    from the seed and the number of the block. An episode of a merged dataset counts by the number that it had before.

    Args:
        training: Fraction of the episodes to train on, above 0.
        validation: Fraction to validate on.
        test: Fraction that a training never sees.
        seed: Which episodes; of its own, so that trainings with other seeds have the same test part.

    Raises:
        ConfigError: The fractions do not add up to 1, or not within a block of 100 episodes.
    """

    training: float
    validation: float = 0.0
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", integer("seed", self.seed, 0, 2**63 - 1))
        for part in PARTS:
            value = getattr(self, part)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ConfigError(f"the {part} part must be a fraction from 0 to 1, not {value!r}")
            object.__setattr__(self, part, float(value))
        total = self.training + self.validation + self.test
        if not math.isclose(total, 1, abs_tol=NEAR) or self.training == 0:
            raise ConfigError(
                f"the parts of a split add up to 1, with something to train on; training {self.training:g}, validation "
                f"{self.validation:g} and test {self.test:g} add up to {total:g}"
            )
        if self._block is None:
            raise ConfigError(
                f"a split gives out blocks of at most {LARGEST_BLOCK} episodes, in which training {self.training:g}, "
                f"validation {self.validation:g} and test {self.test:g} are no whole numbers; take hundredths"
            )

    @classmethod
    def of(cls, given: Any) -> EpisodeSplit:
        """Return a split that is given as such, as a dictionary of its arguments, or as the text of one.

        Raises:
            ConfigError: It is none.
        """
        if isinstance(given, EpisodeSplit):
            return given
        if isinstance(given, str):
            given = cls._read(given)
        if not isinstance(given, Mapping) or not set(given) <= {*PARTS, "seed"} or "training" not in given:
            raise ConfigError(
                f"a split is fractions by part, such as {{'training': 0.8, 'validation': 0.1, 'test': 0.1}}, and maybe "
                f"a seed, not {given!r}"
            )
        return cls(**given)

    @classmethod
    def _read(cls, text: str) -> Any:
        """Return the arguments in a text such as "training=0.8 validation=0.1 test=0.1 seed=0"; others as they are."""
        pairs = [word.partition("=") for word in re.split(r"[\s,]+", text.strip())]
        try:
            return {key: int(value) if key == "seed" else float(value) for key, _, value in pairs}
        except ValueError:
            return text

    def __str__(self) -> str:
        parts = " ".join(f"{part}={getattr(self, part):g}" for part in PARTS if getattr(self, part))
        return f"{parts} seed={self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Return the split as JSON data, which `of` takes."""
        return {**{part: getattr(self, part) for part in PARTS}, "seed": self.seed}

    @property
    def _fractions(self) -> Array:
        return np.array([getattr(self, part) for part in PARTS])

    @cached_property
    def _block(self) -> Array | None:
        """Return the number of episodes of each part in a block, shape (3,), int64; None where there is no such block.

        Each part that there is has at least one.
        """
        for near in (1e-9, NEAR):
            for size in range(1, LARGEST_BLOCK + 1):
                counts = np.rint(self._fractions * size).astype(np.int64)
                fits = np.abs(counts / size - self._fractions).max() <= near and counts.sum() == size
                if fits and not ((counts == 0) & (self._fractions > 0)).any():
                    return np.asarray(counts)
        return None

    def parts(self, episodes: Array) -> Array:
        """Return the part of each episode, an index into `PARTS`, shape (n,), int64.

        Args:
            episodes: Numbers of episodes, from 0, shape (n,), integers.
        """
        assert self._block is not None
        size = int(self._block.sum())
        number = episodes // size
        if len(number) and (number[1:] >= number[:-1]).all():  # as stored; to sort them would take most of the time
            new = number[1:] != number[:-1]
            blocks, place = number[np.append(True, new)], np.append(0, np.cumsum(new))
        else:
            blocks, place = np.unique(number, return_inverse=True)
        members = blocks[:, None].astype(np.uint64) * np.uint64(size) + np.arange(size, dtype=np.uint64)
        drawn = _drawn(members, self.seed)
        # the part follows from the rank of an episode among the drawn numbers of its block, all of them different
        ranked, found = np.sort(drawn, axis=1), np.zeros(len(episodes), np.int64)
        place = place.reshape(-1)
        mine = drawn[place, episodes % size]
        for first in np.cumsum(self._block)[:-1].tolist():
            if first < size:
                found += mine >= ranked[place, first]
        return found

    def without(self, part: DatasetPart, episodes: int) -> ConfigError:
        """Return the error that none of so many episodes is in a part."""
        assert self._block is not None
        return ConfigError(
            f"the {part} part has no samples: the split {self} gives out blocks of {self._block.sum()} episodes, and "
            f"none of the {episodes} that are here is in it. Add episodes, or choose a larger part"
        )


SplitLike: TypeAlias = EpisodeSplit | Mapping[str, Any] | str


@runtime_checkable
class HasParts(Protocol):
    """Samples of episodes that a split may divide; `physgym.SampleDataset` and its windows are such."""

    @property
    def episode_split(self) -> EpisodeSplit | None:
        """Return the division into training, validation and test part that holds; None where there is none."""
        ...

    def part(self, name: DatasetPart, split: SplitLike | None = None) -> Any:
        """Return the training, validation or test part."""
        ...


def _drawn(numbers: Array, seed: int) -> Array:
    """Return a random number for each number, uint64: splitmix64 of Steele, Lea and Flood (2014), started by a seed."""
    with np.errstate(over="ignore"):
        return _mixed(numbers * MIX[0] + _mixed(np.full(1, seed, np.uint64) + MIX[0]))


def _mixed(value: Array) -> Array:
    value = (value ^ (value >> np.uint64(30))) * MIX[1]
    value = (value ^ (value >> np.uint64(27))) * MIX[2]
    return np.asarray(value ^ (value >> np.uint64(31)))


def has_partitions(folder: Path | Location, mode: Mode) -> bool:
    """Return whether a dataset has partitions of a mode."""
    if not isinstance(folder, Location):
        return bool(partition_files(folder, mode))
    from physgym.data.remote import has_samples  # needs a package that not everyone has

    return has_samples(folder, mode)


def recorded_split(texts: Iterator[tuple[Any, str | None]]) -> EpisodeSplit | None:
    """Return the split that all folders of a dataset record; None where none does.

    Args:
        texts: Place and text of each folder, None for one without a split.

    Raises:
        ConfigError: They record different ones, or one is no split.
    """
    found = list(texts)
    if len({text for _, text in found}) > 1:
        raise ConfigError(
            f"the folders record different splits: {', '.join(f'{place}: {text or None}' for place, text in found)}. "
            "Give all the same one: physgym data describe DATA --set split=..."
        )
    place, text = found[0]
    if text is None:
        return None
    try:
        return EpisodeSplit.of(text)
    except ConfigError as error:
        raise ConfigError(f"{place} records a split that is none: {error}") from error


def effective_split(recorded: EpisodeSplit | None, given: SplitLike | None) -> EpisodeSplit | None:
    """Return the split that holds: the given one, or that which the dataset records.

    Raises:
        ConfigError: They differ, so that what one of them tests another one trains on.
    """
    if given is None:
        return recorded
    split = EpisodeSplit.of(given)
    if recorded is not None and recorded != split:
        raise ConfigError(
            f"the dataset records the split {recorded}, which is not {split}; leave yours out, or change what it "
            f"records: physgym data describe DATA --set split='{split}'"
        )
    return split
