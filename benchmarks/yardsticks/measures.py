"""Figures of predictions on test samples: of single answers, and of trajectories that go on from their own steps."""

from __future__ import annotations

import numpy as np

from physgym import SampleDataset
from physgym.running.prediction_errors import compare
from yardsticks.case import Figures, Predict

AT_ONCE = 100  # samples, or trajectories, in a prediction
LARGEST = 1e6  # a rollout that has left all bounds counts as this


def answers(target: str, predict: Predict, test: SampleDataset) -> Figures:
    """Return the relative L2 error of a field: its mean over the samples, its median and the largest one."""
    given = test[:]
    parts = [
        predict({name: values[start : start + AT_ONCE] for name, values in given.items()})[target]
        for start in range(0, len(test), AT_ONCE)
    ]
    errors = compare(np.concatenate(parts), given[target])
    found = errors.relative_l2
    return {
        "relative_l2": float(found.mean()),
        "median": float(np.median(found)),
        "worst": float(found.max()),
        "mean_error": float(errors.mean.mean()),
    }


def trajectories(test: SampleDataset) -> np.ndarray:
    """Return the states of all test episodes, the first one included: (episodes, steps + 1, *shape), float32."""
    samples, episodes = test[:], test.episodes
    numbers, counts = np.unique(episodes, return_counts=True)
    whole = int(counts.max())  # a last episode that is cut off is left out
    found = []
    for number in numbers[counts == whole]:
        own = episodes == number
        found.append(np.concatenate([samples["state"][own][:1], samples["next_state"][own]]))
    return np.stack(found)


def followed(predict: Predict, states: np.ndarray) -> np.ndarray:
    """Return the states after the given ones: (n, given, *shape) to (n, *shape), float32.

    What predicts from one state has no axis for their number, neither in the input nor in the output.
    """
    if states.shape[1] == 1:
        return np.asarray(predict({"state": states[:, 0]})["next_state"], np.float32)
    return np.asarray(predict({"state": np.ascontiguousarray(states)})["next_state"], np.float32)[:, 0]


def rolled_out(predict: Predict, states: np.ndarray, steps: int) -> np.ndarray:
    """Return the states that a prediction makes of its own ones: (episodes, steps, *shape), float64, within bounds.

    Args:
        predict: Says what follows from the last states.
        states: Those that are given, (episodes, given, *shape).
        steps: How many are made.
    """
    made = []
    for _ in range(steps):
        with np.errstate(over="ignore", invalid="ignore"):
            state = followed(predict, states)
        state = np.clip(np.nan_to_num(state, nan=LARGEST, posinf=LARGEST, neginf=-LARGEST), -LARGEST, LARGEST)
        states = np.concatenate([states[:, 1:], state[:, None]], 1)
        made.append(state)
    return np.stack(made, 1).astype(np.float64)


def normalized_errors(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the root mean square of each step's error over that of its true state: (episodes, steps)."""
    flat = (*made.shape[:2], -1)
    error, size = ((values.reshape(flat) ** 2).mean(-1) ** 0.5 for values in (made - true, true.astype(np.float64)))
    return error / size


def rollouts(first: int, steps: int, predict: Predict, test: SampleDataset, *, given: int = 1) -> Figures:
    """Return errors of a step from true states, and of trajectories that begin at the true state number `first`.

    What predicts is given so many true states in both, the last of which is the one that it begins at.

    one_step: nRMSE of a step from a true state, the mean over states and trajectories.
    rollout: Mean over trajectories and steps, as `nRMSE` of PDEBench.
    geometric: Geometric mean over the steps of the mean over trajectories, as in APEBench.
    last: Mean over trajectories at the last step.
    whole: Relative L2 error over all the steps of a trajectory together, as in the paper on the FNO; the mean.
    """
    true = trajectories(test)
    if first + 1 < given:
        raise ValueError(f"there are {first + 1} states up to the one at which trajectories begin, not {given}")
    if true.shape[1] < first + steps + 1:
        raise ValueError(f"test episodes have {true.shape[1] - 1} steps, of which {first + steps} are needed")
    true = true[:, first + 1 - given : first + steps + 1]
    wanted = true[:, given:]
    # (episodes, steps, given, *shape) of a view, a part of which is copied at a time
    before = np.moveaxis(np.lib.stride_tricks.sliding_window_view(true[:, :-1], given, axis=1), -1, 2)
    single = np.stack([followed(predict, before[:, step]) for step in range(steps)], 1)
    made = rolled_out(predict, true[:, :given], steps)
    errors = normalized_errors(made, wanted)
    mean = errors.mean(0)  # by step
    return {
        "one_step": float(normalized_errors(single.astype(np.float64), wanted).mean()),
        "rollout": float(mean.mean()),
        "geometric": float(np.exp(np.log(np.maximum(mean, 1e-12)).mean())),
        "last": float(mean[-1]),
        "whole": float(compare(made, wanted.astype(np.float64)).relative_l2.mean()),
    }
