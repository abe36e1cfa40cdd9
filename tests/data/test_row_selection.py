"""Rows of a part of a dataset, as runs, bits or a list, against plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.data import row_selection
from physgym.data.indices import moved
from physgym.data.row_selection import (
    BLOCK,
    FEW,
    AllRows,
    FlaggedRows,
    ListedRows,
    RowRuns,
    SelectionBuilder,
)


def flagged(flags):
    words = np.zeros(-(-len(flags) // BLOCK) * BLOCK // 8, np.uint8)
    bits = np.packbits(flags, bitorder="little")
    words[: len(bits)] = bits
    return FlaggedRows(words.view("<u8"))


def runs_of(rows):
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.append(0, cuts)]
    return starts, np.diff(np.concatenate([[0], cuts, [len(rows)]]))


def check(selection, rows, rng):
    assert len(selection) == len(rows)
    places = rng.integers(0, len(rows), 50)
    for given_places in (places, np.arange(len(rows)), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(selection.at(given_places), rows[given_places])
        assert selection.at(given_places).dtype == np.int64
    start, stop = sorted(rng.integers(0, len(rows) + 1, 2).tolist())
    for low, high in ((start, stop), (0, len(rows)), (start, start)):
        np.testing.assert_array_equal(selection.between(low, high), rows[low:high])
    values = rng.random(int(rows.max()) + 1)
    np.testing.assert_array_equal(selection.of(values), values[rows])
    np.testing.assert_array_equal(selection.subset(places).between(0, 50), rows[places])


@given(seed=st.integers(0, 1000), density=st.sampled_from([0.001, 0.1, 0.5, 0.97, 1.0]), clumped=st.booleans())
@settings(max_examples=40, deadline=None)
def test_rows_are_found_in_runs_and_bits_as_in_a_list(seed, density, clumped):
    rng = np.random.default_rng(seed)
    flags = rng.random(rng.integers(1, 5000)) < density
    if clumped:
        flags = np.repeat(flags, rng.integers(1, 30, len(flags)))
        flags[: len(flags) // 2] &= rng.random() < 0.5  # nothing for a long while
    flags[rng.integers(len(flags))] = True
    rows = np.flatnonzero(flags)
    for selection in (flagged(flags), RowRuns(*runs_of(rows)), ListedRows(rows)):
        check(selection, rows, rng)
    check(AllRows(len(rows)), np.arange(len(rows)), rng)


def test_runs_need_not_ascend():
    rows = np.concatenate([np.arange(50, 60), np.arange(10), np.arange(55, 58)])
    check(RowRuns(*runs_of(rows)), rows, np.random.default_rng(0))


def test_many_short_runs_at_one_place_are_found():
    rows = np.concatenate(
        [np.arange(0, 2000, 2), np.arange(5000, 205_000)]
    )  # a piece of the range has most of the runs
    check(RowRuns(*runs_of(rows)), rows, np.random.default_rng(0))


@pytest.mark.parametrize("make", [ListedRows, lambda rows: RowRuns(*runs_of(rows)), None])
def test_rows_stay_those_of_the_same_samples_where_folders_have_grown(make):
    rows = np.array([0, 1, 7, 8, 9, 10, 11, 12, 30, 31, 39])
    selection = flagged(np.isin(np.arange(40), rows)) if make is None else make(rows)
    for before, after in (([10, 2, 28], [15, 2, 30]), ([40], [55]), ([10, 30], [10, 31])):
        found = selection.moved(before, after)
        np.testing.assert_array_equal(found.between(0, len(rows)), moved(rows, before, after))


def test_all_rows_grow_with_the_folders_unless_they_are_those_that_were_there():
    assert len(AllRows(10).moved([4, 6], [5, 9])) == 14
    assert len(AllRows(10, 12).moved([4, 6], [5, 9])) == 12
    kept = AllRows(10).kept([4, 6], [5, 9])
    np.testing.assert_array_equal(kept.between(0, 10), [0, 1, 2, 3, 5, 6, 7, 8, 9, 10])
    assert isinstance(AllRows(10).kept([4, 6], [4, 9]), AllRows)


def built(rows, total, portion):
    builder = SelectionBuilder(total)
    for start in range(0, len(rows), portion):
        starts, lengths = runs_of(rows[start : start + portion])
        builder.add(starts, starts + lengths)
    builder.add(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return builder.made()


def test_what_is_built_takes_a_bit_of_a_row_at_most_and_little_more(monkeypatch):
    monkeypatch.setattr(row_selection, "FEW", 1 << 10)
    total, rng = 200_000, np.random.default_rng(3)
    single = np.flatnonzero(rng.random(total) < 0.9)
    episodes = np.flatnonzero(np.repeat(rng.random(total // 100) < 0.9, 100))
    for rows, kind in ((single, FlaggedRows), (episodes, RowRuns), (single[:1000], ListedRows)):
        found = built(rows, total, 30_011)
        assert type(found) is kind
        np.testing.assert_array_equal(found.between(0, len(rows)), rows)
        assert kind is ListedRows or found.nbytes < 1.3 * total / 8
    assert built(episodes, total, 30_011).nbytes < total / 8 / 6


@pytest.mark.parametrize("late", [False, True])
def test_rows_in_another_order_keep_it(monkeypatch, late):
    monkeypatch.setattr(row_selection, "FEW", 1 << 10)
    rows = np.random.default_rng(1).permutation(20_000)[:15_000]
    if late:  # bits are set already when the order turns out to be another one
        rows = np.concatenate([np.arange(20_000, 60_000, 2), rows])
    found = built(rows, 60_000, 4_000)
    np.testing.assert_array_equal(found.between(0, len(rows)), rows)


def test_nothing_is_built_of_nothing():
    assert len(built(np.zeros(0, np.int64), 10, 5)) == 0
    assert FEW > 1000  # small datasets keep lists
