"""Numbers of NumPy among recorded arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym.data.recorded_numbers import as_numbers, read_numbers


@pytest.mark.parametrize(
    "value", [np.True_, np.False_, np.int8(-3), np.uint64(2**64 - 1), np.float32(0.1), np.float16(0.1), np.float64(0.1)]
)
def test_a_number_is_recorded_as_itself_and_read_from_its_text(value):
    found = json.loads(json.dumps(as_numbers({"a": [value, (value,)]})))
    assert found == {"a": [value.item(), [value.item()]]}
    assert type(found["a"][0]) is type(value.item())
    assert read_numbers({"a": [repr(value)]}) == {"a": [value.item()]}


@pytest.mark.parametrize("text", ["np.float32(x)", "np.int8(1000)", "float32(1)", "np.True", ""])
def test_other_texts_stay(text):
    assert read_numbers([text]) == [text]
