"""Labels of recorded steps: next to the dataset, by episode and step, and what is imitated of it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import physgym
from physgym import SampleDataset
from physgym.cli import app
from physgym.data.labels import Label, Labels, apply_labels
from physgym.envs.track import Track
from physgym.errors import ConfigError, DatasetError
from physgym.storage.location import place
from tests.support.toys import Line


@pytest.fixture
def recorded(tmp_path):
    """Two episodes of six steps."""
    env = physgym.Recorder(
        gymnasium.wrappers.TimeLimit(Track(observation="state", tracks=(1, 2)), 6), tmp_path / "data", infos=["cte"]
    )
    for seed in range(2):
        env.reset(seed=seed)
        for step in range(6):
            env.step(np.array([0.1 * step, 0.5], np.float32))
    env.close()
    return SampleDataset(tmp_path / "data")


def test_labels_are_kept_next_to_the_rows_which_stay_as_they_are(recorded):
    before = [part.path.read_bytes() for part in recorded.partitions]
    labels = Labels(recorded)
    labels.judge([(0, 1), (0, 2)], "bad")
    labels.judge([(1, 0)], "good")
    labels.correct([(0, 2)], [0.25, -0.5])
    assert [part.path.read_bytes() for part in recorded.partitions] == before
    again = Labels(SampleDataset(recorded.paths[0]))
    assert list(again) == [(0, 1), (0, 2), (1, 0)]
    assert again.of(0, 1) == Label("bad")
    assert str(again.of(0, 2)) == "bad, right: [0.25, -0.5]"
    assert again.of(1, 1) is None
    again.forget([(0, 1), (1, 0), (1, 5)])
    assert list(Labels(recorded)) == [(0, 2)]
    assert len(SampleDataset(recorded.paths[0])) == len(recorded)


def test_what_is_imitated_has_no_bad_steps_and_the_right_actions(recorded, tmp_path):
    labels = Labels(recorded)
    labels.judge([(0, 1), (0, 2), (1, 3)], "bad")
    labels.correct([(0, 2)], [0.25, -0.5])
    labels.judge([(1, 4)], "good")
    made = apply_labels(recorded.paths[0], tmp_path / "out")
    assert len(made) == 10  # of twelve that acted
    assert made.spec["action"].role == "target"
    assert made.spec["observation"].role == "input"
    assert made.spec["observation"].feeds == ""
    assert "acted" not in made.spec
    assert made.source["labelled"]["left_out"] == 2
    assert made.source["labelled"]["source"] == recorded.source
    names = list(zip(made.index("episode").tolist(), made.index("step").tolist(), strict=True))
    assert names == [(0, 0), *((0, step) for step in range(2, 6)), (1, 0), (1, 1), (1, 2), (1, 4), (1, 5)]
    rows = made.read(0, 10, ["action", "observation", "info/cte"])
    np.testing.assert_array_equal(rows["action"][1], np.array([0.25, -0.5], np.float32))
    np.testing.assert_allclose(rows["action"][2:4, 0], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(rows["observation"][1], recorded[2]["observation"])
    app(["data", "imitate", str(recorded.paths[0]), "--out", str(tmp_path / "other")], standalone_mode=False)
    assert SampleDataset(tmp_path / "other").partitions[0].checksum == made.partitions[0].checksum


def test_wrong_labels_are_refused(recorded, tmp_path):
    labels = Labels(recorded)
    for wrong in ([0.1], [0.1, np.nan], "left", {"steer": [0, 0]}, [0.1, 1.5]):
        with pytest.raises(ConfigError, match="action"):
            labels.correct([(0, 0)], wrong)
    with pytest.raises(ConfigError, match="verdict"):
        labels.judge([(0, 0)], "fine")
    with pytest.raises(ConfigError, match="step"):
        labels.judge([(0, -1)], "bad")
    other = Labels(recorded)
    labels.judge([(0, 0)], "bad")
    with pytest.raises(DatasetError, match="changed by somebody else"):
        other.judge([(0, 1)], "bad")
    Labels(recorded).judge([(7, 0)], "bad")
    with pytest.raises(DatasetError, match=r"that the dataset does not have, such as \[\(7, 0\)\]"):
        apply_labels(recorded.paths[0], tmp_path / "out")
    labels.file.write_text('{"format": "another"}')
    with pytest.raises(DatasetError, match="holds no labels of this physgym"):
        Labels(recorded)
    labels.file.unlink()
    everything = Labels(recorded)
    everything.judge([(episode, step) for episode in range(2) for step in range(6)], "bad")
    with pytest.raises(ConfigError, match=r"no step of .* is left"):
        apply_labels(recorded.paths[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_recordings_of_actions_are_labelled(tmp_path):
    made = physgym.generate(Line, tmp_path / "line", samples=4, num_workers=0, progress=False)
    with pytest.raises(ConfigError, match="has no field 'action'"):
        Labels(made)
    with pytest.raises(ConfigError, match="one folder at a time"):
        Labels(SampleDataset([tmp_path / "line", tmp_path / "line"]))


def test_choices_are_labelled_as_integers(tmp_path):
    env = physgym.Recorder(gymnasium.make("CartPole-v1"), tmp_path / "data")
    env.reset(seed=0)
    env.step(1)
    env.close()
    labels = Labels(SampleDataset(tmp_path / "data"))
    labels.correct([(0, 0)], 0.0)
    assert apply_labels(tmp_path / "data", tmp_path / "out")[0]["action"] == 0
    with pytest.raises(ConfigError, match="int64"):
        labels.correct([(0, 0)], 0.5)
    with pytest.raises(ConfigError, match="action is between 0 and 1 in this recording, not 2"):
        labels.correct([(0, 0)], 2)


def test_labels_of_what_is_in_s3_would_be_lost(recorded, monkeypatch):
    monkeypatch.setattr(SampleDataset, "places", property(lambda dataset: [place("s3://bucket/recorded")]))
    with pytest.raises(ConfigError, match="is no folder; get a copy"):
        Labels(recorded)
