"""Formats are found by name and by source; numpy and Minari pass the contract of a format."""

from __future__ import annotations

import subprocess
import sys

import pytest

from physgym.errors import ConfigError
from physgym.formats import registry
from physgym.formats.registry import ExportOptions
from physgym.testing.formats import FormatContract


class TestFolderOfArrays(FormatContract):
    name = "numpy"

    def options(self, folder):
        return ExportOptions(out=folder / "arrays")

    def source(self, folder):
        return str(folder / "arrays")


class TestOneFileOfArrays(FormatContract):
    name = "numpy"

    def options(self, folder):
        return ExportOptions(out=folder / "arrays.npz")

    def source(self, folder):
        return str(folder / "arrays.npz")


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


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="--to must be numpy or minari, not 'csv'"):
        registry.find("csv")


def test_listing_formats_imports_none():
    program = (
        "import sys; from physgym.formats import registry; registry.names()\n"
        "assert not {'h5py', 'minari', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
