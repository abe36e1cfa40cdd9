"""Scenes of datasets: what their simulation declared, or what follows from their fields."""

from __future__ import annotations

from physgym.data.dataset import SampleDataset
from physgym.scene.declared import scene_data
from physgym.scene.default import default_scene
from physgym.scene.objects import Scene


def scene_of(dataset: SampleDataset, *, time: str = "time") -> Scene:
    """Return the scene of a dataset, which its samples and constants move.

    Objects whose fields the dataset does not have are not drawn.

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
    return Scene.from_declaration(data, owner)
