"""`DividedSamples`: samples of episodes, of which there are parts that share no episode."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from physgym.checks import one_of
from physgym.data.dataset_parts import (
    PARTS,
    DatasetPart,
    EpisodeSplit,
    SplitLike,
    effective_split,
    has_partitions,
)
from physgym.data.description import Mode
from physgym.data.episode_index import EpisodeIndex
from physgym.data.map_style import MapStyle
from physgym.data.row_selection import RowSelection
from physgym.errors import ConfigError
from physgym.spaces import Array
from physgym.storage.location import Location


class DividedSamples(MapStyle):
    """Samples of episodes, which can be divided into parts.

    Attributes:
        mode: The mode of the partitions that they are stored in.
    """

    mode: Mode
    _split: EpisodeSplit | None = None  # by which the samples were selected

    @property
    @abstractmethod
    def places(self) -> Sequence[Path | Location]:
        """Return the folders of the samples, where they are."""

    @property
    @abstractmethod
    def episodes(self) -> Array:
        """Return an integer per sample that names its episode, across folders; shape (len(self),)."""

    @property
    @abstractmethod
    def original_episodes(self) -> Array:
        """Return the number of each sample's episode in the dataset that it was first stored in, shape (len(self),)."""

    @property
    @abstractmethod
    def recorded_split(self) -> EpisodeSplit | None:
        """Return the division into parts that the dataset records; None without one."""

    @abstractmethod
    def subset(self, indices: Array) -> Self:
        """Return the samples at the given indices, or under a mask of shape (len(self),), as a dataset of its own."""

    @property
    @abstractmethod
    def _episode_index(self) -> EpisodeIndex:
        """Return the episodes of the samples."""

    @abstractmethod
    def _of_rows(self, rows: RowSelection) -> Self:
        """Return other samples of the same folders, by their rows."""

    @abstractmethod
    def of_mode(self, mode: Mode) -> Self:
        """Return the samples of another mode in the same folders, all of them."""

    @property
    def episode_split(self) -> EpisodeSplit | None:
        """Return the division into training, validation and test part that holds; None where there is none.

        That is the one by which `part` selected these samples, or the one that the dataset records.
        """
        return self.recorded_split if self._split is None else self._split

    def part(self, name: DatasetPart, split: SplitLike | None = None) -> Self:
        """Return the training, validation or test part: what was generated for it, else the episodes by a split.

        Args:
            name: "training", "validation" or "test".
            split: An `EpisodeSplit`, or its arguments by name; by default the one that the dataset records.

        Raises:
            ConfigError: There is no such part, it has no samples, both divisions have one, or the dataset records
                another split.
        """
        one_of("part", name, PARTS)
        found = effective_split(self.episode_split, split)
        others = [one for one in PARTS[1:] if all(has_partitions(place, one) for place in self.places)]
        if found is not None and (both := [one for one in others if getattr(found, one)]):
            raise ConfigError(
                f"the dataset has a {both[0]} part that was generated, and the split {found} makes another one; leave "
                "the split out, or that part of it"
            )
        if name == self.mode and (found is None or self.mode != "training"):
            return self
        if self.mode != "training" and name not in others and all(has_partitions(one, PARTS[0]) for one in self.places):
            return self.of_mode(PARTS[0]).part(name, split)
        if found is not None and self.mode == "training" and getattr(found, name):
            selected = self._of_rows(self._episode_index.part(found, name))
            selected._split = found
            return selected
        if name in others or (name == "training" and all(has_partitions(place, name) for place in self.places)):
            return self.of_mode(name)
        raise ConfigError(
            f"the dataset in {', '.join(map(str, self.places))} has no {name} part: generate one (mode={name!r}), or "
            "divide its episodes: physgym data describe DATA --set split='training=0.8 validation=0.1 test=0.1'"
        )

    def split(self, validation_fraction: float, seed: int = 0) -> tuple[Self, Self]:
        """Split into training and validation parts, by episode: no episode is in both.

        Args:
            validation_fraction: Fraction of the episodes for validation, at least one, between 0 and 1.
            seed: Which episodes.

        Raises:
            ConfigError: The fraction is out of range, or there are fewer than two episodes.
        """
        training, validation = self._episode_index.held_out(validation_fraction, seed)
        return self._of_rows(training), self._of_rows(validation)
