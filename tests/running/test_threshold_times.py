from __future__ import annotations

import numpy as np
import pytest

from physgym.running.threshold_times import ThresholdTimes


def of(steps, exceeded, times=None):
    seconds = np.full(len(steps), np.nan) if times is None else np.array(times, np.float64)
    return ThresholdTimes("relative_l2", "y", 0.5, np.array(steps), np.array(exceeded), seconds)


def test_the_first_step_above_counts_whatever_comes_after():
    errors = np.array([[0.1, 0.6, 0.2], [0.5, 0.5, np.nan], [0.9, np.inf, np.inf]])
    found = ThresholdTimes.of("relative_l2", "y", 0.5, errors, np.tile([0.1, 0.2, 0.3], (3, 1)))
    assert found.steps.tolist() == [2, 2, 1]  # an error of the threshold itself is not above it
    assert found.exceeded.tolist() == [True, False, True]
    assert found.seconds.tolist() == [0.2, 0.2, 0.1]


@pytest.mark.parametrize(
    ("steps", "exceeded", "median"),
    [
        ([1, 2, 3], [True] * 3, 2),
        ([1, 2, 3, 4], [True] * 4, 2),
        ([1, 2, 5, 5, 5], [True, True, False, False, False], None),
        ([1, 2, 3, 5, 5], [True, True, True, False, False], 3),
        # Kaplan and Meier: 1 - 1/4 = 3/4 at 1; of the two that are left at 3, one: 3/8
        ([1, 2, 3, 4], [True, False, True, False], 3),
        ([4, 4], [False, False], None),
    ],
)
def test_the_median_knows_of_those_that_ended_before(steps, exceeded, median):
    assert of(steps, exceeded).median == median


def test_the_time_of_the_median_is_that_of_its_step():
    assert of([1, 2, 3], [True] * 3, [0.1, 0.2, 0.3]).median_seconds == 0.2
    assert of([1, 2, 3], [True] * 3).median_seconds is None
    assert of([2, 2, 3], [True] * 3, [0.1, 0.2, 0.3]).median_seconds is None  # steps of different lengths
    assert of([3, 3], [False, False], [0.3, 0.3]).median_seconds is None


def test_it_says_how_many_are_censored():
    text = str(of([1, 2, 3, 5, 7], [True, True, True, False, False], [0.1, 0.2, 0.3, 0.5, 0.7]))
    assert text == (
        "relative_l2 of y above 0.5: median after 3 steps (0.3 s); in 3 of 5 episodes, "
        "not within their 5 to 7 steps in 2"
    )
    assert of([1, 4], [True, False]).to_dict() == {
        "metric": "relative_l2",
        "field": "y",
        "threshold": 0.5,
        "median_steps": 1,
        "median_seconds": None,
        "exceeded": 1,
        "censored": 1,
        "steps": [1, 4],
        "seconds": None,
        "is_censored": [False, True],
    }
