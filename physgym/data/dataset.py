"""`SampleDataset`: the samples in one or several dataset folders, as arrays."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from physgym.checks import is_integer
from physgym.data.dataset_parts import EpisodeSplit
from physgym.data.description import Mode, check_mode
from physgym.data.divided_samples import DividedSamples
from physgym.data.episode_index import EpisodeIndex
from physgym.data.episode_split import number_episodes
from physgym.data.html_summary import dataset_html
from physgym.data.indices import as_indices, episode_rows
from physgym.data.joined_tables import declared_spec, joined, joined_endings
from physgym.data.labelled import as_xarray
from physgym.data.layout import ENDINGS, EPISODES, INDEX, REJECTED
from physgym.data.opened_folders import OpenedFolders
from physgym.data.origins import SampleOrigin, divided, episodes_before
from physgym.data.partition import COPY, Partition
from physgym.data.rejected_samples import RejectedSamples
from physgym.data.row_reader import RowReader, targets
from physgym.data.row_selection import AllRows, ListedRows, RowSelection
from physgym.data.shown_samples import draw_episode, draw_sample
from physgym.data.sizes import size_text
from physgym.data.statistics import Statistics, collect, merged, real_fields
from physgym.data.times import common_step_seconds, sample_times
from physgym.data.windows import Begin, EpisodeWindows, Short, WindowForm
from physgym.errors import ConfigError, DatasetError
from physgym.feedback import Declaration
from physgym.sample import Sample, SampleSpec
from physgym.scene.pictures import Picture
from physgym.simulation import TIME
from physgym.spaces import Array
from physgym.storage.location import Location, place

if TYPE_CHECKING:
    import xarray

log = logging.getLogger(__name__)


class SampleDataset(DividedSamples):
    """Samples on disk: map-style, so that `torch.utils.data.DataLoader` takes it as it is.

    Args:
        path: A dataset folder, or several that are read as one; all need the same fields. Also ``s3://bucket/prefix``,
            which is brought to a local cache, see `physgym.storage`.
        mode: Which part to read.
        fields: Only these fields, in this order; all by default. What is padded keeps its mask for `statistics`,
            whether or not that is among them.
        mini: Only the first so many samples.
        rows: Only these samples, by index; what `split` uses.
        feedback: Which output feeds which input, see `physgym.feedback`; by default what the samples declare.

    Attributes:
        spec: The sample fields.
        feedback: Which output is which input of the next step, among all stored fields.

    Raises:
        SampleError: `feedback` names a field that there is not, or the fields do not fit.
        DatasetError: A folder has no samples of this mode, a partition is damaged, or fields or feedback differ.
    """

    def __init__(
        self,
        path: str | Path | Location | Sequence[str | Path | Location],
        mode: Mode = "training",
        fields: Sequence[str] | None = None,
        *,
        mini: int | None = None,
        rows: Array | None = None,
        feedback: Declaration | None = None,
    ) -> None:
        check_mode(mode)
        places = [place(p) for p in ([path] if isinstance(path, (str, Path, Location)) else path)]
        if not places:
            raise ConfigError("no dataset folder is given")
        if mini is not None and not is_integer(mini, 1):
            raise ConfigError(f"mini must be at least 1 sample, not {mini}")
        self.mode = mode
        fetched = mini if rows is None and len(places) == 1 else None  # samples to fetch; None for all
        self._folders = OpenedFolders(places, mode, fetched)
        stored = declared_spec(self.partitions, feedback)
        self.feedback = stored.feedback
        self._fields = None if fields is None else list(fields)
        self.spec = stored if fields is None else SampleSpec([stored[name] for name in _known(stored, fields)])
        total = self._folders.total
        self._rows: RowSelection = AllRows(total, mini)
        if rows is not None:
            self._rows = ListedRows(as_indices(rows, total)[:mini])

    def refresh(self) -> int:
        """Read what a writer has committed since; a dataset of selected rows stays as it is.

        Returns:
            How many samples there are more than before.
        """
        before, opened = len(self), self._folders.again()
        self._rows = self._rows.moved(self._folders.counts, opened.counts)
        self._folders = opened
        for made in ("_reader", "statistics"):
            self.__dict__.pop(made, None)
        return len(self) - before

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        where = ", ".join(str(found) for found in self._folders.places)
        return f"SampleDataset({where}, mode={self.mode!r}, {len(self)} samples, {self.spec})"

    def _repr_html_(self) -> str:
        episodes = len(np.unique(self.episodes))
        title = f"{len(self)} {self.mode} samples, {episodes} episodes, {size_text(self.nbytes)}"
        return dataset_html(self.spec, title, ", ".join(map(str, self._folders.places)))

    def show(self, sample: int | None = None, *, episode: int | None = None) -> Picture:
        """Return a picture of a sample, or of an episode over its steps; a notebook shows it.

        Args:
            sample: Index of the sample, as in ``dataset[17]``. Its arrays are curves or images, its numbers a text.
            episode: In place of it the number of an episode, as in `episode`.

        Raises:
            ConfigError: There is no such sample or episode, nothing to draw, or matplotlib is not installed.
        """
        if (sample is None) == (episode is None):
            raise ConfigError("show draws either a sample or an episode: show(17), or show(episode=3)")
        if episode is not None:
            steps = np.sort(self.index("step")[self.index("episode") == episode], kind="stable")
            text = f"episode {episode}: {len(steps)} samples"
            return draw_episode(self.spec, self.episode(episode), steps, text)
        if not is_integer(sample, -len(self)) or int(sample) >= len(self):
            raise ConfigError(f"there is no sample {sample!r}; the dataset has {len(self)}")
        row = int(sample) % len(self)
        where = ", ".join(f"{name} {self.index(name)[row]}" for name in ("episode", "step"))
        return draw_sample(self.spec, self[row : row + 1], f"sample {row} ({where})")

    def __reduce__(self) -> tuple[Any, ...]:
        # paths instead of memory maps, so that the workers of a DataLoader open the files themselves; they must see the
        # samples that there are here, not what is written meanwhile
        opened, declared = self._folders, self.feedback.declaration
        selected = (self._fields, opened.counts, len(self), self._rows)
        return _reopen, (opened.places, self.mode, *selected, declared, self._split)

    @property
    def places(self) -> Sequence[Path | Location]:
        """Return the folders of the samples, where they are."""
        return self._folders.places

    @property
    def paths(self) -> list[Path]:
        """Return the folders of the samples on this machine."""
        return self._folders.paths

    @property
    def attributes(self) -> dict[str, Any]:
        """Return attributes of the first partition: mode, source, spaces and environment as JSON, versions."""
        return dict(self.partitions[0].attributes)

    @property
    def source(self) -> dict[str, Any]:
        """Return where the samples come from, as their writer recorded it: environment, arguments, seed."""
        source: dict[str, Any] = json.loads(self.partitions[0].attributes["source"])
        return source

    @property
    def provenance(self) -> Any:
        """Return the code and the runs that made the samples of the first folder, as ``dataset.json`` says: JSON data.

        "unknown" where nothing was said, None in a dataset from before this was recorded. For several folders see
        `provenances`.
        """
        return self.provenances[0]

    @property
    def provenances(self) -> list[Any]:
        """Return the provenance of each folder."""
        return self._folders.provenances

    @property
    def constants(self) -> dict[str, Array]:
        """Return arrays that are stored once per dataset, such as a mesh, read-only; empty where there are none.

        Raises:
            DatasetError: Their file is damaged, or the folders have different ones.
        """
        return self._folders.constants

    @property
    def time_step(self) -> float | None:
        """Return the time of a step in s, as the simulation declared it; None where it did not, or where steps differ.

        Where steps differ, a field ``time`` may say when each ended; ``index("time")`` knows both.
        """
        return common_step_seconds(self.partitions)

    @property
    def partitions(self) -> list[Partition]:
        """Return the files, in order."""
        return self._folders.partitions

    @property
    def partition_numbers(self) -> Array:
        """Return the number of each sample's partition in `partitions`, shape (len(self),)."""
        rows = self._rows.between(0, len(self))
        return np.searchsorted(self._folders.bounds, rows, side="right") - 1

    def origins(self) -> tuple[list[SampleOrigin], Array]:
        """Return source and provenance of each partition, or of each dataset that was merged into it.

        With them comes the number of these for each sample, shape (len(self),).
        """
        said = self.provenances
        each = [(json.loads(part.attributes["source"]), said[folder]) for folder, part in self._folders.numbered]
        return divided(each, self.partition_numbers, lambda: self.index("episode"))

    @property
    def metadata(self) -> dict[str, str]:
        """Return what people said of the dataset in the first folder, by key; see ``physgym data describe``."""
        return self._folders.metadata

    @property
    def dropped(self) -> int | None:
        """Return how many old samples a bounded dataset, such as a replay, has dropped; None of others."""
        return self._folders.dropped

    @property
    def random_access(self) -> bool:
        """Return whether single samples can be read as cheaply as their neighbours; not so in compressed archives."""
        return not any(part.archive for part in self.partitions)

    def cached_fraction(self, fields: Sequence[str] | None = None) -> float | None:
        """Return how much of fields is in the page cache, from 0 to 1; None where the system does not say."""
        return self._reader.cached_fraction(self._names(fields))

    def populate(self, fields: Sequence[str] | None = None) -> Iterator[int]:
        """Read fields into the page cache and map their pages, see `physgym.loading.loadable.Mapped`."""
        return self._reader.populate(self._names(fields))

    # --- access

    def gather(
        self, indices: Any, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Read samples at the given indices, stacked.

        Args:
            indices: Integers between 0 and ``len(self) - 1``, shape (n,); or a mask of shape (len(self),), bool.
            fields: Only these fields.
            out: C-contiguous arrays to put them in, by field, shape (n, *field shape); new ones by default.

        Returns:
            Field names to arrays of shape (n, *field shape).

        Raises:
            ConfigError: An index is out of range, a field unknown, or an array of `out` does not fit.
            DatasetError: A file cannot be read.
        """
        names = self._names(fields)
        indices = as_indices(indices, len(self))
        rows = self._rows.at(indices)
        batch = targets(self.spec, names, len(rows), out)
        self._reader.gather(rows, batch)
        return batch

    def stored_rows(self, indices: Array) -> Array:
        """Return the rows of samples, counted over all partitions, shape (n,)."""
        return self._rows.at(indices)

    def stored_slices(
        self, rows: Array, length: int, fields: Sequence[str], out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Return slices of rows that follow one another in the partitions, stacked.

        Args:
            rows: First row of each, as of `stored_rows`, shape (n,).
            length: Rows of a slice.
            fields: Which fields.
            out: C-contiguous arrays to put them in, by field, shape (n, length, *field shape); new ones by default.
        """
        return self._reader.slices(rows, length, fields, out)

    def read(
        self, start: int, stop: int, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Read consecutive samples sequentially, which is fastest where the data do not fit the memory.

        Args:
            start: First sample.
            stop: End of the samples.
            fields: Only these fields.
            out: C-contiguous arrays to put them in, by field, shape (stop - start, *field shape); new ones by default.

        Returns:
            Field names to arrays of shape (stop - start, *field shape).
        """
        if not 0 <= start <= stop <= len(self):
            raise ConfigError(f"samples {start} to {stop} of a dataset with {len(self)}")
        rows = self._rows.between(start, stop)
        batch = targets(self.spec, self._names(fields), len(rows), out)
        self._reader.read(rows, batch)
        return batch

    def index(self, name: str) -> Array:
        """Return where samples come from: "episode", "step", "env" or "seed" of every sample, shape (len(self),).

        "time" is the time in s since the reset at the end of the step, where it is known, float64; see `time_step`:
        where it follows from that, each step counts, those that were rejected too.
        """
        if name not in (*INDEX, TIME):
            raise ConfigError(f"there is no index {name!r}; there are {', '.join((*INDEX, TIME))}")
        if name == TIME:
            whole = sample_times(self.partitions)
        else:
            whole = np.concatenate([part.read(f"index/{name}", 0, part.count) for part in self.partitions])
        return self._rows.of(whole)

    @property
    def arrays(self) -> dict[str, Array]:
        """Return whole fields as read-only memory-mapped arrays, shape (len(self), *field shape); nothing is read yet.

        Text fields, which are stored in another way than they are used, are read.

        Raises:
            DatasetError: The rows do not follow one another in memory: rows were selected, it is an archive, or
                several folders are joined that do not end at a whole page.
        """
        stitched = self._reader.stitched
        if stitched is None or not stitched.whole or not isinstance(self._rows, AllRows):
            raise DatasetError(
                f"the rows of {', '.join(map(str, self.paths))} do not follow one another in memory; use gather, a "
                "slice, or read"
            )
        texts = [name for name in self.spec if name not in stitched.arrays]
        found = self.read(0, len(self), texts) if texts else {}
        for array in found.values():
            array.flags.writeable = False
        return {name: found[name] if name in found else stitched.arrays[name][: len(self)] for name in self.spec}

    def _names(self, fields: Sequence[str] | None) -> list[str]:
        return list(self.spec) if fields is None else _known(self.spec, fields)

    @cached_property
    def _reader(self) -> RowReader:
        """Return the rows of all partitions."""
        return RowReader(self.partitions, self._folders.bounds, self.spec)

    def to_xarray(self, dims: Mapping[str, Sequence[str]] | None = None) -> xarray.Dataset:
        """Return the dataset as an `xarray.Dataset` with names for the axes, see `physgym.data.labelled.as_xarray`."""
        return as_xarray(self, dims)

    # --- time

    def windows(
        self,
        inputs: int = 1,
        targets: int = 1,
        stride: int = 1,
        every: int = 1,
        fields: Sequence[str] | None = None,
        *,
        feedback: Declaration | None = None,
        names: Mapping[str, str] | None = None,
        short: Short = "drop",
        mask: str = "mask",
        begin: Begin = "whole",
    ) -> EpisodeWindows:
        """Return windows of consecutive steps within episodes, as a dataset; see `EpisodeWindows` for their rows.

        Args:
            inputs: Rows of the inputs.
            targets: Rows of the targets.
            stride: Steps from a row of a window to the next one.
            every: Steps from the beginning of a window to that of the next one.
            fields: Only these fields.
            feedback: What feeds what, in place of what the samples declare; see `physgym.feedback`.
            names: For a field that is stored once the name of its output, in place of ``next_<name>``.
            short: Whether an episode that is too short is left out ("drop"), or gives a window whose last rows are
                repeated ("pad"), with a field that says which targets are there. At least one is.
            mask: Name of that field, shape (targets,), bool.
            begin: Whether a window has rows of its own from the first on ("whole"). Else there is one for each step
                that the inputs may end with, where the first row of the episode stands in place of rows before it
                ("repeat"), as in a stack of frames.

        Raises:
            ConfigError: A window is longer than every episode, an argument out of range, or a field unknown.
            SampleError: The feedback does not fit the fields, or a name is taken.
        """
        stored = self.partitions[0].spec
        declared = self.feedback if feedback is None else stored.with_feedback(feedback).feedback
        form = WindowForm(inputs, targets, stride, every, None if fields is None else tuple(fields), short, mask, begin)
        found = EpisodeWindows(self._like(), form, declared.named(names or {}, stored))
        if found.left_out or found.padded:
            log.warning("%s", found.shortage)
        return found

    def episode(self, number: int) -> Sample:
        """Return one episode as arrays, in the order of its steps.

        Args:
            number: Its index, as in ``index("episode")``.

        Returns:
            Field names to arrays of shape (steps, *field shape).

        Raises:
            ConfigError: There is no such episode, or several folders have one.
        """
        return self.gather(episode_rows(number, self.index("episode"), self.index("step"), self.episodes))

    # --- splitting

    @property
    def episodes(self) -> Array:
        """Return an integer per sample that names its episode, across folders; shape (len(self),)."""
        return number_episodes(self._rows.of(self._folders.folders), self.index("episode"))

    @property
    def original_episodes(self) -> Array:
        """Return the number of each sample's episode in the dataset that it was first stored in, shape (len(self),)."""
        sources = [json.loads(part.attributes["source"]) for part in self.partitions]
        return episodes_before(sources, self.partition_numbers, self.index("episode"))

    @property
    def recorded_split(self) -> EpisodeSplit | None:
        """Return the division into parts that the dataset records as its metadata ``split``; None without one."""
        return self._folders.split if self.mode == "training" else None

    def of_mode(self, mode: Mode) -> Self:
        """Return the samples of another mode in the same folders, all of them.

        Raises:
            ConfigError: These are selected samples, of which the other ones are no part.
            DatasetError: There are none.
        """
        if not isinstance(self._rows, AllRows) or self._rows.most is not None:
            raise ConfigError(f"samples were selected; take the {mode} part of the whole dataset")
        return type(self)(self.places, mode, self._fields, feedback=self.feedback.declaration)

    def subset(self, indices: Array) -> Self:
        """Return the samples at the given indices, or under a mask of shape (len(self),), as a dataset of its own."""
        return self._of_rows(self._rows.subset(as_indices(indices, len(self))))

    @property
    def _episode_index(self) -> EpisodeIndex:
        return EpisodeIndex(self._folders, self._rows)

    def _of_rows(self, rows: RowSelection) -> Self:
        return self._like(_rows=rows)

    def _like(self, **changes: Any) -> Self:
        """Return a dataset of the same open files: opened again, they may hold more."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__, **changes)
        for made in ("statistics", *(["_reader"] if "spec" in changes else [])) if changes else ():
            part.__dict__.pop(made, None)
        return part

    # --- other tables

    @property
    def parameters(self) -> Sample | None:
        """Return the parameters of every stored episode, by name, of shape (episodes, *parameter shape), or None.

        `parameter_episodes` says whose they are.
        """
        return self._of_table(EPISODES, "parameters/")

    @property
    def parameter_spec(self) -> SampleSpec | None:
        """Return the parameters of episodes as they were declared, None without any."""
        return self.partitions[0].layout.parameters

    @property
    def parameter_names(self) -> Sample:
        """Return index ("episode") and seed ("seed") of the episodes of `parameters`, each of shape (episodes,)."""
        return self._of_table(EPISODES, "episodes/") or {}

    @property
    def parameter_episodes(self) -> Array | None:
        """Return indices of the episodes of `parameters`, shape (episodes,), int64, or None."""
        found = self._of_table(EPISODES, "episodes/")
        return None if found is None else found["episode"]

    @property
    def rejected(self) -> RejectedSamples | None:
        """Return rejected samples, None where they were not kept."""
        found = self._of_table(REJECTED, "rejected/")
        if found is None:
            return None
        samples = {name: found[f"data/{name}"] for name in self.spec}
        reasons = [reason.decode(errors="replace") for reason in found["reason"].tolist()]
        return RejectedSamples(samples, reasons, **{name: found[f"index/{name}"] for name in INDEX})

    @property
    def endings(self) -> dict[int, str] | None:
        """Return how each episode ended, by its index; None where that was not stored, as by earlier versions.

        That is "terminated", "truncated" (by the environment), "cut" (by ``max_steps``), or "unfinished": its end is
        not in the dataset, as of the last episode where `samples` ended a generation.

        Raises:
            ConfigError: Several folders have an episode of one number.
        """
        found = joined_endings(self._folders.numbered)
        if found is None:
            return None
        known = dict(zip(found["episode"].tolist(), map(bytes.decode, found["how"].tolist()), strict=True))
        return {episode: known.get(episode, "unfinished") for episode in np.unique(self.index("episode")).tolist()}

    @property
    def lengths(self) -> dict[int, int]:
        """Return the steps of each episode that ended, by its index, rejected ones included; empty if not stored.

        Raises:
            ConfigError: Several folders have an episode of one number.
        """
        found = joined_endings(self._folders.numbered)
        return {} if found is None else dict(zip(found["episode"].tolist(), found["steps"].tolist(), strict=True))

    @property
    def ended(self) -> Sample | None:
        """Return the episodes that ended: "episode", "steps", "how" (bytes), shape (episodes,); None as `endings`."""
        return self._of_table(ENDINGS, "endings/")

    def _of_table(self, table: str, prefix: str) -> Sample | None:
        """Return columns of another table that begin with a prefix, without it."""
        return joined(self.partitions, table, prefix)

    def verify(self, *, progress: bool = False) -> None:
        """Compare the samples with the checksums of their partitions; open partitions have none.

        Args:
            progress: Whether to show how far it is.

        Raises:
            DatasetError: A partition is not what was written.
        """
        self._folders.verify(progress=progress)

    # --- statistics

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Return statistics per field and component, of the partitions merged; computed for selected rows."""
        if not isinstance(self._rows, AllRows) or len(self) < self._folders.total:
            return self.compute_statistics()
        found = merged((part.statistics for part in self.partitions), self.partitions[0].spec)
        return {field.name: found[field.name] for field in real_fields(self.spec)}

    def compute_statistics(self) -> dict[str, Statistics]:
        """Compute statistics per field and component, from the samples themselves.

        Masks are read for it where they are not among the fields of this dataset.
        """
        whole = self._with_masks()
        found = collect(whole.spec, len(whole), lambda name, a, b: whole.read(a, b, [name])[name], COPY)
        return {field.name: found[field.name] for field in real_fields(self.spec)}

    def _with_masks(self) -> SampleDataset:
        """Return the same samples with the masks of their fields."""
        stored = self.partitions[0].spec
        masks = {f.mask: stored[f.mask] for f in self.spec.values() if f.mask in stored and f.mask not in self.spec}
        if not masks:
            return self
        return self._like(spec=SampleSpec([*self.spec.values(), *masks.values()]))


def _known(spec: SampleSpec, names: Sequence[str]) -> list[str]:
    if unknown := [name for name in names if name not in spec]:
        raise ConfigError(f"fields {unknown} are not in the dataset, which has {list(spec)}")
    return list(names)


def _reopen(
    paths: list[Path | Location],
    mode: Mode,
    fields: list[str] | None,
    counts: list[int],
    length: int,
    rows: RowSelection,
    feedback: Declaration,
    split: EpisodeSplit | None,
) -> SampleDataset:
    mini = length if isinstance(rows, AllRows) else None
    dataset = SampleDataset(paths, mode, fields, mini=mini, feedback=feedback)
    dataset._rows = rows.kept(counts, dataset._folders.counts)
    dataset._split = split
    return dataset
