"""Pictures of samples in a report: their scenes, and what a network predicts next to what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from physgym.data.dataset import SampleDataset
from physgym.sample import SampleSpec
from physgym.scene.changes import SceneSnapshot
from physgym.scene.default import default_scene
from physgym.scene.films import png
from physgym.scene.frames import draw
from physgym.scene.prediction_error import PredictionErrors
from physgym.scene.sample_scenes import objects_of
from physgym.scene.stored import scene_of
from physgym.spaces import Array

SIZE = (1120, 350)  # pixels
FLAT = ("curve", "text")  # kinds of objects that plots of numbers show as well


def scenes_picture(dataset: SampleDataset, rows: Sequence[int]) -> bytes | None:
    """Return the scenes of samples next to each other as PNG; None where they have nothing but curves and texts.

    Raises:
        SceneError: A sample cannot be drawn.
    """
    scene = scene_of(dataset)
    samples = [{name: value[0] for name, value in dataset[row : row + 1].items()} for row in rows]
    for sample in samples:  # colours and cameras are the same in all of them then
        shown = scene.snapshot(sample, dataset.constants)
    if not _has_shapes(shown):
        return None
    snapshots = [scene.snapshot(sample, dataset.constants) for sample in samples]
    titles = [f"sample {row}" for row in rows]
    return png(draw(snapshots, SIZE, titles=titles, title=snapshots[0]["title"], columns=len(rows)))


def _has_shapes(snapshot: SceneSnapshot) -> bool:
    return any(one["kind"] not in FLAT for one in snapshot["objects"].values())


class PredictedScenes:
    """Scenes of samples as they are true, as a network predicts them, and of the error.

    Args:
        dataset: The samples.
        spec: Their fields, the predicted ones among them.
        outputs: The predicted fields.
    """

    def __init__(self, dataset: SampleDataset, spec: SampleSpec, outputs: Sequence[str]) -> None:
        self._constants = dataset.constants
        self._scene = scene_of(dataset)
        if not (shown := objects_of(self._scene, outputs)):
            self._scene = default_scene(spec, self._constants)
            shown = objects_of(self._scene, outputs)
        self._shown = shown
        objects = [one for one in self._scene.declaration()["objects"] if one["name"] in shown]
        self._errors = PredictionErrors(objects, {name: spec[name].unit for name in outputs})

    def prepare(self, true: Mapping[str, Array], predicted: Mapping[str, Array]) -> None:
        """Look at a sample beforehand, so that colours and cameras are the same in pictures of all of them."""
        self._errors.snapshot(*self._both(true, predicted))

    def _both(self, true: Mapping[str, Array], predicted: Mapping[str, Array]) -> tuple[SceneSnapshot, SceneSnapshot]:
        network = {**true, **predicted}
        self._scene.snapshot(network, self._constants)  # colours and camera are those of both
        return self._scene.snapshot(true, self._constants), self._scene.snapshot(network, self._constants)

    def picture(self, true: Mapping[str, Array], predicted: Mapping[str, Array], *, plotted: bool) -> bytes | None:
        """Return a picture as PNG; None where plots show what is predicted, and the scene has no more than they.

        Args:
            true: Fields of a sample.
            predicted: Predicted fields of it.
            plotted: Whether there are plots of all that is predicted.

        Raises:
            SceneError: It cannot be drawn.
        """
        solver, network = self._both(true, predicted)
        kinds = {solver["objects"][name]["kind"] for name in self._shown if name in solver["objects"]}
        if not kinds or (plotted and kinds <= {*FLAT}):
            return None
        every = [self._errors.network(solver), self._errors.network(network), self._errors.snapshot(solver, network)]
        titles = ("true", "predicted", "error")
        return png(draw(every, SIZE, titles=titles, title=solver["title"], columns=len(every)))
