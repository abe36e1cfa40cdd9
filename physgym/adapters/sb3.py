"""`SB3VecEnv`: a `physgym.SocketVectorEnv` as a vector environment of Stable-Baselines3."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorWrapper

from physgym.adapters import unbatch_infos
from physgym.casting import CastError, as_dtype
from physgym.errors import ConfigError, SampleError
from physgym.spaces import Array
from physgym.vector import SocketVectorEnv

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
    from stable_baselines3.common.vec_env.util import obs_space_info
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"physgym.adapters.sb3 needs Stable-Baselines3: pip install stable-baselines3 ({error})", name=error.name
    ) from error

REWARD = np.dtype(np.float32)  # of Stable-Baselines3
TRUNCATED = "TimeLimit.truncated"
TERMINAL_OBSERVATION = "terminal_observation"


class SB3VecEnv(VecEnv):
    """Environments in worker processes, for the algorithms and wrappers of Stable-Baselines3.

    It stands where `stable_baselines3.common.vec_env.SubprocVecEnv` would. Observations, rewards, ends and infos are
    those of `DummyVecEnv` over the same environments, with one exception that comes from how Gymnasium batches infos:
    a number of an info arrives as a Python number where its array is of 64 bits or bool.

    The environments run where the vector env put them. `get_attr`, `set_attr` and `env_method` take and return what
    can be sent: numbers, strings, arrays, spaces, and lists, tuples and dictionaries of them.

    Args:
        envs: The vector env, or one in wrappers such as `physgym.Recorder`; it must reset in the step that ends an
            episode. Closing this view closes it.

    Raises:
        ConfigError: The vector env resets at another time, or its observations are nested more deeply than
            Stable-Baselines3 allows.
    """

    def __init__(self, envs: SocketVectorEnv | VectorWrapper) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"Stable-Baselines3 wants an environment to be reset in the step that ends its episode, this vector "
                f"env has autoreset_mode {getattr(mode, 'value', mode)!r}; make it with "
                "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP"
            )
        try:
            obs_space_info(envs.single_observation_space)
        except (NotImplementedError, AssertionError) as error:
            raise ConfigError(
                f"Stable-Baselines3 cannot use the observation space {envs.single_observation_space}: {error} "
                "Wrap the environments, for instance in gymnasium.wrappers.FlattenObservation"
            ) from error
        self.envs: Any = envs
        self._bare: Any = envs.unwrapped  # which calls the environments; wrappers do not
        self.spec = envs.spec  # VecMonitor writes its id into its file
        self._known: set[str] = set()  # attributes that every environment has been seen to have
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = {name: value for name, value in envs.metadata.items() if name != "autoreset_mode"}

    # --- episodes

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with what `seed` and `set_options` left for it.

        Environments with different options are reset one group after the other.

        Returns:
            Observations: an array of shape (num_envs, ...), or a dictionary or tuple of such arrays.

        Raises:
            ConfigError: There is not one dictionary of options per environment.
            WorkerError: A worker died or did not answer, or an environment raised.
        """
        if len(self._options) != self.num_envs:
            raise ConfigError(
                f"set_options got {len(self._options)} dictionaries for {self.num_envs} environments; pass one each, "
                "or one dictionary for all"
            )
        self.reset_infos = [{} for _ in range(self.num_envs)]
        observations: Any = None
        groups = _equal_groups(self._options)
        for members in groups:
            options: dict[str, Any] = dict(self._options[members[0]])
            if len(groups) > 1:
                options["reset_mask"] = np.isin(np.arange(self.num_envs), members)
            # later groups return what earlier ones began with, so that the last result is that of all
            observations, infos = self.envs.reset(seed=self._seeds, options=options or None)
            unbatch_infos(infos, self.reset_infos)
        self._reset_seeds()
        self._reset_options()
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: Array) -> None:
        """Keep the actions for `step_wait`, which takes the step.

        Stable-Baselines3 waits at once, and a step that was never begun need not be cancelled by `reset`.

        Args:
            actions: One per environment, shape (num_envs, ...).
        """
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment, and reset those whose episode ends.

        Returns:
            Observations as `reset` returns them, rewards (num_envs,) float32, ends of episodes (num_envs,) bool, and
            one info per environment. An info holds ``TimeLimit.truncated``, and ``terminal_observation`` where an
            episode ended; what the reset said is in `reset_infos`.

        Raises:
            ConfigError: The actions do not fit the action space.
            WorkerError: A worker died or did not answer, or an environment raised.
            SampleError: A reward is too large for float32.
        """
        observations, rewards, terminations, truncations, batched = self.envs.step(self._actions)
        dones = terminations | truncations
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if batched:  # most steps of most environments have none
            final_observations, final_infos = batched.pop("final_obs", None), batched.pop("final_info", {})
            unbatch_infos(batched, infos)
            if final_observations is not None:
                # the mask says where, not the ends: an episode that was cut from outside has no last observation
                ended = np.flatnonzero(batched["_final_obs"]).tolist()
                finals: dict[int, dict[str, Any]] = {i: {} for i in ended}
                unbatch_infos(final_infos, finals)
                for i in ended:
                    self.reset_infos[i], infos[i] = infos[i], finals[i]
                    infos[i][TERMINAL_OBSERVATION] = final_observations[i]
        for info, truncated in zip(infos, (truncations & ~terminations).tolist(), strict=True):
            info[TRUNCATED] = truncated
        try:
            return observations, as_dtype(rewards, REWARD), dones, infos
        except CastError as error:
            raise SampleError(f"a reward {error}, the dtype of Stable-Baselines3's rewards; scale it") from error

    def close(self) -> None:
        """Close the environments and end the workers; doing it twice does no harm."""
        self.envs.close()

    # --- pictures

    def get_images(self) -> Sequence[Array | None]:
        """Return a picture per environment, (height, width, 3) uint8; None each unless they render rgb_array."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The render mode is {self.render_mode}, but this method assumes it is `rgb_array` to obtain images.",
                stacklevel=2,
            )
            return [None] * self.num_envs
        return list(self.envs.render())

    # --- attributes and methods of the environments

    def has_attr(self, attr_name: str) -> bool:
        """Return whether every environment, or a wrapper of it, has an attribute.

        Args:
            attr_name: Its name.

        Raises:
            WorkerError: A worker died or did not answer.
        """
        if attr_name not in self._known and all(self._bare.call("has_wrapper_attr", attr_name)):
            self._known.add(attr_name)
        return attr_name in self._known

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Read an attribute of the environments.

        Args:
            attr_name: Its name.
            indices: Which environments; all by default.

        Returns:
            One value per environment of `indices`.

        Raises:
            AttributeError: An environment has none of this name.
            ProtocolError: The value cannot be sent.
            WorkerError: A worker died or did not answer.
        """
        self._require(attr_name)
        values = self._bare.get_attr(attr_name)
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environments to one value.

        It is set where it exists, else on the outermost wrapper.

        Args:
            attr_name: Its name.
            value: The value for all of them.
            indices: Which environments; all by default.

        Raises:
            ConfigError: The value cannot be sent.
            WorkerError: A worker died or did not answer.
        """
        chosen = list(dict.fromkeys(self._get_indices(indices)))
        # a list is one value per environment to Gymnasium, so that a value which is a list must be inside of one
        self._bare.set_attr(attr_name, [value] * len(chosen), chosen)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments.

        Args:
            method_name: Its name.
            *method_args: Its arguments, the same for all.
            indices: Which environments; all by default.
            **method_kwargs: Its keyword arguments.

        Returns:
            One result per environment of `indices`.

        Raises:
            AttributeError: An environment has no method of this name.
            ConfigError: An argument cannot be sent.
            ProtocolError: A result cannot be sent.
            WorkerError: A worker died or did not answer, or the method raised.
        """
        chosen = list(self._get_indices(indices))
        self._require(method_name)
        different = list(dict.fromkeys(chosen))
        results = self._bare.call_envs(different, method_name, *method_args, **method_kwargs)
        by_env = dict(zip(different, results, strict=True))
        return [by_env[i] for i in chosen]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether the environments have a wrapper of a class or of a subclass that this process knows.

        Classes are not sent. What is sent is the text of an environment, in which every wrapper stands by its class's
        name. Another class of the same name counts too, and a wrapper that hides those in it by a text of its own hides
        them here.

        Args:
            wrapper_class: The wrapper's class.
            indices: Which environments; all by default.

        Returns:
            One answer per environment of `indices`.

        Raises:
            WorkerError: A worker died or did not answer.
        """
        names = _names(wrapper_class)
        texts = self._bare.call("__str__")
        # "<TimeLimit<OrderEnforcing<CartPoleEnv<CartPole-v1>>>>"
        return [not names.isdisjoint(str(texts[i]).split("<")) for i in self._get_indices(indices)]

    def _require(self, name: str) -> None:
        """Raise here what there would be a fault, for which a vector env may restart workers."""
        if not self.has_attr(name):
            raise AttributeError(f"the environments have no attribute {name!r}")


def _equal_groups(options: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Return the indices of environments, those with equal options together."""
    groups: list[list[int]] = []
    for i, mine in enumerate(options):
        for group in groups:
            first = options[group[0]]
            if mine is first or data_equivalence(mine, first):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _names(wrapper_class: type[Any]) -> set[str]:
    """Return the names of a class and of all its subclasses."""
    return {wrapper_class.__name__}.union(*map(_names, wrapper_class.__subclasses__()))
