"""`reopen_recording`: an environment just before a recorded step, by doing again what was done in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from physgym.data.dataset import SampleDataset
from physgym.data.recordings import ACTED, ACTION, FLAGS, OBSERVATION, REWARD
from physgym.errors import ConfigError, DatasetError
from physgym.generation.replayed import check_same_sample
from physgym.generation.stored_episode import StoredEpisode
from physgym.placement import Env, EnvFactory, build
from physgym.registration import EnvLike
from physgym.returned import flag_of, returned, reward_of
from physgym.sample import Sample
from physgym.spaces import flatten, leaves, unflatten
from physgym.vector.make import env_factory
from physgym.worker.folders import OwnFolder


def reopen_recording(
    dataset: SampleDataset,
    episode: int,
    step: int,
    env: EnvLike | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Env, Any]:
    """Return an environment just before a recorded step, and the action that was applied there.

    The environment is reset with the seed of the episode and given the recorded actions. The whole episode is done
    again first, and each observation, reward and flag compared with what is recorded, so that another state is never
    taken for it.

    Args:
        dataset: The recording, of one folder.
        episode: Number of the episode.
        step: Number of the step.
        env: What makes the environment; by default what the recording names.
        env_kwargs: Arguments of its constructor; those that the recording names by default.

    Raises:
        ConfigError: There is no such step, or nothing says how the environment is made.
        DatasetError: The environment does something else than what is recorded.
    """
    stored = StoredEpisode(dataset, episode)
    stored.check_step(step)
    at = stored.sample(step)
    if at is not None and not at[ACTED]:
        raise ConfigError(
            f"step {step} of episode {episode} is its last observation, where nobody acted; its last step is {step - 1}"
        )
    if step >= stored.run:
        raise ConfigError(
            f"step {stored.run} of episode {episode} was left out of the recording, so that nobody knows its action; "
            "reopen a step before it"
        )
    factory = _factory(dataset, env, env_kwargs)
    made = build(lambda: OwnFolder(factory), 0, 1)
    try:
        again = _Repetition(made, stored)
        again.go(stored.run)
        again.go(step)
    except BaseException:
        made.close()
        raise
    return made, again.action(step)


def _factory(dataset: SampleDataset, env: EnvLike | None, env_kwargs: Mapping[str, Any] | None) -> EnvFactory:
    """Return what makes the environment of a recording.

    Raises:
        ConfigError: Nothing says it.
    """
    kwargs = dict(env_kwargs or {})
    if env is not None:
        return env_factory(env, kwargs)
    described = dataset.attributes.get("env_spec")
    if not described:
        raise ConfigError(
            f"the recording of {dataset.source.get('recorded', 'an environment')} does not say how its environment is "
            "made: it was registered nowhere, or has wrappers that do not describe themselves (Gymnasium's "
            "RecordConstructorArgs). Pass env= with a callable that makes it"
        )
    return env_factory(EnvSpec.from_json(described), kwargs)


class _Repetition:
    """The repetition of a recorded episode.

    Args:
        env: The environment.
        stored: The episode.

    Raises:
        ConfigError: Its spaces are not those of the recording.
    """

    def __init__(self, env: Env, stored: StoredEpisode) -> None:
        self._env, self._stored = env, stored
        self._observed = [leaf.path for leaf in leaves(env.observation_space, OBSERVATION)]
        self._applied = [leaf.path for leaf in leaves(env.action_space, ACTION)]
        if unknown := sorted({*self._observed, *self._applied} - set(stored.sample(0) or ())):
            raise ConfigError(f"the recording has no fields {unknown}; pass env= with the environment that made it")

    def action(self, step: int) -> Any:
        """Return the action of a recorded step."""
        sample = self._row(step)
        return unflatten(self._env.action_space, iter([sample[name][()] for name in self._applied]))

    def go(self, end: int) -> None:
        """Reset the environment, and do again what was done before a row.

        Raises:
            DatasetError: It does something else.
        """
        number, seed = self._stored.episode, self._stored.seed
        observation, _ = returned("reset", self._env.reset(seed=seed), 2)
        try:
            self._check(0, self._seen(observation))
        except DatasetError as error:
            none = ", as in an autoreset, where 0 stands for none" if seed == 0 else ""
            raise DatasetError(
                f"episode {number} does not begin as a reset with its seed {seed} does: nobody gave that reset a seed"
                f"{none}, or it had options, which a recording does not hold, or the environment is another one. "
                "Reopen an episode whose reset was given a seed and nothing else, or pass env= with the environment"
            ) from error
        for step in range(end):
            if not self._row(step)[ACTED]:
                return
            observation, reward, *flags, _ = returned("step", self._env.step(self.action(step)), 5)
            found = {name: flag_of(name, one) for name, one in zip(FLAGS, flags, strict=True)}
            self._check(step, {REWARD: reward_of(reward), **found})
            if step + 1 < self._stored.run:
                self._check(step + 1, self._seen(observation))

    def _row(self, step: int) -> Sample:
        found = self._stored.sample(step)
        assert found is not None, "it lies before the first step that was left out"
        return found

    def _seen(self, observation: Any) -> dict[str, Any]:
        return dict(zip(self._observed, flatten(self._env.observation_space, observation), strict=True))

    def _check(self, step: int, values: Mapping[str, Any]) -> None:
        """Compare values with those of a row."""
        sample, where = self._row(step), f"episode {self._stored.episode}, step {step}"
        again = {name: np.asarray(value, sample[name].dtype) for name, value in values.items()}
        check_same_sample({name: sample[name] for name in again}, again, where)
