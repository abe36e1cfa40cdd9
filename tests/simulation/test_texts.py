"""Text fields: of a declared length, padded in the file, texts in Python."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data.constants import as_constants
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.formats.archive import archive
from physgym.formats.numpy_arrays import export_numpy, import_numpy
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), np.dtype("f4"), "input"), Field("name", (), np.dtype("U8"), "additional")])
TEXTS = np.array(["steel", "", "Größe", "x" * 8, "日本語", "a b"], "U8")


def names(count, start=0):
    i = np.arange(start, start + count)
    return {"episode": i // 3, "step": i % 3, "seed": np.zeros(count, np.uint64)}


@pytest.fixture
def dataset(tmp_path) -> SampleDataset:
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append({"x": np.arange(3, dtype="f4"), "name": TEXTS[:3]}, **names(3))
        writer.append({"x": np.arange(3, 5, dtype="f4"), "name": list(TEXTS[3:5])}, **names(2, 3))
        writer.add({"x": np.float32(5), "name": str(TEXTS[5])}, episode=1, step=2, seed=0)
    return SampleDataset(tmp_path / "d")


def test_texts_come_back(dataset, tmp_path):
    assert dataset[:]["name"].dtype == np.dtype("U8")
    np.testing.assert_array_equal(dataset[:]["name"], TEXTS)
    np.testing.assert_array_equal(dataset[[4, 2, 2]]["name"], TEXTS[[4, 2, 2]])
    assert dataset[2]["name"] == "Größe"
    dataset.verify()
    with h5py.File(tmp_path / "d" / "training-00000.h5") as file:
        assert file["data/name"].dtype == "S32"
        assert file["data/name"][2].decode() == "Größe"
    archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    archive(tmp_path / "small", tmp_path / "back", compression="none")
    export_numpy(dataset, tmp_path / "arrays")
    import_numpy(tmp_path / "arrays", tmp_path / "again")
    for name in ("small", "back", "again"):
        copy = SampleDataset(tmp_path / name)
        np.testing.assert_array_equal(copy[:]["name"], TEXTS)
        copy.verify()


def test_a_continued_dataset_keeps_them(dataset, tmp_path):
    with SampleWriter(tmp_path / "d", SPEC, resume=True) as writer:
        writer.append({"x": np.zeros(1, "f4"), "name": np.array(["end"])}, **names(1, 6))
    np.testing.assert_array_equal(SampleDataset(tmp_path / "d")[:]["name"], [*TEXTS, "end"])


@pytest.mark.parametrize("wrong", ["x" * 9, "half \ud800"])
def test_what_does_not_fit_is_an_error(tmp_path, wrong):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        with pytest.raises(DatasetError, match="name"):
            writer.append({"x": np.zeros(1, "f4"), "name": np.array([wrong])}, **names(1))
        with pytest.raises(DatasetError, match="name"):
            writer.add({"x": np.float32(0), "name": wrong}, episode=0, step=0, seed=0)
        writer.append({"x": np.zeros(1, "f4"), "name": np.array(["fits"])}, **names(1))
    assert SampleDataset(tmp_path / "d")[0]["name"] == "fits"


@pytest.mark.parametrize("wrong", ["a\0", ["a\0"], ["a", b"b"]])
def test_a_text_that_numpy_would_cut_or_make_is_an_error_wherever_texts_enter(tmp_path, wrong):
    listed = wrong if isinstance(wrong, list) else [wrong]
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        with pytest.raises(DatasetError, match=r"name .*(NUL|among them)"):
            writer.append({"x": np.zeros(len(listed), "f4"), "name": listed}, **names(len(listed)))
        if not isinstance(wrong, list):
            with pytest.raises(DatasetError, match=r"name has the text 'a\\x00'"):
                writer.add({"x": np.float32(0), "name": wrong}, episode=0, step=0, seed=0)
            with pytest.raises(SampleError, match=r"name.* has the text 'a\\x00', which ends with a NUL"):
                SPEC.check({"x": np.float32(0), "name": wrong})
    with pytest.raises(DatasetError, match=r"name .*(NUL|among them)"):
        import_numpy({"x": np.zeros(len(listed), "f4"), "name": listed}, tmp_path / "imported")
    with pytest.raises(ConfigError, match=r"the constant 'material' .*(NUL|among them)"):
        as_constants({"material": wrong})


class Labelled(physgym.Simulation):
    """Samples with a text."""

    observation_space = action_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=observation_space, label=spaces.Text(max_length=8, min_length=0))
    sample_roles = {"x": "input"}  # noqa: RUF012
    long = False

    def begin(self, options):
        self.count = 0

    def advance(self, action):
        self.count += 1

    def observation(self):
        return np.zeros(2, np.float32)

    def sample(self):
        return {"x": self.observation(), "label": "very long text" if self.long else f"step {self.count}"}


class Long(Labelled):
    long = True


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_simulation_declares_them(tmp_path, workers):
    dataset = physgym.generate(Labelled, tmp_path / "d", samples=6, num_workers=workers, max_steps=3, progress=False)
    assert dataset.spec["label"].dtype == np.dtype("U8")
    assert dataset[:]["label"].tolist() == ["step 1", "step 2", "step 3"] * 2
    with pytest.raises(SampleError, match="label"):
        physgym.generate(Long, tmp_path / "e", samples=6, num_workers=workers, max_steps=3, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [np.arange(2), np.array([1.5, 2]), np.array([True, False]), np.array([b"x", b"y"]), ["a", 1], [None, "a"]],
    ids=str,
)
def test_only_texts_are_texts(tmp_path, wrong):
    where = {"episode": np.zeros(2, int), "step": np.arange(2), "seed": np.zeros(2, "u8")}
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        with pytest.raises(DatasetError, match="name"):
            writer.append({"x": np.zeros(2, "f4"), "name": wrong}, **where)
        writer.append({"x": np.zeros(2, "f4"), "name": ["a", "b"]}, **where)


def test_fields_beside_texts_are_mapped(tmp_path):
    where = {"episode": np.zeros(6, int), "step": np.arange(6), "seed": np.zeros(6, "u8")}
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        writer.append({"x": np.arange(6, dtype="f4"), "name": TEXTS}, **where)
    dataset = SampleDataset(tmp_path / "d")
    assert dataset.arrays["x"].tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.arrays["name"].tolist() == TEXTS.tolist()
    picked = dataset.gather([5, 0, 2])
    assert (picked["x"].tolist(), picked["name"].tolist()) == ([5, 0, 2], [TEXTS[5], TEXTS[0], TEXTS[2]])
    assert set(dataset.gather([1], fields=["name"])) == {"name"}
