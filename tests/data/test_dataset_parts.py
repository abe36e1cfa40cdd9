import pickle

import numpy as np
import pytest

from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import PARTS, EpisodeSplit
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), "float64", "input", "m"), Field("y", (), "float64", "target", "m")])
STEPS = 3  # of an episode
TENTHS = {"training": 0.8, "validation": 0.1, "test": 0.1}
SPLIT = EpisodeSplit(**TENTHS, seed=3)


def stored(path, episodes, mode="training", *, resume=False, first=0):
    """A dataset whose x is the number of the episode, y that of the row."""
    episode = np.repeat(np.arange(first, episodes), STEPS)
    with SampleWriter(path, SPEC, mode=mode, resume=resume) as writer:
        writer.append(
            {"x": episode.astype("f8"), "y": np.arange(len(episode), dtype="f8")},
            episode=episode,
            step=np.tile(np.arange(STEPS), episodes - first),
            seed=episode.astype("u8"),
        )
        writer.close(seal=not resume)
    return SampleDataset(path)


def in_part(dataset):
    return sorted(set(dataset.index("episode").tolist()))


def test_every_block_has_exactly_its_parts():
    for fractions, block in ((TENTHS, 10), ({"training": 0.7, "validation": 0.15, "test": 0.15}, 20)):
        split = EpisodeSplit(**fractions, seed=1)
        parts = split.parts(np.arange(5 * block)).reshape(5, block)
        for number, part in enumerate(PARTS):
            assert ((parts == number).sum(1) == round(fractions[part] * block)).all()
        assert len({tuple(row) for row in parts.tolist()}) > 1  # each block is drawn for itself
    thirds = EpisodeSplit(1 / 3, 1 / 3, 1 / 3).parts(np.arange(9)).reshape(3, 3)
    assert (np.sort(thirds, axis=1) == [0, 1, 2]).all()
    assert np.bincount(EpisodeSplit(0.333, 0.333, 0.334).parts(np.arange(30))).tolist() == [10, 10, 10]


def test_the_part_of_an_episode_follows_from_its_number_and_the_seed_alone():
    whole = SPLIT.parts(np.arange(1000))
    chosen = np.random.default_rng(0).permutation(1000)[:77]
    np.testing.assert_array_equal(SPLIT.parts(chosen), whole[chosen])
    np.testing.assert_array_equal(SPLIT.parts(np.arange(12)), whole[:12])  # before it grew
    assert (EpisodeSplit(**TENTHS, seed=4).parts(np.arange(1000)) != whole).any()
    # as in every version from here on: what one of them tests no other one trains on
    assert np.flatnonzero(whole[:60] == 2).tolist() == [7, 17, 27, 31, 44, 57]
    where = np.flatnonzero(whole == 2) % 10
    assert len(np.unique(where)) == 10  # any place within a block


def test_a_split_is_read_from_its_text_and_its_data():
    assert EpisodeSplit.of(str(SPLIT)) == EpisodeSplit.of(SPLIT.to_json()) == EpisodeSplit.of(SPLIT) == SPLIT
    assert str(SPLIT) == "training=0.8 validation=0.1 test=0.1 seed=3"
    assert EpisodeSplit.of("training=0.9, test=0.1") == EpisodeSplit(0.9, 0, 0.1)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"training": 0.8, "test": 0.1}, "add up to 0.9"),
        ({"training": 0, "test": 1.0}, "something to train on"),
        ({"training": 1.2, "test": -0.2}, "the training part must be a fraction"),
        ({"training": 0.9999, "test": 0.0001}, "take hundredths"),
        ({"train": 0.9, "test": 0.1}, "a split is fractions by part"),
        ("nine to one", "a split is fractions by part"),
        ({"training": 0.9, "test": 0.1, "seed": -1}, "seed"),
    ],
)
def test_what_is_no_split_is_refused(given, text):
    with pytest.raises(ConfigError, match=text):
        EpisodeSplit.of(given)


def test_parts_of_a_dataset(tmp_path):
    dataset = stored(tmp_path / "data", 30)
    parts = {part: dataset.part(part, SPLIT) for part in PARTS}
    assert [len(parts[part]) for part in PARTS] == [24 * STEPS, 3 * STEPS, 3 * STEPS]
    assert sorted(episode for part in parts.values() for episode in in_part(part)) == list(
        range(30)
    )  # each in one of them
    training = parts["training"]
    assert training.episode_split == SPLIT
    assert in_part(training.part("training")) == in_part(training)  # which it is already
    assert training.statistics["x"].mean == pytest.approx(np.mean(in_part(training)))
    with pytest.raises(ConfigError, match=r"the test part has no samples: the split training=0\.8 .* 10 episodes"):
        training.part("test")
    with pytest.raises(ConfigError, match="has no test part: generate one"):
        dataset.part("test")
    assert dataset.part("training") is dataset
    with pytest.raises(ConfigError, match=r"part must be one of .*, not 'holdout'"):
        dataset.part("holdout", SPLIT)


def test_a_dataset_that_grows_keeps_its_parts(tmp_path):
    before = in_part(stored(tmp_path / "data", 13, resume=True).part("test", SPLIT))
    after = in_part(stored(tmp_path / "data", 40, resume=True, first=13).part("test", SPLIT))
    assert [episode for episode in after if episode < 13] == before
    assert len(after) == 4


def test_a_split_is_recorded_in_the_dataset(tmp_path):
    path = tmp_path / "data"
    stored(path, 20)
    surgery.describe(path, {"split": "training=.8, validation=.1, test=0.1 seed=3"})
    dataset = SampleDataset(path)
    assert dataset.metadata["split"] == str(SPLIT)
    assert dataset.episode_split == SPLIT
    assert in_part(dataset.part("test")) == in_part(dataset.part("test", SPLIT)) != []
    with pytest.raises(ConfigError, match=r"records the split .* seed=3, which is not .* seed=0"):
        dataset.part("test", TENTHS)
    with pytest.raises(ConfigError, match=r"add up to 0\.9"):
        surgery.describe(path, {"split": "training=0.8 test=0.1"})
    # two that are read as one have the same, and two that are merged keep it by the numbers that episodes had
    surgery.rename(path, "y", "z", tmp_path / "other")
    surgery.rename(tmp_path / "other", "z", "y", tmp_path / "second")
    both = SampleDataset([path, tmp_path / "second"])
    assert len(both.part("test")) == 2 * len(dataset.part("test"))
    surgery.merge([path, tmp_path / "second"], tmp_path / "merged")
    merged = SampleDataset(tmp_path / "merged").part("test")
    assert set(merged.gather(np.arange(len(merged)))["x"].tolist()) == set(in_part(dataset.part("test")))
    assert len(merged) == len(both.part("test"))
    stored(tmp_path / "plain", 20)
    with pytest.raises(ConfigError, match="the folders record different splits"):
        SampleDataset([path, tmp_path / "plain"]).part("test")


def test_parts_that_were_generated_come_first(tmp_path):
    dataset = stored(tmp_path / "data", 10)
    stored(tmp_path / "data", 4, mode="test")
    assert len(dataset.part("test")) == 4 * STEPS
    assert dataset.part("test").mode == "test"
    assert dataset.part("test").part("training").mode == "training"
    with pytest.raises(ConfigError, match=r"has a test part that was generated, and the split .* makes another one"):
        dataset.part("training", SPLIT)
    assert len(dataset.part("validation", EpisodeSplit(0.9, 0.1))) == STEPS
    with pytest.raises(ConfigError, match="samples were selected; take the test part of the whole dataset"):
        dataset.subset(np.arange(5)).part("test")


def test_windows_have_the_parts_of_their_dataset(tmp_path):
    windows = stored(tmp_path / "data", 20).windows(2, 1, feedback="y -> x")
    test = windows.part("test", SPLIT)
    assert in_part(test) == in_part(windows.dataset.part("test", SPLIT))
    with pytest.raises(ConfigError, match="windows were selected"):
        windows.subset(np.arange(3)).part("test", SPLIT)


def test_a_part_of_another_mode_follows_the_split(tmp_path):
    """Opened by what was generated for the test, the training part has no episode of the validation part."""
    stored(tmp_path / "d", 20)
    stored(tmp_path / "d", 3, mode="test")
    split = EpisodeSplit(0.9, 0.1)
    test, whole = SampleDataset(tmp_path / "d", "test"), SampleDataset(tmp_path / "d")
    for given in (split, None):
        if given is None:  # what is recorded holds too
            surgery.describe(tmp_path / "d", {"split": str(split)})
            test = SampleDataset(tmp_path / "d", "test")
        for name in ("training", "validation"):
            assert in_part(test.part(name, given)) == in_part(whole.part(name, split))
        assert test.part("test", given) is test


def test_a_part_that_was_sent_to_another_process_knows_its_split(tmp_path):
    part = stored(tmp_path / "d", 20).part("validation", SPLIT)
    again = pickle.loads(pickle.dumps(part))  # noqa: S301 - our own
    assert again.episode_split == SPLIT
    assert in_part(again.part("validation")) == in_part(part)
    with pytest.raises(ConfigError, match="the training part has no samples"):
        again.part("training")
