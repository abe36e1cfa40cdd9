"""The division of samples into batches and among ranks, and batches of indices (`StackedSampler`)."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass

from physgym.checks import integer
from physgym.errors import ConfigError, DatasetError
from physgym.loading.shuffling import EpochOrder
from physgym.spaces import Array

TOO_SHORT = "drop_last drops everything: a rank has {share} samples, a batch {batch_size}. Use smaller batches."


@dataclass(frozen=True)
class EpochDivision:
    """The division of an epoch's samples into batches, on one of several ranks.

    Attributes:
        batch_size: Samples per batch.
        rank: Index of this rank.
        world_size: Number of ranks, which get equal parts.
        drop_last: Whether a last batch that is smaller is left out.
        min_batch: A last batch of fewer samples than this joins the one before it.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    min_batch: int = 1

    def count(self, length: int) -> int:
        """Return the number of batches of an epoch of some samples on each rank.

        Raises:
            ConfigError: There is none, because of `drop_last`.
            DatasetError: There are fewer samples than ranks.
        """
        share = length // self.world_size
        if share == 0:
            raise DatasetError(
                f"{length} samples cannot be shared among {self.world_size} ranks; each needs at least one"
            )
        if self.drop_last and share < self.batch_size:
            raise ConfigError(TOO_SHORT.format(share=share, batch_size=self.batch_size))
        whole, rest = divmod(share, self.batch_size)
        return max(1, whole + int(rest >= max(1, self.min_batch) and not self.drop_last))

    def share(self, length: int) -> int:
        """Return how many of an epoch's samples this rank loads."""
        return self.count(length) * self.batch_size if self.drop_last else length // self.world_size


def check_arguments(batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> None:
    """Check the arguments that `Loader` and `StackedSampler` share.

    Raises:
        ConfigError: One is out of range.
    """
    for name, value in {"batch_size": batch_size, "world_size": world_size}.items():
        integer(name, value, 1)
    for name, value in {"seed": seed, "epoch": epoch}.items():
        integer(name, value, 0)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must lie between 0 and {world_size - 1}, not {rank}")


class Batched:
    """The figures of a division into batches, as attributes of the divided samples.

    Attributes:
        batching: The division.
    """

    batching: EpochDivision

    @property
    def batch_size(self) -> int:
        """Return the samples per batch."""
        return self.batching.batch_size

    @property
    def rank(self) -> int:
        """Return the index of this rank."""
        return self.batching.rank

    @property
    def world_size(self) -> int:
        """Return the number of ranks, which get equal parts."""
        return self.batching.world_size

    @property
    def drop_last(self) -> bool:
        """Return whether a last batch that is smaller is left out."""
        return self.batching.drop_last


class StackedSampler(Batched):
    """Whole batches of indices, for `torch.utils.data.DataLoader`: a dataset gathers each of them at once.

    ``DataLoader(dataset, sampler=StackedSampler(dataset, 256), batch_size=None)`` gives the same batches as `Loader`
    does with ``shuffle="random"``. Each pass is an epoch of its own.

    Args:
        dataset: The samples; only their number matters.
        batch_size: Samples per batch.
        shuffle: Whether to shuffle; otherwise in the order of the dataset.
        seed: Seed of the order.
        epoch: Number of the first epoch.
        rank: Index of the part of the order.
        world_size: Number of equal parts.
        drop_last: Whether to leave out a last batch that is smaller.

    Raises:
        ConfigError: An argument is out of range.
        DatasetError: There are fewer samples than ranks.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        check_arguments(batch_size, seed, epoch, rank, world_size)
        self.dataset, self.shuffle, self.seed, self.epoch = dataset, shuffle, seed, epoch
        self.batching = EpochDivision(batch_size, rank, world_size, drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Make an epoch the next one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batching.count(len(self.dataset))

    def __iter__(self) -> Iterator[Array]:
        """Yield the batches of the next epoch: indices of shape (batch,), int64."""
        # the epoch begins here with the first batch: DataLoader makes iterators that it never asks for one
        epoch, self.epoch = self.epoch, self.epoch + 1
        part = {"rank": self.batching.rank, "world_size": self.batching.world_size, "epoch": epoch}
        order = EpochOrder(len(self.dataset), shuffle=self.shuffle, listed=False, seed=self.seed, **part)
        size = self.batching.batch_size
        for number in range(len(self)):
            yield order.indices(number * size, min((number + 1) * size, len(order)))
