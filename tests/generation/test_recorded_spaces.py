"""Spaces of a simulation, as a partition records them for a reader."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from physgym.generation.source import origin_attributes

BOX = {"type": "Box", "shape": [2], "dtype": "<f4", "low": -1.0, "high": None}
MINE = {"type": "custom", "class": "mine.Shape"}


def recorded(observation, sample):
    spaces = {"observation": observation, "action": BOX, "sample": sample, "parameter": None}
    description = {f"{name}_space": space for name, space in spaces.items()}
    declared = SimpleNamespace(envs=SimpleNamespace(description=description), time_step=None)
    return origin_attributes("worker:Mine", [{}], declared)["spaces"]


@pytest.mark.parametrize("other", [dict(sorted(BOX.items())), {**BOX, "low": [-1, -1], "high": [None, None]}])
def test_the_same_space_is_recorded_in_the_same_words(other):
    # a worker in another language may have maps without an order, and write out what is equal for all elements
    nested = [{"type": "Dict", "spaces": [["b", box], ["a", box]]} for box in (BOX, other)]
    assert recorded(BOX, nested[0]) == recorded(other, nested[1])
    assert json.loads(recorded(other, nested[1]))["sample_space"]["spaces"] == [["b", BOX], ["a", BOX]]


def test_a_space_of_its_own_class_keeps_its_name():
    assert json.loads(recorded(MINE, None))["observation_space"] == MINE
