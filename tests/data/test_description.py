"""A dataset is the partitions that its description names; what it says of provenance and constants stays."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.description import Description, as_text, rebuild_description
from physgym.data.partition import Partition
from physgym.data.partition_file import create_partition
from physgym.data.summary import summarize
from physgym.data.writer import SampleWriter, all_or_nothing
from physgym.errors import ConfigError, DatasetError
from physgym.formats.archive import archive
from tests.support.datasets import SOURCE, SPEC, assert_rows, rows, where, write

SMALL = 1500  # bytes of rows of a partition: several are needed
PROVENANCE = {"commit": "f" * 40, "runs": [1]}


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "d", 57, max_file_size=SMALL, provenance=PROVENANCE)
    assert len(list((tmp_path / "d").glob("*.h5"))) > 4
    return tmp_path / "d"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.h5"))


def copied(folder):
    shutil.copy(folder / "training-00000.h5", folder / f"training-{len(names(folder)):05d}.h5")
    return f"training-{len(names(folder)) - 1:05d}.h5, which its description does not name"


def copied_far_away(folder):
    shutil.copy(folder / "training-00000.h5", folder / "training-00077.h5")
    return "training-00077.h5, which its description does not name"


def missing_in_the_middle(folder):
    (folder / "training-00002.h5").unlink()
    return "lacks training-00002.h5, which its description names"


def missing_at_the_end(folder):
    (folder / names(folder)[-1]).unlink()
    return "which its description names: the copy is incomplete"


def renamed(folder):
    (folder / "training-00001.h5").rename(folder / "training-00088.h5")
    return "lacks training-00001.h5"


def exchanged(folder):
    os.replace(folder / "training-00001.h5", folder / "other")  # noqa: PTH105
    (folder / "training-00002.h5").rename(folder / "training-00001.h5")
    (folder / "other").rename(folder / "training-00002.h5")
    return "training-00001.h5 is not the partition that dataset.json names: its checksum is"


def of_another_seed(folder):
    other = folder.with_name("other")
    with SampleWriter(other, SPEC, source={**SOURCE, "seed": 8}) as writer:
        writer.append(rows(0, 11), **where(0, 11))
    shutil.copy(other / "training-00000.h5", folder / "training-00001.h5")
    return "training-00001.h5 has another source than"


WRONGS = [copied, copied_far_away, missing_in_the_middle, missing_at_the_end, renamed, exchanged, of_another_seed]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONGS)
def test_what_the_description_does_not_name_is_noticed_on_opening(folder, wrong):
    before = SampleDataset(folder)
    text = wrong(folder)
    with pytest.raises(DatasetError, match=text):
        SampleDataset(folder)
    with pytest.raises(DatasetError, match=text):
        SampleWriter(folder, SPEC, source=SOURCE, resume=True)
    with pytest.raises(DatasetError, match=text):
        list(summarize(folder))
    with pytest.raises(DatasetError, match=text):
        archive(folder, folder.with_name("copy"), compression="gzip")
    with pytest.raises(DatasetError, match=text):
        before.verify()
    with pytest.raises(DatasetError, match=text):
        before.refresh()


def older(folder: Path) -> dict:
    """Make a description as older writers left it, and return it."""
    description = json.loads((folder / "dataset.json").read_text())
    for mode in description["modes"].values():
        del mode["names_all"], mode["provenance"]
    (folder / "dataset.json").write_text(json.dumps(description))
    return description


@pytest.mark.slow
def test_a_description_of_an_older_writer_may_lag_behind(folder):
    description = older(folder)
    described = description["modes"]["training"]
    del described["partitions"][-2:]
    (folder / "dataset.json").write_text(json.dumps(description))
    assert_rows(SampleDataset(folder), 0, 57)
    assert SampleDataset(folder).provenance is None
    with SampleWriter(folder, SPEC, source=SOURCE, resume=True, max_file_size=SMALL) as writer:
        assert writer.provenance is None
        writer.append(rows(57, 60), **where(57, 60))
    assert_rows(SampleDataset(folder), 0, 60)
    assert json.loads((folder / "dataset.json").read_text())["modes"]["training"]["names_all"]


@pytest.mark.slow
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (copied, "begins with the same sample as training-00000.h5, episode 0, step 0"),
        (copied_far_away, "not the partition before it"),
        (missing_in_the_middle, "lacks training-00002.h5|not the partition before it"),
        (of_another_seed, "has another source"),
    ],
)
def test_without_a_whole_description_what_can_be_noticed_is(folder, wrong, text, gone):
    older(folder)
    if gone:
        (folder / "dataset.json").unlink()
    wrong(folder)
    with pytest.raises(DatasetError, match=text):
        SampleDataset(folder)


def test_a_missing_description_is_said(folder, caplog):
    (folder / "dataset.json").unlink()
    assert_rows(SampleDataset(folder), 0, 57)
    assert "has no dataset.json" in caplog.text
    assert SampleDataset(folder).provenance == "unknown"


@pytest.mark.slow
def test_a_partition_is_named_before_its_first_row(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=SMALL, commit_interval=1000) as writer:
        for start in range(0, 57, 3):
            writer.append(rows(start, start + 3), **where(start, start + 3))
            writer.commit()
            described = json.loads((tmp_path / "d" / "dataset.json").read_text())["modes"]["training"]
            assert [part["file"] for part in described["partitions"]] == names(tmp_path / "d")
            assert len(SampleDataset(tmp_path / "d")) == start + 3


def test_an_empty_partition_that_was_not_named_yet_does_not_matter(folder):
    number = len(names(folder))
    part = Partition(folder / "training-00000.h5")
    create_partition(
        folder / f"training-{number:05d}.h5", part.layout, 11, part.attributes
    )  # then its writer is killed
    assert_rows(SampleDataset(folder), 0, 57)
    with SampleWriter(folder, SPEC, source=SOURCE, resume=True):
        pass
    assert len(names(folder)) == number


def test_a_partition_that_grows_again_is_never_called_complete(folder):
    with SampleWriter(folder, SPEC, source=SOURCE, resume=True, max_file_size=SMALL, commit_interval=0) as writer:
        writer.append(rows(57, 58), **where(57, 58))
        last = json.loads((folder / "dataset.json").read_text())["modes"]["training"]["partitions"][-1]
        assert not last["sealed"]
        assert_rows(SampleDataset(folder), 0, 58)
    SampleDataset(folder).verify()


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_moved_away_gets_nothing_more(tmp_path, replaced):
    writer = SampleWriter(tmp_path / "d", SPEC, commit_interval=1000)
    writer.append(rows(0, 5), **where(0, 5))
    writer.commit()
    (tmp_path / "d").rename(tmp_path / "away")
    if replaced:
        shutil.copytree(tmp_path / "away", tmp_path / "d")
    writer.append(rows(5, 10), **where(5, 10))
    with pytest.raises(DatasetError, match="moved away, replaced or removed while it was written"):
        writer.commit()
    writer.close()
    assert_rows(SampleDataset(tmp_path / "away"), 0, 5)
    if replaced:
        assert_rows(SampleDataset(tmp_path / "d"), 0, 5)
    else:
        assert not (tmp_path / "d").exists()


# --- provenance


def test_provenance_is_in_the_description_alone(tmp_path):
    one = write(tmp_path / "a", 57, max_file_size=SMALL, provenance=PROVENANCE)
    other = write(tmp_path / "b", 57, max_file_size=SMALL)
    assert one.provenance == PROVENANCE
    assert other.provenance == "unknown"
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert SampleDataset([tmp_path / "a", tmp_path / "b"]).provenances == [PROVENANCE, "unknown"]


@pytest.mark.slow
def test_provenance_survives_and_grows(folder):
    with SampleWriter(folder, SPEC, source=SOURCE, resume=True, max_file_size=SMALL) as writer:
        assert writer.provenance == PROVENANCE
        writer.append(rows(57, 60), **where(57, 60))
        writer.provenance = {**PROVENANCE, "runs": [1, 2]}
        assert SampleDataset(folder).provenance["runs"] == [1, 2]
    write(folder, 8, mode="test", provenance={"runs": [3]})
    with SampleWriter(folder, SPEC, source=SOURCE, resume=True):
        pass
    rebuild_description(folder)
    archive(folder, folder.with_name("copy"), compression="gzip")
    for place in (folder, folder.with_name("copy")):
        assert SampleDataset(place).provenance["runs"] == [1, 2]
        assert SampleDataset(place, mode="test").provenance == {"runs": [3]}
    (folder / "dataset.json").unlink()
    rebuild_description(folder)
    assert SampleDataset(folder).provenance == "unknown"


def test_provenance_is_json(tmp_path):
    with pytest.raises(ConfigError, match="provenance must be JSON data"):
        SampleWriter(tmp_path / "d", SPEC, provenance={"a": np.zeros(3)})
    with SampleWriter(tmp_path / "d", SPEC) as writer, pytest.raises(ConfigError, match="provenance must be JSON data"):
        writer.provenance = {"a": float("nan")}


def test_a_description_is_not_rebuilt_under_a_writer(folder):
    with (
        SampleWriter(folder, SPEC, source=SOURCE, resume=True),
        pytest.raises(DatasetError, match="is being written by another process"),
    ):
        rebuild_description(folder)


# --- constants

CONSTANTS = {
    "mesh/nodes": np.arange(12.0).reshape(4, 3),
    "material": np.array("steel"),
    "density": np.float32(7.8),
    "big": np.arange(3, dtype=">i4"),
    "missing": np.array([np.nan, 1.0]),
}


def assert_constants(found):
    assert sorted(found) == sorted(CONSTANTS)
    for name, value in CONSTANTS.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.asarray(value).dtype


@pytest.mark.slow
def test_constants_are_stored_once_and_come_along(tmp_path):
    for mode in ("training", "test"):
        with SampleWriter(tmp_path / "d", SPEC, mode=mode, max_file_size=SMALL) as writer:
            writer.set_constants(CONSTANTS)
            written = (tmp_path / "d" / "constants.npz").stat()
            writer.append(rows(0, 30), **where(0, 30))
            writer.set_constants(CONSTANTS)  # again, as by another worker
            assert (tmp_path / "d" / "constants.npz").stat() == written
            assert_constants(writer.constants)
    with SampleWriter(tmp_path / "d", SPEC, resume=True, max_file_size=SMALL) as writer:
        writer.set_constants(CONSTANTS)
        writer.append(rows(30, 40), **where(30, 40))
    rebuild_description(tmp_path / "d")
    archive(tmp_path / "d", tmp_path / "copy", compression="gzip")
    for place in ("d", "copy"):
        dataset = SampleDataset(tmp_path / place, mode="training")
        assert_constants(dataset.constants)
        assert not dataset.constants["mesh/nodes"].flags.writeable
        dataset.verify()
    assert "constant mesh/nodes: float64 (4, 3)" in list(summarize(tmp_path / "d"))
    write(tmp_path / "e", 10)
    assert SampleDataset(tmp_path / "e").constants == {}
    with pytest.raises(DatasetError, match="different constants"):
        SampleDataset([tmp_path / "d", tmp_path / "e"]).constants  # noqa: B018


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"density": np.float32(7.9)}, "density"),
        ({"density": 7.8}, "density"),  # of another dtype
        ({"more": np.zeros(2)}, "more"),
        ({"material": "stone"}, "material"),
    ],
)
def test_other_constants_are_an_error(tmp_path, change, names):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.set_constants(CONSTANTS)
        writer.append(rows(0, 5), **where(0, 5))
        with pytest.raises(DatasetError, match=rf"differ in \['{names}'\]"):
            writer.set_constants({**CONSTANTS, **change})
    for options in ({"resume": True}, {"mode": "validation"}):
        with SampleWriter(tmp_path / "d", SPEC, **options) as writer, pytest.raises(DatasetError, match=names):
            writer.set_constants({**CONSTANTS, **change})
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as writer, pytest.raises(DatasetError, match="material"):
        writer.set_constants({name: value for name, value in CONSTANTS.items() if name != "material"})


@pytest.mark.parametrize("value", [np.array([None]), np.ma.masked_array([1, 2], [True, False]), [[1], [2, 3]]])
def test_what_is_no_array_is_no_constant(tmp_path, value):
    with SampleWriter(tmp_path / "d", SPEC) as writer, pytest.raises(ConfigError, match="the constant 'a'"):
        writer.set_constants({"a": value})


def test_lost_and_changed_constants_are_noticed(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.set_constants(CONSTANTS)
        writer.append(rows(0, 5), **where(0, 5))
    file = tmp_path / "d" / "constants.npz"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"s\0\0\0t\0\0\0e\0\0\0", b"S\0\0\0t\0\0\0e\0\0\0"))
    with pytest.raises(DatasetError, match="checksum is wrong"):
        SampleDataset(tmp_path / "d").verify()
    file.unlink()
    with pytest.raises(DatasetError, match=r"lacks constants\.npz"):
        SampleDataset(tmp_path / "d")
    rebuild_description(tmp_path / "d")
    with pytest.raises(DatasetError, match=r"the constants of .* are unknown: constants\.npz was not there"):
        SampleDataset(tmp_path / "d").constants  # noqa: B018
    assert list(summarize(tmp_path / "d"))[-1] == "constants: unknown"
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["constants"] == "unknown"
    file.write_bytes(whole)
    rebuild_description(tmp_path / "d")
    assert_constants(SampleDataset(tmp_path / "d").constants)


def test_what_has_no_samples_leaves_no_constants(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.set_constants(CONSTANTS)
    assert not (tmp_path / "d").exists()
    writer = SampleWriter(tmp_path / "d", SPEC)
    writer.set_constants(CONSTANTS)
    writer.append(rows(0, 5), **where(0, 5))
    with pytest.raises(ZeroDivisionError), all_or_nothing(writer):
        raise ZeroDivisionError
    assert not (tmp_path / "d").exists()


def test_a_test_part_lies_beside_the_others(tmp_path):
    write(tmp_path / "d", 4)
    write(tmp_path / "d", 7, mode="test")
    assert len(SampleDataset(tmp_path / "d", mode="test")) == 7
    assert any(line.startswith("test: 7 samples") for line in summarize(tmp_path / "d"))


def test_each_partition_stands_in_a_line_of_its_own(folder):
    lines = (folder / "dataset.json").read_text().splitlines()
    named = [line for line in lines if '"file"' in line]
    assert [re.search(r'"file": "(.*?)"', line)[1] for line in named] == names(folder)


def test_of_many_partitions_the_first_and_the_last_ones_are_named(tmp_path):
    write(tmp_path / "d", 45, max_rows=3)
    lines = [line.strip() for line in summarize(tmp_path / "d")]
    named = [line.partition(":")[0] for line in lines if line.startswith("training-")]
    assert named == [f"training-{number:05}.h5" for number in (0, 1, 2, 3, 11, 12, 13, 14)]
    assert any(line.startswith("... 7 further partitions: 21 samples, ") for line in lines)


def test_names_with_brackets_are_written_as_they_are():
    content = {"modes": {"test": {"partitions": [{"file": "a}, {b"}, {"file": "c"}]}, "training": {"partitions": []}}}
    assert json.loads(as_text(content)) == content


def test_what_others_say_while_a_writer_is_at_work_stays(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_rows=4, source=SOURCE) as writer:
        for start in range(0, 9, 3):  # nothing is sealed before the second time
            writer.append(rows(start, start + 3), **where(start, start + 3))
            writer.commit()
            if not start:
                said = Description.read(tmp_path / "d")
                replace(said, metadata={"author": "somebody"}).write(tmp_path / "d")
    assert Description.read(tmp_path / "d").metadata == {"author": "somebody"}
    assert_rows(SampleDataset(tmp_path / "d"), 0, 9)
