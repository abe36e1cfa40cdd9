"""Masks of padded fields: applied to statistics however samples are read, and refused where they make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, DataLoader, Subset

from physgym import SampleDataset
from physgym.data import SampleWriter
from physgym.errors import ConfigError, SampleError
from physgym.running.run_step import record_fields
from physgym.sample import Field, SampleSpec
from physgym.training.foreign import Feed, as_samples

F4 = np.dtype("f4")
RNG = np.random.default_rng(0)
NUMBER = RNG.integers(0, 5, 60).astype("u1")
POINTS = (RNG.normal(size=(60, 4, 2)) + 5).astype("f4")
POINTS[np.arange(4) >= NUMBER[:, None]] = 0
GAPS = np.where((POINTS == 0).all(-1, keepdims=True), np.nan, POINTS)


def spec(mask="n", dtype="u1"):
    number = Field("n", (), np.dtype(dtype), "additional")
    return SampleSpec([Field("p", (4, 2), F4, "input", mask=mask), number, Field("y", (), F4, "target")])


def write(folder, number=NUMBER, declared=None):
    rows = np.arange(60)
    with SampleWriter(folder, spec() if declared is None else declared) as writer:
        samples = {"p": POINTS, "n": number, "y": POINTS[:, 0, 0]}
        writer.append(samples, episode=rows // 5, step=rows % 5, seed=np.zeros(60, np.uint64))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("masked") / "d")


def assert_mean(found, rows):
    np.testing.assert_allclose(found.mean, np.nanmean(GAPS[rows], 0), rtol=1e-5)
    np.testing.assert_array_equal(found.counts, np.isfinite(GAPS[rows]).sum(0))


def test_statistics_are_those_of_what_is_there_whichever_fields_are_read(folder):
    assert (np.nanmean(GAPS, 0) - POINTS.mean(0) > 1).all()
    dataset = SampleDataset(folder, fields=["p", "y"])
    assert list(dataset.statistics) == list(dataset.compute_statistics()) == ["p", "y"]
    assert_mean(dataset.statistics["p"], slice(None))
    assert_mean(dataset.compute_statistics()["p"], slice(None))
    assert_mean(SampleDataset(folder, fields=["p"], mini=30).statistics["p"], slice(30))
    assert_mean(SampleDataset(folder, fields=["p"], rows=np.arange(7, 50)).statistics["p"], slice(7, 50))
    assert_mean(dataset.subset(np.arange(40)).statistics["p"], slice(40))
    assert_mean(as_samples(Subset(dataset, range(20, 60)), 8).statistics["p"], slice(20, 60))
    training, _ = dataset.split(0.5)
    assert_mean(training.statistics["p"], training.index("episode") * 5 + training.index("step"))
    assert list(dataset[0]) == ["p", "y"]  # the mask is read for statistics alone


def test_a_loader_of_a_dataset_applies_its_masks_and_asks_for_those_that_it_lacks(folder):
    whole, part = SampleDataset(folder), SampleDataset(folder, fields=["p", "y"])
    for made in (
        whole,
        Subset(whole, range(60)),
        ConcatDataset([Subset(whole, range(30)), Subset(whole, range(30, 60))]),
    ):
        assert_mean(Feed(DataLoader(made, batch_size=7)).statistics["p"], slice(None))
    assert_mean(as_samples(ConcatDataset([whole, whole]), 8).subset(np.arange(60)).statistics["p"], slice(None))
    for lacking in (DataLoader(part, batch_size=10), ConcatDataset([part])):
        with pytest.raises(SampleError, match=r"'p' is padded.* mask 'n', which is not among .*'p', 'y'.* to `fields`"):
            as_samples(lacking, 10).statistics  # noqa: B018 - which a normalization is made of


def test_what_a_loader_gives_is_said_by_its_dataset(tmp_path):
    declared = SampleSpec([Field("x", (3,), F4, "input", kind="flag"), Field("y", (), F4, "target")])
    with SampleWriter(tmp_path / "d", declared) as writer:
        values = {"x": np.ones((4, 3), "f4"), "y": np.zeros(4, "f4")}
        writer.append(values, episode=np.arange(4), step=np.zeros(4, int), seed=np.zeros(4, np.uint64))
    loader = DataLoader(SampleDataset(tmp_path / "d"), batch_size=2)
    assert Feed(loader).spec["x"].kind == "flag"
    other = DataLoader(SampleDataset(tmp_path / "d"), 2, collate_fn=lambda rows: {"x": np.zeros((2, 5))})
    assert Feed(other).spec["x"].kind == "number"  # of another shape: nothing is said of it


def test_a_mask_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'p' has the mask 'zz', which is no field of the samples; .*'p', 'n', 'y'"):
        SampleWriter(tmp_path / "d", spec("zz"))
    assert not (tmp_path / "d").exists()
    with pytest.raises(SampleError, match=r"'n' tells which values of 'p'.*must be an integer.* dtype float64"):
        spec(dtype="f8")
    with pytest.raises(SampleError, match="'p' cannot say itself"):
        spec("p")
    assert spec(dtype="?")["p"].mask == "n"  # a flag for all of it


@pytest.mark.parametrize("value", [9, 5, -1])
def test_a_number_of_rows_that_a_field_does_not_have_is_refused(tmp_path, value):
    declared = spec(dtype="i8")
    number = NUMBER.astype("i8")
    number[17] = value
    text = rf"episode 3, step 2: 'n' says that {value} rows of 'p' are there; it has 4"
    with pytest.raises(SampleError, match=text):
        write(tmp_path / "d", number, declared)
    assert len(SampleDataset(tmp_path / "d")) == 17  # those before it


def test_what_a_run_stores_has_no_mask_that_it_does_not_store():
    part = SampleSpec([spec()["p"], spec()["y"]])
    assert record_fields(part, [], compare=False)["p"].mask == ""
    assert record_fields(spec(), [], compare=False)["p"].mask == "n"
