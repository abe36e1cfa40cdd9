"""Scenes of stored samples: what their simulation has declared, else the default scene."""

from __future__ import annotations

import json

from physgym.data.dataset import SampleDataset
from physgym.errors import SceneError
from physgym.scene.default import default_scene
from physgym.scene.objects import Scene

SCENE = "scene"  # key of the declaration among the metadata of a dataset


def scene_of(dataset: SampleDataset) -> Scene:
    """Return the scene of the samples of a dataset.

    Raises:
        SceneError: What the dataset says of it is no declaration of a scene.
    """
    owner = f"the scene of {dataset.places[0]}"
    said = dataset.metadata.get(SCENE)
    if said is None:
        return default_scene(dataset.spec, dataset.constants, owner)
    try:
        data = json.loads(said)
    except ValueError as error:
        raise SceneError(f"{owner}: its metadata {SCENE!r} are no JSON ({error})") from error
    return Scene.from_declaration(data, owner)
