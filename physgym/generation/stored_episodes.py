"""`StoredEpisodes`: the episodes of a dataset, as they are to be run again under their stored samples."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.checks import is_integer
from physgym.data.dataset import SampleDataset
from physgym.data.episode_origins import argument_numbers
from physgym.errors import ConfigError, DatasetError
from physgym.loading.shuffling import permutation
from physgym.protocol.codec import MAX_BODY
from physgym.spaces import Array, leaf_spaces, unflatten
from physgym.worker.stored_actions import LOAD_SAMPLES
from physgym.worker.variants import ARGUMENTS

CHUNK_BYTES = 1 << 20  # bytes of samples that are read at once
LARGEST = MAX_BODY // 2  # bytes of an episode, which travels in one message, maybe with others before it


class StoredEpisodes:
    """The episodes of a dataset, again and again: first in its order, then shuffled.

    The i-th episode of pass p has the index p * (number of episodes) + i. That a dataset grows meanwhile does not
    change them.

    Args:
        dataset: The samples; those of an episode are taken in the order of their steps.
        seed: Of the shuffled passes.
        passes: How many there are; None for ever.

    Raises:
        ConfigError: It is no dataset, or an argument is out of range.
        DatasetError: There are no samples.
    """

    def __init__(self, dataset: SampleDataset, *, seed: int, passes: int | None) -> None:
        if not isinstance(dataset, SampleDataset):
            raise ConfigError(f"load must be a dataset, not {dataset!r}; open it with physgym.SampleDataset(path)")
        if passes is not None and not is_integer(passes, 1):
            raise ConfigError(f"passes must be at least 1, or None for ever, not {passes!r}")
        if not len(dataset):
            raise DatasetError("the dataset to load has no samples; generate some first")
        self._dataset = dataset.subset(np.arange(len(dataset)))
        self._seed, self._passes = seed, passes
        numbers = self._dataset.episodes
        self._rows = np.lexsort((self._dataset.index("step"), numbers))
        begins = np.flatnonzero(np.diff(numbers[self._rows], prepend=-1))
        self._bounds = np.append(begins, len(self._rows))
        self._lengths = np.diff(self._bounds)
        self._episodes, self._seeds = (self._dataset.index(name)[self._rows[begins]] for name in ("episode", "seed"))
        self._parameters: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        """Return the number of episodes of a pass."""
        return len(self._lengths)

    def check(self, max_steps: int, actions: Any, arguments: int) -> None:
        """Check that the episodes can be run under these limits.

        Args:
            max_steps: Of an episode.
            actions: What draws them.
            arguments: How many there are, of which each episode has its own.

        Raises:
            ConfigError: They cannot; the text says what to change.
        """
        if actions is not None:
            raise ConfigError(
                "the stored samples give the actions (load=), so there is nothing to draw; leave actions out"
            )
        made = self._dataset.source.get("env_kwargs")
        if isinstance(made, list) and arguments not in (1, len(made)):
            raise ConfigError(
                f"the samples to load were made with {len(made)} different arguments in turn, env_kwargs lists "
                f"{arguments}. List as many, in the same order, or give one dictionary for all episodes"
            )
        if (longest := int(self._lengths.max())) > max_steps:
            raise ConfigError(
                f"a stored episode has {longest} samples, more than max_steps={max_steps}; raise max_steps"
            )
        if (size := longest * self._dataset.row_nbytes) > LARGEST:
            raise ConfigError(
                f"the stored samples of an episode take {size / 1e6:.0f} MB, and only {LARGEST / 1e6:.0f} "
                "MB fit into a message to a worker. Open the dataset with those fields alone that load_sample needs: "
                "physgym.SampleDataset(path, fields=[...])"
            )

    def use_parameters(self, space: spaces.Space[Any] | None) -> None:
        """Begin episodes with the stored parameters, where there are some.

        Args:
            space: The simulation's ``parameter_space``; None if it has none.

        Raises:
            DatasetError: The simulation has others.
        """
        stored, whose = self._dataset.parameters, self._dataset.parameter_episodes
        if space is None or stored is None or whose is None:
            return  # without stored ones the simulation draws them from the seed
        wanted = leaf_spaces(space)
        if not all(name in stored for name in wanted):
            raise DatasetError(
                f"the dataset to load has the parameters {list(stored)} of its episodes, the simulation has "
                f"{list(wanted)}. Say with parameters= where they come from, or load a dataset that has them"
            )
        row_of = {episode: row for row, episode in enumerate(whose.tolist())}
        if len(row_of) < len(whose):
            raise DatasetError("several datasets with parameters of episodes were joined; load them one at a time")
        rows = [row_of[episode] for episode in self._episodes.tolist()]
        columns = [stored[name][rows] for name in wanted]
        self._parameters = lambda place: unflatten(space, iter([column[place] for column in columns]))

    def describe(self) -> dict[str, Any]:
        """Return the names of the samples, as JSON data."""
        digest = hashlib.sha256()
        for name in ("episode", "step", "seed"):
            digest.update(self._dataset.index(name)[self._rows].tobytes())
        of = {"source": self._dataset.source, "fields": list(self._dataset.spec)}
        return {**of, "samples": len(self._rows), "names": digest.hexdigest()}

    def run(self, first: int, arguments: int = 1) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Return index, seed and options for the reset of the episodes.

        Args:
            first: Index of the first one.
            arguments: How many there are. Which ones an episode has follows from its index in the dataset, so that it
                meets the counterpart of the simulation that made it, also where the order is shuffled.
        """
        count = len(self)
        numbers = argument_numbers(self._dataset, self._rows[self._bounds[:-1]], arguments)
        for number in itertools.count(first // count):
            if number == self._passes:
                return
            order = permutation(count, (self._seed, number)) if number else np.arange(count)
            begin = first % count if number == first // count else 0
            for place, samples in self._read(order[begin:]):
                options: dict[str, Any] = {LOAD_SAMPLES: samples}
                if arguments > 1:
                    options[ARGUMENTS] = int(numbers[place])
                if self._parameters is not None:
                    options["parameters"] = self._parameters(place)
                yield number * count + begin, int(self._seeds[place]), options
                begin += 1

    def _read(self, order: Array) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield episodes and their samples, read some at a time."""
        most = max(1, CHUNK_BYTES // max(1, self._dataset.row_nbytes))
        ends = np.cumsum(self._lengths[order])
        start = 0
        while start < len(order):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
            chosen = order[start:stop].tolist()
            rows = [self._rows[self._bounds[place] : self._bounds[place + 1]] for place in chosen]
            samples = self._dataset.gather(np.concatenate(rows))
            cuts = itertools.pairwise([0, *(ends[start:stop] - before).tolist()])
            for place, (low, high) in zip(chosen, cuts, strict=True):
                yield place, {name: column[low:high] for name, column in samples.items()}
            start = stop
