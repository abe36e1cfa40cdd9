"""`evaluate_offline`: an agent judged by recordings: its values by the returns, its actions by those taken there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from physgym.checks import at_least, integer
from physgym.rl.agent import Agent
from physgym.rl.cache import TransitionCache
from physgym.rl.running_normalization import RunningNormalization
from physgym.spaces import Array, value_range

BATCH = 1024  # transitions that are handed to the agent at once
COMPONENTS = 16  # of an observation, as it is compared: larger ones are projected
REFERENCE = 50_000  # recorded steps among which neighbours are looked for
BINS = 10


@dataclass(frozen=True)
class OfflineEvaluation:
    """Comparison of an agent with recordings.

    Attributes:
        transitions: How many there are.
        values: Value that the agent expects of recorded actions, where the return is known, shape (n,).
        returns: Discounted return that followed, shape (n,).
        episodes: Number of the episode of each, shape (n,).
        uncovered: Part of the actions of the agent that the recordings do not cover.
        sampled: Steps at which that was measured.
        chosen: How often the agent chose each action there, and the part of these that is not covered; empty for
            continuous actions.
    """

    transitions: int
    values: Array
    returns: Array
    episodes: Array
    uncovered: float
    sampled: int
    chosen: Mapping[int, tuple[int, float]] = field(default_factory=dict)

    @property
    def mean_error(self) -> float:
        """Return the mean of value minus return: positive where the agent expects more than followed; NaN for none."""
        return float((self.values - self.returns).mean()) if len(self.values) else math.nan

    @property
    def rms_error(self) -> float:
        """Return the root of the mean squared difference of values and returns; NaN for none."""
        return float(np.sqrt(((self.values - self.returns) ** 2).mean())) if len(self.values) else math.nan

    @property
    def correlation(self) -> float:
        """Return the correlation of values and returns over steps; NaN where one of them does not vary."""
        return _correlation(self.values, self.returns)

    @property
    def above(self) -> float:
        """Return the part of the values above the highest return that was recorded; NaN without values."""
        return float((self.values > self.returns.max()).mean()) if len(self.values) else math.nan

    @property
    def by_episode(self) -> dict[str, Array]:
        """Return mean value and mean return of each episode: "episode", "value", "return", "steps"."""
        numbers, place, count = np.unique(self.episodes, return_inverse=True, return_counts=True)
        means = (np.bincount(place, column, len(numbers)) / count for column in (self.values, self.returns))
        return dict(zip(("episode", "value", "return", "steps"), (numbers, *means, count), strict=True))

    @property
    def episode_correlation(self) -> float:
        """Return the correlation of mean value and mean return over episodes: whether it knows the better ones."""
        found = self.by_episode
        return _correlation(found["value"], found["return"])

    @property
    def calibration(self) -> list[tuple[float, float, int]]:
        """Return mean value, mean return and number of steps in ten parts, from the lowest values to the highest."""
        order = np.argsort(self.values, kind="stable")
        parts = [part for part in np.array_split(order, BINS) if len(part)]
        return [(float(self.values[p].mean()), float(self.returns[p].mean()), len(p)) for p in parts]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON data; null for what is not finite."""
        names = ("mean_error", "rms_error", "correlation", "episode_correlation", "above", "uncovered")
        figures = {name: float(getattr(self, name)) for name in names}
        return {
            "transitions": self.transitions,
            "compared": len(self.values),
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
            "calibration": [list(part) for part in self.calibration],
            "sampled": self.sampled,
        }

    def __str__(self) -> str:
        if not len(self.values):
            return (
                f"no return of {self.transitions} transitions is known, since every episode was cut off too soon; "
                f"{self.uncovered:.1%} of the actions not covered"
            )
        return (
            f"{len(self.values)} of {self.transitions} transitions: value - return {self.mean_error:.4g} ± "
            f"{self.rms_error:.4g}, correlation {self.correlation:.3f} ({self.episode_correlation:.3f} over episodes), "
            f"{self.above:.1%} of the values above the highest return; {self.uncovered:.1%} of the actions not covered"
        )


def evaluate_offline(
    agent: Agent,
    cache: TransitionCache,
    *,
    normalization: RunningNormalization | None = None,
    threshold: float = 0.1,
    rest: float = 0.05,
    samples: int = 2000,
    neighbours: int = 20,
    alike: float = 0.1,
    seed: int = 0,
) -> OfflineEvaluation:
    """Compare what an agent expects with the returns in recordings, and what it would do with what was done there.

        evaluation = evaluate_offline(load_agent("sessions/cartpole").agent, TransitionCache("data/cartpole"))

    The returns are those of the recorded player: an agent that acts better rightly expects more of its own actions
    later. Values above the highest return of all are overestimated for sure.

    An action is covered if one of the recorded steps with the nearest observations has one like it. Observations are
    compared component by component, each over its deviation; those with more than 16 components by 16 random
    projections.

    Args:
        agent: The agent.
        cache: The recordings, with the preprocessing and the stack of the agent.
        normalization: Its normalization, frozen; None for none. Returns are of normalized rewards then, as its values.
        threshold: Part of the actions that may be not covered without a warning.
        rest: Where an episode was cut off, a step counts only if what came after the end weighs at most this much.
        samples: Recorded steps at which the actions of the agent are looked at.
        neighbours: Recorded steps with the nearest observations.
        alike: Largest difference of two continuous actions that are alike, as a part of the range of each component.
        seed: Of the choice of steps and of the projections.

    Raises:
        ConfigError: An argument is out of range.

    Warns:
        UserWarning: More actions than `threshold` are not covered.
    """
    for name, value in (("threshold", threshold), ("rest", rest), ("alike", alike)):
        at_least(name, value, 0)
    samples, neighbours = integer("samples", samples, 1), integer("neighbours", neighbours, 1)
    rewards = cache.rewards if normalization is None else normalization.rewards(cache.rewards)
    returns, weight = discounted_returns(cache, np.asarray(rewards, np.float64), agent.gamma)
    known = np.flatnonzero(weight <= rest)
    values = [agent.values(observations, actions) for observations, actions in _batches(cache, known, normalization)]
    generator = np.random.default_rng(seed)
    sampled = np.sort(generator.choice(len(cache), min(samples, len(cache)), replace=False))
    actions, covered = _covered(agent, cache, sampled, normalization, neighbours, alike, generator)
    found = OfflineEvaluation(
        len(cache),
        np.concatenate(values).astype(np.float64) if values else np.zeros(0),
        returns[known],
        cache.steps.episodes[cache.transition_steps[known]],
        float((~covered).mean()),
        len(sampled),
        _by_action(agent, actions, covered),
    )
    if found.uncovered > threshold:
        warnings.warn(
            f"{found.uncovered:.0%} of the actions that the agent would take are not covered by the recordings, at "
            f"{len(sampled)} of their steps: what it expects of these it has never seen. Record more, or train with a "
            "conservative penalty",
            UserWarning,
            stacklevel=2,
        )
    return found


def discounted_returns(cache: TransitionCache, rewards: Array, gamma: float) -> tuple[Array, Array]:
    """Return the discounted return of each transition as far as it was recorded, and the weight of what is missing.

    Args:
        cache: The recordings.
        rewards: Of each recorded step, shape (steps,).
        gamma: Discount of a step.

    Returns:
        The returns, and the factor with which the value after the last recorded step would count: 0 where the episode
        terminated. Both of shape (len(cache),).
    """
    rows = cache.transition_steps
    episodes, steps = cache.steps.episodes[rows], cache.steps.steps[rows]
    order = np.lexsort((steps, episodes))
    same = np.append((np.diff(episodes[order]) == 0) & (np.diff(steps[order]) == 1), False)
    terminated = cache.steps.terminated[rows[order]]
    given, returns, weights = rewards[rows[order]].tolist(), [0.0] * len(rows), [0.0] * len(rows)
    after, weight = 0.0, 1.0
    for place, (follows, ended) in reversed(list(enumerate(zip(same.tolist(), terminated.tolist(), strict=True)))):
        if ended:
            after, weight = 0.0, 0.0
        elif not follows:
            after, weight = 0.0, 1.0
        after, weight = given[place] + gamma * after, gamma * weight
        returns[place], weights[place] = after, weight
    found = np.empty((2, len(rows)))
    found[:, order] = returns, weights
    return found[0], found[1]


def _batches(
    cache: TransitionCache, numbers: Array, normalization: RunningNormalization | None
) -> Iterator[tuple[dict[str, Array], Array]]:
    """Yield observations as the agent sees them, and the recorded actions."""
    for start in range(0, len(numbers), BATCH):
        batch = cache.transitions(numbers[start : start + BATCH], 1.0)
        observation = batch.observation if normalization is None else normalization.observations(batch.observation)
        yield {name: value.cpu().numpy() for name, value in observation.items()}, batch.action.cpu().numpy()


def _covered(
    agent: Agent,
    cache: TransitionCache,
    sampled: Array,
    normalization: RunningNormalization | None,
    neighbours: int,
    alike: float,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Return what the agent would do at some steps, and whether the recordings cover that, shape (n,), bool."""
    among = np.sort(generator.choice(len(cache), min(REFERENCE, len(cache)), replace=False))
    projections: dict[str, Array] = {}
    there, done = [], []
    for observation, action in _batches(cache, among, normalization):
        there.append(_features(observation, projections, generator))
        done.append(action)
    recorded, taken = np.concatenate(there), np.concatenate(done)
    scale = recorded.std(0)
    scale[scale == 0] = 1.0
    tree = cKDTree(recorded / scale)
    chosen, covered = [], []
    for observation, _ in _batches(cache, sampled, normalization):
        actions = agent.act(observation, explore=False)
        features = _features(observation, projections, generator) / scale
        _, near = tree.query(features, min(neighbours, len(recorded)))
        others = taken[near.reshape(len(actions), -1)]  # (n, neighbours, *shape)
        same = others == actions[:, None] if actions.dtype.kind in "iu" else _near(others, actions, agent, alike)
        chosen.append(actions)
        covered.append(np.any(np.all(same.reshape(*same.shape[:2], -1), axis=2), axis=1))
    return np.concatenate(chosen), np.concatenate(covered)


def _near(others: Array, actions: Array, agent: Agent, alike: float) -> Array:
    """Return the components of continuous actions that are alike, shape (n, neighbours, *shape)."""
    bounds = value_range(agent.action_space)
    span = np.ones(actions.shape[1:]) if bounds is None or not bounds.bounded else bounds.high - bounds.low
    near: Array = np.abs(others - actions[:, None]) <= alike * span
    return near


def _features(observation: Mapping[str, Array], projections: dict[str, Array], generator: np.random.Generator) -> Array:
    """Return observations as vectors to be compared, shape (n, components), float64; projections are made once."""
    parts = []
    for name, value in observation.items():
        flat = value.reshape(len(value), -1).astype(np.float64)
        if flat.shape[1] > COMPONENTS:
            if name not in projections:
                projections[name] = generator.normal(size=(flat.shape[1], COMPONENTS)) / math.sqrt(flat.shape[1])
            flat = flat @ projections[name]
        parts.append(flat)
    return np.concatenate(parts, 1)


def _by_action(agent: Agent, actions: Array, covered: Array) -> dict[int, tuple[int, float]]:
    bounds = value_range(agent.action_space)
    if bounds is None or not bounds.choices:
        return {}
    return {
        int(one): (int((actions == one).sum()), float((~covered[actions == one]).mean())) for one in np.unique(actions)
    }


def _correlation(first: Array, second: Array) -> float:
    """Return the correlation of two columns; NaN where one of them does not vary."""
    if len(first) < 2 or not first.std() or not second.std():
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
