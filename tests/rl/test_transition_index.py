"""Transitions and their stacks never cross an episode or a gap."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.rl.transition_index import TransitionIndex


def rows_of(*episodes: tuple[str, int], envs: int = 2) -> dict[str, np.ndarray]:
    """Rows of episodes with an end ("terminated", "truncated", "left") after so many steps, in turn by environment."""
    queues = [list(enumerate(episodes))[env::envs] for env in range(envs)]
    found: list[tuple[int, int, bool, bool]] = []
    running = [None] * envs
    while any(queues) or any(running):
        for env in range(envs):
            if running[env] is None and queues[env]:
                number, (how, steps) = queues[env].pop(0)
                running[env] = iter(
                    [(number, t, t < steps, how == "terminated" and t == steps - 1) for t in range(steps + 1)]
                )
            row = next(running[env], None) if running[env] is not None else None
            if row is None:
                running[env] = None
            else:
                found.append(row)
    names = ("episodes", "steps", "acted", "terminated")
    return {name: np.array(column) for name, column in zip(names, zip(*found, strict=True), strict=True)}


ROWS = rows_of(("terminated", 3), ("truncated", 5), ("left", 2), ("truncated", 1), ("terminated", 4), ("left", 6))


def index_of(rows, **kwargs) -> TransitionIndex:
    return TransitionIndex(*rows.values(), **kwargs)


@pytest.mark.parametrize("stack", [1, 2, 4])
def test_the_frames_of_a_transition_are_those_of_its_episode(stack):
    index = index_of(ROWS, stack=stack)
    assert sorted(index.rows) == np.flatnonzero(ROWS["acted"]).tolist()
    frames = index.frames(index.rows)
    assert frames.shape == (len(index), stack + 1)
    for row, one in zip(index.rows, frames, strict=True):
        episode, step = ROWS["episodes"][row], ROWS["steps"][row]
        steps = np.maximum(step - np.arange(stack - 1, -1, -1), 0)  # the first one is repeated
        last = step if ROWS["terminated"][row] and one[-1] == row else step + 1
        np.testing.assert_array_equal(ROWS["steps"][one], [*steps, last])
        assert set(ROWS["episodes"][one]) == {episode}


def test_the_order_of_the_rows_is_any():
    stack = 3
    shuffled = np.random.default_rng(0).permutation(len(ROWS["steps"]))
    index, other = index_of(ROWS, stack=stack), index_of({n: c[shuffled] for n, c in ROWS.items()}, stack=stack)
    frames = shuffled[other.frames(other.rows)]
    np.testing.assert_array_equal(frames[np.argsort(frames[:, -2])], index.frames(index.rows))


def test_a_missing_step_ends_what_came_before_and_begins_no_stack():
    gone = np.flatnonzero((ROWS["episodes"] == 1) & (ROWS["steps"] == 2))
    rows = {name: np.delete(column, gone) for name, column in ROWS.items()}
    for stack, expected in ((1, [0, 3, 4]), (2, [0, 4])):
        index = index_of(rows, stack=stack)
        found = index.rows[rows["episodes"][index.rows] == 1]
        assert sorted(rows["steps"][found]) == expected


def test_an_episode_that_was_cut_off_ends_before_its_last_action():
    last = np.flatnonzero((ROWS["episodes"] == 5) & (ROWS["steps"] == 6))
    rows = {name: np.delete(column, last) for name, column in ROWS.items()}
    index = index_of(rows)
    assert max(rows["steps"][index.rows[rows["episodes"][index.rows] == 5]]) == 4


def test_a_terminated_step_needs_no_next_observation():
    last = np.flatnonzero((ROWS["episodes"] == 4) & (ROWS["steps"] == 4))
    rows = {name: np.delete(column, last) for name, column in ROWS.items()}
    index = index_of(rows, stack=2)
    row = np.flatnonzero((rows["episodes"] == 4) & (rows["steps"] == 3))
    assert row in index.rows
    np.testing.assert_array_equal(index.frames(row)[0, 1:], [row[0], row[0]])


def test_an_episode_whose_beginning_is_missing_begins_no_stack():
    rows = {name: column[5:] for name, column in ROWS.items()}
    index, whole = index_of(rows, stack=2), index_of(ROWS, stack=2)
    kept = [row for row in whole.rows if (whole.frames(np.array([row])) >= 5).all()]
    np.testing.assert_array_equal(index.rows + 5, kept)


def test_rows_with_their_next_observation_need_no_next_row():
    rows = {name: column[ROWS["acted"]] for name, column in ROWS.items()}
    index = index_of(rows, stack=2, next_stored=True)
    np.testing.assert_array_equal(index.rows, np.arange(len(rows["steps"])))
    frames = index.frames(index.rows)
    np.testing.assert_array_equal(frames[:, -1], index.rows)
    np.testing.assert_array_equal(rows["steps"][frames[:, 0]], np.maximum(rows["steps"] - 1, 0))


def test_a_stack_is_a_positive_integer():
    with pytest.raises(ConfigError, match="stack must be at least 1"):
        index_of(ROWS, stack=0)
