"""`EpisodeWindows`: windows of consecutive steps of a dataset, as a dataset of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np

from physgym.checks import integer, one_of
from physgym.data.dataset_parts import DatasetPart, EpisodeSplit, HasParts, SplitLike
from physgym.data.episode_split import held_out
from physgym.data.indices import as_indices
from physgym.data.map_style import MapStyle
from physgym.data.row_reader import RowsInMemory, targets
from physgym.data.statistics import Statistics
from physgym.data.step_runs import StepRuns
from physgym.data.window_fields import window_fields
from physgym.errors import ConfigError
from physgym.feedback import Feedback
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array

Short = Literal["drop", "pad"]
Begin = Literal["whole", "repeat"]
SPARSE = 4  # times the rows that windows have, which are read at most for them


class Steps(Protocol):
    """Samples with episodes and steps; `physgym.SampleDataset` is one."""

    @property
    def spec(self) -> SampleSpec:
        """Return the fields."""
        ...

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Return statistics per field."""
        ...

    @property
    def episodes(self) -> Array:
        """Return an integer per sample that names its episode."""
        ...

    @property
    def random_access(self) -> bool:
        """Return whether single samples can be read as cheaply as their neighbours."""
        ...

    def __len__(self) -> int: ...

    def index(self, name: str) -> Array:
        """Return episode, step, environment or seed of every sample."""
        ...

    def read(self, start: int, stop: int, fields: Sequence[str] | None = None) -> Sample:
        """Return consecutive samples."""
        ...

    def gather(
        self, indices: Any, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Return samples at some indices, stacked."""
        ...

    def stored_rows(self, indices: Array) -> Array:
        """Return the numbers that samples have where they are stored."""
        ...

    def stored_slices(
        self, rows: Array, length: int, fields: Sequence[str], out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Return slices of samples that are stored one after the other, stacked, by the number of the first."""
        ...

    def split(self, validation_fraction: float, seed: int = 0) -> tuple[Self, Self]:
        """Return two parts that share no episode."""
        ...

    def subset(self, indices: Array) -> Self:
        """Return the samples at some indices."""
        ...


@dataclass(frozen=True)
class WindowForm:
    """The form of windows.

    Attributes:
        inputs: Rows of the inputs.
        targets: Rows of the targets.
        stride: Steps from a row of a window to the next one.
        every: Steps from the beginning of a window to that of the next one.
        fields: Only these fields; None for all.
        short: Whether episodes that are shorter than a window are left out ("drop"), or padded with a mask ("pad").
        mask: Name of that mask.
        begin: Whether windows have rows of their own from the first on ("whole"), or there is one that ends with the
            inputs of each step, with the first row of the episode in place of those before it ("repeat").
    """

    inputs: int
    targets: int
    stride: int = 1
    every: int = 1
    fields: tuple[str, ...] | None = None
    short: Short = "drop"
    mask: str = "mask"
    begin: Begin = "whole"

    def __post_init__(self) -> None:
        for name in ("inputs", "targets", "stride", "every"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1))
        one_of("short", self.short, ("drop", "pad"))
        one_of("begin", self.begin, ("whole", "repeat"))

    @property
    def lead(self) -> int:
        """Return the steps by which a window may begin before its episode."""
        return (self.inputs - 1) * self.stride if self.begin == "repeat" else 0


@dataclass(frozen=True)
class WindowBegins:
    """The places at which windows begin.

    Attributes:
        rows: First row of each window in its dataset, shape (windows,), int64.
        steps: Steps from there on that follow one another, and those before; of a window that needs no padding at least
            all of its own.
        lead: Steps by which each begins before its first row, which is repeated, shape (windows,), int64.
    """

    rows: Array
    steps: Array
    lead: Array

    @classmethod
    def find(cls, runs: StepRuns, form: WindowForm, span: int, least: int) -> WindowBegins:
        """Return all that there are in runs of steps; see `StepRuns.windows` for `span` and `least`."""
        longer = StepRuns(None, runs.starts - form.lead, runs.lengths + form.lead)
        first, steps = longer.windows(span, form.every, least)
        begins = runs.starts[np.searchsorted(runs.starts, first + form.lead, side="right") - 1]
        lead = np.maximum(begins - first, 0)
        return cls(first + lead, steps, lead)


class EpisodeWindows(MapStyle):
    """Windows of consecutive steps within the episodes of a dataset; `physgym.SampleDataset.windows` makes them.

    Row t of a dataset holds the inputs of a step and the targets that follow from them. With n inputs, m targets and a
    stride of 1 the window at row s has the inputs of the rows s to s + n - 1, the targets of the rows s + n - 1 to
    s + n + m - 2, and additional fields of all rows, s to s + n + m - 2; so it has the inputs that nothing feeds
    (actions, parameters) where a feedback is declared. An input that is stored once is input at s to s + n - 1 under
    its name, and target at s + n to s + n + m - 1 as ``next_<name>``. With a stride, read s + j * stride for s + j: the
    rows have that distance, and a target is still that of one step from its row. What feeds what holds between the rows
    of a window with a stride of 1; with another one it does where a field is stored once.

    A window begins and ends in one episode, and no step is missing between its first row and its last one.

    A field that is padded within a row (`physgym.sample.Field.mask`) stays so: ``present/<name>`` are the flags of its
    values that are there, shape (rows, *shape) or that of its first axes, and its mask. Where windows are padded too,
    the flags of a target are false in rows that are not there.

    Args:
        dataset: The samples; a part of a dataset gives windows of that part.
        form: The form of the windows.
        feedback: What feeds what, among all stored fields.
        begins: Only the windows that begin there, in this order; by default all that there are. What `subset` uses.

    Attributes:
        spec: The fields, each of shape (rows, *shape of the dataset's field).
        dataset: The samples, in the order of (episode, step).
        form: The form.
        feedback: What feeds what from one row of a window to the next, by the names that fields have here.
        left_out: Number of runs of steps (an episode, or a piece of one between missing steps) that give no window.
        padded: Number of windows that are padded.

    Raises:
        ConfigError: A window is longer than every episode, or a field unknown.
    """

    def __init__(
        self, dataset: Steps, form: WindowForm, feedback: Feedback, begins: WindowBegins | None = None
    ) -> None:
        fields = (form.inputs, form.targets, form.mask if form.short == "pad" else "")
        self._fields = window_fields(dataset.spec, feedback, form.fields, *fields)
        self.spec, self.form, self._declared = self._fields.spec, form, feedback
        self.feedback = feedback if form.stride == 1 else Feedback(once=feedback.once)
        self._selected = begins is not None
        self.dataset, self.left_out, span = dataset, 0, self._span
        if begins is None:
            runs = StepRuns.find(dataset.episodes, dataset.index("step"))
            if runs.order is not None:
                self.dataset = dataset.subset(runs.order)
            least = span if form.short == "drop" else self._fields.first_target * form.stride + 1
            begins = WindowBegins.find(runs, form, span, least)
            if not len(begins.rows):
                raise ConfigError(
                    f"a window takes {least} steps and is longer than every episode: at most "
                    f"{runs.lengths.max(initial=0)} follow one another. Take fewer inputs or targets, or a smaller "
                    "stride"
                )
            self.left_out = int(np.count_nonzero(runs.lengths + form.lead < least))
        self._first, self._lead = begins.rows, begins.lead if begins.lead.any() else None
        steps = np.minimum(begins.steps, span)
        self.padded = int(np.count_nonzero(steps < span))
        self._steps = steps if self.padded else None
        self._grouped: tuple[list[str], list[tuple[tuple[int, int], dict[str, str]]]] = [], []
        # where the steps of a run are stored one after the other, a window is one slice
        rows = self.dataset.stored_rows(np.arange(len(self.dataset)))
        breaks = np.zeros(len(rows), np.int64)
        np.cumsum(np.diff(rows) != 1, out=breaks[1:])
        whole = np.array_equal(breaks[self._first], breaks[self._first + steps - begins.lead - 1])
        self._stored = rows[self._first] if form.stride == 1 and whole else None

    def __len__(self) -> int:
        return len(self._first)

    def __reduce__(self) -> tuple[Any, ...]:
        begins = self._begins if self._selected else None
        # the rows may have other numbers where it is opened again, so what follows from these is found anew
        return EpisodeWindows, (self.dataset, self.form, self._declared, begins)

    def __repr__(self) -> str:
        form = self.form
        rows = f"inputs={form.inputs}, targets={form.targets}, stride={form.stride}, every={form.every}"
        short = f"{self.left_out} shorter left out, {self.padded} padded"
        return f"EpisodeWindows({len(self)} windows, {rows}, {short}, of {self.dataset!r})"

    @property
    def step_spec(self) -> SampleSpec:
        """Return the fields of one step of a window, with what feeds what."""
        return self._fields.of_steps(self.dataset.spec, self.feedback)

    @property
    def shortage(self) -> str:
        """Return in words how many episodes, or pieces of them between missing steps, are too short."""
        counts = ((self.left_out, "left out"), (self.padded, "padded"))
        what = ", ".join(f"{count} {done}" for count, done in counts if count)
        return f"episodes, or pieces between missing steps, that are shorter than a window: {what or 'none'}"

    @property
    def _span(self) -> int:
        """Return the steps from the first to the last of a whole window."""
        return (self._fields.rows - 1) * self.form.stride + 1

    @property
    def random_access(self) -> bool:
        """Return whether single windows can be read as cheaply as their neighbours."""
        return self.dataset.random_access

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Return statistics of the dataset by field, for one row of a window."""
        found = self.dataset.statistics
        return {name: found[part.source] for name, part in self._fields.parts.items() if part.source in found}

    @property
    def episodes(self) -> Array:
        """Return an integer per window that names its episode, as those of the dataset; shape (len(self),)."""
        return self.dataset.episodes[self._first]

    def index(self, name: str) -> Array:
        """Return where windows begin: "episode", "step", "env" or "seed" of the first row, shape (len(self),)."""
        return self.dataset.index(name)[self._first]

    def stored_nbytes(self, fields: Sequence[str] | None = None) -> int:
        """Return the bytes of the rows that fields of all windows are made of."""
        return len(self.dataset) * sum(self.dataset.spec[name].nbytes for name in self._sources(self._names(fields)))

    def split(self, validation_fraction: float, seed: int = 0) -> tuple[EpisodeWindows, EpisodeWindows]:
        """Split into training and validation parts, by episode, as the dataset is split.

        Args:
            validation_fraction: Fraction of the episodes for validation.
            seed: Which episodes.

        Raises:
            ConfigError: As for a dataset; or all episodes of a part are too short.
        """
        if self._selected:
            chosen = held_out(self.episodes, validation_fraction, seed)
            return self.subset(np.flatnonzero(~chosen)), self.subset(np.flatnonzero(chosen))
        training, validation = self.dataset.split(validation_fraction, seed)
        return self._of_part(training, "training"), self._of_part(validation, "validation")

    @property
    def episode_split(self) -> EpisodeSplit | None:
        """Return the division into parts that holds for the dataset; None where there is none."""
        return self.dataset.episode_split if isinstance(self.dataset, HasParts) else None

    def part(self, name: DatasetPart, split: SplitLike | None = None) -> EpisodeWindows:
        """Return the windows of the training, validation or test part; see `physgym.SampleDataset.part`.

        Raises:
            ConfigError: As for a dataset; or windows were selected, or all episodes of the part are too short.
        """
        if self._selected:
            raise ConfigError("windows were selected; take the part before, of the dataset")
        if not isinstance(self.dataset, HasParts):
            raise ConfigError(f"{type(self.dataset).__name__} has no parts")
        return self._of_part(self.dataset.part(name, split), name)

    def _of_part(self, part: Steps, name: str) -> EpisodeWindows:
        """Return the windows of a part of the dataset."""
        try:
            return EpisodeWindows(part, self.form, self._declared)
        except ConfigError as error:
            raise ConfigError(
                f"the {name} part of the split has no window: {error}; or split with another seed"
            ) from None

    def subset(self, indices: Array) -> EpisodeWindows:
        """Return the windows at the given indices, or under a mask of shape (len(self),), as a dataset of their own.

        Its `dataset` has the rows of these windows alone, so its statistics are theirs.
        """
        chosen, begins, count = as_indices(indices, len(self)), self._begins, len(self.dataset)
        first, steps, lead = begins.rows[chosen], begins.steps[chosen], begins.lead[chosen]
        ends = first + steps - lead
        within = np.cumsum(np.bincount(first, minlength=count + 1) - np.bincount(ends, minlength=count + 1))
        used = within[:count] > 0
        places = np.cumsum(used) - 1
        rows = self.dataset.subset(np.flatnonzero(used))
        return EpisodeWindows(rows, self.form, self._declared, WindowBegins(places[first], steps, lead))

    @property
    def _begins(self) -> WindowBegins:
        """Return where the windows begin."""
        steps = np.full(len(self), self._span) if self._steps is None else self._steps
        return WindowBegins(self._first, steps, np.zeros_like(self._first) if self._lead is None else self._lead)

    # --- access

    def gather(
        self, indices: Any, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Read windows at the given indices, stacked.

        Args:
            indices: Integers between 0 and ``len(self) - 1``, shape (n,); or a mask of shape (len(self),), bool.
            fields: Only these fields.
            out: C-contiguous arrays to put them in, by field, shape (n, rows, *shape); new ones by default.

        Returns:
            Field names to arrays of shape (n, rows, *shape).

        Raises:
            ConfigError: An index is out of range, a field unknown, or an array of `out` does not fit.
            DatasetError: A file cannot be read.
        """
        return self._take(as_indices(indices, len(self)), self._names(fields), out)

    def read(
        self, start: int, stop: int, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Read consecutive windows, whose rows are read sequentially.

        Args:
            start: First window.
            stop: End of the windows.
            fields: Only these fields.
            out: C-contiguous arrays to put them in, as for `gather`; new ones by default.

        Returns:
            Field names to arrays of shape (stop - start, rows, *shape).
        """
        if not 0 <= start <= stop <= len(self):
            raise ConfigError(f"windows {start} to {stop} of {len(self)}")
        indices, names = np.arange(start, stop), self._names(fields)
        if start == stop:
            return self._take(indices, names, out)
        first = self._first[start:stop]
        low, high = int(first.min()), min(int(first.max()) + self._span, len(self.dataset))
        if high - low > SPARSE * (stop - start) * self._fields.rows:
            return self._take(indices, names, out)
        block = RowsInMemory(self.dataset.spec, self.dataset.read(low, high, self._sources(names)), low)
        return self._take(indices, names, out, block)

    def _names(self, fields: Sequence[str] | None) -> list[str]:
        if fields is None:
            return list(self.spec)
        if unknown := [name for name in fields if name not in self.spec]:
            raise ConfigError(f"fields {unknown} are not in the windows, which have {list(self.spec)}")
        return list(fields)

    def _sources(self, names: Sequence[str]) -> list[str]:
        """Return the fields of the dataset that some fields are made of."""
        parts = {**self._fields.parts, **{name: one.part for name, one in self._fields.flags.items()}}
        return list(dict.fromkeys(parts[name].source for name in names if name in parts))

    def _take(
        self,
        indices: Array,
        names: Sequence[str],
        out: Mapping[str, Array] | None,
        block: RowsInMemory | None = None,
    ) -> Sample:
        """Return windows, made of rows of the dataset, or of those in a block."""
        batch = None if out is None else targets(self.spec, names, len(indices), out)
        steps = None if self._steps is None else self._steps[indices]
        first = None
        whole = steps is None or bool(np.all(steps == self._span))
        if self._stored is not None and whole and (self._lead is None or not self._lead[indices].any()):
            first = (self._stored if block is None else self._first)[indices]

        def rows(offset: int, length: int, sources: list[str], given: Mapping[str, Array] | None) -> Sample:
            if first is None:
                return self._by_row(indices, steps, offset, length, sources, given, block)
            slices = self.dataset.stored_slices if block is None else block.slices
            return slices(first + offset if offset else first, length, sources, given)

        found: Sample = {}
        for (offset, length), group in self._groups(names):
            sources = list(group.values())
            given = None if batch is None else {source: batch[name] for name, source in group.items()}
            got = rows(offset, length, sources, given)
            for name, source in group.items():
                found[name] = got[source]
        for name in names:
            if name in self._fields.flags:
                flags = self._fields.flags[name]
                masks = rows(flags.part.offset, flags.part.length, [flags.part.source], None)
                there = flags.of(masks[flags.part.source])
                if self.spec[flags.name].role == "target" and steps is not None:
                    mask = self._mask(steps, len(indices))
                    there = there & mask.reshape(*mask.shape, *(1,) * len(flags.shape))
                found[name] = _into(batch, name, there)
        if self._fields.mask in names:
            found[self._fields.mask] = _into(batch, self._fields.mask, self._mask(steps, len(indices)))
        return {name: found[name] for name in names}

    def _groups(self, names: Sequence[str]) -> list[tuple[tuple[int, int], dict[str, str]]]:
        """Return the fields with the same rows together: offset and length, name to source."""
        known, found = self._grouped  # those of the call before, which may be one of another thread
        if names == known:
            return found
        groups: dict[tuple[int, int], dict[str, str]] = {}
        for name in names:
            if name in self._fields.parts:
                part = self._fields.parts[name]
                groups.setdefault((part.offset, part.length), {})[name] = part.source
        found = list(groups.items())
        self._grouped = list(names), found
        return found

    def _by_row(
        self,
        indices: Array,
        steps: Array | None,
        offset: int,
        length: int,
        sources: Sequence[str],
        out: Mapping[str, Array] | None,
        block: RowsInMemory | None,
    ) -> Sample:
        """Return rows of windows by the number of each; rows before and after an episode repeat its first or last."""
        places = np.broadcast_to(self.form.stride * (offset + np.arange(length)), (len(indices), length))
        if steps is not None:
            places = np.minimum(places, (steps[:, None] - 1) // self.form.stride * self.form.stride)
        if self._lead is not None:
            places = np.maximum(places - self._lead[indices, None], 0)
        rows = (self._first[indices, None] + places).reshape(-1)
        flat = None if out is None else {n: array.reshape(len(rows), *array.shape[2:]) for n, array in out.items()}
        got = (self.dataset if block is None else block).gather(rows, sources, flat)
        return {name: array.reshape(len(indices), length, *array.shape[1:]) for name, array in got.items()}

    def _mask(self, steps: Array | None, count: int) -> Array:
        """Return which targets are there, shape (count, targets)."""
        form = self.form
        last = (self._fields.first_target + np.arange(form.targets)) * form.stride
        return np.ones((count, form.targets), np.bool_) if steps is None else last < steps[:, None]


def _into(batch: Mapping[str, Array] | None, name: str, values: Array) -> Array:
    """Return values of a field, in the array that is given for it if there is one."""
    if batch is None:
        return values
    batch[name][...] = values
    return batch[name]


def without_windows(samples: Any) -> Any:
    """Return the dataset that windows are made of; other samples as they are."""
    return samples.dataset if isinstance(samples, EpisodeWindows) else samples
