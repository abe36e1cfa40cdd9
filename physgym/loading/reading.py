"""The way in which a loader reads samples: in which order, and in blocks or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from physgym.errors import ConfigError
from physgym.loading.epoch_reader import Gathered, Rows, Windows
from physgym.loading.loadable import BlockReadable, Loadable, Mapped, has_random_access
from physgym.loading.shuffling import is_computed
from physgym.system.memory import available_memory

ReadingOrder = Literal["sequential", "random", "window"]
Shuffle = bool | Literal["random", "window"]

COMPUTED = "feistel-6"  # entry of a state whose random order is computed; others are of a list
FITS = 0.7  # fraction of the available memory that samples may take to be read at random
FITS_ANYWHERE = 4 << 30  # bytes, where the state of this machine must not decide
CACHED = 0.9  # fraction of samples in the page cache from which on single ones are read


@dataclass(frozen=True)
class ReadingMode:
    """The way in which the samples of an epoch are read.

    Attributes:
        order: The order of the samples: "sequential", "random" or "window".
        blockwise: Whether they are read in blocks of consecutive samples.
        reason: Why, in words.
        block: Samples of a block.
        window: Blocks that are shuffled together.
        listed: Whether a random order is a list, see `physgym.loading.shuffling.EpochOrder`.
    """

    order: ReadingOrder
    blockwise: bool
    reason: str
    block: int
    window: int
    listed: bool = False

    def settings(self, length: int) -> dict[str, int | str]:
        """Return the settings that a loader's state records, for so many samples."""
        by_window = self.order == "window"
        return {
            "order": self.order,
            "block": self.block if by_window else 0,
            "window": self.window if by_window else 0,
            **({"permutation": COMPUTED} if self.order == "random" and is_computed(length, listed=self.listed) else {}),
        }

    def rows(self, dataset: Loadable, fields: Sequence[str], length: int, **order: int) -> Callable[[], Rows]:
        """Return a function that makes the samples of an epoch in their order.

        Args:
            dataset: The samples.
            fields: Names of the fields to read.
            length: Number of samples in the epoch.
            order: The seed, epoch, rank and world_size that determine the order.
        """
        options: dict[str, Any] = {"shuffle": self.order != "sequential", **order}
        if self.blockwise:
            size = {"block": self.block, "window": self.window if self.order == "window" else 1}
            return partial(Windows, dataset, fields, length, **options, **size)
        return partial(Gathered, dataset, fields, length, listed=self.listed, **options)


def choose_order(
    shuffle: Shuffle, dataset: Loadable, fields: Sequence[str], nbytes: int, world_size: int
) -> tuple[ReadingOrder, bool, str]:
    """Choose the order, whether to read in blocks, and say why.

    What takes less than `FITS_ANYWHERE` is chosen by its size and the memory alone, so that the order is the same when
    a run is repeated. Of more than that single samples are read only if the page cache holds them.

    Args:
        shuffle: As for a `Loader`.
        dataset: The samples.
        fields: Which fields of them.
        nbytes: Their size.
        world_size: Number of ranks; several must choose alike.

    Raises:
        ConfigError: The samples do not allow that order.
    """
    in_blocks, at_random = isinstance(dataset, BlockReadable), has_random_access(dataset)
    if shuffle == "random" and not at_random:
        raise ConfigError(
            'these samples are an archive, which can only be read block by block: use shuffle=True or "window"'
        )
    if (shuffle == "window" or not at_random) and not in_blocks:
        raise ConfigError(
            f"{type(dataset).__name__} has no method read(start, stop, fields, out), which reading block by block "
            'needs; use shuffle="random"'
        )
    if shuffle not in (True, False, "random", "window"):
        raise ConfigError(f'shuffle must be True, False, "random" or "window", not {shuffle!r}')
    if isinstance(shuffle, str):
        return shuffle, shuffle == "window", "as asked for"
    by_window: ReadingOrder = "window" if shuffle else "sequential"
    at_once: ReadingOrder = "random" if shuffle else "sequential"
    if not at_random:
        return by_window, True, "an archive can only be read block by block"
    if not in_blocks:
        return at_once, False, "these samples cannot be read block by block"
    if nbytes > FITS_ANYWHERE and world_size == 1 and isinstance(dataset, Mapped):
        cached = dataset.cached_fraction(fields)
        if cached is not None:
            reason = f"of {nbytes / 1e9:.3g} GB of samples {cached:.0%} are in the page cache"
            if cached >= CACHED:
                return at_once, False, reason
            return by_window, True, f"{reason}, less than {CACHED:.0%}: single ones would be read from the disk"
    memory = available_memory() if world_size == 1 else None
    if memory is not None:
        limit, of = FITS * memory, f"{FITS:.0%} of the available memory"
    else:
        limit, of = (
            float(FITS_ANYWHERE),
            "the limit where " + ("several ranks must agree" if world_size > 1 else "the available memory is unknown"),
        )
    fits = nbytes <= limit
    than = "at most" if fits else "more than"
    reason = f"the samples take {nbytes / 1e9:.3g} GB, {than} {limit / 1e9:.3g} GB, {of}"
    return (at_once, False, reason) if fits else (by_window, True, reason)
