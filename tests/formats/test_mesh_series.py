"""Meshes of VTK, VTU and XDMF as datasets: what files are is said, and meshes that differ are refused."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from physgym.cli import app
from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError, DatasetError
from physgym.formats import registry
from physgym.sample import Field
from physgym.testing.formats import cut

meshio = pytest.importorskip("meshio", reason="pip install 'physgym[mesh]'")

from physgym.formats.mesh_series import import_mesh  # noqa: E402

POINTS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "f8")
CELLS = [("triangle", np.array([[0, 1, 2], [0, 2, 3]]))]
ROLES = {"load": "input", "u": "target"}


def fields(i):
    """The load of step i on points, its displacement (i, -i, point), the stress of the cells, which are f4."""
    u = np.stack([np.full(4, i), np.full(4, -i), np.arange(4)], -1).astype("f8")
    return {"load": np.full(4, i / 3)}, u, np.array([i, i + 0.5], "f4")


def write(file, i, points=POINTS, cells=CELLS, **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    load, u, stress = fields(i)
    mesh = meshio.Mesh(points, cells, {**load, "u": u, **more}, {"stress": [stress], "load": [stress]})
    meshio.write(file, mesh)


@pytest.mark.parametrize("suffix", ["vtk", "vtu", "xdmf"])
def test_a_file_per_step(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("physgym.formats.columns.CHUNK_BYTES", 500)
    for i in range(11):
        write(tmp_path / "run" / f"out_{i}.{suffix}", i)  # out_10 comes after out_9
    command = ["import", str(tmp_path / "run"), "--out", str(tmp_path / "d"), "--step", "file"]
    done = CliRunner().invoke(app, [*command, "--role", "load=input", "--role", "u=target", "--unit", "u=mm"])
    assert done.exit_code == 0, done.output
    dataset = SampleDataset(tmp_path / "d")
    assert dataset.spec["u"] == Field("u", (4, 3), np.dtype("f8"), "target", "mm")
    assert set(dataset.spec) == {"u", "load", "stress", "cell/load"}
    for i in range(11):
        load, u, stress = fields(i)
        np.testing.assert_array_equal(dataset[i]["load"], load["load"])
        np.testing.assert_array_equal(dataset[i]["u"], u)
        np.testing.assert_array_equal(dataset[i]["stress"], stress)
    assert set(dataset.index("episode")) == {0}
    np.testing.assert_array_equal(dataset.index("step"), np.arange(11))
    np.testing.assert_array_equal(dataset.constants["mesh/points"], POINTS)
    np.testing.assert_array_equal(dataset.constants["mesh/cells/triangle"], CELLS[0][1])


def test_a_file_per_case_and_a_folder_per_case(tmp_path):
    for case in range(3):
        write(tmp_path / "cases" / f"{case}.vtu", case)
        for step in range(2):
            write(tmp_path / "runs" / f"case{case}" / f"{step}.vtu", 10 * case + step)
    dataset = import_mesh(tmp_path / "cases", tmp_path / "d", roles=ROLES, episode="file")
    assert [dataset.index("episode").tolist(), dataset.index("step").tolist()] == [[0, 1, 2], [0, 0, 0]]
    dataset = import_mesh(tmp_path / "runs", tmp_path / "e", roles=ROLES, episode="folder", step="file")
    assert [dataset.index("episode").tolist(), dataset.index("step").tolist()] == [[0, 0, 1, 1, 2, 2], [0, 1] * 3]
    np.testing.assert_array_equal(dataset[:]["u"][:, 0, 0], [0, 1, 10, 11, 20, 21])
    assert registry.of_source(str(tmp_path / "runs")) is registry.find_import("mesh")


def test_a_file_with_several_steps(tmp_path):
    with meshio.xdmf.TimeSeriesWriter(tmp_path / "s.xdmf", data_format="XML") as out:
        out.write_points_cells(POINTS, CELLS)
        for i in range(4):
            load, u, _ = fields(i)
            out.write_data(i / 8, point_data={**load, "u": u})
    dataset = import_mesh(tmp_path / "s.xdmf", tmp_path / "d", roles=ROLES)
    assert [dataset.index("episode").tolist(), dataset.index("step").tolist()] == [[0] * 4, [0, 1, 2, 3]]
    np.testing.assert_array_equal(dataset.index("time"), [0, 0.125, 0.25, 0.375])
    np.testing.assert_array_equal(dataset[:]["u"][:, 1, 0], [0, 1, 2, 3])


def test_points_that_move_are_a_field(tmp_path):
    for i in range(3):
        write(tmp_path / "m" / f"{i}.vtu", i, POINTS + i)
    dataset = import_mesh(tmp_path / "m", tmp_path / "d", roles={**ROLES, "points": "target"}, step="file")
    np.testing.assert_array_equal(dataset[:]["points"], POINTS + np.arange(3)[:, None, None])
    assert set(dataset.constants) == {"mesh/cells/triangle"}


def test_what_is_not_said_is_asked_for(tmp_path):
    write(tmp_path / "m" / "0.vtu", 0)
    write(tmp_path / "m" / "1.vtu", 1)
    for options, text in (
        ({"roles": ROLES}, "say what a file is: --step file"),
        ({"roles": ROLES, "episode": "folder"}, "say what a file is"),
        ({"roles": {}, "step": "file"}, "nothing says what the network gets"),
        ({"roles": {"v": "input"}, "step": "file"}, r"roles names \['v'\]"),
    ):
        with pytest.raises(ConfigError, match=text):
            import_mesh(tmp_path / "m", tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_meshes_that_differ_are_named(tmp_path):
    other = [("triangle", np.array([[0, 1, 2], [1, 2, 3]]))]
    more = np.concatenate([POINTS, POINTS + 5])
    for number, (options, text) in enumerate(
        (
            ({"cells": other}, "the cells of .*1.vtu are others"),
            ({"extra": np.zeros(4)}, r"not the same fields: \['extra'\] is only in one"),
            ({"u": np.zeros((4, 2))}, r"u of .*1.vtu has the form"),
            ({"u": np.zeros((4, 3), "f4")}, "u of .*1.vtu has the form"),
            ({"points": POINTS + 1}, "the points of .*1.vtu are others"),
            ({"points": more, "load": np.zeros(8), "u": np.zeros((8, 3))}, "the points of .*1.vtu are others"),
        )
    ):
        folder = tmp_path / str(number)
        for i in range(5):
            write(folder / f"{i}.vtu", i, **(options if i == 1 else {}))
        with pytest.raises(DatasetError, match=text):
            import_mesh(folder, tmp_path / "d", roles=ROLES, step="file")
    cut(folder / "4.vtu")
    with pytest.raises(DatasetError, match=r"cannot read the mesh .*4\.vtu"):
        import_mesh(folder, tmp_path / "d", roles=ROLES, step="file")
    (folder / "4.vtu").write_text("<no mesh")
    with pytest.raises(DatasetError, match=r"the mesh .*4\.vtu: it is damaged, or no file \.vtu"):
        import_mesh(folder, tmp_path / "d", roles=ROLES, step="file")
    assert not (tmp_path / "d").exists()


def test_cells_of_two_kinds_keep_their_values_where_files_have_them_in_another_order(tmp_path):
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0.0]])
    blocks = [("triangle", np.array([[1, 4, 2]])), ("quad", np.array([[0, 1, 2, 3]]))]
    (tmp_path / "run").mkdir()
    for i, order in enumerate([(0, 1), (1, 0)]):
        values = [np.array([10.0 * i + 3]), np.array([10.0 * i + 4])]  # corners of the cell
        cells, stress = [blocks[k] for k in order], [values[k] for k in order]
        meshio.write(
            tmp_path / "run" / f"{i}.vtk", meshio.Mesh(points, cells, {"u": np.zeros(5)}, {"stress": [*stress]})
        )
    dataset = import_mesh(tmp_path / "run", tmp_path / "d", roles={"u": "input", "stress": "target"}, step="file")
    assert [name for name in dataset.constants if "cells" in name] == ["mesh/cells/quad", "mesh/cells/triangle"]
    np.testing.assert_array_equal(dataset[:]["stress"], [[4, 3], [14, 13]])  # in the order of the constants


def test_times_in_names_are_not_sorted_as_counts(tmp_path):
    for i, name in enumerate(["u_0.05.vtu", "u_0.1.vtu"]):
        write(tmp_path / "run" / name, i)
    with pytest.raises(DatasetError, match=r"order of u_0.1.vtu and u_0.05.vtu .* is not clear"):
        import_mesh(tmp_path / "run", tmp_path / "d", roles=ROLES, step="file")


def test_a_number_that_is_left_out_is_said(tmp_path, caplog):
    for i in (1, 2, 4):
        write(tmp_path / "run" / f"step_{i}.vtu", i)
    import_mesh(tmp_path / "run", tmp_path / "d", roles=ROLES, step="file")
    assert "not evenly spaced, 1, 2, 4" in caplog.text
