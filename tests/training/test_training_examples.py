"""The examples of training run at a tiny size, and the code of docs/howto/training.md runs as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from physgym import SampleDataset
from physgym.training import list_checkpoints

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "training").glob("*.py"))


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "training" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads():
    """An example may set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_examples_are_short():
    ways = {"from_scratch", "always", "from_dataset", "load_samples", "from_network", "online"}
    assert {path.stem for path in EXAMPLES} == {*ways, "physics", "resume"}
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) <= 40, path.name


@pytest.mark.slow
def test_from_scratch_and_further(tmp_path):
    main = example("from_scratch").main
    trainer = main(samples=100, epochs=2, out=tmp_path)
    assert len(trainer.history.epochs) == 2
    assert len(SampleDataset(tmp_path / "dataset")) == 100
    again = main(samples=100, epochs=3, out=tmp_path)  # trains on, with the same samples
    assert [epoch["epoch"] for epoch in again.history.epochs] == [1, 2, 3]
    assert again.history.epochs[:2] == trainer.history.epochs
    assert len(SampleDataset(tmp_path / "dataset")) == 100


@pytest.mark.slow
def test_always(tmp_path):
    trainer = example("always").main(samples=100, epochs=2, out=tmp_path)
    assert trainer.source.position is not None
    assert trainer.step == 4
    assert len(trainer.history["validation_loss"]) == 2


@pytest.mark.slow
def test_from_dataset(tmp_path):
    trainer = example("from_dataset").main(samples=100, epochs=2, out=tmp_path)
    assert len(trainer.training) == 80
    assert trainer.source is None


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["first_epoch", "always"])
def test_load_samples(tmp_path, produce):
    trainer = example("load_samples").main(samples=100, epochs=2, out=tmp_path, produce=produce)
    fine = SampleDataset(tmp_path / "fine")
    assert len(fine) == (100 if produce == "first_epoch" else 200)
    assert fine.spec["initial"].shape == (128,)
    assert trainer.step == 4


@pytest.mark.slow
def test_from_network(tmp_path):
    first, beside, transferred = example("from_network").main(samples=100, epochs=2, out=tmp_path)
    names = [path.name for path in list_checkpoints(tmp_path / "first" / "networks")]
    assert {"epoch-0002", "epoch-0004"} <= set(names)  # the last of either
    assert [path.name for path in list_checkpoints(tmp_path / "second" / "networks")][-1] == "epoch-0002"
    starts = first.history["loss"][0], beside.history["loss"][0]
    assert starts[1] < starts[0]
    assert transferred.predictor is not first.predictor


@pytest.mark.slow
def test_online(tmp_path):
    trainer = example("online").main(samples=200, epochs=2, out=tmp_path)
    assert trainer.step == 8
    assert trainer.source.report().received <= 200


@pytest.mark.slow
def test_physics(tmp_path):
    trainer = example("physics").main(samples=40, epochs=2, out=tmp_path)
    for epoch in trainer.history.epochs:
        assert epoch["loss"] == pytest.approx(epoch["error"] + 0.1 * epoch["residual"], rel=1e-5)


@pytest.mark.slow
def test_resume(tmp_path, capsys):
    whole, resumed = example("resume").main(samples=200, epochs=4, out=tmp_path)
    assert capsys.readouterr().out.endswith("the power is cut\nthe same weights: True\n")
    assert whole.history["loss"] == resumed.history["loss"]


# --- the guide

GUIDE = ROOT / "docs" / "howto" / "training.md"


@pytest.mark.slow
def test_the_code_of_the_guide_runs(tmp_path, monkeypatch):
    """All its blocks of Python, one after the other, in one namespace."""
    text = GUIDE.read_text()
    blocks = [(match.start(), match[1]) for match in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)]
    assert len(blocks) >= 10
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "guide"}
    for start, block in blocks:
        line = text[:start].count("\n") + 1
        exec(compile("\n" * line + block, str(GUIDE), "exec"), names)  # noqa: S102 - our own documentation
