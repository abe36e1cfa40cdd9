"""`AgentEnvs`: the environments of an agent, in any vector environment with any way of resetting."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from physgym.casting import CastError, as_array
from physgym.data.recordings import OBSERVATION
from physgym.errors import ConfigError, SampleError
from physgym.launch.base import Launcher
from physgym.real_time import runs_in_real_time
from physgym.registration import EnvLike, find_spec
from physgym.rl.numbered_episodes import NumberedEpisodesFactory
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.step_limit import StepLimit
from physgym.rl.transition_log import Columns
from physgym.spaces import Array
from physgym.vector.arguments import Arguments, check_arguments, one_each
from physgym.vector.make import env_factories
from physgym.vector.vector_env import SocketVectorEnv
from physgym.worker.stepping import RESTARTED

FieldArrays = dict[str, Array]  # observations of n environments: by field, shape (n, *shape)


@dataclass(slots=True)
class Stepped:
    """Results of a step of all environments.

    Attributes:
        observations: What the agent sees now, by field, shape (num_envs, *shape).
        rewards: Shape (num_envs,), float64.
        terminated: Shape (num_envs,), bool.
        truncated: Shape (num_envs,), bool.
        acted: The environments whose step is a transition, ascending; None for all of them.
        ended: The environments whose episode ended, ascending.
        last: The last observations of these, by field, shape (len(ended), *shape).
        begun: The environments whose observation is the first one of an episode, ascending.
        infos: As the vector environment gave them.
    """

    observations: FieldArrays
    rewards: Array
    terminated: Array
    truncated: Array
    acted: Array | None
    ended: Array
    last: FieldArrays
    begun: Array
    infos: dict[str, Any]

    def info(self, name: str) -> Array:
        """Return an entry of the infos of all environments, shape (num_envs, *shape); of what ended, its last one.

        Raises:
            SampleError: One of them has no such entry, or it is no array.
        """
        count = len(self.rewards)
        final, given = self.infos.get("final_info"), self.infos.get(name)
        there = np.asarray(self.infos.get(f"_{name}", np.full(count, given is not None)), np.bool_).copy()
        found: list[Any] = [None] * count if given is None else list(given)
        if final is not None:
            values, known = final.get(name), final.get(f"_{name}")
            for number in self.ended.tolist():
                there[number] = values is not None and (known is None or bool(known[number]))
                found[number] = values[number] if there[number] else None
        wanted = range(count) if self.acted is None else self.acted.tolist()
        for number in wanted:
            if not there[number]:
                known_names = sorted(key for key in (final or self.infos) if not str(key).startswith("_"))
                raise SampleError(f"the info of environment {number} has no {name!r}; there are {known_names}")
        first = found[next(iter(wanted), 0)]
        try:
            return as_array([first if value is None else value for value in found])
        except CastError as error:
            raise SampleError(f"the info {name!r} {error}") from error


_NOBODY = np.zeros(0, np.intp)


class AgentEnvs:
    """A vector environment that steps in lockstep, its observations by field.

    Results come in the order of the environments, so that they do not depend on how many workers there are, nor on
    which of them is faster. Between `send` and `receive` workers compute.

    Args:
        envs: The vector environment; its metadata say how it resets.
        numbered: Whether its environments are `NumberedEpisodes`.

    Attributes:
        num_envs: How many there are.
        numbers: The number of each environment's episode, shape (num_envs,).
        real_time: Whether they run in real time, and do nothing twice.

    Raises:
        ConfigError: It does not say how it resets, or observations have arrays of variable size.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], *, numbered: bool) -> None:
        self.envs, self.numbered, self.num_envs = envs, numbered, envs.num_envs
        self.columns = Columns(OBSERVATION, envs.single_observation_space)
        leaf = self.columns.leaves[0]
        plain = len(self.columns.leaves) == 1 and leaf.path == OBSERVATION
        self._plain = (leaf.path, leaf.dtype, (self.num_envs, *leaf.shape)) if plain else None
        try:
            self._mode = AutoresetMode(envs.metadata["autoreset_mode"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"the metadata of {envs} do not say how it resets; set its metadata['autoreset_mode'] to one of "
                f"{[mode.name for mode in AutoresetMode]} of gymnasium.vector.AutoresetMode"
            ) from error
        self.numbers = np.arange(self.num_envs) - self.num_envs
        self.real_time = runs_in_real_time(envs.metadata)
        self._waiting: Any = (
            None  # actions that are not applied yet, of a vector environment that only steps as a whole
        )
        self._over = np.zeros(self.num_envs, np.bool_)  # whose next step is a reset
        self._before: FieldArrays = {}

    def reset(self, seed: int | None = None) -> FieldArrays:
        """Begin an episode in all environments, and return the observations."""
        observations, _ = self.envs.reset(seed=None if self.numbered else seed)
        self.numbers += self.num_envs
        self._over[:] = False
        self._before = self._fields(observations)
        return self._before

    def send(self, actions: Array) -> None:
        """Let all environments step, shape (num_envs, *shape) of the actions; `receive` gives what follows."""
        if isinstance(self.envs, SocketVectorEnv):
            self.envs.step_async(actions)
        else:
            self._waiting = actions

    def receive(self) -> Stepped:
        """Return the results of the step that was begun by `send`.

        Raises:
            SampleError: Observations do not fit their space.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        envs = self.envs
        found = envs.step_wait() if isinstance(envs, SocketVectorEnv) else envs.step(self._waiting)
        observations, rewards, terminated, truncated, infos = found
        after = self._fields(observations)
        done: Array = terminated | truncated
        if not infos and not self._over.any() and not done.any():
            self._before = after
            return Stepped(after, rewards, terminated, truncated, None, _NOBODY, {}, _NOBODY, infos)
        return self._with_ends(after, rewards, terminated, truncated, infos, done)

    def _with_ends(
        self,
        after: FieldArrays,
        rewards: Array,
        terminated: Array,
        truncated: Array,
        infos: dict[str, Any],
        done: Array,
    ) -> Stepped:
        """Return the results of a step in which episodes may have ended or begun."""
        was_over = self._over
        lost = np.asarray(infos.get(RESTARTED, np.zeros(self.num_envs)), np.bool_) & ~was_over
        ended = np.flatnonzero((done | lost) & ~was_over)
        acted = None if not was_over.any() and not lost.any() else np.flatnonzero(~was_over & ~lost)
        last: FieldArrays = {}
        begun = np.flatnonzero(was_over)
        if len(ended):
            last = {name: value[ended] for name, value in after.items()}
            if self._mode is AutoresetMode.SAME_STEP:
                self._take_last(ended, infos, last)
            for place, number in enumerate(ended.tolist()):
                if lost[number]:  # what the action did nobody knows: the episode ends before it
                    for name, value in self._before.items():
                        last[name][place] = value[number]
        self._over = np.zeros(self.num_envs, np.bool_)
        if self._mode is AutoresetMode.SAME_STEP:
            begun = ended
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._over[ended] = True
        elif len(ended):
            mask = np.zeros(self.num_envs, np.bool_)
            mask[ended] = True
            observations, _ = self.envs.reset(options={"reset_mask": mask})
            after, begun = self._fields(observations), ended
        self.numbers[begun] += self.num_envs
        if lost.any() and self.numbered:
            after = self._begin_again(np.flatnonzero(lost), after)
        self._before = after
        return Stepped(after, rewards, terminated, truncated, acted, ended, last, begun, infos)

    def _take_last(self, ended: Array, infos: Mapping[str, Any], last: FieldArrays) -> None:
        """Put the last observations of episodes in place of those after the reset in the same step."""
        if "final_obs" not in infos:
            raise SampleError(
                f"{self.envs} says that its autoreset mode is SAME_STEP, and its infos have no 'final_obs'; its "
                "metadata are wrong"
            )
        for place, number in enumerate(ended.tolist()):
            for name, value in self.columns.of(infos["final_obs"][number]).items():
                last[name][place] = value[0]

    def _begin_again(self, lost: Array, after: FieldArrays) -> FieldArrays:
        """Let environments whose worker was started again begin their next episode, not their first one."""
        found = {name: value.copy() for name, value in after.items()}
        for number in lost.tolist():
            self._put(found, number, self._resumed(number, {"number": int(self.numbers[number]), "steps": 0}))
        return found

    def kept_episodes(self) -> list[dict[str, Any]] | None:
        """Return what `resume_episodes` needs, for each environment; None where they cannot come back."""
        if not self.numbered or self.real_time:
            return None
        found = self.envs.call("kept_episode")  # type: ignore[attr-defined]
        return [{name: _as_plain(value) for name, value in kept.items()} for kept in found]

    def resume_episodes(self, kept: Sequence[Mapping[str, Any]], expected: FieldArrays) -> str:
        """Come back to points of episodes; the environments were reset.

        Args:
            kept: What `kept_episodes` gave.
            expected: The observations that there were, by field, shape (num_envs, *shape).

        Returns:
            Why not, where an environment does not come back to where it was; empty where all of them do.
        """
        found = {name: value.copy() for name, value in expected.items()}
        for number, one in enumerate(kept):
            self.numbers[number] = one["number"]
            try:
                self._put(found, number, self._resumed(number, one))
            except SampleError as error:
                return str(error)
            for name, value in expected.items():
                if found[name][number].tobytes() != value[number].tobytes():
                    return f"{name} of episode {one['number']} is another one after {one['steps']} steps"
        self._before = found
        return ""

    def begin_after(self, number: int) -> FieldArrays:
        """Begin new episodes in all environments, with numbers from a given one on; return the observations."""
        if self.numbered:
            self.envs.call("skip_to", number)  # type: ignore[attr-defined]
        behind = number - self.numbers - self.num_envs
        self.numbers += np.maximum(0, -(-behind // self.num_envs)) * self.num_envs
        return self.reset()

    def _resumed(self, number: int, kept: Mapping[str, Any]) -> Any:
        given = {name: _from_plain(value) for name, value in kept.items()}
        (observation,) = self.envs.call_envs([number], "resume_episode", given)  # type: ignore[attr-defined]
        return observation

    def _put(self, fields: FieldArrays, number: int, observation: Any) -> None:
        for name, value in self.columns.of(observation).items():
            fields[name][number] = value[0]

    def _fields(self, observations: Any) -> FieldArrays:
        """Return observations by field; arrays that nobody else writes to."""
        if self._plain is not None:
            name, dtype, shape = self._plain
            if type(observations) is np.ndarray and observations.dtype == dtype and observations.shape == shape:
                own = isinstance(self.envs, SocketVectorEnv) and self.envs.copy
                return {name: observations if own else observations.copy()}
        return self.columns.of(observations, self.num_envs)

    def close(self) -> None:
        """Close the vector environment; a step that still runs, since learning has failed meanwhile, is given up."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Calling `close` while waiting")
            self.envs.close()


BYTES = "bytes"  # key of an array that a checkpoint holds as its bytes, such as one of texts


def _as_plain(value: Any) -> Any:
    """Return a value with arrays that a checkpoint holds: numbers of at most 8 bytes, others as their bytes."""
    if isinstance(value, Mapping):
        return {name: _as_plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray) and (value.dtype.kind not in "biuf" or value.dtype.itemsize > 8):
        return {BYTES: np.frombuffer(value.tobytes(), np.uint8), "dtype": value.dtype.str, "shape": list(value.shape)}
    return value


def _from_plain(value: Any) -> Any:
    """Return what `_as_plain` was given."""
    if isinstance(value, Mapping) and set(value) == {BYTES, "dtype", "shape"}:
        return np.frombuffer(value[BYTES].tobytes(), value["dtype"]).reshape(value["shape"]).copy()
    if isinstance(value, Mapping):
        return {name: _from_plain(one) for name, one in value.items()}
    return value


def make_envs(
    env: EnvLike,
    env_kwargs: Arguments,
    num_envs: int,
    preprocessing: Preprocessing | None,
    *,
    seed: int,
    limit: StepLimit | None,
    num_workers: int | str | None,
    timeout: float,
    on_error: str,
    launcher: Launcher[Any] | None,
) -> SocketVectorEnv:
    """Return a vector environment of numbered episodes.

    Args:
        env: Registered id, ``module:Class``, or a callable that makes an environment.
        env_kwargs: Arguments of the constructor, or a list of them, one for each environment.
        num_envs: How many environments.
        preprocessing: The wrappers around each.
        seed: Seed of the run.
        limit: Most steps of an episode.
        num_workers: See `physgym.SocketVectorEnv`.
        timeout: The same.
        on_error: The same.
        launcher: The same; each worker hosts one environment then, unless `num_workers` says how many there are.

    Raises:
        ConfigError: The id is unknown, or an argument is wrong.
        WorkerError: An environment's constructor raised.
    """
    spec = find_spec(env) if isinstance(env, (str, EnvSpec)) else None
    factories = one_each(
        env_factories(env, check_arguments(env_kwargs)), num_envs, listed=isinstance(env_kwargs, Sequence)
    )
    envs = SocketVectorEnv(
        [NumberedEpisodesFactory(factory, seed, limit, preprocessing) for factory in factories],
        num_workers=num_envs if launcher is not None and num_workers is None else num_workers,  # type: ignore[arg-type]
        autoreset_mode=AutoresetMode.SAME_STEP,
        timeout=timeout,
        on_error=on_error,
        launcher=launcher,
    )
    envs.spec = spec
    return envs
