"""Scenes that datasets keep, and pictures of their samples without the simulation."""

import json
import logging

import gymnasium
import numpy as np
import pytest

import physgym
from physgym.data import surgery
from physgym.data.summary import summarize
from physgym.errors import SceneError
from physgym.formats.numpy_arrays import export_numpy, import_numpy
from physgym.nn import MLP, Predictor
from physgym.runner import Runner
from physgym.scene import draw, field
from physgym.scene.changes import difference, is_empty
from physgym.scene.live import LiveScene
from physgym.scene.stored import scene_of
from tests.scene.test_live import Declared, Moving


class Wrong(Moving):
    def scene(self, scene):
        scene.points("x", field("x"), colour="red")


def made(env, path, **options):
    return physgym.generate(env, path, **{"samples": 4, "num_workers": 0, "progress": False, **options})


def test_a_declared_scene_is_kept_and_drawn_from_samples(tmp_path):
    dataset = made(Declared, tmp_path / "d")
    scene = scene_of(dataset)
    assert list(scene.handles) == ["x", "corner", "ghost"]  # the trace is moved by code
    shown = scene.snapshot(dataset[2], dataset.constants)["objects"]
    np.testing.assert_array_equal(shown["x"]["points"], dataset[2]["x"][None])
    assert list(scene.snapshot({**dataset[2], "prediction/x": np.ones(3)}, dataset.constants)["objects"]) == [
        "x",
        "corner",
        "ghost",
    ]


def test_partitions_and_constants_are_the_same_with_a_scene_and_without(tmp_path, monkeypatch):
    assert "scene" in made(Declared, tmp_path / "with", seed=1).metadata
    monkeypatch.delattr(Declared, "scene")
    assert made(Declared, tmp_path / "without", seed=1).metadata == {}
    for name in ("constants.npz", "training-00000.h5"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_a_resume_keeps_the_scene_that_is_there(tmp_path):
    made(Declared, tmp_path / "d")
    surgery.describe(tmp_path / "d", {"scene": "kitchen", "author": "A. Mason"})
    again = made(Declared, tmp_path / "d", samples=8, resume=True)
    assert again.metadata == {"scene": "kitchen", "author": "A. Mason"}
    assert list(scene_of(again).handles)[:2] == ["x", "prediction/x"]  # that text is no scene: the default one


def test_a_scene_goes_through_surgery_and_other_formats(tmp_path):
    dataset = made(Declared, tmp_path / "d")
    renamed = surgery.rename(tmp_path / "d", "x", "place", tmp_path / "renamed").open()
    shown = scene_of(renamed).snapshot(renamed[1], renamed.constants)["objects"]
    np.testing.assert_array_equal(shown["x"]["points"], dataset[1]["x"][None])
    export_numpy(dataset, tmp_path / "plain")
    again = import_numpy(tmp_path / "plain", tmp_path / "again")
    assert scene_of(again).declaration() == scene_of(dataset).declaration()


def test_a_summary_names_the_objects(tmp_path):
    made(Declared, tmp_path / "d")
    assert "scene: x, corner, ghost" in list(summarize(tmp_path / "d"))


def test_a_wrong_scene_ends_no_run_and_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = made(Wrong, tmp_path / "d")
    assert "the scene of the simulation is not stored: Wrong: object 'x' of the scene: colour must be" in caplog.text
    assert len(dataset) == 4
    assert dataset.metadata == {}


def test_what_a_dataset_lacks_of_a_scene_is_named(tmp_path, caplog):
    class Depths(Moving):
        fixed = False

        def scene(self, scene):
            scene.points("x", field("x"))
            scene.curve("solid", field("x")[:, 0], np.arange(1.0), fixed=self.fixed)
            scene.points("corner", np.zeros((1, 3)), fixed=self.fixed)
            scene.points("later")

    class Moved(Depths):
        def update_scene(self, scene):
            scene.handles["corner"].update(points=np.ones((1, 3)))

    class Fixed(Depths):
        fixed = True

    for env, said in ((Depths, "solid, corner"), (Moved, "solid"), (Fixed, None)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            made(env, tmp_path / env.__name__)
        if said is None:
            assert "not stored" not in caplog.text
        else:
            assert f"pictures of the dataset do not show it: {said}. Its arrays are not fixed" in caplog.text
            assert "fixed=True" in caplog.text


def test_a_scene_of_a_later_version_is_refused(tmp_path):
    made(Declared, tmp_path / "d")
    data = json.loads(physgym.SampleDataset(tmp_path / "d").metadata["scene"])
    surgery.describe(tmp_path / "d", {"scene": json.dumps({**data, "version": 9})})
    with pytest.raises(SceneError, match="has the version 9"):
        scene_of(physgym.SampleDataset(tmp_path / "d"))


SHIPPED = ["Spring", "Beam", "Heat", "Burgers", "BurgersStep", "KuramotoSivashinsky", "NavierStokes2D", "Darcy"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dataset_of_a_shipped_simulation_shows_what_the_live_scene_shows(tmp_path, name):
    sizes = {"Spring": {}, "Beam": {"nodes": (4, 4, 4)}, "BurgersStep": {"size": 64, "viscosity": 0.1}}
    arguments = sizes.get(name, {"size": 16})
    options = {"samples": 2, "max_steps": 2, "env_kwargs": arguments, "num_envs": 1, "seed": 3}
    dataset = made(f"physgym/{name}-v0", tmp_path / "d", **options)
    scene = scene_of(dataset)
    live, row = LiveScene(gymnasium.make(f"physgym/{name}-v0", **arguments)), dataset[1]
    live.frame(row)
    live.snapshot.pop("inputs", None)  # those of a person are for runs
    assert is_empty(difference(live.snapshot, scene.snapshot(row, dataset.constants)))
    target = next(each.name for each in dataset.spec.values() if each.role == "target")
    ghosts = scene.snapshot({**row, f"prediction/{target}": 2 * row[target]}, dataset.constants)["objects"]
    assert len(ghosts) > len(live.snapshot["objects"])


@pytest.mark.slow
def test_the_picture_of_a_stored_beam_has_arrows_markers_and_a_ghost(tmp_path):
    dataset = made("physgym/Beam-v0", tmp_path / "d", samples=1, env_kwargs={"nodes": (4, 4, 4)})
    scene, row = scene_of(dataset), dataset[0]
    shown = scene.snapshot(row, dataset.constants)
    whole = draw([shown], (320, 240)).astype(int)
    for name in shown["objects"]:
        fewer = {**shown, "objects": {key: item for key, item in shown["objects"].items() if key != name}}
        assert (draw([fewer], (320, 240)) != whole).any(), name
    said = {**row, "prediction/displacement": row["displacement"] * np.float32(-1)}
    changed = draw([scene.snapshot(said, dataset.constants)], (320, 240)).astype(int) - whole
    assert np.abs(changed).max() > 50


@pytest.mark.slow
@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}])
def test_records_of_runs_and_replays_keep_the_scene_with_the_ghost(tmp_path, workers):
    options = {"samples": 3, "max_steps": 3, "env_kwargs": {"nodes": (4, 4, 4)}}
    dataset = made("physgym/Beam-v0", tmp_path / "d", **options, **workers)
    predictor = Predictor(MLP.from_spec(dataset.spec, hidden=()), dataset.spec)
    arguments = {"env_kwargs": options["env_kwargs"], "max_steps": 1}
    for name, surrogate in (("run", False), ("surrogate", True)):
        with Runner(
            "physgym/Beam-v0", predictor, record=tmp_path / name, surrogate=surrogate, **arguments, **workers
        ) as runner:
            runner.run(2, progress=False)
    with Runner(None, predictor, record=tmp_path / "replay") as runner:
        runner.run(replay=dataset, progress=False)
    for name in ("run", "surrogate", "replay"):
        record = physgym.SampleDataset(tmp_path / name, mode="prediction")
        scene = scene_of(record)
        assert scene.declaration() == scene_of(dataset).declaration()
        assert "predicted" in scene.snapshot(record[0], record.constants)["objects"]
