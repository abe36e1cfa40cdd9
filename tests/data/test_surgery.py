"""Surgery on datasets: what comes out, that nothing else changes, and what is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from physgym import SampleDataset, files
from physgym.data import SampleWriter, surgery
from physgym.data.episode_origins import argument_numbers, origin_of
from physgym.errors import ConfigError, DatasetError, SampleError, WorkerError
from physgym.sample import Field, SampleSpec
from tests.support.datasets import PARAMETERS, PER_EPISODE, SOURCE
from tests.support.datasets import SPEC as EVERY
from tests.support.datasets import rows as every_row
from tests.support.datasets import write as write_every
from tests.support.killing import contents

SPEC = SampleSpec([EVERY[name] for name in ("forces", "energy", "wave", "label")])
TABLES = {"parameters": PARAMETERS, "rejected": True}
OVERLAP = pytest.mark.filterwarnings("ignore:.* of the .* episodes of")


def rows(start, stop):
    return every_row(start, stop, SPEC)


def write(path, count, **options):
    return write_every(path, count, spec=SPEC, **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with datasets of 23 and 17 samples; the first in several partitions, and with a second part."""
    folder = tmp_path_factory.mktemp("surgery")
    write(folder / "a", 23, **TABLES, max_file_size=26_000)
    write(folder / "a", 7, mode="validation", **TABLES)
    write(folder / "b", 17, **TABLES)
    with SampleWriter(
        folder / "small", SMALL, source={"env": "toy/Small", "env_kwargs": [{"a": 1}, {"a": 2}]}
    ) as writer:
        small(writer, 12)
        writer.set_constants({"mesh": np.arange(3)})
    return folder


SMALL = SampleSpec(
    [
        Field("length", (), np.dtype("i4"), "input"),
        Field("points", (3,), np.dtype("f8"), "target", "m", mask="length"),
        Field("time", (), np.dtype("f8"), "additional", "s"),
    ]
)


def small(writer, count, start=0):
    i = np.arange(count)
    values = {"length": (i % 4).astype("i4"), "points": i[:, None] + np.zeros(3), "time": i / 2}
    writer.append(values, episode=start + i // 4, step=i % 4, seed=(i // 4).astype("u8"))


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(files, "flush", lambda path: None)


@pytest.fixture(autouse=True)
def unchanged(kept):
    """Nothing in the sources changes, and nothing is left beside what is asked for."""
    before = contents(kept)
    yield
    assert contents(kept) == before


def assert_statistics(dataset):
    for name, computed in dataset.compute_statistics().items():
        for moment in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(getattr(dataset.statistics[name], moment), getattr(computed, moment), rtol=1e-12)


# --- merge


@pytest.mark.slow
@OVERLAP
def test_merged_datasets_have_all_samples_and_each_episode_knows_where_it_comes_from(kept, tmp_path):
    report = surgery.merge([kept / "a", kept / "b"], tmp_path / "c")
    assert (report.samples, report.written) == ({"training": 40, "validation": 7}, True)
    merged = report.open()
    merged.verify()
    got = merged[:]
    for name in SPEC:
        np.testing.assert_array_equal(got[name], np.concatenate([rows(0, 23)[name], rows(0, 17)[name]]))
    wanted = [i // PER_EPISODE for i in range(23)] + [5 + i // PER_EPISODE for i in range(17)]
    np.testing.assert_array_equal(merged.index("episode"), wanted)
    np.testing.assert_array_equal(merged.parameters["stiffness"], [*(1e3 + np.arange(5)), *(1e3 + np.arange(4))])
    np.testing.assert_array_equal(merged.parameter_episodes, np.arange(9))
    np.testing.assert_array_equal(merged.rejected.episode, [0, 0, 5, 5])
    assert merged.rejected.reasons == ["diverged", "too stiff"] * 2
    assert_statistics(merged)
    origin = origin_of(merged, 6)
    assert (origin.dataset, origin.episode, origin.source) == (str(kept / "b"), 1, SOURCE)
    assert origin.arguments == {"size": 3}
    assert merged.source["env"] == SOURCE["env"]
    (step,) = merged.provenance["surgery"]
    assert [one["dataset"] for one in step["from"]] == [str(kept / "a"), str(kept / "b")]
    assert [run["samples"] for run in merged.provenance["runs"]] == [0, 23]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


@pytest.mark.slow
@OVERLAP
def test_what_was_merged_is_merged_again_and_still_says_where_it_comes_from(kept, tmp_path):
    surgery.merge([kept / "b", kept / "a"], tmp_path / "c", mode="training")
    again = surgery.merge([kept / "b", tmp_path / "c"], tmp_path / "d").open()
    origin = origin_of(again, 4 + 4 + 2)
    assert (origin.dataset, origin.episode) == (str(kept / "a"), 2)
    kept_of = surgery.filter(tmp_path / "d", "episode == 10", tmp_path / "e").open()
    assert origin_of(kept_of, 10) == origin
    assert [len(np.unique(again.origins()[1])), len(again.origins()[0])] == [3, 3]
    with pytest.raises(ConfigError, match="no samples of an episode 3"):
        origin_of(kept_of, 3)


@pytest.mark.slow
def test_what_a_filter_left_of_a_merged_dataset_is_merged_and_keeps_its_origins(tmp_path):
    spec = SampleSpec([Field("x", (), np.dtype("f8"), "input")])
    for number in (1, 2, 3):
        place = tmp_path / str(number)
        source = {"env": "toy/A", "env_kwargs": {"a": number}}
        with SampleWriter(place, spec, source=source, provenance={"runs": [], "of": number}) as writer:
            i = np.arange(4)
            writer.append({"x": 100.0 * number + i}, episode=i, step=i * 0, seed=(i + number).astype("u8"))
    surgery.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    for count, (condition, order) in enumerate((("x >= 103", "3 some"), ("x < 202", "some 3"), ("x > 201", "some 3"))):
        folder = tmp_path / str(10 + count)
        surgery.filter(tmp_path / "both", condition, folder / "some")
        given = [folder / "some" if name == "some" else tmp_path / name for name in order.split()]
        merged = surgery.merge(given, folder / "out").open()
        arguments = merged.source["env_kwargs"]
        own = argument_numbers(merged, np.arange(len(merged)), len(arguments))
        before = merged.original_episodes
        for row, (episode, x) in enumerate(zip(merged.index("episode"), merged[:]["x"], strict=True)):
            found = origin_of(merged, episode)
            number = found.arguments["a"]
            assert (100 * number + found.episode, found.dataset) == (x, str(tmp_path / str(number)))
            assert found.provenance["of"] == number
            assert (before[row], arguments[own[row]]) == (found.episode, found.arguments)
    assert [entry["source"]["env_kwargs"]["a"] for entry in merged.source["merged"]] == [2, 3]  # none of nothing


def test_endings_of_rejected_episodes_keep_to_their_dataset(tmp_path):
    spec = SampleSpec([Field("x", (), np.dtype("f8"), "input")])
    for name, how in (("a", "terminated"), ("b", "cut")):
        with SampleWriter(tmp_path / name, spec, source={"env": name}, endings=True) as writer:
            i = np.arange(2)
            writer.append({"x": i * 1.0}, episode=i + 1, step=i * 0, seed=i.astype("u8") + ord(name))
            writer.add_endings(episode=np.arange(5), steps=np.ones(5, int), how=[how] * 5)  # 0, 3, 4 without samples
    merged = surgery.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c").open()
    np.testing.assert_array_equal(merged.ended["episode"], np.arange(10))
    assert merged.endings == {1: "terminated", 2: "terminated", 6: "cut", 7: "cut"}
    assert [origin_of(merged, episode).episode for episode in (1, 2, 6, 7)] == [1, 2, 1, 2]


def test_a_result_without_its_endings_is_refused(tmp_path, monkeypatch):
    spec = SampleSpec([Field("x", (), np.dtype("f8"), "input")])
    with SampleWriter(tmp_path / "a", spec, endings=True) as writer:
        writer.append({"x": np.zeros(1)}, episode=np.zeros(1, int), step=np.zeros(1, int), seed=np.zeros(1, "u8"))
        writer.add_endings(episode=np.zeros(1, int), steps=np.ones(1, int), how=["cut"])
    monkeypatch.setattr(SampleWriter, "add_endings", lambda *args, **options: None)
    with pytest.raises(DatasetError, match="the result has 0 rows of endings in place of 1; nothing is kept"):
        surgery.rename(tmp_path / "a", "x", "y", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_arguments_of_episodes_stay_theirs(kept, tmp_path):
    with SampleWriter(tmp_path / "other", SMALL, source={"env": "toy/Small", "env_kwargs": {"a": 3}}) as writer:
        small(writer, 8, start=7)
        writer.set_constants({"mesh": np.arange(3)})
    merged = surgery.merge([tmp_path / "other", kept / "small"], tmp_path / "c").open()
    assert merged.source["env_kwargs"] == [{"a": 3}, {"a": 1}, {"a": 2}]
    assert np.unique(merged.index("episode")).tolist() == [7, 8, 9, 10, 11]
    arguments = [origin_of(merged, episode).arguments["a"] for episode in range(7, 12)]
    assert arguments == [3, 3, 1, 2, 1]
    np.testing.assert_array_equal(merged.constants["mesh"], np.arange(3))
    assert_statistics(merged)  # of what is padded as well


def test_episodes_that_are_in_both_are_warned_of(kept, tmp_path):
    with pytest.warns(
        UserWarning, match=r"4 of the 5 episodes of .*a \(training\) are among those of .*b \(training\)"
    ):
        surgery.merge([kept / "a", kept / "b"], tmp_path / "c", mode="training", dry_run=True)


@pytest.mark.slow
def test_datasets_that_do_not_fit_together_are_not_merged(kept, tmp_path):
    def one(name, spec=SMALL, constants=(3,), **options):
        with SampleWriter(tmp_path / name, spec, **options) as writer:
            i = np.arange(4)
            values = {name: np.zeros((4, *field.shape), field.dtype) for name, field in spec.items()}
            if "parameters" in options:
                writer.add_parameters({"stiffness": [1.0]}, episode=np.array([0]), seed=np.array([0], np.uint64))
            writer.append(values, episode=i * 0, step=i, seed=(i * 0).astype("u8"))
            if constants:
                writer.set_constants({"mesh": np.arange(*constants)})
        return tmp_path / name

    fields = list(SMALL.values())
    problems = {
        one(
            "unit", SampleSpec([*fields[:2], Field("time", (), np.dtype("f8"), "additional", "ms")])
        ): "unit 's' and 'ms'",
        one(
            "dtype", SampleSpec([*fields[:2], Field("time", (), np.dtype("U8"), "additional", "s")])
        ): "'<f8' and '<U8'",
        one("less", SampleSpec(fields[:2])): "only the first has 'time'",
        one("order", SampleSpec([fields[2], *fields[:2]])): "their order is",
        one("constants", constants=(4,)): r"different constants \['mesh'\]",
        one("none", constants=()): r"different constants \['mesh'\]",
        one("parameters", parameters=PARAMETERS): "parameters of .* only the second has 'stiffness'",
    }
    for path, problem in problems.items():
        with pytest.raises(DatasetError, match=problem):
            surgery.merge([kept / "small", path], tmp_path / "c")
    with SampleWriter(tmp_path / "large", SMALL) as writer:
        small(writer, 4, start=2**63 - 2)
        writer.set_constants({"mesh": np.arange(3)})
    with pytest.raises(DatasetError, match="too large to be renumbered"):
        surgery.merge([tmp_path / "large", kept / "small"], tmp_path / "c")
    with pytest.raises(ConfigError, match="at least two"):
        surgery.merge([kept / "a"], tmp_path / "c")
    assert not (tmp_path / "c").exists()


# --- filter


@pytest.mark.slow
def test_filtered_datasets_keep_names_and_what_belongs_to_their_episodes(kept, tmp_path):
    report = surgery.filter(kept / "a", "stiffness >= 1001 and energy < 20", tmp_path / "c")
    assert report.samples == {"training": 7, "validation": 2}
    found = report.open()
    np.testing.assert_array_equal(found.index("episode"), [1] * 5 + [2] * 2)
    np.testing.assert_array_equal(found.index("step"), [0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(found[:]["forces"], rows(5, 12)["forces"])
    np.testing.assert_array_equal(found.parameter_episodes, [1, 2])
    assert found.rejected.reasons == []  # those of episode 0
    assert_statistics(found)
    assert found.source == {**SOURCE, "surgery": [{"filter": "stiffness >= 1001 and energy < 20"}]}


def test_an_episode_has_ended_where_its_last_sample_is_kept(tmp_path):
    spec = SampleSpec([Field("x", (), np.dtype("f8"), "input")])
    with SampleWriter(tmp_path / "a", spec, endings=True) as writer:
        i = np.arange(6)
        writer.add_endings(episode=np.array([0, 1]), steps=np.array([3, 3]), how=["terminated", "cut"])
        writer.append({"x": i * 1.0}, episode=i // 3, step=i % 3, seed=i.astype("u8"))
    found = surgery.filter(tmp_path / "a", "x != 2", tmp_path / "b").open()
    assert found.endings == {0: "unfinished", 1: "cut"}
    assert surgery.filter(tmp_path / "a", "episode == 0", tmp_path / "c").open().endings == {0: "terminated"}


def test_a_part_without_matches_is_left_out_and_said(kept, tmp_path):
    report = surgery.filter(kept / "a", "energy > 10", tmp_path / "c")
    assert report.samples == {"training": 14}
    assert report.notes == ["no validation sample fulfils the condition: the part is left out"]
    with pytest.raises(DatasetError, match=r"no sample of .* fulfils energy < 0, so there is nothing to write"):
        surgery.filter(kept / "a", "energy < 0", tmp_path / "d")


def test_runs_are_counted_by_the_samples_that_are_left(tmp_path, kept):
    provenance = {"runs": [{"samples": 0, "code": {"hash": "1"}}, {"samples": 8, "code": {"hash": "2"}}]}
    write(tmp_path / "a", 23, provenance=provenance, max_file_size=26_000)
    found = surgery.filter(tmp_path / "a", "step < 3", tmp_path / "b").open()
    assert [run["samples"] for run in found.provenance["runs"]] == [0, 6]


# --- fields


@pytest.mark.slow
@OVERLAP
def test_fields_are_dropped_renamed_and_described(kept, tmp_path):
    dropped = surgery.drop(kept / "a", ["forces", "wave"], tmp_path / "b").open()
    assert list(dropped.spec) == [name for name in SPEC if name not in ("forces", "wave")]
    renamed = surgery.rename(kept / "a", "energy", "group/energy", tmp_path / "c").open()
    np.testing.assert_array_equal(renamed[:]["group/energy"], rows(0, 23)["energy"])
    assert list(renamed.rejected.samples) == list(renamed.spec)
    words = {"energy.unit": "kJ", "energy.role": "additional", "licence": "MIT"}
    described = surgery.describe(kept / "a", words, tmp_path / "d").open()
    assert (described.spec["energy"].unit, described.spec["energy"].role) == ("kJ", "additional")
    assert [part.checksum for part in described.partitions] == [
        part.checksum for part in SampleDataset(tmp_path / "d").partitions
    ]
    assert described.metadata == {"licence": "MIT"}
    for found in (dropped, renamed, described):
        assert_statistics(found)
        for name in set(found.spec) & set(SPEC):
            np.testing.assert_array_equal(found[:][name], rows(0, 23)[name])


def test_masks_follow_their_fields(kept, tmp_path):
    found = surgery.rename(kept / "small", "length", "count", tmp_path / "b").open()
    assert found.spec["points"].mask == "count"
    with pytest.raises(ConfigError, match="'length' says which values of 'points' are there; drop 'points' as well"):
        surgery.drop(kept / "small", "length", tmp_path / "c")
    assert list(surgery.drop(kept / "small", ["length", "points"], tmp_path / "c").open().spec) == ["time"]


def test_what_feeds_what_follows_the_names(tmp_path):
    fields = [Field("state", (), np.dtype("f8"), "input"), Field("after", (), np.dtype("f8"), "target", feeds="state")]
    with SampleWriter(tmp_path / "a", SampleSpec(fields)) as writer:
        i = np.arange(3)
        writer.append({"state": i * 1.0, "after": i + 1.0}, episode=i * 0, step=i, seed=(i * 0).astype("u8"))
    renamed = surgery.rename(tmp_path / "a", "state", "x", tmp_path / "b").open()
    assert renamed.spec["after"].feeds == "x"
    dropped = surgery.drop(tmp_path / "a", "state", tmp_path / "c").open()
    assert dropped.spec["after"].feeds == ""
    with pytest.raises(ConfigError, match=r"after.feeds: .* has no field 'nobody'"):
        surgery.describe(tmp_path / "a", {"after.feeds": "nobody"}, tmp_path / "d")


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (lambda a, out: surgery.drop(a, "force", out), "no field 'force'.*did you mean 'forces'"),
        (lambda a, out: surgery.drop(a, list(SPEC), out), "no other field than"),
        (lambda a, out: surgery.drop(a, [], out), "name at least one field"),
        (lambda a, out: surgery.rename(a, "force", "x", out), "no field 'force'"),
        (lambda a, out: surgery.rename(a, "energy", "forces", out), "has a field 'forces' already"),
        (lambda a, out: surgery.rename(a, "energy", "energy", out), "is the name that the field has"),
        (lambda a, out: surgery.rename(a, "energy", "forces/x", out), "cannot be a field and hold"),
        (lambda a, out: surgery.rename(a, "energy", "", out), "cannot name a field"),
        (lambda a, out: surgery.rename(a, "energy", "a\0b", out), "no text that HDF5 can hold"),
        (lambda a, out: surgery.describe(a, {}, out), "say at least one thing"),
        (lambda a, out: surgery.describe(a, {"force.unit": "N"}, out), "no field 'force'"),
        (lambda a, out: surgery.describe(a, {"forces.size": "N"}, out), "of a field there are unit, role"),
        (lambda a, out: surgery.describe(a, {"forces.role": "output"}, out), "must be one of input, target"),
        (lambda a, out: surgery.describe(a, {"forces.dimensions": "two"}, out), "must be a number of axes"),
        (lambda a, out: surgery.describe(a, {"forces.dimensions": "7"}, out), "7 axes of a grid"),
        (lambda a, out: surgery.describe(a, {"forces.mask": "nobody"}, out), "nobody"),
        (lambda a, out: surgery.describe(a, {"x": "\udc80"}, out), "no UTF-8"),
        (lambda a, out: surgery.describe(a, {"forces.unit": "N"}), "stands in the partitions.*add --out"),
        (lambda a, out: surgery.filter(a, "speed > 1", out), "no field or parameter 'speed'"),
        (lambda a, out: surgery.filter(a, "step > 1", out, mode="everything"), "mode must be one of"),
        (lambda a, out: surgery.filter(a, "step > 1", a / "inside"), "lie in each other"),
        (lambda a, out: surgery.filter(a, "step > 1", a.parent), "lie in each other"),
        (lambda a, out: surgery.filter(a, "step > 1", a), "lie in each other"),
        (lambda a, out: surgery.filter(a, "step > 1", ""), "add --out"),
        (lambda a, out: surgery.add(a, "energy", len, out), "has a field 'energy' already"),
        (lambda a, out: surgery.add(a, "forces/x", len, out), "cannot be a field and hold"),
        (lambda a, out: surgery.add(a, "x", "json", out), "must be written module:function"),
        (
            lambda a, out: surgery.add(a, "x", "no_module_of_that_name:f", out),
            "importing 'no_module_of_that_name' failed",
        ),
        (lambda a, out: surgery.add(a, "x", "json:nothing", out), "json has no function 'nothing'"),
        (lambda a, out: surgery.add(a, "x", len, out, role="output"), "role must be one of"),
        (lambda a, out: surgery.add(a, "x", len, out, num_workers=-1), "num_workers must not be negative"),
        (lambda a, out: surgery.add(a, "x", lambda: 1, out, num_workers=0), "must take a sample"),
        (lambda a, out: surgery.add(a, "x", len, out, dtype="U3", num_workers=0), "--dtype must be of numbers"),
    ],
)
def test_wrong_arguments_are_one_error_and_leave_nothing(kept, tmp_path, operation, problem):
    with pytest.raises(ConfigError, match=problem):
        operation(kept / "b", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_and_a_source_that_is_missing_are_refused(kept, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(DatasetError, match="taken exists; choose another"):
        surgery.drop(kept / "a", "forces", tmp_path / "taken")
    with pytest.raises(DatasetError, match="there is no dataset at"):
        surgery.drop(tmp_path / "nothing", "forces", tmp_path / "out")
    with pytest.raises(DatasetError, match="taken holds no samples"):
        surgery.drop(tmp_path / "taken", "forces", tmp_path / "out")
    with pytest.raises(DatasetError, match="holds no samples of the part test"):
        surgery.drop(kept / "a", "forces", tmp_path / "out", mode="test")
    (tmp_path / "empty").mkdir()
    assert len(surgery.drop(kept / "b", "forces", tmp_path / "empty").open()) == 17


def test_a_damaged_source_is_not_copied(kept, tmp_path):
    write(tmp_path / "a", 23)
    (file,) = (tmp_path / "a").glob("training-*.h5")
    part = SampleDataset(tmp_path / "a").partitions[0]
    data = bytearray(file.read_bytes())
    data[part.tables["samples"].columns["data/energy"].offset] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatasetError, match="changed or damaged"):
        surgery.drop(tmp_path / "a", "forces", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metadata_are_said_where_the_dataset_is(tmp_path):
    write(tmp_path / "a", 7, close=False, max_file_size=26_000)
    before = {name: data for name, data in contents(tmp_path).items() if name != "a/dataset.json"}
    assert not surgery.describe(tmp_path / "a", {"licence": "MIT"}, dry_run=True).written
    surgery.describe(tmp_path / "a", {"licence": "MIT", "author": "A. Mason"})
    surgery.describe(tmp_path / "a", {"licence": ""})
    assert SampleDataset(tmp_path / "a").metadata == {"author": "A. Mason"}
    assert {name: data for name, data in contents(tmp_path).items() if name != "a/dataset.json"} == before
    with SampleWriter(tmp_path / "a", SPEC, source=SOURCE, resume=True) as writer:  # which can be continued
        with pytest.raises(DatasetError, match="being written by another process"):
            surgery.describe(tmp_path / "a", {"licence": "MIT"})
        writer.append(rows(7, 8), episode=np.array([9]), step=np.array([0]), seed=np.array([0], np.uint64))
    assert SampleDataset(tmp_path / "a").metadata == {"author": "A. Mason"}


# --- add


def twice(sample):
    return sample["energy"] * 2


def knowing(sample, about):
    return np.array([sample["energy"] + about["parameters"]["stiffness"], about["episode"] + about["step"]])


def text(sample):
    return "hot"


def growing(sample):
    return np.zeros(1 if sample["energy"] < 20 else 2)


def fraction(sample):
    return 1 if sample["energy"] < 20 else 0.5


def infinite(sample):
    return 1 / (sample["energy"] - rows(3, 4)["energy"][0])


def failing(sample):
    if sample["energy"] > 20:
        raise ValueError("no licence")
    return 0


def dying(sample):
    os._exit(3)


def sleeping(sample):
    time.sleep(60)


def wide(sample):
    return sample["n"]


def narrow_first(sample):
    return np.uint8(1) if sample["n"] == 1 else np.uint16(300)


def same_again(sample, at=np.zeros(2)):  # noqa: B008 - one array for all samples
    at[:] = sample["n"]
    return at


def test_computed_values_fit_their_dtype_or_are_an_error(tmp_path):
    spec = SampleSpec([Field("n", (), np.dtype("i8"), "input")])
    with SampleWriter(tmp_path / "a", spec) as writer:
        i = np.arange(3)
        writer.append({"n": np.array([1, 200, 2**40])}, episode=i, step=i * 0, seed=i.astype("u8"))

    def add(function, **options):
        return surgery.add(tmp_path / "a", "q", function, num_workers=0, **options)

    for function, dtype, problem in (
        (wide, "int16", "int64 for episode 2, step 0 .* and int16 is wanted; .* cannot hold, the first 1099511627776"),
        (wide, "uint8", "int64 for episode 2, step 0 .* and uint8 is wanted"),
        (narrow_first, None, "uint16 for episode 1, step 0 .* and uint8 is wanted; .* cannot hold, the first 300"),
        (lambda sample: 1e30, "float16", "float64 for episode 0, step 0 .* float16 cannot hold"),
    ):
        with pytest.raises(SampleError, match=problem):
            add(function, out=tmp_path / "b", dtype=dtype, nonfinite="allow")
        assert not (tmp_path / "b").exists()
    found = add(lambda sample: int(sample["n"]) % 255, out=tmp_path / "c", dtype="uint8").open()[:]["q"]
    assert (found.dtype, found.tolist()) == (np.uint8, [1, 200, 2**40 % 255])
    np.testing.assert_array_equal(add(same_again, out=tmp_path / "d").open()[:]["q"][:, 0], [1, 200, 2**40])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_field_is_computed_from_each_sample_in_their_order(kept, tmp_path, workers):
    options = {"role": "target", "unit": "J", "num_workers": workers, "dtype": "float32", "max_file_size": 40_000}
    found = surgery.add(kept / "a", "value", knowing, tmp_path / "out", **options).open()
    energy, episode, step = rows(0, 23)["energy"], found.index("episode"), found.index("step")
    wanted = np.stack([energy + 1e3 + episode, episode + step], 1).astype("f4")
    np.testing.assert_array_equal(found[:]["value"], wanted)
    field = found.spec["value"]
    assert (field.dtype, field.shape, field.role, field.unit) == (np.dtype("f4"), (2,), "target", "J")
    assert found.provenance["surgery"][0]["with"] == f"{__name__}:knowing"
    assert_statistics(found)
    np.testing.assert_array_equal(found[:]["forces"], rows(0, 23)["forces"])


@pytest.mark.parametrize(
    ("function", "error", "problem"),
    [
        (text, SampleError, "returns a text for episode 0, step 0 of .*; numbers or flags are wanted"),
        (growing, SampleError, r"returns shape \(2,\) for episode 2, step 2 .* and \(1,\) before"),
        (fraction, SampleError, "returns float64 for episode 2, step 2 .*, and int64 is wanted"),
        (infinite, SampleError, "not finite for episode 0, step 3"),
        (failing, SampleError, "fails for episode 2, step 2 .*ValueError: no licence"),
        (dying, WorkerError, "a process that computes .*dying died"),
        (sleeping, WorkerError, "sleeping has not computed the samples 0 to 1 within 0.2 s"),
    ],
)
def test_what_a_function_cannot_compute_is_said_with_the_sample(kept, tmp_path, function, error, problem):
    timeout = 0.2 if function is sleeping else 60
    with np.errstate(divide="ignore"), pytest.raises(error, match=problem):
        surgery.add(kept / "a", "value", function, tmp_path / "out", num_workers=1, timeout=timeout)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_may_be_allowed(kept, tmp_path):
    with np.errstate(divide="ignore"):
        found = surgery.add(kept / "b", "value", infinite, tmp_path / "out", num_workers=0, nonfinite="allow").open()
    assert np.isinf(found[3]["value"])


# --- what holds for all


@pytest.mark.slow
@OVERLAP
def test_a_dry_run_says_what_would_come_out_and_writes_nothing(kept, tmp_path):
    out = tmp_path / "out"
    reports = [
        surgery.merge([kept / "a", kept / "b"], out, dry_run=True),
        surgery.filter(kept / "a", "step < 2", out, dry_run=True),
        surgery.drop(kept / "a", "forces", out, dry_run=True),
        surgery.rename(kept / "a", "forces", "loads", out, dry_run=True),
        surgery.add(kept / "a", "value", twice, out, num_workers=0, dry_run=True),
        surgery.describe(kept / "a", {"licence": "MIT"}, out, dry_run=True),
    ]
    assert [report.samples["training"] for report in reports] == [40, 10, 23, 23, 23, 23]
    assert str(reports[0]).startswith("training: 40 samples of 23 + 17; forces, ")
    assert all(str(report).endswith(f"nothing was written to {out} (dry run)") for report in reports)
    assert "value" in reports[4].fields["training"]
    assert list(tmp_path.iterdir()) == []


def test_what_surgery_has_made_is_not_continued(kept, tmp_path):
    surgery.filter(kept / "b", "step < 2", tmp_path / "c")
    with pytest.raises(
        DatasetError, match=r"made from other datasets \(physgym data: filter\), and cannot be continued"
    ):
        SampleWriter(tmp_path / "c", SPEC, source=SampleDataset(tmp_path / "c").source, resume=True, **TABLES)


@pytest.mark.slow
def test_the_same_surgery_gives_the_same_bytes(kept, tmp_path):
    for name in ("c", "d"):
        surgery.filter(kept / "a", "step < 2", tmp_path / name)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")


def test_a_full_disk_leaves_nothing(kept, tmp_path, monkeypatch):
    def full(self, samples):
        raise DatasetError("the disk is full")

    monkeypatch.setattr(SampleWriter, "check_room", full)
    with pytest.raises(DatasetError, match="the disk is full"):
        surgery.drop(kept / "a", "forces", tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.slow
def test_a_storage_is_source_and_target(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "cache"))
    place = f"file://{tmp_path}/store/one"
    surgery.describe(kept / "a", {"licence": "MIT"}, place)
    found = surgery.drop(place, "forces", f"{place}-small").open()
    assert (len(found), found.metadata) == (23, {"licence": "MIT"})
    assert not surgery.diff(place, surgery_of(kept / "a", tmp_path))
    with pytest.raises(DatasetError, match="holds a dataset already"):
        surgery.drop(kept / "a", "forces", place)
    with pytest.raises(ConfigError, match="is in a storage; add --out"):
        surgery.describe(place, {"licence": "BSD"})
    with pytest.raises(DatasetError, match="no sample"):
        surgery.filter(kept / "a", "step > 99", f"{place}-none")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["one", "one-small"]
    assert list((tmp_path / "cache" / "surgery").iterdir()) == []


def surgery_of(path: Path, folder: Path) -> Path:
    """Return a described copy of a dataset."""
    surgery.describe(path, {"licence": "MIT"}, folder / "copy")
    return folder / "copy"


# --- diff


@pytest.mark.slow
def test_a_difference_names_fields_samples_and_values(kept, tmp_path):
    assert not surgery.diff(kept / "a", kept / "a")
    found = surgery.diff(kept / "a", kept / "b")
    assert bool(found)
    assert list(found.lines) == [
        "training: 6 samples are in the first alone: episode 3 step 2, episode 3 step 3, episode 3 step 4, "
        "episode 4 step 0, episode 4 step 1, ...",
        "training: parameters are those of 5 and 4 episodes, of which both have 4",
        "validation: only the first has this part, of 7 samples",
    ]
    surgery.add(kept / "small", "value", lambda sample: sample["time"] * 0, tmp_path / "b", num_workers=0)
    surgery.drop(tmp_path / "b", ["time"], tmp_path / "c")
    surgery.rename(tmp_path / "c", "value", "time", tmp_path / "d")
    surgery.describe(tmp_path / "d", {"licence": "MIT"})
    lines = surgery.diff(kept / "small", tmp_path / "d").lines
    assert "training: field 'time' has unit 's' and ''" in lines
    assert "training: 'time' differs in 11 of 12 samples by 5.5 at most, first in episode 0 step 1" in lines
    assert "metadata licence: none and MIT" in lines


def test_a_difference_names_endings_rejected_samples_seeds_and_attributes(tmp_path):
    spec = SampleSpec([Field("x", (), np.dtype("f8"), "input")])
    i = np.arange(2)

    def write_one(name, steps=(2, 2), how="cut", reason="no", x=5.0, seed=1, time_step="0.1", rejected=(0, 0, 1)):
        tables = {"parameters": spec, "rejected": True, "endings": True}
        with SampleWriter(tmp_path / name, spec, attributes={"time_step": time_step}, **tables) as writer:
            writer.add_parameters({"x": i * 1.0}, episode=i, seed=(i + seed).astype("u8"))
            values = {"x": np.array([1.0, x, 2.0])}  # of which two are of one step
            index = {"episode": np.array(rejected), "step": np.ones(3, int), "seed": np.zeros(3, "u8")}
            writer.add_rejected(values, ["no", reason, "no"], **index)
            writer.append({"x": i * 1.0}, episode=i, step=i * 0, seed=i.astype("u8"))
            writer.add_endings(episode=i, steps=np.array(steps), how=["cut", how])
        return tmp_path / name

    first = write_one("a")
    assert not surgery.diff(first, write_one("b"))
    other = write_one("c", steps=(3, 2), how="truncated", reason="why", x=6.0, seed=2, time_step="0.2")
    assert list(surgery.diff(first, other).lines) == [
        "training: parameters of 2 episodes have another seed",
        "training: rejected samples: 'reason' differs in 1, first in episode 0 step 1",
        "training: rejected samples: 'x' differs in 1, first in episode 0 step 1",
        "training: episodes of which the end is stored: 'steps' differs in 1, first in episode 0",
        "training: episodes of which the end is stored: 'how' differs in 1, first in episode 1",
        "training: attribute time_step: 0.1 and 0.2",
    ]
    assert (
        "training: rejected samples: both have 2 of the same episode and step"
        in surgery.diff(first, write_one("d", rejected=(0, 1, 1))).lines
    )


def test_snapshots_are_said_to_be_left_out(tmp_path):
    with SampleWriter(tmp_path / "a", SMALL) as writer:
        small(writer, 4)
    assert not surgery.filter(tmp_path / "a", "step >= 0", tmp_path / "b", dry_run=True).notes
    (tmp_path / "a" / "snapshots" / "training").mkdir(parents=True)
    assert "snapshots are left out" in str(surgery.filter(tmp_path / "a", "step >= 0", tmp_path / "b", dry_run=True))
    assert not surgery.describe(tmp_path / "a", {"licence": "CC0"}).notes  # where they stay


def test_a_feedback_that_goes_with_a_field_is_said(tmp_path):
    spec = SampleSpec([Field("now", (), "f8", "input"), Field("then", (), "f8", "target", feeds="now")])
    with SampleWriter(tmp_path / "a", spec) as writer:
        writer.append(
            {"now": np.zeros(3), "then": np.ones(3)},
            episode=np.zeros(3, int),
            step=np.arange(3),
            seed=np.zeros(3, "u8"),
        )
    for gone in spec:
        report = surgery.drop(tmp_path / "a", gone, tmp_path / gone)
        assert report.notes == ["training: then feeds now no more, since one of both is left out"]
        assert not report.open().feedback


def test_what_imports_say_for_themselves_is_nobodys_to_say(kept):
    with pytest.raises(ConfigError, match="'unfinished import' is what imports say for themselves"):
        surgery.describe(kept / "a", {"unfinished import": "training"})
