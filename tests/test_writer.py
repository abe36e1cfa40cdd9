"""What a writer stores beside the samples, what it refuses, and what readers see meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.data.dataset import SampleDataset
from physgym.data.mapping import Stitched
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (3,), np.dtype("f4"), "input"), Field("flag", (), np.dtype("?"), "target")])
PARAMETERS = SampleSpec([Field("stiffness", (2,), np.dtype("f8"), "additional", "N/m")])
ROW = SPEC.nbytes + 28


def names(rows):
    """Episode and step of samples: four to an episode."""
    rows = np.asarray(rows)
    return {"episode": rows // 4, "step": rows % 4, "seed": (rows // 4 + 7).astype("u8")}


def samples(rows):
    rows = np.asarray(rows)
    return {"x": (rows[:, None] + np.arange(3) / 4).astype("f4"), "flag": rows % 2 == 0}


def write(writer, start, stop, *, rejected=True):
    """Samples from start to stop; those that 5 divides are rejected; parameters of every episode that begins."""
    rows = np.arange(start, stop)
    begun = rows[rows % 4 == 0] // 4
    writer.add_parameters(
        {"stiffness": np.stack([begun, begun + 0.5], 1)}, episode=begun, seed=(begun + 7).astype("u8")
    )
    bad = rows[rows % 5 == 0]
    if rejected and len(bad):
        diverged = samples(bad)
        diverged["x"][:, 1] = np.nan
        writer.add_rejected(diverged, [f"row {i} diverged" for i in bad], **names(bad))
    good = rows[rows % 5 != 0]
    writer.append(samples(good), **names(good))


def make(path, portions, total, **kwargs):
    kwargs = {"parameters": PARAMETERS, "rejected": True, "resume": True, "max_file_size": 100 * ROW, **kwargs}
    writer, start = SampleWriter(path, SPEC, **kwargs), 0
    for portion in portions:
        stop = min(total, start + portion)
        write(writer, start, stop)
        start = stop
        if portion % 3 == 0:
            writer.close(seal=portion % 2 == 0)
            writer = SampleWriter(path, SPEC, **kwargs)
        if portion % 7 == 0:
            writer.commit()
    write(writer, start, total)
    writer.close()
    return SampleDataset(path)


def folder_bytes(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_parameters_and_rejected_samples_are_stored_beside(tmp_path):
    dataset = make(tmp_path / "d", [], 101)
    good = [i for i in range(101) if i % 5]
    np.testing.assert_array_equal(dataset[:]["x"], samples(good)["x"])
    np.testing.assert_array_equal(dataset.parameter_episodes, np.arange(26))
    np.testing.assert_array_equal(dataset.parameters["stiffness"][:, 1], np.arange(26) + 0.5)
    rejected = dataset.rejected
    assert rejected.reasons == [f"row {i} diverged" for i in range(0, 101, 5)]
    np.testing.assert_array_equal(rejected.episode * 4 + rejected.step, np.arange(0, 101, 5))
    assert np.isnan(rejected.samples["x"][:, 1]).all()
    assert len(dataset.partitions) > 1
    plain = SampleWriter(tmp_path / "plain", SPEC)
    with plain, pytest.raises(DatasetError, match="was not asked to store rejected"):
        plain.add_rejected(samples([0]), ["no"], **names([0]))
    with pytest.raises(DatasetError, match="continue it in the same way"):
        SampleWriter(tmp_path / "d", SPEC, resume=True)


@given(st.lists(st.integers(1, 25), max_size=12))
@settings(max_examples=8, deadline=None)
def test_the_files_do_not_depend_on_portions_commits_and_pauses(tmp_path_factory, portions):
    folder = tmp_path_factory.mktemp("portions")
    try:
        make(folder / "whole", [], 120)
        make(folder / "parts", portions, 120)
        assert folder_bytes(folder / "parts") == folder_bytes(folder / "whole")
    finally:
        shutil.rmtree(folder)


def test_more_rejected_samples_than_accepted_ones_begin_a_new_partition(tmp_path):
    def fill(path, portion):
        with SampleWriter(path, SPEC, rejected=True, max_file_size=60 * ROW) as writer:
            for start in range(0, 200, portion):
                rows = np.arange(start, start + portion)
                bad, good = rows[rows % 10 != 9], rows[rows % 10 == 9]
                writer.add_rejected(samples(bad), ["no"] * len(bad), **names(bad))
                writer.append(samples(good), **names(good))
        return SampleDataset(path)

    dataset = fill(tmp_path / "a", 200)
    fill(tmp_path / "b", 10)
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    assert len(dataset) == 20
    assert len(dataset.rejected.reasons) == 180
    assert all(p.tables["rejected"].count <= p.tables["rejected"].capacity for p in dataset.partitions)


def test_rejected_samples_at_the_end_are_stored_when_the_writer_closes(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, rejected=True) as writer:
        writer.append(samples([0, 1]), **names([0, 1]))
        writer.add_rejected(samples([2]), ["ü" * 300], **names([2]))
    dataset = SampleDataset(tmp_path / "d")
    assert dataset.rejected.reasons == ["ü" * 100]
    assert len(dataset) == 2


@pytest.mark.parametrize("policy", ["error", "reject", "allow"])
def test_values_that_are_not_finite(tmp_path, policy):
    bad = samples(range(8))
    bad["x"][5, 2], bad["x"][6, 0] = np.nan, np.inf
    writer = SampleWriter(tmp_path / "d", SPEC, nonfinite=policy, rejected=True)
    writer.append(bad, **names(range(8)))
    if policy == "error":
        with pytest.raises(SampleError, match=r"episode 1, step 1: .*\"x\".*1 non-finite|episode 1, step 1: .*'x'"):
            writer.commit()
        writer.append(samples([8]), **names([8]))  # one bad sample does not end the writer
    writer.close()
    dataset = SampleDataset(tmp_path / "d")
    np.testing.assert_array_equal(
        dataset.index("episode") * 4 + dataset.index("step"),
        {"error": [0, 1, 2, 3, 4, 8], "reject": [0, 1, 2, 3, 4, 7], "allow": range(8)}[policy],
    )
    assert writer.discarded == (2 if policy == "reject" else 0)
    assert dataset.rejected.reasons == (["x is not finite"] * 2 if policy == "reject" else [])
    assert dataset.statistics["x"].count == 6
    assert np.isfinite(dataset.statistics["x"].std).all()
    with pytest.raises(ConfigError, match="nonfinite must be one of"):
        SampleWriter(tmp_path / "e", SPEC, nonfinite="ignore")


def test_a_bad_sample_in_the_last_portion_is_reported_by_close(tmp_path):
    writer = SampleWriter(tmp_path / "d", SPEC)
    bad = samples([0, 1])
    bad["x"][1] = np.nan
    writer.append(bad, **names([0, 1]))
    with pytest.raises(SampleError, match="step 1"):
        writer.close()
    assert len(SampleDataset(tmp_path / "d")) == 1


def test_one_sample_at_a_time(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, buffer_size=5 * ROW) as writer:
        for i in range(17):
            row = samples([i])
            writer.add({"x": row["x"][0], "flag": bool(i % 2 == 0)}, episode=i // 4, step=i % 4, seed=i // 4 + 7)
        assert writer.count == 17
        assert writer.last == (4, 0)
        for wrong, text in (
            ({"x": np.zeros(3, "f4")}, "lack the fields"),
            ({"x": np.zeros(4, "f4"), "flag": True}, "shape"),
            ({"x": np.zeros(3, "f4"), "other": True}, "lack the field"),
            ({"x": np.zeros(3, "c8"), "flag": True}, "dtype complex64"),
        ):
            with pytest.raises(DatasetError, match=text):
                writer.add(wrong, episode=9, step=0, seed=0)
    with SampleWriter(tmp_path / "e", SPEC) as writer:
        writer.append(samples(range(17)), **names(range(17)))
    assert folder_bytes(tmp_path / "d") == folder_bytes(tmp_path / "e")


def test_samples_are_committed_after_a_while_without_being_asked(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=0.05) as writer:
        writer.append(samples(range(3)), **names(range(3)))
        waited = threading.Event()
        for _ in range(400):
            if writer.committed == 3:
                break
            waited.wait(0.05)
        assert len(SampleDataset(tmp_path / "d")) == 3


def test_several_threads_write_at_once(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=50 * ROW, buffer_size=11 * ROW) as writer:

        def work(k):
            for i in range(k * 100, k * 100 + 100):
                writer.add({name: value[0] for name, value in samples([i]).items()}, episode=i // 4, step=i % 4, seed=0)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    dataset = SampleDataset(tmp_path / "d")
    rows = dataset.index("episode") * 4 + dataset.index("step")
    np.testing.assert_array_equal(np.sort(rows), np.arange(400))
    np.testing.assert_array_equal(dataset[:]["x"], samples(rows)["x"])


def test_a_writer_leaves_no_thread_and_refuses_more_after_it_is_closed(tmp_path):
    before = threading.active_count()
    writer = SampleWriter(tmp_path / "d", SPEC)
    writer.append(samples([0]), **names([0]))
    writer.close()
    writer.close()
    assert threading.active_count() == before
    for call in (lambda: writer.append(samples([1]), **names([1])), writer.commit):
        with pytest.raises(DatasetError, match="is closed"):
            call()


FORGETFUL = """
import sys, numpy as np
from physgym.data.writer import SampleWriter
from physgym.sample import Field, SampleSpec
writer = SampleWriter(sys.argv[1], SampleSpec([Field("x", (), np.dtype("f4"), "input")]), commit_interval=100)
writer.add({"x": np.float32(1)}, episode=0, step=0, seed=0)
"""


def test_a_program_that_forgets_to_close_its_writer_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORGETFUL, str(tmp_path / "d")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(SampleDataset(tmp_path / "d")) == 1


def test_a_folder_that_is_removed_is_noticed(tmp_path):
    writer = SampleWriter(tmp_path / "d", SPEC)
    writer.append(samples([0]), **names([0]))
    writer.commit()
    shutil.rmtree(tmp_path / "d")
    writer.append(samples([1]), **names([1]))
    with pytest.raises(DatasetError, match=r"training-00000\.h5.*removed while it was written"):
        writer.commit()
    writer.close()


def test_durable_commits_read_the_same(tmp_path):
    for name, durable in (("a", True), ("b", False)):
        with SampleWriter(tmp_path / name, SPEC, durable=durable, max_file_size=9 * ROW) as writer:
            writer.append(samples(range(40)), **names(range(40)))
            writer.commit()
            assert len(SampleDataset(tmp_path / name)) == 40
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")


# --- readers


def test_a_reader_sees_more_after_refresh(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=10 * ROW) as writer:
        writer.append(samples(range(7)), **names(range(7)))
        writer.commit()
        dataset, mini = SampleDataset(tmp_path / "d"), SampleDataset(tmp_path / "d", mini=12)
        early = SampleDataset(tmp_path / "d")
        assert (len(dataset), len(mini)) == (7, 7)
        writer.append(samples(range(7, 33)), **names(range(7, 33)))
        writer.commit()
        assert len(dataset) == 7
        assert (dataset.refresh(), mini.refresh()) == (26, 5)
        np.testing.assert_array_equal(dataset[:]["x"], samples(range(33))["x"])
        assert dataset.statistics["x"].count == 33
    assert dataset.refresh() == 0
    # the partition it knows was sealed, and lies elsewhere now: mapped or read, it sees what it saw
    np.testing.assert_array_equal(early.read(0, 7)["x"], samples(range(7))["x"])
    np.testing.assert_array_equal(early[[6, 0]]["x"], samples([6, 0])["x"])
    dataset.verify()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.data())
@settings(max_examples=12, deadline=None)
def test_gathering_equals_indexing_the_whole(tmp_path_factory, sizes, data):
    folder, start = tmp_path_factory.mktemp("gather"), 0
    for i, size in enumerate(sizes):
        with SampleWriter(folder / str(i), SPEC, max_file_size=11 * ROW) as writer:
            writer.append(samples(range(start, start + size)), **names(range(start, start + size)))
        start += size
    dataset = SampleDataset([folder / str(i) for i in range(len(sizes))])
    whole = samples(range(start))
    rows = np.array(data.draw(st.lists(st.integers(0, start - 1), max_size=40)), int)
    unmapped = SampleDataset(dataset.paths)
    unmapped.__dict__["_stitched"] = None  # as where it is larger than the memory
    for reader in (dataset, unmapped):
        out = {name: np.empty((len(rows), *value.shape[1:]), value.dtype) for name, value in whole.items()}
        for got in (reader.gather(rows), reader[rows.tolist()], reader.gather(rows, out=out)):
            for name in SPEC:
                np.testing.assert_array_equal(got[name], whole[name][rows])
        np.testing.assert_array_equal(out["x"], whole["x"][rows])
        for name in SPEC:
            np.testing.assert_array_equal(reader[2:9][name], whole[name][2:9])
            np.testing.assert_array_equal([sample[name] for sample in reader], whole[name])
            np.testing.assert_array_equal(reader[9:2:-2][name], whole[name][:start][9:2:-2])
    shutil.rmtree(folder)


def test_partitions_of_odd_size_are_stitched_into_one_array(tmp_path):
    wide = SampleSpec([Field("x", (1500,), np.dtype("u2"), "input"), Field("y", (), np.dtype("f8"), "target")])
    values = np.arange(2000 * 1500, dtype="u2").reshape(2000, 1500)
    for name, part in (("a", slice(0, 700)), ("b", slice(700, 2000))):
        with SampleWriter(tmp_path / name, wide, max_file_size=1 << 21) as writer:
            rows = np.arange(2000)[part]
            writer.append({"x": values[part], "y": rows / 2}, episode=rows, step=rows * 0, seed=rows.astype("u8"))
    dataset = SampleDataset([tmp_path / "a", tmp_path / "b"])
    assert Stitched.possible(dataset.partitions, ["data/x", "data/y"])
    rows = np.random.default_rng(0).permutation(2000)
    np.testing.assert_array_equal(dataset.gather(rows)["x"], values[rows])
    np.testing.assert_array_equal(dataset.gather(rows)["y"], rows / 2)
    with pytest.raises(DatasetError, match="do not follow one another in memory"):
        _ = dataset.arrays
    one = SampleDataset(tmp_path / "b")
    assert len(one.partitions) > 1
    np.testing.assert_array_equal(one.arrays["x"], values[700:])
    assert not one.arrays["x"].flags.writeable
    assert len(SampleDataset(tmp_path / "b", mini=5).arrays["y"]) == 5


def test_checksums_find_a_changed_byte(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=10 * ROW) as writer:
        writer.append(samples(range(25)), **names(range(25)))
    dataset = SampleDataset(tmp_path / "d")
    dataset.verify()
    part = dataset.partitions[1]
    with part.path.open("r+b") as file:
        file.seek(part.tables["samples"].columns["data/x"].offset + 5)
        file.write(b"\x55")
    with pytest.raises(DatasetError, match=r"training-00001\.h5 has been changed or damaged"):
        dataset.verify()


def test_a_copy_that_is_cut_short_is_named(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=1 << 20) as writer:
        writer.append(samples(range(5000)), **names(range(5000)))
        writer.commit()
        file = tmp_path / "d" / "training-00000.h5"
        end = max(c.offset + 5000 * c.row for c in Partition(file).tables["samples"].columns.values())
        data = file.read_bytes()[: end - 8]
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=r"training-00000\.h5"):
        SampleDataset(tmp_path / "d")


def test_float32_statistics_of_a_large_mean_are_exact(tmp_path):
    spec = SampleSpec([Field("wide", (700,), np.dtype("f4"), "input"), Field("one", (), np.dtype("f4"), "target")])
    rng = np.random.default_rng(0)
    wide, one = (1e4 + rng.standard_normal((3000, 700))).astype("f4"), (1e4 + rng.standard_normal(3000)).astype("f4")
    index = np.arange(3000)
    with SampleWriter(tmp_path / "d", spec, max_file_size=1 << 21) as writer:
        for start in range(0, 3000, 97):
            part = slice(start, start + 97)
            writer.append(
                {"wide": wide[part], "one": one[part]},
                episode=index[part],
                step=index[part],
                seed=index[part].astype("u8"),
            )
        writer.commit()
        assert writer.statistics["one"].count == 3000
    dataset = SampleDataset(tmp_path / "d")
    for found in (dataset.statistics, dataset.compute_statistics()):
        for name, values in (("wide", wide), ("one", one)):
            exact = values.astype("f8")
            np.testing.assert_allclose(found[name].mean, exact.mean(0), rtol=1e-6)
            np.testing.assert_allclose(found[name].std, exact.std(0), rtol=1e-6)
            np.testing.assert_array_equal(found[name].min, exact.min(0))
            np.testing.assert_array_equal(found[name].max, exact.max(0))
