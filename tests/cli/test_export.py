"""`physgym export` reads a session for its network or for its samples, as --to says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import physgym
from physgym.errors import ConfigError
from physgym.experiment.session_samples import dataset_of
from physgym.formats import registry
from physgym.nn import MLP
from physgym.training import Trainer, load_checkpoint
from tests.support.commands import run_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    dataset = physgym.generate("physgym/Spring-v0", folder / "data", samples=20, max_steps=5, seed=0, progress=False)
    network = MLP.from_spec(dataset.spec, hidden=(4,))
    Trainer(network, dataset, epochs=1, session=folder / "session", progress=False).fit()
    return folder


@pytest.mark.slow
def test_a_session_is_exported_as_its_network(folder):
    done = run_command(folder, "export", "session", "--to", "pt2", "--out", "net.pt2")
    assert done.returncode == 0, done.stderr
    assert "written: " in done.stdout
    said = json.loads((folder / "net.pt2.json").read_text())
    assert said["session"] == "session"
    assert said["compared"]["on"] == "training samples"
    checkpoint = folder / "session" / "networks" / said["checkpoint"]
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert said["weights_sha256"] == manifest["files"]["network.safetensors"][1]
    samples = physgym.SampleDataset(folder / "data")[:5]
    want = load_checkpoint(folder / "session").predict(samples, batched=True)
    fields = {one["name"]: torch.from_numpy(samples[one["name"]]) for one in said["inputs"]}
    given = torch.export.load(folder / "net.pt2").module()(fields)
    np.testing.assert_array_equal(given["next_state"].numpy(), want["next_state"])
    again = run_command(folder, "export", "session", "--to", "pt2", "--out", "net.pt2")
    assert again.returncode != 0
    assert "exists; choose another name" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "--to", "pt2", "--out", "other.pt2"], "data"),
        (["session", "--to", "pt2"], "add --out, where to write"),
        (["session", "--to", "onnx", "--out", "other.pt2"], "let its name end in .onnx"),
        (["session", "--to", "pt2", "--out", "other.pt2", "--which", "77"], "has no checkpoint 77"),
        (["session", "--to", "numpy", "--out", "other", "--which", "best"], "--which chooses a network"),
        (["nothing", "--to", "pt2", "--out", "other.pt2"], "nothing"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(folder, arguments, message):
    done = run_command(folder, "export", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("*other*"))


@pytest.mark.slow
def test_for_another_format_a_session_stands_for_its_samples(folder):
    done = run_command(folder, "export", "session", "--to", "numpy", "--out", "arrays")
    assert done.returncode == 0, done.stderr
    samples = physgym.SampleDataset(folder / "data")[:]
    np.testing.assert_array_equal(np.load(folder / "arrays" / "state.npy"), samples["state"])
    assert dataset_of(folder / "data") == folder / "data"


def test_a_session_without_samples_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="is a session that has no samples"):
        dataset_of(tmp_path)
    (tmp_path / "dataset").mkdir()
    assert dataset_of(tmp_path) == tmp_path / "dataset"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("npz", " Did you mean numpy?"),
        (".nc", " Did you mean netcdf?"),
        ("parqet", " Did you mean parquet?"),
        ("onxn", " Did you mean onnx?"),
        ("zip", ""),
    ],
)
def test_an_unknown_format_is_an_error_with_those_there_are(name, hint):
    with pytest.raises(ConfigError) as refused:
        registry.find(name)
    assert str(refused.value).startswith(f"--to: there is no format {name!r}.{hint} There are numpy, ")
    assert str(refused.value).endswith(", and for a network onnx and pt2")


def test_other_names_of_formats_are_of_formats_there_are():
    assert {*registry.OTHER_NAMES.values()} <= {*registry.names(), *registry.network_names()}
    assert not {*registry.OTHER_NAMES} & {*registry.names(), *registry.network_names()}
