"""A stand-in for SofaPython3: modules Sofa, Sofa.Core, Sofa.Simulation and SofaRuntime that are not SOFA.

What they can do stands in the documentation, the tests and the source of SofaPython3 at commit 87be1a3, quoted where
it is implemented; all else raises `NotQuoted`. The mechanics are those of free masses under constant forces, and prove
nothing about SOFA. [F] is https://sofapython3.readthedocs.io/en/latest/content/FirstSteps.html, [S] the folder
bindings/Sofa of https://github.com/sofa-framework/SofaPython3/blob/87be1a3cc42d68144c791da25c98c00d9f0a8f8a
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import signal
import sys
import traceback
from types import ModuleType

import numpy as np

ARRAYS = {"position": float, "rest_position": float, "velocity": float, "forces": float, "indices": np.int64}
ARRAYS |= {"quads": np.uint32, "triangles": np.uint32}
EMPTY = {name: np.zeros(0 if name == "indices" else (0, 4 if name == "quads" else 3)) for name in ARRAYS}
COMPONENTS = {
    "MechanicalObject": ("position", "rest_position", "velocity"),  # [F], and DeepPhysX's beam
    "ConstantForceField": ("forces", "indices"),  # [F] "CFF", and DeepPhysX's beam
    "QuadSetTopologyContainer": ("quads",),
    "RequiredPlugin": (),  # [S]/tests/Core/BaseData.py: root.addObject("RequiredPlugin", pluginName=...)
    "StandInSolver": ("converged",),  # for StaticODESolver of SofaCaribou, see DeepPhysX's beam
}
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)  # Sofa/framework/Helper BackTrace.cpp, autodump


class NotQuoted(AttributeError):
    """The stand-in was asked for something that stands in no text that it was written from."""


class StandInData:
    """A data field.

    [S]/src/SofaPython3/Sofa/Core/Binding_BaseData_doc.h: "Access the value of a data field in read-only: ...
    root.aField.value"; "with root.aField.writeable() as value: value[0] = 3.0".
    """

    def __init__(self, value):
        object.__setattr__(self, "_held", value)

    def __getattr__(self, name):
        if name != "value":  # [S]/.../Binding_BaseData.cpp: "There is no attribute"
            raise NotQuoted(f"the stand-in for a data of SOFA has no {name!r}")
        if isinstance(self._held, np.ndarray):  # Plugin/src/SofaPython3/PythonFactory.cpp, valueToPython_ro: no copy
            view = self._held.view()
            view.flags.writeable = False
            return view
        return self._held

    def __setattr__(self, name, value):
        # [S]/tests/Core/BaseData.py: c.position.value = numpy.zeros((100, 3)); assertRaises(IndexError) for (4, 100)
        if isinstance(value, np.generic):
            raise TypeError("the stand-in takes no scalars of NumPy")
        if isinstance(self._held, np.ndarray):
            value = np.array(value, self._held.dtype)
            if value.shape[1:] != self._held.shape[1:]:
                raise IndexError(f"Invalid shape {value.shape}")
        object.__setattr__(self, "_held", value)

    @contextlib.contextmanager
    def writeable(self):
        if not isinstance(self._held, np.ndarray):
            raise NotQuoted("the stand-in has `writeable` for arrays alone")
        view = self._held.view()
        yield view
        view.flags.writeable = False


class StandInComponent:
    """A component. Its data are attributes: [S]/src/SofaPython3/Sofa/Core/Binding_Node_doc.h, "dofs.position"."""

    def __init__(self, *, name="", **data):
        self.__dict__["fields"] = {"name": StandInData(name), **data}

    def __getattr__(self, name):
        if name in self.__dict__["fields"]:
            return self.__dict__["fields"][name]
        raise NotQuoted(f"the stand-in for a component has no {name!r}")


class StandInController(StandInComponent):
    """A component in Python. [S]/src/SofaPython3/Sofa/Core/Binding_{Controller,Component}_doc.h.

    "These are needed (and the normal way to override from a python class)
    Sofa.Core.Controller.__init__(self, *args, **kwargs)"; "onAnimateBeginEvent(self, event)".
    """


class StandInNode:
    """A node. [S]/src/SofaPython3/Sofa/Core/Binding_Node_doc.h: "Sofa.Core.Node("MyNode")", addChild, addObject.

    "n["child1.child2.dofs.position"]" is the fast access; [F] names root.dt.value, root.time.value, root.gravity.
    """

    def __init__(self, name):
        data = {"name": StandInData(name), "dt": StandInData(0.01), "time": StandInData(0.0)}
        self.__dict__.update(fields=data, nodes={}, components={}, initialized=False)

    def addChild(self, name):
        return self.nodes.setdefault(name, StandInNode(name))

    def addObject(self, what, **given):
        if isinstance(what, StandInComponent):
            self.components[what.name.value] = what
            return what
        if what not in COMPONENTS:  # [S]/tests/Simulation/Node.py: assertRaises(ValueError)
            raise ValueError(f"the stand-in has no component {what!r}")
        for value in given.values():
            if isinstance(value, np.generic):
                raise TypeError("the stand-in takes no scalars of NumPy")
        name = given.pop("name", what)
        data = {}
        for field in COMPONENTS[what]:
            value = given.pop(field, EMPTY.get(field, True))
            data[field] = StandInData(np.array(value, ARRAYS[field]) if field in ARRAYS else value)
        if set(given) - {"pluginName"}:
            raise NotQuoted(f"the stand-in for {what} has no {sorted(given)}")
        found = self.components[name] = StandInComponent(name=name, **data)
        return found

    def __getattr__(self, name):  # [S]/src/SofaPython3/Sofa/Core/Binding_Node.cpp: objects, then children, then data
        for found in (self.components, self.nodes, self.fields):
            if name in found:
                return found[name]
        raise NotQuoted(f"the stand-in for a node has no {name!r}")  # there: "Unable to find attribute"

    def __setattr__(self, name, value):
        if name not in self.fields:
            raise NotQuoted(f"the stand-in for a node has no data {name!r}")
        self.fields[name].value = value

    def __getitem__(self, path):
        found = self
        for name in path.split("."):
            if not name:
                raise ValueError("Invalid path provided")
            found = getattr(found, name)
        return found

    def all_nodes(self):
        yield self
        for node in self.nodes.values():
            yield from node.all_nodes()


def init_root(root):
    """[S]/src/SofaPython3/Sofa/Simulation/Submodule_Simulation_doc.h: "Initialize from the root node"."""
    root.__dict__["initialized"] = True
    for node in root.all_nodes():
        for one in node.components.values():
            if "rest_position" in one.fields:
                rest = one.position.value.copy()
                one.rest_position.value, one.velocity.value = rest, np.zeros_like(rest)


def events(root, name):
    for node in root.all_nodes():
        for one in list(node.components.values()):
            if isinstance(one, StandInController) and hasattr(type(one), name):
                try:
                    getattr(one, name)({})
                except Exception:  # noqa: BLE001 - Plugin/src/SofaPython3/PythonEnvironment.cpp, executePython: printed
                    traceback.print_exc()


def animate(root, dt):
    """The same page: "Execute one timestep. If dt is 0, the dt parameter in the graph will be used"."""
    if not root.initialized:
        raise RuntimeError("the stand-in was not initialized")
    if type(dt) is not float:
        raise TypeError("the stand-in takes a float")
    dt = dt or root.dt.value
    events(root, "onAnimateBeginEvent")
    for node in root.all_nodes():
        states = [one for one in node.components.values() if "velocity" in one.fields]
        loads = [one for one in node.components.values() if "forces" in one.fields]
        for state in states:
            with state.velocity.writeable() as velocity, state.position.writeable() as position:
                for load in loads:
                    velocity[load.indices.value] += dt * load.forces.value
                position += dt * velocity
    root.time = root.time.value + dt
    events(root, "onAnimateEndEvent")


def reset(root):
    """The same page: "Reset to initial state". What is no state, such as forces, stays."""
    root.time = 0.0
    for node in root.all_nodes():
        for one in node.components.values():
            if "rest_position" in one.fields:
                with one.position.writeable() as position, one.velocity.writeable() as velocity:
                    position[...], velocity[...] = one.rest_position.value, 0.0


def unload(root):
    """The same page: "Unload a scene from a Node"."""
    root.__dict__["initialized"] = False


class StandInModule(ModuleType):
    """A module that has what was quoted."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotQuoted(f"the stand-in for {self.__name__} has no {name!r}")


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the stand-in.

    Args:
        component: Name of the class for components in Python: "Component", or "Controller" in older versions.
    """

    def __init__(self, component):
        self.plugins = []
        core = {"Node": StandInNode, component: StandInController}
        simulation = {"initRoot": init_root, "animate": animate, "reset": reset, "unload": unload}
        runtime = {"importPlugin": self.plugins.append}  # [F]: SofaRuntime.importPlugin("Sofa.Component.Visual")
        self.modules = {"Sofa": {}, "Sofa.Core": core, "Sofa.Simulation": simulation, "SofaRuntime": runtime}

    def find_spec(self, name, path=None, target=None):
        if name in self.modules:
            return importlib.machinery.ModuleSpec(name, self, is_package=name == "Sofa")
        return None

    def create_module(self, spec):
        return StandInModule(spec.name)

    def exec_module(self, module):
        vars(module).update(self.modules[module.__name__])
        if module.__name__ == "SofaRuntime":  # bindings/SofaRuntime/.../Module_SofaRuntime.cpp: BackTrace::autodump
            sys.stdout.write("the stand-in for SofaRuntime is loaded\n")
            library = ctypes.CDLL(None)
            library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
            for number in HANDLED:
                library.signal(int(number), signal.SIG_IGN.value)  # SOFA's handler would end the process


def install(monkeypatch, component="Component"):
    """Have `import Sofa` find the stand-in until the end of the test; return the finder."""
    finder = StandInFinder(component)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    for name in finder.modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return finder


def uninstall(finder):
    """Forget the modules of a stand-in."""
    for name in finder.modules:
        sys.modules.pop(name, None)
