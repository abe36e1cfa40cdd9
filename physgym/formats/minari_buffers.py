"""`EpisodeBuffers`: the episodes of a dataset as Minari takes them, several at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from physgym.data.dataset import SampleDataset
from physgym.data.recordings import ACTED
from physgym.spaces import Array, fixed_leaves, unflatten

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer

FLAT = {"rewards", "terminations", "truncations"}
OURS = "physgym"  # key in Minari's metadata under which an exported dataset says what it was
CHUNK_BYTES = 1 << 24  # bytes of episodes that are read, and handed to Minari, at a time

Leaves = dict[str, str]  # path inside a space to the field that has its values


class EpisodeBuffers:
    """The episodes of a dataset, several at a time, as Minari takes them, with what else is known of each.

    Args:
        dataset: The samples.
        roles: The leaves of the space of each of Minari's names.
        space: The spaces of observations and actions.
        infos: Fields that become infos, and the path of each there.
        with_axis: Whether infos of a single value a step get an axis of length one.
        recorded: Whether the samples are those of a recording: observations once, and a row for the last one.

    Attributes:
        left_out: How many transitions of a recording have no next observation, so that they are left out.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        roles: Mapping[str, Leaves],
        space: Mapping[str, spaces.Space[Any]],
        infos: Mapping[str, str],
        *,
        with_axis: bool,
        recorded: bool,
    ) -> None:
        self._dataset, self._roles, self._space, self._infos = dataset, roles, space, infos
        self._with_axis, self._recorded = with_axis, recorded
        self._fields = [*{field: None for leaves in roles.values() for field in leaves.values()}, *infos]
        # episodes of different folders may have the same number
        self._episode = dataset.index("episode") if len(dataset.paths) == 1 else dataset.episodes
        self._step = dataset.index("step")
        self._order = np.lexsort((self._step, self._episode))
        follows = (np.diff(self._episode[self._order]) == 0) & (np.diff(self._step[self._order]) == 1)
        self._bounds = np.concatenate([[0], np.flatnonzero(~follows) + 1, [len(self._order)]])
        self.left_out = 0
        if recorded:
            ends = self._order[self._bounds[1:] - 1]  # which should hold the last observation of an episode alone
            self.left_out = int(np.count_nonzero(dataset.gather(ends, [ACTED])[ACTED]))

    def __iter__(self) -> Iterator[tuple[list[EpisodeBuffer], list[dict[str, int]]]]:
        dataset, bounds = self._dataset, self._bounds
        seed, env = dataset.index("seed"), dataset.index("env")
        row = max(1, sum(dataset.spec[name].nbytes for name in self._fields))
        first = 0
        while first < len(bounds) - 1:
            limit = bounds[first] + CHUNK_BYTES // row
            last = max(first + 1, int(np.searchsorted(bounds, limit, side="right")) - 1)
            columns = self._read(self._order[bounds[first] : bounds[last]])
            buffers, names = [], []
            for start, stop in zip(bounds[first:last], bounds[first + 1 : last + 1], strict=True):
                if stop - start <= self._recorded:
                    continue  # an observation that nothing follows
                cut = slice(start - bounds[first], stop - bounds[first])
                part = {name: column[cut] for name, column in columns.items()}
                at = self._order[start]
                buffer, open_end = self._buffer(part, int(seed[at]))
                buffers.append(buffer)
                name = {"episode": self._episode[at], "step": self._step[at], "env": env[at], "cut": open_end}
                names.append({f"{OURS}_{key}": int(value) for key, value in name.items()})
            yield buffers, names
            first = last

    def _read(self, rows: Array) -> dict[str, Array]:
        if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return self._dataset.read(
                int(rows[0]), int(rows[-1]) + 1, self._fields
            )  # an archive reads no other way well
        return self._dataset.gather(rows, self._fields)

    def _buffer(self, part: dict[str, Array], seed: int) -> tuple[EpisodeBuffer, bool]:
        """Return one episode, and whether it has no end of its own."""
        from minari.data_collector import EpisodeBuffer

        observations = self._observations(part)
        count = len(next(iter(part.values()))) - self._recorded
        steps = {name: column[:count] for name, column in part.items()}
        flat = {
            key: steps[self._roles[key][""]].reshape(count) if key in self._roles else np.zeros(count) for key in FLAT
        }
        ends = {key: flat[key].astype(np.bool_) for key in ("terminations", "truncations")}
        open_end = not (ends["terminations"][-1] or ends["truncations"][-1])
        ends["truncations"][-1] |= open_end
        return EpisodeBuffer(
            seed=seed,
            observations=self._nest("observations", observations),
            actions=self._nest("actions", {path: steps[field] for path, field in self._roles["actions"].items()}),
            rewards=flat["rewards"],
            **ends,
            infos=self._infos_of(steps),
        ), bool(open_end)

    def _observations(self, part: dict[str, Array]) -> dict[str, Array]:
        """Return the leaves of the observations, one more than there are steps."""
        leaves = self._roles["observations"]
        if self._recorded:
            return {path: part[field] for path, field in leaves.items()}
        behind = self._roles.get("next_observations", leaves)
        return {path: np.concatenate([part[field], part[behind[path]][-1:]]) for path, field in leaves.items()}

    def _infos_of(self, steps: dict[str, Array]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, path in self._infos.items():
            *parents, last = path.split("/")
            node = found
            for parent in parents:
                node = node.setdefault(parent, {})
            column = np.concatenate([np.zeros_like(steps[name][:1]), steps[name]])
            if self._with_axis and column.ndim == 1:
                column = column[:, np.newaxis]
            if column.dtype.kind == "U":  # HDF5 knows bytes alone
                column = np.char.encode(column, "utf-8")
            node[last] = column
        return found

    def _nest(self, key: str, values: dict[str, Array]) -> Any:
        space = self._space[key]
        return unflatten(space, iter([values[leaf.path] for leaf in fixed_leaves(space)]))
