"""Files of the commit c3d8555, made by tests/data/c3d8555/make.py: today's code reads them and goes on with them."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from physgym import SampleDataset, cli
from physgym.data.writer import SampleWriter
from physgym.experiment.record import read_config, read_record, state
from physgym.experiment.report_text import record_text
from physgym.nn import FNO, MLP, Optimization, UNet
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, load_checkpoint
from tests.support.archives import unpack

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* has no record of how fields are fed to its network:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* does not say which code of the simulation made it:UserWarning"),
]

FILES = Path(__file__).parents[1] / "data" / "c3d8555" / "files.tar.xz"
SIZE, EPISODE = 8, 4
NETWORKS = {
    "MLP": lambda spec: MLP.from_spec(spec, hidden=[4]),
    "UNet": lambda spec: UNet.from_spec(spec, dimensions=2, width=2, depth=1),
    "FNO": lambda spec: FNO.from_spec(spec, dimensions=2, width=2, modes=2, depth=1, projection=4),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder with the files, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(FILES) as archive:
        unpack(archive, tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def rows(start, stop):
    i, x = np.arange(start, stop), np.arange(SIZE) / SIZE
    load = np.sin(i[:, None, None] + 6 * x[:, None]) * np.cos(3 * x[None, :])
    label = np.array([f"step {number}" for number in i], "S8")
    return {"load": load.astype("f4"), "field": (load**2 - load).astype("f4"), "label": label}


def where(start, stop):
    i = np.arange(start, stop)
    return {"episode": i // EPISODE, "step": i % EPISODE, "seed": (100 + i // EPISODE).astype("u8")}


def check(dataset, start, stop):
    assert len(dataset) == stop - start
    got = dataset[:]
    for name, column in rows(start, stop).items():
        if column.dtype.kind == "f":  # the sine of another machine may differ in the last bit
            np.testing.assert_allclose(got[name], column, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(got[name], column)
    for name, column in where(start, stop).items():
        np.testing.assert_array_equal(dataset.index(name), column)


def test_they_name_no_folder_of_a_machine(files):
    for file in files.rglob("*"):
        if file.is_file():
            found = set(re.findall(rb"(?<![\w./])/[A-Za-z][\w.-]+/", file.read_bytes()))
            assert found <= {b"/somewhere/", b"/physgym/"}, file


@pytest.mark.parametrize(("mode", "start", "stop"), [("training", 0, 16), ("validation", 16, 24)])
def test_samples_parameters_and_rejected_steps_are_read(files, mode, start, stop):
    dataset = SampleDataset("dataset", mode=mode)
    check(dataset, start, stop)
    assert (dataset.spec["load"].unit, dataset.spec["field"].role) == ("N", "target")
    assert dataset.source["env"] == "test/None-v0"
    episodes = np.arange(start // EPISODE, stop // EPISODE)
    np.testing.assert_array_equal(dataset.parameter_episodes, episodes)
    assert tuple(dataset.parameters) == ("stiffness",)
    assert list(dataset.rejected.reasons) == ["too stiff"]
    dataset.verify()


def test_a_partition_that_is_open_goes_on(files):
    old = SampleDataset("dataset", mode="validation")
    options = {"parameters": SampleSpec([Field("stiffness", (), np.dtype("f8"), "input", "Pa")]), "rejected": True}
    with SampleWriter("dataset", old.spec, mode="validation", source=old.source, resume=True, **options) as writer:
        writer.append(rows(24, 28), **where(24, 28))
    check(SampleDataset("dataset", mode="validation"), 16, 28)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_goes_on_from_its_checkpoint(files, name):
    """To the losses of the training that was not interrupted; last bits depend on the machine."""
    dataset, held = SampleDataset("dataset"), SampleDataset("dataset", mode="validation")
    network = NETWORKS[name](dataset.spec)
    trainer = Trainer(
        network, dataset, epochs=4, batch_size=4, validation=held, optimization=Optimization(network, lr=0.01),
        transforms=load_checkpoint(f"networks/{name}").transforms, progress=False, resume=f"networks/{name}",
    )  # fmt: skip
    history = trainer.fit()
    expected = json.loads(Path("expected.json").read_text())[name]
    for key in ("loss", "validation_loss"):
        got = [values[key] for values in history.epochs]
        np.testing.assert_allclose(got, [values[key] for values in expected], rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_predicts(files, name):
    predictor = load_checkpoint(f"networks/{name}")
    samples = {name: column for name, column in rows(0, 3).items() if name != "label"}
    predicted = predictor(predictor.tensors(samples))
    assert predicted["field"].shape == (3, SIZE, SIZE)


@pytest.mark.slow
def test_a_session_is_read_resumed_and_run(files, capsys):
    session = Path("spring")
    assert state(session) == "completed"
    assert read_config(session)["environment"]["id"] == "physgym/Spring-v0"
    assert "outcome: completed" in record_text(read_record(session), state(session), details=True)
    cli.app(["resume", "spring", "training.epochs=3"], standalone_mode=False)
    runs = read_record(session)["runs"]
    assert [(run["outcome"], run["results"]["epoch"]) for run in runs] == [("completed", 2), ("completed", 3)]
    assert runs[0]["dataset"]["hash"] == runs[1]["dataset"]["hash"]
    cli.app(["run", "spring", "--steps", "5"], standalone_mode=False)
    assert "5 steps, 0 rejected" in capsys.readouterr().out
    cli.app(["list", "."], standalone_mode=False)
    assert "made by c3d8555" in capsys.readouterr().out


def test_the_record_of_a_run_goes_on(files, capsys):
    recorded = SampleDataset("recorded", mode="prediction")
    assert len(recorded) == 6
    assert recorded.time_step is None
    assert any(name.startswith("prediction/") for name in recorded.spec)
    cli.app(["replay", "spring", "--data", "recorded", "--mode", "prediction"], standalone_mode=False)
    assert "6 steps, 0 rejected" in capsys.readouterr().out
    arguments = ["run", "spring", "--seed", "3", "--steps", "4", "--record", "recorded", "--resume"]
    cli.app(arguments, standalone_mode=False)
    assert len(SampleDataset("recorded", mode="prediction")) == 10
