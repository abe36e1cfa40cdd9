"""`return_gap`: what a policy that was trained on a surrogate reaches there, and what it reaches in the simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from physgym.checks import integer, positive
from physgym.errors import ConfigError
from physgym.placement import Env
from physgym.returned import flag_of, info_of, returned, reward_of
from physgym.spaces import Array, flatten

COMPARED = 1024  # numbers of an array that are compared at the most, as of a picture


@dataclass(frozen=True)
class ReturnGap:
    """Returns of a policy in a surrogate and in the simulation, in episodes with the same beginnings; as text, a table.

    Attributes:
        seeds: Seed of each episode, shape (episodes,), int64.
        surrogate: Return of each episode in the surrogate, shape (episodes,), float64.
        simulation: The same in the simulation.
        surrogate_lengths: Steps of each episode in the surrogate, shape (episodes,), int64.
        simulation_lengths: The same in the simulation.
        parted: First step after which the observations of an episode differ by more than `tolerance`, shape
            (episodes,), int64; 0 where they do not as long as both last.
        tolerance: Of what size a difference counts, as a part of the spread of the simulation's observations.
        rejected: Steps of the surrogate that were rejected, in all episodes.
    """

    seeds: Array
    surrogate: Array
    simulation: Array
    surrogate_lengths: Array
    simulation_lengths: Array
    parted: Array
    tolerance: float
    rejected: int = 0

    @property
    def gap(self) -> float:
        """Return by how much the mean return of the surrogate is above that of the simulation."""
        return float(self.surrogate.mean() - self.simulation.mean())

    def __str__(self) -> str:
        lines = [
            f"{len(self.seeds)} episodes, seeds {self.seeds[0]} to {self.seeds[-1]}",
            f"{'':<12}{'mean return':>12}{'least':>10}{'most':>10}{'mean length':>13}",
        ]
        for name, returns, lengths in (
            ("surrogate", self.surrogate, self.surrogate_lengths),
            ("simulation", self.simulation, self.simulation_lengths),
        ):
            figures = (returns.mean(), returns.min(), returns.max())
            shown = "".join(f"{value:>{width}.4g}" for value, width in zip(figures, (12, 10, 10), strict=True))
            lines.append(f"{name:<12}{shown}{lengths.mean():>13.4g}")
        lines += [f"{'gap':<12}{self.gap:>12.4g}", self._parting, self._ends]
        if self.rejected:
            lines.append(
                f"{self.rejected} steps of the surrogate were rejected: its network predicted what is no state"
            )
        return "\n".join(lines)

    @property
    def _parting(self) -> str:
        steps = self.parted[self.parted > 0]
        size = f"by more than {self.tolerance:g} of their spread"
        if not len(steps):
            return f"observations never differ {size}"
        return (
            f"observations differ {size} after step {np.median(steps):g} (median), {steps.min()} at the earliest, in "
            f"{len(steps)} of {len(self.parted)} episodes"
        )

    @property
    def _ends(self) -> str:
        later, sooner = (
            int(np.count_nonzero(one > other))
            for one, other in (
                (self.surrogate_lengths, self.simulation_lengths),
                (self.simulation_lengths, self.surrogate_lengths),
            )
        )
        return f"the surrogate continues where the simulation has ended in {later}, and ends before it in {sooner}"


def return_gap(
    policy: Callable[[Any], Any],
    surrogate: Env,
    env: Env,
    *,
    episodes: int = 20,
    seed: int = 0,
    max_steps: int = 10_000,
    tolerance: float = 0.1,
) -> ReturnGap:
    """Let a policy act in a surrogate and in the simulation, from the same beginnings, and compare what it reaches.

    A policy finds the places where a network is wrong in its favour: its return on a surrogate says nothing until it is
    compared with that in the simulation. With a model of Stable-Baselines3 the policy is
    ``lambda observation: model.predict(observation, deterministic=True)[0]``; one that draws its actions parts from
    itself. Both environments stay open.

    Args:
        policy: Returns the action for an observation.
        surrogate: The surrogate, a `SurrogateEnv`.
        env: The simulation, with the same wrappers.
        episodes: How many.
        seed: Of the first episode; those of the others follow.
        max_steps: Steps after which an episode is left where nothing ends it.
        tolerance: Difference of observations that counts, root mean square over their numbers, as a part of the
            spread that each has in the simulation.

    Raises:
        ConfigError: The spaces differ, or an episode begins in another way.
    """
    episodes, seed = integer("episodes", episodes, 1), integer("seed", seed, 0)
    max_steps = integer("max_steps", max_steps, 1)
    positive("tolerance", tolerance)
    for name in ("observation_space", "action_space"):
        one, other = getattr(surrogate, name), getattr(env, name)
        if one != other:
            raise ConfigError(
                f"the {name} of the surrogate is {one}, that of the simulation {other}; use equal wrappers"
            )
    pairs = []
    for number in range(seed, seed + episodes):
        pair = _Pair(*(_episode(policy, made, number, max_steps) for made in (surrogate, env)))
        if not np.allclose(pair.surrogate.observations[0], pair.simulation.observations[0], rtol=1e-5, atol=1e-6):
            raise ConfigError(
                f"with seed {number} the surrogate begins otherwise than the simulation; make both with the same "
                "arguments and wrappers"
            )
        pairs.append(pair)
    spread = _spread([pair.simulation.observations for pair in pairs])
    return ReturnGap(
        seeds=np.arange(seed, seed + episodes),
        surrogate=np.array([pair.surrogate.total for pair in pairs]),
        simulation=np.array([pair.simulation.total for pair in pairs]),
        surrogate_lengths=np.array([pair.surrogate.steps for pair in pairs]),
        simulation_lengths=np.array([pair.simulation.steps for pair in pairs]),
        parted=np.array([_parted(pair, spread, tolerance) for pair in pairs]),
        tolerance=float(tolerance),
        rejected=sum(pair.surrogate.rejected for pair in pairs),
    )


class _Episode(NamedTuple):
    """An episode: its return, observations, shape (steps + 1, numbers), float32, and how many steps were rejected."""

    total: float
    observations: Array
    rejected: int

    @property
    def steps(self) -> int:
        return len(self.observations) - 1


class _Pair(NamedTuple):
    surrogate: _Episode
    simulation: _Episode


def _episode(policy: Callable[[Any], Any], env: Env, seed: int, max_steps: int) -> _Episode:
    observation, _ = returned("reset", env.reset(seed=seed), 2)
    seen, total, rejected = [_numbers(env, observation)], 0.0, 0
    for _ in range(max_steps):
        observation, reward, *flags, info = returned("step", env.step(policy(observation)), 5)
        seen.append(_numbers(env, observation))
        total += reward_of(reward)
        rejected += "rejected" in info_of(info)
        if any(flag_of(name, flag) for name, flag in zip(("terminated", "truncated"), flags, strict=True)):
            break
    return _Episode(total, np.stack(seen), rejected)


def _numbers(env: Env, observation: Any) -> Array:
    """Return an observation as one vector, float32, of large arrays some evenly spaced numbers."""
    parts = [np.asarray(part).ravel() for part in flatten(env.observation_space, observation)]
    return np.concatenate([part[:: -(-part.size // COMPARED) or 1] for part in parts]).astype(np.float32)


def _spread(observations: list[Array]) -> Array:
    """Return the standard deviation of each number over all steps, that of a constant one being 1."""
    spread: Array = np.concatenate(observations).astype(np.float64).std(0)
    return np.where(spread > 0, spread, 1.0)


def _parted(pair: _Pair, spread: Array, tolerance: float) -> int:
    one, other = pair.surrogate.observations, pair.simulation.observations
    common = min(len(one), len(other))
    differences = (one[:common].astype(np.float64) - other[:common]) / spread
    far = np.sqrt(np.square(differences).mean(1)) > tolerance
    return int(np.argmax(far)) if far.any() else 0
