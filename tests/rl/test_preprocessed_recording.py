"""A recording that is preprocessed afterwards is the one that was made within the wrappers."""

from __future__ import annotations

import numpy as np
import pytest

import physgym
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.rl import Preprocessing, TransitionCache, preprocess_recording
from physgym.rl.recordings import recorded_spaces
from tests.rl.test_preprocessing import BINS, CROP, GREY, Road, drive

REWARD = {"type": "InfoReward", "arguments": {"centre": 0.7, "backwards": -0.3}}
STEPS = [CROP, GREY, BINS, REWARD]
INFOS = ["cte", "distance", "hit"]


@pytest.fixture
def raw(tmp_path):
    """Record the same steps outside of the wrappers, and inside of them."""
    preprocessing = Preprocessing(STEPS)
    for name, env in (
        ("raw", preprocessing.wrap(physgym.Recorder(Road(), tmp_path / "raw", infos=INFOS, nonfinite="allow"))),
        ("within", physgym.Recorder(preprocessing.wrap(Road()), tmp_path / "within", infos=INFOS, nonfinite="allow")),
    ):
        drive(env, seeds=range(8))
        env.close()
        assert (tmp_path / name).is_dir()
    return tmp_path / "raw"


def test_it_is_what_would_have_been_recorded_within_the_wrappers(raw, tmp_path):
    made = preprocess_recording(raw, tmp_path / "made", STEPS, every=30)
    within = physgym.SampleDataset(tmp_path / "within")
    assert made.spec == within.spec
    assert list(made.spec) == list(within.spec)
    assert len(made) == len(within) == 8 * 8
    assert len(made.partitions) == 3
    for name, value in within[:].items():
        np.testing.assert_array_equal(made[:][name], value)
    for name in ("episode", "step", "seed", "env"):
        np.testing.assert_array_equal(made.index(name), within.index(name))
    assert recorded_spaces(made) == recorded_spaces(within)
    assert made.source["preprocessing"] == Preprocessing(STEPS).config
    for recording in (made, within, raw):  # a cache finds out which of them is to be preprocessed
        cache = TransitionCache(recording, *Preprocessing(STEPS).spaces(Road.observation_space, Road.action_space),
                                preprocessing=STEPS, stack=2)  # fmt: skip
        batch = cache.transitions(np.arange(len(cache)), 0.9)
        np.testing.assert_array_equal(batch.reward, within[:]["reward"][within[:]["acted"]].astype(np.float32))
        np.testing.assert_array_equal(
            batch.observation["observation"][:, -1], within[:]["observation"][within[:]["acted"]]
        )


@pytest.mark.slow
def test_what_cannot_be_preprocessed_leaves_nothing(raw, tmp_path):
    made = tmp_path / "made"
    with pytest.raises(SampleError, match="recorded action"):
        preprocess_recording(raw, made, [CROP, {"type": "DiscretizeAction", "arguments": {"bins": [3, 2]}}])
    with pytest.raises(ConfigError, match="RepeatAction works on the steps"):
        preprocess_recording(raw, made, [{"type": "RepeatAction", "arguments": {"num_repeats": 2}}])
    assert not made.exists()
    with pytest.raises(ConfigError, match="write it to a folder"):
        preprocess_recording(raw, "s3://bucket/made", STEPS)
    with pytest.raises(DatasetError, match="is there already"):
        preprocess_recording(raw, raw, STEPS)
    physgym.generate("physgym/Spring-v0", tmp_path / "spring", samples=5, num_workers=0, progress=False)
    with pytest.raises(ConfigError, match="is no recording"):
        preprocess_recording(tmp_path / "spring", made, STEPS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "spring", "within"]
