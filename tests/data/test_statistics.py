"""Statistics: of finite values per component, of what a mask says is there, merged, stored, and read from old files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import physgym
from physgym.data import partition
from physgym.data.statistics import Accumulator, Statistics
from physgym.data.writer import SampleWriter
from physgym.sample import Field, SampleSpec

RNG = np.random.default_rng(0)
F4, F8 = np.dtype("f4"), np.dtype("f8")


def reference(values):
    """Count, mean, std, min and max of the finite values of each component."""
    flat = np.where(np.isfinite(values), values, np.nan).reshape(len(values), -1).astype("f8")
    columns = [column[np.isfinite(column)] for column in flat.T]
    shape = values.shape[1:]
    found = [len(c) for c in columns], [c.mean() if len(c) else 0 for c in columns]
    found += [c.std() if len(c) else 0 for c in columns], [c.min(initial=np.inf) for c in columns]
    return [np.reshape(column, shape) for column in (*found, [c.max(initial=-np.inf) for c in columns])]


def assert_right(statistics, values):
    counts, mean, std, low, high = reference(values)
    np.testing.assert_array_equal(statistics.counts, counts)
    assert statistics.count == np.isfinite(values).reshape(len(values), -1).all(1).sum()
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(statistics.std, std, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(statistics.min, low)
    np.testing.assert_array_equal(statistics.max, high)


def gappy(shape, dtype=F4, share=0.3):
    values = (1000 + 10 * RNG.normal(size=shape)).astype(dtype)
    values[RNG.random(shape) < share] = np.nan
    return values


@pytest.mark.parametrize("shape", [(50,), (3000, 6), (700, 4, 3), (40, 5000), (9, 0)])
@pytest.mark.parametrize("dtype", [F4, F8, np.dtype("f2")])
def test_finite_values_count_for_each_component(shape, dtype):
    values = gappy(shape, dtype)
    if values.size > 100:
        values.reshape(len(values), -1)[:, 0] = np.nan  # a component without any
        values.reshape(len(values), -1)[3, -1] = np.inf
    assert_right(Statistics.of(values), values)


def test_they_merge_in_any_portions():
    values = gappy((900, 3))
    values[:300] = np.abs(values[:300])  # some sets are whole, some have nothing
    values[:300][np.isnan(values[:300])] = 1.0
    values[300:600] = np.nan
    total = Statistics.empty((3,))
    for start, stop in ((0, 100), (100, 300), (300, 450), (450, 600), (600, 900)):
        total = total.merge(Statistics.of(values[start:stop]))
    assert_right(total, values)
    assert_right(Statistics.of(values[:300]).merge(Statistics.of(values[300:600])), values[:600])
    accumulator = Accumulator((3,), F4)
    for start in range(0, 900, accumulator.block):
        accumulator.add(values[start : start + accumulator.block])
    assert_right(accumulator.total, values)


def padded_spec():
    return SampleSpec(
        [
            Field("points", (6, 2), F4, "input", mask="number"),
            Field("number", (), np.dtype("i4"), "additional"),
            Field("flow", (2, 3, 4), F8, "target", mask="wet"),
            Field("wet", (3, 4), np.dtype("?"), "additional"),
            Field("class", (6,), np.dtype("i8"), "additional", mask="number"),
        ]
    )


def padded(count):
    """Samples padded with zeros, and the same ones with NaN in their place."""
    number = RNG.integers(0, 7, count).astype("i4")
    wet = RNG.random((count, 3, 4)) < 0.6
    points, flow = RNG.normal(5, 1, (count, 6, 2)).astype("f4"), RNG.normal(-7, 2, (count, 2, 3, 4))
    kinds = RNG.integers(3, 9, (count, 6))
    there = np.arange(6) < number[:, None]
    full = {"points": there[..., None], "flow": wet[:, None], "class": there}
    arrays = {"points": points, "flow": flow, "class": kinds}
    zeros = {name: np.where(full[name], value, 0).astype(value.dtype) for name, value in arrays.items()}
    nans = {name: np.where(full[name], value, np.nan) for name, value in arrays.items()}
    return {**zeros, "number": number, "wet": wet}, nans


def names(start, stop):
    rows = np.arange(start, stop)
    return {"episode": rows // 5, "step": rows % 5, "seed": np.zeros(len(rows), np.uint64)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 4000])
def test_what_a_mask_leaves_out_is_in_no_statistics_of_a_dataset(tmp_path, size):
    samples, nans = padded(300)
    more = {} if size is None else {"max_file_size": size}
    with SampleWriter(tmp_path / "d", padded_spec(), **more) as writer:
        for start in range(0, 300, 60):
            writer.append({n: v[start : start + 60] for n, v in samples.items()}, **names(start, start + 60))
        writer.commit()
        for name, values in nans.items():
            assert_right(writer.statistics[name], values)
    dataset = physgym.SampleDataset(tmp_path / "d")
    assert [field.mask for field in dataset.spec.values()] == ["number", "", "wet", "", "number"]
    for name, values in nans.items():
        assert_right(dataset.statistics[name], values)
        assert_right(dataset.compute_statistics()[name], values)
        part = dataset.subset(np.arange(40, 90))
        assert_right(part.statistics[name], values[40:90])
        with h5py.File(dataset.partitions[0].path) as file:  # for readers without physgym
            known = reference(values[: dataset.partitions[0].count])
            np.testing.assert_allclose(file[f"statistics/{name}/mean"][()], known[1], rtol=1e-6)
    np.testing.assert_allclose(dataset.statistics["wet"].mean, samples["wet"].mean(0))


def test_a_file_that_left_out_whole_samples_is_read_as_if_written_now(tmp_path, monkeypatch):
    spec = SampleSpec([Field("x", (3,), F4, "input")])
    values = gappy((50, 3))

    def old(self, rows, finite):  # as it was
        kept = rows[finite.all(1)]
        return self._of_block(kept) if len(kept) else Statistics.empty(self._shape)

    with monkeypatch.context() as patch:
        patch.setattr(Accumulator, "_of_finite", old)
        with SampleWriter(tmp_path / "d", spec, nonfinite="allow") as writer:
            writer.append({"x": values}, **names(0, 50))
        whole = np.isfinite(values).all(1)
        with h5py.File(tmp_path / "d" / "training-00000.h5") as file:
            np.testing.assert_allclose(file["statistics/x/mean"][()], values[whole].mean(0), rtol=1e-6)
    assert_right(physgym.SampleDataset(tmp_path / "d").statistics["x"], values)


def test_whole_files_are_believed_without_reading_a_row(tmp_path, monkeypatch):
    spec = SampleSpec([Field("x", (3,), F4, "input")])
    values = gappy((50, 3), share=0)
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append({"x": values}, **names(0, 50))
    dataset = physgym.SampleDataset(tmp_path / "d")
    monkeypatch.setattr(partition, "collect", None)
    assert_right(dataset.statistics["x"], values)
