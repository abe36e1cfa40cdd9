"""`HeatBatch`: heat conduction in many square plates at once, in tensors on one device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from physgym.batched.random import ACTIONS, PARAMETERS, uniform
from physgym.batched.simulation import BatchedSimulation
from physgym.checks import integer, positive
from physgym.errors import ConfigError
from physgym.sample import FieldRole


class HeatBatch(BatchedSimulation):
    r"""Heat equation in square plates whose edges are kept at 0 K: :math:`T_t = a (T_{xx} + T_{yy}) + q`.

    The rows are those of `physgym.envs.heat.Heat`, with the same solver (sine series in space, exact in time) in the
    form of products of matrices, in float64, and with a ``diffusivity`` of their own as a further parameter. Random
    numbers are other ones: they are drawn on the device.

    The parameters of an episode are its initial spots: their ``count``, and of each of ``max_spots`` centre ``x`` and
    ``y`` and standard deviation ``width`` as parts of the side, and ``height`` in K; and the ``diffusivity`` in m²/s.
    The *action* is the source q in K/s on the grid, constant during a step; the *observation* the temperature now. Both
    have shape (size, size), float32, rows of the array along y.

    Sample: ``temperature`` before the step, ``source``, ``diffusivity`` (the same at all points) and the target
    ``next_temperature``; (size, size), float32.

    Args:
        num_envs: Number of plates.
        device: Where they are computed, such as "cuda".
        size: Inner grid points per side; spacing is length / (size + 1).
        length: Side of the plates in m.
        diffusivity: Lowest and highest a in m²/s.
        time_step: Time of a step in s.
        max_source: Bound of the source in K/s.
        max_initial: Bound of the initial temperature in K.
        max_spots: Spots at most in a random field.
        spot_width: Lowest and highest standard deviation of a spot, as a part of the side.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.

    Raises:
        ConfigError: An argument is out of range.
    """

    sample_roles: ClassVar[dict[str, FieldRole]] = {
        "temperature": "input",
        "source": "input",
        "diffusivity": "input",
        "next_temperature": "target",
    }
    sample_units: ClassVar[dict[str, str]] = {
        "temperature": "K",
        "source": "K/s",
        "diffusivity": "m²/s",
        "next_temperature": "K",
    }
    sample_dimensions: ClassVar[dict[str, int]] = dict.fromkeys(sample_roles, 2)
    sample_feedback: ClassVar[dict[str, str]] = {"next_temperature": "temperature"}
    parameter_units: ClassVar[dict[str, str]] = {
        "x": "length",
        "y": "length",
        "width": "length",
        "height": "K",
        "diffusivity": "m²/s",
    }

    def __init__(
        self,
        num_envs: int,
        *,
        device: str | torch.device = "cpu",
        size: int = 64,
        length: float = 0.1,
        diffusivity: tuple[float, float] = (5e-5, 2e-4),
        time_step: float = 0.5,
        max_source: float = 20.0,
        max_initial: float = 20.0,
        max_spots: int = 4,
        spot_width: tuple[float, float] = (0.05, 0.15),
        max_episode_steps: int | None = None,
    ) -> None:
        super().__init__(num_envs, device=device, max_episode_steps=max_episode_steps)
        integer("size", size, 1)
        integer("max_spots", max_spots, 1)
        numbers = {"length": length, "time_step": time_step, "max_source": max_source, "max_initial": max_initial}
        for name, value in numbers.items():
            positive(name, value)
        for name, pair in (("diffusivity", diffusivity), ("spot_width", spot_width)):
            if not (len(pair) == 2 and 0 < pair[0] <= pair[1] < np.inf):
                raise ConfigError(f"{name} must be two positive numbers, the lower first, not {pair}")
        self.size, self.step_seconds, self._seconds = size, float(time_step), float(time_step)
        self.max_source, self.max_initial = float(max_source), float(max_initial)
        self.max_spots, self.spot_width, self.diffusivity = max_spots, spot_width, diffusivity
        count = torch.arange(1, size + 1, dtype=torch.float64)
        self._axis = (count / (size + 1)).to(self.device)
        # a discrete sine transform of type 1, orthogonal: its own inverse
        self._sines = (torch.sin(torch.pi * torch.outer(count, count) / (size + 1)) * (2 / (size + 1)) ** 0.5).to(
            self.device
        )
        squares = (torch.pi * count / length) ** 2
        self._squares = (squares[:, None] + squares).to(self.device)  # 1/m², for each product of sines
        full = (num_envs, size, size)
        self._temperature, self._decay, self._gain = (
            torch.zeros(full, dtype=torch.float64, device=self.device) for _ in range(3)
        )
        self._before = self._source = self._temperature
        self._diffusivity = torch.zeros((num_envs, 1), dtype=torch.float64, device=self.device)
        self._declare()

    def _declare(self) -> None:
        """Declare the spaces."""
        each, shape = (self.max_spots,), (self.size, self.size)
        self.parameter_space = spaces.Dict(
            [
                ("count", spaces.Discrete(self.max_spots, start=1)),
                ("x", spaces.Box(0.0, 1.0, each, np.float64)),
                ("y", spaces.Box(0.0, 1.0, each, np.float64)),
                ("width", spaces.Box(*self.spot_width, each, np.float64)),
                ("height", spaces.Box(-self.max_initial, self.max_initial, each, np.float64)),
                ("diffusivity", spaces.Box(*self.diffusivity, (1,), np.float64)),
            ]
        )
        temperature = spaces.Box(-np.inf, np.inf, shape, np.float32)
        source = spaces.Box(-self.max_source, self.max_source, shape, np.float32)
        diffusivity = spaces.Box(0.0, np.inf, shape, np.float32)
        self._use_spaces(temperature, source)
        self.sample_space = spaces.Dict(
            {
                "temperature": temperature,
                "source": source,
                "diffusivity": diffusivity,
                "next_temperature": temperature,
            }
        )

    def begin(self, rows: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Set initial temperatures and diffusivities."""
        spots = [parameters[name] for name in ("count", "x", "y", "width", "height")]
        self._temperature = self._temperature.index_copy(0, rows, self._field(spots, self.max_initial).double())
        self._before = self._temperature
        self._source = self._source.index_fill(0, rows, 0.0)
        self._diffusivity[rows] = parameters["diffusivity"]
        rates = parameters["diffusivity"][:, :, None] * self._squares
        self._decay[rows] = torch.exp(-rates * self._seconds)
        self._gain[rows] = -torch.expm1(-rates * self._seconds) / rates

    def advance(self, actions: Tensor) -> Tensor:
        """Advance by one time step; a row with a source that is not finite is rejected, and stays as it is."""
        source = actions.double()
        rejected = ~torch.isfinite(source).flatten(1).all(1)
        source = torch.where(rejected[:, None, None], torch.zeros_like(source), source)
        self._before, self._source = self._temperature, source
        modes = self._decay * self._transformed(self._temperature) + self._gain * self._transformed(source)
        after = self._transformed(modes)
        self._temperature = torch.where(rejected[:, None, None], self._temperature, after)
        return rejected

    def _transformed(self, fields: Tensor) -> Tensor:
        transformed: Tensor = self._sines @ fields @ self._sines
        return transformed

    def observation(self) -> Tensor:
        """Return the temperatures now in K, shape (rows, size, size)."""
        return self._temperature

    def sample(self) -> Mapping[str, Tensor]:
        """Return temperatures before and after the step, sources and diffusivities."""
        return {
            "temperature": self._before,
            "source": self._source,
            "diffusivity": self._diffusivity[:, :, None].expand_as(self._temperature),
            "next_temperature": self._temperature,
        }

    def draw_parameters(self, seeds: Tensor) -> Mapping[str, Tensor]:
        """Draw spots for the initial temperature, and diffusivities, uniform in their logarithm."""
        drawn = uniform(seeds, torch.zeros_like(seeds), 2 + 4 * self.max_spots, PARAMETERS)
        low, high = self.diffusivity
        diffusivity = (low * (high / low) ** drawn[:, 1:2]).clamp(low, high)
        names = ("count", "x", "y", "width", "height")
        spots = self._spots(drawn[:, :1], drawn[:, 2:], self.max_initial)
        return {**dict(zip(names, spots, strict=True)), "diffusivity": diffusivity}

    def draw_action_tensors(self, seeds: Tensor, steps: Tensor) -> Tensor:
        """Draw sources of Gaussian spots in K/s, shape (rows, size, size), float32."""
        drawn = uniform(seeds, steps, 1 + 4 * self.max_spots, ACTIONS)
        return self._field(self._spots(drawn[:, :1], drawn[:, 1:], self.max_source), self.max_source)

    def _spots(self, first: Tensor, drawn: Tensor, bound: float) -> list[Tensor]:
        """Return count, x, y, width and height of spots from numbers below 1, shapes (m, 1) and (m, 4 max_spots)."""
        x, y, width, height = drawn.tensor_split(4, dim=1)
        low, high = self.spot_width
        return [1 + (first[:, 0] * self.max_spots).floor(), x, y, low + width * (high - low), (2 * height - 1) * bound]

    def _field(self, spots: list[Tensor], bound: float) -> Tensor:
        """Return the sums of spots, scaled down to a bound: shape (m, size, size), float32."""
        count, x, y, width, height = spots
        there = torch.arange(self.max_spots, device=self.device) < count[:, None]
        height = torch.where(there, height, torch.zeros_like(height))
        along_x = torch.exp(-(((self._axis - x[:, :, None]) / width[:, :, None]) ** 2) / 2)
        along_y = height[:, :, None] * torch.exp(-(((self._axis - y[:, :, None]) / width[:, :, None]) ** 2) / 2)
        field = along_y.transpose(1, 2) @ along_x
        largest = field.abs().flatten(1).amax(1).clamp(min=bound)
        return (field * (bound / largest)[:, None, None]).float().clamp(-bound, bound)
