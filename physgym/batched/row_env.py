"""`RowEnv`: one row of a vector environment as an environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.batched.env import BATCHED, BatchedEnv
from physgym.batched.rows import VectorRows, arrays_of, row_info, step_info
from physgym.errors import ConfigError
from physgym.policies import ActionPolicy


class RowEnv(gymnasium.Env[Any, Any]):
    """A row of a vector environment.

    What else the vector environment has is an attribute of each of its rows. A row is stepped by itself only where it
    is the only one; others are stepped together, by `physgym.worker.batched_steps`.

    Args:
        rows: The rows.
        row: Which one.
    """

    def __init__(self, rows: VectorRows, row: int = 0) -> None:
        self._rows, self._row = rows, row
        self._seed = 0
        venv = rows.venv
        self.observation_space, self.action_space = venv.single_observation_space, venv.single_action_space
        self.metadata = {
            **{key: value for key, value in venv.metadata.items() if key != "autoreset_mode"},
            BATCHED: True,
        }
        self.render_mode, self.spec = venv.render_mode, venv.spec

    @property
    def batch(self) -> Any:
        """Return the vector environment."""
        return self._rows.venv

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see `gymnasium.Env.reset`."""
        self._alone("reset")
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**63)) if seed is None else seed
        given = dict(options or {})
        if "parameters" in given:
            given["parameters"] = _as_batch(given["parameters"])
        observations, infos = self._rows.reset(np.ones(1, np.bool_), [seed], given)
        return self._observation(observations), row_info(arrays_of(infos), 0, 1)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step; see `gymnasium.Env.step`."""
        self._alone("step")
        if self._rows.mode is AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"{type(self.batch).__name__} resets in the step that ends an episode; a row needs another mode"
            )
        leaves = [np.asarray(value)[np.newaxis] for value in walk.flatten(self.action_space, action)]
        observations, rewards, terminated, truncated, infos = self._rows.step(leaves)
        info = step_info(arrays_of(infos), 0, 1)
        return self._observation(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def _observation(self, leaves: list[Any]) -> Any:
        return walk.unflatten(self.observation_space, iter([leaf[0].copy() for leaf in leaves]))

    def _alone(self, doing: str) -> None:
        if self._rows.count > 1:
            raise ConfigError(f"row {self._row} of {self._rows.count} cannot {doing} by itself; step all of them")

    @property
    def np_random_seed(self) -> int:
        """Return the last seed that the row was given; -1 where it was given none."""
        seed = self._rows.seeds[self._row]
        return -1 if seed is None else seed

    def render(self) -> Any:
        """Return the picture of this row."""
        pictures = self.batch.render()
        return pictures if pictures is None else pictures[self._row]

    def close(self) -> None:
        """Close the vector environment, with all of its rows; calling it again does no harm."""
        self.batch.close()

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Set an attribute of the vector environment, for all rows."""
        setattr(self.batch, name, value)
        return True

    def __getattr__(self, name: str) -> Any:
        # what else the vector environment declares, such as its sample_space
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._rows.venv, name)


class SimulatedRow(RowEnv):
    """A row of a `BatchedEnv`, whose actions are drawn by it."""

    def episode_policy(self, episode: int) -> ActionPolicy:
        """Return what draws the actions of an episode: those that the batch draws for the seed of its row."""
        step = -1

        def act(observation: Any, rng: np.random.Generator) -> Any:
            nonlocal step
            step += 1
            drawn = self.batch.draw_actions(np.array([self._seed]), np.array([step]))
            leaves = walk.flatten(self.action_space, drawn)
            return walk.unflatten(self.action_space, iter([leaf[0] for leaf in leaves]))

        return act


def row_env(rows: VectorRows, row: int = 0) -> RowEnv:
    """Return a row as an environment.

    Args:
        rows: The rows.
        row: Which one.

    """
    return SimulatedRow(rows, row) if isinstance(rows.venv, BatchedEnv) else RowEnv(rows, row)


def _as_batch(parameters: Any) -> Any:
    if isinstance(parameters, dict):
        return {name: _as_batch(value) for name, value in parameters.items()}
    return np.asarray(parameters)[np.newaxis]
