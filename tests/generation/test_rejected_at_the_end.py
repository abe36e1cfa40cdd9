"""Rejected steps after the last sample: they are stored, counted and named like others, whatever made the dataset."""

from __future__ import annotations

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data.rejected_steps import count_rejected
from physgym.data.summary import summarize
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from physgym.generation.rejections import TEXTS, Rejections
from physgym.generation.stream import SampleStream


class Losing(gymnasium.Env):
    """Rejects the steps of a mask that the number of the episode chooses, with a reason each."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    sample_space = spaces.Dict({"x": action_space, "y": action_space})
    parameter_space = spaces.Dict({"number": spaces.Box(0, 1, (), np.float32)})

    def __init__(self, every=4, whole=0.0, render_mode=None):
        self.every, self.whole = every, whole
        self.sample_roles = {"x": "input", "y": "target"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number, self.number = 0, np.float32(self.np_random.random())
        return np.zeros(1, np.float32), {"parameters": {"number": self.number}}

    def step(self, action):
        self.step_number += 1
        fields = {"x": action, "y": action}
        lost = self.step_number % self.every == 0
        info = {"sample": fields}
        if lost or self.number < self.whole:
            info = {"rejected": "too late" if lost else "never", "rejected_sample": fields}
        return np.zeros(1, np.float32), 0.0, False, False, info


OPTIONS = {"num_workers": 0, "max_steps": 4, "progress": False}


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.h5"))}


def in_words(folder):
    return "\n".join(summarize(folder))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_last_episode_has_ended_and_all_counts_agree(workers, tmp_path, capfd):
    options = {**OPTIONS, "num_workers": workers, "keep_rejected": True, "progress": True}
    dataset = physgym.generate(Losing, tmp_path / "d", episodes=10, **options)
    assert set(dataset.endings.values()) == {"cut"}
    assert (len(dataset.endings), len(dataset), len(dataset.rejected.reasons)) == (10, 30, 10)
    said = capfd.readouterr().err
    assert re.search(r"sample/s, rejected 10\n", said)
    assert "10 rejected steps: too late (10)\n" in said
    assert "rejected: 10 samples are kept" in in_words(tmp_path / "d")
    assert "  10 steps were rejected" in in_words(tmp_path / "d")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("size", "lost"), [(26_000, 0.0), (1 << 30, 0.4)])
def test_a_dataset_that_was_made_in_parts_has_the_same_bytes(keep, size, lost, tmp_path):
    options = {
        **OPTIONS,
        "keep_rejected": keep,
        "max_file_size": size,
        "env_kwargs": {"whole": lost},
        "max_rejects": 99,
    }
    whole = physgym.generate(Losing, tmp_path / "whole", episodes=60, **options)
    for name, parts in (("a", (5, 6, 33, 60)), ("b", (59, 60))):
        for episodes in parts:
            physgym.generate(Losing, tmp_path / name, episodes=episodes, resume=episodes > parts[0], **options)
        assert files(tmp_path / name) == files(tmp_path / "whole")
    physgym.generate(Losing, tmp_path / "c", samples=20, **options)
    assert physgym.generate(Losing, tmp_path / "c", episodes=60, resume=True, **options).endings == whole.endings
    assert files(tmp_path / "c") == files(tmp_path / "whole")
    count = 60 * 4 - len(whole)
    assert f"  {count} steps were rejected" in in_words(tmp_path / "c")
    if keep:
        assert len(whole.rejected.reasons) == count


def test_rejected_steps_are_counted_across_partitions(tmp_path):
    options = {**OPTIONS, "max_file_size": 12_000, "env_kwargs": {"whole": 0.4}, "max_rejects": 99}
    dataset = physgym.generate(Losing, tmp_path / "d", episodes=200, **options)
    assert len(dataset.partitions) == 3
    assert f"  {200 * 4 - len(dataset)} steps were rejected" in in_words(tmp_path / "d")
    part = physgym.generate(Losing, tmp_path / "part", samples=len(dataset) - 1, **options)
    steps = sum(part.lengths.values()) + int(part.index("step")[-1]) + 1  # the last episode has not ended
    assert f"  {steps - len(part)} steps were rejected" in in_words(tmp_path / "part")


def test_the_count_is_that_of_the_samples_that_there_are(tmp_path):
    for samples, wanted in ((3, 0), (4, 1), (7, 2)):
        with SampleStream(Losing, path=tmp_path / str(samples), max_steps=4, num_workers=0) as stream:
            stream.expect(samples)
            while stream.stored < samples:
                stream.take(2)
            assert stream.rejected == wanted
    with SampleStream(Losing, path=tmp_path / "7", max_steps=4, num_workers=0, resume=True) as stream:
        assert stream.rejected == 2
        assert len(stream.draw(4)["x"]) == 4
        assert (stream.rejected, dict(stream.rejections.reasons)) == (3, {"too late": 1})
    with SampleStream(Losing, max_steps=4, num_workers=0) as stream:
        stream.draw(7)
        state = stream.state_dict()
        assert stream.rejected == 2
        stream.draw(5)
        stream.load_state_dict(state)
        stream.draw(4)
        assert stream.rejected == 1


def test_steps_without_a_sample_are_counted():
    def count(names, ended=(), before=None):
        episodes, steps = np.array(names, np.int64).reshape(-1, 2).T
        over, lengths = np.array(ended, np.int64).reshape(-1, 2).T
        return count_rejected(episodes, steps, over, lengths, before)

    assert count([]) == 0
    assert count([], [(0, 3), (1, 2)]) == 5
    assert count([(0, 0), (0, 1), (2, 0)]) == 0
    assert count([(0, 1), (0, 4), (2, 3)]) == 1 + 2 + 3
    assert count([(0, 1), (2, 3)], [(0, 2), (1, 7), (2, 5)]) == 1 + 7 + 3 + 1
    assert count([(2, 3)], [(0, 4), (2, 4)], before=(0, 1)) == 2 + 3
    assert count([(0, 3)], [(0, 4)], before=(0, 1)) == 1


def test_few_reasons_are_kept_and_shown():
    rejections = Rejections()
    said = {step: f"{chr(256 + step)} at {step}.5e-3 s" for step in range(3 * TEXTS)}
    rejections._add_reasons([said, {0: f"{chr(256)} at -7 s", 1: "a\nb" * 99}])
    rejections.count = 3 * TEXTS + 2
    assert len(rejections.reasons) == TEXTS
    assert str(rejections).startswith(f"302 rejected steps: {chr(256)} at # s (2); ")
    assert str(rejections).endswith("; others (296)")
    assert str(Rejections()) == "no rejected steps"


@pytest.mark.parametrize(
    ("then", "now", "option"),
    [
        ({"keep_rejected": True}, {}, r"keeps the samples of rejected steps; continue it with --keep-rejected"),
        ({}, {"keep_rejected": True}, r"does not keep the samples .*; continue it without --keep-rejected"),
        ({"seed": 3}, {}, r"samplers and seed: --seed 3 \(seed=3\), or write"),
        ({}, {"max_steps": 9}, r": --max-steps 4 \(max_steps=4\), or"),
        ({"nonfinite": "allow"}, {}, r": --nonfinite allow \(nonfinite='allow'\), or"),
        ({"env_kwargs": {"every": 3}}, {}, ": --arg every=3, or"),
        ({}, {"env_kwargs": {"every": 3}}, ": no --arg, or"),
        ({}, {"parameters": "sobol"}, r": no --parameters \(parameters=None\), or"),
        (
            {"actions": "uniform"},
            {"seed": 1},
            r': --seed 0 .*, the --actions that is recorded as \{"sampler": "uniform"\}, or',
        ),
    ],
)
def test_a_resume_names_the_option_that_is_missing(then, now, option, tmp_path):
    physgym.generate(Losing, tmp_path / "d", episodes=2, **{**OPTIONS, **then})
    before = files(tmp_path / "d")
    with pytest.raises(DatasetError, match=option):
        physgym.generate(Losing, tmp_path / "d", episodes=4, resume=True, **{**OPTIONS, **now})
    assert files(tmp_path / "d") == before


def test_other_tables_are_named(tmp_path):
    from physgym.sample import Field, SampleSpec

    spec = SampleSpec([Field("x", (), "f4", "input")])
    with SampleWriter(tmp_path / "d", spec, parameters=spec) as writer:
        writer.add_parameters({"x": [1.0]}, episode=np.array([0]), seed=np.array([0]))
        writer.add({"x": 1.0}, episode=0, step=0, seed=0)
    with pytest.raises(
        DatasetError, match=r"has the parameters .*x.*, the new samples None; continue it with the same"
    ):
        SampleWriter(tmp_path / "d", spec, resume=True)
