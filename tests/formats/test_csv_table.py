"""Tables of comma-separated values as datasets, and what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from physgym.cli import app
from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError, DatasetError
from physgym.formats.csv_table import import_csv
from physgym.sample import Field

TABLE = """run,t,load [N],x[0] [m],x[1] [m],material,broken
3,0,1.5,0,1,steel,False
3,1,-2,2,3.25,wood,True
8,0,nan,1e-3,5,steel,false
"""


def test_a_table_becomes_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.formats.csv_table.PORTION", 2)
    (tmp_path / "t.csv").write_text(TABLE)
    command = ["import", str(tmp_path / "t.csv"), "--out", str(tmp_path / "d"), "--role", "load=input"]
    command += ["--role", "x=target", "--episode", "run", "--step", "t", "--unit", "material=kind"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "load: input, float64 () [N]" in done.output
    dataset = SampleDataset(tmp_path / "d")
    assert set(dataset.spec.values()) == {
        Field("load", (), np.dtype("f8"), "input", "N"),
        Field("x", (2,), np.dtype("f8"), "target", "m"),
        Field("material", (), np.dtype("U5"), "additional", "kind"),
        Field("broken", (), np.dtype("?"), "additional"),
    }
    np.testing.assert_array_equal(dataset[:]["load"], [1.5, -2, np.nan])
    np.testing.assert_array_equal(dataset[:]["x"], [[0, 1], [2, 3.25], [0.001, 5]])
    np.testing.assert_array_equal(dataset[:]["broken"], [False, True, False])
    assert dataset[:]["material"].tolist() == ["steel", "wood", "steel"]
    np.testing.assert_array_equal(dataset.index("episode"), [3, 3, 8])
    np.testing.assert_array_equal(dataset.index("step"), [0, 1, 0])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_integers_stay_integers(tmp_path, delimiter):
    (tmp_path / "t.csv").write_text(f"a{delimiter}b\n9007199254740993{delimiter}1\n-4{delimiter}0.5\n")
    dataset = import_csv(tmp_path / "t.csv", tmp_path / "d", roles={"a": "input", "b": "target"})
    assert dataset[:]["a"].tolist() == [2**53 + 1, -4]
    assert dataset[:]["b"].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty; its first line names the columns"),
        ("a,b\n", "has no rows"),
        ("a,a\n1,2\n", "has two columns 'a'"),
        ("a,\n1,2\n", "column 2 of t.csv has no name"),
        ("a,b\n1\n", "row 1 of t.csv has 1 values, the first line has 2"),
        ("a,b\n1,2\n1,\n", "row 2 of column 'b' is empty"),
        ("a,b\n1,2\n1,2 m\n", "row 2 of column 'b' is '2 m', unlike those before it"),
        ("a;b\n1;2\n1;2,5\n", "row 2 of column 'b' is '2,5', unlike those before it"),
        ("a,b\n1,2\n1,True\n", "row 2 of column 'b' is 'True'"),
        ("a,b\n1,2\n1,99999999999999999999\n", "does not fit int64"),
        ("a,b\n1,9007199254740993\n1,0.5\n", "not exact"),
        ("a,b[0],b[2]\n1,2,3\n", r"lacks b\[1\]"),
        ("a,b[0],b\n1,2,3\n", "has both b and b"),
        ('a,b\n1,"2\n', "cannot read the table"),
    ],
)
@pytest.mark.parametrize("portion", [1, 100])
def test_a_table_that_is_not_whole_is_refused(tmp_path, monkeypatch, text, problem, portion):
    monkeypatch.setattr("physgym.formats.csv_table.PORTION", portion)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        import_csv(tmp_path / "t.csv", tmp_path / "d", roles={"a": "input", "b": "target"})
    assert not (tmp_path / "d").exists()


def test_what_a_table_does_not_say_is_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    for options, problem in (
        ({"roles": {}}, "nothing says what the network gets"),
        ({"roles": {"w": "input"}}, r"roles names \['w'\]"),
        ({"roles": {"material": "input"}}, "holds texts such as 'steel', where numbers are wanted"),
        ({"roles": {"x": "input"}, "episode": "load"}, "episode must be integers"),
        ({"roles": {"x": "input"}, "step": "t"}, "steps are given without the episodes"),
        ({"roles": {"x": "input"}, "units": {"y": "m"}}, r"units names \['y'\]"),
    ):
        with pytest.raises(ConfigError, match=problem):
            import_csv(tmp_path / "t.csv", tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [("9007199254740993,0.5,1", r"x\[0\] holds 9007199254740993"), ("1,0.5,1e400", "1e400 does not fit float64")],
)
def test_no_number_becomes_another_one(tmp_path, row, message):
    (tmp_path / "t.csv").write_text(f"x[0],x[1],y\n{row}\n")
    with pytest.raises(DatasetError, match=message):
        import_csv(tmp_path / "t.csv", tmp_path / "d", roles={"x": "input", "y": "target"})
    assert not (tmp_path / "d").exists()


def test_a_column_that_reads_as_a_part_of_an_export_is_refused(tmp_path):
    """It was taken for the episodes, or for parameters, without a word."""
    (tmp_path / "a.csv").write_text("index/episode,x,y\n0,1,2\n0,3,4\n")
    with pytest.raises(DatasetError, match=r"has the columns \['index/episode'\]; what begins with index/"):
        import_csv(tmp_path / "a.csv", tmp_path / "d", roles={"x": "input", "y": "target"})
    assert not (tmp_path / "d").exists()


def test_an_element_far_away_needs_no_room_for_those_before(tmp_path):
    (tmp_path / "a.csv").write_text("x[0],x[1],x[40000000000],y\n0,1,2,3\n")
    with pytest.raises(DatasetError, match=r"lacks x\[2\]; an array needs a column for each element"):
        import_csv(tmp_path / "a.csv", tmp_path / "d", roles={"x": "input", "y": "target"})
