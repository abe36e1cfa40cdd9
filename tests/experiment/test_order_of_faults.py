"""What is wrong with a configuration is said before a session has a name or a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import physgym
from physgym.errors import PhysGymError
from physgym.experiment.config import load_config
from physgym.experiment.runs import train

CONFIG = """
environment: {id: physgym/Spring-v0}
dataset: {samples: 20, num_workers: 0, max_steps: 5}
training: {epochs: 1}
session: sessions/x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    for name, env, options in (
        ("one", "physgym/Spring-v0", {}),
        ("many", "physgym/Spring-v0", {"max_steps": 5}),
        ("beam", "physgym/Beam-v0", {"max_steps": 5}),
    ):
        physgym.generate(env, folder / name, samples=20, num_workers=0, progress=False, **options)
    (folder / "sessions" / "x").mkdir(parents=True)
    (folder / "file").write_text("no dataset")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["nokey=1"], "nokey: unknown key"),
        (["network.arguments.nope=1"], "unexpected keyword argument 'nope'"),
        (["inputs=[nope]"], "inputs names 'nope'"),
        (["dataset.path=one"], "a split by episode needs at least two episodes"),
        (["dataset.path=file"], "file is no folder; a dataset is one"),
        (["dataset.path=meny", "dataset.samples=null"], "dataset.path: there are no samples in meny; name a dataset"),
        (["dataset.path=many", "validation.path=file"], "file is no folder; a dataset is one"),
        (["dataset.path=many", "validation.path=nowhere"], "nowhere"),
        (["dataset.path=many", "validation.path=beam"], "the validation samples have None as field 'force'"),
        (
            ["dataset.path=many", "training.batch_size=99", "training.last_batch=drop"],
            "a batch 99. Use smaller batches",
        ),
        (["dataset.load_samples=nowhere"], "nowhere"),
        (["dataset.path=beam"], "beam holds samples of physgym/Beam-v0"),
    ],
)
def test_a_configuration_that_is_refused_takes_no_name(folder, monkeypatch, capsys, overrides, text):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(PhysGymError) as caught:
        train(load_config("config.yaml", overrides))
    assert text in str(caught.value)
    assert sorted(folder.rglob("*")) == before
    assert "is taken" not in capsys.readouterr().err
