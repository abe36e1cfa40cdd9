"""Pictures in reports: scenes of samples, and predictions next to what is true."""

import io

import matplotlib.image
import numpy as np
import pytest

from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.report.pictures import PredictedScenes, scenes_picture
from physgym.sample import Field, SampleSpec
from physgym.scene import Scene, field
from physgym.scene.declared import METADATA, scene_text
from tests.report.test_dataset_report import numbers

pytestmark = pytest.mark.slow

SPEC = SampleSpec([Field("x", (16, 16), np.dtype("f4"), "input"), Field("y", (16, 16), np.dtype("f4"), "target", "K")])


@pytest.fixture
def images(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype="f4").reshape(1, 16, 16)
    values = {"x": np.repeat(ramp, 4, 0), "y": np.repeat(1 - ramp, 4, 0)}
    with SampleWriter(tmp_path / "images", SPEC) as writer:
        writer.append(values, episode=np.arange(4), step=np.zeros(4, int), seed=np.arange(4, dtype="u8"))
    return SampleDataset(tmp_path / "images")


def coloured(png: bytes) -> list[int]:
    """How many pixels of the left, the middle and the right third of a picture have a colour, but of their bars."""
    pixels = (matplotlib.image.imread(io.BytesIO(png))[..., :3] * 255).astype(int)
    pixels = pixels[: int(0.8 * len(pixels))]
    return [int((part.max(2) - part.min(2) > 60).sum()) for part in np.array_split(pixels, 3, axis=1)]


def test_what_is_true_what_is_predicted_and_the_error_stand_side_by_side(images):
    true = {name: values[0] for name, values in images[0:1].items()}
    exact, wrong = {"y": true["y"]}, {"y": np.where(np.arange(16) < 8, true["y"], true["y"] + 1)}
    scenes = PredictedScenes(images, SPEC, ["y"])
    left, middle, right = coloured(scenes.picture(true, exact, plotted=True))
    assert min(left, middle) > 10_000
    assert right < 100  # white
    left, middle, right = coloured(scenes.picture(true, wrong, plotted=True))
    assert min(left, middle) > 10_000
    assert 10_000 < right < 0.7 * left  # half of it


def test_numbers_that_are_plotted_have_no_picture(images, tmp_path):
    dataset = numbers(tmp_path / "d", np.arange(20.0))
    assert scenes_picture(dataset, [0, 1]) is None
    true = {name: values[0] for name, values in dataset[0:1].items()}
    scenes = PredictedScenes(dataset, dataset.spec, ["y"])
    assert scenes.picture(true, {"y": true["y"] + 1}, plotted=True) is None


def test_scenes_of_samples_stand_side_by_side(images):
    assert min(coloured(scenes_picture(images, [0, 1, 2]))) > 10_000


def test_the_title_of_a_scene_stands_above_its_samples(images, monkeypatch):
    titles = []
    monkeypatch.setattr("physgym.report.pictures.png", lambda picture: b"")
    monkeypatch.setattr("physgym.report.pictures.draw", lambda *_, **said: titles.append(said["title"]))
    scene = Scene()
    scene.title("plate")
    scene.image("y", field("y"))
    surgery.describe(images.paths[0], {METADATA: scene_text(scene.declaration())})
    dataset = SampleDataset(images.paths[0])
    scenes_picture(dataset, [0, 1])
    true = {name: values[0] for name, values in dataset[0:1].items()}
    PredictedScenes(dataset, SPEC, ["y"]).picture(true, {"y": true["y"]}, plotted=False)
    assert titles == ["plate", "plate"]
