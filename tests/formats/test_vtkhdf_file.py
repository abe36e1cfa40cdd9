"""VTKHDF: VTK's own reader finds the samples of a dataset in files that copy none of them."""

from __future__ import annotations

import hashlib
import json
import time

import h5py
import numpy as np
import pytest

from physgym.data import constants
from physgym.data.dataset import SampleDataset
from physgym.data.description import rebuild_description
from physgym.data.layout import PartitionLayout
from physgym.data.partition_file import create_partition
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats.archive import archive
from physgym.formats.vtkhdf_file import check_side_file, export_vtkhdf
from physgym.sample import Field, SampleSpec
from tests.support.vtk_files import PER_EPISODE, SPEC, SQUARE, read_steps, square, write_rows

EVERY = SampleSpec(
    [
        *SPEC.values(),
        Field("group/stress", (4, 3, 3), np.dtype("f8"), "target", "Pa"),
        Field("half", (4,), np.dtype("f2"), "target"),
        Field("flag", (4, 1), np.dtype("?"), "additional"),
        Field("number", (4,), np.dtype(">u2"), "additional"),
        Field("strain", (2, 2), np.dtype("f4"), "target"),
        Field("gains", (5,), np.dtype("i8"), "input"),
        Field("word", (), np.dtype("S4"), "additional"),
        Field("other", (7, 3), np.dtype("f4"), "additional"),
    ]
)
TRIANGLES = {"nodes": SQUARE, "cells": np.array([[0, 1, 2], [0, 2, 3]]), "fixed": np.array([1, 0, 0, 1])}


@pytest.fixture
def elsewhere(monkeypatch, tmp_path_factory):
    """Work in another folder than that of the dataset."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def hashes(folder):
    return {
        file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir() if file.suffix != ".vtkhdf"
    }


def test_every_kind_of_field_is_read_by_vtk(tmp_path, elsewhere):
    dataset, rows = write_rows(tmp_path / "d", EVERY, 9, constants=TRIANGLES)
    before = hashes(tmp_path / "d")
    (file,), remarks = export_vtkhdf(dataset)
    assert file == tmp_path / "d" / "training-00000.vtkhdf"
    steps = read_steps(file)
    assert [step.time for step in steps] == list(range(9))
    for row in (0, 3, 8):
        points, cells, values = steps[row].points, steps[row].cells, steps[row].values
        np.testing.assert_array_equal(points["u"], np.pad(rows["u"][row], ((0, 0), (0, 1))))
        np.testing.assert_array_equal(points["group.stress"], rows["group/stress"][row].reshape(4, 9))
        for name in ("half", "flag", "number"):
            np.testing.assert_array_equal(points[name], rows[name][row].ravel(), err_msg=name)
        np.testing.assert_array_equal(points["fixed"], [1, 0, 0, 1])
        np.testing.assert_array_equal(cells["strain"], np.pad(rows["strain"][row], ((0, 0), (0, 1))))
        np.testing.assert_array_equal(values["gains"].ravel(), rows["gains"][row])
        assert values["load"] == rows["load"][row]
        assert (values["episode"], values["step"]) == (row // PER_EPISODE, row % PER_EPISODE)
        np.testing.assert_array_equal(steps[row].positions[:, :2], SQUARE)
        assert steps[row].kinds == [5, 5]
    assert remarks == ["left out: word (|S4), other ((7, 3) are not 4 nodes or 2 cells)"]
    assert hashes(tmp_path / "d") == before
    SampleDataset(tmp_path / "d").verify()


def test_nothing_is_copied(tmp_path):
    big = SampleSpec([Field("u", (4000, 3), np.dtype("f4"), "input")])
    dataset, _ = write_rows(tmp_path / "d", big, 20, constants={"nodes": np.zeros((4000, 3))})
    (file,), _ = export_vtkhdf(dataset)
    mesh = 4000 * (3 + 3) * 8
    assert file.stat().st_size < mesh + 30_000
    assert dataset.nbytes > 5 * file.stat().st_size / 2


def test_an_episode_over_several_partitions_has_its_times(tmp_path, elsewhere):
    dataset, rows = square(tmp_path / "d", partitions=4, attributes={"time_step": "0.5"})
    (file,), remarks = export_vtkhdf(dataset, tmp_path / "out", episode=1)
    assert file == tmp_path / "out" / "training-episode-00001.vtkhdf"
    assert len({one["file"] for one in json.loads(h5py.File(file)["physgym/sources"][()])["sources"]}) > 1
    steps = read_steps(file)
    assert [step.time for step in steps] == [0.5 * (1 + step) for step in range(PER_EPISODE)]
    for step, found in enumerate(steps):
        np.testing.assert_array_equal(found.points["u"][:, :2], rows["u"][PER_EPISODE + step])
        assert (found.values["episode"], found.values["step"]) == (1, step)
    assert remarks == []


def test_padding_is_said(tmp_path):
    there = Field("there", (4,), np.dtype("?"), "input")
    spec = SampleSpec([there, Field("at", (4, 3), np.dtype("f4"), "input", mask="there")])
    dataset, _ = write_rows(tmp_path / "d", spec, 2)
    _, remarks = export_vtkhdf(dataset, tmp_path / "out", nodes="at")
    assert remarks == ["padding is shown too, as it is stored: at (mask there)"]


def test_steps_are_in_order_whatever_the_rows_are(tmp_path):
    spec = SampleSpec([Field("u", (4, 3), np.dtype("f4"), "input")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.set_constants({"nodes": SQUARE})
        for step in (2, 0, 1):
            names = {"episode": np.array([0]), "step": np.array([step]), "seed": np.zeros(1, "u8")}
            writer.append({"u": np.full((1, 4, 3), step, "f4")}, **names)
    (file,), remarks = export_vtkhdf(SampleDataset(tmp_path / "d"), tmp_path / "e.vtkhdf", episode=0)
    assert file == tmp_path / "e.vtkhdf"
    assert [(step.time, step.points["u"][0, 0]) for step in read_steps(file)] == [(0, 0), (1, 1), (2, 2)]
    assert remarks == ["the time is the step"]


def test_the_time_of_samples_is_that_of_the_steps_if_it_ascends(tmp_path):
    spec = SampleSpec([Field("u", (4,), np.dtype("f4"), "input"), Field("time", (), np.dtype("f8"), "additional", "s")])
    for name, times in (("a", [0.1, 0.4]), ("b", [0.4, 0.4])):
        with SampleWriter(tmp_path / name, spec) as writer:
            writer.set_constants({"nodes": SQUARE})
            names = {"episode": np.zeros(2, int), "step": np.arange(2), "seed": np.zeros(2, "u8")}
            writer.append({"u": np.zeros((2, 4), "f4"), "time": np.array(times)}, **names)
    (file,), remarks = export_vtkhdf(SampleDataset(tmp_path / "a"), episode=0)
    assert [step.time for step in read_steps(file)] == [0.1, 0.4]
    assert remarks == []
    (file,), remarks = export_vtkhdf(SampleDataset(tmp_path / "b"), episode=0)
    assert [step.time for step in read_steps(file)] == [0, 1]
    assert remarks == ["the time is the step: the times of the samples do not ascend"]


def test_nodes_may_move(tmp_path):
    spec = SampleSpec([Field("where", (3, 2), np.dtype("f4"), "input"), Field("heat", (3,), np.dtype("f4"), "target")])
    dataset, rows = write_rows(tmp_path / "d", spec, 4)
    (file,), _ = export_vtkhdf(dataset, nodes="where")
    for row, step in enumerate(read_steps(file)):
        np.testing.assert_array_equal(step.positions, np.pad(rows["where"][row], ((0, 0), (0, 1))))
        np.testing.assert_array_equal(step.points["heat"], rows["heat"][row])
        assert step.kinds == [1, 1, 1]


def test_what_is_committed_of_an_open_partition_is_shown_and_stays_right_when_it_is_sealed(tmp_path):
    dataset, rows = square(tmp_path / "d", count=6, close=False)
    assert not dataset.partitions[0].sealed
    (file,), _ = export_vtkhdf(dataset)
    assert len(read_steps(file)) == 6
    with SampleWriter(tmp_path / "d", SPEC, source={"env": "toy"}, resume=True) as writer:
        names = {"episode": np.array([9]), "step": np.array([0]), "seed": np.array([9], "u8")}
        writer.append({name: column[:1] for name, column in rows.items()}, **names)
    assert SampleDataset(tmp_path / "d").partitions[0].sealed
    for row, step in enumerate(read_steps(file)):
        np.testing.assert_array_equal(step.points["u"][:, :2], rows["u"][row])
    assert check_side_file(file) == []


def test_a_folder_that_was_moved_is_read_and_a_missing_partition_is_noticed(tmp_path, elsewhere):
    dataset, rows = square(tmp_path / "d", partitions=4)
    export_vtkhdf(dataset, tmp_path / "out", episode=1)
    (tmp_path / "new").mkdir()
    for name in ("d", "out"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    file = tmp_path / "new" / "out" / "training-episode-00001.vtkhdf"
    np.testing.assert_array_equal(read_steps(file)[2].points["u"][:, :2], rows["u"][PER_EPISODE + 2])
    assert check_side_file(file) == []
    gone = json.loads(h5py.File(file)["physgym/sources"][()])["sources"][0]["file"]
    (file.parent / gone).unlink()
    assert [one.partition(":")[0] for one in check_side_file(file)] == [gone]
    first = read_steps(file)[0]
    assert np.isnan(first.points["u"][:, :2]).all()
    assert first.values["episode"] == -1


def test_another_dataset_in_the_same_place_is_noticed(tmp_path):
    dataset, _ = square(tmp_path / "d")
    (file,), _ = export_vtkhdf(dataset, tmp_path / "out")
    (tmp_path / "d").rename(tmp_path / "old")
    square(tmp_path / "d", count=18)
    assert "18 samples, and 20 are shown" in check_side_file(file)[0]
    (tmp_path / "d").rename(tmp_path / "short")
    write_rows(tmp_path / "d", SampleSpec([Field("u", (5, 2), np.dtype("f4"), "input")]), 20)
    assert "no data/" in check_side_file(file)[0]
    (tmp_path / "d").rename(tmp_path / "shapes")
    archive(tmp_path / "old", tmp_path / "d", compression="gzip")
    assert check_side_file(file) == []  # the same rows
    (tmp_path / "d").rename(tmp_path / "same")
    other = SampleSpec([SPEC["u"], SPEC["load"], Field("more", (), np.dtype("f4"), "target")])
    write_rows(tmp_path / "d", other, 20)
    assert "another file" in check_side_file(file)[0]
    for wrong in (tmp_path / "none.vtkhdf", dataset.partitions[0].path.with_name("nothing.h5")):
        with pytest.raises(DatasetError, match="no file that physgym export --to vtkhdf has written"):
            check_side_file(wrong)


def test_a_grid_is_an_image(tmp_path):
    spec = SampleSpec(
        [
            Field("heat", (2, 3), np.dtype("f4"), "input", dimensions=2),
            Field("flow", (2, 2, 3), np.dtype("f4"), "target", dimensions=2),
            Field("late", (2, 3, 2), np.dtype("f4"), "target"),
            Field("source", (2, 3), np.dtype("f4"), "input"),
        ]
    )
    axes = {"y": np.array([0.0, 0.5]), "x": np.array([1.0, 3.0, 5.0], "f4")}
    dataset, rows = write_rows(tmp_path / "d", spec, 5, constants=axes)
    (file,), remarks = export_vtkhdf(dataset, dims={"heat": ["y", "x"], "late": ["y", "x", "component"]})
    for row, step in enumerate(read_steps(file)):
        np.testing.assert_array_equal(step.points["heat"], rows["heat"][row].ravel())
        np.testing.assert_array_equal(step.points["source"], rows["source"][row].ravel())
        flow = np.moveaxis(rows["flow"][row], 0, -1).reshape(6, 2)
        np.testing.assert_array_equal(step.points["flow"], np.pad(flow, ((0, 0), (0, 1))))
        np.testing.assert_array_equal(step.points["late"][:, :2], rows["late"][row].reshape(6, 2))
        np.testing.assert_array_equal(step.positions[[0, 1, 3]], [[1, 0, 0], [3, 0, 0], [1, 0.5, 0]])
        assert step.values["step"] == row
    assert remarks == []


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1, 5), (5, 1), (4, 1, 5)])
def test_grids_of_other_shapes_are_images_too(tmp_path, shape):
    spec = SampleSpec([Field("heat", shape, np.dtype("f8"), "input", dimensions=len(shape))])
    dataset, rows = write_rows(tmp_path / "d", spec, 3)
    (file,), remarks = export_vtkhdf(dataset)
    steps = read_steps(file)
    for row, step in enumerate(steps):
        np.testing.assert_array_equal(step.points["heat"], rows["heat"][row].ravel())
    long = [length for length in shape if length > 1]
    assert steps[0].bounds == pytest.approx(
        [*np.ravel([[0, n - 1] for n in reversed(long)]), *[0] * (6 - 2 * len(long))]
    )
    assert remarks[0].startswith("the spacing along the axes")


def test_axes_have_the_directions_of_their_names(tmp_path):
    spec = SampleSpec([Field("heat", (2, 3), np.dtype("f4"), "input")])
    axes = {"x": np.array([0.0, 10.0]), "y": np.array([3.0, 2.0, 1.0])}
    dataset, rows = write_rows(tmp_path / "d", spec, 2, constants=axes)
    (file,), _ = export_vtkhdf(dataset, dims={"heat": ["x", "y"]})
    step = read_steps(file)[0]
    np.testing.assert_array_equal(step.positions[:, 0], [0, 0, 0, 10, 10, 10])
    np.testing.assert_array_equal(step.positions[:, 1], [3, 2, 1, 3, 2, 1])
    np.testing.assert_array_equal(step.points["heat"], rows["heat"][0].ravel())


def test_an_archive_that_vtk_reads_is_shown_and_another_one_is_refused(tmp_path, elsewhere):
    _, rows = square(tmp_path / "d")
    archive(tmp_path / "d", tmp_path / "gzip", compression="gzip")
    (file,), _ = export_vtkhdf(SampleDataset(tmp_path / "gzip"))
    np.testing.assert_array_equal(read_steps(file)[17].points["u"][:, :2], rows["u"][17])
    pytest.importorskip("hdf5plugin", reason="pip install 'physgym[archive]'")
    archive(tmp_path / "d", tmp_path / "zstd", compression="zstd")
    with pytest.raises(DatasetError, match=r"compressed with zstd.*--compress gzip"):
        export_vtkhdf(SampleDataset(tmp_path / "zstd"))
    assert not list((tmp_path / "zstd").glob("*.vtkhdf"))


def test_nothing_is_replaced_and_nothing_half_written_is_left(tmp_path, monkeypatch):
    dataset, _ = square(tmp_path / "d", partitions=3)
    last = tmp_path / "d" / "training-00001.vtkhdf"
    last.write_text("mine")
    with pytest.raises(DatasetError, match=r"training-00001\.vtkhdf exists"):
        export_vtkhdf(dataset)
    assert [file.name for file in (tmp_path / "d").glob("*.vtkhdf")] == [last.name]
    last.unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("physgym.formats.vtk.side_file._write_mesh", full)
    with pytest.raises(DatasetError, match=r"cannot write .*00000\.vtkhdf.*No space left"):
        export_vtkhdf(dataset)
    assert not list((tmp_path / "d").glob("*vtkhdf*"))
    assert not list((tmp_path / "d").glob(".*vtkhdf*"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"episode": 77}, "there is no episode 77; there are 0 to 2"),
        ({"episode": -1}, "episode must be its number"),
        ({"out": "x.vtkhdf"}, "is to be a folder"),
        ({"nodes": "corners"}, r"there is no constant and no field 'corners'; constants: \['cells', 'nodes'\]"),
        ({"nodes": "load"}, "the field 'load' of shape"),
        ({"cells": "faces"}, "there is no constant 'faces' with cells"),
        ({"cells": "cells=hexahedron"}, "4 corners each; a hexahedron has 8"),
        ({"cells": "cells=brick"}, "the kind must be one of vertex, line"),
        ({"dims": {"u": ["y", "x"]}, "nodes": "nodes"}, "give one of them"),
        ({"dims": {"v": ["y", "x"]}}, r"--dim names \['v'\]"),
        ({"dims": {"u": ["y"]}}, "names 1 axes"),
        ({"dims": {"u": ["y", "y"]}}, "must be different"),
    ],
)
def test_wrong_arguments_are_one_error(tmp_path, monkeypatch, options, error):
    monkeypatch.chdir(tmp_path)
    dataset, _ = square(tmp_path / "d")
    with pytest.raises(ConfigError, match=error):
        export_vtkhdf(dataset, **options)
    assert not list(tmp_path.rglob("*.vtkhdf"))


def test_a_dataset_without_anything_to_show_says_what_is_missing(tmp_path):
    dataset, _ = write_rows(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"a constant 'nodes'.*--dim FIELD=y,x.*u \(4, 2\), load \(\)"):
        export_vtkhdf(dataset)
    dataset, _ = write_rows(tmp_path / "e", constants={"nodes": np.zeros((5, 3))})
    with pytest.raises(ConfigError, match="nothing that a file of VTK could show"):
        export_vtkhdf(dataset)
    with pytest.raises(ConfigError, match="no field has a value for each of 5 nodes"):
        export_vtkhdf(dataset, nodes="nodes")


def test_a_dataset_without_samples_yet_is_an_error(tmp_path):
    writer = SampleWriter(tmp_path / "d", SPEC)
    writer.append(
        {"u": np.zeros((0, 4, 2), "f4"), "load": np.zeros(0)},
        **dict.fromkeys(("episode", "step", "seed"), np.zeros(0, int)),
    )
    with pytest.raises(DatasetError):
        export_vtkhdf(SampleDataset(tmp_path / "d"))
    writer.close()


def test_selected_samples_are_no_whole_partitions(tmp_path):
    dataset, _ = square(tmp_path / "d")
    with pytest.raises(ConfigError, match="some were selected"):
        export_vtkhdf(dataset.subset(np.arange(3)))
    (file,), _ = export_vtkhdf(SampleDataset(tmp_path / "d", fields=["u"]))
    assert set(read_steps(file)[0].values) == {"episode", "step", "Time"}


def test_episodes_of_several_folders_are_not_mixed(tmp_path):
    square(tmp_path / "a")
    square(tmp_path / "b")
    both = SampleDataset([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match="several folders have an episode 1"):
        export_vtkhdf(both, episode=1)
    with pytest.raises(ConfigError, match="partitions of one name"):
        export_vtkhdf(both, tmp_path / "out")
    files, _ = export_vtkhdf(both)
    assert [file.parent.name for file in files] == ["a", "b"]


@pytest.mark.slow
def test_a_hundred_gigabytes_take_less_than_a_second_and_a_percent(tmp_path):
    nodes, size = 10_000, 120_000  # bytes of a sample
    spec = SampleSpec([Field("displacement", (nodes, 3), np.dtype("f4"), "target", "m")])
    (tmp_path / "d").mkdir()
    for number in range(94):  # of about 1 GiB, as the writer makes them; sparse
        file = tmp_path / "d" / f"training-{number:05d}.h5"
        part = create_partition(file, PartitionLayout(spec), 8900, {"source": "{}", "mode": "training"})
        table = part.tables["samples"]
        with file.open("r+b") as stream:
            stream.seek(table.counter)
            stream.write(np.uint64(8900).tobytes())
            stream.seek(table.columns["index/episode"].offset)
            stream.write(np.full(8900, number).tobytes())
    constants.store(tmp_path / "d", {"nodes": np.zeros((nodes, 3), "f4"), "cells": np.zeros((9000, 8), "i4")})
    rebuild_description(tmp_path / "d")
    dataset = SampleDataset(tmp_path / "d")
    assert dataset.nbytes == len(dataset) * size > 1e11
    taken = []
    for attempt in range(3):
        start = time.perf_counter()
        files, _ = export_vtkhdf(dataset, tmp_path / f"out{attempt}")
        taken.append(time.perf_counter() - start)
    assert min(taken) < 10  # to read 100 GB, of a file with holes too, takes longer
    assert sum(file.stat().st_size for file in files) < 0.01 * dataset.nbytes


def test_a_sign_of_per_cent_in_names_is_a_letter_like_others(tmp_path):
    spec = SampleSpec([Field("a%b", (3,), np.dtype("f4"), "input", dimensions=1)])
    for value, name in enumerate(("50%b", "50%%b")):  # HDF5 takes the second one for the first
        with SampleWriter(tmp_path / name, spec) as writer:
            writer.append({"a%b": np.full((2, 3), value, "f4")}, episode=[0, 0], step=[0, 1], seed=[0, 0])
    for value, name in enumerate(("50%b", "50%%b")):
        (file,), _ = export_vtkhdf(SampleDataset(tmp_path / name), tmp_path / f"out{value}")
        for step in read_steps(file):
            np.testing.assert_array_equal(step.points["a%b"], np.full(3, value))
        assert check_side_file(file) == []
