"""LeRobot: the layout by its specification, values as its own way of reading tables gives them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats import registry
from physgym.formats.registry import ExportOptions
from physgym.sample import Field, SampleSpec

arrow = pytest.importorskip("pyarrow", reason="pip install 'physgym[parquet]'")

from pyarrow import parquet  # noqa: E402

from physgym.formats.lerobot_dataset import export_lerobot  # noqa: E402

SPEC = SampleSpec(
    [
        Field("observation", (3,), np.dtype("f4"), "input"),
        Field("action", (1,), np.dtype("f8"), "input"),
        Field("camera/left", (2, 4, 3), np.dtype("u1"), "additional"),
        Field("reward", (), np.dtype("f8"), "target"),
        Field("terminated", (), np.dtype("?"), "additional"),
        Field("note", (), np.dtype("U5"), "additional"),
    ]
)
STEPS = (0, 1, 2, 0, 1, 2, 4, 5)  # of two episodes, where a step of the second one was rejected
EPISODES = (3, 3, 3, 7, 7, 7, 7, 7)


def values():
    i = np.arange(len(STEPS))
    return {
        "observation": (i[:, None] + np.arange(3) / 4).astype("f4"),
        "action": 1e6 + i[:, None] / 3,
        "camera/left": (i[:, None, None, None] + np.arange(24).reshape(2, 4, 3)).astype("u1"),
        "reward": i**2 / 7,
        "terminated": i % 3 == 2,
        "note": np.array([f"é{n}" for n in i]),
    }


def written(path, time_step="0.05", spec=SPEC):
    with SampleWriter(path, spec, source={"env": "toy/Arm-v0"}, attributes={"time_step": time_step}) as writer:
        samples = {name: values()[name] for name in spec}
        writer.append(samples, episode=np.array(EPISODES), step=np.array(STEPS), seed=np.zeros(8, "u8"))
    return SampleDataset(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot")
    return folder / "arm", export_lerobot(written(folder / "d"), folder / "arm")


def check_layout(root) -> None:
    """Check what https://huggingface.co/docs/lerobot/lerobot-dataset-v3 says, and its reader wants."""
    info = json.loads((root / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert isinstance(info["fps"], int)
    frame = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
    assert frame <= set(info["features"])
    assert not [name for name in info["features"] if "/" in name]
    episodes = parquet.read_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert len(episodes) == info["total_episodes"]
    assert info["splits"] == {"train": f"0:{len(episodes)}"}
    begin = 0
    for number, episode in enumerate(episodes):
        assert episode["episode_index"] == number
        assert episode["dataset_from_index"] == begin
        begin += episode["length"]
        assert episode["dataset_to_index"] == begin
        place = {"chunk_index": episode["data/chunk_index"], "file_index": episode["data/file_index"]}
        table = parquet.read_table(root / info["data_path"].format(**place))
        assert set(table.column_names) == set(info["features"])
        rows = table.filter(arrow.compute.field("episode_index") == number)
        assert rows["frame_index"].to_pylist() == list(range(episode["length"]))
        assert rows["index"].to_pylist() == list(range(episode["dataset_from_index"], episode["dataset_to_index"]))
        seconds = np.arange(episode["length"]) / info["fps"]
        np.testing.assert_array_equal(rows["timestamp"], seconds.astype("f4"))
    assert begin == info["total_frames"]
    statistics = json.loads((root / "meta" / "stats.json").read_text())
    numbers = {name for name, one in info["features"].items() if one["dtype"] != "string"}
    assert set(statistics) == numbers
    for name in numbers:
        for moment in ("min", "max", "mean", "std"):
            assert np.shape(statistics[name][moment]) == tuple(info["features"][name]["shape"])


def test_the_layout_is_that_of_the_specification(exported):
    root, remarks = exported
    assert remarks == [
        "steps are missing: the rest of such an episode is one of its own, which begins at frame 0",
        "left out: seeds and numbers of episodes",
    ]
    check_layout(root)
    info = json.loads((root / "meta" / "info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, 8, 20)
    assert info["features"]["observation.state"] == {"dtype": "float32", "shape": [3], "names": None}
    assert info["features"]["next.reward"] == {"dtype": "float64", "shape": [1], "names": None}
    assert info["features"]["camera.left"]["shape"] == [2, 4, 3]
    statistics = json.loads((root / "meta" / "stats.json").read_text())["action"]
    np.testing.assert_allclose(statistics["mean"], values()["action"].mean(0), rtol=1e-15)
    np.testing.assert_allclose(statistics["std"], values()["action"].std(0), rtol=1e-9)
    assert statistics["count"] == [8]


def test_values_are_those_of_the_samples(exported):
    root, _ = exported
    datasets = pytest.importorskip("datasets", reason="pip install 'physgym[huggingface]'")
    features = datasets.Features(
        {
            "observation.state": datasets.List(datasets.Value("float32"), length=3),
            "action": datasets.Value("float64"),
            "camera.left": datasets.Array3D((2, 4, 3), "uint8"),
            "next.reward": datasets.Value("float64"),
            "next.done": datasets.Value("bool"),
            "note": datasets.Value("string"),
            **{name: datasets.Value("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
            "timestamp": datasets.Value("float32"),
        }
    )
    files = [str(file) for file in sorted(root.glob("data/*/*.parquet"))]
    table = datasets.Dataset.from_parquet(files, features=features, cache_dir=str(root.parent / "cache"))
    rows = table.with_format("arrow")[:]
    want = values()
    np.testing.assert_array_equal(np.array(rows["observation.state"].to_pylist(), "f4"), want["observation"])
    np.testing.assert_array_equal(np.array(rows["camera.left"].to_pylist(), "u1"), want["camera/left"])
    np.testing.assert_array_equal(rows["action"], want["action"][:, 0])
    np.testing.assert_array_equal(rows["next.done"], want["terminated"])
    assert rows["note"].to_pylist() == want["note"].tolist()
    assert rows["episode_index"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_tasks_are_the_index_of_a_table(exported):
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(exported[0] / "meta" / "tasks.parquet")
    assert tasks.iloc[0].name == "toy/Arm-v0"
    assert tasks.loc["toy/Arm-v0"].task_index == 0


def test_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.formats.lerobot_dataset.FILE_MEGABYTES", 0)
    monkeypatch.setattr("physgym.formats.lerobot_dataset.PER_CHUNK", 2)
    export_lerobot(written(tmp_path / "d"), tmp_path / "x")
    assert len(list(tmp_path.glob("x/data/*/*.parquet"))) == 3
    assert (tmp_path / "x" / "data" / "chunk-001" / "file-000.parquet").exists()
    check_layout(tmp_path / "x")


def test_names_may_be_given_and_what_does_not_fit_is_named(tmp_path, monkeypatch):
    dataset = written(tmp_path / "d", time_step="0.3")
    form = registry.find("lerobot")
    text = form.write(dataset, ExportOptions(out=tmp_path / "x", fields={"observation.images.left": "camera/left"}))
    assert "a step is 1 s there" in text
    info = json.loads((tmp_path / "x" / "meta" / "info.json").read_text())
    assert info["fps"] == 1
    assert "observation.images.left" in info["features"]
    for fields, text in (
        ({"action": "reward"}, "feature 'action' is taken"),
        ({"index": "reward"}, "feature 'index' is taken"),
        ({"a": "reward", "b": "reward"}, "gives a field two names"),
        ({"a": "pressure"}, r"fields names \['pressure'\]"),
    ):
        with pytest.raises(ConfigError, match=text):
            export_lerobot(dataset, tmp_path / "y", fields=fields)
    spec = SampleSpec([Field("z", (), np.dtype("c8"), "input")])
    with SampleWriter(tmp_path / "e", spec) as writer:
        writer.add({"z": np.complex64(1j)}, episode=0, step=0, seed=0)
    with pytest.raises(ConfigError, match=r"LeRobot has no complex64 of shape \(\), the form of 'z'"):
        export_lerobot(SampleDataset(tmp_path / "e"), tmp_path / "y")
    with pytest.raises(ConfigError, match="--field: a is given twice"):
        form.write(dataset, ExportOptions(out=tmp_path / "y", fields={"a": ["reward", "camera/left"]}))
    with pytest.raises(DatasetError, match="exists; choose another name"):
        export_lerobot(dataset, tmp_path / "x")
    monkeypatch.setattr("physgym.formats.lerobot_dataset.from_arrow", lambda name, column, *form: np.zeros(len(column)))
    with pytest.raises(DatasetError, match="do not hold the values of"):
        export_lerobot(dataset, tmp_path / "y")
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
def test_the_library_of_lerobot_reads_it(exported):
    why = "pip install lerobot elsewhere: it wants torch below 2.11 and a torchvision of the same build, some gigabytes"
    pytest.importorskip("lerobot", reason=why)
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    frames = LeRobotDataset("me/arm", root=exported[0], delta_timestamps={"observation.state": [-0.05, 0, 0.05]})
    want = values()
    assert (len(frames), frames.num_episodes, frames.fps) == (8, 3, 20)
    for i in range(8):
        np.testing.assert_array_equal(frames[i]["observation.state"][1], want["observation"][i])
        np.testing.assert_array_equal(frames[i]["camera.left"], want["camera/left"][i])
    assert frames[5]["observation.state_is_pad"].tolist() == [False, False, True]
    assert frames[4]["task"] == "toy/Arm-v0"
