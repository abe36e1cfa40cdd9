"""Wrappers that Gymnasium lacks: a part of a picture, and a reward whose coefficients are data.

Both are for `physgym.rl.preprocessing.Preprocessing`, and for environments of any library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformObservation

from physgym.checks import integer, is_real, positive
from physgym.errors import ConfigError, SampleError
from physgym.returned import flag_of, info_of, returned
from physgym.spaces import Array, leaves, value_range

NO_HIT = ("none", "")  # what the info ``hit`` says where there was no collision


class Pinned(ABC):
    """A wrapper that depends on a file, which its arguments name together with the content that it has to have."""

    @classmethod
    @abstractmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the place and the digest of the file, as JSON data."""


class Crop(TransformObservation[Any, Any, Any], RecordConstructorArgs):
    """A part of each picture, by ranges of rows and columns as slices have them; with a step a smaller picture.

        Crop(env, rows=(40, 120, 2))  # every second row of the lower part; (120, 160, 3) becomes (40, 160, 3)

    Args:
        env: An environment that observes arrays of shape (height, width) or (height, width, channels).
        rows: First row, the one after the last, and the step, 1 if left out; None for all.
        columns: The same.

    Raises:
        ConfigError: There are no such rows or columns, or no pictures.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], rows: Sequence[int] | None = None, columns: Sequence[int] | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, rows=rows, columns=columns)
        space = env.observation_space
        found, values = leaves(space), value_range(space)
        if len(found) != 1 or found[0].path or values is None or len(found[0].shape) not in (2, 3):
            raise ConfigError(
                f"Crop is for pictures of shape (height, width) or (height, width, channels), not {space}"
            )
        height, width = found[0].shape[:2]
        part = _range("rows", rows, height), _range("columns", columns, width)
        low, high = values.low[part], values.high[part]
        cut = spaces.Box(low, high, low.shape, values.dtype.type)

        def cropped(picture: Array) -> Array:
            return np.ascontiguousarray(picture[part])

        TransformObservation.__init__(self, env, cropped, cut)


def _range(name: str, given: Sequence[int] | None, size: int) -> slice:
    if given is None:
        return slice(0, size)
    numbers = [integer(name, one, 0) for one in given] if isinstance(given, (list, tuple)) else []
    first, end, step = (*numbers, 1) if len(numbers) == 2 else numbers if len(numbers) == 3 else (0, 0, 0)
    if not first < end <= size or not step:
        raise ConfigError(
            f"Crop: {name}={given} is no range of the {size} {name} that there are; give the first one, the one after "
            "the last, and a step if it is not 1"
        )
    return slice(first, end, step)


class InfoReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A reward whose coefficients are data, computed from the infos of a step alone, so that it can be recomputed.

    A step earns ``centre * (1 - |cte - cte_offset| / max_cte) + speed * info["speed"]``, and in addition `collision`
    where the info ``hit`` names something, and `backwards` where the info ``distance`` is less than at the step before.
    A step that terminates the episode earns `stick` in place of the first two, unless it completed all `laps`. The
    infos are those of `physgym/Track-v0` and of the DonkeyCar simulator, whose distance never falls. Needed are only
    those whose coefficient is not zero.

    Args:
        env: The environment.
        centre: For the middle of the road; it falls to 0 at `max_cte`, and below it beyond. An error that is not known
            (NaN) earns nothing.
        speed: For each m/s.
        stick: For the end of an episode, usually negative; None for nothing in place of the others.
        collision: For a collision, usually negative.
        backwards: For driving backwards along the road, usually negative.
        max_cte: Distance from the middle in m that earns nothing.
        cte_offset: Where the middle is, in m to the left of the centre line.
        laps: After how many laps the environment ends an episode as completed; 0 for never.

    Raises:
        ConfigError: An argument is no number.
        SampleError: In a step: an info is missing.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        centre: float = 0.0,
        speed: float = 0.0,
        stick: float | None = None,
        collision: float = 0.0,
        backwards: float = 0.0,
        max_cte: float = 4.0,
        cte_offset: float = 0.0,
        laps: int = 0,
    ) -> None:
        coefficients = {"centre": centre, "speed": speed, "collision": collision, "backwards": backwards}
        RecordConstructorArgs.__init__(
            self,
            stick=stick,
            max_cte=max_cte,
            cte_offset=cte_offset,
            laps=laps,
            **coefficients,  # type: ignore[arg-type]
        )
        super().__init__(env)
        for name, value in (*coefficients.items(), ("stick", stick or 0.0), ("cte_offset", cte_offset)):
            if not is_real(value) or not np.isfinite(value):
                raise ConfigError(f"InfoReward: {name} must be a finite number, not {value!r}")
        self._coefficients, self._stick = {name: float(value) for name, value in coefficients.items()}, stick
        self._max_cte, self._offset = positive("InfoReward: max_cte", max_cte), float(cte_offset)
        self._laps = integer("InfoReward: laps", laps, 0)
        self._distance: Any = None  # at the step before

    @property
    def infos(self) -> tuple[str, ...]:
        """Return the names of the infos that the reward needs."""
        named = {"centre": "cte", "speed": "speed", "collision": "hit", "backwards": "distance"}
        found = [info for coefficient, info in named.items() if self._coefficients[coefficient]]
        return (*found, "lap_count") if self._laps and self._stick is not None else tuple(found)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        self._distance = None
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment.

        Raises:
            SampleError: An info is missing.
        """
        observation, _, terminated, truncated, info = returned("step", self.env.step(action), 5)
        given, over = info_of(info), flag_of("terminated", terminated)
        columns = {name: _column(name, given) for name in self.infos}
        before = self._distance
        self._distance = columns.get("distance")
        rewards = self._rewards(columns, np.array([over]), self._distance if before is None else before)
        return observation, float(rewards[0]), terminated, truncated, info

    def rewards(self, columns: Mapping[str, Array], episodes: Array | None = None, steps: Array | None = None) -> Array:
        """Return the rewards of recorded rows, shape (n,), float64: to the bit what `step` returned there.

        Args:
            columns: ``info/NAME`` for `infos`, and ``terminated``, of shape (n,).
            episodes: Number of each row's episode, shape (n,); needed where `backwards` is not zero.
            steps: Number of each row in its episode, shape (n,); the same.

        Raises:
            ConfigError: A column is missing.
            SampleError: A step is missing between two rows, so that it is not known whether the car drove backwards.
        """
        needed = [*(f"info/{name}" for name in self.infos), "terminated"]
        if missing := [name for name in needed if name not in columns]:
            raise ConfigError(
                f"the reward is computed from {needed}, and {missing} were not recorded; there are {list(columns)}. "
                "Name them in infos= of the Recorder, or set their coefficients to 0"
            )
        infos = {name: np.asarray(columns[f"info/{name}"]) for name in self.infos}
        before = None
        if "distance" in infos:
            if episodes is None or steps is None:
                raise ConfigError(
                    "whether a car drove backwards is known from the step before: give episodes and steps of the rows"
                )
            before = _values_before(infos["distance"], episodes, steps)
        return self._rewards(infos, np.asarray(columns["terminated"]).astype(np.bool_), before)

    def _rewards(self, infos: Mapping[str, Array], terminated: Array, before: Array | None) -> Array:
        """Return the reward of each of n rows."""
        coefficients = self._coefficients
        earned = np.zeros(len(terminated))
        if "cte" in infos:
            error = np.abs(infos["cte"].astype(np.float64) - self._offset)
            near = np.where(np.isnan(error), 0.0, 1.0 - error / self._max_cte)
            earned = earned + coefficients["centre"] * near
        if "speed" in infos:
            earned = earned + coefficients["speed"] * infos["speed"].astype(np.float64)
        if self._stick is not None:
            over = terminated & (infos["lap_count"] < self._laps) if "lap_count" in infos else terminated
            earned = np.where(over, self._stick, earned)
        if "hit" in infos:
            nothing = [text.encode() for text in NO_HIT] if infos["hit"].dtype.kind == "S" else NO_HIT
            earned = earned + coefficients["collision"] * ~np.isin(infos["hit"], nothing)
        if before is not None:
            earned = earned + coefficients["backwards"] * (infos["distance"] < before)
        return np.asarray(earned, np.float64)


def _column(name: str, info: Mapping[str, Any]) -> Array:
    if name not in info:
        raise SampleError(
            f"the reward needs the info {name!r}, which the environment does not give; there are "
            f"{sorted(map(str, info))}. Set its coefficient to 0"
        )
    return np.asarray([info[name]])


def _values_before(values: Array, episodes: Array, steps: Array) -> Array:
    """Return the value at the step before of each row; of the first step of an episode its own."""
    order = np.lexsort((steps, episodes))
    number, step, sorted_values = np.asarray(episodes)[order], np.asarray(steps)[order], values[order]
    same = np.concatenate([[False], number[1:] == number[:-1]])
    gap = np.where(same, np.diff(step, prepend=0) != 1, step != 0)
    if gap.any():
        at = int(np.flatnonzero(gap)[0])
        raise SampleError(
            f"the step before step {step[at]} of episode {number[at]} is missing, so that it is not known whether the "
            "car drove backwards there; set backwards to 0, or leave this episode out"
        )
    before = np.empty_like(values)
    before[order] = np.where(same, np.concatenate([sorted_values[:1], sorted_values[:-1]]), sorted_values)
    return before
