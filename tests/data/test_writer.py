"""What a writer stores beside the samples, what it refuses, and what readers see meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.data import capacity
from physgym.data.dataset import SampleDataset
from physgym.data.layout import PartitionLayout
from physgym.data.memory_map import Stitched
from physgym.data.partition import Partition
from physgym.data.statistics import Statistics
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


@pytest.mark.slow
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
    with pytest.raises(DatasetError, match="continue it with the same simulation"):
        SampleWriter(tmp_path / "d", SPEC, resume=True)


@pytest.mark.slow
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


@pytest.mark.slow
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
        [sys.executable, "-c", FORGETFUL, str(tmp_path / "d")], capture_output=True, text=True, check=False, timeout=110
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


@pytest.mark.slow
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


# --- interrupts, forks, faults


class Interrupting:
    """Raises KeyboardInterrupt once, at the n-th place in the writer where Python looks for signals."""

    def __init__(self, place):
        self.left = place

    def __enter__(self):
        sys.setprofile(self)

    def __exit__(self, *_):
        sys.setprofile(None)

    def __call__(self, frame, event, argument):
        # not within HDF5's calls of Python functions: it makes an error of its own of that
        inside = "physgym/data/" in frame.f_code.co_filename and "_HeaderImage" not in frame.f_code.co_qualname
        if inside and event in ("call", "c_return"):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def interrupted_writing(path, interrupting):
    """Samples in portions; what an interrupted call has not taken is given to the next one."""
    options = {"max_file_size": 10 * ROW, "buffer_size": 4 * ROW, "commit_interval": 1000}
    writer, done = SampleWriter(path, SPEC, **options), 0
    for stop in (2, 4, 7, 9, 24, 27):
        try:
            with interrupting:
                writer.append(samples(range(done, stop)), **names(range(done, stop)))
        except KeyboardInterrupt:
            assert done <= writer.count <= stop
            rest = range(writer.count, stop)
            writer.append(samples(rest), **names(rest))
        assert writer.count == stop
        done = stop
    with contextlib.suppress(KeyboardInterrupt), interrupting:
        writer.close()
    SampleWriter(path, SPEC, resume=True, **options).close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # within the end of a generator
def test_an_interrupt_at_any_place_loses_and_doubles_nothing(tmp_path):
    interrupted_writing(tmp_path / "whole", Interrupting(0))
    whole, counting = folder_bytes(tmp_path / "whole"), Interrupting(0)
    interrupted_writing(tmp_path / "count", counting)
    for place in np.random.default_rng(0).integers(1, -counting.left, 25).tolist():
        interrupted_writing(tmp_path / str(place), Interrupting(place))
        assert folder_bytes(tmp_path / str(place)) == whole, place


def test_a_forked_child_has_no_part_in_a_writer(tmp_path):
    writer = SampleWriter(tmp_path / "d", SPEC, commit_interval=1000)
    writer.append(samples([0]), **names([0]))
    writer.commit()
    writer.append(samples([1]), **names([1]))
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            theirs.recv(1)
            writer.close(seal=False)  # as it does when it exits
            theirs.send(b"x")
            threading.Event().wait(60)
        finally:
            os._exit(0)
    try:
        writer.append(samples([2]), **names([2]))
        writer.commit()
        ours.send(b"x")
        assert ours.recv(1) == b"x"
        assert len(SampleDataset(tmp_path / "d")) == 3
        writer.append(samples([3]), **names([3]))
        writer.close()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        ours.close()
        theirs.close()
    np.testing.assert_array_equal(SampleDataset(tmp_path / "d")[:]["x"], samples(range(4))["x"])


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    writer = SampleWriter(tmp_path / "d", SPEC)
    writer.append(samples([0]), **names([0]))
    child = os.fork()
    if child == 0:
        try:
            threading.Event().wait(60)
        finally:
            os._exit(0)
    try:
        writer.close()
        SampleWriter(tmp_path / "d", SPEC, resume=True).close()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_child_that_has_not_given_up_the_lock_yet_does_not_keep_it(tmp_path):
    writer = SampleWriter(tmp_path / "d", SPEC)
    writer.append(samples([0]), **names([0]))
    child = os.dup(writer._claim._lock)  # as a fork has it
    try:
        writer.close()
        SampleWriter(tmp_path / "d", SPEC, resume=True).close()
    finally:
        os.close(child)


def test_what_fails_in_the_thread_is_said_by_close(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = SampleWriter(tmp_path / "d", SPEC, commit_interval=0.01)
    writer.append(samples([0]), **names([0]))
    writer.commit()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        writer.append(samples([1]), **names([1]))
        waited = threading.Event()
        for _ in range(1000):
            if writer.count == 1:
                break
            waited.wait(0.01)
    with pytest.raises(DatasetError, match="No space left on device"):
        writer.close()
    writer.close()


def test_the_count_does_not_waver_while_the_thread_commits(tmp_path, monkeypatch):
    seen, others, real = [], [], os.pwrite
    writer = SampleWriter(tmp_path / "d", SPEC, commit_interval=1000)
    writer.append(samples(range(3)), **names(range(3)))

    def pwrite(*arguments):
        others.append(other := threading.Thread(target=lambda: seen.append(writer.count)))
        other.start()
        other.join(0.02)  # it waits, or has seen all samples
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    writer.commit()
    writer.close()
    for other in others:
        other.join(30)
    assert set(seen) == {3}


# --- what is refused

INDEX = {"episode": np.zeros(3, int), "step": np.arange(3), "seed": np.zeros(3, "u8")}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"step": 5}, "index/step has shape"),
        ({"step": [1]}, "index/step has shape"),
        ({"episode": [0.5, 1.5, 2.5]}, "index/episode has dtype float64"),
        ({"seed": np.full(3, -1)}, "index/seed has values that uint64 cannot hold"),
        ({"env": np.full(3, 1 << 40)}, "index/env has values that int32 cannot hold"),
        ({"episode": np.full(3, 1 << 63, "u8")}, "index/episode has values that int64 cannot hold"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, change, text):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        with pytest.raises(DatasetError, match=text):
            writer.append(samples(range(3)), **{**INDEX, **change})
        writer.append(samples(range(3)), **{name: value.tolist() for name, value in INDEX.items()}, env=np.full(3, 7))
    assert len(SampleDataset(tmp_path / "d")) == 3
    np.testing.assert_array_equal(SampleDataset(tmp_path / "d").index("env"), [7, 7, 7])


def test_values_that_a_field_cannot_hold_are_refused(tmp_path):
    spec = SampleSpec([Field("n", (), np.dtype("i2"), "input"), Field("text", (), np.dtype("S3"), "target")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        where = {"episode": np.zeros(1, int), "step": np.zeros(1, int), "seed": np.zeros(1, "u8")}
        for wrong in ({"n": [70_000], "text": [b"abc"]}, {"n": [7], "text": [b"abcd"]}):
            with pytest.raises(DatasetError, match=r"has values that .* cannot hold"):
                writer.append(wrong, **where)
            with pytest.raises(DatasetError, match=r"has values that .* cannot hold"):
                writer.add({name: value[0] for name, value in wrong.items()}, episode=0, step=0, seed=0)
        with pytest.raises(DatasetError, match="n is not an array"):
            writer.append({"n": [1, [2]], "text": [b"a", b"b"]}, **INDEX)
        for number in (-1, 1 << 64, 0.5):
            with pytest.raises(DatasetError, match="do not name a sample"):
                writer.add({"n": 1, "text": b"a"}, episode=0, step=0, seed=number)
        writer.append({"n": [7], "text": [b"abc"]}, **where)
    assert SampleDataset(tmp_path / "d")[0] == {"n": 7, "text": b"abc"}


@pytest.mark.parametrize(
    "field",
    [
        *(Field("x", (), np.dtype(dtype), "input") for dtype in ("U0", "M8[s]", "O", "S0", "i1,f4")),
        *(Field(name, (), np.dtype("f4"), "input") for name in ("a\0b", "\udc80")),
        Field("x", (), np.dtype("f4"), "input", "\0"),
    ],
)
def test_fields_that_hdf5_cannot_hold_are_refused(tmp_path, field):
    with pytest.raises(ConfigError):
        SampleWriter(tmp_path / "d", SampleSpec([field]))
    with pytest.raises(ConfigError):
        SampleWriter(tmp_path / "d", SPEC, parameters=SampleSpec([field]))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("source", [{"a": np.float32(1)}, {1: 2, "b": 3}])
def test_a_source_that_is_no_json_is_refused(tmp_path, source):
    with pytest.raises(ConfigError, match="source must be JSON data"):
        SampleWriter(tmp_path / "d", SPEC, source=source)


def test_commits_by_time_may_be_ruled_out(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, commit_interval=float("inf")) as writer:
        writer.append(samples([0]), **names([0]))
        assert writer.committed == 0
        assert writer._upkeep.alive


def test_partitions_do_not_begin_anew_when_their_numbers_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr("physgym.data.partition_set.MOST_PARTITIONS", 1)
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=ROW) as writer:
        writer.append(samples([0]), **names([0]))
    writer = SampleWriter(tmp_path / "d", SPEC, max_file_size=ROW, resume=True)
    writer.append(samples([1]), **names([1]))
    with pytest.raises(DatasetError, match="100000 partitions at most"):
        writer.close()
    assert len(SampleDataset(tmp_path / "d")) == 1


def test_rejects_of_interleaved_episodes_are_all_kept(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, nonfinite="reject", rejected=True) as writer:
        for episode, step in ((1, 0), (0, 1), (1, 1), (0, 2)):
            bad = samples([0])
            bad["x"][:] = np.nan
            writer.append(bad, episode=np.array([episode]), step=np.array([step]), seed=np.zeros(1, "u8"))
            writer.commit()
        writer.append(samples([9]), episode=np.array([2]), step=np.array([0]), seed=np.zeros(1, "u8"))
    assert SampleDataset(tmp_path / "d").rejected.episode.tolist() == [1, 0, 1, 0]


def test_parameters_that_do_not_ascend_are_refused(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, parameters=PARAMETERS) as writer:
        with pytest.raises(DatasetError, match="ascending order"):
            writer.add_parameters({"stiffness": np.zeros((2, 2))}, episode=np.array([5, 3]), seed=np.zeros(2, "u8"))
        writer.append(samples([0]), **names([0]))


# --- readers of what is replaced


def test_a_reader_keeps_its_statistics_and_checksum_while_a_writer_continues(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append(samples(range(7)), **names(range(7)))
    early, mean = SampleDataset(tmp_path / "d"), samples(range(7))["x"].mean(0)
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as writer:
        writer.append(samples(range(7, 30)), **names(range(7, 30)))
        writer.commit()
        np.testing.assert_allclose(early.statistics["x"].mean, mean)  # the file is open: it has none
    late = SampleDataset(early.paths)
    early.verify()
    late.verify()
    np.testing.assert_array_equal(early[:]["x"], samples(range(7))["x"])


def test_a_dataset_that_was_made_anew_is_not_taken_for_the_old_one(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append(samples(range(5000)), **names(range(5000)))
    dataset, unmapped = SampleDataset(tmp_path / "d"), SampleDataset(tmp_path / "d")
    unmapped.__dict__["_stitched"] = None
    shutil.rmtree(tmp_path / "d")
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append(samples(range(3)), **names(range(3)))
    for reader in (dataset, unmapped):
        with pytest.raises(DatasetError, match="another file has taken its place"):
            reader.gather([4999])


@pytest.mark.parametrize("gather", [True, False])
def test_a_partition_of_as_many_other_samples_is_not_taken_for_the_old_one(tmp_path, gather):
    for folder, first in (("d", 0), ("other", 12)):
        with SampleWriter(tmp_path / folder, SPEC) as writer:
            writer.append(samples(range(first, first + 12)), **names(range(first, first + 12)))
    dataset, copied = SampleDataset(tmp_path / "d"), SampleDataset(tmp_path / "other")
    file = tmp_path / "d" / "training-00000.h5"
    (tmp_path / "other" / "training-00000.h5").replace(file)
    with pytest.raises(DatasetError, match="another file has taken its place"):
        dataset.gather([11]) if gather else dataset.read(0, 12)
    shutil.copy(file, tmp_path / "other" / "training-00000.h5")  # the same rows
    np.testing.assert_array_equal(copied[:]["x"], samples(range(12, 24))["x"])


def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(tmp_path, monkeypatch):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append(samples(range(3)), **names(range(3)))
    file, real, times = tmp_path / "d" / "training-00000.h5", h5py.File, []

    def replacing(*arguments, **options):
        if not times:
            times.append(1)
            shutil.copy(file, tmp_path / "copy")
            (tmp_path / "copy").replace(file)
        return real(*arguments, **options)

    monkeypatch.setattr(h5py, "File", replacing)
    assert Partition(file).count == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.attrs.modify("source", "[1"),
        lambda file: file.attrs.modify("source", "[1]"),
        lambda file: file.attrs.modify("fields", "[]"),
        lambda file: file.attrs.modify("fields", '[{"name": 3}]'),
        lambda file: file.attrs.modify("parameters", "{"),
        lambda file: file.attrs.__delitem__("version"),
        lambda file: file.__delitem__("sealed"),
        lambda file: file.create_group("data/flag/x") if file.pop("data/flag") is None else None,
        lambda file: file["num_samples"].__setitem__(0, 2),
        lambda file: file.move("statistics/x/mean", "elsewhere"),
        lambda file: file.__delitem__("checksum"),
    ],
)
def test_whatever_is_damaged_is_a_dataset_error(tmp_path, damage):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append(samples(range(3)), **names(range(3)))
    with h5py.File(tmp_path / "d" / "training-00000.h5", "r+") as file:
        damage(file)

    def read():
        dataset = SampleDataset(tmp_path / "d")
        return dataset.statistics, dataset.verify()

    with pytest.raises(DatasetError, match=r"training-00000\.h5"):
        read()


def test_selected_samples_stay_the_same_when_a_folder_before_them_grows(tmp_path):
    writers = [SampleWriter(tmp_path / name, SPEC) for name in "ab"]
    for writer, start in zip(writers, (0, 100), strict=True):
        writer.append(samples(range(start, start + 4)), **names(range(4)))
        writer.commit()
    both = SampleDataset([tmp_path / "a", tmp_path / "b"])
    chosen = both.subset([1, 5, 7])
    stored = [dataset.__reduce__() for dataset in (both, chosen)]  # as it is pickled
    writers[0].append(samples(range(4, 9)), **names(range(4, 9)))
    for writer in writers:
        writer.close()
    want = samples([1, 101, 103])["x"]
    assert chosen.refresh() == 0
    for reader in (chosen, both.subset([1, 5, 7]), stored[1][0](*stored[1][1])):
        np.testing.assert_array_equal(reader[:]["x"], want)
        np.testing.assert_array_equal(reader.index("step"), [1, 1, 3])
    np.testing.assert_array_equal(stored[0][0](*stored[0][1])[:]["x"], samples([*range(4), *range(100, 104)])["x"])


def test_arrays_to_gather_into_must_fit(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append(samples(range(5)), **names(range(5)))
    mapped, unmapped = SampleDataset(tmp_path / "d"), SampleDataset(tmp_path / "d")
    unmapped.__dict__["_stitched"] = None
    fixed = np.zeros((2, 3), "f4")
    fixed.flags.writeable = False
    for reader in (mapped, unmapped):
        for wrong in (np.zeros((3, 2), "f4").T, np.zeros((2, 3)), np.zeros((4, 3), "f4"), fixed, None):
            out = {"flag": np.zeros(2, "?")} | ({} if wrong is None else {"x": wrong})
            with pytest.raises(ConfigError, match=r"out\['x'\] must be a C-contiguous array \(2, 3\) of float32"):
                reader.gather([0, 1], out=out)


def test_folders_with_different_parameters_are_not_mixed(tmp_path):
    for name in ("stiffness", "mass"):
        spec = SampleSpec([Field(name, (2,), np.dtype("f8"), "additional")])
        with SampleWriter(tmp_path / name, SPEC, parameters=spec) as writer:
            writer.add_parameters({name: np.zeros((1, 2))}, episode=np.zeros(1, int), seed=np.zeros(1, "u8"))
            writer.append(samples([0]), **names([0]))
    dataset = SampleDataset([tmp_path / "stiffness", tmp_path / "mass"])
    with pytest.raises(DatasetError, match="different parameters"):
        _ = dataset.parameters
    with pytest.raises(ConfigError, match="this dataset has 0"):
        dataset.subset([]).split(0.5)


@pytest.mark.parametrize("scale", [1e-25, 1e-19, 1.0, 1e20, 1e37])
def test_statistics_of_tiny_and_huge_values(scale):
    values = (np.array([1, -1, 3, 2.5]) * scale).astype("f4")
    found = Statistics.of(values)
    exact = values.astype("f8")
    np.testing.assert_allclose([found.mean, found.std], [exact.mean(), exact.std()], rtol=1e-6)
    twice = found.merge(Statistics.of(np.array([1e308, -1e308])))  # no warning
    assert twice.count == 6


@pytest.mark.parametrize("max_file_size", [1 << 15, 1 << 16, 1 << 18, 1 << 20, 1 << 22])
def test_how_many_rows_fit_is_found_with_few_looks_at_a_file(max_file_size, monkeypatch):
    spec = SampleSpec([Field("x", (3,), "f4", "input", ""), Field("y", (), "f8", "target", "")])
    looks, measure = [], capacity.file_size
    monkeypatch.setattr(capacity, "file_size", lambda *args: looks.append(args[1]) or measure(*args))
    for layout in (PartitionLayout(spec), PartitionLayout(spec, spec, rejected=True, endings=True)):
        attributes = {"source": f"{max_file_size} and more" * 9}
        looks.clear()
        found = capacity._nearly_most(layout, max_file_size, attributes)
        assert len(looks) <= 5
        assert measure(layout, found, attributes) <= max_file_size
        assert measure(layout, found + max(2, found // 4), attributes) > max_file_size  # nearly the most, in pages
        looks.clear()
        assert capacity._nearly_most(layout, max_file_size, attributes) == found
        assert not looks
