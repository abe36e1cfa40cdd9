"""Finite-strain elasticity of a clamped block: a hexahedral mesh and a neo-Hookean static solver, numpy and scipy only.

Unknowns are numbered slab by slab along x, so that the stiffness is a narrow band, which is assembled straight into
LAPACK's band storage and factored by banded Cholesky. Full Gauss quadrature of quadratic or cubic elements keeps the
discretization conforming and free of shear locking, and its equilibria are minima of the discrete potential energy.

Arrays over quadrature points put tensor components first and points last, so that each component is contiguous.

Source of the material: Bonet and Wood, "Nonlinear Continuum Mechanics for Finite Element Analysis", 2nd ed., Cambridge
2008, section 6.4.3.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from physgym.checks import integer, is_integer
from physgym.errors import ConfigError, RejectSample

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


SMALL_ROTATION = 1e-3  # radians; below it a step is simply added
LOOSE = 1e-3  # tolerance of load steps before the last
SMALLEST_LOAD_STEP = 1 / 64
SMALLEST_FRACTION = 1e-3  # of a Newton step
ITERATIONS_PER_LOAD_STEP = 25
POLAR_ITERATIONS = 6  # Newton's, each doubles the digits; a guess need not be exact
WORTH_KEEPING = 5  # iterations with an old factor that take as long as a new one and its iteration
FIRST_SHARE, LARGEST_SHARE = 0.02, 100.0  # of the stiffness at rest, to make one positive definite

# Components (i, j) of the blocks of an element's stiffness that are computed; it is symmetric.
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))

# The pairs of indices whose 2 x 2 minors are the cofactors of a 3 x 3 matrix, row by row.
_NEXT = np.array([1, 2, 0])
_LAST = np.array([2, 0, 1])


class BlockMesh:
    """A block [0, Lx] x [0, Ly] x [0, Lz] of tensor-product Lagrange hexahedra on a regular grid of nodes.

    Node (ix, iy, iz) has the number (ix * ny + iy) * nz + iz.

    Args:
        size: Edge lengths in mm.
        nodes: Number of nodes along x, y and z, each a multiple of ``order``, plus 1.
        order: Polynomial order of the elements.

    Attributes:
        positions: Node positions in mm, shape (n, 3), float64.
        elements: Node numbers of the elements, shape (n_elements, (order + 1)^3), int64.
        cells: Hexahedra between neighbouring nodes, corners in VTK's order, shape (n_cells, 8), int64.
        faces: Quadrilaterals between neighbouring nodes of the surface, counter-clockwise seen from outside, shape
            (n_faces, 4), int64.
        gradients: Shape function gradients in 1/mm, shape (3, n_points, n_element_nodes), the same in each element.
        weights: Quadrature weights in mm^3, shape (n_points,).

    Raises:
        ConfigError: An argument is out of range, or nodes and order do not fit.
    """

    def __init__(self, size: tuple[float, float, float], nodes: tuple[int, int, int], order: int) -> None:
        if len(size) != 3 or not all(0 < length < np.inf for length in size):
            raise ConfigError(f"size={size} must be three positive lengths in mm")
        order = integer("order", order, 1, hint="; 2 and 3 are accurate in bending")
        for count in nodes:
            integer("nodes", count)
        if len(nodes) != 3 or any(not is_integer(count, 2) or (count - 1) % order for count in nodes):
            fit = tuple(max(1, round((count - 1) / order)) * order + 1 for count in nodes)
            raise ConfigError(
                f"nodes={nodes} does not fit order={order}: each direction needs a multiple of {order}, plus 1. Use "
                f"nodes={fit} or another order."
            )
        self.size, self.nodes, self.order = size, nodes, order
        axes = [np.linspace(0.0, length, count) for length, count in zip(size, nodes, strict=True)]
        grid = np.arange(np.prod(nodes), dtype=np.int64).reshape(nodes)
        self.positions: Floats = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        self.elements: Ints = self._elements(grid)
        self.cells: Ints = self._cells(grid)
        self.faces: Ints = self._faces(grid)
        self.gradients, self.weights = self._quadrature()

    @property
    def n_clamped(self) -> int:
        """Return the number of nodes in the slab x = 0, which come first."""
        return self.nodes[1] * self.nodes[2]

    def _elements(self, grid: Ints) -> Ints:
        p = self.order
        windows = np.lib.stride_tricks.sliding_window_view(grid, (p + 1,) * 3)[::p, ::p, ::p]
        return np.ascontiguousarray(windows.reshape(-1, (p + 1) ** 3))

    @staticmethod
    def _cells(grid: Ints) -> Ints:
        corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
        ends = [tuple(slice(at, at - 1 or None) for at in corner) for corner in corners]
        return np.stack([grid[end].ravel() for end in ends], -1)

    @staticmethod
    def _faces(grid: Ints) -> Ints:
        found = []
        for axis in range(3):
            # rolling the axes keeps their handedness, so that one winding points to +axis for each axis
            rolled = grid.transpose(axis, (axis + 1) % 3, (axis + 2) % 3)
            for end, step in ((0, -1), (-1, 1)):
                side = rolled[end]
                quads = [side[:-1, :-1], side[1:, :-1], side[1:, 1:], side[:-1, 1:]][::step]
                found.append(np.stack(quads, -1).reshape(-1, 4))
        return np.concatenate(found)

    def _quadrature(self) -> tuple[Floats, Floats]:
        p = self.order
        knots = np.linspace(-1.0, 1.0, p + 1)
        points, weights = np.polynomial.legendre.leggauss(p + 1)
        coefficients = np.linalg.inv(np.vander(knots, increasing=True))  # (p + 1, p + 1), column a: polynomial a
        powers = np.vander(points, p + 1, increasing=True)
        value = powers @ coefficients  # (point, a)
        slope = powers[:, :-1] @ (np.arange(1, p + 1)[:, None] * coefficients[1:])
        half = np.array([s * p / (count - 1) / 2 for s, count in zip(self.size, self.nodes, strict=True)])
        gradients = []
        for axis in range(3):
            one, two, three = (slope if axis == direction else value for direction in range(3))
            gradient = np.einsum("qa,rb,sc->qrsabc", one, two, three).reshape((p + 1) ** 3, -1) / half[axis]
            gradients.append(gradient)
        volume = np.einsum("q,r,s->qrs", weights, weights, weights).ravel() * np.prod(half)
        return np.stack(gradients), volume


@dataclass(frozen=True)
class Solution:
    """An equilibrium.

    Attributes:
        displacement: Nodal displacement in mm, shape (n, 3), float64; zero at x = 0.
        iterations: Newton iterations spent, those of failed load steps included.
        factorizations: Stiffness matrices factored; fewer than iterations, because a factor is kept while it works.
        load_steps: Load steps that converged; 1 if the whole load was applied at once.
        residual: Norm of the unbalanced force over that of the load.
    """

    displacement: Floats
    iterations: int
    factorizations: int
    load_steps: int
    residual: float


@dataclass(frozen=True)
class DeformationState:
    """A displacement and what follows from it at the quadrature points of all elements.

    Attributes:
        u: Displacement in mm, shape (n, 3).
        deformation: Deformation gradient F, shape (3, 3, n_elements * n_points).
        cofactor: J F^-T, of the same shape.
        jacobian: J = det F, shape (n_elements * n_points,).
        log_jacobian: ln J.
        strain_energy: In N mm.
    """

    u: Floats
    deformation: Floats
    cofactor: Floats
    jacobian: Floats
    log_jacobian: Floats
    strain_energy: float


class Block:
    """A block of compressible neo-Hookean material, clamped at x = 0.

    The strain energy density is ``mu/2 (I1 - 3 - 2 ln J) + lambda/2 (ln J)^2``, with Lame's constants from Young's
    modulus and Poisson's ratio.

    Args:
        mesh: The mesh.
        young_modulus: In MPa.
        poisson_ratio: In [0, 0.5); the closer to 0.5, the finer the mesh must be, because nothing is done against
            volumetric locking.

    Raises:
        ConfigError: A material constant is out of range.
    """

    def __init__(self, mesh: BlockMesh, young_modulus: float, poisson_ratio: float) -> None:
        if not 0 < young_modulus < np.inf:
            raise ConfigError(f"young_modulus={young_modulus} must be a positive number of MPa")
        if not 0 <= poisson_ratio < 0.5:
            raise ConfigError(f"poisson_ratio={poisson_ratio} must lie in [0, 0.5); 0.49 is nearly incompressible")
        self.mesh = mesh
        self.shear_modulus = young_modulus / (2 * (1 + poisson_ratio))
        self.lame_modulus = young_modulus * poisson_ratio / ((1 + poisson_ratio) * (1 - 2 * poisson_ratio))
        self.n_nodes = len(mesh.positions)
        self.n_elements, self._n_local = mesh.elements.shape
        self._n_points = len(mesh.weights)
        self._first = 3 * mesh.n_clamped  # the first free unknown; the clamped slab is numbered first
        self.n_free = 3 * self.n_nodes - self._first
        n_local, n_points = self._n_local, self._n_points
        self._gradient = mesh.gradients.reshape(3 * n_points, n_local)
        self._divergence = np.ascontiguousarray((mesh.gradients * mesh.weights[:, None]).reshape(-1, n_local))
        self._point_gradient = np.ascontiguousarray(mesh.gradients.transpose(1, 0, 2))  # (q, J, a)
        self._weights = np.tile(mesh.weights, self.n_elements)
        self._scatter = (3 * mesh.elements + np.arange(3)[:, None, None]).ravel()  # (i, m, a) -> unknown
        laplacian = np.tensordot(mesh.gradients * mesh.weights[:, None], mesh.gradients, ([0, 1], [0, 1]))
        self._laplacian = laplacian
        n_entries = self.n_elements * n_local**2
        shape = (3, self.n_elements, n_points, n_local)
        # Memory that the stiffness is made in: fresh pages for it at each iteration take as long as the arithmetic.
        self._entries = np.zeros(6 * n_entries + 1)
        self._work = [np.empty(shape) for _ in range(2)]
        self.band_width, self._stiffness_layers = self._layers(3, PAIRS)
        # what rounding leaves of the internal forces near rest, measured to be five times less, in N
        face = mesh.size[1] * mesh.size[2]
        self.rounding = 3e-15 * (self.shear_modulus + self.lame_modulus) * face
        rest = self.state(np.zeros((self.n_nodes, 3)))
        assert rest is not None
        self.rest = rest
        self.rest_stiffness = self.stiffness(self.rest)
        self.rest_factor = self._surely(self.rest_stiffness)
        width, layers = self._layers(1, ((0, 0),))
        entries = np.append(np.tile(laplacian.ravel(), self.n_elements), 0.0)
        poisson = self._assemble(layers, entries, np.empty((self.n_free // 3, width)))
        self._poisson_factor = self._surely(poisson)

    def _surely(self, band: Floats) -> Floats:
        factor = self.factor(band.copy(order="F"))
        assert factor is not None  # at rest the block is stable
        return factor

    # from element matrices to band storage

    def _layers(self, components: int, pairs: tuple[tuple[int, int], ...]) -> tuple[int, list[tuple[Any, Ints]]]:
        """Return how to sum the entries (pair, element, a, b) of element matrices into lower band storage.

        Returns:
            Rows of the storage; and for the first, second, ... entry that a cell sums, the cells concerned and the
            entries' numbers. All cells have a first one, which for an empty cell is the zero behind the entries.
            Adding layer by layer is faster than `numpy.bincount`, and needs no new memory.
        """
        elements, first = components * self.mesh.elements, components * self.mesh.n_clamped
        width = int(np.ptp(elements, axis=1).max()) + components
        size = (components * self.n_nodes - first) * width
        found = []
        for i, j in pairs:
            row, column = np.broadcast_arrays(elements[:, :, None] + i - first, elements[:, None, :] + j - first)
            low, high = np.minimum(row, column), np.maximum(row, column)
            clamped_or_mirrored = (low < 0) | ((row < column) & (i == j))
            found.append(np.where(clamped_or_mirrored, size, low * width + high - low).ravel())
        cell = np.concatenate(found)
        order = np.argsort(cell, kind="stable")
        order = order[: np.searchsorted(cell[order], size)]
        cells, start, count = np.unique(cell[order], return_index=True, return_counts=True)
        everywhere = np.full(size, cell.size)
        everywhere[cells] = order[start]
        layers: list[tuple[Any, Ints]] = [(slice(None), everywhere)]
        for depth in range(1, int(count.max())):
            deep = count > depth
            layers.append((cells[deep], order[start[deep] + depth]))
        return width, layers

    @staticmethod
    def _assemble(layers: list[tuple[Any, Ints]], entries: Floats, out: Floats) -> Floats:
        """Sum entries, of which the last is zero, into `out` of shape (n, width); returns it as LAPACK wants it."""
        flat = out.reshape(-1)
        np.take(entries, layers[0][1], out=flat, mode="clip")  # indices are in range; without clip, take copies
        for cells, numbers in layers[1:]:
            flat[cells] += entries[numbers]
        return out.T  # column-major (width, n)

    @staticmethod
    def factor(band: Floats) -> Floats | None:
        """Return the banded Cholesky factor, made in place of the matrix; None where it is not positive definite."""
        made, failed = lapack.dpbtrf(band, lower=1, overwrite_ab=1)
        return None if failed else made

    # kinematics

    def _gather(self, u: Floats) -> Floats:
        """Return the gradient of a nodal field at the quadrature points, shape (3, 3, points), component [i, J]."""
        local = u.T[:, self.mesh.elements]  # (i, m, a)
        gradient = local.reshape(-1, self._n_local) @ self._gradient.T  # (i m, J q)
        shape = (3, self.n_elements, 3, self._n_points)
        return np.ascontiguousarray(gradient.reshape(shape).swapaxes(1, 2)).reshape(3, 3, -1)

    def _integrate(self, stress: Floats) -> Floats:
        """Return the nodal forces of a stress field: the transpose of `_gather`, weighted, shape (n, 3)."""
        shape = (3, 3, self.n_elements, self._n_points)
        local = stress.reshape(shape).swapaxes(1, 2).reshape(3 * self.n_elements, -1) @ self._divergence  # (i m, a)
        forces = np.bincount(self._scatter, local.ravel(), 3 * self.n_nodes)
        return cast(Floats, forces).reshape(-1, 3)

    def state(self, u: Floats) -> DeformationState | None:
        """Return the deformation of a displacement of shape (n, 3); None where an element is turned inside out."""
        f = self._gather(u)
        for i in range(3):
            f[i, i] += 1.0
        cofactor, jacobian = _cofactor(f)
        if not jacobian.min() > 0.0:
            return None
        log_jacobian = np.log(jacobian)
        first_invariant = np.einsum("ijp,ijp->p", f, f)
        density = 0.5 * self.shear_modulus * (first_invariant - 3.0 - 2.0 * log_jacobian)
        density += 0.5 * self.lame_modulus * log_jacobian**2
        return DeformationState(u, f, cofactor, jacobian, log_jacobian, float(density @ self._weights))

    def energy(self, u: Floats) -> float:
        """Return the strain energy in N mm; infinite where an element is turned inside out."""
        state = self.state(u)
        return np.inf if state is None else state.strain_energy

    def internal_forces(self, state: DeformationState) -> Floats:
        """Return the gradient of the strain energy: nodal forces in N, shape (n, 3)."""
        scale = (self.lame_modulus * state.log_jacobian - self.shear_modulus) / state.jacobian
        return self._integrate(self.shear_modulus * state.deformation + scale * state.cofactor)

    def stiffness(self, state: DeformationState, out: Floats | None = None) -> Floats:
        """Return the second derivative of the strain energy by the free unknowns, in lower band storage, N/mm.

        With the shape functions' spatial gradients g and c = mu - lambda ln J, the block of the nodes a and b is
        ``lambda g_a (x) g_b + c g_b (x) g_a + mu (G_a . G_b) I``, weighted and summed over the points.

        Args:
            state: Where to differentiate.
            out: Memory for it, C-ordered, shape (n_free, band_width), float64; new by default.

        Returns:
            The transpose of ``out``, shape (band_width, n_free).
        """
        m, q, a = self.n_elements, self._n_points, self._n_local
        inverse = (state.cofactor / state.jacobian).reshape(3, 3, m, q).transpose(3, 2, 0, 1)  # F^-T, (q, m, i, J)
        g, weighted = self._work  # (i, m, q, a)
        spatial = inverse.reshape(q, m * 3, 3) @ self._point_gradient  # (q, m i, a)
        np.copyto(g, spatial.reshape(q, m, 3, a).transpose(2, 1, 0, 3))
        lame = self.lame_modulus * self._weights.reshape(m, q, 1)
        c = (self.shear_modulus - self.lame_modulus * state.log_jacobian).reshape(m, q, 1)
        c *= self._weights.reshape(m, q, 1)
        entries = self._entries[:-1].reshape(6, m, a, a)
        np.multiply(g, c + lame, out=weighted)
        np.matmul(g.swapaxes(2, 3), weighted, out=entries[:3])
        entries[:3] += self.shear_modulus * self._laplacian
        pairs = list(zip(entries[3:], PAIRS[3:], strict=True))
        np.multiply(g, lame, out=weighted)
        for block, (i, j) in pairs:
            np.matmul(g[i].swapaxes(1, 2), weighted[j], out=block)
        np.multiply(g, c, out=weighted)
        for block, (i, j) in pairs:
            block += weighted[j].swapaxes(1, 2) @ g[i]
        if out is None:
            out = np.empty((self.n_free, self.band_width))
        return self._assemble(self._stiffness_layers, self._entries, out)

    def solve_band(self, factor: Floats, forces: Floats) -> Floats:
        """Return the displacement of shape (n, 3) that a factored stiffness answers to forces of that shape."""
        answer = np.zeros(3 * self.n_nodes)
        answer[self._first :] = lapack.dpbtrs(factor, forces.reshape(-1)[self._first :], lower=1)[0]
        return answer.reshape(-1, 3)

    def norm(self, forces: Floats) -> float:
        """Return the Euclidean norm of forces, shape (n, 3), on the free nodes."""
        return float(np.linalg.norm(forces.reshape(-1)[self._first :]))

    def move(self, state: DeformationState, step: Floats) -> Floats:
        """Return the displacement after a step, (n, 3): to first order ``u + step``, but rotations stay rotations.

        Adding a step that rotates parts of a slender body stretches them, which costs far more energy than the bending
        meant. Here the step's velocity gradient is split into spin and strain, the deformation gradient is turned and
        stretched by them, and the compatible field next to it (least squares, a Poisson problem) is taken.

        Source of the idea: Huang, Tong, Zhou, Bao and Desbrun, "Interactive shape interpolation through controllable
        dynamic deformation", IEEE TVCG 17 (2011), rotation-strain coordinates.
        """
        rate = np.einsum("iJp,kJp->ikp", self._gather(step), state.cofactor / state.jacobian)
        strain = 0.5 * (rate + rate.swapaxes(0, 1))
        spin = 0.5 * (rate - rate.swapaxes(0, 1))
        angle = np.sqrt(0.5 * np.einsum("ijp,ijp->p", spin, spin))
        if angle.max() < SMALL_ROTATION:
            return state.u + step
        turn = np.sinc(angle / np.pi) * spin
        turn += 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * np.einsum("ijp,jkp->ikp", spin, spin)  # Rodrigues, minus 1
        change = strain + turn + np.einsum("ijp,jkp->ikp", turn, strain)
        target = np.einsum("ijp,jkp->ikp", change, state.deformation)
        correction = np.zeros((self.n_nodes, 3))
        free = self.mesh.n_clamped
        right = self._integrate(target)[free:]
        correction[free:] = lapack.dpbtrs(self._poisson_factor, right, lower=1)[0]
        return state.u + correction

    def relax(self, state: DeformationState, forces: Floats) -> Floats | None:
        """Return the equilibrium of the linear material whose axes are turned as in a state, a displacement (n, 3).

        An error of the rotations enters the strain squared only. So this takes from a guess its rotations, and leaves
        behind its noise, which in a slender body may cost more energy than the load does.

        Returns:
            None where the rotations are none, because the state is too distorted.
        """
        rotation = state.deformation
        for _ in range(POLAR_ITERATIONS):
            cofactor, jacobian = _cofactor(rotation)
            rotation = 0.5 * (rotation + cofactor / jacobian)
        excess = state.deformation - rotation
        strain = np.einsum("kip,kjp->ijp", rotation, excess)
        stress = self.shear_modulus * np.einsum("ikp,kjp->ijp", rotation, strain + strain.swapaxes(0, 1))
        stress += self.lame_modulus * np.einsum("kkp->p", strain) * rotation
        ones = np.ones_like(state.jacobian)
        turned = DeformationState(state.u, rotation, rotation, ones, np.zeros_like(ones), 0.0)
        factor = self.factor(self.stiffness(turned))
        return None if factor is None else state.u + self.solve_band(factor, forces - self._integrate(stress))


def _cofactor(f: Floats) -> tuple[Floats, Floats]:
    """Return cofactors, (3, 3, points), and determinants, (points,), of matrices of shape (3, 3, points)."""
    cofactor = f[_NEXT][:, _NEXT] * f[_LAST][:, _LAST] - f[_NEXT][:, _LAST] * f[_LAST][:, _NEXT]
    return cofactor, (f[0] * cofactor[0]).sum(0)


class _StalledError(Exception):
    """Newton's method did not reach the equilibrium of a load step."""


class Solver:
    """Static equilibria of a block under nodal dead loads, by Newton's method with load steps where needed.

    Each iterate moves down in potential energy (Armijo's rule), so that what is found is a stable equilibrium. The
    whole load is tried first; a load step that fails is halved. A solve depends on its arguments alone, not on earlier
    solves.

    Args:
        block: What to load.
        tolerance: Largest norm of the unbalanced force on the free nodes, relative to that of the load. Loads so small
            that rounding is larger are solved down to rounding.
        max_iterations: Newton iterations before a solve is given up.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, block: Block, *, tolerance: float = 1e-8, max_iterations: int = 200) -> None:
        if not 1e-11 <= tolerance < 1:
            raise ConfigError(f"tolerance={tolerance} must lie in [1e-11, 1); rounding allows no less")
        max_iterations = integer("max_iterations", max_iterations, 1)
        self.block, self.tolerance, self.max_iterations = block, tolerance, max_iterations
        self._iterations = self._factorizations = 0
        # memory of the stiffness and its factor; what it holds never outlives an iteration's use of it
        self._band = np.empty((block.n_free, block.band_width))

    def solve(self, forces: Floats, guess: Floats | None = None) -> Solution:
        """Find the equilibrium under nodal forces.

        Args:
            forces: Nodal forces in N, shape (n, 3), float64. Those on the clamped nodes have no effect.
            guess: Displacement in mm to start from, shape (n, 3), float64; the state of rest if it is None, unusable,
                or leads nowhere.

        Raises:
            RejectSample: No equilibrium was found within `max_iterations`.
            ValueError: An array has a wrong shape, or forces that are not finite.
        """
        shape = (self.block.n_nodes, 3)
        if forces.shape != shape or not np.isfinite(forces).all():
            raise ValueError(f"forces must be finite, of shape {shape}; got shape {forces.shape}")
        if guess is not None and guess.shape != shape:
            raise ValueError(f"guess has shape {guess.shape}; the mesh has {shape}")
        self._iterations = self._factorizations = 0
        state, done, step, load_steps = self.block.rest, 0.0, 1.0, 0
        if guess is not None and (start := self._usable(guess, forces)) is not None:
            with suppress(_StalledError):
                state, done, load_steps = self._newton(start, forces, self.tolerance), 1.0, 1
        while done < 1.0:
            target = min(1.0, done + step)
            try:
                state = self._newton(state, target * forces, self.tolerance if target == 1.0 else LOOSE)
            except _StalledError as stalled:
                step /= 2
                if step < SMALLEST_LOAD_STEP or self._iterations >= self.max_iterations:
                    raise RejectSample(
                        f"no equilibrium after {self._iterations} iterations; {done:.0%} of the load was reached"
                    ) from stalled
            else:
                done, load_steps, step = target, load_steps + 1, 2 * step
        residual = self.block.norm(forces - self.block.internal_forces(state))
        relative = residual / (self.block.norm(forces) or 1.0)
        return Solution(state.u.copy(), self._iterations, self._factorizations, load_steps, relative)

    def _usable(self, guess: Floats, forces: Floats) -> DeformationState | None:
        """Return the state of a guess, clamped and rid of noise; None where it turns an element inside out."""
        if not np.isfinite(guess).all():
            return None
        block = self.block
        u = np.array(guess, np.float64)
        u[: block.mesh.n_clamped] = 0.0
        state = block.state(u)
        if state is None or block.norm(forces - block.internal_forces(state)) <= block.norm(forces):
            return state
        self._iterations += 1
        self._factorizations += 1
        relaxed = block.relax(state, forces)
        return None if relaxed is None else block.state(relaxed)

    def _newton(self, state: DeformationState, forces: Floats, tolerance: float) -> DeformationState:
        block = self.block
        limit = max(tolerance * block.norm(forces), block.rounding)
        residual = forces - block.internal_forces(state)
        norm = block.norm(residual)
        factor = block.rest_factor if state is block.rest else None
        for _ in range(ITERATIONS_PER_LOAD_STEP):
            # at least one step from rest, so that loads smaller than rounding deflect in proportion
            if norm <= limit and (state is not block.rest or norm == 0.0):
                return state
            if self._iterations >= self.max_iterations:
                break
            self._iterations += 1
            old = factor is not None
            if factor is None:
                factor = self._positive_factor(state)
            step = block.solve_band(factor, residual)
            moved = self._descend(state, forces, step, float(np.vdot(residual, step)))
            if moved is None:
                if not old:
                    break
                factor = None
                continue
            state = moved
            residual = forces - block.internal_forces(state)
            norm, before = block.norm(residual), norm
            if norm * (norm / before) ** WORTH_KEEPING > limit:
                factor = None
        if norm <= limit:
            return state
        raise _StalledError

    def _positive_factor(self, state: DeformationState) -> Floats:
        """Return the factor of the stiffness, stiffened by a share of that at rest until it is positive definite."""
        share = 0.0
        while share < LARGEST_SHARE:
            self._factorizations += 1
            band = self.block.stiffness(state, self._band)
            if share:
                band += share * self.block.rest_stiffness
            factor = self.block.factor(band)
            if factor is not None:
                return factor
            share = 4 * share or FIRST_SHARE
        raise _StalledError

    def _descend(self, state: DeformationState, forces: Floats, step: Floats, slope: float) -> DeformationState | None:
        """Return the state after so much of the step that the potential energy is low enough; None if none is."""
        block = self.block
        scale = abs(state.strain_energy) + float(np.abs(forces * state.u).sum())
        rounding = 1e-13 * scale + 1e-15 * block.shear_modulus * float(np.prod(block.mesh.size))
        fraction = 1.0
        while fraction > SMALLEST_FRACTION:
            trial = block.state(block.move(state, fraction * step))
            if trial is None:
                fraction /= 2
                continue
            gain = float(np.vdot(forces, trial.u - state.u)) - (trial.strain_energy - state.strain_energy)
            if gain >= 1e-4 * fraction * slope - rounding:
                return trial
            parabola = 0.5 * slope * fraction / (slope * fraction - gain)  # where a parabola has its minimum
            fraction *= min(max(parabola, 0.1), 0.5)
        return None
