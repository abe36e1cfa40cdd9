"""Reports of steps: their parts, and their bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.errors import ProtocolError
from physgym.protocol import codec
from physgym.protocol.agreement import Agreement
from physgym.protocol.messages import Ready, Rollout, RolloutResult
from physgym.protocol.step_reports import StepReports
from tests.conftest import label
from tests.support.conversation import (
    DESCRIPTION,
    EXAMPLES,
    READY,
    asked,
    assert_same,
    column,
    feed,
    frame,
    joined,
    reports,
    samples,
)

WITH_SAMPLES = Agreement.from_ready(READY)
WITHOUT = Agreement.from_ready(Ready(1, {**DESCRIPTION, "sample_space": None, "sample_fields": None}))
REJECTED = st.lists(st.booleans(), max_size=9)


def read(reported: StepReports) -> list[tuple[Any, ...]]:
    """Every step by itself: bits of its numbers, and why it was rejected."""
    why = dict(zip(reported.rejected.tolist(), reported.reasons, strict=True))
    columns = (reported.rewards, reported.solver_seconds, reported.network_seconds)
    numbers = (np.array(column, np.float64).view(np.int64).tolist() for column in columns)
    given = [[change[1:] for change in reported.inputs if change[0] == place] for place in range(len(reported))]
    return [(*step, why.get(place), given[place]) for place, step in enumerate(zip(*numbers, strict=True))]


def drawn(data: st.DataObject, rejected: list[bool]) -> StepReports:
    places = [place for place, wrong in enumerate(rejected) if wrong]
    number = 8 * len(rejected)
    columns = [np.frombuffer(data.draw(st.binary(min_size=number, max_size=number)), np.float64) for _ in range(3)]
    reasons = data.draw(st.lists(st.text(max_size=5), min_size=len(places), max_size=len(places)))
    values = st.one_of(st.floats(allow_nan=False), st.just(True), st.lists(st.floats(-1, 1), min_size=3, max_size=3))
    given = st.lists(st.tuples(st.integers(0, max(0, len(rejected) - 1)), st.text(max_size=3), values), max_size=4)
    inputs = sorted(map(list, data.draw(given)), key=lambda one: one[0]) if rejected else []
    return StepReports(*columns, column(*places), reasons, inputs)


@pytest.mark.slow
@given(REJECTED, st.data())
@settings(max_examples=25, deadline=None)
def test_a_part_has_the_reports_and_samples_of_its_steps(rejected, data):
    whole = drawn(data, rejected)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rejected), max_size=len(rejected))), np.bool_)
    limit = data.draw(st.integers(0, len(rejected)))
    rows = np.flatnonzero(~np.array(rejected, np.bool_))  # a sample is the place of its step
    for part in (mask, slice(limit), slice(limit, None)):
        places = np.arange(len(rejected))[part]
        assert read(whole.cut(part)) == [read(whole)[place] for place in places]
        assert rows[whole.samples_of(part)].tolist() == [row for row in rows if row in places]
    assert len(whole) == len(rejected)


@given(REJECTED, st.data(), st.sampled_from([WITH_SAMPLES, WITHOUT]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_reports_come_back_bit_by_bit(rejected, data, agreed, ends):
    number, kept = len(rejected), len(rejected) - sum(rejected)
    ended = [[7, number, kept, 0.0, {}, "cut"]] if ends else []
    fields = samples(kept) if agreed is WITH_SAMPLES else {}
    names = (column(*[7] * number), column(*range(number)))
    sent = RolloutResult(*names, fields, ended, False, None, None, drawn(data, rejected))
    body = memoryview(bytearray(joined(codec.encode(sent, agreed))))
    assert_same(codec.decode(RolloutResult, body, agreed), sent)


RIGHT = RolloutResult(
    column(5, 5, 8), column(0, 1, 0), samples(1), [[5, 2, 1, 0.0, {}, "cut"]], False, None, None, reports(3, 0, 2)
)
WRONG = {
    "rewards": [np.zeros(2), np.zeros(4), np.zeros(3, np.float32), np.zeros((3, 1)), np.zeros(3, np.int64), [0.0] * 3],
    "solver_seconds": [np.zeros(2), np.zeros(3, ">f8"), None],
    "network_seconds": [np.zeros(0), np.zeros(3, np.bool_), "abc"],
    "rejected": [
        column(0, 3),
        column(-1, 2),
        column(2, 0),
        column(1, 1),
        column(0),
        column(0, 1, 2),
        column(0, 2)[None],
        np.array([0.0, 2.0]),
        np.array([0, 2], np.int32),
        [0, 2],
    ],
    "reasons": [[], [""], ["", None], ["", b""], "ab", {}],
    "inputs": [[5], [[]], [[0, "push"]], [[3, "push", 1.0]], [[-1, "push", 1.0]], [[True, "a", 1.0]], [[0, 5, 1.0]]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=label
)
def test_wrong_reports_are_refused_by_name(name, value):
    refused(columns={name: value}, match=r"RolloutResult\.reports\." + name.replace("reasons", "rejected"))


@pytest.mark.parametrize("value", [[], {}, 5, [np.zeros(3)] * 3, [np.zeros(3)] * 6], ids=label)
def test_what_is_no_list_of_reports_is_refused(value):
    refused(told=value, match=r"RolloutResult\.reports must be a list of rewards, solver_seconds")


@pytest.mark.parametrize(
    "ended", [[5, 2, 1, 0.0, {}], [5, 1, 1, 0.0, {}, "cut"], [5, 3, 1, 0.0, {}, "cut"], [6, 1, 1, 0.0, {}, "cut"]]
)
def test_an_episode_that_does_not_end_with_its_last_step_is_refused(ended):
    refused(ended=[ended], match=rf"RolloutResult\.ended .* how episode {ended[0]} ends")


@pytest.mark.parametrize("number", [0, 2, 3])
def test_there_are_as_many_samples_as_steps_that_were_not_rejected(number):
    refused(data=samples(number), match="bytes of arrays")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_reports_are_refused_or_are_others(data):
    """Whatever arrives fits the steps that it is about."""
    whole = bytearray(joined(codec.encode(RIGHT, WITH_SAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = codec.decode(RolloutResult, memoryview(whole), WITH_SAMPLES)
    except ProtocolError:
        return
    assert isinstance(got, RolloutResult)
    if (told := got.reports) is not None:
        assert len(told) == len(got.steps) == len(told.solver_seconds) == len(told.network_seconds)
        assert told.accepted.sum() == len(got.samples["x"]) == len(got.steps) - len(told.reasons)


def refused(
    columns: dict[str, Any] | None = None,
    told: Any = None,
    ended: Any = None,
    data: Any = None,
    match: str = "",
) -> None:
    """Send a reply with something wrong in it, which closes the connection and changes nothing."""
    whole = RIGHT.reports
    assert whole is not None
    values = {name: getattr(whole, name) for name in StepReports.__slots__} | (columns or {})
    head = [RIGHT.episodes, RIGHT.steps, RIGHT.ended if ended is None else ended, False, None, None]
    body = codec.encode_value([*head, list(values.values()) if told is None else told])
    arrays = samples(1) if data is None else data
    rest = b"".join(arrays[name].tobytes() for name in ("x", "y"))
    request = replace(EXAMPLES[Rollout], reports=True)
    parent, _ = asked(request)
    with pytest.raises(ProtocolError, match=match):
        feed(parent, frame(RolloutResult, len(body).to_bytes(4, "little") + body + rest, sequence=1))
    assert parent.ledger.rests() == [request]
