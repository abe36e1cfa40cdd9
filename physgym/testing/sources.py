"""The contract of a source of samples, as tests: subclass `SampleSourceContract`, and say how to make the source.

Example::

    class TestMine(SampleSourceContract):
        def make(self):
            return MySource()
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from physgym.batched.rows import on_host
from physgym.generation.sample_source import SampleSource
from physgym.sample import Sample

BATCH = 5  # samples, in most tests


class SampleSourceContract(ABC):
    """Tests that every source of samples passes.

    Attributes:
        repeatable: Whether two sources that are made alike give the same samples in the same order.
        resumable: Whether the samples after a saved position come again, in this order, from another source.
    """

    repeatable: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> SampleSource:
        """Return a new source, always the same one."""

    @pytest.fixture
    def source(self) -> Iterator[SampleSource]:
        """Yield a source, which is closed after the test."""
        made = self.make()
        try:
            yield made
        finally:
            made.close()

    def test_it_is_a_source(self, source: SampleSource) -> None:
        """Check that its class is derived from the interface, so that a method that it lacks has a default."""
        assert isinstance(source, SampleSource)

    def test_no_public_method_has_nearly_the_name_of_another(self, source: SampleSource) -> None:
        """Check the names of methods: one with a wrong name would never be called."""
        known = {name for name in vars(SampleSource) if not name.startswith("_")}
        folded = {name.replace("_", ""): name for name in known}
        wrong = [
            name
            for name in dir(type(source))
            if not name.startswith("_") and name not in known and name.replace("_", "").lower() in folded
        ]
        assert not wrong

    def test_a_batch_has_the_declared_fields(self, source: SampleSource) -> None:
        """Check that every field has the shape and dtype of the declaration."""
        for size in (1, BATCH):
            batch = _arrays(source.draw(size))
            assert list(batch) == list(source.spec)
            for name, field in source.spec.items():
                assert batch[name].shape == (size, *field.shape)
                assert batch[name].dtype == field.dtype

    def test_a_batch_stays_as_it_is(self, source: SampleSource) -> None:
        """Check that the next draw does not write into the arrays of the one before."""
        first = source.draw(BATCH)
        copies = {name: value.copy() for name, value in _arrays(first).items()}
        source.draw(BATCH)
        assert _same(first, copies)

    def test_names_belong_to_the_batch(self, source: SampleSource) -> None:
        """Check that there is an episode and a step for each sample, or no names at all."""
        source.draw(BATCH)
        if source.drawn is not None:
            assert len(source.drawn.episodes) == len(source.drawn.steps) == BATCH

    def test_what_is_stored_is_what_the_dataset_has(self, source: SampleSource) -> None:
        """Check that the count and the dataset agree; without a dataset nothing is stored."""
        source.draw(BATCH)
        stored, dataset = source.stored, source.dataset()
        if dataset is None:
            assert stored == 0
        else:
            assert list(dataset.spec) == list(source.spec)
            assert len(dataset) >= stored

    def test_expect_changes_no_sample(self, source: SampleSource) -> None:
        """Check that `expect` changes no sample."""
        assert not source.begun
        source.expect(2 * BATCH)
        batches = [source.draw(BATCH), source.draw(BATCH)]
        if self.repeatable:
            other = self.make()
            try:
                assert all(_same(batch, other.draw(BATCH)) for batch in batches)
            finally:
                other.close()

    def test_figures_are_numbers(self, source: SampleSource) -> None:
        """Check that `metrics` has the same names before and after a draw, which the record of every epoch gets."""
        before = source.metrics()
        source.draw(BATCH)
        after = source.metrics()
        assert list(before) == list(after)
        assert all(isinstance(float(value), float) and not math.isinf(value) for value in after.values())

    def test_a_position_brings_the_samples_after_it_again(self, source: SampleSource) -> None:
        """Check that another source continues where this one was."""
        source.draw(BATCH)
        state = source.state_dict()
        if not self.resumable:
            return
        after = [source.draw(BATCH), source.draw(BATCH)]
        source.close()
        other = self.make()
        try:
            other.load_state_dict(state)
            assert all(_same(batch, other.draw(BATCH)) for batch in after)
        finally:
            other.close()

    def test_an_empty_state_is_the_beginning(self, source: SampleSource) -> None:
        """Check that a source to which an empty state was loaded gives the samples of a new one."""
        source.load_state_dict({})
        first = source.draw(BATCH)
        if self.repeatable:
            other = self.make()
            try:
                assert _same(first, other.draw(BATCH))
            finally:
                other.close()

    def test_a_network_may_answer(self, source: SampleSource) -> None:
        """Check that a source that lacks a predictor takes one, and lacks none from then on."""
        source.answer_with(_Answers())
        assert not source.lacks_predictor
        source.draw(BATCH)

    def test_it_may_be_closed_twice(self, source: SampleSource) -> None:
        """Check that closing twice does no harm, in a hurry too, before the first sample and after some."""
        for drawn in (False, True):
            made = self.make()
            if drawn:
                made.draw(BATCH)
            made.hurry()
            made.close()
            made.close()


class _Answers:
    def predict(self, sample: Any, *, batched: bool = False) -> Any:
        raise AssertionError("nothing asks here")


def _arrays(batch: Mapping[str, Any]) -> Sample:
    """Return a batch in arrays, which may be one of tensors."""
    return {name: on_host(value) for name, value in batch.items()}


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    one, other = _arrays(first), _arrays(second)
    return list(one) == list(other) and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind in "fc") for name in one
    )
