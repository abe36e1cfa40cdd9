"""`Recorder`: what an environment does, recorded as a dataset while any library acts in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from physgym.casting import CastError, as_dtype
from physgym.closed_on_exit import ClosedOnExit
from physgym.data.description import Mode
from physgym.data.recordings import FLAGS
from physgym.errors import ConfigError, SampleError
from physgym.naming import env_name
from physgym.real_time import SOURCE, runs_in_real_time
from physgym.returned import flag_of, info_of, returned, reward_of
from physgym.rl.recorded_code import RecordedCode, code_of_environment, text_of_environment
from physgym.rl.transition_log import TransitionLog
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.storage.location import Location
from physgym.worker.stepping import RESTARTED

EVERY = 300


class Recorder:
    """Record the steps of an environment, or of a vector environment, while a program of any kind acts in it.

    What is made is a wrapper around the environment, which goes in its place: `EnvRecorder` or `VectorRecorder`.

        env = physgym.Recorder(gymnasium.make("CartPole-v1"), "data/cartpole")
        DQN("MlpPolicy", env).learn(10_000)  # of Stable-Baselines3
        env.close()

    A row of the dataset holds an observation, the action that was applied there, the reward, ``terminated`` and
    ``truncated`` each in its own field, and the chosen infos of the step as ``info/NAME``. Observations are stored
    once: the next one is that of the next row, and every episode ends with a row of its last observation, whose flag
    ``acted`` is False. In that row reward, flags and infos are zeros, which that flag masks: statistics leave them out,
    and so should you. The time of a step is not recorded. A network of transitions reads it as ``next_observation``
    without more ado (see `physgym.feedback`), windows never cross an episode, and what is no action counts for nothing.
    What was committed (every half second) survives any end of the program.

    An error in a step or a reset ends the episodes at the observations before it, since nobody knows what the
    environments have done: reset them and continue. So does a vector environment that has started a worker again.
    ``seed`` is that of the reset, and 0 where the loop or an autoreset gave none. The source of the dataset says where
    an environment runs in real time, see `physgym.real_time`.

    The provenance of the dataset says which code the environment is of, as that of generated samples does. What other
    code has recorded is not continued, since the dataset would hold two physics. A recording of before, which says
    nothing of its code, is continued with a warning.

    Args:
        env: The environment or vector environment.
        path: The dataset's folder, or ``s3://bucket/prefix``.
        every: Rows of a file.
        infos: Names of the entries of the info to keep: numbers, flags, arrays, texts of at most 64 bytes.
        mode: Part of the dataset to write.
        resume: Continue what is there, with further episodes.
        nonfinite: What to do with a row that has a value which is not finite: "error", "reject" (leave it out) or
            "allow".
        acted_by: Name of what acts, which the source of the dataset has, such as "person".
        allow_changed_code: Continue what an environment of other code has recorded; both codes are recorded then.

    Raises:
        ConfigError: An argument is wrong, a space has arrays of variable size, or a vector environment does not say how
            it resets.
        DatasetError: There are samples already, and `resume` is not set.
        ChangedCode: What is continued was recorded of other code, or one of both is unknown.
    """

    def __new__(  # type: ignore[misc]  # noqa: D102 - either of two wrappers, by what is wrapped
        cls,
        env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any],
        path: str | Path | Location,
        *,
        every: int = EVERY,
        infos: Sequence[str] = (),
        mode: Mode = "training",
        resume: bool = False,
        nonfinite: NonFinite = "error",
        acted_by: str = "",
        allow_changed_code: bool = False,
    ) -> EnvRecorder | VectorRecorder:
        observed: spaces.Space[Any]
        applied: spaces.Space[Any]
        if isinstance(env, VectorEnv):
            observed, applied, count = env.single_observation_space, env.single_action_space, env.num_envs
        elif isinstance(env, gymnasium.Env):
            observed, applied, count = env.observation_space, env.action_space, 1
        else:
            raise ConfigError(f"a Recorder goes around a Gymnasium environment or vector environment, not {env!r}")
        source: dict[str, Any] = {"recorded": _name(env)}
        if runs_in_real_time(env.metadata):
            source[SOURCE] = True
        if acted_by:
            source["acted_by"] = acted_by
        log = TransitionLog(
            path,
            observed,
            applied,
            count,
            infos=infos,
            every=every,
            mode=mode,
            resume=resume,
            nonfinite=nonfinite,
            source=source,
            env_spec=text_of_environment(env),
            code=RecordedCode(code_of_environment(env), allow_changed=allow_changed_code),
        )
        return VectorRecorder(env, log) if isinstance(env, VectorEnv) else EnvRecorder(env, log)


class EnvRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Record the steps of an environment; made by `Recorder`.

    Args:
        env: The environment.
        log: What writes them.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], log: TransitionLog) -> None:
        super().__init__(env)
        self.log = log
        self._before: dict[str, Array] = {}  # the observation at hand, by field

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; an episode that has not ended is recorded as it is."""
        with self.log.left_on_error(self._before):
            observation, info = returned("reset", self.env.reset(seed=seed, options=options), 2)
            after = self.log.observation.of(observation)
        self._leave()
        self._before = after
        self.log.begin([0], [seed])
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment.

        Raises:
            SampleError: The episode has ended, or what the environment returned cannot be recorded.
            DatasetError: The disk refuses.
        """
        if not self.log.began(0):
            raise SampleError("a Recorder records episodes from their reset on; call reset first")
        applied = self.log.action.of(action)  # which the environment may change in its step
        with self.log.left_on_error(self._before):
            observation, reward, terminated, truncated, info = returned("step", self.env.step(action), 5)
            flags = {
                name: np.array([flag_of(name, one)]) for name, one in zip(FLAGS, (terminated, truncated), strict=True)
            }
            after, rewards, infos = self.log.observation.of(observation), np.array([reward_of(reward)]), [info_of(info)]
        with self.log.left_on_error():
            self.log.add(np.array([0]), self._before, applied, rewards, flags, infos)
            self._before = after
            if flags["terminated"][0] or flags["truncated"][0]:
                self._leave()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Complete the dataset and close the environment."""
        try:
            self._leave()
        finally:
            try:
                self.log.close()
            finally:
                super().close()

    def _leave(self) -> None:
        self.log.end(0, self._before)


class VectorRecorder(VectorWrapper, ClosedOnExit):
    """Record the steps of a vector environment, in every autoreset mode; made by `Recorder`.

    Args:
        env: The vector environment; its metadata says how it resets.
        log: What writes them.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], log: TransitionLog) -> None:
        super().__init__(env)
        self.log = log
        try:
            self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"the metadata of {env} do not say how it resets; set its metadata['autoreset_mode'] to one of "
                f"{[mode.name for mode in AutoresetMode]} of gymnasium.vector.AutoresetMode"
            ) from error
        self._before: dict[str, Array] = {}
        self._over = np.zeros(env.num_envs, np.bool_)  # whether the episode of an environment has ended

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environments, or those of a ``reset_mask``."""
        count = self.num_envs
        mask = np.asarray((options or {}).get("reset_mask", np.ones(count)), np.bool_).copy()
        inner: Any = self.env  # Gymnasium's type of `seed` lacks the list that its vector environments take
        with self.log.left_on_error(self._before):
            observations, infos = inner.reset(seed=seed, options=options)
            after = self.log.observation.of(observations, count)
        chosen = np.flatnonzero(mask).tolist()
        with self.log.left_on_error():
            for number in chosen:
                self._leave(number, self._before)
            seeds = _seeds(seed, count)
            self.log.begin(chosen, [seeds[number] for number in chosen])
            self._over[chosen] = False
            self._before = after
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environments.

        Raises:
            SampleError: An episode has ended and was not reset, or what an environment returned cannot be recorded.
            DatasetError: The disk refuses.
        """
        count = self.num_envs
        if not all(self.log.began(number) for number in np.flatnonzero(~self._over).tolist()):
            raise SampleError("a Recorder records episodes from their reset on; call reset first")
        if self._mode is AutoresetMode.DISABLED and self._over.any():
            raise SampleError(
                f"the episodes of environments {np.flatnonzero(self._over).tolist()} have ended; reset them: "
                'reset(options={"reset_mask": ...})'
            )
        applied = self.log.action.of(actions, count)
        with self.log.left_on_error(self._before):
            observations, rewards, terminated, truncated, infos = self.env.step(actions)
            after = self.log.observation.of(observations, count)
            gained = _per_environment("rewards", rewards, np.float64, count)
            flags = {
                name: _per_environment(name, one, np.bool_, count)
                for name, one in zip(FLAGS, (terminated, truncated), strict=True)
            }
            over = (flags["terminated"] | flags["truncated"]) & ~self._over
            last = self._last_observations(after, over, infos)
            # of those whose worker was started again nobody knows what their action did
            lost = np.asarray(infos.get(RESTARTED, np.zeros(count)), np.bool_) & ~self._over
        with self.log.left_on_error():
            stepped = np.flatnonzero(~self._over & ~lost)
            if len(stepped):
                self.log.add(
                    stepped,
                    {name: value[stepped] for name, value in self._before.items()},
                    {name: value[stepped] for name, value in applied.items()},
                    gained[stepped],
                    {name: value[stepped] for name, value in flags.items()},
                    [_info(infos, number, final=bool(over[number]) and self._same_step) for number in stepped.tolist()],
                )
            for number in np.flatnonzero(over).tolist():
                self._leave(number, self._before if lost[number] else last)
            # those whose step was the reset after an episode, and those that were reset within their step
            began = np.flatnonzero(self._over | (over & self._same_step)).tolist()
            self.log.begin(began, [None] * len(began))
            self._over = over & (not self._same_step)
            self._before = after
        return observations, rewards, terminated, truncated, infos

    def close(self, **kwargs: Any) -> None:
        """Complete the dataset and close the environments."""
        try:
            for number in range(self.num_envs):
                self._leave(number, self._before)
        finally:
            try:
                self.log.close()
            finally:
                self.env.close(**kwargs)

    @property
    def _same_step(self) -> bool:
        return self._mode is AutoresetMode.SAME_STEP

    def _leave(self, number: int, last: dict[str, Array]) -> None:
        """Record the last observation of an environment that is in an episode, from those of all environments."""
        self.log.end(number, {name: value[number : number + 1] for name, value in last.items()})

    def _last_observations(self, after: dict[str, Array], over: Array, infos: dict[str, Any]) -> dict[str, Array]:
        """Return the observations after a step, of episodes that are over their last ones.

        Raises:
            SampleError: The infos do not fit the autoreset mode.
        """
        if over.any() and ("final_obs" in infos) is not self._same_step:
            raise SampleError(
                f"{self.env} says that its autoreset mode is {self._mode.name}, and its infos have "
                f"{'no' if self._same_step else 'a'} 'final_obs'; its metadata are wrong"
            )
        if not self._same_step or not over.any():
            return after
        found = {name: value.copy() for name, value in after.items()}
        for number in np.flatnonzero(over).tolist():
            for name, value in self.log.observation.of(infos["final_obs"][number]).items():
                found[name][number] = value[0]
        return found


def _seeds(seed: Any, count: int) -> list[int | None]:
    """Return the seed of each environment, as Gymnasium's vector environments derive them: of a number, or several."""
    if seed is None:
        return [None] * count
    return list(seed) if np.ndim(seed) else [seed + number for number in range(count)]


def _info(infos: dict[str, Any], number: int, *, final: bool) -> dict[str, Any]:
    """Return the info of one environment, from those of a step; its last one where it was reset within the step."""
    given = infos.get("final_info", {}) if final else infos
    found = {}
    for name, values in given.items():
        if name.startswith("_") or name in ("final_obs", "final_info"):
            continue
        there = given.get(f"_{name}")
        if there is None or there[number]:
            found[name] = values[number] if not isinstance(values, dict) else _info(values, number, final=False)
    return found


def _per_environment(name: str, values: Any, dtype: Any, count: int) -> Array:
    try:
        found = as_dtype(values, np.dtype(dtype))
    except CastError as error:
        raise SampleError(f"{name} {error}") from error
    if found.shape != (count,):
        raise SampleError(f"{name} has shape {found.shape}, not ({count},)")
    return found


def _name(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """Return what the dataset says of where its samples come from."""
    if env.spec is not None:
        return env_name(env.spec)
    return type(env.unwrapped).__name__
