"""Physical terms of a loss: residuals of finite differences on grids, and the elastic energy of a block.

The call of each gives one number for a batch, differentiable in the fields, for `Optimization.transform_loss` or
`Optimization.compute_loss`. They want fields in physical units: train with
``Transforms.normalization(..., physical_loss=True)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from physgym.checks import positive
from physgym.envs.elasticity import Block
from physgym.errors import ConfigError

Edge = Literal["zeros", "replicate", "circular", "inner"]


class Laplacian(nn.Module):
    """Second differences of fields on a regular grid in any number of dimensions, of second order in the spacing.

    Args:
        spacing: Distance of the grid points: one number for each axis of the grid, the last axes of a field.
        boundary: What lies one point beyond the edge: "zeros" (the grid holds the inner points, the edge is kept at
            zero), "replicate" (the edge's value: no flux through the cell's face), "circular" (a periodic domain).
            With "inner" nothing is assumed, and the result is that at the inner points alone.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, spacing: Sequence[float], boundary: Edge = "inner") -> None:
        super().__init__()
        self.spacing = tuple(float(step) for step in spacing)
        self.boundary = boundary
        if not self.spacing or not all(0 < step < math.inf for step in self.spacing):
            raise ConfigError(f"spacing must hold a positive number for each axis of the grid, not {spacing}")
        if boundary not in get_args(Edge):
            raise ConfigError(f"boundary is one of {get_args(Edge)}, not {boundary!r}")

    def forward(self, field: Tensor) -> Tensor:
        """Return the Laplacian.

        Args:
            field: Shape (batch, ..., *grid), floating point.

        Returns:
            The same shape, with "inner" each axis of the grid two points shorter; in units of the field over those of
            the spacing squared.

        Raises:
            ConfigError: The field has too few axes, or with "inner" less than three points along one.
        """
        first = field.ndim - len(self.spacing)
        if first < 1:
            raise ConfigError(
                f"a field of shape {tuple(field.shape)} has too few axes for spacing={self.spacing}, one for each axis "
                "of the grid, behind the batch"
            )
        if self.boundary == "inner" and min(field.shape[first:]) < 3:
            raise ConfigError(f"a grid of {tuple(field.shape[first:])} points has no inner ones")
        terms = []
        for axis, step in enumerate(self.spacing, start=first):
            wide = self._extended(field, axis) if self.boundary != "inner" else self._inner(field, first, skip=axis)
            before, here, after = (wide.narrow(axis, start, wide.shape[axis] - 2) for start in range(3))
            terms.append((before - 2 * here + after) / step**2)
        return sum(terms[1:], terms[0])

    def inner(self, field: Tensor) -> Tensor:
        """Return the part of a field of shape (batch, ..., *grid) on which the Laplacian is given."""
        return self._inner(field, field.ndim - len(self.spacing)) if self.boundary == "inner" else field

    def _inner(self, field: Tensor, first: int, skip: int = -1) -> Tensor:
        for axis in range(first, field.ndim):
            if axis != skip:
                field = field.narrow(axis, 1, field.shape[axis] - 2)
        return field

    def _extended(self, field: Tensor, axis: int) -> Tensor:
        """Return the field with one more point at both ends of an axis."""
        first, last = field.narrow(axis, 0, 1), field.narrow(axis, field.shape[axis] - 1, 1)
        if self.boundary == "circular":
            first, last = last, first
        elif self.boundary == "zeros":
            first = last = torch.zeros_like(first)
        return torch.cat([first, field, last], axis)


class PoissonResidual(nn.Module):
    r"""Residual of Poisson's equation, :math:`a \Delta u + q = 0`, by finite differences.

    Args:
        spacing: Distance of the grid points along each axis of the grid.
        diffusivity: a, in units that make ``a * field / spacing**2`` those of the source.
        boundary: What lies beyond the edge, see `Laplacian`.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, spacing: Sequence[float], *, diffusivity: float = 1.0, boundary: Edge = "inner") -> None:
        super().__init__()
        self.laplacian = Laplacian(spacing, boundary)
        self.diffusivity = float(positive("diffusivity", diffusivity))

    def residual(self, field: Tensor, source: Tensor) -> Tensor:
        """Return what is left over at each point.

        Args:
            field: u, shape (batch, *grid).
            source: q, the same shape.

        Returns:
            The same shape, with "inner" at the inner points alone; in units of the source.

        Raises:
            ConfigError: The shapes differ or do not fit the spacing.
        """
        _alike(field, source=source)
        residual: Tensor = self.diffusivity * self.laplacian(field) + self.laplacian.inner(source)
        return residual

    def forward(self, field: Tensor, source: Tensor) -> Tensor:
        """Return the mean square of the residual, a scalar."""
        return self.residual(field, source).square().mean()


class HeatResidual(nn.Module):
    r"""Residual of a step of the heat equation, :math:`T_t = a \Delta T + q`, by finite differences.

    The source is constant during the step; the Laplacian is that of a weighted mean of the temperatures before and
    after it. With the weights 1/2 (Crank and Nicolson) the residual of a solution falls with the squares of the time
    step and of the spacing. It is small where ``diffusivity * time_step`` is small against the square of the size of
    the details (the width of a spot, not the spacing).

    Args:
        spacing: Distance of the grid points along each axis of the grid, in m.
        time_step: Time between both temperatures in s.
        diffusivity: a in m²/s.
        boundary: What lies beyond the edge, see `Laplacian`.
        implicitness: Weight of the temperature after the step: 0 (explicit), 1/2 or 1 (implicit).

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        spacing: Sequence[float],
        time_step: float,
        *,
        diffusivity: float,
        boundary: Edge = "inner",
        implicitness: float = 0.5,
    ) -> None:
        super().__init__()
        self.laplacian = Laplacian(spacing, boundary)
        self.time_step = float(positive("time_step", time_step))
        self.diffusivity = float(positive("diffusivity", diffusivity))
        if not 0 <= implicitness <= 1:
            raise ConfigError(f"implicitness must lie in [0, 1], not {implicitness}")
        self.implicitness = implicitness

    def residual(self, after: Tensor, before: Tensor, source: Tensor | None = None) -> Tensor:
        """Return what is left over at each point.

        Args:
            after: Temperature after the step in K, shape (batch, *grid); usually the prediction.
            before: Temperature before the step in K, the same shape.
            source: q in K/s, the same shape; none by default.

        Returns:
            The same shape, with "inner" at the inner points alone; in K/s.

        Raises:
            ConfigError: The shapes differ or do not fit the spacing.
        """
        _alike(after, before=before, **({} if source is None else {"source": source}))
        between = torch.lerp(before.to(after.dtype), after, self.implicitness)
        rate = self.laplacian.inner(after - before) / self.time_step
        residual: Tensor = rate - self.diffusivity * self.laplacian(between)
        return residual if source is None else residual - self.laplacian.inner(source)

    def forward(self, after: Tensor, before: Tensor, source: Tensor | None = None) -> Tensor:
        """Return the mean square of the residual in K²/s², a scalar."""
        return self.residual(after, before, source).square().mean()


class ElasticEnergy(nn.Module):
    """Potential energy of a neo-Hookean block under dead loads: strain energy minus the work of the forces, in N mm.

    An equilibrium is a minimum of it, so that a network can be trained on loads without any solution. Elements,
    quadrature and material are those of the block, which is that of a simulation::

        energy = ElasticEnergy(gymnasium.make("physgym/Beam-v0").unwrapped.block)

    The clamped nodes are held: what is predicted for them counts as zero and gets no gradient. It computes in float64
    for fields of any dtype, because the energies of float32 strains cancel; the gradient has the dtype of the field.

    Where an element is compressed to less than `floor` of its volume, ln J is continued by its tangent: the energy
    stays finite, and grows, where elements are turned inside out, as an untrained network predicts them.

    Args:
        block: The block, with mesh and material.
        floor: The least J = det F at which the energy is the material's.

    Raises:
        ConfigError: The floor is not in (0, 1).
    """

    gradients: Tensor
    weights: Tensor
    elements: Tensor

    def __init__(self, block: Block, *, floor: float = 0.1) -> None:
        super().__init__()
        if not 0 < floor < 1:
            raise ConfigError(f"floor must lie between 0 and 1, the volume ratio at rest, not {floor}")
        mesh = block.mesh
        self.n_nodes, self.n_clamped, self.floor = block.n_nodes, mesh.n_clamped, floor
        self.shear_modulus, self.lame_modulus = block.shear_modulus, block.lame_modulus
        flat = mesh.gradients.reshape(3 * len(mesh.weights), -1).T  # (a, J q)
        for name, array in (("gradients", flat), ("weights", mesh.weights), ("elements", mesh.elements)):
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)  # the block has them

    def forward(self, displacement: Tensor, forces: Tensor) -> Tensor:
        """Return the mean potential energy of a batch in N mm, a float64 scalar.

        Args:
            displacement: Of the nodes in mm, shape (batch, n_nodes, 3).
            forces: On the nodes in N, the same shape.

        Raises:
            ConfigError: A shape does not fit the block.
        """
        return self.potential(displacement, forces).mean()

    def potential(self, displacement: Tensor, forces: Tensor) -> Tensor:
        """Return the potential energy of each sample in N mm, shape (batch,), float64; arguments as of the call."""
        held = self._held(displacement)
        _alike(displacement, forces=forces)
        return self._strain_energy(held) - (held * forces.double()).sum((1, 2))

    def strain_energy(self, displacement: Tensor) -> Tensor:
        """Return the strain energy of each sample in N mm, shape (batch,), float64.

        Args:
            displacement: Of the nodes in mm, shape (batch, n_nodes, 3).
        """
        return self._strain_energy(self._held(displacement))

    def _held(self, displacement: Tensor) -> Tensor:
        """Return the displacement in float64, zero at the clamp, whose nodes come first."""
        if displacement.shape[1:] != (self.n_nodes, 3):
            raise ConfigError(
                f"the displacement has shape {tuple(displacement.shape)}; this block wants (batch, {self.n_nodes}, 3)"
            )
        free = displacement[:, self.n_clamped :].double()
        return nn.functional.pad(free, (0, 0, self.n_clamped, 0))

    def _strain_energy(self, u: Tensor) -> Tensor:
        if self.weights.device != u.device:
            self.to(u.device)  # as a part of an optimization it is in no network that would be moved
        local = u[:, self.elements].transpose(2, 3)  # (batch, element, i, a)
        gradient = (local @ self.gradients.double()).reshape(*local.shape[:3], 3, -1)  # (batch, element, i, J, q)
        f = gradient + torch.eye(3, dtype=gradient.dtype, device=gradient.device)[..., None]
        first, second, third = f.unbind(2)  # rows of F, each (batch, element, J, q)
        jacobian = (first * torch.linalg.cross(second, third, dim=2)).sum(2)  # (batch, element, q)
        log_jacobian = self._log(jacobian)
        density = 0.5 * self.shear_modulus * (f.square().sum((2, 3)) - 3 - 2 * log_jacobian)
        density = density + 0.5 * self.lame_modulus * log_jacobian.square()  # (batch, element, q)
        total: Tensor = (density @ self.weights.double()).sum(1)
        return total

    def _log(self, jacobian: Tensor) -> Tensor:
        """Return the logarithm, below the floor its tangent."""
        return jacobian.clamp(min=self.floor).log() + jacobian.clamp(max=self.floor) / self.floor - 1


def _alike(field: Tensor, **others: Tensor) -> None:
    """Raise where a field has another shape: broadcast, it would give nonsense without a word."""
    for name, other in others.items():
        if other.shape != field.shape:
            raise ConfigError(
                f"{name} has shape {tuple(other.shape)}, the other field {tuple(field.shape)}; they must be the same"
            )
