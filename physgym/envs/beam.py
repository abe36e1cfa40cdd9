"""A cantilever beam under nodal forces: finite-strain statics of a soft block, one load case per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from physgym.envs.elasticity import Block, BlockMesh, Solution, Solver
from physgym.errors import ConfigError, SampleError
from physgym.sample import FieldRole
from physgym.scene.objects import Scene
from physgym.scene.values import constant, field, norm, prediction
from physgym.simulation import Simulation
from physgym.spaces import Array

Float32Array = NDArray[np.float32]


# Deflections that the load sampler aims at, as fractions of the beam's length.
SMALLEST_DEFLECTION, LARGEST_DEFLECTION = 0.15, 0.3
# The load sampler's boxes lie beyond this fraction of the length.
NEAREST_LOAD = 1 / 3


class Beam(Simulation[Float32Array, Float32Array]):
    """A beam of compressible neo-Hookean material, clamped at x = 0 and loaded by dead forces at its nodes.

    Every step is a load case of its own: the action's forces are applied to the beam at rest, and the observation is
    the displacement at equilibrium, independent of what was applied before. Geometry and material are those of the beam
    example of DeepPhysX.

    The sample has the input ``forces`` in N and the target ``displacement`` in mm, both of shape (n, 3), float32, for
    the nodes in the order of `rest_positions`.

    In a run a person may pull the point ``tip`` of its window: a force at the nodes of the free end that, by
    Euler-Bernoulli, would deflect it so far. The button ``load`` takes the forces of the actions away, and brings them
    back.

    Against linear elasticity on a refined mesh (scikit-fem, 40 x 6 x 6 quadratic elements), the tip deflection under a
    small tip load is 3.1 % too small with ``nodes=(13, 4, 4), order=3`` and 1.7 % with ``nodes=(25, 5, 5), order=2``.

    Args:
        nodes: Number of nodes along x, y and z, each a multiple of ``order``, plus 1.
        order: Polynomial order of the hexahedral elements.
        size: Edge lengths in mm.
        young_modulus: In MPa.
        poisson_ratio: In [0, 0.5).
        initial_guess: Where the solver starts: the state of rest, or what the network predicts for the forces. A
            prediction that leads nowhere is replaced by the state of rest. Either way the equilibrium meets
            ``tolerance``; the prediction decides how long that takes.
        tolerance: Largest norm of the unbalanced force relative to that of the load.
        max_iterations: Newton iterations before a load case is rejected.
        render_mode: "rgb_array" or None.

    Attributes:
        rest_positions: Node positions in mm, shape (n, 3), float64.
        surface_faces: Node numbers of the quadrilaterals of the surface, shape (m, 4), int64.
        force_bound: Bound of a component of an action, N.

    Raises:
        ConfigError: An argument is out of range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as in gymnasium.Env
    sample_roles: ClassVar[dict[str, FieldRole]] = {"forces": "input", "displacement": "target"}
    sample_units: ClassVar[dict[str, str]] = {"forces": "N", "displacement": "mm"}

    def __init__(
        self,
        *,
        nodes: tuple[int, int, int] = (13, 4, 4),
        order: int = 3,
        size: tuple[float, float, float] = (100.0, 15.0, 15.0),
        young_modulus: float = 2000.0,
        poisson_ratio: float = 0.45,
        initial_guess: Literal["rest", "network"] = "rest",
        tolerance: float = 1e-8,
        max_iterations: int = 200,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if initial_guess not in ("rest", "network"):
            raise ConfigError(f'initial_guess={initial_guess!r} must be "rest" or "network"')
        self.initial_guess = initial_guess
        self.mesh = BlockMesh(_three(size, float), _three(nodes, int), order)
        self.block = Block(self.mesh, young_modulus, poisson_ratio)
        self.solver = Solver(self.block, tolerance=tolerance, max_iterations=max_iterations)
        self.rest_positions = self.mesh.positions
        self.surface_faces = self.mesh.faces
        length, height, width = self.mesh.size
        self._bending_stiffness = young_modulus * (height * width) ** 2 / 12  # E sqrt(Iy Iz)
        # the largest total force that the load sampler draws, on a single node
        self.force_bound = float(np.float32(self._force(LARGEST_DEFLECTION * length, NEAREST_LOAD * length)))
        shape = self.rest_positions.shape
        self.action_space = spaces.Box(-self.force_bound, self.force_bound, shape, np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.sample_space = spaces.Dict({"forces": self.action_space, "displacement": self.observation_space})
        self._rest = np.zeros(shape, np.float32)
        self._forces, self._displacement = self._rest, self._rest
        self._pull, self._loaded = self._rest, True  # by a person
        self._solution: Solution | None = None

    def begin(self, options: dict[str, Any]) -> None:
        """Put the beam to rest and forget the last prediction; there are no options."""
        self._forces, self._displacement = self._rest, self._rest
        self._pull, self._loaded = self._rest, True
        self._solution = None

    def take_input(self, name: str, value: Any) -> None:
        """Pull the free end (``tip``, a vector in mm), or take the loads of the actions away or back (``load``)."""
        if name == "load":
            self._loaded = not self._loaded
            return
        end = self.rest_positions[:, 0] == self.rest_positions[:, 0].max()
        force = self._force(1.0, self.mesh.size[0]) * np.array(value) / np.count_nonzero(end)
        self._pull = np.where(end[:, np.newaxis], force, 0.0).astype(np.float32)

    def advance(self, action: Float32Array) -> None:
        """Find the equilibrium under an action; where there is none, the beam is at rest.

        Args:
            action: Nodal forces in N, shape (n, 3), an element of ``action_space``.

        Raises:
            RejectSample: The solver found no equilibrium.
            SampleError: The action has a wrong shape, or values that are not finite or out of bounds; or
                ``initial_guess`` is "network" and there is none.
        """
        self._solution, self._displacement = None, self._rest
        self._forces = self._pulled(self._checked(action))
        guess = None
        if self.initial_guess == "network":
            guess = np.asarray(self.predict({"forces": self._forces})["displacement"], np.float64)
        self._solution = self.solver.solve(self._forces.astype(np.float64), guess)
        self._displacement = self._solution.displacement.astype(np.float32)

    def _checked(self, action: Any) -> Float32Array:
        forces = np.asarray(action, np.float32)
        got = ""
        if forces.shape != self._rest.shape:
            got = f"shape {forces.shape}"
        elif not np.isfinite(forces).all():
            got = f"{np.count_nonzero(~np.isfinite(forces))} values that are not finite"
        elif (largest := float(np.abs(forces).max())) > self.force_bound:
            got = f"a component of {largest:.6g}"
        if got:
            raise SampleError(
                f"Beam: the action must hold finite nodal forces in newtons of shape {self._rest.shape}, each "
                f"component within +-{self.force_bound:.6g}; got {got}. Clip it to `action_space`, or use "
                "`sample_action`."
            )
        return forces.copy()

    def _pulled(self, forces: Float32Array) -> Float32Array:
        """Return the forces of an action with those of a person."""
        forces = forces if self._loaded else self._rest
        if not self._pull.any():
            return forces
        whole: Float32Array = np.clip(forces + self._pull, -self.force_bound, self.force_bound)
        return whole

    def observation(self) -> Float32Array:
        """Return the displacement of the nodes in mm, shape (n, 3)."""
        return self._displacement.copy()

    def sample(self) -> Mapping[str, Any]:
        """Return the forces and displacement of the load case."""
        return {"forces": self._forces, "displacement": self._displacement}

    def info(self) -> dict[str, Any]:
        """Return what the solver did for the load case, zeros where it found nothing; largest displacement in mm."""
        found = self._solution
        return {
            "newton_iterations": found.iterations if found else 0,
            "factorizations": found.factorizations if found else 0,
            "load_steps": found.load_steps if found else 0,
            "residual": found.residual if found else 0.0,
            "max_displacement": float(np.linalg.norm(self._displacement, axis=1).max()),
        }

    def sample_action(self, rng: np.random.Generator) -> Float32Array:
        """Draw a random force, spread evenly over the nodes of a random box.

        The box has two to all nodes along each axis, anywhere beyond a third of the length. The direction is uniform
        on the sphere. The magnitude is the one that, across the beam and by Euler-Bernoulli, would deflect the tip by
        a distance drawn uniformly from 15 % to 30 % of the length; so loads near the clamp, which bend less, are
        larger.

        Args:
            rng: The only source of randomness.

        Returns:
            Nodal forces in N, shape (n, 3), float32.
        """
        grid = np.arange(len(self.rest_positions)).reshape(self.mesh.nodes)
        first = min(int(np.ceil(NEAREST_LOAD * (self.mesh.nodes[0] - 1))), self.mesh.nodes[0] - 2)
        for axis, start in enumerate((first, 0, 0)):
            low, high = np.sort(rng.choice(np.arange(start, self.mesh.nodes[axis]), 2, replace=False))
            grid = grid.take(np.arange(low, high + 1), axis)
        box = grid.ravel()
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        length = self.mesh.size[0]
        deflection = length * rng.uniform(SMALLEST_DEFLECTION, LARGEST_DEFLECTION)
        force = self._force(deflection, float(self.rest_positions[box, 0].mean()))
        forces = np.zeros_like(self._rest)
        forces[box] = force / len(box) * direction
        return forces

    def load_sample(self, sample: Mapping[str, Array]) -> Float32Array:
        """Return the stored ``forces``; every load case begins at rest, so there is no state to take."""
        return np.asarray(sample["forces"], np.float32)

    def _force(self, deflection: float, x: float) -> float:
        """Return the transverse force in N that, so far from the clamp, deflects the tip of an Euler-Bernoulli beam."""
        return 6 * self._bending_stiffness * deflection / (x**2 * (3 * self.mesh.size[0] - x))

    def state(self) -> Mapping[str, Any]:
        """Return ``forces`` and ``displacement`` of the last load case, on which the next one does not depend."""
        return {"forces": self._forces.copy(), "displacement": self._displacement.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a load case; what the solver did for it is not known."""
        values = self.checked_state(state)
        self._forces, self._displacement = values["forces"], values["displacement"]
        self._solution, self.shown_prediction = None, {}

    def inputs(self, action: Float32Array) -> Mapping[str, Any]:
        """Return the forces.

        Raises:
            SampleError: As `advance`.
        """
        return {"forces": self._pulled(self._checked(action))}

    def adopt(self, action: Float32Array, prediction: Mapping[str, Array]) -> None:
        """Set the displacement of the beam."""
        self._solution, self._forces = None, self._pulled(self._checked(action))
        self._displacement = np.array(prediction["displacement"], np.float32)

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Keep a predicted displacement, which pictures show as a ghost until the next reset."""
        self.shown_prediction = {"displacement": np.array(prediction["displacement"])}

    def constants(self) -> Mapping[str, Any]:
        """Return the ``nodes`` in mm, shape (n, 3), and the hexahedra between them, ``cells``, shape (m, 8)."""
        return {"nodes": self.rest_positions, "cells": self.mesh.cells}

    def scene(self, scene: Scene) -> None:
        """Declare the deformed beam, forces as arrows, fixed nodes as markers, and the prediction as a ghost."""
        nodes, cells, displacement = constant("nodes"), constant("cells"), field("displacement")
        reach = np.array([0.0, LARGEST_DEFLECTION, LARGEST_DEFLECTION]) * self.mesh.size[0]
        low, high = self.rest_positions.min(0), self.rest_positions.max(0)
        scene.title("displacement")
        scene.camera(bounds=np.stack([low - reach, high + reach]))
        scene.mesh("beam", nodes + displacement, cells, cell="hexahedron", scalars=norm(displacement), unit="mm")
        scene.mesh("predicted", nodes + prediction("displacement"), cells, cell="hexahedron", ghost=True)
        scene.arrows("forces", nodes + displacement, field("forces"))
        scene.markers("fixed", nodes[: self.mesh.n_clamped], symbol="s", point_size=5)
        last = len(self.rest_positions) - 1
        scene.pull("tip", (nodes + displacement)[last], reach=LARGEST_DEFLECTION * self.mesh.size[0], unit="mm")
        scene.button("load", label="load on or off", key="l")


def _three(values: Any, kind: type) -> Any:
    """Return a tuple of numbers, also from a list, as configuration files have it."""
    return tuple(kind(value) for value in values)
