"""Importing arrays: which rows are one episode is said, or what was assumed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.description import Description
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats.numpy_arrays import import_numpy

SERIES = np.sin(np.arange(103) / 7).astype("f4")
WINDOWS = np.lib.stride_tricks.sliding_window_view(SERIES, 4)  # (100, 4)
EPISODES = np.arange(100) // 10


def test_overlapping_windows_without_episodes_are_named(tmp_path, caplog):
    dataset = import_numpy({"window": WINDOWS, "noise": np.random.default_rng(0).normal(size=(100, 4))}, tmp_path / "d")
    assert len(np.unique(dataset.index("episode"))) == 100
    assert "each of the 100 rows is an episode of its own" in caplog.text
    assert "The rows of window overlap" in caplog.text


@pytest.mark.parametrize("form", ["argument", "array"])
def test_a_column_of_episodes_keeps_rows_together(tmp_path, caplog, form):
    arrays = {"window": WINDOWS, "day": EPISODES}
    dataset = import_numpy(arrays, tmp_path / "d", episode="day" if form == "array" else EPISODES)
    assert ("day" in dataset.spec) == (form == "argument")
    np.testing.assert_array_equal(dataset.index("episode"), EPISODES)
    np.testing.assert_array_equal(dataset.index("step"), np.arange(100) % 10)
    assert not caplog.records
    training, validation = dataset.split(0.3)
    assert not set(training.index("episode")) & set(validation.index("episode"))


def test_steps_are_counted_within_interleaved_episodes(tmp_path):
    episodes = np.arange(12) % 3
    dataset = import_numpy({"x": np.arange(12.0)}, tmp_path / "d", episode=episodes)
    np.testing.assert_array_equal(dataset.index("step"), np.arange(12) // 3)
    steps = np.arange(12) // 3 * 2
    dataset = import_numpy({"x": np.arange(12.0), "t": steps}, tmp_path / "e", episode=episodes, step="t")
    np.testing.assert_array_equal(dataset.index("step"), steps)


def test_wrong_columns_are_named(tmp_path):
    with pytest.raises(DatasetError, match="episode 0, step 0 already"):
        import_numpy({"x": np.arange(4.0)}, tmp_path / "d", episode=np.zeros(4, int), step=np.zeros(4, int))
    assert not (tmp_path / "d").exists()
    with pytest.raises(ConfigError, match="names none of the arrays"):
        import_numpy({"x": np.arange(4.0)}, tmp_path / "d", episode="day")
    with pytest.raises(ConfigError, match="must be integers"):
        import_numpy({"x": np.arange(4.0)}, tmp_path / "d", episode=np.arange(4) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "day"}, "episode and step both name the column 'day'"),
        ({"roles": {"day": "input"}}, "the column 'day' says the episode of each row, and is no field then"),
        ({"units": {"t": "s"}, "step": "t"}, "the column 't' says the step of each row, and is no field then"),
    ],
)
def test_a_column_of_names_is_nothing_else(tmp_path, options, message):
    arrays = {"x": np.arange(4.0), "day": np.arange(4) // 2, "t": np.arange(4)}
    with pytest.raises(ConfigError, match=message):
        import_numpy(arrays, tmp_path / "d", episode="day", **options)
    assert not (tmp_path / "d").exists()


def test_an_import_adds_nothing_to_a_part_and_says_what_does(tmp_path):
    for mode in ("training", "test"):
        import_numpy({"x": np.arange(4.0)}, tmp_path / "d", episode=np.zeros(4, int), mode=mode)
    for mode in ("training", "test"):
        with pytest.raises(DatasetError, match=f"already holds {mode} samples.*--mode.*physgym data merge"):
            import_numpy({"x": np.arange(4.0)}, tmp_path / "d", episode=np.ones(4, int), mode=mode)


def test_steps_without_episodes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 2)), st=np.tile(np.arange(3), 2))
    with pytest.raises(ConfigError, match="steps are given without the episodes"):
        import_numpy(tmp_path / "a.npz", tmp_path / "d", step="st")
    assert not (tmp_path / "d").exists()


def test_a_part_whose_import_was_killed_is_not_opened_and_the_next_import_replaces_it(tmp_path, monkeypatch):
    arrays = {"x": np.arange(40.0), "day": np.arange(40) // 10}
    import_numpy({"x": np.arange(6.0)}, tmp_path / "d", episode=np.zeros(6, int))
    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(SampleWriter, "append", killed(SampleWriter.append))
            import_numpy(arrays, tmp_path / "d", episode="day", mode="test")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(SampleDataset(tmp_path / "d")) == 6
    with pytest.raises(DatasetError, match="holds test samples of an import that was killed"):
        SampleDataset(tmp_path / "d", "test")
    with pytest.raises(DatasetError, match="episode 0, step 0 already"):
        import_numpy({"x": np.zeros(4)}, tmp_path / "d", episode=np.zeros(4, int), step=np.zeros(4, int), mode="test")
    assert SampleDataset(tmp_path / "d").metadata == {}
    dataset = import_numpy(arrays, tmp_path / "d", episode="day", mode="test")
    np.testing.assert_array_equal(dataset.arrays["x"], np.arange(40.0))
    assert dataset.metadata == {}
    assert len(SampleDataset(tmp_path / "d")) == 6


def killed(append):
    """Store what comes, commit it, and end at once."""

    def until_then(self, *arguments, **named):
        append(self, *arguments, **named)
        self.commit()
        os._exit(9)

    return until_then


def test_a_part_that_was_not_imported_whole_stays_closed_while_others_are(tmp_path, monkeypatch):
    """The next import, of another part, made the half one readable."""
    arrays = {"x": np.arange(6.0), "day": np.arange(6) // 3}
    import_numpy(arrays, tmp_path / "d", episode="day")
    for mode in ("test", "validation"):
        child = os.fork()
        if not child:
            try:
                monkeypatch.setattr(SampleWriter, "append", killed(SampleWriter.append))
                import_numpy(arrays, tmp_path / "d", episode="day", mode=mode)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    import_numpy(arrays, tmp_path / "d", episode="day", mode="prediction")
    for mode in ("test", "validation"):
        with pytest.raises(DatasetError, match=f"holds {mode} samples of an import that was killed"):
            SampleDataset(tmp_path / "d", mode)
    surgery.filter(tmp_path / "d", "step > 0", tmp_path / "f", mode="training")
    for folder in ("d", "f"):
        assert SampleDataset(tmp_path / folder).metadata == {}
    assert Description.read(tmp_path / "f").metadata == {}
    import_numpy(arrays, tmp_path / "d", episode="day", mode="validation")
    assert len(SampleDataset(tmp_path / "d", "validation")) == 6
    with pytest.raises(DatasetError, match="holds test samples of an import that was killed"):
        SampleDataset(tmp_path / "d", "test")


def test_steps_in_an_array_of_an_export_need_episodes_too(tmp_path):
    with pytest.raises(ConfigError, match="steps are given without the episodes"):
        import_numpy({"x": np.arange(4.0), "index/step": np.array([0, 1, 0, 1])}, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("index/parameters/gain", r"has the columns \['index/parameters/gain'\]; what begins with index/"),
        ("index/rejected/reason", r"lack \['index/rejected/data/x', 'index/rejected/index/env', "),
        ("index/endings/how", r"lack \['index/endings/episode', 'index/endings/steps'\]"),
    ],
)
def test_parts_of_an_export_without_the_others_are_named(tmp_path, name, message):
    with pytest.raises(DatasetError, match=message):
        import_numpy({"x": np.arange(4.0), name: np.arange(4.0)}, tmp_path / "d", episode=np.arange(4))
    assert not (tmp_path / "d").exists()
