"""The order and the time of stored samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec
from physgym.scene.timeline import Timeline, timeline_of
from tests.support.datasets import write

TIME = SampleSpec([Field("x", (), np.dtype("f8"), "input"), Field("time", (), np.dtype("f8"), "additional", "s")])


def timeline(episode, step, time=None, **changes) -> Timeline:
    n, step = len(step), np.array(step)
    zeros = np.zeros(n, np.int64)
    times, unit = (step + 1.0, "steps") if time is None else (np.array(time), "s")
    made = Timeline(np.arange(n), zeros, np.array(episode), step, times, zeros.astype(bool), unit)
    return dataclasses.replace(made, **changes)


def names(found: Timeline) -> list[tuple[int, int]]:
    return list(zip(found.episode.tolist(), found.step.tolist(), strict=True))


def test_samples_stand_in_the_order_of_episodes_and_steps(tmp_path):
    writer = SampleWriter(tmp_path / "data", TIME)
    episode, step = np.array([1, 0, 1, 0, 0]), np.array([1, 2, 0, 0, 5])
    time = np.array([0.4, 0.9, 0.1, 0.3, 2.0])
    writer.append({"x": time, "time": time}, episode=episode, step=step, seed=episode.astype("u8"))
    writer.close()
    found = timeline_of(SampleDataset(tmp_path / "data"))
    assert names(found) == [(0, 0), (0, 2), (0, 5), (1, 0), (1, 1)]
    assert (found.unit, found.time.tolist()) == ("s", [0.3, 0.9, 2.0, 0.1, 0.4])
    assert found.rows.tolist() == [3, 1, 4, 2, 0]
    assert found.begins.tolist() == [0, 3, 5]


def test_a_sample_lasts_until_the_next_one_and_the_last_one_as_long_as_most():
    found = timeline([0, 0, 0, 7, 7], [0, 1, 2, 0, 1], [0.5, 1.0, 3.0, 0.5, 1.0])
    np.testing.assert_allclose(np.diff(found.clock), [0.5, 2.0, 0.5, 0.5, 0.5])
    assert [found.at(clock) for clock in (-1, 0, 0.49, 0.5, 2.6, 3.9, 99)] == [0, 0, 0, 1, 2, 4, 4]
    single = timeline([0, 1, 2], [0, 0, 0], [0.25, 0.25, 0.25])
    np.testing.assert_allclose(single.clock, [0, 0.25, 0.5, 0.75])


def test_without_seconds_steps_are_the_time(tmp_path, caplog):
    write(tmp_path / "data", 12)
    found = timeline_of(SampleDataset(tmp_path / "data"))
    assert (found.unit, found.typical) == ("steps", 1.0)
    assert names(found)[4:6] == [(0, 4), (1, 0)]


def test_a_time_that_goes_back_is_said_and_steps_are_shown(tmp_path, caplog):
    writer = SampleWriter(tmp_path / "data", TIME)
    time = np.array([0.4, 0.2])
    writer.append({"x": time, "time": time}, episode=np.zeros(2, int), step=np.arange(2), seed=np.zeros(2, "u8"))
    writer.close()
    assert timeline_of(SampleDataset(tmp_path / "data")).unit == "steps"
    assert "goes back" in caplog.text


def test_rejected_samples_stand_at_their_steps(tmp_path):
    writer = SampleWriter(tmp_path / "data", TIME, rejected=True)
    bad = {"x": np.array([np.nan, np.inf]), "time": np.array([np.nan, np.nan])}
    where = {"episode": np.array([0, 0]), "step": np.array([1, 4]), "seed": np.zeros(2, "u8")}
    writer.add_rejected(bad, ["diverged", "too stiff"], **where)
    time = np.array([0.5, 1.5, 2.0])
    steps = np.array([0, 2, 3])
    writer.append({"x": time, "time": time}, episode=np.zeros(3, int), step=steps, seed=np.zeros(3, "u8"))
    writer.close()
    dataset = SampleDataset(tmp_path / "data")
    assert len(timeline_of(dataset)) == 3
    found = timeline_of(dataset, rejected=True)
    assert found.step.tolist() == [0, 1, 2, 3, 4]
    assert found.rejected.tolist() == [False, True, False, False, True]
    assert found.rows.tolist() == [0, 0, 1, 2, 1]
    np.testing.assert_allclose(found.time, [0.5, 1.0, 1.5, 2.0, 2.5])  # between, and on with the mean step


def test_rejected_samples_that_were_not_kept_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="keep-rejected"):
        timeline_of(write(tmp_path / "data", 5), rejected=True)


def test_several_folders_follow_one_another(tmp_path):
    write(tmp_path / "a", 7)
    write(tmp_path / "b", 6)
    found = timeline_of(SampleDataset([tmp_path / "a", tmp_path / "b"]))
    assert found.folder.tolist() == [0] * 7 + [1] * 6
    assert found.begins.tolist() == [0, 5, 7, 12, 13]
    with pytest.raises(ConfigError, match="several folders have an episode 1"):
        found.find(1)


def test_steps_and_samples_are_found_by_name():
    found = timeline([0, 0, 3, 3], [0, 2, 0, 1], rows=np.array([2, 0, 1, 3]))
    assert (found.find(3), found.find(0, 2), found.of_sample(1)) == (2, 1, 2)
    with pytest.raises(ConfigError, match="no episode 1; there are 0, 3"):
        found.find(1)
    with pytest.raises(ConfigError, match="episode 0 has no step 1; it has 0, 2"):
        found.find(0, 1)
    with pytest.raises(ConfigError, match="no sample 4; there are 4, from 0"):
        found.of_sample(4)
    with pytest.raises(ConfigError, match="must not be negative"):
        found.of_sample(-1)


def test_episodes_are_chosen_and_dealt_in_turn():
    found = timeline([0, 0, 3, 4, 4, 6], [0, 1, 0, 0, 1, 0])
    assert names(found.select([4, 0])) == [(0, 0), (0, 1), (4, 0), (4, 1)]
    one, other = found.deal(2)
    assert names(one) == [(0, 0), (0, 1), (4, 0), (4, 1)]
    assert names(other) == [(3, 0), (6, 0)]
    with pytest.raises(ConfigError, match="5 episodes at once of 4 chosen ones; show fewer, or choose more"):
        found.deal(5)
