"""`SofaSimulation`: a scene of SOFA (SofaPython3) as a simulation with samples.

It was written from the documentation and the source of SofaPython3, and is tested against a stand-in module that was
written from the same; it was not run with SOFA itself. See docs/howto/sofa.md.
"""

from __future__ import annotations

import os
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from physgym.adapters.sofa_import import component_class, runtime, sofa
from physgym.errors import ConfigError, RejectSample, SharedProcess
from physgym.scene import constant, field
from physgym.scene.objects import Scene, SceneHandle
from physgym.simulation import Simulation
from physgym.single import COSTLY_START, PROCESS, SINGLE
from physgym.spaces import Array

MISSING = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)  # what a path that is none raises
CELLS = {"triangles": "triangle", "quads": "quad", "tetrahedra": "tetra", "hexahedra": "hexahedron", "edges": None}
NUMBERS = "biuf"  # kinds of dtypes that fields may have

_open: dict[int, weakref.ReferenceType[SofaSimulation]] = {}  # the one simulation of a process, by its number


class SofaSimulation(Simulation[Any, Any]):
    """A scene of SOFA as an environment; needs SofaPython3, which is imported when the first one is made.

    A subclass builds its scene in `create_scene`, below the root node, and names the data of it that matter, by paths
    as ``root[...]`` takes them, such as ``"beam.state.position"``: names of nodes, of a component, of its data.

    A step writes the action, has SOFA make a time step (``simulations_per_step`` of them), and reads the fields. A
    reset is that of SOFA, after which all data that may be written are what they were in the beginning. What
    `create_scene` makes is the same in all episodes; what differs is set in `begin`, which calls this one first.

    A process holds one such simulation: SOFA has one for all scenes of a process. Workers host one each.

    Args:
        simulations_per_step: Time steps of SOFA per environment step.
        render_mode: "rgb_array" or None.

    Attributes:
        plugins: Names of plugins of SOFA that are loaded before the scene is made.
        data_fields: Path of each field of the sample, by its name; with `sample_roles` and `sample_units`. Fields that
            are computed are added in `sample`; `sample_space` declares all then.
        action_data: Path of the data that an action is written to; empty where `apply` is overridden.
        action_bounds: Least and largest number of an action, where the class declares no `action_space`.
        observation_data: Path of the data that is observed; empty where `observation` is overridden.
        converged_data: Path of a flag that says whether the solver has converged; a step without is rejected, and ends
            the episode. Empty for none.
        written_data: Paths of the other data that `write` changes.
        state_data: Paths of all data that the steps to come depend on, for snapshots; empty for none.
        mesh_data: Path of positions and path of cells (``"beam.topology.quads"``) of each mesh of the scene that
            pictures show, by its name.
        timed: Whether a step moves on by the ``dt`` of the root node; False for static solvers.
        root: The root node.

    Raises:
        ConfigError: SOFA is not there, a path names nothing, or a declaration is missing.
        SharedProcess: Another one is open in this process.
    """

    metadata = {"render_modes": ["rgb_array"], SINGLE: PROCESS, COSTLY_START: True}  # noqa: RUF012 - Env declares it so
    plugins: ClassVar[Sequence[str]] = ()
    data_fields: ClassVar[Mapping[str, str]] = {}
    action_data: ClassVar[str] = ""
    action_bounds: ClassVar[tuple[float, float] | None] = None
    observation_data: ClassVar[str] = ""
    converged_data: ClassVar[str] = ""
    written_data: ClassVar[Sequence[str]] = ()
    state_data: ClassVar[Sequence[str]] = ()
    mesh_data: ClassVar[Mapping[str, tuple[str, str]]] = {}
    timed: ClassVar[bool] = True

    def __init__(self, *, simulations_per_step: int = 1, render_mode: str | None = None) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        other = _open[os.getpid()]() if os.getpid() in _open else None
        if other is not None and other.root is not None:
            raise SharedProcess(
                f"a {type(other).__name__} is open in this process, and SOFA has one simulation per process; close it, "
                "or have workers make them, which host one each"
            )
        self._sofa = sofa()
        self._first: dict[str, Array] = {}  # values in the beginning of the data that may be written
        self._meshes: dict[str, SceneHandle] = {}
        self._raised: list[Exception] = []  # by what SOFA has called
        self._diverged = False
        self.keeps_state = bool(self.state_data)
        self.root: Any = self._sofa.Core.Node("root")
        _open[os.getpid()] = weakref.ref(self)
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    # --- what a subclass implements

    @abstractmethod
    def create_scene(self, root: Any) -> None:
        """Build the scene below the root node, as ``createScene(rootNode)`` of a file for runSofa does."""

    def apply(self, action: Any) -> None:
        """Have an action act in the time step to come; by default it is written to `action_data`."""
        if not self.action_data:
            raise ConfigError(f"{type(self).__name__} sets no action_data; set it, or override apply(action)")
        self.write(self.action_data, action)

    def animate_begin(self) -> None:
        """Do something when SOFA begins a time step (``onAnimateBeginEvent``); by default nothing."""

    def animate_end(self) -> None:
        """Do something when SOFA has ended a time step (``onAnimateEndEvent``); by default nothing."""

    # --- data of the scene

    def data(self, path: str) -> Any:
        """Return a data of the scene.

        Raises:
            ConfigError: The path names none.
        """
        try:
            return self.root[path]
        except MISSING as error:
            raise ConfigError(f"{type(self).__name__}: the scene has no data {path!r} ({error})") from error

    def value(self, path: str) -> Array:
        """Return a copy of the value of a data: SOFA hands out its own memory, which the next step changes.

        Raises:
            ConfigError: The path names none, or no numbers.
        """
        data = self.data(path)
        try:
            found = np.array(data.value)
        except MISSING as error:
            raise ConfigError(f"{type(self).__name__}: {path!r} is no data, but a node or a component") from error
        if found.dtype.kind not in NUMBERS:
            raise ConfigError(f"{type(self).__name__}: the data {path!r} holds no numbers, but {found.dtype}")
        return found

    def write(self, path: str, value: Any, *, resize: bool = False) -> None:
        """Write the value of a data; the next reset brings back what it was in the beginning.

        Args:
            path: Its path: `action_data`, or one of `written_data` and `state_data`.
            value: Numbers of the shape and kind that it has.
            resize: Whether the first axis may have another length, as with numbers of nodes.

        Raises:
            ConfigError: The path names no data, is not declared, or the value does not fit, by shape, kind or size.
        """
        now, new = self.value(path), np.asarray(value)
        if path not in self._first:
            raise ConfigError(
                f"{type(self).__name__} does not say that it writes {path!r}, which a reset would leave as it is then; "
                "add it to written_data"
            )
        whole = new.dtype.kind in "iu" and now.dtype.kind in "iu"  # indices of SOFA have 32 bits, those of NumPy 64
        if new.dtype.kind not in NUMBERS or not (whole or np.can_cast(new.dtype, now.dtype, "same_kind")):
            raise ConfigError(f"{type(self).__name__}: {path!r} holds {now.dtype}, which {new.dtype} is not written to")
        if new.dtype.kind == "f" and not np.isfinite(new).all():
            raise ConfigError(f"{type(self).__name__}: what is to be written to {path!r} is not finite")
        if new.shape != now.shape and not (resize and new.ndim == now.ndim > 0 and new.shape[1:] == now.shape[1:]):
            raise ConfigError(f"{type(self).__name__}: {path!r} has shape {now.shape}, and the value {new.shape}")
        with np.errstate(over="ignore"):
            fitting = new.astype(now.dtype)
        lost = ~np.isfinite(fitting) if new.dtype.kind == "f" else fitting != new  # which NumPy would wrap or round
        if lost.any():
            raise ConfigError(
                f"{type(self).__name__}: {path!r} holds {now.dtype}, which cannot hold {new[lost].flat[0]}"
            )
        self._put(path, fitting, same=new.shape == now.shape)

    def _put(self, path: str, value: Array, *, same: bool) -> None:
        data = self.data(path)
        if value.ndim == 0:
            data.value = value.item()  # SOFA takes no scalars of NumPy
        elif same:
            with data.writeable() as memory:
                memory[...] = value
        else:
            data.value = value

    # --- the interface of a simulation

    def begin(self, options: dict[str, Any]) -> None:
        """Reset SOFA, and bring back the data that may be written.

        Raises:
            ConfigError: There are options, which a subclass takes out before.
        """
        if options:
            raise ConfigError(f"{type(self).__name__} takes no options of a reset, not {sorted(options)}")
        self._diverged = False
        self._sofa.Simulation.reset(self.root)  # which concerns states, and not all data
        for path, value in self._first.items():
            self._put(path, value, same=self.value(path).shape == value.shape)

    def advance(self, action: Any) -> None:
        """Make a time step of SOFA under an action.

        Raises:
            RejectSample: The solver has not converged.
        """
        self.apply(action)
        self._sofa.Simulation.animate(self.root, float(self.root.dt.value))
        if self._raised:
            error = self._raised[0]
            self._raised.clear()
            raise error
        if self.converged_data and not bool(self.data(self.converged_data).value):
            self._diverged = True
            raise RejectSample(f"{self.converged_data} says that the solver has not converged")

    def observation(self) -> Any:
        """Return the data that is observed."""
        return self.value(self.observation_data)

    def sample(self) -> Mapping[str, Any]:
        """Return the fields that have a path."""
        return {name: self.value(path) for name, path in self.data_fields.items()}

    def outcome(self) -> tuple[float, bool]:
        """Return no reward, and whether the solver has not converged, with which an episode ends."""
        return 0.0, self._diverged

    def state(self) -> Mapping[str, Any]:
        """Return the data of `state_data`, and the time."""
        return {path: self.value(path) for path in (*self.state_data, "time")}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Write the data of `state_data`, and the time."""
        for path, value in self.checked_state(state).items():
            self._put(path, value, same=True)

    def constants(self) -> Mapping[str, Any]:
        """Return the cells of the meshes."""
        return {f"{name}/cells": self._cells(name) for name in self.mesh_data}

    def scene(self, scene: Scene) -> None:
        """Declare the meshes of `mesh_data`; without them what follows from the fields of a sample."""
        if not self.mesh_data:
            super().scene(scene)
            return
        scene.title(type(self).__name__)
        for name, (positions, cells) in self.mesh_data.items():
            kind = CELLS[cells.rpartition(".")[2]]
            fields = [one for one, path in self.data_fields.items() if path == positions]
            if fields:  # which a dataset stores
                scene.mesh(name, field(fields[0]), constant(f"{name}/cells"), cell=kind)
            else:
                self._meshes[name] = scene.mesh(name, self.value(positions), self._cells(name), cell=kind)

    def update_scene(self, scene: Scene) -> None:
        """Move the meshes whose positions are no field of the sample."""
        for name, handle in self._meshes.items():
            handle.update(points=self.value(self.mesh_data[name][0]))

    def close(self) -> None:
        """Unload the scene; calling it again does no harm."""
        root, self.root = self.root, None
        if root is not None:
            self._sofa.Simulation.unload(root)

    # --- the scene

    def _create(self) -> None:
        """Build and initialize the scene, and take spaces from its data."""
        for plugin in self.plugins:
            runtime().importPlugin(plugin)
        kind = type(self)
        if kind.animate_begin is not SofaSimulation.animate_begin or kind.animate_end is not SofaSimulation.animate_end:
            self.root.addObject(_events(weakref.proxy(self), self._raised))
        self.create_scene(self.root)
        self._sofa.Simulation.initRoot(self.root)
        written = [path for path in (self.action_data, *self.written_data, *self.state_data, "time") if path]
        self._first = {path: self.value(path) for path in written}
        if self.timed and kind.time_step is None:
            self.time_step = float(self.root.dt.value)
        for cells in (cells for _, cells in self.mesh_data.values()):
            if cells.rpartition(".")[2] not in CELLS:
                raise ConfigError(f"{kind.__name__}: the cells {cells!r} of a mesh are none of {sorted(CELLS)}")
        if not self._declares("sample_space"):
            self.sample_space = spaces.Dict({name: self._space(path) for name, path in self.data_fields.items()})
        if not self._declares("observation_space"):
            self.observation_space = self._space(self._named("observation_data", self.observation_data))
        if not self._declares("action_space"):
            shape = self.value(self._named("action_data", self.action_data))
            if self.action_bounds is None:
                raise ConfigError(f"{kind.__name__} declares neither action_space nor action_bounds")
            low, high = self.action_bounds
            self.action_space = spaces.Box(low, high, shape.shape, shape.dtype.type)

    def _declares(self, name: str) -> bool:
        """Return whether the class has a space, or `create_scene` has set it."""
        return name in vars(self) or any(name in vars(kind) for kind in type(self).__mro__)

    def _named(self, name: str, path: str) -> str:
        if not path:
            raise ConfigError(f"{type(self).__name__} sets neither {name} nor the space that belongs to it")
        return path

    def _space(self, path: str) -> spaces.Box:
        """Return the space of the values of a data, of its shape and dtype."""
        value = self.value(path)
        if value.dtype.kind == "f":
            return spaces.Box(-np.inf, np.inf, value.shape, value.dtype.type)
        limits = (0, 1) if value.dtype.kind == "b" else (np.iinfo(value.dtype).min, np.iinfo(value.dtype).max)
        return spaces.Box(*limits, value.shape, value.dtype.type)

    def _cells(self, name: str) -> Array:
        """Return the cells of a mesh, shape (cells, corners), integers."""
        return self.value(self.mesh_data[name][1])


def _events(simulation: Any, raised: list[Exception]) -> Any:
    """Return a component that calls the methods of a simulation.

    Args:
        simulation: The simulation.
        raised: Takes what they raise, which SOFA would print and forget.
    """
    base = component_class()

    def called(method: Callable[[], None]) -> None:
        try:
            method()
        except Exception as error:  # noqa: BLE001 - raised after the step
            raised.append(error)

    class Events(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self, name="physgym")

        def onAnimateBeginEvent(self, event: Any) -> None:  # the name is SOFA's, as is the next one
            called(simulation.animate_begin)

        def onAnimateEndEvent(self, event: Any) -> None:
            called(simulation.animate_end)

    return Events()
