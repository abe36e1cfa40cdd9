"""`SceneSource` and `LiveScene`: frames of the scene of a running environment, or of samples without one.

Nothing is made until somebody looks, and nothing that is asked here changes the simulation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from physgym.errors import SceneError
from physgym.placement import Env
from physgym.sample import SampleSpec
from physgym.scene.changes import SceneFrame, SceneSnapshot, difference
from physgym.scene.default import add_default
from physgym.scene.objects import Scene
from physgym.scene.values import PREDICTION
from physgym.spaces import Array


class SceneSource:
    """A scene that samples move, one after the other.

    Args:
        scene: The scene.
        constants: Constants of the dataset or simulation by name.

    Attributes:
        snapshot: The last one; None before the first frame.
    """

    def __init__(self, scene: Scene, constants: Mapping[str, Array]) -> None:
        self.scene, self.constants = scene, constants
        self.snapshot: SceneSnapshot | None = None

    def frame(self, sample: Mapping[str, Array] | None = None, *, whole: bool = False) -> SceneFrame:
        """Return what a sample changes, see `physgym.scene.changes`.

        Args:
            sample: Its fields by name; None where none is known.
            whole: Whether everything is wanted, as at the first time.

        Raises:
            SceneError: An object cannot be drawn; the frame after this one is whole.
        """
        before, self.snapshot = self.snapshot, None
        self.snapshot = self.scene.snapshot(sample, self.constants)
        return difference(None if whole else before, self.snapshot)


class LiveScene:
    """The scene of an environment.

    At the first frame the environment and its wrappers are asked for ``scene(scene)``, from the inside out; one without
    this method has the default scene of its samples. Before each frame they are asked for ``update_scene(scene)``.

    Args:
        env: The environment, with its wrappers.
        owner: Its name, for errors.
    """

    def __init__(self, env: Env, owner: str = "") -> None:
        self._env, self._owner = env, owner
        self._source: SceneSource | None = None
        self._moving: list[Env] = []  # layers that move objects

    @property
    def snapshot(self) -> SceneSnapshot | None:
        """Return the last snapshot, None before the first frame."""
        return None if self._source is None else self._source.snapshot

    @property
    def source(self) -> SceneSource:
        """Return the scene, which is declared when it is asked first.

        Raises:
            SceneError: An object is wrong, or a method of a layer fails.
        """
        if self._source is None:
            constants = constants_of(self._env)
            self._source = SceneSource(scene_of_env(self._env, constants, self._owner), constants)
            self._moving = layers(self._env, "update_scene")
        return self._source

    def frame(self, sample: Mapping[str, Array] | None = None, *, whole: bool = False) -> SceneFrame:
        """Return what changed since the last frame.

        Args:
            sample: That of the last step by name; None asks a `physgym.Simulation` for its own.
            whole: Whether everything is wanted, as at the first time.

        Raises:
            SceneError: An object cannot be drawn, or a method of a layer fails; the frame after this one is whole.
        """
        with random_numbers_kept(self._env):
            source, inner = self.source, self._env.unwrapped
            for layer in self._moving:
                _ask(layer, "update_scene", source.scene, self._owner)
            if hasattr(inner, "shown_sample"):
                shown: Any = inner
                sample = shown.shown_sample() if sample is None else sample
                sample = {**sample, **{f"{PREDICTION}{name}": value for name, value in shown.shown_prediction.items()}}
            return source.frame(sample, whole=whole)


def layers(env: Env, method: str) -> list[Env]:
    """Return an environment and its wrappers, from the inside out, that have a method."""
    return [layer for layer in reversed(_all_layers(env)) if _takes_scene(layer, method)]


def _all_layers(env: Env) -> list[Env]:
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


@contextmanager
def random_numbers_kept(env: Env) -> Iterator[None]:
    """Give back the random numbers that an environment and its wrappers draw within the block.

    Looking may ask for a sample that nobody else would have asked for, and a sample may hold noise.
    """
    own = [vars(layer).get("_np_random") for layer in _all_layers(env)]  # the property would make one
    drawn = [one.bit_generator for one in own if isinstance(one, np.random.Generator)]
    states = [one.state for one in drawn]
    try:
        yield
    finally:
        for one, state in zip(drawn, states, strict=True):
            one.state = state


def _takes_scene(layer: Env, method: str) -> bool:
    """Return whether a layer has a method for scenes; other people's environments have attributes of that name too."""
    if not inspect.isfunction(inspect.getattr_static(type(layer), method, _forwarded)):
        return False
    found = getattr(layer, method, None)  # also of an environment that stands for another one
    if not inspect.ismethod(found):
        return False
    try:
        inspect.signature(found).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _forwarded() -> None:
    """Stand for an attribute that the class does not have."""


def scene_of_env(env: Env, constants: Mapping[str, Array], owner: str = "") -> Scene:
    """Return the scene that an environment and its wrappers declare.

    Raises:
        SceneError: An object is wrong, or a method of a layer fails.
    """
    scene, spec = Scene(owner), SampleSpec.from_env(env)
    if not _takes_scene(env.unwrapped, "scene") and spec is not None:
        add_default(scene, spec, constants)
    for layer in layers(env, "scene"):
        _ask(layer, "scene", scene, owner)
    return scene


def constants_of(env: Env) -> dict[str, Array]:
    """Return the constants of an environment by name, see `physgym.Simulation.constants`."""
    found = env.get_wrapper_attr("constants")() if env.has_wrapper_attr("constants") else {}
    return {name: np.asarray(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def _ask(layer: Env, method: str, scene: Scene, owner: str) -> None:
    """Ask a layer for its objects; what goes wrong there is an error of the scene."""
    try:
        getattr(layer, method)(scene)
    except SceneError:
        raise
    except (Exception, SystemExit) as error:  # a picture ends no run
        where = f"{type(layer).__name__}.{method}"
        raise SceneError(f"{owner or 'scene'}: {where} failed, {type(error).__name__}: {error}") from error
