"""Numbers of episodes across folders, and which of them are held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physgym.data.episode_split import held_out, number_episodes


@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=30),
    in_order=st.booleans(),
    dtype=st.sampled_from(["i8", "u8", "i4"]),
)
def test_episodes_are_numbered_by_folder_and_number(pairs, in_order, dtype):
    pairs = sorted(pairs) if in_order else sorted(pairs, key=lambda pair: pair[0])
    folders, episodes = np.array(pairs, dtype).reshape(-1, 2).T
    known = sorted(set(pairs))
    assert number_episodes(folders, episodes).tolist() == [known.index(pair) for pair in pairs]


@pytest.mark.parametrize(("fraction", "count", "held"), [(0.1, 10, 1), (0.01, 10, 1), (0.99, 10, 9), (0.5, 2, 1)])
def test_so_many_episodes_are_held_out_with_all_their_samples(fraction, count, held):
    episodes = np.repeat(np.arange(count), 3)
    flags = held_out(episodes, fraction, seed=4)
    assert len(np.unique(episodes[flags])) == held
    assert not np.intersect1d(episodes[flags], episodes[~flags]).size
    assert (flags == np.isin(episodes, np.random.default_rng(4).permutation(count)[:held])).all()  # as sessions have it
