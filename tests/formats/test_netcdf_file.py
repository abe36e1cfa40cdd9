"""netCDF: a dataset there and back, as xarray and netCDF4 read it, and files of other people."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats.registry import ExportOptions
from physgym.sample import Field, SampleSpec
from physgym.testing.formats import FormatContract, cut
from tests.support.datasets import PARAMETERS, SPEC, assert_rows, write

h5netcdf = pytest.importorskip("h5netcdf", reason="pip install 'physgym[netcdf]'")

from physgym.formats.netcdf_file import export_netcdf, import_netcdf  # noqa: E402

REAL = SampleSpec([field for name, field in SPEC.items() if name != "wave"])
ROLES = {"u": "input", "v": "target"}
XY = {"x": "input", "y": "target"}


class TestNetcdf(FormatContract):
    name = "netcdf"

    def options(self, folder):
        return ExportOptions(out=folder / "samples.nc")

    def source(self, folder):
        return str(folder / "samples.nc")

    def damage(self, folder):
        cut(folder / "samples.nc")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A dataset with all that it can hold, and its file."""
    folder = tmp_path_factory.mktemp("netcdf")
    dataset = full(folder / "d")
    export_netcdf(dataset, folder / "d.nc", dims={"forces": ("node", "component")})
    return dataset, folder / "d.nc"


def full(path):
    dataset = write(path, 23, spec=REAL, max_file_size=3000, parameters=PARAMETERS, rejected=True)
    with SampleWriter(path, REAL, source=dataset.source, resume=True, parameters=PARAMETERS, rejected=True) as writer:
        writer.set_constants({"mesh/nodes": np.arange(6.0).reshape(3, 2), "steel": np.array("S235")})
    return SampleDataset(path)


@pytest.mark.slow
def test_all_that_a_dataset_holds_comes_back(exported, tmp_path):
    dataset, file = exported
    again = import_netcdf(file, tmp_path / "e")
    assert again.spec == dataset.spec
    assert_rows(again, 0, 23)
    assert again.source == dataset.source
    np.testing.assert_array_equal(again.parameters["stiffness"], dataset.parameters["stiffness"])
    assert again.rejected.reasons == ["diverged", "too stiff"]
    np.testing.assert_array_equal(again.rejected.samples["forces"], dataset.rejected.samples["forces"])
    assert again.constants.keys() == dataset.constants.keys()
    for name, value in dataset.constants.items():
        np.testing.assert_array_equal(again.constants[name], value)
        assert again.constants[name].dtype == value.dtype


def test_xarray_reads_it_as_to_xarray_makes_it(exported):
    xarray = pytest.importorskip("xarray", reason="pip install 'physgym[xarray]'")
    dataset, file = exported
    made = dataset.to_xarray({"forces": ("node", "component")})
    assert made["forces"].dims == ("sample", "node", "component")
    assert made["forces"].attrs["units"] == "N"
    assert made["group.count"].dims == ("sample", "group.count_0")
    assert set(made.coords) == {"episode", "step", "env", "seed"}
    np.testing.assert_array_equal(made["forces"], dataset[:]["forces"])
    np.testing.assert_array_equal(made["episode"], dataset.index("episode"))
    np.testing.assert_array_equal(made["parameters.stiffness"], dataset.parameters["stiffness"])
    with xarray.open_dataset(file, engine="h5netcdf") as read:
        assert {*read.variables} == {*made.variables} - {"nothing", "rejected.data.nothing"}
        for name, variable in read.variables.items():
            assert variable.dims == made[name].dims
            np.testing.assert_array_equal(variable.values, made[name].values)
            assert variable.dtype.kind in (made[name].dtype.kind, "O")
    mean = made["energy"].groupby("episode").mean()
    np.testing.assert_allclose(mean[0], np.mean([i**2 / 7 for i in range(5)]))


def test_the_library_of_netcdf_reads_it(exported):
    netcdf = pytest.importorskip("netCDF4", reason="pip install netCDF4")
    dataset, file = exported
    with netcdf.Dataset(file) as read:
        assert read["forces"].dimensions == ("sample", "node", "component")
        assert read["forces"].units == "N"
        np.testing.assert_array_equal(read["forces"][:], dataset[:]["forces"])
        assert read["seed"].dtype == np.uint64
        np.testing.assert_array_equal(read["seed"][:], dataset.index("seed"))
        assert json.loads(read.physgym)["source"] == dataset.source


def test_dtypes_and_names_that_netcdf_has_not(tmp_path):
    spec = SampleSpec(
        [
            Field("half", (2,), np.dtype("f2"), "input"),
            Field("ångström/größe", (), np.dtype("i2"), "target"),
            Field("time", (), np.dtype("f8"), "additional", "s"),
        ]
    )
    values = {
        "half": np.array([[1 / 3, 65504], [np.nan, -0.0]], "f2"),
        "ångström/größe": np.array([-32767, 5], "i2"),
        "time": np.array([0.5, 1.5]),
    }
    with SampleWriter(tmp_path / "d", spec, nonfinite="allow") as writer:
        writer.append(values, episode=np.zeros(2, int), step=np.arange(2), seed=np.zeros(2, "u8"))
    remarks = export_netcdf(SampleDataset(tmp_path / "d"), tmp_path / "x.nc")
    assert remarks == [
        "half is float32 there, of the same values as its float16",
        "ångström/größe holds -32767, which some readers of netCDF take for a missing value",
    ]
    again = import_netcdf(tmp_path / "x.nc", tmp_path / "e")
    for name, value in values.items():
        assert again[:][name].dtype == value.dtype
        assert again[:][name].tobytes() == value.tobytes()


def test_what_cannot_be_written_is_named_and_nothing_stays(tmp_path, monkeypatch):
    dataset = write(tmp_path / "d", 7)
    with pytest.raises(ConfigError, match="netCDF has no complex64, the dtype of 'wave'"):
        export_netcdf(dataset, tmp_path / "x.nc")
    dataset = SampleDataset(tmp_path / "d", fields=["forces", "energy", "group/count"])
    for dims, text in (
        ({"forces": ("node",)}, r"'forces' are \['node'\]; it has 2"),
        ({"forces": ("node", "node")}, "need different names"),
        ({"forces": ("n", "c"), "group/count": ("n",)}, "axis 'n' has 4 entries in 'forces' and 2 in 'group/count'"),
        ({"forces": ("energy", "c")}, "name both an axis and an array"),
        ({"force": ("a", "b")}, r"dims names \['force'\]"),
    ):
        with pytest.raises(ConfigError, match=text):
            export_netcdf(dataset, tmp_path / "x.nc", dims=dims)
    monkeypatch.setattr("physgym.formats.netcdf_file._encoded", lambda rows, dtype: rows + 1)
    with pytest.raises(DatasetError, match="does not hold the values of 'forces'"):
        export_netcdf(dataset, tmp_path / "x.nc")
    assert [file.name for file in tmp_path.iterdir()] == ["d"]


def test_names_that_would_become_one_are_refused(tmp_path):
    spec = SampleSpec([Field(name, (), np.dtype("f4"), "input") for name in ("a/b", "a.b")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.add({"a/b": np.float32(1), "a.b": np.float32(2)}, episode=0, step=0, seed=0)
    with pytest.raises(ConfigError, match=r"'a/b' and 'a.b' would both be called 'a.b'"):
        export_netcdf(SampleDataset(tmp_path / "d"), tmp_path / "x.nc")


def test_episodes_of_several_folders_are_not_mixed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, 7, spec=REAL)
    both = SampleDataset([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match="episodes of several folders have one number"):
        export_netcdf(both, tmp_path / "x.nc")
    with pytest.raises(ConfigError, match="episodes of several folders have one number"):
        both.to_xarray()


# --- files of others


def foreign(file, **more):
    """Two cases of three times on a grid of four points: u = 100 case + 10 time + point; v is packed."""
    case, time, point = np.ogrid[:2, :3, :4]
    u = (100 * case + 10 * time + point).astype("f4")
    with h5netcdf.File(file, "w") as out:
        out.dimensions = {"case": 2, "time": 3, "x": 4}
        out.create_variable("u", ("case", "time", "x"), "f4", data=u).attrs["units"] = "m"
        v = out.create_variable("v", ("time", "case", "x"), "i2", data=u.transpose(1, 0, 2).astype("i2"))
        v.attrs["scale_factor"], v.attrs["add_offset"] = np.float32(0.5), np.float32(1)
        out.create_variable("x", ("x",), "f8", data=np.linspace(0, 1, 4))
        out.create_variable("time", ("time",), "f8", data=np.array([0.0, 0.1, 0.2]))
        out.create_variable("viscosity", ("case",), "f8", data=np.array([0.1, 0.2]))
        for name, (dims, data) in more.items():
            out.create_variable(name, dims, data.dtype, data=data)
    return u


def test_dimensions_of_episodes_and_steps_become_those_of_samples(tmp_path):
    u = foreign(tmp_path / "f.nc")
    dataset = import_netcdf(tmp_path / "f.nc", tmp_path / "d", roles=ROLES, episode="case", step="time")
    np.testing.assert_array_equal(dataset.index("episode"), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.index("step"), [0, 1, 2, 0, 1, 2])
    assert dataset.spec["u"] == Field("u", (4,), np.dtype("f4"), "input", "m")
    assert dataset.spec["v"].dtype == np.dtype("f4")
    np.testing.assert_array_equal(dataset[:]["u"], u.reshape(6, 4))
    np.testing.assert_array_equal(dataset[:]["v"], 0.5 * u.reshape(6, 4) + 1)
    np.testing.assert_array_equal(dataset[:]["viscosity"], [0.1, 0.1, 0.1, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(dataset[:]["time"], [0, 0.1, 0.2, 0, 0.1, 0.2])
    np.testing.assert_array_equal(dataset.constants["x"], np.linspace(0, 1, 4))
    one = import_netcdf(tmp_path / "f.nc", tmp_path / "e", roles={"u": "input"}, episode="case")
    assert one.spec["u"].shape == (3, 4)
    np.testing.assert_array_equal(one[:]["u"], u)


def test_portions_of_columns_are_read_alike(tmp_path, monkeypatch):
    u = foreign(tmp_path / "f.nc")
    monkeypatch.setattr("physgym.formats.columns.CHUNK_BYTES", 200)
    dataset = import_netcdf(tmp_path / "f.nc", tmp_path / "d", roles=ROLES, episode="case", step="time")
    np.testing.assert_array_equal(dataset[:]["u"], u.reshape(6, 4))
    np.testing.assert_array_equal(dataset[:]["v"], 0.5 * u.reshape(6, 4) + 1)


def test_a_classic_file_with_columns_of_names(tmp_path):
    from scipy.io import netcdf_file

    with netcdf_file(tmp_path / "c.nc", "w") as out:
        out.createDimension("row", 6)
        for name, values in (("run", [0, 1, 0, 1, 0, 1]), ("t", [0, 0, 1, 1, 2, 2])):
            out.createVariable(name, "i4", ("row",))[:] = values
        out.createVariable("u", "f8", ("row",))[:] = np.arange(6.0)
        out.variables["u"].units = "K"
    dataset = import_netcdf(tmp_path / "c.nc", tmp_path / "d", roles={"u": "input"}, episode="run", step="t")
    np.testing.assert_array_equal(dataset.index("episode"), [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(dataset.index("step"), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(dataset[:]["u"], np.arange(6.0))
    assert dict(dataset.spec) == {"u": Field("u", (), np.dtype("f8"), "input", "K")}


def test_what_a_file_does_not_say_is_asked_for(tmp_path):
    foreign(tmp_path / "f.nc")
    for options, text in (
        ({}, "nothing says what the network gets"),
        ({"roles": {"w": "input"}}, r"roles names \['w'\]; f.nc has u \(case, time, x\)"),
        ({"roles": ROLES}, "the first axis of 'u', 'v' counts the samples"),
        ({"roles": ROLES, "episode": "run"}, "episode='run' is no axis and no array"),
        ({"roles": {"x": "input"}, "episode": "case"}, r"'x' has the axes \['x'\], none of which counts samples"),
        ({"roles": ROLES, "episode": "case", "step": "viscosity"}, "an array and 'case' an axis"),
    ):
        with pytest.raises(ConfigError, match=text):
            import_netcdf(tmp_path / "f.nc", tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_missing_values_of_a_file_are_refused(tmp_path):
    foreign(tmp_path / "f.nc")
    with h5py.File(tmp_path / "f.nc", "r+") as file:
        file["u"].attrs["_FillValue"] = np.float32(112)
    with pytest.raises(DatasetError, match=r"u has 1 missing values \(they are 112.0\)"):
        import_netcdf(tmp_path / "f.nc", tmp_path / "d", roles=ROLES, episode="case", step="time")
    assert not (tmp_path / "d").exists()


def test_texts_with_other_letters_come_back(tmp_path):
    spec = SampleSpec([Field("x", (), np.dtype("f8"), "input"), Field("name", (), np.dtype("U5"), "additional")])
    names = np.array(["bé", "", "日本"])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(
            {"x": np.zeros(3), "name": names}, episode=np.arange(3), step=np.zeros(3, int), seed=np.zeros(3, "u8")
        )
    export_netcdf(SampleDataset(tmp_path / "d"), tmp_path / "d.nc")
    again = import_netcdf(tmp_path / "d.nc", tmp_path / "e")
    assert again[:]["name"].tolist() == names.tolist()
    assert again.spec == spec


def of_values(file, values, **attributes):
    with h5netcdf.File(file, "w") as written:
        written.dimensions = {"n": len(values)}
        for name in ("x", "y"):
            variable = written.create_variable(name, ("n",), values.dtype)
            variable[:] = values
        for name, value in attributes.items():
            variable.attrs[name] = value
    return file


def test_what_was_never_written_is_missing(tmp_path):
    unwritten = of_values(tmp_path / "a.nc", np.array([1, 9.969209968386869e36], "f4"))
    with pytest.raises(DatasetError, match="1 missing values"):
        import_netcdf(unwritten, tmp_path / "d", roles=XY)


@pytest.mark.parametrize("order", ["<", ">"])
def test_unsigned_integers_have_the_order_of_their_bytes_and_of_their_range(tmp_path, order):
    """Those whose first byte is the largest one were read in the other order."""
    more = {"_Unsigned": "true", "valid_range": np.array([0, -2], "i2")}
    file = of_values(tmp_path / "a.nc", np.array([1, -3], f"{order}i2"), **more)
    assert import_netcdf(file, tmp_path / "d", roles=XY)[:]["y"].tolist() == [1, 2**16 - 3]


def test_a_range_in_double_precision_holds_its_end_in_single(tmp_path):
    file = of_values(tmp_path / "a.nc", np.array([0.1, 0.2], "f4"), valid_max=np.float64(0.2), valid_min=0.1)
    assert import_netcdf(file, tmp_path / "d", roles=XY)[:]["y"].tolist() == np.array([0.1, 0.2], "f4").tolist()


def test_packed_integers_of_32_bits_and_flags(tmp_path):
    file = of_values(tmp_path / "a.nc", np.array([2**24 + 1, 3], "i4"), scale_factor=np.float32(1))
    assert import_netcdf(file, tmp_path / "d", roles=XY)[:]["y"].tolist() == [2**24 + 1, 3]
    file = of_values(tmp_path / "b.nc", np.array([1, 0], "i1"), dtype="bool")
    assert import_netcdf(file, tmp_path / "e", roles=XY).spec["y"].dtype == np.bool_


@pytest.mark.parametrize(
    ("values", "attributes", "outside"),
    [
        (
            np.array([1.0, -5.0, 2.0], "f4"),
            {"valid_range": np.array([0, 3], "f4")},
            "-5.0, outside of the valid range 0",
        ),
        (np.array([1.0, np.nan, 9.0]), {"valid_max": 8.0}, "9.0, outside of the valid range  to 8.0"),
        (np.array([1, 40], "i2"), {"valid_min": np.int16(3), "scale_factor": 0.5}, "1, outside of the valid range 3"),
        (np.array([1, 40], "i2"), {"valid_range": np.array([0.0, 10.0]), "scale_factor": 0.5}, "20.0, outside"),
        (np.array([-1, 7], "i1"), {"valid_max": np.uint8(200), "_Unsigned": "true"}, "255, outside of the valid range"),
        (np.array([1, 40], "i2"), {"valid_range": np.array([0, 40], "i2"), "scale_factor": 0.5}, None),
        (np.array([7, -3], "i1"), {"valid_max": np.int8(-4), "_Unsigned": "true"}, "253, outside of the valid range"),
    ],
)
def test_values_outside_of_their_valid_range_are_refused(tmp_path, values, attributes, outside):
    file = of_values(tmp_path / "a.nc", values, **attributes)
    if outside is None:
        assert import_netcdf(file, tmp_path / "d", roles=XY)[:]["y"].tolist() == [0.5, 20.0]
        return
    with pytest.raises(DatasetError, match=f"y has 1 values, such as {outside}"):
        import_netcdf(file, tmp_path / "d", roles=XY)
    assert not (tmp_path / "d").exists()
