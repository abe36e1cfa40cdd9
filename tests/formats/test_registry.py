"""Formats are found by name and by source; numpy and Minari pass the contract of a format."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from physgym.cli import app
from physgym.errors import ConfigError
from physgym.formats import registry
from physgym.formats.registry import ExportOptions
from physgym.testing.formats import FormatContract, cut


class TestFolderOfArrays(FormatContract):
    name = "numpy"

    def options(self, folder):
        return ExportOptions(out=folder / "arrays")

    def source(self, folder):
        return str(folder / "arrays")

    def damage(self, folder):
        cut(folder / "arrays" / "action.npy")


class TestOneFileOfArrays(FormatContract):
    name = "numpy"

    def options(self, folder):
        return ExportOptions(out=folder / "arrays.npz")

    def source(self, folder):
        return str(folder / "arrays.npz")

    def damage(self, folder):
        cut(folder / "arrays.npz")


@pytest.mark.filterwarnings("ignore:.*has no environment.*:UserWarning")  # which none of its samples has
class TestMinari(FormatContract):
    name = "minari"

    @pytest.fixture(autouse=True)
    def root(self, tmp_path, monkeypatch):
        pytest.importorskip("minari", reason="pip install 'physgym[minari]'")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def options(self, folder):
        return ExportOptions(name="line/random-v0")

    def source(self, folder):
        return "line/random-v0"

    def damage(self, folder):
        (file,) = (folder / "minari").rglob("*.hdf5")
        cut(file)


def test_an_unknown_format_is_refused_with_the_known_ones():
    alone = [name for name in registry.names() if not registry.find(name).package]
    known = [*alone, *(name for name in registry.names() if name not in alone)]
    assert {"numpy", "minari"} <= set(known)
    with pytest.raises(ConfigError, match=f"no format 'no-such-format'. There are {', '.join(known)},"):
        registry.find("no-such-format")


def test_a_source_of_no_format_is_refused_with_what_formats_take(tmp_path):
    with pytest.raises(ConfigError, match=r"is of no known format.* numpy: a folder of \.npy files"):
        registry.of_source(str(tmp_path))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ConfigError, match="is of no known format"):
        registry.of_source(str(tmp_path / "a.txt"))


def test_formats_may_go_one_way_alone():
    assert {"numpy", "minari", "netcdf", "parquet", "well", "lerobot", "huggingface", "vtkhdf"} == set(registry.names())
    assert {"numpy", "minari", "netcdf", "parquet", "well", "csv", "mesh"} == set(registry.import_names())
    with pytest.raises(ConfigError, match="--to: there is no format 'csv'"):
        registry.find("csv")
    with pytest.raises(ConfigError, match=r"an import reads .* not 'lerobot'"):
        registry.find_import("lerobot")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--to", "onnx", "--mode", "test"], "--mode: a network has no such option"),
        (["--to", "pt2", "--name", "a", "--field", "a=b"], "--name and --field: a network has no such option"),
        (["--to", "numpy", "--which", "best"], "--which chooses a network"),
        (["--to", "numpy", "--dim", "a=b", "--name", "c"], "--name and --dim: numpy has no such option"),
        (["--to", "minari", "--name", "c/d-v0"], "--out: minari has no such option; it has --name, --field"),
        (["--to", "netcdf", "--field", "a=b"], "--field: netcdf has no such option"),
        (["--to", "numpy", "--resume"], "--resume and --level are for --compress"),
        (["--compress", "gzip", "--mode", "test"], "--mode goes with --to"),
        (["--compress", "gzip", "--dim", "a=b"], "--dim: a compressed copy has no such option"),
    ],
)
def test_an_option_that_an_export_would_not_use_is_refused(tmp_path, arguments, text):
    done = CliRunner().invoke(app, ["export", str(tmp_path / "data"), "--out", str(tmp_path / "x"), *arguments])
    assert isinstance(done.exception, ConfigError)
    assert text in str(done.exception)


def test_listing_formats_imports_none():
    program = (
        "import sys; from physgym.formats import registry; registry.names()\n"
        "assert not {'h5py', 'minari', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
