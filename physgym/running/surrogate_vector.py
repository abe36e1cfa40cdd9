"""`SurrogateVectorEnv`: surrogates of several simulations, stepped with one batched prediction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from physgym import placement
from physgym.checks import integer
from physgym.closed_on_exit import ClosedOnExit
from physgym.engine_names import Engine
from physgym.errors import ConfigError, RejectSample
from physgym.feedback import Declaration
from physgym.registration import EnvLike
from physgym.running.surrogate import SurrogateEnv
from physgym.running.surrogate_core import SurrogateCore
from physgym.running.surrogate_network import loaded, prepared
from physgym.running.transition_outcome import Judge
from physgym.sample import Sample
from physgym.spaces import Array
from physgym.vector.arguments import Arguments, check_arguments, one_each

if TYPE_CHECKING:
    from physgym.nn import Predictor


class SurrogateVectorEnv(SyncVectorEnv, ClosedOnExit):
    """Surrogates of several simulations in this process, stepped with one batched prediction.

    Equal to a `gymnasium.vector.SyncVectorEnv` of `SurrogateEnv`, seed for seed, up to the rounding of a prediction in
    a batch; all three autoreset modes. A wrapper around the simulation that changes actions in its ``step`` (and is not
    a `gymnasium.ActionWrapper`) makes the prediction of its environment a single one.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one simulation.
        predictor: A `physgym.nn.Predictor`, or the folder of its session or checkpoint.
        num_envs: Number of environments.
        env_kwargs: Arguments of the simulation's constructor, ``render_mode`` among them; or a list, one dictionary for
            each environment.
        autoreset_mode: What happens when an episode ends, as in Gymnasium.
        reward: As in `SurrogateEnv`.
        terminated: As in `SurrogateEnv`.
        feedback: As in `SurrogateEnv`.
        copy: Whether observations are copies.
        engine: As in `SurrogateEnv`.

    Attributes:
        predictor: The network.

    Raises:
        ConfigError: As `SurrogateEnv`, or there is no environment.
        CheckpointError: There is no usable checkpoint.
    """

    def __init__(
        self,
        env: EnvLike,
        predictor: Predictor | str | Path,
        num_envs: int = 1,
        *,
        env_kwargs: Arguments = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        reward: Judge | None = None,
        terminated: Judge | None = None,
        feedback: Declaration | None = None,
        copy: bool = True,
        engine: Engine = "torch",
    ) -> None:
        num_envs = integer("num_envs", num_envs, 1)
        self._engine = engine
        self._use(loaded(predictor), num_envs)
        made: list[SurrogateEnv] = []
        each = one_each(check_arguments(env_kwargs), num_envs, listed=isinstance(env_kwargs, Sequence))

        def make() -> SurrogateEnv:
            with placement.at(len(made), num_envs):
                one = SurrogateEnv(
                    env,
                    self._prepared,
                    env_kwargs=each[len(made)],
                    reward=reward,
                    terminated=terminated,
                    feedback=feedback,
                )
            made.append(one)
            return one

        try:
            super().__init__([make] * num_envs, copy=copy, autoreset_mode=autoreset_mode)
        except BaseException:
            for one in made:
                one.close()
            raise
        self._surrogates = made

    @property
    def predictor(self) -> Any:
        """Return the network."""
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: Predictor | str | Path) -> None:
        self._use(loaded(predictor), self.num_envs)
        for one in self._surrogates:
            one.predictor = self._prepared

    def _use(self, network: Any, num_envs: int) -> None:
        if not hasattr(network, "predict"):
            raise ConfigError(f"a batched step needs a physgym.nn.Predictor, not {network!r}")
        if getattr(network, "recurrent", False) is True:
            raise ConfigError(
                "a recurrent network remembers the steps of one environment, and a batched step asks it for several; "
                "use a SurrogateEnv for each"
            )
        self._predictor, self._prepared = network, prepared(network, num_envs, self._engine)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; see `gymnasium.vector.VectorEnv.reset`."""
        if self._engine != "torch":
            self._prepared.refresh()
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step all environments; see `gymnasium.vector.VectorEnv.step`."""
        resets = self.autoreset_mode == AutoresetMode.NEXT_STEP  # of those that have ended
        self._prepare(
            [
                (one._core, one._core.action_here(action))
                for one, action, ended in zip(
                    self._surrogates, iterate(self.action_space, actions), self._autoreset_envs, strict=False
                )
                if not (resets and ended)
            ]
        )
        return super().step(actions)

    def _prepare(self, steps: Sequence[tuple[SurrogateCore, Any]]) -> None:
        """Predict for steps that are about to be made."""
        asking: list[tuple[SurrogateCore, Any, Sample]] = []
        for core, action in steps:
            try:
                asking.append((core, action, core.fed(action)))
            except RejectSample:
                continue  # the step says so itself
        if not asking:
            return
        names = list(asking[0][2])
        batch = {name: np.stack([fed[name] for _, _, fed in asking]) for name in names}
        start = time.perf_counter()
        predicted = self._prepared.predict(batch, batched=True)
        share = (time.perf_counter() - start) / len(asking)
        for i, (core, action, _) in enumerate(asking):
            core.prepare(action, {name: value[i] for name, value in predicted.items()}, share)
