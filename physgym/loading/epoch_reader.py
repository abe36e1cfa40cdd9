"""The samples of an epoch in its order, gathered or read block by block."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from physgym.loading.loadable import Loadable, fills_arrays
from physgym.loading.populating import populate_ahead
from physgym.loading.reused_memory import ReusedMemory
from physgym.loading.shuffling import EpochOrder, permutation, windows
from physgym.sample import Field, Sample
from physgym.spaces import Array

if TYPE_CHECKING:
    from torch import Tensor


class Rows(Protocol):
    """The samples of an epoch by their place in its order."""

    def take(self, start: int, stop: int, out: Sample | None = None) -> Sample:
        """Return the samples from one place to another, stacked; in `out` if it is given. Places only grow."""
        ...

    @property
    def fills_arrays(self) -> bool:
        """Return whether `take` may be given `out`."""
        ...

    def indices(self, start: int, stop: int) -> Array:
        """Return the indices of these samples in the dataset, shape (stop - start,), int64; read nothing."""
        ...


class Gathered:
    """The samples of an epoch, each gathered from where it is; arguments as `EpochOrder`."""

    def __init__(self, dataset: Loadable, fields: Sequence[str], length: int, **options: Any) -> None:
        self._dataset, self._fields = dataset, fields
        self._order = EpochOrder(length, **options)
        self._ahead = not options["shuffle"]  # whether a thread maps pages, or none has to
        self.fills_arrays = fills_arrays(dataset)  # asked once: a signature takes a third of a gather

    def take(self, start: int, stop: int, out: Sample | None = None) -> Sample:
        """Return the samples from one place to another, as `Rows.take` does."""
        if not self._ahead:
            populate_ahead(self, self._dataset, self._fields)
            self._ahead = True
        gather: Any = self._dataset.gather
        more = {} if out is None else {"out": out}
        taken: Sample = gather(self._order.indices(start, stop), self._fields, **more)
        return taken

    def indices(self, start: int, stop: int) -> Array:
        """Return the indices of samples by their places, as `Rows.indices` does."""
        return self._order.indices(start, stop)


class Windows:
    """The samples of an epoch, read in blocks and shuffled within windows; arguments as `windows`.

    Holds the current window, and as much of the next one as was taken from the current one: reading is
    spread evenly, and two windows are all the memory it needs.
    """

    def __init__(self, dataset: Loadable, fields: Sequence[str], length: int, **options: Any) -> None:
        self._dataset, self._fields = dataset, fields
        self._windows = windows(length, **options)
        sizes = [int((runs[:, 1] - runs[:, 0]).sum()) for runs in self._windows]
        self._bounds = np.cumsum([0, *sizes])
        self._seed = (options["seed"], options["epoch"], options["rank"]) if options["shuffle"] else None
        self._size = max(sizes)
        self._free: list[Sample] = []
        self._loaded: dict[int, Window] = {}  # by number, the current and the next one

    @property
    def fills_arrays(self) -> bool:
        """Return whether `take` may be given `out`, as it may."""
        return True

    def take(self, start: int, stop: int, out: Sample | None = None) -> Sample:
        """Return the samples from one place to another, as `Rows.take` does."""
        spec = self._dataset.spec
        if out is None:
            out = {name: np.empty((stop - start, *spec[name].shape), spec[name].dtype) for name in self._fields}
        place = start
        while place < stop:
            number = int(np.searchsorted(self._bounds, place, side="right")) - 1
            low, high = (int(bound) for bound in self._bounds[number : number + 2])
            end = min(stop, high)
            window = self._open(number)
            window.read(high - low)
            window.take(place - low, end - low, {name: out[name][place - start : end - start] for name in self._fields})
            if number + 1 < len(self._windows):
                following = self._open(number + 1)
                following.read(following.size * (end - low) // (high - low))
            place = end
        return out

    def indices(self, start: int, stop: int) -> Array:
        """Return the indices of samples by their places, as `Rows.indices` does."""
        parts = []
        for number, (low, high) in enumerate(itertools.pairwise(self._bounds.tolist())):
            if low < stop and start < high:
                rows = np.concatenate([np.arange(*run) for run in self._windows[number].tolist()])
                if self._seed is not None:
                    rows = rows[permutation(len(rows), (*self._seed, number))]
                parts.append(rows[max(start - low, 0) : stop - low])
        return np.concatenate(parts)

    def _open(self, number: int) -> Window:
        if number not in self._loaded:
            for passed in [other for other in self._loaded if other < number - 1]:
                self._free.append(self._loaded.pop(passed).rows)
            seed = None if self._seed is None else (*self._seed, number)
            rows = self._free.pop() if self._free else self._buffer()
            self._loaded[number] = Window(self._dataset, self._fields, self._windows[number], rows, seed)
        return self._loaded[number]

    def _buffer(self) -> Sample:
        spec = self._dataset.spec
        return {name: np.empty((self._size, *spec[name].shape), spec[name].dtype) for name in self._fields}


class Window:
    """Runs of consecutive samples in memory.

    Args:
        dataset: Where they are read.
        fields: Which of their fields.
        runs: First sample and the one after the last of each run, shape (runs, 2).
        rows: Arrays to read into, large enough.
        seed: Seed of the permutation; None for the order of the runs.
    """

    def __init__(
        self, dataset: Any, fields: Sequence[str], runs: Array, rows: Sample, seed: tuple[int, ...] | None
    ) -> None:
        self._dataset, self._fields = dataset, fields
        self._runs = deque((int(start), int(stop)) for start, stop in runs)
        self.rows, self.size, self._filled = rows, int((runs[:, 1] - runs[:, 0]).sum()), 0
        self._permutation = None if seed is None else permutation(self.size, seed)

    def read(self, count: int) -> None:
        """Read until so many samples are in memory, run by run."""
        while self._filled < count:
            start, stop = self._runs[0]
            filled = self._filled + stop - start
            self._dataset.read(start, stop, self._fields, {n: v[self._filled : filled] for n, v in self.rows.items()})
            self._runs.popleft()
            self._filled = filled

    def take(self, start: int, stop: int, out: Sample) -> None:
        """Copy the samples at places of the shuffled window to arrays."""
        for name, target in out.items():
            if self._permutation is None:
                target[...] = self.rows[name][start:stop]
            else:  # clip: with the default mode NumPy fills a copy of `out` first
                np.take(self.rows[name], self._permutation[start:stop], axis=0, out=target, mode="clip")


# --- batches of them


@dataclass
class Chunk:
    """Consecutive batches that were gathered together."""

    first: int
    batches: int
    batch_size: int
    data: Mapping[str, Array | Tensor]

    def batch(self, index: int) -> dict[str, Tensor]:
        """Return one of the batches, which shares the memory."""
        import torch

        start = (index - self.first) * self.batch_size
        # a small last batch may have joined this one
        stop = None if index == self.first + self.batches - 1 else start + self.batch_size
        # slices of an array, not of a tensor: tensors sliced from one count their changes in place together, and
        # changing one batch would make the gradients of another one impossible
        return {
            name: torch.from_numpy(value[start:stop]) if isinstance(value, np.ndarray) else value[start:stop]
            for name, value in self.data.items()
        }


def chunks(
    rows: Callable[[], Rows],
    spec: Mapping[str, Field],
    batches: range,
    share: int,
    batch_size: int,
    together: int,
    memory: ReusedMemory | None,
) -> Iterator[Chunk]:
    """Yield the batches of an epoch, gathered when they are asked for.

    Args:
        rows: Makes the samples of the epoch in its order; called with the first chunk, in the thread that gathers.
        spec: Their fields, those that are read.
        batches: Numbers of the batches, up to the last one of the epoch.
        share: Number of samples in the epoch.
        batch_size: Samples per batch; the last one takes what is left, be it fewer or more.
        together: Batches per chunk, from the fourth one on: the first batch does not wait for so many others.
        memory: Memory to put them in; None for pinned memory.
    """
    source, last = rows(), batches.start
    for part in itertools.chain((8, 4, 2), itertools.repeat(1)):
        if (first := last) >= batches.stop:
            return
        last = min(first + max(1, together // part), batches.stop)
        start, stop = first * batch_size, share if last == batches.stop else last * batch_size
        yield Chunk(first, last - first, batch_size, _taken(source, start, stop, spec, memory))


def _taken(
    source: Rows, start: int, stop: int, spec: Mapping[str, Field], memory: ReusedMemory | None
) -> dict[str, Array | Tensor]:
    """Return the samples from one place to another in memory that torch has laid, as far as they can be put there."""
    import torch

    if not source.fills_arrays or any(not field.dtype.isnative for field in spec.values()):
        taken = {name: as_native(value) for name, value in source.take(start, stop).items()}
        return {name: torch.from_numpy(taken[name]).pin_memory() for name in spec} if memory is None else {**taken}

    count = stop - start
    if memory is not None:
        arrays = {name: memory.empty((count, *field.shape), field.dtype) for name, field in spec.items()}
        return {**source.take(start, stop, arrays)}
    tensors = {}
    for name, field in spec.items():
        dtype = torch.from_numpy(np.empty(0, field.dtype)).dtype
        tensors[name] = torch.empty((count, *field.shape), dtype=dtype, pin_memory=True)
    source.take(start, stop, {name: tensor.numpy() for name, tensor in tensors.items()})
    return {**tensors}


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in the byte order of this machine, the only one that torch knows."""
    return dtype.newbyteorder("=")


def as_native(array: Array) -> Array:
    """Return an array in the byte order of this machine."""
    return array if array.dtype.isnative else array.astype(native(array.dtype))
