from __future__ import annotations

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.files import is_temporary, temporary_name
from physgym.formats import registry
from physgym.formats.registry import ExportOptions
from physgym.sample import Field, SampleSpec
from tests.support.datasets import SOURCE, SPEC, rows, where, write

datasets = pytest.importorskip("datasets", reason="pip install 'physgym[huggingface]'")

from physgym.formats.huggingface import export_huggingface, features, to_huggingface  # noqa: E402

FIELDS = [name for name in SPEC if name != "wave"]


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def column(dataset: datasets.Dataset, name: str) -> np.ndarray:
    """A column as it is stored; the formats of `datasets` make other dtypes of most."""
    return np.array(dataset.with_format("arrow")[:][name].to_pylist())


def test_samples_arrive_with_shape_dtype_and_value(tmp_path):
    dataset = SampleDataset(write(tmp_path / "d", 43, max_file_size=3000).paths, fields=FIELDS)
    there = to_huggingface(dataset, cache_dir=str(tmp_path / "cache"))
    assert len(there) == 43
    assert there.features["forces"] == datasets.Array2D((4, 3), "float32")
    assert there.features["energy"] == datasets.Value("float64")
    assert there.features["group/flags"] == datasets.List(datasets.Value("bool"), length=5)
    want = rows(0, 43)
    for name in FIELDS:
        np.testing.assert_array_equal(column(there, name).reshape(want[name].shape), want[name])
    batch = there.with_format("torch")[5:9]
    assert tuple(batch["forces"].shape) == (4, 4, 3)
    np.testing.assert_array_equal(batch["forces"].numpy(), want["forces"][5:9])
    assert there.with_format("numpy")[3]["nothing"].shape == (0, 3)


def test_a_dataset_that_has_grown_is_not_taken_from_the_cache(tmp_path):
    first = SampleDataset(write(tmp_path / "d", 10, close=False).paths, fields=["energy"])
    cache = str(tmp_path / "cache")
    assert len(to_huggingface(first, cache_dir=cache)) == 10
    with SampleWriter(tmp_path / "d", SPEC, source=SOURCE, resume=True) as writer:
        writer.append(rows(10, 25), **where(10, 25))
    grown = SampleDataset(tmp_path / "d", fields=["energy"])
    np.testing.assert_array_equal(column(to_huggingface(grown, cache_dir=cache), "energy"), rows(0, 25)["energy"])
    training, validation = grown.split(0.2)
    assert len(to_huggingface(training, cache_dir=cache)) == len(training)
    np.testing.assert_array_equal(
        column(to_huggingface(validation, cache_dir=cache), "energy"), validation[:]["energy"]
    )


def test_fields_of_every_rank_and_kind(tmp_path):
    spec = SampleSpec(
        [Field(f"rank{n}", (2,) * n, np.dtype("f4"), "input") for n in range(7)]
        + [Field(str(dtype), (3, 2), np.dtype(dtype), "target") for dtype in ("i1", "u2", "i8", "f8", "?")]
    )
    rng = np.random.default_rng(0)
    samples = {name: (100 * rng.random((6, *field.shape))).astype(field.dtype) for name, field in spec.items()}
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(samples, **where(0, 6))
    there = to_huggingface(SampleDataset(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    for name in spec:
        np.testing.assert_array_equal(column(there, name), samples[name])


def test_what_arrow_cannot_hold_is_named():
    with pytest.raises(ConfigError, match=r"no complex64; leave wave out with SampleDataset"):
        features(SPEC)


@pytest.mark.parametrize(("dtype", "shape"), [(np.dtype(np.longdouble), (2,)), (np.dtype("f4"), (0,))])
def test_numbers_and_shapes_that_arrow_lacks_are_named(dtype, shape):
    if dtype == np.float64:
        pytest.skip("long double is double here")
    with pytest.raises(ConfigError, match="leave x out with SampleDataset"):
        features(SampleSpec([Field("x", shape, dtype, "input")]))


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
def test_numbers_that_would_be_read_as_negative_ones_are_refused(tmp_path, shape):
    spec = SampleSpec([Field("n", shape, np.dtype("u8"), "input", ""), Field("m", (), np.dtype("u8"), "target", "")])
    numbers = np.full((5, *shape), 2**63, "u8")
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(
            {"n": numbers, "m": np.full(5, 2**63 - 1, "u8")},
            episode=np.arange(5),
            step=np.zeros(5, int),
            seed=np.zeros(5, "u8"),
        )
    with pytest.raises(ConfigError, match="field 'n' holds 9223372036854775808"):
        to_huggingface(SampleDataset(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    there = to_huggingface(SampleDataset(tmp_path / "d", fields=["m"]), cache_dir=str(tmp_path / "cache"))
    assert column(there, "m").tolist() == [2**63 - 1] * 5


def test_texts_arrive_as_texts(tmp_path):
    spec = SampleSpec(
        [Field("x", (1,), "f4", "input"), Field("name", (), "<U8", "target"), Field("two", (2,), "<U3", "target")]
    )
    names = np.array(["steel", "", "Stähle"], "<U8")
    values = {"x": np.zeros((3, 1), "f4"), "name": names, "two": np.array([["a", "bcd"]] * 3)}
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(values, episode=np.arange(3), step=np.zeros(3, int), seed=np.zeros(3, np.uint64))
    there = to_huggingface(SampleDataset(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert there.features["name"] == datasets.Value("string")
    assert there["name"][:] == names.tolist()
    assert there[1]["two"] == ["a", "bcd"]


def test_an_export_is_opened_from_the_disk(tmp_path, monkeypatch):
    write(tmp_path / "d", 12, rejected=True)
    dataset, form = SampleDataset(tmp_path / "d", fields=FIELDS), registry.find("huggingface")
    text = form.write(dataset, ExportOptions(out=tmp_path / "x"))
    assert text.endswith("left out: seeds, roles and units, rejected samples")
    there = datasets.load_from_disk(tmp_path / "x")
    for name in FIELDS:
        np.testing.assert_array_equal(column(there, name).reshape(rows(0, 12)[name].shape), rows(0, 12)[name])
    np.testing.assert_array_equal(column(there, "episode"), where(0, 12)["episode"])
    np.testing.assert_array_equal(column(there, "step"), where(0, 12)["step"])
    with pytest.raises(DatasetError, match="exists; choose another name"):
        form.write(dataset, ExportOptions(out=tmp_path / "x"))
    real = datasets.load_from_disk
    monkeypatch.setattr(datasets, "load_from_disk", lambda path: real(path).select(range(11)))
    with pytest.raises(DatasetError, match="does not hold the samples"):
        form.write(dataset, ExportOptions(out=tmp_path / "y"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d", "x"]


def test_columns_of_the_index_do_not_mix_episodes_of_several_folders(tmp_path):
    folders = [write(tmp_path / name, 6).paths[0] for name in "ab"]
    both = SampleDataset(folders, fields=["energy"])
    assert len(to_huggingface(both, cache_dir=str(tmp_path / "cache"))) == 12
    with pytest.raises(ConfigError, match="have one number, and would be mixed"):
        to_huggingface(both, index=True, cache_dir=str(tmp_path / "cache"))


def test_what_a_killed_export_has_left_is_deleted_by_the_next_one(tmp_path, monkeypatch):
    dataset, seen = SampleDataset(write(tmp_path / "d", 6).paths, fields=["energy"]), []

    def listed(*arguments, **options):
        seen.extend(sorted(path.name for path in tmp_path.iterdir() if path.name != "d"))
        return to_huggingface(*arguments, **options)

    monkeypatch.setattr("physgym.formats.huggingface.to_huggingface", listed)
    left = temporary_name(tmp_path / "out")
    (left / "cache").mkdir(parents=True)
    export_huggingface(dataset, tmp_path / "out")
    assert left.name not in seen
    assert len(seen) == 2
    assert all(is_temporary(name) for name in seen)  # which the next export to that place deletes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "out"]
