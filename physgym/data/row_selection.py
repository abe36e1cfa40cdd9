"""`RowSelection`: rows of a dataset by their places in an order, in as little memory as they allow.

A part of a dataset by episode is runs of rows, or where the runs are short a bit for each row. Only rows in another
order than they are stored need a list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from physgym.data.indices import moved
from physgym.spaces import Array

BLOCK = 256  # bits of which the number of rows before them is kept
WORD = 64  # bits
STEPS = 4  # intervals that a search looks at one after the other before it halves
RUN_BITS = 128  # that a run takes
FEW = 1 << 16  # rows up to which a list is as good
PIECE = 1 << 14  # places that are looked up together: what that takes stays in the processor's cache
PAIRS, FOURS, EIGHTS = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
EACH, TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)  # a one in each byte, and its highest bit

# the place in a byte of its set bit of a number, by 256 * number + byte
PLACES = np.zeros(8 * 256, np.uint8)
for _byte in range(256):
    for _number, _bit in enumerate(bit for bit in range(8) if _byte >> bit & 1):
        PLACES[256 * _number + _byte] = _bit


class RowSelection(ABC):
    """Rows of a dataset by their places in an order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes that the selection takes in memory."""

    @abstractmethod
    def at(self, places: Array) -> Array:
        """Return the rows at some places, shape (n,), int64.

        Args:
            places: Each at least 0 and below the length, shape (n,), int64.
        """

    @abstractmethod
    def between(self, start: int, stop: int) -> Array:
        """Return the rows from one place to another, shape (stop - start,), int64."""

    @abstractmethod
    def moved(self, before: list[int], after: list[int]) -> RowSelection:
        """Return the same samples where folders hold more than before; see `physgym.data.indices.moved`."""

    def kept(self, before: list[int], after: list[int]) -> RowSelection:
        """Return the same samples as `moved` does, and no new ones."""
        return self.moved(before, after)

    def of(self, values: Array) -> Array:
        """Return values of these rows.

        Args:
            values: A value of each row of the dataset, shape (rows, ...).
        """
        return np.asarray(values[self.between(0, len(self))])

    def subset(self, places: Array) -> RowSelection:
        """Return the rows at some places as a selection of their own."""
        return ListedRows(self.at(places))


class AllRows(RowSelection):
    """All rows, in their order.

    Args:
        total: Rows of the dataset.
        most: Only the first so many of them, None for all.
    """

    def __init__(self, total: int, most: int | None = None) -> None:
        self._count, self.most = total if most is None else min(most, total), most

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Return 0: nothing is kept."""
        return 0

    def at(self, places: Array) -> Array:
        """Return the rows at some places, as `RowSelection.at` does."""
        return places

    def between(self, start: int, stop: int) -> Array:
        """Return the rows from one place to another, as `RowSelection.between` does."""
        return np.arange(start, stop)

    def moved(self, before: list[int], after: list[int]) -> RowSelection:
        """Return all rows that there are afterwards, the new ones too."""
        return AllRows(sum(after), self.most)

    def kept(self, before: list[int], after: list[int]) -> RowSelection:
        """Return the same samples where folders hold more, as `RowSelection.kept` does."""
        if before[:-1] == after[:-1]:
            return AllRows(sum(after), self._count)
        return RowRuns(np.zeros(1, np.int64), np.array([self._count])).moved(before, after)

    def of(self, values: Array) -> Array:
        """Return values of these rows, which share the memory."""
        return values[: self._count]


class ListedRows(RowSelection):
    """Rows in any order, in a list.

    Args:
        rows: The rows, shape (n,), int64.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the list."""
        return self._rows.nbytes

    def at(self, places: Array) -> Array:
        """Return the rows at some places, as `RowSelection.at` does."""
        return np.asarray(self._rows[places])

    def between(self, start: int, stop: int) -> Array:
        """Return the rows from one place to another, as `RowSelection.between` does."""
        return self._rows[start:stop]

    def moved(self, before: list[int], after: list[int]) -> RowSelection:
        """Return the same samples where folders hold more, as `RowSelection.moved` does."""
        return ListedRows(moved(self._rows, before, after))


class RowRuns(RowSelection):
    """Runs of consecutive rows.

    Args:
        starts: First row of each, shape (runs,), int64.
        lengths: Rows of each, at least 1, shape (runs,), int64.
    """

    def __init__(self, starts: Array, lengths: Array) -> None:
        self._bounds = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(lengths, out=self._bounds[1:])
        self._shifts = starts - self._bounds[:-1]
        self._search = IntervalSearch(self._bounds)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def nbytes(self) -> int:
        """Return the bytes of the bounds, and of what finds them."""
        return self._bounds.nbytes + self._shifts.nbytes + self._search.nbytes

    def at(self, places: Array) -> Array:
        """Return the rows at some places, as `RowSelection.at` does."""
        return places + np.take(self._shifts, self._search.find(places), mode="clip")

    def between(self, start: int, stop: int) -> Array:
        """Return the rows from one place to another, as `RowSelection.between` does."""
        if start >= stop:
            return np.zeros(0, np.int64)
        first, last = np.searchsorted(self._bounds, (start, stop - 1), side="right") - 1
        bounds = np.clip(self._bounds[first : last + 2], start, stop)
        return np.arange(start, stop) + np.repeat(self._shifts[first : last + 1], np.diff(bounds))

    def moved(self, before: list[int], after: list[int]) -> RowSelection:
        """Return the same samples where folders hold more, as `RowSelection.moved` does."""
        starts, lengths = self._shifts + self._bounds[:-1], np.diff(self._bounds)
        for edge in np.cumsum(before[:-1]).tolist():  # so that each is in one folder
            cut = np.flatnonzero((starts < edge) & (edge < starts + lengths))
            rest = starts[cut] + lengths[cut] - edge
            lengths[cut] -= rest
            starts, lengths = np.insert(starts, cut + 1, edge), np.insert(lengths, cut + 1, rest)
        return RowRuns(moved(starts, before, after), lengths)


class FlaggedRows(RowSelection):
    """Rows in their order, a bit for each row of the dataset that says whether it is one of them.

    Args:
        words: The bits, that of the first row lowest, a whole number of blocks, shape (words,), little-endian uint64.
    """

    def __init__(self, words: Array) -> None:
        self._words = words
        counts = np.zeros(len(words) * WORD // BLOCK, np.int64)
        for start in range(0, len(counts), FEW):  # a piece at a time: it takes more memory than the bits
            piece = words.reshape(-1, BLOCK // WORD)[start : start + FEW]
            counts[start : start + FEW] = (_octet_sums(piece) >> np.uint64(56)).sum(1)
        bounds = np.concatenate([[0], np.cumsum(counts)])
        self._bounds = bounds.astype(np.uint32) if bounds[-1] < 1 << 32 else bounds
        self._search = IntervalSearch(self._bounds)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def nbytes(self) -> int:
        """Return the bytes of the bits, and of what counts and finds them."""
        return self._words.nbytes + self._bounds.nbytes + self._search.nbytes

    def at(self, places: Array) -> Array:
        """Return the rows at some places, as `RowSelection.at` does."""
        found = np.empty(len(places), np.int64)
        for start in range(0, len(places), PIECE):
            part = slice(start, start + PIECE)
            found[part] = self._some(places[part])
        return found

    def _some(self, places: Array) -> Array:
        """Return the rows at a few places: the block first, then the word in it, the byte, and the bit."""
        block = self._search.find(places)
        rest = (places - np.take(self._bounds, block, mode="clip")).view(np.uint64)
        first = block * (BLOCK // WORD)
        word = np.take(self._words, first, mode="clip")
        sums = _octet_sums(word)
        passed, row = sums >> np.uint64(56), block * BLOCK  # set bits, and rows, before the next word of the block
        before = np.zeros_like(rest)
        for number in range(1, BLOCK // WORD):
            beyond = passed <= rest
            other = np.take(self._words, first + number, mode="clip")
            more = _octet_sums(other)
            word, sums = np.where(beyond, other, word), np.where(beyond, more, sums)
            before = np.where(beyond, passed, before)
            row += beyond * WORD
            passed += more >> np.uint64(56)
        rest -= before
        # a byte counts as passed where its sum is at most the rest: no byte of the difference borrows from the next one
        octet = ((((((rest * EACH) | TOPS) - sums) & TOPS) >> np.uint64(7)) * EACH) >> np.uint64(56)
        bits = octet << np.uint64(3)
        rest -= ((sums << np.uint64(8)) >> bits) & np.uint64(255)
        row += np.take(PLACES, (rest << np.uint64(8)) | ((word >> bits) & np.uint64(255)), mode="clip")
        row += bits.view(np.int64)
        return np.asarray(row)

    def between(self, start: int, stop: int) -> Array:
        """Return the rows from one place to another, as `RowSelection.between` does."""
        if start >= stop:
            return np.zeros(0, np.int64)
        first, last = (int(np.searchsorted(self._bounds, end, side="right")) - 1 for end in (start, stop - 1))
        size = BLOCK // WORD
        bits = np.unpackbits(self._words[first * size : (last + 1) * size].view(np.uint8), bitorder="little")
        begin = start - int(self._bounds[first])
        return np.flatnonzero(bits)[begin : begin + stop - start] + first * BLOCK

    def moved(self, before: list[int], after: list[int]) -> RowSelection:
        """Return the same samples where folders hold more, as `RowSelection.moved` does."""
        if before[:-1] == after[:-1]:
            return self
        return ListedRows(moved(self.between(0, len(self)), before, after))


class IntervalSearch:
    """Search for the interval that holds a place: a table says for equal pieces of the range where to begin.

    Looks at a few numbers per place where intervals are of similar lengths, which takes a tenth of the time of a binary
    search in a large table.

    Args:
        bounds: First place of each interval and the end of the last one, ascending, shape (intervals + 1,).
    """

    def __init__(self, bounds: Array) -> None:
        self._bounds = bounds
        length, intervals = int(bounds[-1]), max(1, len(bounds) - 1)
        self._shift = (length // intervals).bit_length()
        pieces = np.arange(0, length, 1 << self._shift)
        self._first = (np.searchsorted(bounds, pieces.astype(bounds.dtype), side="right") - 1).astype(np.int32)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the table."""
        return int(self._first.nbytes)

    def find(self, places: Array) -> Array:
        """Return the number of the interval that holds each place, shape (n,), int64."""
        found = np.take(self._first, places >> self._shift, mode="clip").astype(np.int64)
        for _ in range(STEPS):
            beyond = np.take(self._bounds, found + 1, mode="clip") <= places
            if not beyond.any():
                return found
            found += beyond
        far = np.flatnonzero(np.take(self._bounds, found + 1, mode="clip") <= places)
        found[far] = np.searchsorted(self._bounds, places[far].astype(self._bounds.dtype), side="right") - 1
        return found


class SelectionBuilder:
    """A selection in the making, from runs of rows.

    Args:
        total: Rows of the dataset.
    """

    def __init__(self, total: int) -> None:
        self._total, self._runs, self._count, self._end = total, list[tuple[Array, Array]](), 0, 0
        self._ascending = True
        self._octets: Array | None = None

    def add(self, starts: Array, stops: Array) -> None:
        """Take further rows.

        Args:
            starts: First row of each run, shape (runs,), int64.
            stops: The row after the last of each run, shape (runs,), int64.
        """
        if not len(starts):
            return
        first = np.flatnonzero(starts[1:] != stops[:-1]) + 1  # what follows without a gap is one run
        starts, stops = starts[np.append(0, first)], stops[np.append(first - 1, len(stops) - 1)]
        self._ascending &= bool(starts[0] >= self._end and (starts[1:] > stops[:-1]).all())
        self._end = int(stops[-1])
        if self._octets is not None and self._ascending:
            self._flag(starts, stops)
            return
        self._runs.append((starts, stops))
        self._count += len(starts)
        if self._ascending and self._count > FEW and self._count * RUN_BITS > self._total:
            self._octets = np.zeros(-(-self._total // BLOCK) * BLOCK // 8, np.uint8)
            for run in self._runs:
                self._flag(*run)
            self._runs = []

    def made(self) -> RowSelection:
        """Return the selection."""
        if self._octets is not None and self._ascending:
            return FlaggedRows(self._octets.view("<u8"))
        flagged = [] if self._octets is None else [FlaggedRows(self._octets.view("<u8"))]
        starts, stops = (np.concatenate([np.zeros(0, np.int64), *(run[end] for run in self._runs)]) for end in (0, 1))
        runs = RowRuns(starts, stops - starts)
        if flagged or len(runs) <= FEW or 2 * len(starts) > len(runs):
            return ListedRows(np.concatenate([one.between(0, len(one)) for one in (*flagged, runs)]))
        return runs

    def _flag(self, starts: Array, stops: Array) -> None:
        """Set the bits of runs that ascend."""
        assert self._octets is not None
        first = int(starts[0]) & ~7
        edges = np.zeros(int(stops[-1]) - first + 1, np.int8)
        edges[starts - first] = 1
        edges[stops - first] -= 1
        bits = np.packbits(np.cumsum(edges[:-1], dtype=np.int8), bitorder="little")
        self._octets[first // 8 : first // 8 + len(bits)] |= bits


def _octet_sums(words: Array) -> Array:
    """Return in each byte of a word the bits that are set in the bytes up to it, in the shape of the words, uint64."""
    found = words - ((words >> np.uint64(1)) & PAIRS)
    found = (found & FOURS) + ((found >> np.uint64(2)) & FOURS)
    return np.asarray(((found + (found >> np.uint64(4))) & EIGHTS) * EACH)
