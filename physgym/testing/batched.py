"""`BatchedConformance`: the rules of vector environments whose rows are independent simulations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym import spaces as walk
from physgym.batched.env import EXACT, MASK, rows_of
from physgym.batched.row_env import row_env
from physgym.batched.rows import VectorRows, arrays_of, row_info
from physgym.sample import SampleSpec, flat_items
from physgym.spaces import Array

ROWS, STEPS = 5, 6
SAMPLE = "sample/"  # before the name of a field
TOLERANCE = 1e-5  # of the largest value, where rows are independent up to rounding


class BatchedConformance(ABC):
    """Rules of a batched simulator; subclass it in a test and implement `make_env`."""

    @abstractmethod
    def make_env(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """Return a new vector environment of so many rows."""

    def test_it_says_how_rows_are_reset_and_that_they_are_independent(self) -> None:
        """Check the declarations without which no dataset is made."""
        with _closing(self.make_env(2)) as rows:
            assert rows.count == 2, f"a vector environment of 2 rows has num_envs={rows.count}"
            assert rows.independence, 'declare metadata["physgym.rows"], "exact" or "rounded"'
            assert rows.mode is not AutoresetMode.SAME_STEP, "a sample of the step that ends an episode would be lost"

    def test_samples_fit_their_declaration(self) -> None:
        """Check the samples of all rows."""
        with _closing(self.make_env(ROWS)) as rows:
            spec = SampleSpec.from_env(row_env(rows))
            assert spec is not None, "declare sample_space and sample_roles"
            for sample in _trace(rows, _seeds(ROWS))[1:]:
                for row in range(ROWS):
                    fields = {n.removeprefix(SAMPLE): c[row] for n, c in sample.items() if n.startswith(SAMPLE)}
                    spec.check(fields, f"row {row}", finite=False)

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        """Check that each row of a batch, in any place, gives what it gives alone."""
        seeds = _seeds(ROWS)
        with _closing(self.make_env(ROWS)) as rows:
            exact = rows_of(rows.venv.metadata) == EXACT
            together, turned = _trace(rows, seeds), _trace(rows, [*seeds[1:], seeds[0]], first=1)
        for row, seed in enumerate(seeds):
            with _closing(self.make_env(1)) as alone:
                for place, (one, many, other) in enumerate(
                    zip(_trace(alone, [seed], first=row), together, turned, strict=True)
                ):
                    what = "the reset" if place == 0 else f"step {place - 1}"
                    _check_same({n: c[0] for n, c in one.items()}, {n: c[row] for n, c in many.items()}, what, exact)
                    _check_same(
                        {n: c[0] for n, c in one.items()},
                        {n: c[(row - 1) % ROWS] for n, c in other.items()},
                        f"{what}, in another place,",
                        exact,
                    )

    def test_a_reset_of_some_rows_leaves_the_others(self) -> None:
        """Check that rows whose mask is False continue as if nothing had happened."""
        seeds = _seeds(ROWS)
        with _closing(self.make_env(ROWS)) as rows:
            if rows.mode is not AutoresetMode.DISABLED:
                return
            want = _trace(rows, seeds)
            exact = rows_of(rows.venv.metadata) == EXACT
            rows.reset(np.ones(ROWS, np.bool_), seeds)
            rows.step(_actions(rows, 0))
            mask = np.arange(ROWS) % 2 == 1
            observations, _ = rows.reset(mask, [seed + 100 for seed in seeds], {MASK: mask})
            for row in np.flatnonzero(~mask).tolist():
                now = {f"observation {i}": leaf[row] for i, leaf in enumerate(observations)}
                _check_same({name: want[1][name][row] for name in now}, now, "a reset of other rows", exact)


def _seeds(count: int) -> list[int]:
    return [11 + 7 * row for row in range(count)]


def _actions(rows: VectorRows, step: int, first: int = 0) -> list[Array]:
    """Return actions of all rows, a function of the number of the row, which begins at `first`."""
    drawn = []
    for row in range(rows.count):
        space = rows.venv.single_action_space
        space.seed((first + row) % ROWS * 1000 + step)
        drawn.append(walk.flatten(space, space.sample()))
    return [np.stack([np.asarray(value) for value in column]) for column in zip(*drawn, strict=True)]


def _trace(rows: VectorRows, seeds: Sequence[int], first: int = 0) -> list[dict[str, Array]]:
    """Return what a reset and some steps give: observations, rewards, flags and samples of all rows, by name."""
    observations, _ = rows.reset(np.ones(rows.count, np.bool_), list(seeds))
    over = np.zeros(rows.count, np.bool_)
    found = [{f"observation {i}": leaf.copy() for i, leaf in enumerate(observations)}]
    for step in range(STEPS):
        stepped = rows.step(_actions(rows, step, first))
        values = {f"observation {i}": leaf.copy() for i, leaf in enumerate(stepped.observations)}
        values |= {"reward": stepped.rewards.copy(), "terminated": stepped.terminations.copy()}
        infos = arrays_of(stepped.infos)
        info = [dict(flat_items(row_info(infos, row, rows.count).get("sample", {}))) for row in range(rows.count)]
        names = info[0] if all(one.keys() == info[0].keys() for one in info) else {}
        values |= {f"{SAMPLE}{name}": np.stack([np.asarray(one[name]) for one in info]) for name in names}
        values = {name: np.where(_there(over, column), column, 0) for name, column in values.items()}
        found.append(values)
        over |= stepped.terminations | stepped.truncations
    return found


def _there(over: Array, column: Array) -> Array:
    """Return which values mean something: those of rows whose episode has not ended before."""
    return ~over.reshape(-1, *([1] * (column.ndim - 1)))


def _check_same(one: Mapping[str, Array], other: Mapping[str, Array], where: str, exact: bool) -> None:
    for name, value in one.items():
        if exact:
            assert np.array_equal(value, other[name], equal_nan=np.asarray(value).dtype.kind in "fc"), (
                f"{where} differs for a row alone and in a batch, in {name}: rows are not independent to the bit. "
                'Declare metadata["physgym.rows"] = "rounded" if it is by rounding alone'
            )
        else:
            size = float(np.abs(value).max(initial=0.0))
            assert np.allclose(value, other[name], rtol=0, atol=TOLERANCE * size, equal_nan=True), (
                f"{where} differs for a row alone and in a batch, in {name}, by more than rounding"
            )


@contextmanager
def _closing(venv: VectorEnv[Any, Any, Any]) -> Iterator[VectorRows]:
    """Give the rows of a vector environment, which is closed at the end of the block."""
    try:
        yield VectorRows(venv)
    finally:
        venv.close()
