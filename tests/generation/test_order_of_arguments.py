"""Names within an argument of an environment have an order, which a dataset keeps: that of a model's inputs, say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym.data.continuing import are_in_one_order, source_text
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.generation.source import as_recorded, is_same_source
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), np.dtype(float), "input")])
GIVEN = {"seed": 1, "env": "e", "env_kwargs": {"url": "u", "inputs": {"z": [0, 1], "a": [5, 6]}}}
SWAPPED = {"seed": 1, "env": "e", "env_kwargs": {"url": "u", "inputs": {"a": [5, 6], "z": [0, 1]}}}
SAME = {"env_kwargs": {"inputs": {"z": [0, 1], "a": [5, 6]}, "url": "u"}, "env": "e", "seed": 1}


def writer(path, source, **options):
    return SampleWriter(path, SPEC, source=source, **options)


def test_a_dataset_keeps_the_order_and_is_not_continued_in_another_one(tmp_path):
    with writer(tmp_path, GIVEN) as opened:
        opened.add({"x": 1.0}, episode=0, step=0, seed=1)
    assert list(SampleDataset(tmp_path).source["env_kwargs"]["inputs"]) == ["z", "a"]
    with pytest.raises(DatasetError, match="was not made with the same order of env_kwargs"):
        writer(tmp_path, SWAPPED, resume=True)
    with writer(tmp_path, SAME, resume=True) as opened:
        opened.add({"x": 2.0}, episode=1, step=0, seed=2)
    assert len(SampleDataset(tmp_path)) == 2


def test_sources_are_compared_with_their_order():
    assert source_text(GIVEN) == source_text(SAME) != source_text(SWAPPED)
    assert are_in_one_order(GIVEN, SAME)
    assert not are_in_one_order(GIVEN, SWAPPED)
    assert is_same_source(GIVEN, SAME)
    assert not is_same_source(GIVEN, SWAPPED)
    assert list(as_recorded(GIVEN, SWAPPED)["env_kwargs"]["inputs"]) == ["z", "a"]
    several = [{**one, "env_kwargs": [one["env_kwargs"], {}]} for one in (GIVEN, SWAPPED)]
    assert not are_in_one_order(*several)
    assert json.loads(source_text(several[0])) == several[0]


def test_a_source_that_is_no_json_is_refused():
    for source in ({"env_kwargs": {"f": {1}}}, {"env_kwargs": {"inputs": {"a": 1, 2: 3}}}):
        with pytest.raises(ConfigError, match="JSON data with texts as keys"):
            source_text(source)
