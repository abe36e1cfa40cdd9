"""Declared feedback is compared with the samples: by a check, while they are generated, and where they train."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data.dataset import SampleDataset
from physgym.data.fed_back_rows import warn_of_feedback
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.feedback_gaps import feedback_gaps
from physgym.sample import Field, SampleSpec
from physgym.testing import check_env

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


class Drift(physgym.Simulation):
    """Moves by its action; `fault` says what its next_state is in place of the state of the next step."""

    observation_space = BOX
    action_space = spaces.Box(-1, 1, (3,), np.float32)
    sample_space = spaces.Dict({"state": BOX, "push": action_space, "next_state": BOX})
    sample_roles: ClassVar = {"state": "input", "push": "input", "next_state": "target"}
    sample_feedback = "next_state -> state"

    def __init__(self, fault="", every=0, begins=0, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.fault, self.every, self.begins = fault, every, begins

    def begin(self, options):
        self.state, self.count = self.np_random.normal(size=3), 0

    def advance(self, action):
        self.count += 1
        self.before, self.push = self.state, np.asarray(action)
        if self.every and self.count % self.every == 0:
            self.state = self.state + 7.0  # what becomes of a state whose step is rejected is not compared
            raise physgym.RejectSample(f"every {self.every}")
        self.state = self.state + action

    def observation(self):
        return self.state.astype(np.float32)

    def sample(self):
        after = self.state
        if self.count > self.begins and self.fault:
            after = {"stale": self.before, "scaled": 1.01 * after, "nan": np.array([np.nan, 0, 0])}[self.fault]
        return {"state": self.before.astype(np.float32), "push": self.push, "next_state": after.astype(np.float32)}


SAYS = "'next_state' of a step is declared to be 'state' of the next one"


def spec_of(dtype="float32", shape=(2,), **more):
    fields = [Field("u", shape, dtype, "input", **more), Field("v", shape, dtype, "target", feeds="u", **more)]
    return SampleSpec([*fields, Field("length", (), "int64", "input")])


def rows_of(u, v, dtype="float32"):
    u, v = np.asarray(u, dtype), np.asarray(v, dtype)
    return {"u": u, "v": v, "length": np.full(len(u), 1)}


def gaps_of(spec, rows, episodes, steps):
    return list(feedback_gaps(spec, rows, np.array(episodes), np.array(steps)))


@pytest.mark.parametrize(("fault", "says"), [("stale", "It is 'state' of the same"), ("scaled", "differ by up to")])
def test_a_check_finds_an_output_that_is_not_the_next_input(fault, says):
    with pytest.raises(AssertionError) as found:
        check_env(Drift, arguments={"fault": fault})
    (line,) = str(found.value).splitlines()[1:]
    assert line.startswith(f"- test_samples_fit_the_declaration: {SAYS} (sample_feedback), and is not in 4 of 4 pairs")
    assert "first in steps 0 and 1 of episode 0" in line
    assert says in line


@pytest.mark.parametrize("every", [pytest.param(0, marks=pytest.mark.slow), 3])
@pytest.mark.filterwarnings("error")
def test_what_is_right_is_not_said_also_around_rejected_steps(every, tmp_path):
    check_env(Drift, arguments={"every": every}, note=lambda *said: None, skip=lambda *said: None)
    kwargs = {"env_kwargs": {"every": every}, "num_workers": 0, "max_steps": 7, "progress": False}
    dataset = physgym.generate(Drift, tmp_path / "data", samples=30, keep_rejected=True, **kwargs)
    warn_of_feedback(dataset)


def test_values_are_compared_up_to_rounding_within_an_episode():
    spec, tiny = spec_of(), np.float32(1 + 2e-7)
    u = np.array([[1, 100], [2, 200], [3, 300], [9, 9]])
    rows = rows_of(u, np.array([*u[1:3] * tiny, u[3], u[0]]))
    assert gaps_of(spec, rows, [0, 0, 0, 1], [0, 1, 2, 0]) == []
    assert gaps_of(spec, rows, [0, 0, 0, 0], [0, 1, 2, 4]) == []
    rows["v"][0, 0] += 0.01  # small next to the other component
    (gap,) = gaps_of(spec, rows, [0, 0, 0, 1], [0, 1, 2, 0])
    assert (gap.output, gap.name, gap.episode, gap.step, gap.unequal, gap.pairs) == ("v", "u", 0, 0, 1, 2)
    assert gap.size == pytest.approx(0.01, rel=1e-3)
    assert gap.largest == pytest.approx(3)


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "int16", "uint8", "bool", "S3"])
def test_every_dtype_is_compared(dtype):
    u = [[1, 0], [0, 1], [1, 1]]
    u = [[b"a", b"b"], [b"b", b"c"], [b"c", b"d"]] if dtype == "S3" else u
    spec = spec_of(dtype)
    assert gaps_of(spec, rows_of(u, [*u[1:], u[0]], dtype), [0] * 3, [0, 1, 2]) == []
    (gap,) = gaps_of(spec, rows_of(u, [u[1], u[0], u[0]], dtype), [0] * 3, [0, 1, 2])
    assert (gap.step, gap.unequal) == (1, 1)


def test_padding_is_not_compared_and_nan_is_equal_to_itself():
    spec = spec_of(mask="length")
    u, v = [[1, 5], [2, 6], [3, 7]], [[2, 8], [3, 9], [4, 9]]
    assert gaps_of(spec, rows_of(u, v), [0] * 3, [0, 1, 2]) == []
    assert gaps_of(spec_of(), rows_of(u, v), [0] * 3, [0, 1, 2])
    u, v = [[1, np.nan], [2, np.nan], [np.inf, 1]], [[2, np.nan], [np.inf, 1], [0, 0]]
    assert gaps_of(spec_of(), rows_of(u, v), [0] * 3, [0, 1, 2]) == []
    v[0][0] = np.nan
    (gap,) = gaps_of(spec_of(), rows_of(u, v), [0] * 3, [0, 1, 2])
    assert "one of them is not finite" in str(gap)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_generation_warns_once(workers, tmp_path):
    options = {"num_workers": workers, "max_steps": 5, "progress": False, "env_kwargs": {"fault": "stale"}}
    with pytest.warns(UserWarning, match=SAYS) as said:
        physgym.generate(Drift, tmp_path / "data", samples=200, **options)
    assert len(said) == 1


def test_samples_that_are_made_again_from_stored_ones_need_not_follow(tmp_path):
    class Loading(Drift):
        def load_sample(self, sample):
            self.state = sample["state"] + 1.0
            return sample["push"]

    options = {"num_workers": 0, "max_steps": 5, "progress": False}
    stored = physgym.generate(Drift, tmp_path / "data", samples=20, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = physgym.generate(Loading, tmp_path / "again", load=stored, **options)
        warn_of_feedback(again)


@pytest.mark.slow
def test_a_training_warns_of_what_came_later_than_the_first_samples(tmp_path):
    from torch import nn

    from physgym.training import Trainer

    class Next(nn.Linear):
        def forward(self, push, state):
            return super().forward(state)

    options = {"num_workers": 0, "max_steps": 200, "progress": False, "env_kwargs": {"fault": "scaled", "begins": 120}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = physgym.generate(Drift, tmp_path / "data", samples=200, **options)
    with pytest.warns(UserWarning, match=SAYS):
        Trainer(Next(3, 3), dataset, batch_size=10, epochs=1, validation=None)


def test_few_rows_of_a_stored_dataset_are_read(tmp_path, monkeypatch):
    spec, count = spec_of(shape=(2,)), 4000
    u = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    with SampleWriter(tmp_path / "data", spec) as writer:
        writer.append(
            rows_of(u, np.roll(u, -1, axis=0)),
            episode=np.zeros(count, int),
            step=np.arange(count),
            seed=np.zeros(count, np.uint64),
        )
    dataset, read = SampleDataset(tmp_path / "data"), []
    reading = SampleDataset.read

    def counted(self, start, stop, *args, **kwargs):
        read.append(stop - start)
        return reading(self, start, stop, *args, **kwargs)

    names, reading_part = [], Partition.read

    def counted_part(self, name, start, stop, *args, **kwargs):
        names.extend([stop - start] if name.startswith("index/") else [])
        return reading_part(self, name, start, stop, *args, **kwargs)

    monkeypatch.setattr(SampleDataset, "read", counted)
    monkeypatch.setattr(Partition, "read", counted_part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_feedback(dataset)
    assert read == [32] * 8
    assert names == [32] * 16  # episodes and steps


def test_a_pair_is_found_in_any_partition_and_among_selected_samples(tmp_path):
    spec, count = spec_of(shape=(2,)), 600
    u = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    v = np.roll(u, -1, axis=0)
    v[580:] += 1
    with SampleWriter(tmp_path / "data", spec, max_file_size=6000) as writer:
        for rows in np.split(np.arange(count), 60):
            named = {"episode": rows // 50, "step": rows % 50, "seed": np.zeros(len(rows), np.uint64)}
            writer.append({name: values[rows] for name, values in rows_of(u, v).items()}, **named)
    dataset = SampleDataset(tmp_path / "data")
    assert len(dataset.partitions) > 4
    for some in (dataset, dataset.subset(np.arange(count) % 50 < 49), dataset.subset(np.arange(100, count))):
        with pytest.warns(UserWarning, match=r"first in steps 3\d and \d+ of episode 11"):
            warn_of_feedback(some)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_feedback(dataset.subset(np.arange(550)))
