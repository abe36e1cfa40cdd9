"""The Well: its layout by its specification, a dataset there and back, files of other people, and its own library."""

from __future__ import annotations

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.surgery import describe
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats import registry
from physgym.formats.registry import ExportOptions, ImportOptions
from physgym.formats.well_files import export_well, import_well
from physgym.sample import Field, SampleSpec
from physgym.testing.formats import cut

SPEC = SampleSpec(
    [
        Field("u", (4, 3), np.dtype("f4"), "input", dimensions=2),
        Field("flow", (4, 3, 2), np.dtype("f4"), "target", dimensions=2),
        Field("load/left", (2,), np.dtype("f8"), "input"),
        Field("name", (), np.dtype("S3"), "additional"),
    ]
)


def written(path, lengths=(5, 5), first=0, **options):
    """u = 100 episode + 10 step + point; load = step / 3."""
    with SampleWriter(path, SPEC, attributes={"time_step": "0.5"}, **options) as writer:
        writer.set_constants({"x": np.array([0.0, 0.1, 0.3, 0.6])})
        for episode, length in enumerate(lengths):
            step = np.arange(first, first + length)
            u = (100 * episode + 10 * step[:, None, None] + np.arange(12).reshape(4, 3)).astype("f4")
            samples = {"u": u, "flow": np.stack([u, -u], -1), "load/left": np.stack([step / 3, -step], -1)}
            samples["name"] = np.full(length, b"abc")
            writer.append(samples, episode=np.full(length, episode), step=step, seed=np.full(length, 1, "u8"))
    return SampleDataset(path, mode=options.get("mode", "training"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("well")
    dataset = written(folder / "d")
    remarks = export_well(dataset, folder / "plates")
    return dataset, folder / "plates", remarks


def check_layout(file: h5py.File) -> None:
    """Check what https://polymathic-ai.org/the_well/data_format says."""
    assert {"dataset_name", "grid_type", "n_spatial_dims", "n_trajectories", "simulation_parameters"} <= set(file.attrs)
    groups = {"dimensions", "boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields"}
    assert set(file) == groups
    axes = list(file["dimensions"].attrs["spatial_dims"])
    assert len(axes) == file.attrs["n_spatial_dims"]
    assert set(file["dimensions"]) == {"time", *axes}
    trajectories, steps = file.attrs["n_trajectories"], file["dimensions/time"].shape[-1]
    grid = tuple(len(file["dimensions"][axis]) for axis in axes)
    for axis in axes:
        assert not file["dimensions"][axis].attrs["time_varying"]
    for order, group in enumerate(("t0_fields", "t1_fields", "t2_fields")):
        assert sorted(file[group].attrs["field_names"]) == sorted(file[group])
        for one in file[group].values():
            assert one.shape == (trajectories, steps, *grid, *(len(grid),) * order)
            assert one.dtype == np.float32
            assert one.attrs["dim_varying"].all()
            assert one.attrs["sample_varying"]
            assert one.attrs["time_varying"]
    assert sorted(file["scalars"].attrs["field_names"]) == sorted(file["scalars"])
    for one in file["scalars"].values():
        assert one.shape == (trajectories, steps)


def test_the_layout_is_that_of_the_specification(exported):
    dataset, folder, remarks = exported
    assert remarks == ["rounded to float32: load/left", "left out: name (|S3), seeds and numbers of episodes"]
    with h5py.File(folder / "data" / "train" / "plates.hdf5") as file:
        check_layout(file)
        np.testing.assert_array_equal(file["t0_fields/u"], dataset[:]["u"].reshape(2, 5, 4, 3))
        np.testing.assert_array_equal(file["t0_fields/flow_1"], -dataset[:]["u"].reshape(2, 5, 4, 3))
        np.testing.assert_array_equal(file["scalars/load_left_0"], [np.arange(5, dtype="f4") / np.float32(3)] * 2)
        np.testing.assert_array_equal(file["dimensions/time"], [0.5, 1, 1.5, 2, 2.5])
        np.testing.assert_array_equal(file["dimensions/x"], np.array([0, 0.1, 0.3, 0.6], "f4"))
        np.testing.assert_array_equal(file["dimensions/y"], [0, 1, 2])


def test_an_exported_dataset_is_imported(exported, tmp_path):
    dataset, folder, _ = exported
    again = import_well(folder, tmp_path / "e")
    np.testing.assert_array_equal(again[:]["u"], dataset[:]["u"])
    np.testing.assert_array_equal(again[:]["flow_1"], dataset[:]["flow"][..., 1])
    np.testing.assert_array_equal(again.index("episode"), dataset.index("episode"))
    np.testing.assert_array_equal(again.index("step"), dataset.index("step"))
    np.testing.assert_array_equal(again.index("time"), dataset.index("time"))
    assert again.spec["u"].dimensions == 2
    assert again.spec.names("input") == ("u", "flow_0", "flow_1", "load_left_0", "load_left_1")
    windows = again.windows(inputs=1, targets=1, fields=["u"])
    np.testing.assert_array_equal(windows[0]["next_u"][0], again[1]["u"])


def test_parts_are_those_of_the_well(exported, tmp_path):
    written(tmp_path / "d", lengths=(3,), mode="validation")
    dataset = SampleDataset(tmp_path / "d", mode="validation")
    form = registry.find("well")
    assert "left out" in form.write(dataset, ExportOptions(out=tmp_path / "w"))
    assert (tmp_path / "w" / "data" / "valid" / "w.hdf5").exists()
    with pytest.raises(DatasetError, match="exists; choose another name"):
        export_well(dataset, tmp_path / "w")
    export_well(written(tmp_path / "t"), tmp_path / "w")
    assert registry.of_source(str(tmp_path / "w")) is form
    assert len(import_well(tmp_path / "w", tmp_path / "e", mode="validation")) == 3
    with pytest.raises(DatasetError, match="has no part 'test'"):
        import_well(tmp_path / "w", tmp_path / "f", mode="test")
    with pytest.raises(ConfigError, match="no --episode or --step"):
        form.read(str(tmp_path / "w"), tmp_path / "f", ImportOptions(episode="u"))


def test_what_does_not_fit_the_well_is_named(tmp_path):
    with pytest.raises(ConfigError, match="episode 0 has 2 steps, 1 has 3"):
        export_well(written(tmp_path / "a", lengths=(2, 3)), tmp_path / "w")
    with pytest.raises(ConfigError, match=r"field 'u' of shape \(4, 3\) has no grid with the axes"):
        export_well(written(tmp_path / "b"), tmp_path / "w", grid={"u": ("x", "y", "z")})
    with pytest.raises(ConfigError, match="one uniform grid"):
        export_well(written(tmp_path / "c"), tmp_path / "w", grid={"u": ("x",)})
    spec = SampleSpec([Field("u", (4,), np.dtype("f8"), "input")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append({"u": np.full((2, 4), 1e200)}, episode=[0, 0], step=[0, 2], seed=[0, 0])
    dataset = SampleDataset(tmp_path / "d")
    with pytest.raises(ConfigError, match="Say which axes of which fields"):
        export_well(dataset, tmp_path / "w")
    with pytest.raises(ConfigError, match=r"episode 0 has the steps \[0, 2\], so that some are missing"):
        export_well(dataset, tmp_path / "w", grid={"u": ("x",)})
    with pytest.raises(ConfigError, match="'u' holds values that are too large for float32"):
        export_well(dataset.subset([1]), tmp_path / "w", grid={"u": ("x",)})
    assert not list(tmp_path.glob("w/**/*.hdf5"))


def foreign(file, scale=1.0):
    """A file with vectors, tensors, constant fields, fields that lack an axis, and a boundary."""
    u = scale * np.arange(2 * 3 * 4 * 5, dtype="f4").reshape(2, 3, 4, 5)
    with h5py.File(file, "w") as out:
        out.attrs.update(dataset_name="waves", grid_type="cartesian", n_spatial_dims=2, n_trajectories=2)
        out.attrs["simulation_parameters"], out.attrs["speed"] = ["speed"], 3.5
        dimensions = out.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, count in (("time", 3), ("x", 4), ("y", 5)):
            dimensions[name] = np.linspace(0, 1, count, dtype="f4")
            dimensions[name].attrs["sample_varying"] = False
        boundary = out.create_group("boundary_conditions/left")
        boundary.attrs.update(bc_type="wall", associated_dims=["x"])
        for group, arrays in (
            (
                "t0_fields",
                {"u": (u, 1, 1, [1, 1]), "depth": (u[:, 0], 1, 0, [1, 1]), "edge": (u[:, :, :, 0], 1, 1, [1, 0])},
            ),
            ("t1_fields", {"v": (np.stack([u, -u], -1), 1, 1, [1, 1])}),
            ("t2_fields", {"s": (np.stack([np.stack([u, -u], -1)] * 2, -1), 1, 1, [1, 1])}),
            ("scalars", {"speed": (np.array([3.5], "f4"), 0, 0, []), "power": (u[:, :, 0, 0], 1, 1, [])}),
        ):
            node = out.create_group(group)
            node.attrs["field_names"] = list(arrays)
            for name, (values, sample, time, dims) in arrays.items():
                node[name] = values
                node[name].attrs.update(
                    sample_varying=bool(sample), time_varying=bool(time), dim_varying=np.bool_(dims)
                )
    return u


def test_files_of_others(tmp_path, monkeypatch):
    (tmp_path / "w" / "data" / "train").mkdir(parents=True)
    first = foreign(tmp_path / "w" / "data" / "train" / "a.hdf5")
    second = foreign(tmp_path / "w" / "data" / "train" / "b.hdf5", scale=-2.0)
    u = np.concatenate([first, second])
    monkeypatch.setattr("physgym.formats.columns.CHUNK_BYTES", 3000)
    dataset = import_well(tmp_path / "w", tmp_path / "d")
    assert len(dataset) == 12
    np.testing.assert_array_equal(dataset[:]["u"], u.reshape(12, 4, 5))
    np.testing.assert_array_equal(dataset[:]["v"][..., 1], -u.reshape(12, 4, 5))
    np.testing.assert_array_equal(dataset[:]["s"][..., 1, 0], -u.reshape(12, 4, 5))
    np.testing.assert_array_equal(dataset[:]["depth"], np.repeat(u[:, 0], 3, 0))
    np.testing.assert_array_equal(dataset[:]["edge"], u[..., 0].reshape(12, 4))
    np.testing.assert_array_equal(dataset[:]["power"], u[..., 0, 0].ravel())
    np.testing.assert_array_equal(dataset[:]["time"], np.tile([0, 0.5, 1], 4))
    np.testing.assert_array_equal(dataset.index("episode"), np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(dataset.constants["y"], np.linspace(0, 1, 5, dtype="f4"))
    assert dataset.constants["speed"] == [3.5]
    assert dataset.source["well"]["boundary_conditions"] == {"left": {"type": "wall", "dims": ["x"]}}
    assert (dataset.spec["u"].feeds, dataset.spec["u"].role, dataset.spec["depth"].role) == ("u", "input", "additional")
    other = import_well(tmp_path / "w", tmp_path / "e", roles={"depth": "input", "u": "target"})
    assert (other.spec["u"].feeds, other.spec.names("target")) == ("", ("u",))


def test_a_damaged_or_other_file_is_refused(tmp_path):
    foreign(tmp_path / "a.hdf5")
    cut(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["u"] = np.zeros(3)
    for name, text in (("a.hdf5", "cannot read"), ("b.hdf5", "is no file of the Well: it lacks")):
        with pytest.raises(DatasetError, match=text):
            import_well(tmp_path / name, tmp_path / "d")
    assert not (tmp_path / "d").exists()


READ = """
import sys
import numpy as np
from the_well.data import WellDataset

items = WellDataset(path=sys.argv[1], n_steps_input=2, n_steps_output=1, use_normalization=False)
item = items[4]  # of the second trajectory, from its second step on
names = ("input_fields", "output_fields", "input_time_grid")
np.savez(sys.argv[2], count=len(items), **{name: np.asarray(item[name]) for name in names})
"""


@pytest.mark.slow
def test_the_library_of_the_well_reads_it(exported, tmp_path):
    """In a folder of its own, since it wants an old fsspec; torch, h5py and numpy are those that are here."""
    pytest.importorskip("torch")
    dataset, folder, _ = exported
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0"]
    wanted = [
        "--no-deps",
        "--target",
        str(tmp_path / "library"),
        "the_well==1.2.0",
        "fsspec==2024.10.0",
        "einops==0.8.2",
    ]
    made = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=120)
    if made.returncode:
        pytest.skip(f"pip cannot install the_well: {made.stderr.strip().splitlines()[-1:]}")
    found = tmp_path / "found.npz"
    subprocess.run(
        [sys.executable, "-c", READ, str(folder / "data" / "train"), str(found)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "library")},
        check=True,
        timeout=120,
    )
    item = np.load(found)
    assert item["count"] == 2 * 3
    u = dataset[:]["u"].reshape(2, 5, 4, 3)
    np.testing.assert_array_equal(item["input_fields"][..., 0], u[1, 1:3])
    np.testing.assert_array_equal(item["output_fields"][..., 2], -u[1, 3:4])
    np.testing.assert_array_equal(item["input_time_grid"], np.array([0, 0.5], "f4"))


def test_a_next_value_of_its_own_is_the_target(tmp_path):
    grid = {"dtype": np.dtype("f4"), "dimensions": 1}
    fields = [Field("u", (3,), role="input", **grid), Field("next_u", (3,), role="target", feeds="u", **grid)]
    with SampleWriter(tmp_path / "d", SampleSpec(fields)) as writer:
        u = np.arange(12, dtype="f4").reshape(4, 3)
        writer.append({"u": u, "next_u": u + 3}, episode=np.zeros(4, int), step=np.arange(4), seed=np.zeros(4, "u8"))
    export_well(SampleDataset(tmp_path / "d"), tmp_path / "w")
    again = import_well(tmp_path / "w", tmp_path / "e")
    assert (again.spec["u"].role, again.spec["next_u"].role, again.spec["next_u"].feeds) == ("input", "target", "u")
    np.testing.assert_array_equal(again[:]["next_u"], u + 3)


def test_units_and_words_about_a_dataset_are_said_to_be_left_out(tmp_path):
    spec = SampleSpec([Field("u", (3,), np.dtype("f4"), "input", "K", dimensions=1)])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append({"u": np.zeros((2, 3), "f4")}, episode=[0, 0], step=[0, 1], seed=[1, 1])
    describe(tmp_path / "d", {"licence": "CC0"})
    said = export_well(SampleDataset(tmp_path / "d"), tmp_path / "w")
    assert said == ["left out: seeds and numbers of episodes, units, metadata (licence)"]
