"""Partitions are read without physgym, as docs/reference/format.md says: by h5py alone, in C, with HDF5's tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.partition import Partition
from physgym.formats.archive import archive
from tests.support.commands import run_program
from tests.support.datasets import PARAMETERS, SPEC, rows, where, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "format.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


def run(*command, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=100, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; Debian has it in hdf5-tools and libhdf5-dev")
    return found


@pytest.fixture(scope="module", params=["sealed", "open", "archive"])
def partition(request, tmp_path_factory) -> Path:
    """A partition of 23 samples with everything in it, in every state."""
    folder = tmp_path_factory.mktemp("partition")
    write(folder / "d", 23, parameters=PARAMETERS, rejected=True, close=request.param != "open")
    if request.param == "archive":
        archive(folder / "d", folder / "small", compression="gzip")
    found = folder / ("small" if request.param == "archive" else "d") / "training-00000.h5"
    assert Partition(found).sealed == (request.param != "open")
    return found


@pytest.mark.slow
def test_the_documented_code_runs(tmp_path):
    write(tmp_path / "data" / "beam", 23)
    first, *others = blocks("python")
    assert "physgym" not in first
    without = "import sys; sys.modules['physgym'] = None\n"
    assert run(sys.executable, "-c", without + first, cwd=tmp_path).strip() == "(23, 4, 3) N"
    check = """
import json
from physgym import SampleDataset
dataset = SampleDataset("data/elements")
lengths = np.bincount(dataset.index("episode"))
valid = [batch["positions"][i][: batch["length"][i]].mean(0).tolist() for i in range(4)]
print(json.dumps({"mean": mean.tolist(), "valid": valid, "particles": len(particles), "length": int(lengths[3])}))
"""
    found = json.loads(run(sys.executable, "-c", "".join(others) + check, cwd=tmp_path))
    np.testing.assert_allclose(found["mean"], found["valid"], rtol=1e-5)
    assert found["particles"] == found["length"]


def documented_names() -> dict[str, str]:
    """Every dataset of the partition and how the document writes it."""
    names = {name: name for name in ("num_samples", "sealed", "checksum", "num_episodes", "num_rejected")}
    names |= {f"index/{name}": f"index/{name}" for name in ("episode", "step", "env", "seed")}
    names |= {f"episodes/{name}": f"episodes/{name}" for name in ("episode", "seed")}
    names |= {f"parameters/{name}": "parameters/<name>" for name in PARAMETERS}
    names |= {f"rejected/index/{name}": "rejected/index/..." for name in ("episode", "step", "env", "seed")}
    names["rejected/reason"] = "rejected/reason"
    for name, field in SPEC.items():
        names |= {f"data/{name}": "data/<field>", f"rejected/data/{name}": "rejected/data/<field>"}
        if field.dtype.kind in "biuf":
            names[f"statistics/{name}/count"] = "statistics/<field>/count"
            moments = ("mean", "std", "min", "max")
            names |= {f"statistics/{name}/{moment}": "statistics/<field>/{mean,std,min,max}" for moment in moments}
    return names


@pytest.mark.slow
def test_the_documented_interchange_runs(tmp_path, monkeypatch):
    for module in ("minari", "datasets", "xarray", "h5netcdf", "pyarrow"):
        pytest.importorskip(module)
    for name, folder in (("MINARI_DATASETS_PATH", "minari"), ("HF_DATASETS_CACHE", "cache")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    text = (DOCUMENT.parents[1] / "howto" / "interop.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", text[text.index("## Minari") :], re.DOTALL | re.MULTILINE)
    assert len(code) == 5
    (tmp_path / "script.py").write_text("".join(code))
    done = run_program(tmp_path, tmp_path / "script.py")
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "'observation': List(Value('float32'), length=4)" in printed
    assert "torch.Size([32, 4])" in printed
    assert "CartPole-v1" in printed
    assert "('sample', 'quantity')" in printed
    for again in ("again", "from_netcdf", "from_parquet"):
        assert len(SampleDataset(tmp_path / "data" / again)) == 1000
    assert len(SampleDataset(tmp_path / "data" / "mine")) == 10


def test_every_dataset_and_attribute_is_documented(partition):
    words = set(re.findall(r"`([^`\n]+)`", DOCUMENT.read_text()))
    found = []
    with h5py.File(partition) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        attributes = set(file.attrs)
    assert set(found) == set(documented_names())
    assert set(documented_names().values()) <= words
    assert attributes <= words


def test_the_documented_types_are_those_of_the_file(partition):
    with h5py.File(partition) as file:
        assert file["num_samples"][0] == 23
        assert file["sealed"].dtype == np.uint64
        assert file["checksum"].shape == (32,)
        assert file["index/env"].dtype == np.int32
        assert file["episodes/episode"].dtype == np.int64
        assert file["rejected/reason"].dtype == "S200"
        assert [field["name"] for field in json.loads(file.attrs["fields"])] == list(SPEC)
        assert json.loads(file.attrs["parameters"])[0]["unit"] == "Pa"
        assert file.attrs["version"] == 2
        assert file["data/group/flags"].dtype == bool


def test_files_do_not_depend_on_when_they_were_written(partition):
    with h5py.File(partition) as file:
        times = {name: h5py.h5g.get_objinfo(file.id, name.encode()).mtime for name in documented_names()}
    assert set(times.values()) == {0}, times


@pytest.mark.slow
def test_c_reads_the_committed_rows(partition, tmp_path):
    compiler = tool("h5cc")
    (code,) = blocks("c")
    (tmp_path / "rows.c").write_text(code)
    run(compiler, "-Wall", "-Wextra", "-Werror", "-o", "rows", "rows.c", cwd=tmp_path)
    for name in ("forces", "energy", "group/count"):
        lines = run(tmp_path / "rows", partition, name).splitlines()
        got = np.array([line.split() for line in lines], float)
        np.testing.assert_allclose(got, rows(0, 23)[name].reshape(23, -1), rtol=1e-8)
    for arguments in (("none.h5", "forces"), (partition, "none")):
        wrong = subprocess.run([tmp_path / "rows", *arguments], capture_output=True, timeout=110, check=False)
        assert wrong.returncode == 1


def test_h5ls_lists_it(partition):
    listing = run(tool("h5ls"), "-r", partition)
    capacity = Partition(partition).tables["samples"].capacity
    found = dict(re.findall(r"^/(\S+)\s+Dataset \{(.*)\}$", listing, re.MULTILINE))
    assert found["data/forces"] == f"{capacity}, 4, 3"
    assert found["index/seed"] == f"{capacity}"
    assert found["num_samples"] == "1"


def test_h5dump_prints_it(partition):
    dump = tool("h5dump")
    text = run(dump, "-d", "/index/seed", "-s", "0", "-c", "23", "-y", "-w", "0", partition)
    numbers = re.search(r"DATA \{(.*?)\}", text, re.DOTALL)
    assert numbers is not None
    assert [int(number) for number in numbers[1].split(",")] == where(0, 23)["seed"].tolist()
    assert '"physgym-partition"' in run(dump, "-a", "/format", partition)
    assert '"N"' in run(dump, "-a", "/data/forces/unit", partition)
    assert "H5T_ENUM" in run(dump, "-H", "-d", "/data/group/flags", partition)
