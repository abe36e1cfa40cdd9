"""Batches in a reproducible order: as indices (`StackedSampler`), or as tensors gathered ahead (`Loader`)."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from physgym.errors import ConfigError, DatasetError
from physgym.loading.epoch_reader import Chunk, Gathered, Loadable, Rows, Windows, chunks, native
from physgym.loading.prefetch import Ahead, Direct
from physgym.loading.shuffling import order
from physgym.spaces import Array
from physgym.system.memory import available_memory

if TYPE_CHECKING:
    from torch import Tensor

Order = Literal["sequential", "random", "window"]
Shuffle = bool | Literal["random", "window"]

CHUNK = 2 << 20  # bytes gathered at a time, at least: handing over small batches one by one costs more than gathering
FITS = 0.7  # fraction of the available memory that samples may take to be read at random
FITS_ANYWHERE = 4 << 30  # bytes, where the memory of this machine must not decide

log = logging.getLogger(__name__)

POSITIVE = "{name} must be at least 1, not {value}"
TOO_FEW = "{length} samples cannot be shared among {world_size} ranks; each needs at least one"
TOO_SHORT = "drop_last drops everything: a rank has {share} samples, a batch {batch_size}. Use smaller batches."
NO_TENSOR = "field {name!r} has dtype {dtype}, which torch does not know; name the others with fields=[...]"
NO_CUDA = "pin_memory=True needs a CUDA device, and torch finds none; leave pin_memory out"
NOT_AT_RANDOM = 'these samples are an archive, which can only be read block by block: use shuffle=True or "window"'
NO_BLOCKS = (
    '{name} has no method read(start, stop, fields, out), which reading block by block needs; use shuffle="random"'
)
DIFFERENT = "the state does not fit this loader: {differences}. Make the loader as it was when the state was saved."
NO_STATE = "this is no state of a Loader, or one of another version: it has {got}, expected are {want}"


class StackedSampler:
    """Whole batches of indices, for `torch.utils.data.DataLoader`: a dataset gathers each of them at once.

    ``DataLoader(dataset, sampler=StackedSampler(dataset, 256), batch_size=None)`` gives the same batches as `Loader`
    does with ``shuffle="random"``. Each pass is an epoch of its own.

    Args:
        dataset: What is sampled; only its length matters.
        batch_size: Samples per batch.
        shuffle: Whether to shuffle; otherwise in the order of the dataset.
        seed: Seed of the order.
        epoch: Number of the first epoch.
        rank: Which part of the order.
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
        _check_arguments(batch_size, seed, epoch, rank, world_size)
        self.dataset, self.batch_size, self.shuffle, self.seed, self.epoch = dataset, batch_size, shuffle, seed, epoch
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Make an epoch the next one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return num_batches(len(self.dataset), self.batch_size, self.world_size, self.drop_last)

    def __iter__(self) -> Iterator[Array]:
        """The batches of the next epoch: indices of shape (batch,), int64."""
        # the epoch begins here with the first batch: DataLoader makes iterators that it never asks for one
        epoch, self.epoch = self.epoch, self.epoch + 1
        part = {"rank": self.rank, "world_size": self.world_size}
        indices = order(len(self.dataset), shuffle=self.shuffle, seed=self.seed, epoch=epoch, **part)
        for number in range(len(self)):
            yield indices[number * self.batch_size : (number + 1) * self.batch_size]


# --- the loader


class Loader:
    """Batches of torch tensors, gathered ahead by a thread.

    Each pass over it is an epoch with an order of its own, a function of (seed, epoch, rank, world_size). Samples that
    fit into the memory that is available are shuffled as a whole. More than that, and archives, are read in blocks of
    consecutive samples, in a random order of the blocks, and the samples of a window of blocks are shuffled together.

    Args:
        dataset: What to read.
        batch_size: Samples per batch.
        shuffle: False for the order of the dataset; True to shuffle as fits the memory; "random" or "window" to say
            how. Give one of these where the same order matters on machines with different memory.
        seed: Seed of the order.
        epoch: Number of the first epoch.
        rank: Which part of the order to load, where several processes train together.
        world_size: Number of these equal parts; fewer than this many samples are left out of an epoch.
        drop_last: Whether to leave out a last batch that is smaller.
        min_batch: A last batch of fewer samples than this joins the one before it, which is larger then.
        fields: Only these fields, in this order; all by default.
        pin_memory: Whether the tensors are in pinned memory, from which copies to a CUDA device overlap with
            computing; by default if there is one.
        prefetch: How much to gather ahead: batches, or where these are small groups of batches of 2 MB; 0 gathers
            when asked for and starts no thread. What is gathered at once as a whole needs none either.
        window: Bytes that are shuffled together where not all samples are; about twice as much memory is taken.
        block: Bytes that are read together there.

    Attributes:
        order: How samples are ordered: "sequential", "random" or "window".
        blockwise: Whether they are read in blocks, instead of each where it is.
        reason: Why, in words.

    Raises:
        ConfigError: An argument is out of range, or the dataset does not allow what is asked for.
        DatasetError: There are fewer samples than ranks.
    """

    def __init__(
        self,
        dataset: Loadable,
        batch_size: int,
        *,
        shuffle: Shuffle = True,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        min_batch: int = 1,
        fields: Sequence[str] | None = None,
        pin_memory: bool | None = None,
        prefetch: int = 2,
        window: int = 256 << 20,
        block: int = 16 << 20,
    ) -> None:
        import torch  # here: whoever reads arrays need not wait for it

        _check_arguments(batch_size, seed, epoch, rank, world_size)
        for name, value in {"window": window, "block": block, "min_batch": min_batch}.items():
            if value < 1:
                raise ConfigError(POSITIVE.format(name=name, value=value))
        if prefetch < 0:
            raise ConfigError(f"prefetch must not be negative, got {prefetch}")
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.rank, self.world_size, self.drop_last, self.prefetch = rank, world_size, drop_last, prefetch
        self.min_batch = min_batch
        self.fields = list(dataset.spec) if fields is None else list(fields)
        if unknown := [name for name in self.fields if name not in dataset.spec]:
            raise ConfigError(f"fields {unknown} are not in the dataset, which has {list(dataset.spec)}")
        for name in self.fields:
            try:
                torch.from_numpy(np.empty(0, native(dataset.spec[name].dtype)))
            except TypeError as error:
                raise ConfigError(NO_TENSOR.format(name=name, dtype=dataset.spec[name].dtype)) from error
        if pin_memory and not torch.cuda.is_available():
            raise ConfigError(NO_CUDA)
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

        row = sum(dataset.spec[name].nbytes for name in self.fields)
        self._block = max(1, block // max(1, row))  # samples
        self._window = max(1, window // block)  # blocks
        self._chunk = max(1, CHUNK // max(1, row * batch_size))  # batches
        self.order, self.blockwise, self.reason = _choose(shuffle, dataset, row * len(dataset), world_size)
        if shuffle:
            log.info("%s shuffle of %d samples: %s", self.order, len(dataset), self.reason)
        self._begun = False
        self._position = self._at(epoch, 0)

    def __len__(self) -> int:
        return num_batches(len(self.dataset), self.batch_size, self.world_size, self.drop_last, self.min_batch)

    def __repr__(self) -> str:
        return f"Loader({self.dataset!r}, {self.batch_size}, {len(self)} batches, {self.order}: {self.reason})"

    def __iter__(self) -> Epoch:
        """Begin the next epoch, or the one that was set or restored."""
        self._position = self._at(self._position.epoch + 1, 0) if self._begun else self._at(self.epoch, self.batch)
        self._begun = True
        # a single chunk leaves nothing to gather ahead of
        ahead = self.prefetch if self._position.batches - self._position.batch > self._chunk else 0
        return Epoch(self._chunks, self._position, ahead)

    # --- position

    @property
    def epoch(self) -> int:
        """Epoch of the batch after the one that was handed out last; after the last one of an epoch the next epoch."""
        return self._position.epoch + (self._position.batch >= self._position.batches)

    @property
    def batch(self) -> int:
        """Number of that batch in its epoch, from 0."""
        return self._position.batch % self._position.batches

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Make an epoch the next one, from one of its batches on.

        Raises:
            ConfigError: There is no such batch.
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ConfigError(f"there is no batch {batch} in epoch {epoch}; an epoch has {len(self)}")
        self._position, self._begun = self._at(epoch, batch), False

    def state_dict(self) -> dict[str, int | str]:
        """The position after the batch that was handed out last, as JSON data; the same on all ranks."""
        return {"epoch": self.epoch, "batch": self.batch, **self._settings(self._position.length)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was saved: the next batches are those that would have come.

        With ``shuffle=True`` the loader shuffles as the one that saved the state, whatever memory there is now.

        Raises:
            ConfigError: The state is of a loader with another order.
        """
        want = {"min_batch": self.min_batch, **self._settings(len(self.dataset))}
        state = {"min_batch": 1, **state}
        if set(state) != {"epoch", "batch", *want}:
            raise ConfigError(NO_STATE.format(got=sorted(state), want=sorted({"epoch", "batch", *want})))
        least = {"epoch": 0, "batch": 0, **dict.fromkeys(("block", "window"), int(state["order"] == "window"))}
        if wrong := [name for name, low in least.items() if type(state[name]) is not int or state[name] < low]:
            raise ConfigError(f"this is no state of a Loader: {wrong[0]} is {state[wrong[0]]!r}")
        # what memory alone has decided need not be the same again
        by_memory = self.shuffle is True and state["order"] in ("random", "window")
        chosen = {"order", "block", "window"} if by_memory else set()
        differences = [
            f"{name} was {state[name]!r}, now it is {want[name]!r}"
            for name in want
            if state[name] != want[name] and name not in chosen
        ]
        if differences:
            raise ConfigError(DIFFERENT.format(differences="; ".join(differences)))
        if chosen and state["order"] != self.order:
            how: Literal["random", "window"] = "window" if state["order"] == "window" else "random"
            self.order, self.blockwise, self.reason = _choose(how, self.dataset, 0, self.world_size)
            self.reason = "as in the state that was loaded"
            log.info("%s shuffle of %d samples: %s", self.order, len(self.dataset), self.reason)
        if self.order == "window":
            self._block, self._window = state["block"], state["window"]
        self.set_epoch(state["epoch"], state["batch"])

    def _settings(self, length: int) -> dict[str, int | str]:
        """What the order depends on, apart from the epoch and the rank."""
        by_window = self.order == "window"
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "length": length,
            "world_size": self.world_size,
            "drop_last": self.drop_last,
            **({"min_batch": self.min_batch} if self.min_batch > 1 else {}),
            "order": self.order,
            "block": self._block if by_window else 0,
            "window": self._window if by_window else 0,
        }

    def _at(self, epoch: int, batch: int) -> Position:
        return Position(epoch, batch, len(self), len(self.dataset))

    def indices(self, epoch: int, batch: int) -> Array:
        """Which samples of the dataset a batch holds, shape (batch,), int64."""
        return next(iter(self.batch_indices(epoch, batch)))

    def batch_indices(self, epoch: int, batch: int = 0) -> Iterator[Array]:
        """Which samples the batches of an epoch hold, from one of them on; reads none."""
        position = self._at(epoch, batch)
        rows, share, size = self._rows(position)(), self._share(position), self.batch_size
        for number in range(batch, position.batches):
            yield rows.indices(number * size, share if number == position.batches - 1 else (number + 1) * size)

    def _share(self, position: Position) -> int:
        """How many samples this rank loads in an epoch."""
        share = position.length // self.world_size
        return position.batches * self.batch_size if self.drop_last else share

    def _rows(self, position: Position) -> Callable[[], Rows]:
        """Makes the samples of an epoch on this rank, in its order; refers to the dataset, not to the loader."""
        part = {"rank": self.rank, "world_size": self.world_size}
        made: dict[str, Any] = {"seed": self.seed, "epoch": position.epoch, "shuffle": self.order != "sequential"}
        if self.blockwise:
            window = self._window if self.order == "window" else 1
            size = {"block": self._block, "window": window}
            return partial(Windows, self.dataset, self.fields, position.length, **made, **size, **part)
        return partial(Gathered, self.dataset, self.fields, position.length, **made, **part)

    def _chunks(self, position: Position) -> Iterator[Chunk]:
        """What is to be gathered from a position on."""
        share = self._share(position)
        spec = self.dataset.spec if self.pin_memory else None
        wanted = range(position.batch, position.batches)
        return chunks(self._rows(position), self.fields, spec, wanted, share, self.batch_size, self._chunk)


@dataclass
class Position:
    """How far an epoch is: the number of batches that were handed out, of how many, of how many samples."""

    epoch: int
    batch: int
    batches: int
    length: int


class Epoch(Iterator["dict[str, Tensor]"]):
    """The batches of one epoch; its thread ends with it, or when it is dropped.

    After an error, and in a process that was forked off, the next call continues at the batch that was due.
    """

    def __init__(self, chunks: Callable[[Position], Iterator[Chunk]], position: Position, prefetch: int) -> None:
        self._chunks, self._position, self._prefetch = chunks, position, prefetch
        self._source: Ahead | Direct | None = None
        self._stop: weakref.finalize[[], Epoch] | None = None
        self._closed = False
        self._process = os.getpid()

    def __next__(self) -> dict[str, Tensor]:
        position = self._position
        if self._closed or position.batch >= position.batches:
            self.close()
            raise StopIteration
        if self._source is None or self._process != os.getpid():
            self._process = os.getpid()
            todo = self._chunks(position)
            self._source = Ahead(todo, self._prefetch) if self._prefetch else Direct(todo)
            self._stop = weakref.finalize(self, self._source.stop)
        try:
            batch = self._source.get(position.batch).batch(position.batch)
        except BaseException:
            self._release()
            raise
        position.batch += 1
        return batch

    def close(self) -> None:
        """End the epoch and its thread; calling it again does no harm."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        stop, self._stop, self._source = self._stop, None, None
        if stop is not None:
            stop()


# --- choices and checks


def _choose(shuffle: Shuffle, dataset: Loadable, nbytes: int, world_size: int) -> tuple[Order, bool, str]:
    """The order, whether to read in blocks, and why."""
    in_blocks, at_random = hasattr(dataset, "read"), getattr(dataset, "random_access", True)
    if shuffle == "random" and not at_random:
        raise ConfigError(NOT_AT_RANDOM)
    if (shuffle == "window" or not at_random) and not in_blocks:
        raise ConfigError(NO_BLOCKS.format(name=type(dataset).__name__))
    if shuffle not in (True, False, "random", "window"):
        raise ConfigError(f'shuffle must be True, False, "random" or "window", not {shuffle!r}')
    if isinstance(shuffle, str):
        return shuffle, shuffle == "window", "as asked for"
    by_window: Order = "window" if shuffle else "sequential"
    at_once: Order = "random" if shuffle else "sequential"
    if not at_random:
        return by_window, True, "an archive can only be read block by block"
    if not in_blocks:
        return at_once, False, "these samples cannot be read block by block"
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


def num_batches(length: int, batch_size: int, world_size: int = 1, drop_last: bool = False, min_batch: int = 1) -> int:
    """Return how many batches an epoch has on each rank; the arguments are those of a `Loader`.

    Raises:
        ConfigError: There is none, because of `drop_last`.
        DatasetError: There are fewer samples than ranks.
    """
    share = length // world_size
    if share == 0:
        raise DatasetError(TOO_FEW.format(length=length, world_size=world_size))
    if drop_last and share < batch_size:
        raise ConfigError(TOO_SHORT.format(share=share, batch_size=batch_size))
    whole, left = divmod(share, batch_size)
    return max(1, whole + int(left >= max(1, min_batch) and not drop_last))


def _check_arguments(batch_size: int, seed: int, epoch: int, rank: int, world_size: int) -> None:
    for name, value in {"batch_size": batch_size, "world_size": world_size}.items():
        if value < 1:
            raise ConfigError(POSITIVE.format(name=name, value=value))
    for name, value in {"seed": seed, "epoch": epoch}.items():
        if value < 0:
            raise ConfigError(f"{name} must not be negative, got {value}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must lie between 0 and {world_size - 1}, not {rank}")
