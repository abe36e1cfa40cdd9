"""Datasets of batched simulators: the same whatever the number of rows, also where rows fail."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import physgym
from physgym.errors import ConfigError, SampleError
from physgym.generation.stream import SampleStream
from physgym.vector.make import env_factory
from tests.support.batched import Counting, CountingNext, CountingSame, Entangled
from tests.support.machines import listening, settings_for, workers

HEAT, COUNTING = "physgym/HeatBatch-v0", "tests.support.batched:Counting"
SMALL = {"size": 5}


def digest(folder):
    parts = sorted(folder.rglob("*.h5"))
    assert parts
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def acting(observation, rng):
    return int(rng.integers(0, 7))


def milder(observation, rng):
    return int(rng.choice([0, 1, 2, 8, 9]))


@pytest.mark.parametrize("kind", [Counting, pytest.param(CountingNext, marks=pytest.mark.slow)])
def test_bytes_do_not_depend_on_the_number_of_rows(tmp_path, kind):
    found = set()
    for rows in (1, 2, 5):
        physgym.generate(kind, tmp_path / f"{rows}", samples=83, num_envs=rows, num_workers=0, actions=acting)
        found.add(digest(tmp_path / f"{rows}"))
    assert len(found) == 1


@pytest.mark.slow
def test_a_row_of_a_batch_gives_what_it_gives_by_itself(tmp_path):
    options = {"env_kwargs": SMALL, "num_workers": 0, "samples": 90}
    batch = physgym.generate(HEAT, tmp_path / "batch", num_envs=7, **options)
    alone = physgym.generate(env_factory(HEAT, SMALL), tmp_path / "alone", samples=90, num_workers=0)
    for name, column in batch.read(0, 90).items():
        assert np.array_equal(column, alone.read(0, 90)[name])
    assert np.array_equal(batch.parameters["diffusivity"], alone.parameters["diffusivity"])
    assert len(set(batch.parameters["diffusivity"][:, 0].tolist())) == 5


def test_parameters_are_of_each_row(tmp_path):
    options = {"env_kwargs": SMALL, "num_workers": 0, "samples": 60, "max_steps": 10, "parameters": "sobol"}
    made = [physgym.generate(HEAT, tmp_path / f"{rows}", num_envs=rows, **options) for rows in (1, 4)]
    assert digest(tmp_path / "1") == digest(tmp_path / "4")
    assert len(np.unique(made[1].parameters["diffusivity"])) == 6
    assert np.array_equal(
        made[1].read(0, 60)["diffusivity"][::10, 0, :1], np.float32(made[1].parameters["diffusivity"])
    )


def test_rejected_rows_and_rows_with_nan_are_those_of_their_episodes(tmp_path):
    options = {"num_workers": 0, "actions": milder, "keep_rejected": True, "nonfinite": "reject", "max_rejects": 50}
    found = []
    for rows in (1, 3):
        made = physgym.generate(Counting, tmp_path / f"{rows}", samples=40, num_envs=rows, **options)
        assert np.isin(made.read(0, 40)["action"], [0, 1, 2]).all()
        rejected = made.rejected
        found.append(list(zip(rejected.episode, rejected.step, rejected.reasons, strict=True)))
        assert set(rejected.reasons) == {"nine", "x not finite"}
    assert found[0] == found[1]


@pytest.mark.slow
def test_nan_and_too_many_rejected_steps_are_named(tmp_path):
    with pytest.raises(SampleError, match=r"episode 0, step \d+: info\[\"sample\"\]\['x'\] holds 2 non-finite values"):
        physgym.generate(Counting, tmp_path / "n", samples=30, num_envs=3, num_workers=0, actions=lambda o, r: 8)
    with pytest.raises(SampleError, match=r"2 steps in a row gave no valid sample .* nine"):
        physgym.generate(
            Counting, tmp_path / "r", samples=30, num_envs=3, num_workers=0, actions=lambda o, r: 9, max_rejects=2
        )


@pytest.mark.slow
def test_a_generation_is_continued(tmp_path):
    options = {"env_kwargs": SMALL, "num_workers": 0}
    physgym.generate(HEAT, tmp_path / "whole", samples=150, num_envs=4, **options)
    physgym.generate(HEAT, tmp_path / "parts", samples=37, num_envs=4, **options)
    physgym.generate(HEAT, tmp_path / "parts", samples=150, num_envs=3, resume=True, **options)
    whole, parts = (physgym.SampleDataset(tmp_path / name).read(0, 150) for name in ("whole", "parts"))
    for name, column in whole.items():
        assert np.array_equal(column, parts[name])


def test_samples_are_drawn_some_at_a_time():
    options = {"env_kwargs": SMALL, "num_workers": 0, "num_envs": 4}
    with SampleStream(HEAT, **options) as stream, SampleStream(HEAT, **options) as other:
        whole = stream.draw(120)["source"]
        other.expect(120)
        parts = [other.draw(count)["source"] for count in (1, 7, 32, 80)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_rows_that_may_depend_on_each_other_give_no_dataset(tmp_path):
    for kind, text in ((Entangled, "does not declare that its rows are independent"), (CountingSame, "autoreset mode")):
        with pytest.raises((ConfigError, SampleError), match=text):
            physgym.generate(kind, tmp_path / kind.__name__, samples=5, num_envs=2, num_workers=0)


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path):
    options = {"env_kwargs": SMALL, "samples": 200}
    physgym.generate(HEAT, tmp_path / "here", num_workers=0, num_envs=3, **options)
    physgym.generate(HEAT, tmp_path / "two", num_workers=2, num_envs=10, **options)
    assert digest(tmp_path / "here") == digest(tmp_path / "two")
    with (
        listening(tmp_path, plain=True, envs=[HEAT]) as reception,
        workers(settings_for(reception, tmp_path, envs=[HEAT], count=6)),
    ):
        physgym.generate(HEAT, tmp_path / "elsewhere", launcher=reception, **options)
    assert digest(tmp_path / "here") == digest(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_batch_that_raises_is_started_again(tmp_path):
    with pytest.raises(ZeroDivisionError, match=r"rollout of episode 0 and those after it \(row 0 at"):
        physgym.generate(COUNTING, tmp_path / "d", samples=30, num_envs=3, actions=lambda o, r: 7)


class Rounded(Counting):
    """The same, whose rows would be equal up to rounding."""

    metadata = {**Counting.metadata, "physgym.rows": "rounded"}  # noqa: RUF012


class Loaded(Counting):
    """The same, driven by stored samples."""

    def load_sample(self, sample):
        return int(sample["action"][0])


def test_rows_that_are_rounded_are_counted_and_another_number_is_said(tmp_path, recwarn):
    options = {"num_workers": 0, "actions": acting}
    made = physgym.generate(Rounded, tmp_path, samples=20, num_envs=3, **options)
    assert made.attributes["rows"] == "3 in 1 batch"
    physgym.generate(Rounded, tmp_path, samples=30, num_envs=3, resume=True, **options)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"computed by 3 in 1 batch, those that follow by 2 in 1 batch") as said:
        physgym.generate(Rounded, tmp_path, samples=40, num_envs=2, resume=True, **options)
    assert len(said) == 1


@pytest.mark.slow
def test_rows_that_stored_samples_drive_are_computed_one_by_one_which_is_said(tmp_path):
    stored = physgym.generate(Loaded, tmp_path / "a", samples=20, num_envs=3, num_workers=0, actions=acting)
    with pytest.warns(UserWarning, match="one row, which is right and slow"):
        again = physgym.generate(Loaded, tmp_path / "b", num_envs=2, num_workers=0, samples=20, load=stored)
    assert np.array_equal(again.read(0, 20)["action"], stored.read(0, 20)["action"])


class Squeezed(Counting):
    """The same, whose samples are those of its first row: as many numbers as a field has."""

    def step(self, actions):
        *others, infos = super().step(actions)
        infos["sample"]["x"] = infos["sample"]["x"][0]
        return *others, infos


@pytest.mark.parametrize("nonfinite", ["error", "reject"])
def test_values_without_a_row_for_each_row_are_an_error(tmp_path, nonfinite):
    options = {"num_workers": 0, "nonfinite": nonfinite, "actions": acting}
    with pytest.raises(SampleError, match=r"infos\['sample'\]\['x'\] has shape \(2,\); its first axis .* are 3"):
        physgym.generate(Squeezed, tmp_path, samples=5, num_envs=3, **options)
