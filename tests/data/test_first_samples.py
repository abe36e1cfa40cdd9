"""The first samples of a dataset that has grown, byte for byte what it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym import SampleDataset, generate
from physgym.data.first_samples import copy_first
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from physgym.experiment.provenance import dataset_hash, ends_as_recorded
from physgym.sample import Field, SampleSpec
from tests.generation.test_rejected_at_the_end import Losing

SPEC = SampleSpec([Field("x", (2,), np.dtype("f4"), "input"), Field("y", (), np.dtype("f8"), "target")])
PARAMETERS = SampleSpec([Field("k", (), np.dtype("f8"), "input")])
STEPS = 7  # of an episode, of which the fourth one is rejected, and of the fourth episode also the last two


def names(start, stop):
    return [(i // STEPS, i % STEPS) for i in range(start, stop)]


def values(rows):
    place = np.array([episode * STEPS + step for episode, step in rows], float)
    return {"x": np.stack([place, place**2], 1).astype("f4"), "y": np.sin(place)}


def index(rows):
    episode, step = np.array(rows, np.int64).reshape(-1, 2).T
    return {"episode": episode, "step": step, "seed": (100 + episode).astype("u8")}


def extend(folder, start, stop, most):
    """Write steps as a generation does: parameters before episodes, rejected steps and endings where they belong."""
    tables = {"parameters": PARAMETERS, "rejected": True, "endings": True}
    with SampleWriter(folder, SPEC, resume=True, max_rows=most, **tables) as writer:
        for episode, step in names(start, stop):
            row = [(episode, step)]
            if step == 0:
                one = {name: value for name, value in index(row).items() if name != "step"}
                writer.add_parameters({"k": np.array([episode / 3])}, **one)
            if step == STEPS - 1:
                writer.add_endings(episode=np.array([episode]), steps=np.array([STEPS]), how=["truncated"])
            if step == 3 or (episode == 3 and step > 4):
                writer.add_rejected(values(row), ["bad"], **index(row))
                continue
            writer.append(values(row), **index(row))
        writer.set_constants({"mesh": np.arange(3.0)})


@pytest.mark.parametrize("most", [None, 6, 12])
@pytest.mark.parametrize("steps", [1, 4, 9, 14, 17, 18, 24, 26, 28, 30])
def test_they_are_what_the_dataset_was(tmp_path, most, steps):
    folder, copy = tmp_path / "data", tmp_path / "copy"
    extend(folder, 0, steps, most)
    before = SampleDataset(folder)
    known, count, hashed = before.statistics, len(before), dataset_hash(before)
    kept = [before.parameters, before.endings, before.rejected.step, before[:]]
    files = {file.name: file.read_bytes() for file in folder.glob("*.h5")}
    extend(folder, steps, 50, most)
    (end,) = ends_as_recorded(SampleDataset(folder, mini=count), count, hashed)
    copy_first(folder, "training", count, copy, end)
    again = SampleDataset(copy)
    again.verify()
    assert dataset_hash(again) == hashed
    assert {file.name: file.read_bytes() for file in copy.glob("*.h5")} == files
    for one, other in zip(kept, [again.parameters, again.endings, again.rejected.step, again[:]], strict=True):
        np.testing.assert_equal(other, one)
    for name, statistics in again.statistics.items():
        np.testing.assert_array_equal(statistics.mean, known[name].mean)
        np.testing.assert_array_equal(statistics.std, known[name].std)
    assert again.constants["mesh"].tolist() == [0, 1, 2]
    assert len(SampleDataset(folder)) == 41  # which is as it was


def test_what_is_not_there_is_no_copy(tmp_path):
    extend(tmp_path / "data", 0, 10, None)
    with pytest.raises(DatasetError, match="has 9 training samples, not 10"):
        copy_first(tmp_path / "data", "training", 10, tmp_path / "copy")


def test_code_of_later_samples_is_no_code_of_the_first(tmp_path):
    extend(tmp_path / "data", 0, 30, 5)
    file = tmp_path / "data" / "dataset.json"
    described = json.loads(file.read_text())
    runs = [{"samples": 0, "code": {"hash": "a"}}, {"samples": 12, "code": {"hash": "b"}}]
    described["modes"]["training"]["provenance"] = {"runs": runs}
    file.write_text(json.dumps(described))
    copy_first(tmp_path / "data", "training", 12, tmp_path / "copy")
    assert SampleDataset(tmp_path / "copy").provenance["runs"] == runs[:1]


def test_a_generation_that_ended_with_rejected_steps_is_found_again(tmp_path):
    options = {"num_workers": 0, "progress": False, "keep_rejected": True, "max_steps": 4}
    before = generate(Losing, tmp_path / "data", episodes=2, **options)  # the last step of each is rejected
    hashed, count, ends = dataset_hash(before), len(before), before.endings
    generate(Losing, tmp_path / "data", episodes=5, resume=True, **options)
    (end,) = ends_as_recorded(SampleDataset(tmp_path / "data", mini=count), count, hashed)
    assert end is not None  # the last episode ended behind its last sample
    copy_first(tmp_path / "data", "training", count, tmp_path / "copy", end)
    again = SampleDataset(tmp_path / "copy")
    assert dataset_hash(again) == hashed
    assert again.endings == ends == {0: "cut", 1: "cut"}
    assert again.rejected.step.tolist() == [3, 3]
