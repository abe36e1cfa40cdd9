"""What feeds what: declared once, checked there, stored with the samples."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data.summary import summarize
from physgym.data.writer import SampleWriter
from physgym.errors import SampleError
from physgym.feedback import Feedback, parse_feedback
from physgym.sample import Field, RecordTransition, SampleSpec
from tests.support.datasets import write

F4 = np.dtype("f4")
BOTH = [
    Field("state", (2,), F4, "input"),
    Field("force", (1,), F4, "input"),
    Field("next_state", (2,), F4, "target"),
    Field("energy", (), F4, "target"),
]
ONCE = BOTH[:2]


class Declaring(gymnasium.Env):
    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, spec: list[Field], declared: object) -> None:
        self.sample_space = spaces.Dict([(f.name, spaces.Box(-1, 1, f.shape, f.dtype)) for f in spec])
        self.sample_roles = {f.name: f.role for f in spec}
        self.sample_feedback = declared


def through_a_pipe(dataset: physgym.SampleDataset) -> physgym.SampleDataset:
    return pickle.loads(pickle.dumps(dataset))  # noqa: S301 - as the workers of a DataLoader get it


@pytest.mark.parametrize(
    ("spec", "declared", "pairs", "once"),
    [
        (BOTH, {"next_state": "state"}, {"next_state": "state"}, {}),
        (BOTH, "next_state -> state", {"next_state": "state"}, {}),
        (BOTH, ["next_state->state"], {"next_state": "state"}, {}),
        (ONCE, "state", {"next_state": "state"}, {"state": "next_state"}),
        (
            ONCE,
            ["force", "state"],
            {"next_state": "state", "next_force": "force"},
            {"state": "next_state", "force": "next_force"},
        ),
        (BOTH, {}, {}, {}),
        (BOTH, None, {}, {}),
    ],
)
def test_it_is_declared_in_the_sample_space(spec, declared, pairs, once):
    found = SampleSpec.from_env(Declaring(spec, declared))
    again = SampleSpec.from_json(json.loads(json.dumps(found.to_json())))
    assert dict(found.feedback) == dict(again.feedback) == pairs
    assert found.feedback.once == once
    assert found == SampleSpec(spec)  # so that a dataset goes on after something was declared
    assert bool(found.feedback) == any("feeds" in item for item in found.to_json())
    assert found.with_feedback(found.feedback.declaration).feedback == found.feedback


@pytest.mark.parametrize(
    ("spec", "declared", "message"),
    [
        (
            BOTH,
            {"next_stat": "state"},
            r"sample_feedback names \['next_stat'\], which are no fields; there are \['state'",
        ),
        (BOTH, "next_state -> stat", r"names \['stat'\], which are no fields"),
        (
            BOTH,
            {"energy": "state"},
            r"'energy' feeds 'state'; they need the same shape and dtype, and have \(\) float32",
        ),
        (BOTH, {"force": "state"}, "'force' feeds 'state'; a target feeds an input, not 'input' 'input'"),
        (BOTH, "next_state", "'next_state' is stored once.* its role must be \"input\", not 'target'"),
        (BOTH, "state", "'state' is stored once, but there is 'next_state' too; declare 'next_state -> state'"),
        (BOTH, ["next_state -> state", "energy -> state"], "feeds two fields to 'state'"),
        (BOTH, ["next_state -> state", "next_state -> force"], "says twice what 'next_state' feeds"),
        (BOTH, "next_state -> state -> force", "is neither 'output -> input' nor the name of one field"),
        (BOTH, "-> state", "is neither 'output -> input' nor"),
        (BOTH, 7, "sample_feedback is 7; write 'next_state -> state'"),
        (BOTH, [7], r"sample_feedback is \[7\]"),
    ],
)
def test_what_cannot_be_is_one_clear_error_where_it_is_declared(spec, declared, message):
    with pytest.raises(SampleError, match=message):
        SampleSpec.from_env(Declaring(spec, declared))


def test_the_units_of_an_output_and_its_input_are_the_same_where_both_are_declared():
    declared = Declaring(BOTH, "next_state -> state")
    for units in ({"state": "m"}, {"state": "m", "next_state": " m"}, {"state": "m/s", "next_state": "m / s"}):
        declared.sample_units = units
        assert dict(SampleSpec.from_env(declared).feedback) == {"next_state": "state"}
    declared.sample_units = {"state": "m", "next_state": "mm"}
    with pytest.raises(SampleError, match=r"'next_state' of a step is 'state' of the next one; .* 'mm' and 'm'\."):
        SampleSpec.from_env(declared)


def test_a_dataset_of_units_that_contradict_each_other_opens_and_says_so(tmp_path):
    units = {"state": "m", "next_state": "mm"}
    fields = [replace(field, unit=units.get(field.name, "")) for field in SampleSpec(BOTH).values()]
    stored = [replace(field, feeds="state") if field.name == "next_state" else field for field in fields]
    assert dict(written(tmp_path / "d", SampleSpec(stored)).feedback) == {"next_state": "state"}
    [line] = [line for line in summarize(tmp_path / "d") if line.startswith("  wrong: ")]
    assert (
        line == "  wrong: next_state and state are the same values, in 'mm' and 'm'; correct one: data describe --unit"
    )


def test_outputs_become_inputs_and_a_field_that_is_stored_once_can_have_another_output():
    feedback = Feedback({"next_state": "state"}, {"image": "next_image"})
    assert feedback.inputs({"next_state": 1, "next_image": 2, "energy": 3}) == {"state": 1, "image": 2}
    assert feedback.inputs({"energy": 3}) == {}
    assert str(feedback) == "next_state -> state, image"
    named = feedback.named({"image": "after"})
    assert named.inputs({"after": 5}) == {"image": 5}
    assert str(named) == "next_state -> state, image (next: after)"
    with pytest.raises(SampleError, match=r"stored once, \['image'\]; \['state'\] are none of these"):
        feedback.named({"state": "after"})
    assert parse_feedback(None) == {}


def test_any_environment_as_transitions_declares_it():
    space = spaces.Dict(position=spaces.Box(-1, 1, (2,), np.float32), on=spaces.Discrete(2))

    class Nested(gymnasium.Env):
        action_space, observation_space = spaces.Box(-1, 1, (1,), np.float32), space

    found = SampleSpec.from_env(RecordTransition(Nested()))
    pairs = {f"next_observation/{name}": f"observation/{name}" for name in ("on", "position")}
    assert dict(found.feedback) == pairs
    assert dict(SampleSpec.from_env(gymnasium.make("physgym/Spring-v0")).feedback) == {"next_state": "state"}


@pytest.mark.slow
def test_generation_stores_it(tmp_path):
    dataset = physgym.generate("physgym/Spring-v0", tmp_path / "d", samples=20, num_workers=0, progress=False)
    assert dict(dataset.feedback) == {"next_state": "state"}
    [described] = [
        f
        for f in json.loads((tmp_path / "d" / "dataset.json").read_text())["modes"]["training"]["fields"]
        if "feeds" in f
    ]
    assert (described["name"], described["feeds"]) == ("next_state", "state")


def test_it_is_stored_with_the_samples_and_shown(tmp_path):
    dataset = written(tmp_path / "d", SampleSpec(BOTH).with_feedback("next_state -> state"))
    assert dict(dataset.feedback) == {"next_state": "state"}
    assert "  feedback: next_state -> state" in list(summarize(tmp_path / "d"))
    part = physgym.SampleDataset(tmp_path / "d", fields=["force", "state"])
    assert part.feedback == dataset.feedback  # of all stored fields
    assert through_a_pipe(part).feedback == part.subset(np.arange(3)).feedback == part.feedback


def written(path, spec: SampleSpec) -> physgym.SampleDataset:
    with SampleWriter(path, spec) as writer:
        samples = {name: np.zeros((4, *field.shape), field.dtype) for name, field in spec.items()}
        writer.append(samples, episode=[0] * 4, step=range(4), seed=[0] * 4)
    return physgym.SampleDataset(path)


def test_a_dataset_that_says_nothing_is_told_where_it_is_opened(tmp_path):
    written(tmp_path / "d", SampleSpec(BOTH))
    assert "feeds" not in (tmp_path / "d" / "dataset.json").read_text()
    assert not any("feedback" in line for line in summarize(tmp_path / "d"))
    assert not physgym.SampleDataset(tmp_path / "d").feedback
    told = physgym.SampleDataset(tmp_path / "d", feedback="next_state -> state")
    assert dict(through_a_pipe(told).feedback) == dict(told.feedback) == {"next_state": "state"}
    assert told.spec["next_state"].feeds == "state"
    with pytest.raises(SampleError, match=r"feedback names \['now'\]"):
        physgym.SampleDataset(tmp_path / "d", feedback={"next_state": "now"})


def test_a_dataset_of_before_says_nothing(tmp_path):
    assert not write(tmp_path / "d", 5).feedback
