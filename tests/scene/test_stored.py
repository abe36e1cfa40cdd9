"""The scene of a stored dataset: the declared one, else that of its fields."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.surgery import describe
from physgym.errors import SceneError
from physgym.scene.objects import Scene
from physgym.scene.stored import scene_of
from physgym.scene.values import field
from tests.scene.test_sample_view import store


def test_a_declared_scene_goes_before_that_of_the_fields(tmp_path):
    dataset = store(tmp_path / "data")
    assert "m" in scene_of(dataset).handles
    declared = Scene()
    declared.curve("row", field("m")[3])
    describe(tmp_path / "data", {"scene": json.dumps(declared.declaration())})
    dataset = SampleDataset(tmp_path / "data")
    scene = scene_of(dataset)
    assert set(scene.handles) == {"row"}
    values = scene.snapshot(dataset[1], dataset.constants)["objects"]["row"]["values"]
    np.testing.assert_array_equal(values, dataset[1]["m"][3])


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 99}'])
def test_what_is_no_declaration_is_an_error_that_names_the_dataset(tmp_path, text):
    store(tmp_path / "data")
    describe(tmp_path / "data", {"scene": text})
    with pytest.raises(SceneError, match="data"):
        scene_of(SampleDataset(tmp_path / "data"))
