"""Samples of an episode as they are gathered."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import SampleError
from physgym.sample import Field, SampleSpec
from physgym.worker.sample_columns import SampleColumns
from tests.support import toys


def gathered(spec, samples):
    columns = SampleColumns(spec)
    for step, sample in enumerate(samples):
        columns.add(sample, 7, step)
    return columns


def test_columns_are_checked_as_single_samples_are():
    spec = SampleSpec.from_env(toys.Line())
    good = [toys.Line().make_sample(np.full(3, i, np.float32)) for i in range(40)]
    columns = gathered(spec, good).result()
    for name, field in spec.items():
        assert columns[name].dtype == field.dtype
        np.testing.assert_array_equal(columns[name], np.stack([spec.check(sample)[name] for sample in good]))
    assert gathered(spec, []).result()["x"].shape == (0, 3)
    mixed = gathered(spec, [*good[:2], {**good[2], "y": good[2]["y"].astype(np.float32)}])
    np.testing.assert_array_equal(mixed.result()["y"], columns["y"][:3])  # converted, as a single one would be
    for change, text in (
        ({"y": np.zeros((3, 1))}, "has shape"),
        ({"z": 1}, "'z' is not in sample_space"),
        ({"x": "abc"}, "dtype|shape"),
    ):
        with pytest.raises(SampleError, match=rf"episode 7, step 2: .*({text})"):
            gathered(spec, [*good[:2], {**good[2], **change}])
    missing = {name: value for name, value in good[0].items() if name != "y"}
    with pytest.raises(SampleError, match="episode 7, step 0: field 'y' is missing"):
        gathered(spec, [missing, *good])


def test_columns_find_the_first_row_that_is_not_finite():
    spec = SampleSpec.from_env(toys.Line())
    good = toys.Line().make_sample(np.zeros(3, np.float32))
    late, early = {**good, "x": np.full(3, np.inf, np.float32)}, {**good, "y": np.array([0, np.nan, 0])}
    assert gathered(spec, [good, good]).nonfinite() is None
    columns = gathered(spec, [good, early, good, late])
    assert columns.nonfinite() == 1
    columns.cut(1)
    assert columns.nonfinite() is None
    assert len(columns) == len(columns.result()["x"]) == 1


def test_columns_hold_copies():
    spec = SampleSpec.from_env(toys.Line())
    sample = toys.Line().make_sample(np.zeros(3, np.float32))
    columns = gathered(spec, [sample])
    sample["y"][:] = 5  # a simulation may use its arrays again
    np.testing.assert_array_equal(columns.result()["y"], [[1, 1, 1]])


def test_numbers_without_axes_may_be_of_any_kind_that_fits():
    spec = SampleSpec([Field("a", (), np.dtype("f8"), "input"), Field("b", (), np.dtype("i1"), "target")])
    rows = [{"a": 1.5, "b": np.int8(1)}, {"a": np.float64(1.5), "b": 1}, {"a": np.array(1.5), "b": np.array(1, "i1")}]
    columns = gathered(spec, rows).result()
    assert columns["a"].tolist() == [1.5] * 3
    assert columns["b"].tolist() == [1] * 3
