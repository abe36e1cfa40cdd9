"""numpy, and the commands export, import and info."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from physgym.cli import app
from physgym.data.dataset import SampleDataset
from physgym.data.surgery import describe
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, PhysGymError
from physgym.formats import numpy_arrays as numpy_files
from physgym.formats.columns import store_columns
from physgym.formats.numpy_arrays import NumpyArrays, export_numpy, import_numpy
from physgym.formats.registry import ExportOptions
from physgym.generation.generate import generate
from physgym.sample import Field, SampleSpec
from tests.support import toys
from tests.support.datasets import PARAMETERS, SOURCE, SPEC, assert_rows, rows, where, write


def physgym(*arguments, fault: type[PhysGymError] | None = None) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if fault is None:
        assert result.exit_code == 0, result.output + repr(result.exception)
        return result.stdout
    assert isinstance(result.exception, fault), result.output + repr(result.exception)
    return str(result.exception)


@pytest.mark.parametrize("out", ["arrays", "arrays.npz"])
def test_numpy_there_and_back_is_the_same(tmp_path, out, monkeypatch):
    dataset = write(tmp_path / "d", 57, max_file_size=4000)
    monkeypatch.setattr("physgym.formats.numpy_arrays.CHUNK_BYTES", 1000)
    export_numpy(dataset, tmp_path / out)
    if out.endswith(".npz"):
        with np.load(tmp_path / out) as arrays:
            np.testing.assert_array_equal(arrays["group/flags"], rows(0, 57)["group/flags"])
            np.testing.assert_array_equal(arrays["index/seed"], where(0, 57)["seed"])
    else:
        forces = np.load(tmp_path / out / "forces.npy", mmap_mode="r")
        assert isinstance(forces, np.memmap)
        np.testing.assert_array_equal(forces, rows(0, 57)["forces"])
    again = import_numpy(tmp_path / out, tmp_path / "e")
    assert again.spec == SPEC
    assert again.source == SOURCE
    assert_rows(again, 0, 57)
    with pytest.raises(DatasetError, match="exists; choose another name"):
        export_numpy(dataset, tmp_path / out)


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    dataset = write(tmp_path / "d", 20)
    for out in ("arrays", "arrays.npz"):
        with monkeypatch.context() as patch:
            patch.setattr(np.lib.format, "write_array", full)
            patch.setattr(np, "save", full)
            with pytest.raises(DatasetError, match="No space left"):
                export_numpy(dataset, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def full(*arguments):
    raise OSError(28, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("out", ["arrays", "arrays.npz"])
def test_memory_is_bounded(tmp_path, out):
    spec = SampleSpec([Field("x", (1000,), np.dtype("f8"), "input")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        for start in range(0, 10_000, 500):
            i = np.arange(start, start + 500)
            writer.append({"x": i[:, None] + np.zeros(1000)}, episode=i, step=i, seed=i)
    tracemalloc.start()
    try:
        export_numpy(SampleDataset(tmp_path / "d"), tmp_path / out)
        again = import_numpy(tmp_path / out, tmp_path / "e")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6 < again.nbytes
    np.testing.assert_array_equal(again[9990:]["x"][:, 7], np.arange(9990, 10_000))


def test_arrays_of_others_become_a_dataset(tmp_path):
    (tmp_path / "study" / "out").mkdir(parents=True)
    x, y = np.random.default_rng(0).random((12, 3)), np.arange(12, dtype=">f4")
    np.save(tmp_path / "study" / "x.npy", np.asfortranarray(x))
    np.save(tmp_path / "study" / "out" / "y.npy", y)
    dataset = import_numpy(
        tmp_path / "study", tmp_path / "d", roles={"x": "input", "out/y": "target"}, units={"x": "m"}
    )
    assert dataset.spec.names("input") == ("x",)
    assert dataset.spec["x"].unit == "m"
    assert dataset.spec["out/y"].dtype == np.dtype("f4")
    np.testing.assert_array_equal(dataset[:]["x"], x)
    np.testing.assert_array_equal(dataset[:]["out/y"], y)
    assert len(np.unique(dataset.episodes)) == 12
    np.savez_compressed(tmp_path / "study.npz", x=x, y=y)
    np.testing.assert_array_equal(import_numpy(tmp_path / "study.npz", tmp_path / "e")[:]["y"], y)
    np.testing.assert_array_equal(import_numpy({"x": x}, tmp_path / "f", roles={"x": "input"})[:]["x"], x)


def test_arrays_that_make_no_dataset_are_named(tmp_path):
    x = np.zeros((4, 3))
    for arrays, text in (
        ({"x": x, "y": np.zeros(5)}, "the same number of rows"),
        ({"x": x, "y": np.zeros(())}, "a row per sample"),
        ({"x": x, "y": np.zeros(4, "M8[D]")}, r"not {'y': 'datetime64\[D\]'}"),
        ({}, "holds no arrays"),
    ):
        with pytest.raises(DatasetError, match=text):
            import_numpy(arrays, tmp_path / "d")
    with pytest.raises(DatasetError, match="the arrays have no rows"):
        import_numpy({"x": np.zeros((0, 3))}, tmp_path / "d")
    with pytest.raises(ConfigError, match=r"roles: \{'x': 'in'\} is none of"):
        import_numpy({"x": x}, tmp_path / "d", roles={"x": "in"})
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "x.npy").touch()
    with pytest.raises(DatasetError, match=r"cannot read arrays from .*cut"):
        import_numpy(tmp_path / "cut", tmp_path / "d")
    with pytest.raises(ConfigError, match=r"roles names \['z'\]"):
        import_numpy({"x": x}, tmp_path / "d", roles={"z": "input"})
    (tmp_path / "bad.npz").write_bytes(b"no zip file")
    with pytest.raises(DatasetError, match=r"cannot read arrays from .*bad.npz"):
        import_numpy(tmp_path / "bad.npz", tmp_path / "d")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(DatasetError, match="cannot read arrays"):
        import_numpy(tmp_path / "folder", tmp_path / "d")
    assert not (tmp_path / "d").exists()
    spec = SampleSpec([Field("index/of", (), np.dtype("f4"), "input")])
    with SampleWriter(tmp_path / "e", spec) as writer:
        writer.append({"index/of": np.zeros(2, "f4")}, **where(0, 2))
    with pytest.raises(DatasetError, match="a group named index"):
        export_numpy(SampleDataset(tmp_path / "e"), tmp_path / "x")


@pytest.mark.slow
def test_the_commands_copy_a_dataset_and_bring_it_back(tmp_path):
    write(tmp_path / "d", 30, max_file_size=4000, parameters=PARAMETERS)
    d, small, back = tmp_path / "d", tmp_path / "small", tmp_path / "back"
    assert f"written: {small}" in physgym("export", d, "--compress", "gzip", "--out", small)
    physgym("export", small, "--compress", "none", "--out", back)
    assert_rows(SampleDataset(back), 0, 30)
    assert "already" in physgym("export", d, "--compress", "gzip", "--out", small, fault=DatasetError)
    physgym("export", d, "--compress", "gzip", "--out", small, "--resume")
    physgym("export", d, "--to", "numpy", "--out", tmp_path / "x.npz")
    assert "30 samples" in physgym("import", tmp_path / "x.npz", "--out", tmp_path / "e", "--role", "energy=input")
    assert SampleDataset(tmp_path / "e").spec.names("input") == ("forces", "energy")
    assert "say either" in physgym("export", d, "--out", small, fault=ConfigError)
    assert "add --out" in physgym("export", d, "--to", "numpy", fault=ConfigError)
    assert "add --name" in physgym("export", d, "--to", "minari", fault=ConfigError)
    assert "there is no format 'csv'. Did you mean parquet? There are numpy, " in physgym(
        "export", d, "--to", "csv", "--out", small, fault=ConfigError
    )
    assert "write name=value" in physgym("import", tmp_path / "x.npz", "--out", d, "--role", "x", fault=ConfigError)


@pytest.mark.filterwarnings("ignore:.*has no environment.*:UserWarning")
def test_the_commands_speak_to_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    write(tmp_path / "d", 30)
    mapping = ("--field", "observations=forces", "--field", "actions=energy")
    done = physgym("export", tmp_path / "d", "--to", "minari", "--name", "beam/random-v0", *mapping)
    assert "6 episodes, 30 steps" in done
    assert minari.load_dataset("beam/random-v0").total_steps == 30
    assert "30 samples" in physgym("import", "beam/random-v0", "--out", tmp_path / "e")
    assert_rows(SampleDataset(tmp_path / "e"), 0, 30)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write(tmp_path / "d", 5)
    monkeypatch.setitem(sys.modules, "minari", None)
    monkeypatch.delitem(sys.modules, "physgym.formats.minari", raising=False)
    text = physgym("export", tmp_path / "d", "--to", "minari", "--name", "beam/random-v0", fault=ConfigError)
    assert "pip install 'physgym[minari]'" in text
    assert "pip install" in physgym("import", "beam/random-v0", "--out", tmp_path / "e", fault=ConfigError)


@pytest.mark.slow
def test_info_says_what_there_is(tmp_path):
    write(tmp_path / "d", 57, max_file_size=6000, parameters=PARAMETERS, rejected=True)
    write(tmp_path / "d", 8, mode="validation", close=False)
    text = physgym("info", tmp_path / "d", "--verify")
    first = SampleDataset(tmp_path / "d").partitions[0]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("training: 57 samples, 12 episodes, ")
    assert any(line.startswith(f"training-00000.h5: {first.count} samples") for line in lines)
    assert first.checksum[:12] in text
    energy = rows(0, 57)["energy"]
    numbers = " ".join(f"{f(energy):.4g}" for f in (np.mean, np.std, np.min, np.max))
    assert f"energy target float64 () J {numbers}" in lines
    forces = rows(0, 57)["forces"].astype(float)
    numbers = " ".join(f"{f(forces):.4g}" for f in (np.mean, np.std, np.min, np.max))
    assert f"forces input float32 (4, 3) N {numbers}" in lines
    assert "wave additional complex64 (3,)" in lines
    assert "parameters of 12 episodes: stiffness () [Pa]" in lines
    assert "rejected: 2 samples are kept" in lines
    assert f"source: {json.dumps(SOURCE)}" in lines
    assert any(line.startswith("validation: 8 samples, 2 episodes, 1 partitions") for line in lines)
    assert any(line.startswith("validation-00000.h5: 8 samples") and line.endswith("open") for line in lines)
    assert "are right; 1 open ones have none yet" in text
    assert "there is no dataset" in physgym("info", tmp_path / "none", fault=DatasetError)


def test_info_finds_damage_and_rebuilds_the_description(tmp_path):
    write(tmp_path / "d", 20)
    before = (tmp_path / "d" / "dataset.json").read_text()
    (tmp_path / "d" / "dataset.json").unlink()
    physgym("info", tmp_path / "d", "--rebuild", "--verify")
    assert (tmp_path / "d" / "dataset.json").read_text() == before
    file = tmp_path / "d" / "training-00000.h5"
    column = SampleDataset(tmp_path / "d").partitions[0].tables["samples"].columns["data/forces"]
    with file.open("r+b") as damaged:
        damaged.seek(column.offset)
        damaged.write(os.urandom(4))
    assert "checksum is wrong" in physgym("info", tmp_path / "d", "--verify", fault=DatasetError)


def test_info_of_an_archive_and_of_nothing(tmp_path):
    write(tmp_path / "d", 20)
    physgym("export", tmp_path / "d", "--compress", "gzip", "--out", tmp_path / "small")
    assert "compressed (gzip)" in physgym("info", tmp_path / "small", "--verify")
    writer = SampleWriter(tmp_path / "e", SPEC, commit_interval=0)
    writer.append(rows(0, 0), **where(0, 0))
    writer.close()
    assert "there is no dataset" in physgym("info", tmp_path / "e", fault=DatasetError)


@pytest.mark.parametrize("out", ["arrays", "arrays.npz"])
def test_numpy_keeps_parameters_and_rejected_samples(tmp_path, out):
    options = {"num_workers": 0, "progress": False, "seed": 3, "keep_rejected": True}
    dataset = generate(toys.Tuned, tmp_path / "d", samples=20, **options)
    assert dataset.parameters is not None
    assert dataset.rejected is not None
    assert len(dataset.rejected.reasons) > 0
    export_numpy(dataset, tmp_path / out)
    again = import_numpy(tmp_path / out, tmp_path / "e")
    assert again.parameter_spec == dataset.parameter_spec
    np.testing.assert_array_equal(again.parameter_episodes, dataset.parameter_episodes)
    for name, value in dataset.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value)
    assert again.rejected.reasons == dataset.rejected.reasons
    np.testing.assert_array_equal(again.rejected.step, dataset.rejected.step)
    for name, value in dataset.rejected.samples.items():
        np.testing.assert_array_equal(again.rejected.samples[name], value)


@pytest.mark.parametrize("out", ["arrays", "arrays.npz"])
def test_an_export_touches_nothing_of_others(tmp_path, out, monkeypatch):
    dataset = write(tmp_path / "d", 5)
    mine = tmp_path / f"{out}.tmp"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    export_numpy(dataset, tmp_path / out)
    assert (mine / "thesis.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"d", out, mine.name}

    def fails(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("physgym.formats.numpy_arrays._portions", fails)
    with pytest.raises(DatasetError, match="No space left"):
        export_numpy(dataset, tmp_path / f"second{Path(out).suffix}")
    assert {path.name for path in tmp_path.iterdir()} == {"d", out, mine.name}


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    dataset = write(tmp_path / "d", 5)
    side_arrays = numpy_files.side_arrays

    def taken(dataset: SampleDataset) -> dict[str, np.ndarray]:
        (tmp_path / "x.npz").write_text("mine")
        return side_arrays(dataset)

    monkeypatch.setattr(numpy_files, "side_arrays", taken)
    with pytest.raises(DatasetError, match="cannot write"):
        export_numpy(dataset, tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_text() == "mine"


def test_missing_values_are_refused(tmp_path):
    x = np.zeros((3, 2))
    gap = np.ma.array(x, mask=[[0, 0], [0, 1], [0, 0]])
    for arrays, options in (
        ({"x": gap}, {}),
        ({"x": [*gap]}, {}),
        ({"x": x, "index/step": gap[:, 1]}, {}),
        ({"x": x}, {"episode": np.ma.array([0, 0, 1], mask=[0, 1, 0])}),
    ):
        with pytest.raises(DatasetError, match="is a masked array with 1 missing values"):
            import_numpy(arrays, tmp_path / "d", **options)
    with pytest.raises(DatasetError, match="x is not an array: setting an array element with a sequence"):
        import_numpy({"x": [[1.0], [1.0, 2.0]]}, tmp_path / "d")
    whole = import_numpy({"x": np.ma.array(x + 1)}, tmp_path / "d", episode=np.ma.array([0, 0, 1]))
    assert whole[:]["x"].tolist() == (x + 1).tolist()
    with pytest.raises(ConfigError, match="episode must be integers"):
        import_numpy({"x": x}, tmp_path / "e", episode=np.full(3, 1e300))


def test_episodes_of_several_folders_with_one_number_are_not_mixed(tmp_path):
    folders = [write(tmp_path / name, 6).paths[0] for name in "ab"]
    with pytest.raises(ConfigError, match="have one number, and would be mixed"):
        export_numpy(SampleDataset(folders), tmp_path / "arrays")
    assert not (tmp_path / "arrays").exists()


def test_the_recorded_split_goes_along_and_snapshots_are_said_to_be_left_out(tmp_path):
    write(tmp_path / "d", 6)
    describe(tmp_path / "d", {"split": "training=0.8 test=0.2", "licence": "CC0"})
    (tmp_path / "d" / "snapshots" / "training").mkdir(parents=True)
    said = NumpyArrays().write(SampleDataset(tmp_path / "d"), ExportOptions(out=tmp_path / "arrays"))
    assert said.endswith("; left out: snapshots")
    again = import_numpy(tmp_path / "arrays", tmp_path / "e")
    assert again.metadata == SampleDataset(tmp_path / "d").metadata
    assert str(again.recorded_split) == "training=0.8 test=0.2 seed=0"


def test_a_killed_import_leaves_nothing_of_the_name(tmp_path):
    """The rest of a dataset would read as a whole one."""

    class Killed:
        shape, dtype, ndim = (4, 3), np.dtype("f8"), 2

        def __len__(self):
            return 4

        def __getitem__(self, rows):
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            arrays = {"x": Killed(), "index/episode": np.arange(4), "index/step": np.zeros(4, int)}
            options = {"roles": {}, "units": {}, "episode": None, "step": None, "mode": "training", "progress": False}
            store_columns("source", arrays, {}, tmp_path / "d", **options)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "d").exists()
    assert [entry.name[:3] for entry in tmp_path.iterdir()] == [".d-"]
    assert len(import_numpy({"x": np.zeros(4)}, tmp_path / "d")) == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
