"""The contract of a file format, as tests: subclass `FormatContract`, and say where its datasets are.

Example::

    class TestNumpy(FormatContract):
        name = "numpy"

        def options(self, folder):
            return ExportOptions(out=folder / "arrays")

        def source(self, folder):
            return str(folder / "arrays")

        def damage(self, folder):
            cut(folder / "arrays" / "action.npy")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats import registry
from physgym.formats.registry import ExportOptions, ImportOptions
from physgym.sample import Field, SampleSpec

# as `physgym.RecordTransition` names them, since some formats hold nothing else
SPEC = SampleSpec(
    [
        Field("observation", (3,), np.dtype("f4"), "input", "m"),
        Field("action", (2,), np.dtype("f4"), "input", "N"),
        Field("next_observation", (3,), np.dtype("f4"), "target", "m"),
        Field("reward", (), np.dtype("f8"), "target"),
        Field("terminated", (), np.dtype("i1"), "additional"),
        Field("truncated", (), np.dtype("i1"), "additional"),
    ]
)
LENGTHS = (4, 1, 5)  # of the episodes


def cut(file: Path) -> None:
    """Take away the second half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


class FormatContract:
    """Tests that a format keeps datasets, and the errors that it owes.

    Attributes:
        name: Name of the format in the registry.
    """

    name: str

    def options(self, folder: Path) -> ExportOptions:
        """Return the options of an export to a place in a folder of the test."""
        raise NotImplementedError

    def source(self, folder: Path) -> str:
        """Return the path or name of that place, as the command line takes it."""
        raise NotImplementedError

    def damage(self, folder: Path) -> None:
        """Damage what was exported to that place, such as by `cut`."""
        raise NotImplementedError

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> SampleDataset:
        """Write three episodes of transitions."""
        return self._written(tmp_path, lambda samples: samples)

    def _written(
        self, folder: Path, changed: Callable[[dict[str, Any]], dict[str, Any]], spec: SampleSpec = SPEC
    ) -> SampleDataset:
        random = np.random.default_rng(0)
        source = {"env": "toy/Line-v0", "seed": 7}
        with SampleWriter(folder / "data", spec, source=source, nonfinite="allow") as writer:
            for episode, length in enumerate(LENGTHS):
                states = random.standard_normal((length + 1, 3)).astype("f4")
                last = np.arange(length) == length - 1
                samples = {
                    "observation": states[:-1],
                    "action": random.standard_normal((length, 2)).astype("f4"),
                    "next_observation": states[1:],
                    "reward": random.standard_normal(length),
                    "terminated": (last & (episode != 1)).astype("i1"),
                    "truncated": (last & (episode == 1)).astype("i1"),
                }
                index = {"episode": np.full(length, episode), "step": np.arange(length)}
                writer.append(changed(samples), **index, seed=np.full(length, 2**63 + episode, np.uint64))
        return SampleDataset(folder / "data")

    def test_it_is_listed(self) -> None:
        """Check that the registry finds it under its name."""
        assert self.name in registry.names()
        assert registry.find(self.name).title

    def test_a_dataset_comes_back(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that fields, values, dtypes, episodes and steps are those that were exported."""
        self._check_that_it_comes_back(dataset, tmp_path)

    def test_what_is_not_finite_comes_back(self, tmp_path: Path) -> None:
        """Check that values that are not finite are kept."""

        def changed(samples: dict[str, Any]) -> dict[str, Any]:
            samples["observation"][0, :2] = np.nan, np.inf
            samples["reward"][-1] = -np.inf
            return samples

        self._check_that_it_comes_back(self._written(tmp_path, changed), tmp_path)

    @pytest.mark.parametrize("dtype", ["c8", "u8", "S3", "U3", "?"])
    def test_other_dtypes_come_back_or_are_refused(self, tmp_path: Path, dtype: str) -> None:
        """Check that each dtype of samples is kept, or is an error."""
        values = np.array([b"abc"] if dtype in ("S3", "U3") else [1], dtype)
        spec = SampleSpec([*SPEC.values(), Field("more", (), values.dtype, "additional")])

        def changed(samples: dict[str, Any]) -> dict[str, Any]:
            return {**samples, "more": values.repeat(len(samples["reward"]))}

        dataset, form, refused = self._written(tmp_path, changed, spec), registry.find(self.name), ""
        try:
            form.write(dataset, self.options(tmp_path))
        except (ConfigError, DatasetError) as error:
            refused = str(error)
        if refused:
            assert "more" in refused  # the field
        else:
            self._compare(self._read(self.source(tmp_path), tmp_path / "again", ImportOptions()), dataset)

    def test_a_folder_is_made_where_it_is_missing(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that the folder above the place of an export need not be there."""
        self._check_that_it_comes_back(dataset, tmp_path / "new")

    def test_a_damaged_source_leaves_nothing(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that an import that fails is an error of physgym, and no samples are there afterwards."""
        form = registry.find(self.name)
        form.write(dataset, self.options(tmp_path))
        self.damage(tmp_path)
        with pytest.raises(DatasetError):
            self._read(self.source(tmp_path), tmp_path / "again", ImportOptions())
        assert not list(tmp_path.glob("again/*.h5"))

    def _check_that_it_comes_back(self, dataset: SampleDataset, folder: Path) -> None:
        form = registry.find(self.name)
        text = form.write(dataset, self.options(folder))
        assert text
        assert "\n" not in text
        self._compare(self._read(self.source(folder), folder / "again", ImportOptions()), dataset)

    def _read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        return registry.find_import(self.name).read(source, path, options)

    def _compare(self, found: SampleDataset, dataset: SampleDataset) -> None:
        assert found.spec == dataset.spec
        for name, column in dataset[:].items():
            assert found[:][name].dtype == column.dtype
            np.testing.assert_array_equal(found[:][name], column, err_msg=name)
        for name in ("episode", "step", "seed"):
            np.testing.assert_array_equal(found.index(name), dataset.index(name), err_msg=name)

    def test_its_datasets_are_recognized(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that an import without the name of a format finds this one."""
        form = registry.find(self.name)
        form.write(dataset, self.options(tmp_path))
        assert registry.of_source(self.source(tmp_path)) is registry.find_import(self.name)

    def test_a_part_may_be_named(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that samples are stored as the part of the dataset that the options name."""
        form = registry.find(self.name)
        form.write(dataset, self.options(tmp_path))
        self._read(self.source(tmp_path), tmp_path / "again", replace(ImportOptions(), mode="validation"))
        assert len(SampleDataset(tmp_path / "again", mode="validation")) == len(dataset)

    def test_nothing_is_replaced(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that a second export to the same place is refused, and the first one stays."""
        form = registry.find(self.name)
        form.write(dataset, self.options(tmp_path))
        with pytest.raises(DatasetError):
            form.write(dataset, self.options(tmp_path))
        assert len(self._read(self.source(tmp_path), tmp_path / "again", ImportOptions())) == len(dataset)

    def test_samples_are_not_added_to_others(self, dataset: SampleDataset, tmp_path: Path) -> None:
        """Check that an import to a folder that holds samples is refused."""
        form = registry.find(self.name)
        form.write(dataset, self.options(tmp_path))
        with pytest.raises(DatasetError):
            self._read(self.source(tmp_path), tmp_path / "data", ImportOptions())
        assert len(SampleDataset(tmp_path / "data")) == len(dataset)
