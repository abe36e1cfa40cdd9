"""`filter`: the samples of a dataset that fulfil a condition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.layout import ENDINGS, EPISODES, REJECTED
from physgym.data.partition import Partition
from physgym.data.surgery.expression import Expression
from physgym.data.surgery.lineage import changed_provenance, changed_source
from physgym.data.surgery.plans import NewDataset, NewPart, Piece, blocks
from physgym.data.surgery.sources import SourceDataset
from physgym.errors import DatasetError
from physgym.spaces import Array

OWN = ("format", "mode", "source", "physgym", "git_commit", "compression")  # attributes that a writer makes anew


class ParameterRows:
    """Looks up the parameters of episodes, those columns that are asked for.

    Args:
        dataset: One mode of one folder.
        path: What to call it in an error.
    """

    def __init__(self, dataset: SampleDataset, path: str) -> None:
        self._dataset, self._path = dataset, path
        self._columns: dict[str, Array] = {}
        whose = self._column("episodes/episode")
        self._order = np.argsort(whose, kind="stable")
        self._episodes = whose[self._order]

    def of(self, name: str, episodes: Array) -> Array:
        """Return the values of a parameter for episodes, shape (n, *parameter shape).

        Raises:
            DatasetError: It is not stored for one of them.
        """
        if not len(episodes):
            return self._column(f"parameters/{name}")[:0]
        places = np.minimum(np.searchsorted(self._episodes, episodes), len(self._episodes) - 1)
        missing = self._episodes[places] != episodes if len(self._episodes) else np.ones(len(episodes), bool)
        if missing.any():
            raise DatasetError(
                f"{self._path} has no parameters of episode {int(episodes[np.argmax(missing)])}, so the condition says "
                "nothing of its samples"
            )
        return np.asarray(self._column(f"parameters/{name}")[self._order[places]])

    def _column(self, name: str) -> Array:
        if name not in self._columns:
            read = [part.read(name, 0, part.tables[EPISODES].count) for part in self._dataset.partitions]
            self._columns[name] = np.concatenate(read)
        return self._columns[name]


class Matches:
    """The samples of a part that fulfil a condition.

    Args:
        path: Where the dataset is, for errors.
        dataset: One mode of one folder.
        condition: The condition.
        done: Called with the number of samples that were looked at.
    """

    def __init__(
        self, path: str, dataset: SampleDataset, condition: Expression, done: Callable[[int], object] = lambda _: None
    ) -> None:
        spec, parameters = dataset.spec, dataset.parameter_spec
        lookup: ParameterRows | None = None
        flags: list[list[Array]] = [[] for _ in dataset.partitions]
        seen: list[tuple[Array, Array, Array]] = []  # episodes of a block, their last steps, whether these are kept
        kept_episodes: list[Array] = []
        for number, part, start, stop in blocks(dataset):
            names = {name: part.read(f"index/{name}", start, stop) for name in ("episode", "step")}
            columns: dict[tuple[str, str], Array] = {("index", name): column for name, column in names.items()}

            def read(
                kind: str,
                name: str,
                part: Partition = part,
                rows: tuple[int, int] = (start, stop),
                columns: dict[tuple[str, str], Array] = columns,
            ) -> Array:
                nonlocal lookup
                if (kind, name) not in columns:
                    if kind == "parameter":
                        lookup = lookup or ParameterRows(dataset, path)
                        columns[kind, name] = lookup.of(name, columns["index", "episode"])
                    else:
                        columns[kind, name] = part.read(f"data/{name}", *rows)
                return columns[kind, name]

            kept = condition.evaluate(spec, parameters, read)
            flags[number].append(kept)
            seen.append(_last_steps(names["episode"], names["step"], kept))
            kept_episodes.append(np.unique(names["episode"][kept]))
            done(stop - start)
        self._flags = [np.concatenate(one) if one else np.empty(0, bool) for one in flags]
        self._ends = np.cumsum([0, *(len(one) for one in self._flags)])
        self._kept_before = [int(kept) for kept in np.cumsum([0, *(int(one.sum()) for one in self._flags)])]
        self.count = self._kept_before[-1]
        self._episodes = np.unique(np.concatenate(kept_episodes))
        episodes, steps, kept = (np.concatenate(column) for column in zip(*seen, strict=True))
        episodes, _, kept = _last_steps(episodes, steps, kept)
        self._ended = episodes[kept]

    @property
    def episode_count(self) -> int:
        """Return how many episodes have a sample that fulfils it."""
        return len(self._episodes)

    def rows(self, partition: int, start: int, stop: int) -> Array:
        """Tell which rows of a partition fulfil it, shape (stop - start,)."""
        return self._flags[partition][start:stop]

    def before(self, row: int) -> int:
        """Return how many of the first samples of the part fulfil it."""
        owner = int(np.searchsorted(self._ends, row, side="right")) - 1
        if owner >= len(self._flags):
            return self.count
        return self._kept_before[owner] + int(self._flags[owner][: row - int(self._ends[owner])].sum())

    def episodes(self, table: str, numbers: Array) -> Array:
        """Tell which rows of a side table are kept: of episodes of which samples, and for their ends the last, are."""
        known = {EPISODES: self._episodes, REJECTED: self._episodes, ENDINGS: self._ended}[table]
        return np.isin(numbers, known)


def _last_steps(episodes: Array, steps: Array, kept: Array) -> tuple[Array, Array, Array]:
    """Return each episode once, with its last step and whether that is kept."""
    order = np.lexsort((steps, episodes))
    last = np.append(np.diff(episodes[order]) != 0, [True]) if len(order) else np.empty(0, bool)
    rows = order[last]
    return episodes[rows], steps[rows], kept[rows]


def filtered_dataset(
    source: SourceDataset, condition: Expression, done: Callable[[int], object] = lambda _: None
) -> NewDataset:
    """Return the dataset of the samples that fulfil a condition; episodes keep their numbers.

    Raises:
        DatasetError: No sample fulfils it.
    """
    parts, notes = [], []
    for mode, dataset in source.parts.items():
        matches = Matches(source.path, dataset, condition, done)
        if not matches.count:
            notes.append(f"no {mode} sample fulfils the condition: the part is left out")
            continue
        step = {"filter": condition.text}
        parts.append(
            NewPart(
                mode,
                dataset.spec,
                [Piece(dataset, matches)],
                changed_source(dataset, step),
                changed_provenance(source.path, dataset, step, matches.before),
                {},
                dataset.parameter_spec,
                REJECTED in dataset.partitions[0].tables,
                ENDINGS in dataset.partitions[0].tables,
                described_attributes(dataset),
            )
        )
    if not parts:
        raise DatasetError(f"no sample of {source.path} fulfils {condition.text}, so there is nothing to write")
    return NewDataset(parts, source.constants, source.metadata, notes)


def described_attributes(dataset: SampleDataset) -> dict[str, str]:
    """Return the attributes of partitions that say something of the simulation, such as the time of a step."""
    return {name: text for name, text in dataset.attributes.items() if isinstance(text, str) and name not in OWN}
