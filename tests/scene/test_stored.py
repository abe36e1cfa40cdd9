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
from physgym.scene.values import constant, field, prediction
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


def test_what_the_samples_lack_of_a_scene_is_named(tmp_path, caplog):
    store(tmp_path / "data")
    declared = Scene()
    declared.curve("row", field("m")[3])
    declared.curve("heat", field("heat"), constant("mesh/nodes"))
    declared.curve("predicted", prediction("m")[3])  # which no samples of a solver have
    describe(tmp_path / "data", {"scene": json.dumps(declared.declaration())})
    assert [*scene_of(SampleDataset(tmp_path / "data")).handles] == ["row", "heat", "predicted"]
    (said,) = [one.getMessage() for one in caplog.records]
    assert "data draws fields or constants that its samples do not have: heat (of constant 'mesh/nodes', " in said
    assert "field 'heat'). " in said
