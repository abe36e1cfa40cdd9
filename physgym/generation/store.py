"""The samples that a stream has stored: names, positions and endings in its dataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.rejected_steps import count_rejected
from physgym.data.snapshots import SnapshotWriter
from physgym.data.writer import SampleWriter
from physgym.feedback import Declaration
from physgym.generation.fed_back_pairs import FedBackPairs
from physgym.generation.named_samples import Name, NamedSamples, SampleNames
from physgym.generation.rejections import Rejections

CHUNK_BYTES = 1 << 20  # bytes of stored samples that are read at once


class Store:
    """The part of a dataset that a stream writes, as it is so far.

    Args:
        writer: Writes it.
        snapshots: Writes states of the simulation; None where none are wanted.
        pairs: Looks at the first samples; None for samples that need not follow from each other.
    """

    def __init__(
        self, writer: SampleWriter, snapshots: SnapshotWriter | None = None, pairs: FedBackPairs | None = None
    ) -> None:
        self.writer, self._snapshots, self._pairs = writer, snapshots, pairs

    def write(self, samples: NamedSamples) -> None:
        """Append samples; snapshots stand before them on the disk, so that a crash loses none of a stored sample.

        Raises:
            DatasetError: The disk refuses.
        """
        if self._snapshots is not None and len(samples):
            self._snapshots.add(samples.snapshots, samples.names.last)
        samples.write(self.writer)
        if self._pairs is not None:
            self._pairs.look(samples)

    def dataset(self, feedback: Declaration | None = None) -> SampleDataset | None:
        """Return everything stored so far, None where nothing is.

        Args:
            feedback: What feeds what, in place of what is stored.
        """
        if not self.writer.closed:
            self.writer.commit()
        return SampleDataset(self.writer.path, self.writer.mode, feedback=feedback)

    def names(self) -> SampleNames:
        """Return the names of all stored samples."""
        dataset = self.dataset()
        assert dataset is not None
        return SampleNames(*(dataset.index(name) for name in ("episode", "step", "seed")))

    def after(self, position: Name | None) -> Iterator[NamedSamples]:
        """Yield the stored samples after a name, some at a time."""
        dataset = self.dataset()
        assert dataset is not None
        names = SampleNames(*(dataset.index(name) for name in ("episode", "step", "seed")))
        first = 0 if position is None else int(np.argmax(names.after(*position)))
        block = max(1, CHUNK_BYTES // max(1, dataset.row_nbytes))
        for start in range(first, len(dataset), block):
            stop = min(start + block, len(dataset))
            yield NamedSamples(dataset.read(start, stop), names.cut(slice(start, stop)))

    def count_after(self, position: Name | None) -> int:
        """Return the number of stored samples after a name."""
        names = self.names()
        return len(names if position is None else names.cut(names.after(*position)))

    def count_of(self, episode: int) -> int:
        """Return the number of stored samples of an episode."""
        return int(np.count_nonzero(self.names().episodes == episode))

    def has_ended(self, episode: int) -> bool:
        """Return whether the dataset says that its last episode has ended with its last sample."""
        dataset = self.dataset()
        return dataset is not None and dataset.endings is not None and dataset.endings[episode] != "unfinished"

    def rejections(self) -> Rejections:
        """Return the rejected steps that the dataset knows of."""
        dataset = self.dataset() if self.writer.count else None
        if dataset is None:
            return Rejections()
        names, ended = self.names(), dataset.ended or {"episode": np.zeros(0, np.int64), "steps": np.zeros(0, np.int64)}
        count = count_rejected(names.episodes, names.steps, ended["episode"], ended["steps"])
        return Rejections(self.writer.last, int(max(ended["episode"], default=-1)), count)

    def lengths(self) -> dict[int, int]:
        """Return the number of steps of the episodes that are stored, by their index."""
        dataset = self.dataset() if self.writer.count else None
        return {} if dataset is None else dict(dataset.lengths)
