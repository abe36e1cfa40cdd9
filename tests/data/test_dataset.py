from __future__ import annotations

import json
import multiprocessing
import os

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.data.dataset import SampleDataset
from physgym.data.description import rebuild_description
from physgym.data.partition import Partition
from physgym.data.statistics import Statistics
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.loading.batching import StackedSampler
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec(
    [
        Field("x", (2, 3), np.dtype("f4"), "input", "m"),
        Field("y", (), np.dtype("f8"), "target"),
        Field("group/flags", (4,), np.dtype("?"), "additional"),
        Field("group/z", (2,), np.dtype("c8"), "additional"),
    ]
)
ROW = SPEC.nbytes + 28  # and its index


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    i = np.arange(start, stop)
    return {
        "x": (i[:, None, None] + np.arange(6).reshape(2, 3) / 10).astype("f4"),
        "y": i**2 / 7,
        "group/flags": (i[:, None] >> np.arange(4)) & 1 == 1,
        "group/z": np.stack([i + 1j, i - 1j], 1).astype("c8"),
    }


def append(writer: SampleWriter, start: int, stop: int, per_episode: int = 5) -> None:
    i = np.arange(start, stop)
    writer.append(
        rows(start, stop), episode=i // per_episode, step=i % per_episode, seed=(i // per_episode).astype("u8")
    )


def write(path, count: int, **kwargs) -> SampleDataset:
    with SampleWriter(path, SPEC, **kwargs) as writer:
        append(writer, 0, count)
    return SampleDataset(path, mode=kwargs.get("mode", "training"))


def assert_rows(dataset: SampleDataset, start: int, stop: int) -> None:
    got, want = dataset[:], rows(start, stop)
    assert len(dataset) == stop - start
    for name in SPEC:
        assert got[name].dtype == SPEC[name].dtype
        np.testing.assert_array_equal(got[name], want[name])


def test_what_was_written_is_read_over_several_partitions(tmp_path):
    dataset = write(tmp_path / "d", 23, max_file_size=7 * ROW)
    assert len(list((tmp_path / "d").glob("training-*.h5"))) == 4
    assert_rows(dataset, 0, 23)
    np.testing.assert_array_equal(dataset.index("episode"), np.arange(23) // 5)
    sample = dataset[-1]
    np.testing.assert_array_equal(sample["x"], rows(22, 23)["x"][0])
    assert sample["y"].shape == ()
    with pytest.raises(IndexError):
        dataset[23]


def test_plain_h5py_reads_it_and_it_explains_itself(tmp_path):
    write(tmp_path / "d", 6)
    with h5py.File(tmp_path / "d" / "training-00000.h5") as file:
        np.testing.assert_array_equal(file["data/x"][:], rows(0, 6)["x"])
        np.testing.assert_array_equal(file["data/group/flags"][:], rows(0, 6)["group/flags"])
        assert file["data/x"].attrs["role"] == b"input"
        assert file["data/x"].attrs["unit"] == b"m"
        assert file["sealed"][0] == 1
        assert file["index/env"][:].tolist() == [0] * 6
        assert file["num_samples"][0] == 6
    description = json.loads((tmp_path / "d" / "dataset.json").read_text())
    (listed,) = description["modes"]["training"]["partitions"]
    checksum = Partition(tmp_path / "d" / "training-00000.h5").digest()
    assert listed == {"file": "training-00000.h5", "samples": 6, "sealed": True, "sha256": checksum}


def test_committed_samples_are_readable_while_it_is_written(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        append(writer, 0, 4)
        writer.commit()
        assert_rows(SampleDataset(tmp_path / "d"), 0, 4)
        append(writer, 4, 9)
        writer.commit()
        assert_rows(SampleDataset(tmp_path / "d"), 0, 9)


def test_statistics_are_kept_while_appending_and_agree_with_numpy(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=7 * ROW) as writer:
        for start in range(0, 24, 4):
            append(writer, start, start + 4)
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as writer:
        append(writer, 24, 30)
    dataset = SampleDataset(tmp_path / "d")
    for statistics in (dataset.statistics, dataset.compute_statistics()):
        for name in ("x", "y"):
            want = rows(0, 30)[name].astype("f8")
            assert statistics[name].count == 30
            tolerance = {"x": 1e-6, "y": 1e-12}[name]  # single precision within a block of a float32 field
            np.testing.assert_allclose(statistics[name].mean, want.mean(0), rtol=tolerance)
            np.testing.assert_allclose(statistics[name].std, want.std(0), rtol=tolerance)
            np.testing.assert_array_equal(statistics[name].min, want.min(0))
            np.testing.assert_array_equal(statistics[name].max, want.max(0))


def test_the_description_is_never_the_only_place_of_anything(tmp_path):
    dataset = write(tmp_path / "d", 10)
    file = tmp_path / "d" / "dataset.json"
    whole, good = file.read_text(), dataset.statistics["y"].mean
    for text in ("{", "{}", "[]"):
        file.write_text(text)
        assert SampleDataset(tmp_path / "d").statistics["y"].mean == good
        assert_rows(SampleDataset(tmp_path / "d"), 0, 10)
        rebuild_description(tmp_path / "d")
        assert file.read_text() == whole
    file.unlink()
    assert_rows(SampleDataset(tmp_path / "d"), 0, 10)
    with pytest.raises(DatasetError, match="holds no partitions"):
        rebuild_description(tmp_path)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), max_size=5))
@settings(max_examples=60, deadline=None)
def test_merged_statistics_equal_those_of_all(groups):
    total = Statistics.empty(())
    for group in groups:
        total = total.merge(Statistics.of(np.array(group, "f8")))
    flat = [x for group in groups for x in group]
    assert total.count == len(flat)
    if flat:
        np.testing.assert_allclose(total.mean, np.mean(flat), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(total.std, np.std(flat), rtol=1e-6, atol=1e-6)


def test_batches_cover_everything_once_in_a_reproducible_order(tmp_path):
    dataset = write(tmp_path / "d", 23, max_file_size=7 * ROW)

    def batches(fields=None, **kwargs):
        return [dataset.gather(indices, fields) for indices in StackedSampler(dataset, 5, **kwargs)]

    def epoch(**kwargs):
        return np.concatenate([batch["y"] for batch in batches(**kwargs)])

    first = epoch(seed=1, epoch=0)
    np.testing.assert_array_equal(np.sort(first), rows(0, 23)["y"])
    np.testing.assert_array_equal(first, epoch(seed=1, epoch=0))
    assert (first != epoch(seed=1, epoch=1)).any()
    assert (first != epoch(seed=2, epoch=0)).any()
    np.testing.assert_array_equal(epoch(shuffle=False), rows(0, 23)["y"])
    assert list(batches(fields=["y"])[0]) == ["y"]
    with pytest.raises(ConfigError, match="batch_size"):
        StackedSampler(dataset, 0)


def test_a_split_keeps_episodes_whole(tmp_path):
    dataset = write(tmp_path / "d", 50)
    training, validation = dataset.split(0.3, seed=4)
    assert len(training) + len(validation) == 50
    assert len(validation) == 15
    assert not set(training.index("episode")) & set(validation.index("episode"))
    again = dataset.split(0.3, seed=4)[1]
    np.testing.assert_array_equal(validation[:]["y"], again[:]["y"])
    assert (dataset.split(0.3, seed=5)[1][:]["y"] != validation[:]["y"]).any()
    np.testing.assert_allclose(training.statistics["y"].mean, training[:]["y"].mean())
    nested = training.split(0.5)[0]
    assert set(nested.index("episode")) < set(training.index("episode"))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        dataset.split(1.0)
    with pytest.raises(ConfigError, match="seed"):
        dataset.split(0.8, 0.2)
    with pytest.raises(ConfigError, match=r"at least two episodes, .* has 1; add episodes \(episodes=2, more samples"):
        write(tmp_path / "one", 5).split(0.5)


def test_mini_fields_and_several_folders(tmp_path):
    write(tmp_path / "a", 10)
    write(tmp_path / "b", 20)
    both = SampleDataset([tmp_path / "a", tmp_path / "b"])
    assert len(both) == 30
    assert both.episodes.max() + 1 == 6  # episode 0 of one folder is not episode 0 of the other
    np.testing.assert_array_equal(both[8:12]["y"], np.concatenate([rows(8, 10)["y"], rows(0, 2)["y"]]))
    mini = SampleDataset(tmp_path / "b", mini=3, fields=["y", "x"])
    assert len(mini) == 3
    assert list(mini[0]) == ["y", "x"]
    assert len(SampleDataset(tmp_path / "a", mini=100)) == 10
    with pytest.raises(ConfigError, match=r"fields \['q'\] are not in the dataset"):
        SampleDataset(tmp_path / "a", fields=["q"])
    with pytest.raises(ConfigError, match="mini"):
        SampleDataset(tmp_path / "a", mini=0)


def test_modes_live_side_by_side(tmp_path):
    write(tmp_path / "d", 4)
    write(tmp_path / "d", 7, mode="validation")
    assert len(SampleDataset(tmp_path / "d")) == 4
    assert len(SampleDataset(tmp_path / "d", mode="validation")) == 7
    assert set(json.loads((tmp_path / "d" / "dataset.json").read_text())["modes"]) == {"training", "validation"}
    with pytest.raises(DatasetError, match="holds no prediction samples"):
        SampleDataset(tmp_path / "d", mode="prediction")
    with pytest.raises(ConfigError, match="mode must be one of"):
        SampleDataset(tmp_path / "d", mode="exam")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_torch_dataloader_takes_it(tmp_path, workers):
    dataset = write(tmp_path / "d", 23, max_file_size=7 * ROW).subset(np.arange(3, 23))
    context = multiprocessing.get_context("spawn") if workers else None
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=workers, multiprocessing_context=context)
    got = torch.cat([batch["y"] for batch in loader])
    np.testing.assert_array_equal(got.numpy(), rows(3, 23)["y"])


def test_existing_samples_are_not_overwritten(tmp_path):
    write(tmp_path / "d", 4)
    with pytest.raises(DatasetError, match=r"already holds training samples.*--resume"):
        SampleWriter(tmp_path / "d", SPEC)
    assert_rows(SampleDataset(tmp_path / "d"), 0, 4)


def test_resuming_needs_the_same_fields_and_source(tmp_path):
    write(tmp_path / "d", 4, source={"seed": 1})
    with pytest.raises(DatasetError, match="resume with the same environment, arguments, samplers and seed"):
        SampleWriter(tmp_path / "d", SPEC, source={"seed": 2}, resume=True)
    other = SampleSpec([Field("x", (2,), np.dtype("f4"), "input")])
    with pytest.raises(DatasetError, match=r"other fields than the new samples: .* in place of .*Write another"):
        SampleWriter(tmp_path / "d", other, source={"seed": 1}, resume=True)


def test_a_second_writer_is_refused(tmp_path):
    with (
        SampleWriter(tmp_path / "d", SPEC),
        pytest.raises(DatasetError, match="being written by this process"),
    ):
        SampleWriter(tmp_path / "d", SPEC, mode="validation")


def test_a_writer_without_samples_leaves_nothing(tmp_path):
    with SampleWriter(tmp_path / "deep" / "d", SPEC):
        pass
    assert not (tmp_path / "deep" / "d").exists()


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all" * 100])
def test_a_partition_that_is_not_hdf5_is_named(tmp_path, content):
    write(tmp_path / "d", 4)
    (tmp_path / "d" / "training-00001.h5").write_bytes(content)
    with pytest.raises(DatasetError, match=r"training-00001\.h5 is not a readable partition"):
        SampleDataset(tmp_path / "d")


def test_foreign_and_damaged_hdf5_files_are_named(tmp_path):
    write(tmp_path / "d", 4)
    file = tmp_path / "d" / "training-00001.h5"
    with h5py.File(file, "w") as foreign:
        foreign["x"] = 1
    with pytest.raises(DatasetError, match="not a partition that physgym wrote"):
        SampleDataset(tmp_path / "d")
    good = (tmp_path / "d" / "training-00000.h5").read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(DatasetError, match="not a readable partition"):
        SampleDataset(tmp_path / "d")
    file.write_bytes(good)
    offset = Partition(file).tables["samples"].counter
    with file.open("r+b") as damaged:
        damaged.seek(offset)
        damaged.write((99).to_bytes(8, "little"))
    with pytest.raises(DatasetError, match="claims 99 samples but holds 4"):
        SampleDataset(tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"y": np.zeros(2)}, r"y has shape \(2,\); 3 samples need \(3,\)"),
        ({"x": np.zeros((3, 2, 3), "c8")}, "dtype complex64"),
        ({"extra": np.zeros(3)}, "beyond those of the dataset"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, text):
    with SampleWriter(tmp_path / "d", SPEC) as writer, pytest.raises(DatasetError, match=text):
        writer.append({**rows(0, 3), **change}, episode=np.arange(3), step=np.arange(3), seed=np.arange(3, dtype="u8"))


def test_a_full_disk_keeps_what_was_committed(tmp_path, monkeypatch):
    writer = SampleWriter(tmp_path / "d", SPEC)
    append(writer, 0, 4)
    writer.commit()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        append(writer, 4, 8)
        with pytest.raises(
            DatasetError, match=r"No space left on device. The 4 committed samples of the dataset are intact"
        ):
            writer.commit()
    with pytest.raises(DatasetError, match="No space left on device"):
        append(writer, 4, 8)
    assert writer.count == 4
    assert_rows(SampleDataset(tmp_path / "d"), 0, 4)
    writer.close()
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as again:
        append(again, 4, 8)
    assert_rows(SampleDataset(tmp_path / "d"), 0, 8)


def test_a_disk_that_fills_up_while_closing_leaves_a_readable_dataset(tmp_path, monkeypatch):
    writer = SampleWriter(tmp_path / "d", SPEC)
    append(writer, 0, 6)
    writer.commit()

    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("physgym.data.partition_file.Appender.write", full)
        with pytest.raises(
            DatasetError, match=r"No space left on device.*The 6 committed samples of the dataset are intact"
        ):
            writer.close()
    assert_rows(SampleDataset(tmp_path / "d"), 0, 6)
    assert not list((tmp_path / "d").glob("*.tmp"))
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as again:
        append(again, 6, 8)
    assert_rows(SampleDataset(tmp_path / "d"), 0, 8)


def test_an_error_within_the_block_is_not_hidden_and_the_partition_stays_open(tmp_path):
    def interrupted():
        with SampleWriter(tmp_path / "d", SPEC) as writer:
            append(writer, 0, 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not Partition(tmp_path / "d" / "training-00000.h5").sealed
    assert_rows(SampleDataset(tmp_path / "d"), 0, 5)
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as again:
        append(again, 5, 9)
    assert Partition(tmp_path / "d" / "training-00000.h5").sealed
    assert_rows(SampleDataset(tmp_path / "d"), 0, 9)


def test_files_of_the_user_are_left_alone(tmp_path):
    (tmp_path / "thesis.tmp").write_text("years of work")
    (tmp_path / "folder.tmp").mkdir()
    write(tmp_path, 4)
    assert (tmp_path / "thesis.tmp").read_text() == "years of work"


@pytest.mark.slow
def test_a_dataset_does_not_depend_on_the_portions_in_which_it_was_appended(tmp_path):
    write(tmp_path / "whole", 700, max_file_size=300 * ROW)
    with SampleWriter(tmp_path / "parts", SPEC, max_file_size=300 * ROW) as writer:
        for start in range(0, 350, 7):
            append(writer, start, start + 7)
    with SampleWriter(tmp_path / "parts", SPEC, resume=True, max_file_size=300 * ROW, commit_interval=0) as writer:
        append(writer, 350, 360)
        append(writer, 360, 700)
    assert folder_bytes(tmp_path / "parts") == folder_bytes(tmp_path / "whole")


def folder_bytes(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_masks_select_and_wrong_indices_are_named(tmp_path):
    dataset = write(tmp_path / "d", 20, max_file_size=7 * ROW)
    mask = np.arange(20) % 3 == 0
    np.testing.assert_array_equal(dataset.subset(mask)[:]["y"], rows(0, 20)["y"][mask])
    np.testing.assert_array_equal(dataset.gather(mask)["y"], rows(0, 20)["y"][mask])
    assert len(dataset.subset([])) == 0
    for wrong in ([20], [-1], [0.5], mask[:5], [[1]]):
        with pytest.raises(ConfigError, match="indices must"):
            dataset.gather(wrong)
        with pytest.raises(ConfigError, match="indices must"):
            dataset.subset(wrong)
    with pytest.raises(ConfigError, match=r"fields \['q'\]"):
        dataset.gather([1], fields=["q"])
    with pytest.raises(ConfigError, match="there is no index 'moment'"):
        dataset.index("moment")
    with pytest.raises(ConfigError, match="no dataset folder"):
        SampleDataset([])


def test_a_field_without_entries_is_stored_as_such(tmp_path):
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input"), Field("none", (0, 3), np.dtype("f4"), "target")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        samples = {"x": np.ones((3, 2), "f4"), "none": np.empty((3, 0, 3), "f4")}
        writer.append(samples, episode=np.arange(3), step=np.arange(3), seed=np.arange(3, dtype="u8"))
    assert SampleDataset(tmp_path / "d")[:]["none"].shape == (3, 0, 3)


@pytest.mark.parametrize("names", [("x", "x/a"), ("",), (".",), ("a//b",)])
def test_names_that_hdf5_cannot_hold_are_refused(names):
    with pytest.raises(SampleError):
        SampleSpec([Field(name, (), np.dtype("f4"), "input") for name in names])


def test_missing_folder_and_unwritable_place(tmp_path):
    with pytest.raises(DatasetError, match="there is no dataset at"):
        SampleDataset(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="cannot create a dataset"):
        SampleWriter(tmp_path / "file" / "d", SPEC)
    with pytest.raises(ConfigError, match="max_file_size"):
        SampleWriter(tmp_path / "d", SPEC, max_file_size=0)
