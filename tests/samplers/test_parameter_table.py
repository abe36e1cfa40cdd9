from __future__ import annotations

import re

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import SampleDataset
from physgym.cli import app
from physgym.errors import ConfigError, SampleError
from physgym.samplers import ParameterTable, find_sampler
from physgym.spaces import flatten, leaves
from tests.support import toys

SPACE = spaces.Dict(
    [
        ("gain", spaces.Box(1.0, 2.0, (), np.float64)),
        ("shape", spaces.Dict([("kind", spaces.Discrete(3, start=1)), ("size", spaces.Box(0, 1, (2,), np.float32))])),
        ("grid", spaces.MultiDiscrete([[2, 5], [3, 3]])),
    ]
)
COLUMNS = {
    "gain": [1.0, 1.25],
    "shape/kind": [1, 3],
    "shape/size[0]": [0.1, 0.2],
    "shape/size[1]": [0.3, 1.0],
    "grid[0,0]": [0, 1],
    "grid[0,1]": [4, 0],
    "grid[1,0]": [2, 0],
    "grid[1,1]": [1, 2],
}
CASES = "case,gain [1/s],shape/kind,shape/size[0],shape/size[1]\n7,1.5,2,0.25,0.5\n9,1.25,3,0,1\n8,2,1,0.125,0.75\n"
ENV = "tests.support.toys:Tuned"


def drawn(table, episode=1):
    return flatten(SPACE, ParameterTable(table).parameters(SPACE, 0)(episode))


def rows(columns=COLUMNS):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class Frame:
    """What of a DataFrame counts: names of columns, and a column by its name."""

    def __init__(self, columns):
        self._columns, self.columns = columns, np.array(list(columns))

    def __getitem__(self, name):
        return np.array(self._columns[name])


def test_every_form_gives_the_values_of_the_row(tmp_path):
    file = tmp_path / "cases.csv"
    lines = [list(COLUMNS), *(map(str, row.values()) for row in rows())]
    quoted = "\ufeff" + "\r\n".join(",".join(f'"{cell}"' for cell in line) for line in lines)
    file.write_text(quoted, newline="")
    whole = {"gain": [1.0, 1.25], "shape/kind": [1, 3]}
    whole["shape/size"] = [[0.1, 0.3], np.array([0.2, 1.0], np.float32)]
    whole["grid"] = np.array([[[0, 4], [2, 1]], [[1, 0], [0, 2]]])
    want = [1.25, 3, np.array([0.2, 1.0], np.float32), np.array([[1, 0], [0, 2]])]
    for table in (file, str(file), COLUMNS, rows(), Frame(COLUMNS), whole):
        got = drawn(table)
        assert all(np.array_equal(x, y) for x, y in zip(got, want, strict=True))
        assert [np.asarray(value).dtype for value in got] == [leaf.dtype for leaf in leaves(SPACE)]
    digests = {ParameterTable(table).describe()["sha256"] for table in (file, COLUMNS, rows(), Frame(COLUMNS))}
    assert len(digests) == 1
    assert ParameterTable({**COLUMNS, "gain": [1.0, 1.5]}).describe()["sha256"] not in digests


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_marks_between_values(tmp_path, mark):
    file = tmp_path / "cases.csv"
    file.write_text("\n".join(mark.join(map(str, line)) for line in [COLUMNS, *(row.values() for row in rows())]))
    assert drawn(file)[0] == 1.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gain": [1.0, 2.5]}, r"row 2 of column 'gain' is 2.5, which is out of bounds, 1.0 to 2.0"),
        ({"gain": [1.0, "heavy"]}, r"row 2 of column 'gain' is 'heavy', not a finite number"),
        ({"gain": [1.0, ""]}, r"row 2 of column 'gain' is '', not a finite number"),
        ({"gain": ["1_0", 1]}, r"row 1 of column 'gain' is '1_0', not a finite number"),
        ({"gain": [1.0, float("nan")]}, r"row 2 of column 'gain' is nan, not a finite number"),
        ({"gain": [1.0, [1.0]]}, r"row 2 of column 'gain' is \[1.0\], not a finite number"),
        ({"gain": [1.0, 1j]}, r"row 2 of column 'gain' is 1j, not"),
        ({"gain": [1.0]}, r"columns of equal length; got \[1, 2\]"),
        (
            {"shape/kind": [1, 2.5]},
            r"row 2 of column 'shape/kind' is 2.5, which is no value of it: integers from 1 to 3",
        ),
        ({"shape/kind": [4, 1]}, r"row 1 of column 'shape/kind' is 4, which is no value of it: integers from 1 to 3"),
        ({"grid[1,0]": [0, 3]}, r"row 2 of column 'grid\[1,0\]' is 3, which is no value of it: integers from 0 to 2"),
        ({"mass": [1, 2]}, r"'mass' is no parameter; they are 'gain', 'shape/kind', .*ignore=\['mass'\]"),
        ({"shape/size": [[0.1, 0.2]] * 2}, r"'shape/size\[0\]', 'shape/size\[1\]' is no parameter"),
        ({" gain": [1, 1]}, r"two columns 'gain'"),
        ({"gain": {0: 1.5, 1: 1.25}}, r"column 'gain' is a dict, not a list or an array"),
        ({"gain": {1.5, 1.25}}, r"column 'gain' is a set, not a list or an array"),
        ({"gain": "11"}, r"column 'gain' is a str, not a list or an array"),
        ({"gain": 1.5}, r"column 'gain' is a float, not a list or an array with a value for each row"),
        ({"gain": np.ma.array([1.0, 2.0], mask=[0, 1])}, r"row 2 of column 'gain' is masked, not a finite number"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        drawn({**COLUMNS, **changes})


def test_a_number_that_the_parameter_cannot_hold_is_named():
    space = spaces.Dict({"load": spaces.Box(-np.inf, np.inf, (), np.float32)})
    with pytest.raises(ConfigError, match=r"row 2 of column 'load' is 1e\+39, which is too large for float32"):
        ParameterTable({"load": [1.0, "1e39"]}).parameters(space, 0)


def test_missing_columns_are_named():
    less = {name: values for name, values in COLUMNS.items() if "size" not in name}
    with pytest.raises(ConfigError, match=r"no column 'shape/size\[0\]', 'shape/size\[1\]'; it has 'gain', "):
        drawn(less)
    with pytest.raises(ConfigError, match="no column 'number' to ignore; it has 'gain'"):
        ParameterTable(COLUMNS, ignore=["number"])
    assert ParameterTable({**COLUMNS, "number": [1, 2]}, ignore="number").describe()["columns"] == sorted(COLUMNS)
    with pytest.raises(ConfigError, match="row 2 has 'gain'"):
        ParameterTable([rows()[0], {"gain": 1}])
    with pytest.raises(ConfigError, match="2 rows, so there is no episode 2"):
        drawn(COLUMNS, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cases.csv is empty; its first line names the columns"),
        ("gain,size\n", "needs at least one row"),
        ("gain,size\n1,2\n3\n", "row 2 has 1 values, the first line names 2 columns"),
        ('gain,size\n"1"x,2\n', "is no CSV file"),
        ("gain,size\n1,\xff", "no text in UTF-8"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, message):
    file = tmp_path / "cases.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        ParameterTable(file)
    with pytest.raises(ConfigError, match=r"cannot read the table .*none\.csv: No such file"):
        ParameterTable(tmp_path / "none.csv")
    for table in (7, [], [1, 2], None, {}):
        with pytest.raises(ConfigError, match="table"):
            ParameterTable(table)


@pytest.mark.slow
def test_generation_runs_every_row_once(tmp_path):
    file = tmp_path / "cases.csv"
    file.write_text(CASES)
    table = ParameterTable(file, ignore=["case"])
    dataset = physgym.generate(toys.Tuned, tmp_path / "data", parameters=table, progress=False)
    assert dataset.parameters["gain"].tolist() == [1.5, 1.25, 2.0]
    assert dataset.parameters["shape/kind"].tolist() == [2, 3, 1]
    assert sorted(set(dataset.index("episode"))) == [0, 1, 2]
    assert dataset.source["parameters"]["rows"] == 3
    with pytest.raises(SampleError, match=r"values for 3 episodes, which gave \d+ of 99 samples; leave the number"):
        physgym.generate(toys.Tuned, tmp_path / "more", samples=99, parameters=table, progress=False)
    with pytest.raises(ConfigError, match="episodes=4 are more than the 3"):
        physgym.generate(toys.Tuned, tmp_path / "other", episodes=4, parameters=table, progress=False)
    file.write_text(CASES.replace("1/s", "1/min"))
    wrong = ParameterTable(file, ignore=["case"])
    with pytest.raises(ConfigError, match="column 'gain' is in 1/min, the simulation takes 'gain' in 1/s"):
        physgym.generate(toys.Tuned, tmp_path / "other", parameters=wrong, progress=False)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases.csv").write_text(re.sub("^[^,]*,", "", CASES, flags=re.MULTILINE))
    app(["generate", ENV, "--out", "data", "--parameters", "table:cases.csv"], standalone_mode=False)
    assert len(SampleDataset("data").parameter_episodes) == 3
    assert "parameters of 3 episodes: gain" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"one of .*table:PATH"):
        find_sampler("table", "parameters")


@pytest.mark.parametrize("value", ["9007199254740993", 2**53 + 1])
def test_an_integer_that_double_precision_lacks_is_not_rounded(value):
    space = spaces.Dict({"count": spaces.Box(0, 2**60, (), np.int64)})
    assert ParameterTable({"count": [str(2**53)]}).parameters(space, 0)(0)["count"] == 2**53
    with pytest.raises(ConfigError, match=r"9007199254740993.* that float64 holds exactly"):
        ParameterTable({"count": [value]}).parameters(space, 0)
