"""`Loader`: batches of tensors in a reproducible order, gathered ahead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from physgym.checks import integer, is_integer
from physgym.errors import ConfigError
from physgym.loading.batching import Batched, EpochDivision, check_arguments
from physgym.loading.epoch import Epoch, Position
from physgym.loading.epoch_reader import Chunk, Rows, chunks, native
from physgym.loading.loadable import Loadable, stored_nbytes
from physgym.loading.prefetch import Pace
from physgym.loading.reading import COMPUTED, ReadingMode, ReadingOrder, Shuffle, choose_order
from physgym.loading.reused_memory import ReusedMemory
from physgym.loading.shuffling import is_computed
from physgym.spaces import Array

GATHER_SIZE = 2 << 20  # bytes at a time, at least: handing over small batches one by one costs more than gathering

log = logging.getLogger(__name__)


class Loader(Batched):
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
            when asked for and starts no thread. What is gathered as a whole needs none, and the thread pauses where the
            next batch is asked for at once.
        window: Bytes that are shuffled together where not all samples are; about twice as much memory is taken.
        block: Bytes that are read together there.

    Attributes:
        batching: The division into batches and among ranks.
        reading: The way in which samples are read.

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
        import torch  # here: readers of plain arrays need not wait for it

        check_arguments(batch_size, seed, epoch, rank, world_size)
        window, block = integer("window", window, 1), integer("block", block, 1)
        min_batch, prefetch = integer("min_batch", min_batch, 1), integer("prefetch", prefetch, 0)
        self.dataset, self.shuffle, self.seed, self.prefetch = dataset, shuffle, seed, prefetch
        self.batching = EpochDivision(batch_size, rank, world_size, drop_last, min_batch)
        self.fields = list(dataset.spec) if fields is None else list(fields)
        if unknown := [name for name in self.fields if name not in dataset.spec]:
            raise ConfigError(f"fields {unknown} are not in the dataset, which has {list(dataset.spec)}")
        for name in self.fields:
            try:
                torch.from_numpy(np.empty(0, native(dataset.spec[name].dtype)))
            except TypeError as error:
                raise ConfigError(
                    f"field {name!r} has dtype {dataset.spec[name].dtype}, which torch does not know; name the others "
                    "with fields=[...]"
                ) from error
        if pin_memory and not torch.cuda.is_available():
            raise ConfigError("pin_memory=True needs a CUDA device, and torch finds none; leave pin_memory out")
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

        row = sum(dataset.spec[name].nbytes for name in self.fields)
        chosen = choose_order(shuffle, dataset, self.fields, stored_nbytes(dataset, self.fields), world_size)
        self.reading = ReadingMode(*chosen, block=max(1, block // max(1, row)), window=max(1, window // block))
        self._chunk = max(1, GATHER_SIZE // max(1, row * batch_size))  # batches
        if shuffle:
            log.info("%s shuffle of %d samples: %s", self.order, len(dataset), self.reason)
        self._memory = ReusedMemory(4 * len(self.fields))  # of batches; more are hardly given back before one is taken
        self._pace = Pace()
        self._begun = False
        self._position = self._at(epoch, 0)

    def __len__(self) -> int:
        return self.batching.count(len(self.dataset))

    def __repr__(self) -> str:
        return f"Loader({self.dataset!r}, {self.batching.batch_size}, {len(self)} batches, {self.order}: {self.reason})"

    def __iter__(self) -> Epoch:
        """Begin the next epoch, or the one that was set or restored."""
        self._position = self._at(self._position.epoch + 1, 0) if self._begun else self._at(self.epoch, self.batch)
        self._begun = True
        # a single chunk leaves nothing to gather ahead of
        ahead = self.prefetch if self._position.batches - self._position.batch > self._chunk else 0
        return Epoch(self._chunks, self._position, ahead, self._pace)

    @property
    def order(self) -> ReadingOrder:
        """Return the order of the samples: "sequential", "random" or "window"."""
        return self.reading.order

    @property
    def blockwise(self) -> bool:
        """Return whether samples are read in blocks, instead of one by one."""
        return self.reading.blockwise

    @property
    def reason(self) -> str:
        """Return the reason for this order, in words."""
        return self.reading.reason

    # --- position

    @property
    def epoch(self) -> int:
        """Return the epoch of the next batch."""
        return self._position.epoch + (self._position.batch >= self._position.batches)

    @property
    def batch(self) -> int:
        """Return the number of the next batch in its epoch, from 0."""
        return self._position.batch % self._position.batches

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Make an epoch the next one, from one of its batches on.

        Raises:
            ConfigError: There is no such batch.
        """
        if not is_integer(epoch, 0) or not is_integer(batch, 0) or batch > len(self):
            raise ConfigError(f"there is no batch {batch} in epoch {epoch}; an epoch has {len(self)}")
        self._position, self._begun = self._at(epoch, batch), False

    def state_dict(self) -> dict[str, int | str]:
        """Return the position after the batch that was handed out last, as JSON data; the same on all ranks."""
        return {"epoch": self.epoch, "batch": self.batch, **self._settings(self._position.length)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was saved: the next batches are those that would have come.

        With ``shuffle=True`` the loader shuffles as the one that saved the state, for any amount of memory now.

        Raises:
            ConfigError: The state is of a loader with another order.
        """
        want = {"min_batch": self.batching.min_batch, **self._settings(len(self.dataset))}
        state = {"min_batch": 1, **state}
        want.pop("permutation", None)
        permutation = state.pop("permutation", "")
        if set(state) != {"epoch", "batch", *want}:
            raise ConfigError(
                f"this is no state of a Loader, or one of another version: it has {sorted(state)}, expected are "
                f"{sorted({'epoch', 'batch', *want})}"
            )
        least = {"epoch": 0, "batch": 0, **dict.fromkeys(("block", "window"), int(state["order"] == "window"))}
        if wrong := [name for name, low in least.items() if type(state[name]) is not int or state[name] < low]:
            raise ConfigError(f"this is no state of a Loader: {wrong[0]} is {state[wrong[0]]!r}")
        if permutation not in ("", COMPUTED):
            raise ConfigError(
                f"the state has an order that this version does not know, permutation {permutation!r}; update physgym"
            )
        # what memory alone has decided need not be the same again
        by_memory = self.shuffle is True and state["order"] in ("random", "window")
        chosen = {"order", "block", "window"} if by_memory else set()
        differences = [
            f"{name} was {state[name]!r}, now it is {want[name]!r}"
            for name in want
            if state[name] != want[name] and name not in chosen
        ]
        if differences:
            raise ConfigError(
                f"the state does not fit this loader: {'; '.join(differences)}. Make the loader as it was when the "
                "state was saved."
            )
        if by_memory and state["order"] != self.order:
            how: Shuffle = "window" if state["order"] == "window" else "random"
            order, blockwise, _ = choose_order(how, self.dataset, self.fields, 0, self.batching.world_size)
            reason = "as in the state that was loaded"
            self.reading = replace(self.reading, order=order, blockwise=blockwise, reason=reason)
            log.info("%s shuffle of %d samples: %s", self.order, len(self.dataset), self.reason)
        if self.order == "window":
            self.reading = replace(self.reading, block=state["block"], window=state["window"])
        # a state of so many samples that says nothing is one of a version that made lists
        self.reading = replace(self.reading, listed=not permutation and is_computed(state["length"], listed=False))
        self.set_epoch(state["epoch"], state["batch"])

    def _settings(self, length: int) -> dict[str, int | str]:
        """Return the settings that determine the order, except the epoch and the rank."""
        batching = self.batching
        return {
            "seed": self.seed,
            "batch_size": batching.batch_size,
            "length": length,
            "world_size": batching.world_size,
            "drop_last": batching.drop_last,
            **({"min_batch": batching.min_batch} if batching.min_batch > 1 else {}),
            **self.reading.settings(length),
        }

    def _at(self, epoch: int, batch: int) -> Position:
        return Position(epoch, batch, len(self), len(self.dataset))

    def indices(self, epoch: int, batch: int) -> Array:
        """Return the samples of a batch by their indices in the dataset, shape (batch,), int64."""
        return next(iter(self.batch_indices(epoch, batch)))

    def batch_indices(self, epoch: int, batch: int = 0) -> Iterator[Array]:
        """Yield the indices of the samples of an epoch's batches, from one of them on; reads no samples."""
        position, size = self._at(epoch, batch), self.batching.batch_size
        rows, share = self._rows(position)(), self.batching.share(position.length)
        for number in range(batch, position.batches):
            yield rows.indices(number * size, share if number == position.batches - 1 else (number + 1) * size)

    def _rows(self, position: Position) -> Callable[[], Rows]:
        """Return a function that makes the samples of an epoch; it refers to the dataset, not to the loader."""
        part = {"rank": self.batching.rank, "world_size": self.batching.world_size}
        order = {"seed": self.seed, "epoch": position.epoch, **part}
        return self.reading.rows(self.dataset, self.fields, position.length, **order)

    def _chunks(self, position: Position) -> Iterator[Chunk]:
        """Return the chunks to gather from a position on."""
        share, size = self.batching.share(position.length), self.batching.batch_size
        spec = {name: self.dataset.spec[name] for name in self.fields}
        wanted = range(position.batch, position.batches)
        memory = None if self.pin_memory else self._memory
        return chunks(self._rows(position), spec, wanted, share, size, self._chunk, memory)
