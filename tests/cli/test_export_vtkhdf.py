"""`physgym export --to vtkhdf` and `--check`: what is printed, and which options go together."""

from __future__ import annotations

import pytest

from physgym import cli
from physgym.errors import ConfigError, DatasetError
from tests.support.vtk_files import square


def export(*arguments):
    cli.app(["export", *map(str, arguments)], standalone_mode=False)


def test_files_are_written_next_to_the_partitions_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    square(tmp_path / "d", partitions=4)
    export("d", "--to", "vtkhdf")
    assert "written: 4 files, d/training-00000.vtkhdf to training-00003.vtkhdf" in capsys.readouterr().out
    export("d", "--to", "vtkhdf", "--episode", 0, "--cells", "cells=quad", "--out", "first.vtkhdf")
    assert "written: first.vtkhdf; the time is the step" in capsys.readouterr().out
    export("--check", "first.vtkhdf")
    assert "the partitions that first.vtkhdf shows are there" in capsys.readouterr().out
    (tmp_path / "d" / "training-00001.h5").unlink()
    with pytest.raises(
        DatasetError, match=r"first\.vtkhdf does not show what it did: d/training-00001\.h5: it is not there"
    ):
        export("--check", "first.vtkhdf")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "say which dataset"),
        (("d", "--check", "x.vtkhdf"), "takes nothing else"),
        (("d", "--to", "numpy", "--out", "a", "--episode", "0"), "--episode: numpy has no such option"),
        (("d", "--to", "pt2", "--out", "a", "--nodes", "n"), "--nodes: a network has no such option"),
        (("d", "--compress", "gzip", "--out", "a", "--cells", "c"), "--cells: a compressed copy has no such option"),
    ],
)
def test_options_that_do_not_go_together_are_an_error(tmp_path, monkeypatch, arguments, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=error):
        export(*arguments)
