"""Parquet: a dataset there and back, as pandas reads it, and tables of other people."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats.registry import ExportOptions
from physgym.sample import Field, SampleSpec
from physgym.testing.formats import FormatContract, cut
from tests.support.datasets import PARAMETERS, SPEC, assert_rows, write

arrow = pytest.importorskip("pyarrow", reason="pip install 'physgym[parquet]'")

from pyarrow import parquet  # noqa: E402

from physgym.formats.parquet_table import export_parquet, import_parquet  # noqa: E402

REAL = SampleSpec([field for name, field in SPEC.items() if name != "wave"])


class TestParquet(FormatContract):
    name = "parquet"

    def options(self, folder):
        return ExportOptions(out=folder / "samples.parquet")

    def source(self, folder):
        return str(folder / "samples.parquet")

    def damage(self, folder):
        cut(folder / "samples.parquet")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    dataset = write(folder / "d", 23, spec=REAL, max_file_size=3000, parameters=PARAMETERS, rejected=True)
    left_out = export_parquet(dataset, folder / "d.parquet")
    return dataset, folder / "d.parquet", left_out


def test_samples_and_parameters_come_back(exported, tmp_path):
    dataset, file, left_out = exported
    assert left_out == ["fields without a value: nothing", "rejected samples"]
    again = import_parquet(file, tmp_path / "e")
    assert again.spec == dataset.spec
    assert_rows(again, 0, 23)
    assert again.source == dataset.source
    np.testing.assert_array_equal(again.parameters["stiffness"], dataset.parameters["stiffness"])
    np.testing.assert_array_equal(again.parameter_names["seed"], dataset.parameter_names["seed"])


def test_small_portions_and_groups_of_rows_give_the_same(exported, tmp_path, monkeypatch):
    dataset, _, _ = exported
    monkeypatch.setattr("physgym.formats.parquet_table.CHUNK_BYTES", 700)
    monkeypatch.setattr("physgym.formats.columns.CHUNK_BYTES", 500)
    export_parquet(dataset, tmp_path / "x.parquet")
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == 4
    assert_rows(import_parquet(tmp_path / "x.parquet", tmp_path / "e"), 0, 23)


def test_pandas_reads_a_table(exported):
    pandas = pytest.importorskip("pandas")
    dataset, file, _ = exported
    frame = pandas.read_parquet(file)
    np.testing.assert_array_equal(frame["energy"], dataset[:]["energy"])
    assert frame["energy"].dtype == np.float64
    assert frame["seed"].dtype == np.uint64
    np.testing.assert_array_equal(np.stack([np.stack(row) for row in frame["forces"]]), dataset[:]["forces"])
    episode = dataset.index("episode")
    np.testing.assert_array_equal(frame["episode"], episode)
    np.testing.assert_array_equal(frame["parameters/stiffness"], dataset.parameters["stiffness"][episode])


def test_names_and_dtypes_are_kept(tmp_path):
    spec = SampleSpec(
        [
            Field("half", (2,), np.dtype("f2"), "input"),
            Field("größe/ä", (), np.dtype("u8"), "target"),
            Field("episode", (), np.dtype("i2"), "additional"),
            Field("word", (2,), np.dtype("U4"), "additional"),
        ]
    )
    values = {
        "half": np.array([[1 / 3, 65504], [np.nan, -0.0]], "f2"),
        "größe/ä": np.array([2**64 - 1, 5], "u8"),
        "episode": np.array([-3, 7], "i2"),
        "word": np.array([["é", ""], ["abcd", "x"]]),
    }
    with SampleWriter(tmp_path / "d", spec, nonfinite="allow") as writer:
        writer.append(values, episode=np.array([4, 9]), step=np.arange(2), seed=np.zeros(2, "u8"))
    assert export_parquet(SampleDataset(tmp_path / "d"), tmp_path / "x.parquet") == []
    again = import_parquet(tmp_path / "x.parquet", tmp_path / "e")
    np.testing.assert_array_equal(again.index("episode"), [4, 9])
    for name, value in values.items():
        assert again[:][name].dtype == value.dtype
        assert again[:][name].tobytes() == value.tobytes()


def test_what_cannot_be_written_is_named_and_nothing_stays(tmp_path, monkeypatch):
    write(tmp_path / "d", 7)
    with pytest.raises(ConfigError, match="Parquet has no complex64, the dtype of 'wave'"):
        export_parquet(SampleDataset(tmp_path / "d"), tmp_path / "x.parquet")
    real = arrow.array
    with monkeypatch.context() as patch:
        patch.setattr(arrow, "array", lambda v, kind: real(v + 1 if str(kind) == "double" else v, kind))
        with pytest.raises(DatasetError, match="does not hold the values of 'energy'"):
            export_parquet(SampleDataset(tmp_path / "d", fields=["energy"]), tmp_path / "x.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["d"]


def test_episodes_of_several_folders_are_not_mixed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, 7, spec=REAL)
    with pytest.raises(ConfigError, match="episodes of several folders have one number"):
        export_parquet(SampleDataset([tmp_path / "a", tmp_path / "b"]), tmp_path / "x.parquet")


# --- tables of others


def foreign(file, **more):
    columns = {"run": [1, 1, 2], "x": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "y": [10, 20, 30], **more}
    parquet.write_table(arrow.table(columns), file)
    return file


def test_a_table_of_others(tmp_path):
    file = foreign(tmp_path / "t.parquet", word=arrow.array(["a", "b", "a"]).dictionary_encode())
    roles, units = {"x": "input", "y": "target"}, {"x": "m"}
    dataset = import_parquet(file, tmp_path / "d", roles=roles, units=units, episode="run")
    assert list(dataset.spec.values()) == [
        Field("x", (2,), np.dtype("f8"), "input", "m"),
        Field("y", (), np.dtype("i8"), "target"),
        Field("word", (), np.dtype("U1"), "additional"),
    ]
    np.testing.assert_array_equal(dataset[:]["x"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(dataset.index("episode"), [1, 1, 2])
    np.testing.assert_array_equal(dataset.index("step"), [0, 1, 0])


def test_what_a_table_does_not_say_or_lacks_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nothing says what the network gets"):
        import_parquet(foreign(tmp_path / "t.parquet"), tmp_path / "d")
    for more, text in (
        ({"z": [1.0, None, 3.0]}, "z lacks 1 values, the first in place 1"),
        ({"z": [[1.0], [1.0, 2.0], [3.0]]}, "z has lists of 1 to 2 values"),
        ({"z": arrow.array([1, 2, 3], arrow.timestamp("s"))}, "z holds timestamp"),
    ):
        with pytest.raises(DatasetError, match=text):
            import_parquet(foreign(tmp_path / "t.parquet", **more), tmp_path / "d", roles={"x": "input"})
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["index/episode", "index/step", "index/constants/mesh", "index/parameters/gain"])
def test_a_column_that_reads_as_a_part_of_an_export_is_refused(tmp_path, name):
    """It ended in an AttributeError, or was taken for the steps without a word."""
    file = foreign(tmp_path / "t.parquet", **{name: [0, 0, 1]})
    with pytest.raises(DatasetError, match=rf"has the columns \['{name}'\]; what begins with index/"):
        import_parquet(file, tmp_path / "d", roles={"x": "input"})
    assert not (tmp_path / "d").exists()


def test_a_text_is_no_input(tmp_path):
    file = foreign(tmp_path / "t.parquet", word=["a", "b", "a"])
    with pytest.raises(ConfigError, match="word is to be input, and holds texts such as 'a', where numbers are wanted"):
        import_parquet(file, tmp_path / "d", roles={"word": "input", "y": "target"})
    assert not (tmp_path / "d").exists()
