"""Bounded datasets: whole old partitions go, whatever happens; no other dataset loses any."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym import SampleDataset
from physgym.data import SampleWriter
from physgym.data.description import rebuild_description
from physgym.data.summary import summarize
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), np.dtype("f4"), "input")])


def writer(path, **kwargs):
    return SampleWriter(path, SPEC, **{"max_rows": 10, "bounded": True, "commit_interval": 0} | kwargs)


def append(made, start, stop):
    rows = np.arange(start, stop)
    made.append({"x": rows.astype("f4")}, episode=rows * 0, step=rows, seed=rows * 0)


def seal(made):
    made._partitions.seal_full(until=lambda: False)


def described(path):
    return json.loads((path / "dataset.json").read_text())["modes"]["training"]


def test_old_partitions_go_and_the_rest_is_read(tmp_path):
    with writer(tmp_path / "d") as made:
        append(made, 0, 35)
        seal(made)
        before = SampleDataset(tmp_path / "d")
        made.drop_oldest(2)
        assert made.dropped == 2
        assert sorted(file.name for file in (tmp_path / "d").glob("*.h5")) == ["training-00002.h5", "training-00003.h5"]
        data = SampleDataset(tmp_path / "d")
        assert data[:]["x"].tolist() == list(range(20, 35))
        assert before.dropped == 0
        assert data.dropped == 20
        assert before.refresh() == -20
        append(made, 35, 45)
    assert SampleDataset(tmp_path / "d")[:]["x"].tolist() == list(range(20, 45))
    assert "bounded: old partitions are dropped, 20 samples so far" in "\n".join(summarize(tmp_path / "d"))
    SampleDataset(tmp_path / "d").verify()


def test_it_goes_on(tmp_path):
    with writer(tmp_path / "d") as made:
        append(made, 0, 25)
        seal(made)
        made.drop_oldest(1)
    with writer(tmp_path / "d", resume=True) as made:
        append(made, 25, 45)
        seal(made)
        made.drop_oldest(1)
        assert made.dropped == 2
    assert SampleDataset(tmp_path / "d")[:]["x"].tolist() == list(range(20, 45))
    assert described(tmp_path / "d")["bounded"] == {"partitions": 2, "samples": 20}


def test_what_is_open_stays(tmp_path):
    with writer(tmp_path / "d") as made:
        append(made, 0, 25)
        seal(made)
        made.drop_oldest(7)
        assert made.dropped == 2
        assert len(SampleDataset(tmp_path / "d")) == 5


def test_a_kill_between_description_and_removal_leaves_a_whole_dataset(tmp_path):
    with writer(tmp_path / "d") as made:
        append(made, 0, 25)
        seal(made)
        old = (tmp_path / "d" / "training-00000.h5").read_bytes()
        made.drop_oldest(1)
    (tmp_path / "d" / "training-00000.h5").write_bytes(old)
    assert SampleDataset(tmp_path / "d")[:]["x"].tolist() == list(range(10, 25))
    with writer(tmp_path / "d", resume=True) as made:
        append(made, 25, 26)
    assert not (tmp_path / "d" / "training-00000.h5").exists()


def test_other_datasets_lose_nothing(tmp_path):
    with writer(tmp_path / "d", bounded=False) as made:
        append(made, 0, 25)
        seal(made)
        with pytest.raises(DatasetError, match="is not bounded"):
            made.drop_oldest(1)
        assert len(SampleDataset(tmp_path / "d")) == 25
    assert SampleDataset(tmp_path / "d").dropped is None
    assert "bounded" not in described(tmp_path / "d")
    (tmp_path / "d" / "training-00000.h5").unlink()
    with pytest.raises(DatasetError, match="lacks training-00000"):
        SampleDataset(tmp_path / "d")


def test_a_dataset_is_continued_as_it_was_begun(tmp_path):
    with writer(tmp_path / "d", bounded=False) as made:
        append(made, 0, 5)
    with pytest.raises(DatasetError, match=r"bounded=\.\.\."):
        writer(tmp_path / "d", resume=True)


def test_a_gap_in_a_bounded_dataset_is_noticed(tmp_path):
    with writer(tmp_path / "d") as made:
        append(made, 0, 35)
    (tmp_path / "d" / "training-00001.h5").unlink()
    with pytest.raises(DatasetError, match="lacks training-00001"):
        SampleDataset(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="not the partition before it"):
        SampleDataset(tmp_path / "d")


def test_the_description_is_written_anew(tmp_path):
    with writer(tmp_path / "d") as made:
        append(made, 0, 25)
        seal(made)
        made.drop_oldest(1)
    rebuild_description(tmp_path / "d")
    assert described(tmp_path / "d")["bounded"] == {"partitions": 1, "samples": 10}
    (tmp_path / "d" / "dataset.json").unlink()
    rebuild_description(tmp_path / "d")
    assert described(tmp_path / "d")["bounded"]["partitions"] == 1
    assert SampleDataset(tmp_path / "d")[:]["x"].tolist() == list(range(10, 25))


def test_a_storage_is_not_bounded():
    with pytest.raises(ConfigError, match="storage"):
        writer("s3://bucket/prefix")
