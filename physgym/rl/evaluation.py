"""`evaluate_agent`: returns, lengths and what else counts, of whole episodes without exploration."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym import limits
from physgym.checks import integer
from physgym.episode import episode_seed, part_seed
from physgym.errors import ConfigError, SampleError
from physgym.naming import env_name
from physgym.placement import declared_metadata
from physgym.progress import Progress
from physgym.registration import EnvLike
from physgym.rl.preprocessing import Preprocessing
from physgym.single import MACHINE, single_of, starts_slowly
from physgym.spaces import Array
from physgym.vector.make import env_factories
from physgym.vector.vector_env import SocketVectorEnv
from physgym.worker.stepping import RESTARTED

NO_HIT = ("none", "", None)  # an info ``hit`` without a collision
# figure of an episode: the info that it comes from, and what is made of its values
DRIVING = {"distance": ("distance", "last"), "laps": ("lap_count", "last"), "speed": ("speed", "mean")}
HIT, OFF_TRACK = "hit", "off_track"
FIGURES = ("last", "mean", "sum", "max")


class ActingPolicy(Protocol):
    """A policy of several environments at once, such as an `AgentPolicy`."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Return the wrappers that an environment needs for it."""

    def reset(self, mask: Array | None = None) -> None:
        """Take note that the next observations begin episodes, in all environments or those of a mask."""

    @abstractmethod
    def act(self, observations: Any) -> Any:
        """Return an action for each environment."""


class FunctionPolicy:
    """A function of observations as a policy.

    Args:
        function: Maps a batch of observations to one action for each of them.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function, self.preprocessing = function, Preprocessing()

    def reset(self, mask: Array | None = None) -> None:
        """Do nothing: the function remembers nothing."""

    def act(self, observations: Any) -> Any:
        """Return an action for each environment."""
        return self._function(observations)


@dataclass(frozen=True)
class AgentEvaluation:
    """Figures of episodes without exploration, each array of shape (episodes,).

    Attributes:
        env: Name of the environment.
        seed: From which the seeds follow.
        part: Part whose seeds they are.
        seeds: Seed of each episode, uint64.
        returns: Sum of its rewards.
        lengths: Its steps.
        endings: How it ended: "terminated", "truncated", or "cut" after the largest number of steps.
        figures: Of its infos: ``distance``, ``laps``, ``speed`` (the mean), ``off_track`` (steps off the road or with a
            collision), and those that were asked for; only what the infos have.
        parameters: Parameters of each episode by name, shape (episodes, *parameter shape), such as the number of the
            track.
    """

    env: str
    seed: int
    part: str
    seeds: Array
    returns: Array
    lengths: Array
    endings: tuple[str, ...]
    figures: Mapping[str, Array] = field(default_factory=dict)
    parameters: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def values(self) -> dict[str, float]:
        """Return means over the episodes: ``return`` and its deviation ``return_std``, ``length``, and the figures.

        ``lap_share`` is the part of the episodes with at least one lap.
        """
        found = {"return": self.returns.mean(), "return_std": self.returns.std(), "length": self.lengths.mean()}
        found |= {name: column.mean() for name, column in self.figures.items()}
        if "laps" in self.figures:
            found["lap_share"] = (self.figures["laps"] >= 1).mean()
        return {name: float(value) for name, value in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON data, of all episodes together and of each; null for what is not finite."""
        each = {"seed": self.seeds, "return": self.returns, "length": self.lengths}
        each |= {**self.figures, **{f"parameters/{name}": value for name, value in self.parameters.items()}}
        return {
            "env": self.env,
            "seed": self.seed,
            "part": self.part,
            "episodes": len(self),
            "values": {name: value if math.isfinite(value) else None for name, value in self.values.items()},
            "each": {**{name: _plain(column.tolist()) for name, column in each.items()}, "ending": list(self.endings)},
        }

    def __str__(self) -> str:
        values = self.values
        spread = values.pop("return_std")
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "return")
        cut = self.endings.count("cut")
        more = f"; {cut} were cut" if cut else ""
        return f"{len(self)} episodes of {self.env}: return {values['return']:.4g} ± {spread:.2g}, {text}{more}"


def evaluate_agent(
    policy: ActingPolicy | Callable[[Any], Any],
    env: EnvLike | VectorEnv[Any, Any, Any],
    *,
    episodes: int = 100,
    seed: int = 0,
    part: str = "evaluation",
    num_envs: int = 8,
    num_workers: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    infos: Mapping[str, str] | None = None,
    progress: bool = False,
) -> AgentEvaluation:
    """Run a policy in episodes without exploration, and measure them.

    For example::

        evaluation = evaluate_agent(load_agent("sessions/track"), "physgym/Track-v0", episodes=20,
                                    env_kwargs={"observation": "state", "tracks": (1000, 2000)})
        print(evaluation.values["lap_share"])

    Each episode has a seed of its own and is run to its end, so that the figures are those of the same episodes however
    many environments there are, and short ones are not among them more often. The seeds are those of a part of their
    own, which no training acts in. To choose among networks by a return, take that of another part,
    ``part="validation"``, as the curves of an `AgentTrainer` do.

    Args:
        policy: An `AgentPolicy`, as `load_agent` gives it, or a function that maps a batch of observations to actions.
        env: Registered id, `EnvSpec`, a callable that makes an environment, which is wrapped as the policy needs it; or
            a vector environment that has these wrappers and the autoreset mode DISABLED, and is left open.
        episodes: How many.
        seed: From which the seeds of the episodes follow.
        part: "evaluation", "validation", "test" or "prediction".
        num_envs: Environments that are stepped together.
        num_workers: Processes that host them; 0 for this one, which is the default where the environment declares
            nothing else: one each for ``physgym.single``, of which a machine may hold one alone, and one per core where
            it is costly to start.
        env_kwargs: Arguments of the environment's constructor.
        max_steps: Cut an episode after so many steps; by default after 1,000 where the environment has no time limit.
        infos: Further numbers of the info to measure: name to "last", "mean", "sum" or "max" over the episode.
        progress: Whether to show how far it is.

    Raises:
        ConfigError: An argument is wrong.
        SampleError: The info lacks a number that was asked for.
        WorkerError: An environment raised, or a worker died.
    """
    episodes = integer("episodes", episodes, 1)
    longest = None if max_steps is None else integer("max_steps", max_steps, 1)
    wanted = dict(infos or {})
    if wrong := {name: how for name, how in wanted.items() if how not in FIGURES}:
        raise ConfigError(f"infos: {wrong}; an info is measured as one of {', '.join(FIGURES)}")
    base = part_seed(integer("seed", seed, 0), part)
    seeds = [episode_seed(base, number) for number in range(episodes)]
    acting = FunctionPolicy(policy) if callable(policy) else policy
    count = min(integer("num_envs", num_envs, 1), episodes)
    with (
        _opened(acting, env, count, num_workers, env_kwargs) as envs,
        Progress(episodes, "evaluate", "episode", enabled=progress) as bar,
    ):
        table = _Table(episodes, envs.num_envs, wanted)
        _run(acting, envs, seeds, _time_limit(envs) if longest is None else longest, table, bar)
        return table.evaluation(_name(env, envs), seed, part, np.array(seeds, np.uint64))


def _run(
    policy: ActingPolicy,
    envs: VectorEnv[Any, Any, Any],
    seeds: Sequence[int],
    max_steps: float,
    table: _Table,
    bar: Progress,
) -> None:
    """Run all episodes, each to its end; an environment that has none left repeats its last one, unmeasured."""
    slots = np.arange(envs.num_envs)
    episode = np.where(slots < len(seeds), slots, -1)  # that each environment is in; -1 for none that counts
    given = [seeds[slot] if slot < len(seeds) else seeds[0] for slot in slots.tolist()]
    observations, infos = envs.reset(seed=given)  # type: ignore[arg-type]  # Gymnasium's type lacks the list
    policy.reset()
    table.begin(episode, infos)
    following = len(slots)
    while (episode >= 0).any():
        observations, rewards, terminated, truncated, infos = envs.step(policy.act(observations))
        lost = np.asarray(infos.get(RESTARTED, np.zeros(len(slots))), np.bool_)
        table.add(np.where(lost, -1, episode), rewards, infos)
        cut = (table.steps >= max_steps) & (episode >= 0)
        over = terminated | truncated | cut
        if not over.any():
            continue
        again: list[int | None] = [None] * len(slots)
        for slot in np.flatnonzero(over).tolist():
            if episode[slot] >= 0 and not lost[slot]:
                table.end(
                    slot, episode[slot], "terminated" if terminated[slot] else "cut" if cut[slot] else "truncated"
                )
                bar.update(1)
                episode[slot], following = (following, following + 1) if following < len(seeds) else (-1, following)
            again[slot] = seeds[episode[slot]] if episode[slot] >= 0 else given[slot]
        if not (episode >= 0).any():
            return
        observations, infos = envs.reset(seed=again, options={"reset_mask": over})  # type: ignore[arg-type]
        policy.reset(over)
        table.begin(np.where(over, episode, -1), infos, over)


class _Table:
    """Figures of episodes, while they run.

    Args:
        episodes: How many.
        slots: Environments.
        infos: Further numbers of the info, with what is made of each.
    """

    def __init__(self, episodes: int, slots: int, infos: Mapping[str, str]) -> None:
        self.steps = np.zeros(slots, np.int64)  # of the episode that each environment is in
        self._wanted = {name: (name, how) for name, how in infos.items()}
        self._measured: dict[str, tuple[str, str]] | None = None  # known at the first step
        self._rewards = np.zeros(slots)
        self._running: dict[str, Array] = {}
        self._returns, self._lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        self._endings = [""] * episodes
        self._figures: dict[str, Array] = {}
        self._parameters: dict[str, Array] = {}

    def begin(self, episode: Array, infos: Mapping[str, Any], mask: Array | None = None) -> None:
        """Begin episodes: ``episode[slot]`` in those environments where it is not negative."""
        chosen = slice(None) if mask is None else mask
        self.steps[chosen], self._rewards[chosen] = 0, 0.0
        for column in self._running.values():
            column[chosen] = 0.0
        given = infos.get("parameters")
        named = given if isinstance(given, Mapping) else {}
        for slot in np.flatnonzero(episode >= 0).tolist():
            for name, values in named.items():
                if not name.startswith("_"):
                    value = np.asarray(values[slot])
                    empty = np.zeros((len(self._returns), *value.shape), value.dtype)
                    self._parameters.setdefault(name, empty)[episode[slot]] = value

    def add(self, episode: Array, rewards: Array, infos: Mapping[str, Any]) -> None:
        """Take in a step of the environments whose episode is not negative."""
        active = episode >= 0
        self.steps[active] += 1
        self._rewards[active] += rewards[active]
        if self._measured is None:
            driving = {name: one for name, one in DRIVING.items() if one[0] in infos}
            hit = {OFF_TRACK: (HIT, "sum")} if HIT in infos else {}
            self._measured = {**driving, **hit, **self._wanted}
            self._running = {name: np.zeros(len(self.steps)) for name in self._measured}
        for name, (info, how) in self._measured.items():
            values, running = self._values(info, infos, active), self._running[name]
            first = self.steps == 1
            if how == "last":
                running[active] = values[active]
            elif how == "max":
                running[active] = np.where(first, values, np.maximum(running, values))[active]
            else:
                running[active] += values[active]

    def _values(self, info: str, infos: Mapping[str, Any], active: Array) -> Array:
        """Return a number of the infos of all environments; of ``hit`` whether it names something."""
        there = infos.get(f"_{info}", np.full(len(active), info in infos))
        if info not in infos or not np.all(np.asarray(there)[active]):
            known = sorted(name for name in infos if not str(name).startswith("_"))
            raise SampleError(f"the info of a step has no {info!r}; there are {known}")
        column = infos[info]
        if info == HIT:
            return np.array([one not in NO_HIT for one in column], np.float64)
        try:
            return np.array([float(value) if use else 0.0 for value, use in zip(column, active, strict=True)])
        except (TypeError, ValueError) as error:
            raise SampleError(f"the info {info!r} is no number for each environment: {column!r}") from error

    def end(self, slot: int, episode: int, how: str) -> None:
        """Note the figures of an episode."""
        self._returns[episode], self._lengths[episode] = self._rewards[slot], self.steps[slot]
        self._endings[episode] = how
        for name, (_, kind) in (self._measured or {}).items():
            value = self._running[name][slot] / (self.steps[slot] if kind == "mean" else 1)
            self._figures.setdefault(name, np.zeros(len(self._returns)))[episode] = value

    def evaluation(self, env: str, seed: int, part: str, seeds: Array) -> AgentEvaluation:
        """Return the figures of all episodes."""
        measured = self._returns, self._lengths, tuple(self._endings), self._figures, self._parameters
        return AgentEvaluation(env, seed, part, seeds, *measured)


@contextmanager
def _opened(
    policy: ActingPolicy,
    env: EnvLike | VectorEnv[Any, Any, Any],
    count: int,
    num_workers: int | None,
    env_kwargs: Mapping[str, Any] | None,
) -> Iterator[VectorEnv[Any, Any, Any]]:
    """Open the environments."""
    if isinstance(env, VectorEnv):
        if env_kwargs:
            raise ConfigError("env_kwargs are arguments of an environment that is made here; the vector env is made")
        if env.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ConfigError(
                f"{env} resets its environments itself, with seeds of its own; make it with "
                "autoreset_mode=AutoresetMode.DISABLED, or give the id of the environment"
            )
        yield env
        return
    (factory,) = env_factories(env, [dict(env_kwargs or {})])
    made = functools.partial(_wrapped, factory, policy.preprocessing)
    if num_workers is None:
        metadata = declared_metadata(factory)
        single = single_of(metadata)
        count = 1 if single == MACHINE else count
        num_workers = None if single is not None or starts_slowly(metadata) else 0
    envs = SocketVectorEnv([made] * count, num_workers=num_workers, autoreset_mode=AutoresetMode.DISABLED)
    try:
        yield envs
    finally:
        envs.close()


def _wrapped(factory: Callable[[], gymnasium.Env[Any, Any]], preprocessing: Preprocessing) -> gymnasium.Env[Any, Any]:
    return preprocessing.wrap(factory())


def _time_limit(envs: VectorEnv[Any, Any, Any]) -> float:
    """Return the steps after which an episode is cut: none where the environment has a limit of its own."""
    described = envs.description["max_episode_steps"] if isinstance(envs, SocketVectorEnv) else None
    own = described or (envs.spec and envs.spec.max_episode_steps)
    return math.inf if own else limits.MAX_STEPS


def _name(env: EnvLike | VectorEnv[Any, Any, Any], envs: VectorEnv[Any, Any, Any]) -> str:
    """Return the name of what is evaluated."""
    if isinstance(env, VectorEnv):
        return env_name(env.spec) if env.spec is not None else type(envs).__name__
    return env_name(env)


def _plain(values: list[Any]) -> list[Any]:
    """Return numbers as JSON data, null for those that are not finite."""
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
