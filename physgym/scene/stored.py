"""Scenes of datasets: what their simulation declared, or what follows from their fields."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping

from physgym.data.dataset import SampleDataset
from physgym.scene.declared import scene_data
from physgym.scene.default import default_scene
from physgym.scene.objects import Scene
from physgym.scene.values import CONSTANT, FIELD, PREDICTION, Values, names_of

log = logging.getLogger(__name__)


def scene_of(dataset: SampleDataset, *, time: str = "time") -> Scene:
    """Return the scene of a dataset, which its samples and constants move.

    Objects whose fields or constants the dataset does not have are not drawn, which a warning says.

    Args:
        dataset: The dataset, whose first folder says it.
        time: Label of the abscissae of curves over time in the default scene.

    Returns:
        The scene that the simulation declared; the default one where it declared none.

    Raises:
        SceneError: The declaration is damaged, or of a later version.
    """
    owner = str(dataset.places[0])
    data = scene_data(dataset.metadata, owner)
    if data is None:
        return default_scene(dataset.spec, dataset.constants, owner, time=time)
    scene = Scene.from_declaration(data, owner)
    there = {FIELD: {*dataset.spec}, CONSTANT: {*dataset.constants}}
    if lacking := list(_lacking(scene, there)):
        log.warning(
            "the scene of %s draws fields or constants that its samples do not have: %s. Pictures do not show these "
            "objects. Generate the samples again to see them",
            owner,
            ", ".join(lacking),
        )
    return scene


def _lacking(scene: Scene, there: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield the objects of a scene that are made of fields or constants that are not there, with their names.

    Args:
        scene: The scene.
        there: Names of fields and of constants.
    """
    for item in scene.declaration()["objects"]:
        named = sorted(pair for tree in item["arrays"].values() for pair in names_of(Values(tree)))
        missing = [
            f"{kind} {name!r}" for kind, name in named if name not in there[kind] and not name.startswith(PREDICTION)
        ]
        if missing:
            yield f"{item['name']} (of {', '.join(dict.fromkeys(missing))})"
