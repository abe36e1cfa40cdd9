"""Parts of a dataset, selected from the index of episodes in portions, against all of it in memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from physgym.data import episode_index, row_reader, row_selection
from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import PARTS, EpisodeSplit
from physgym.data.episode_split import chosen_episodes, held_out
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.loading.batching import StackedSampler
from physgym.loading.loader import Loader
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), np.dtype("f8"), "input")])
SPLIT = EpisodeSplit(0.7, 0.2, 0.1, seed=5)


@pytest.fixture(autouse=True)
def small_portions(monkeypatch):
    monkeypatch.setattr(episode_index, "PORTION", 37)
    monkeypatch.setattr(episode_index, "KEPT", 60)
    monkeypatch.setattr(row_selection, "FEW", 40)


def stored(folder, episodes, *, most=10**9):
    """A dataset whose x is the number of the row."""
    episodes = np.asarray(episodes)
    with SampleWriter(folder, SPEC, max_file_size=most) as writer:
        steps = np.zeros(len(episodes), np.int64)
        for episode in np.unique(episodes):
            steps[episodes == episode] = np.arange(np.count_nonzero(episodes == episode))
        x = np.arange(len(episodes), dtype="f8")
        writer.append({"x": x}, episode=episodes, step=steps, seed=episodes.astype("u8"))
    return SampleDataset(folder)


RNG = np.random.default_rng(2)
EPISODES = {
    "of several steps": np.repeat(np.arange(60), RNG.integers(1, 9, 60)),
    "of one step": np.arange(400),
    "with gaps": np.repeat(np.sort(RNG.permutation(300)[:80]), 3),
    "in turn": np.tile(np.arange(8), 30),
    "not in order": RNG.permutation(np.repeat(np.arange(50), 4)),
}


def rows_of(dataset):
    return dataset[:]["x"].astype(int)


@pytest.mark.parametrize(
    ("name", "most"), [*((name, 10**9) for name in EPISODES), ("of one step", 20_000), ("not in order", 20_000)]
)
def test_parts_are_those_of_all_episodes_in_memory(tmp_path, name, most):
    dataset = stored(tmp_path / "data", EPISODES[name], most=most)
    chosen = held_out(dataset.episodes, 0.3, 7)
    for part, flags in zip(dataset.split(0.3, 7), (~chosen, chosen), strict=True):
        np.testing.assert_array_equal(rows_of(part), np.flatnonzero(flags))
    label = SPLIT.parts(dataset.original_episodes)
    for number, part in enumerate(PARTS):
        np.testing.assert_array_equal(rows_of(dataset.part(part, SPLIT)), np.flatnonzero(label == number))


@pytest.mark.parametrize("name", EPISODES)
def test_parts_of_parts_and_of_several_folders(tmp_path, name):
    stored(tmp_path / "a", EPISODES[name])
    stored(tmp_path / "b", EPISODES["with gaps"], most=20_000)
    both = SampleDataset([tmp_path / "a", tmp_path / "b"])
    shuffled = both.subset(np.random.default_rng(0).permutation(len(both))[: len(both) // 2])
    for dataset in (both, both.part("training", SPLIT), shuffled):
        chosen = held_out(dataset.episodes, 0.25, 1)
        rows = dataset.stored_rows(np.arange(len(dataset)))
        for part, flags in zip(dataset.split(0.25, 1), (~chosen, chosen), strict=True):
            np.testing.assert_array_equal(part.stored_rows(np.arange(len(part))), rows[flags])
            np.testing.assert_array_equal(part.index("episode"), dataset.index("episode")[flags])
            np.testing.assert_array_equal(part.episodes, np.unique(dataset.episodes[flags], return_inverse=True)[1])


def test_all_that_reads_a_part_reads_the_same_samples(tmp_path):
    dataset = stored(tmp_path / "data", np.repeat(np.arange(100), 4), most=20_000)
    part = dataset.part("training", SPLIT)
    rows = rows_of(part)
    copy = pickle.loads(pickle.dumps(part))  # noqa: S301 - as to a worker of a DataLoader
    np.testing.assert_array_equal(rows_of(copy), rows)
    np.testing.assert_array_equal([sample["x"] for sample in part], rows)
    np.testing.assert_array_equal(part[[5, 3, -1 % len(part)]]["x"], rows[[5, 3, -1]])
    for shuffle in ("random", "window", False):
        options = {"shuffle": shuffle, "seed": 4, "block": 64, "window": 512}
        seen = [np.concatenate([b["x"] for b in Loader(part, 16, **options, rank=i, world_size=2)]) for i in range(2)]
        assert sorted(np.concatenate(seen).astype(int).tolist()) == rows[: len(rows) // 2 * 2].tolist() or shuffle
        assert set(np.concatenate(seen).astype(int)) <= set(rows.tolist())
        assert len(set(np.concatenate(seen).tolist())) == len(rows) // 2 * 2
    listed = dataset.subset(rows)  # the same rows as a list
    for places in StackedSampler(part, 50, seed=3):
        np.testing.assert_array_equal(part.gather(places)["x"], listed.gather(places)["x"])
    ours, theirs = (one.windows(inputs=2) for one in (part, listed))
    for places in (np.arange(len(ours)), np.arange(len(ours))[::-3]):
        np.testing.assert_array_equal(ours.gather(places)["x"], theirs.gather(places)["x"])
    assert part.statistics["x"].mean == pytest.approx(rows.mean())


def test_a_part_stays_the_same_where_its_dataset_grows(tmp_path):
    stored(tmp_path / "data", np.repeat(np.arange(30), 5))
    dataset = SampleDataset(tmp_path / "data")
    part, rows = dataset.part("training", SPLIT), None
    rows = rows_of(part)
    with SampleWriter(tmp_path / "data", SPEC, resume=True) as writer:
        episode = np.repeat(np.arange(30, 40), 5)
        x = np.zeros(len(episode))
        writer.append({"x": x}, episode=episode, step=np.tile(np.arange(5), 10), seed=episode.astype("u8"))
    assert part.refresh() == 0
    np.testing.assert_array_equal(rows_of(part), rows)
    assert dataset.refresh() == 50


def test_the_episodes_that_are_held_out_are_those_of_earlier_versions():
    for count in (2, 70_000):
        order = np.random.default_rng(9).permutation(count)
        np.testing.assert_array_equal(
            np.flatnonzero(chosen_episodes(count, 0.4, 9)), np.sort(order[: round(0.4 * count)])
        )


def test_a_part_without_episodes_says_of_how_many(tmp_path):
    dataset = stored(tmp_path / "data", np.repeat(np.arange(2), 3))
    with pytest.raises(ConfigError, match=r"none of the 2 that are here"):
        dataset.part("test", EpisodeSplit(0.99, 0.0, 0.01))
    nothing = dataset.subset([])
    with pytest.raises(ConfigError, match=r"none of the 0 that are here"):
        nothing.part("test", SPLIT)
    with pytest.raises(ConfigError, match="this dataset has 0"):
        nothing.split(0.5)


@pytest.mark.parametrize("block", [1, 30, 400])
def test_rows_that_lie_close_together_are_read_together(tmp_path, monkeypatch, block):
    dataset = stored(tmp_path / "data", np.arange(400), most=20_000)
    calls = []
    whole = Partition.read_runs
    monkeypatch.setattr(Partition, "read_runs", lambda self, *a: (calls.extend(a[1]), whole(self, *a))[1])
    for part in (dataset.part("training", SPLIT), dataset.part("test", SPLIT)):
        rows = part.stored_rows(np.arange(len(part)))
        calls.clear()
        for start in range(0, len(part), block):
            stop = min(start + block, len(part))
            np.testing.assert_array_equal(part.read(start, stop)["x"], rows[start:stop])
        assert len(calls) <= -(-len(part) // block) + len(dataset.partitions)


def test_rows_are_read_together_up_to_a_length(tmp_path, monkeypatch):
    dataset, calls = stored(tmp_path / "data", np.arange(400)), []
    whole = Partition.read_runs
    monkeypatch.setattr(Partition, "read_runs", lambda self, *a: (calls.extend(a[1]), whole(self, *a))[1])
    monkeypatch.setattr(row_reader, "JOINED", 16)  # two rows
    monkeypatch.setattr(row_reader, "LONG", 80)
    some = np.array([0, 1, 2, 5, 9, 10, 11, 12, 13, 30, 399])
    np.testing.assert_array_equal(dataset.subset(some)[:]["x"], some)
    assert calls == [(0, 6), (9, 10), (10, 14), (30, 31), (399, 400)]
    mixed = np.array([5, 3, 3, 399, 4, 0])
    np.testing.assert_array_equal(dataset.subset(mixed)[:]["x"], mixed)
