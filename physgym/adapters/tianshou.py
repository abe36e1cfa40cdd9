"""`TianshouVectorEnv`: a `physgym.SocketVectorEnv` as a vector environment of Tianshou."""

# Tianshou is large and rarely installed where types are checked; what is imported from it is then unknown
# mypy: disable-error-code="import-not-found, misc"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

from physgym.adapters import unbatch_infos
from physgym.errors import ConfigError, WaitTimeout
from physgym.spaces import Array
from physgym.vector import SocketVectorEnv

try:
    from tianshou.env import BaseVectorEnv
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"physgym.adapters.tianshou needs Tianshou: pip install tianshou ({error})", name=error.name
    ) from error

Ids: TypeAlias = int | Sequence[int] | Array | None
StepTuple: TypeAlias = tuple[Any, float, bool, bool, dict[str, Any]]


class TianshouVectorEnv(BaseVectorEnv):
    """Environments in worker processes, for the collectors of Tianshou.

    It stands where `tianshou.env.SubprocVectorEnv` would. With `wait_num` or `timeout` it is asynchronous, for
    `tianshou.data.AsyncCollector`: a step returns what is ready, and the other environments continue.

    Args:
        envs: The vector env, with Gymnasium's default autoreset mode, NEXT_STEP. Closing this view closes it.
        wait_num: Return from a step when so many environments are ready; all by default.
        timeout: Seconds after which a step returns those that are ready, at least one.

    Attributes:
        env_num: Number of environments.
        is_async: Whether steps return before all environments are ready.
        waiting_id: Environments whose step was begun and is not returned yet.
        ready_id: The others.

    Raises:
        ConfigError: The vector env resets at another time, an argument is out of range, or observations are tuples,
            which Tianshou does not take.
    """

    def __init__(self, envs: SocketVectorEnv, wait_num: int | None = None, timeout: float | None = None) -> None:
        # not super().__init__, which makes a worker of its own for every environment
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise ConfigError(
                f"Tianshou's collectors reset environments themselves, this vector env has autoreset_mode "
                f"{getattr(mode, 'value', mode)!r}; make it with autoreset_mode=gymnasium.vector.AutoresetMode."
                "NEXT_STEP, the default"
            )
        if isinstance(envs.single_observation_space, spaces.Tuple):
            raise ConfigError(
                f"Tianshou does not take tuples as observations, {envs.single_observation_space}; wrap the "
                "environments, for instance in gymnasium.wrappers.FlattenObservation"
            )
        if wait_num is not None and not 1 <= wait_num <= envs.num_envs:
            raise ConfigError(f"wait_num must be between 1 and {envs.num_envs}, the number of envs, not {wait_num}")
        if timeout is not None and timeout <= 0:
            raise ConfigError(f"timeout must be positive seconds, not {timeout}")
        self.envs = envs
        self.env_num = envs.num_envs
        self.wait_num = wait_num or envs.num_envs
        self.timeout = timeout
        self.is_async = self.wait_num != self.env_num or timeout is not None
        self.waiting_id: list[int] = []
        self.ready_id = list(range(self.env_num))
        self.is_closed = False
        self._early: dict[int, StepTuple] = {}  # results that arrived and were not returned yet
        self._ended = np.zeros(self.env_num, np.bool_)

    # --- episodes

    def reset(self, env_id: Ids = None, **kwargs: Any) -> tuple[Array, Array]:
        """Begin an episode in some environments.

        Args:
            env_id: Which ones; all by default.
            **kwargs: ``seed`` (one for all, as in Tianshou) and ``options`` of their ``reset``.

        Returns:
            Observations of these environments, shape (n, ...), or (n,) of dictionaries, and infos (n,) of dictionaries.

        Raises:
            ConfigError: Other environments step, and there are arguments or an episode that has not ended.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        self._assert_is_not_closed()
        ids = self._ids(env_id)
        self._assert_id(ids)
        if self.waiting_id:
            if kwargs or not self._ended[ids].all():
                raise ConfigError(
                    f"environments {self.waiting_id} step: meanwhile others can be reset only where their episode "
                    "ended, and without arguments. Receive the steps that are under way first, with step(None)"
                )
            return self._reset_some(ids)
        options = dict(kwargs.get("options") or {})
        options["reset_mask"] = np.isin(np.arange(self.env_num), ids)
        observations, batched = self.envs.reset(seed=[kwargs.get("seed")] * self.env_num, options=options)
        infos: list[dict[str, Any]] = [{} for _ in range(self.env_num)]
        unbatch_infos(batched, infos)
        self._ended[ids] = False
        return self._rows(observations, self.env_num)[ids], _objects([infos[i] for i in ids])

    def _reset_some(self, ids: list[int]) -> tuple[Array, Array]:
        """Reset environments whose episode has ended by the step after, which ignores its action."""
        self.envs.send(create_empty_array(self.envs.single_action_space, len(ids)), ids)
        self.waiting_id += ids
        while not all(i in self._early for i in ids):
            self._receive(1)
        rows = [self._early.pop(i) for i in ids]
        self.waiting_id = [i for i in self.waiting_id if i not in ids]
        return _stack([row[0] for row in rows]), _objects([row[4] for row in rows])

    def step(self, action: Any, id: Ids = None) -> tuple[Array, Array, Array, Array, Array]:
        """Step some environments. One whose episode ended must be reset before its next step.

        Args:
            action: One per environment of `id`; None receives what is under way, if the view is asynchronous.
            id: Which environments; all by default.

        Returns:
            Observations (n, ...), or (n,) of dictionaries, rewards (n,), terminations (n,), truncations (n,), and infos
            (n,) of dictionaries, each with ``env_id``. The rows are those of `id`, or if the view is asynchronous those
            that are ready.

        Raises:
            ConfigError: There is no action, or the actions do not fit the action space.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        self._assert_is_not_closed()
        ids = self._ids(id)
        if action is None and not (self.is_async and self.waiting_id):
            raise ConfigError("step(None) receives the results of steps that are under way, and there are none")
        if action is not None:
            self._assert_id(ids)
            if len(action) != len(ids):
                raise ConfigError(f"got {len(action)} actions for {len(ids)} environments")
        if not self.is_async:
            finished = ids
            if ids == list(range(self.env_num)):  # cheaper than one by one
                self._take(*self.envs.step(np.asarray(action)), np.arange(self.env_num))
            else:
                self.envs.send(np.asarray(action), ids)
                self._receive(len(ids))
        else:
            if action is not None:
                self.envs.send(np.asarray(action), ids)
                self.waiting_id += ids
                self.ready_id = [i for i in self.ready_id if i not in ids]
            missing = min(self.wait_num, len(self.waiting_id)) - len(self._early)
            if missing > 0:
                self._receive_in_time(missing)
            finished = [i for i in self.waiting_id if i in self._early]
            self.waiting_id = [i for i in self.waiting_id if i not in finished]
            self.ready_id += finished
        observations, rewards, terminations, truncations, infos = zip(
            *(self._early.pop(i) for i in finished), strict=True
        )
        return (
            _stack(observations),
            np.array(rewards),
            np.array(terminations),
            np.array(truncations),
            _objects([{**info, "env_id": i} for i, info in zip(finished, infos, strict=True)]),
        )

    def _receive_in_time(self, number: int) -> None:
        try:
            self._receive(number, self.timeout)
        except WaitTimeout:
            if not self._early:
                self._receive(1)

    def _receive(self, number: int, timeout: float | None = None) -> None:
        """Take in the results of so many environments, or more."""
        self._take(*self.envs.recv(number, timeout))

    def _take(
        self,
        observations: Any,
        rewards: Array,
        terminations: Array,
        truncations: Array,
        batched: dict[str, Any],
        ids: Array,
    ) -> None:
        infos: list[dict[str, Any]] = [{} for _ in ids]
        unbatch_infos(batched, infos)
        self._ended[ids] = terminations | truncations
        columns = (self._rows(observations, len(ids)), rewards, terminations, truncations, infos)
        self._early.update(zip(ids.tolist(), zip(*columns, strict=True), strict=True))

    def seed(self, seed: int | Sequence[int | None] | None = None) -> list[Any]:
        """Reset every environment with a seed.

        Args:
            seed: One per environment, or an integer: environment i gets ``seed + i``.

        Returns:
            A list with its seed for every environment.

        Raises:
            ConfigError: The number of seeds does not fit, or environments step.
        """
        self._assert_is_not_closed()
        if self.waiting_id:
            raise ConfigError(f"environments {self.waiting_id} step; receive them first, with step(None)")
        seeds = (
            [None if seed is None else seed + i for i in range(self.env_num)]
            if not isinstance(seed, Sequence)
            else seed
        )
        self.envs.reset(seed=list(seeds))
        self._ended[:] = False
        return [[each] for each in seeds]

    def close(self) -> None:
        """Close the environments and end the workers."""
        self._assert_is_not_closed()
        self.envs.close()
        self.is_closed = True

    # --- what the environments are

    def render(self, **kwargs: Any) -> list[Any]:
        """Return a frame per environment.

        Args:
            **kwargs: Ignored; an environment knows its render mode.

        Raises:
            ConfigError: Environments step.
        """
        self._assert_is_not_closed()
        return list(self.envs.render())

    def get_env_attr(self, key: str, id: Ids = None) -> list[Any]:
        """Read an attribute of some environments.

        Args:
            key: Its name. The spaces, ``metadata`` and ``spec`` are known here.
            id: Which environments; all by default.

        Returns:
            One value per environment of `id`.

        Raises:
            AttributeError: There is none.
            ProtocolError: The value cannot be sent.
            WorkerError: A worker died or did not answer.
        """
        self._assert_is_not_closed()
        here = {
            "action_space": self.envs.single_action_space,
            "observation_space": self.envs.single_observation_space,
            "metadata": self.envs.metadata,
            "spec": self.envs.spec,
        }
        ids = self._ids(id)
        if key in here:
            return [here[key] for _ in ids]
        if not all(self.envs.call("has_wrapper_attr", key)):
            raise AttributeError(f"the environments have no attribute {key!r}")
        values = self.envs.get_attr(key)
        return [values[i] for i in ids]

    def set_env_attr(self, key: str, value: Any, id: Ids = None) -> None:
        """Set an attribute of some environments to one value.

        Args:
            key: Its name.
            value: The value.
            id: Which environments; all by default.

        Raises:
            ConfigError: The value cannot be sent.
            WorkerError: A worker died or did not answer.
        """
        ids = list(dict.fromkeys(self._ids(id)))
        self.envs.set_attr(key, [value] * len(ids), ids)

    # --- rows

    def _ids(self, id: Ids) -> list[int]:
        return list(range(self.env_num)) if id is None else np.atleast_1d(np.asarray(id, np.intp)).tolist()

    def _rows(self, observations: Any, number: int) -> Array:
        """Return batched observations as Tianshou wants them: an array, or an array of dictionaries."""
        if not isinstance(self.envs.single_observation_space, spaces.Dict):
            return np.asarray(observations)
        return _objects(list(iterate(batch_space(self.envs.single_observation_space, number), observations)))


def _objects(values: Sequence[Any]) -> Array:
    """Return an array of objects of any kind; shape (n,)."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _stack(observations: Sequence[Any]) -> Array:
    return _objects(observations) if isinstance(observations[0], dict) else np.stack(observations)
