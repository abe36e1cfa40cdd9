"""Scenes that datasets keep: what an environment declares, as a text of the metadata of a dataset.

So a dataset is drawn without the simulation's code, and partitions and constants are the same with it and without.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from physgym.errors import SceneError
from physgym.placement import Env
from physgym.scene.inputs import SceneInput
from physgym.scene.live import constants_of, layers, scene_of_env
from physgym.scene.objects import Scene
from physgym.scene.values import FIELD, PREDICTION
from physgym.simulation import Simulation

log = logging.getLogger(__name__)

METADATA = "scene"  # key of the metadata of a dataset


def declared_scene(env: Env) -> dict[str, Any] | None:
    """Return the declaration of the scene of an environment, see `physgym.scene.objects.Scene.declaration`.

    Returns:
        JSON data; None where neither the environment nor a wrapper declares objects that a dataset can have.

    Raises:
        SceneError: An object is wrong, or a method of a layer fails.
    """
    return _stored(_declared(env))


def declared_inputs(env: Env) -> dict[str, SceneInput]:
    """Return the inputs of a person that an environment and its wrappers declare in their scene, by name.

    Raises:
        SceneError: One is wrong, or a method of a layer fails.
    """
    scene = _declared(env)
    return {} if scene is None else scene.inputs


def _declared(env: Env) -> Scene | None:
    """Return the scene that an environment and its wrappers declare; None where they leave it to the fields."""
    methods: list[Any] = [layer.get_wrapper_attr("scene") for layer in layers(env, "scene")]
    if all(getattr(method, "__func__", None) is Simulation.scene for method in methods):
        return None
    return scene_of_env(env, constants_of(env), type(env.unwrapped).__name__)


def _stored(scene: Scene | None) -> dict[str, Any] | None:
    found = None if scene is None else scene.declaration()
    return found if found is not None and found["objects"] else None


def described_scene(env: Env) -> dict[str, Any]:
    """Return `declared_scene` as ``scene``, and as ``scene_problem`` what is wrong with it, which ends no run.

    ``scene_unfixed`` names objects whose arrays are not fixed, so that no dataset has them.
    """
    try:
        scene = _declared(env)
        found = {"scene": _stored(scene)}
        unfixed = [] if scene is None else scene.unfixed(moved=bool(layers(env, "update_scene")))
    except SceneError as error:
        return {"scene": None, "scene_problem": str(error)}
    return {**found, "scene_unfixed": ", ".join(unfixed)} if unfixed else found


def kept_scene(described: Mapping[str, Any]) -> str | None:
    """Return the scene of `described_scene` as a dataset keeps it; a warning says what is left out, and why."""
    if "scene_problem" in described:
        log.warning("the scene of the simulation is not stored: %s", described["scene_problem"])
    if "scene_unfixed" in described:
        log.warning(
            "not stored of the scene, so that pictures of the dataset do not show it: %s. Its arrays are not fixed; "
            "declare it with fixed=True if they never change",
            described["scene_unfixed"],
        )
    return None if described["scene"] is None else scene_text(described["scene"])


def scene_text(declaration: Mapping[str, Any]) -> str:
    """Return a declaration as a text of the metadata."""
    return json.dumps(declaration, separators=(",", ":"), allow_nan=False)


def scene_data(metadata: Mapping[str, str], owner: str) -> Any:
    """Return the declaration among metadata; None where there is none, or words of other people.

    Raises:
        SceneError: It is damaged.
    """
    text = metadata.get(METADATA, "").strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{owner}: the entry {METADATA!r} of its metadata is no scene ({error})") from error


def in_words(key: str, text: str) -> str:
    """Return an entry of the metadata for people: of a scene the names of its objects."""
    if key != METADATA:
        return text
    try:
        data = scene_data({key: text}, "")
        return text if data is None else ", ".join(Scene.from_declaration(data).handles)
    except SceneError:
        return text


def with_renamed_field(metadata: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    """Return metadata whose scene takes a field, and what is predicted for it, by another name."""
    try:
        data = scene_data(metadata, "")
    except SceneError:  # as it was
        data = None
    if data is None:
        return dict(metadata)
    names = {old: new, f"{PREDICTION}{old}": f"{PREDICTION}{new}"}
    return {**metadata, METADATA: scene_text(_renamed(data, names))}


def _renamed(data: Any, names: Mapping[str, str]) -> Any:
    if isinstance(data, list):
        return [_renamed(one, names) for one in data]
    if not isinstance(data, dict):
        return data
    if data.keys() == {FIELD}:
        return {FIELD: names.get(data[FIELD], data[FIELD])}
    return {key: _renamed(value, names) for key, value in data.items()}
