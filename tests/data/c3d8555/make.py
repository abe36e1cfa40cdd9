"""Make ``files.tar.xz`` beside this script, with the code of the commit c3d8555 in PYTHONPATH::

    git worktree add --detach OLD c3d8555
    cd FOLDER_OUTSIDE_OF_A_REPOSITORY && PYTHONPATH=OLD python .../tests/data/c3d8555/make.py

It holds files of a user of that version: a dataset of two parts with parameters and rejected samples,
trainings of three networks that stopped after two of four epochs, and a session with its network, and the record
of a run of it. Names of folders and of the machine are replaced afterwards.
"""

from __future__ import annotations

import json
import platform
import socket
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from physgym.experiment.build import load_network, train

import physgym
from physgym.data.writer import SampleWriter
from physgym.experiment.config import check_config
from physgym.nn import FNO, MLP, Compose, Hold, Optimization, Transforms, UNet
from physgym.runner import Runner
from physgym.sample import Field, SampleSpec
from physgym.training import Checkpoints, Trainer

HERE = Path(__file__).parent
SIZE, EPISODE, EPOCHS, STOP = 8, 4, 4, 2
SPEC = SampleSpec(
    [
        Field("load", (SIZE, SIZE), np.dtype("f4"), "input", "N"),
        Field("field", (SIZE, SIZE), np.dtype("f4"), "target", "m"),
        Field("label", (), np.dtype("S8"), "additional"),
    ]
)
PARAMETERS = SampleSpec([Field("stiffness", (), np.dtype("f8"), "input", "Pa")])
SPRING = {
    "description": "made by c3d8555",
    "session": "spring",
    "environment": {"id": "physgym/Spring-v0"},
    "sampler": {"parameters": "sobol"},
    "dataset": {"samples": 30, "num_workers": 1, "num_envs": 1, "max_steps": 10},
    "network": {"arguments": {"hidden": [4]}},
    "training": {"epochs": 2, "batch_size": 8},
    "validation": {"fraction": 0.34},
}


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    """The samples of these numbers."""
    i = np.arange(start, stop)
    x = np.arange(SIZE) / SIZE
    load = np.sin(i[:, None, None] + 6 * x[:, None]) * np.cos(3 * x[None, :])
    label = np.array([f"step {number}" for number in i], "S8")
    return {"load": load.astype("f4"), "field": (load**2 - load).astype("f4"), "label": label}


def where(start: int, stop: int) -> dict[str, np.ndarray]:
    """Their episodes, steps and seeds."""
    i = np.arange(start, stop)
    return {"episode": i // EPISODE, "step": i % EPISODE, "seed": (100 + i // EPISODE).astype("u8")}


def write(folder: Path) -> None:
    """Two parts: one with sealed partitions, one that is open."""
    for mode, start, stop in (("training", 0, 16), ("validation", 16, 24)):
        writer = SampleWriter(
            folder, SPEC, mode=mode, source={"env": "test/None-v0", "seed": 7}, parameters=PARAMETERS, rejected=True,
            max_file_size=1 << 17,
        )  # fmt: skip
        episodes = np.arange(start // EPISODE, stop // EPISODE)
        writer.add_parameters({"stiffness": 1e3 + episodes}, episode=episodes, seed=(100 + episodes).astype("u8"))
        bad = where(start, start + 1)
        writer.add_rejected(rows(start, start + 1), ["too stiff"], **bad)
        writer.append(rows(start, stop), **where(start, stop))
        writer.close(seal=mode == "training")


def network(name: str) -> torch.nn.Module:
    """One of three networks."""
    torch.manual_seed(0)
    if name == "MLP":
        return MLP.from_spec(SPEC, hidden=[4])
    if name == "UNet":
        return UNet.from_spec(SPEC, width=2, depth=1)
    return FNO.from_spec(SPEC, width=2, modes=2, depth=1, projection=4)


def trainer(name: str, data: Path, epochs: int, **options: object) -> Trainer:
    """A training of one of the networks."""
    made = network(name)
    dataset = physgym.SampleDataset(data)
    transforms = Transforms.normalization(dataset)
    if name == "MLP":  # one of each kind
        hold = Hold.where({"load": np.eye(SIZE, dtype=bool)})
        transforms = Transforms(
            Compose([hold, transforms.before_prediction]), transforms.before_loss, transforms.before_apply
        )
    optimization = Optimization(made, lr=0.01)
    validation = physgym.SampleDataset(data, mode="validation")
    return Trainer(
        made, dataset, epochs=epochs, batch_size=4, validation=validation, optimization=optimization,
        transforms=transforms,
        progress=False, **options,
    )  # fmt: skip


def replace(folder: Path) -> None:
    """Replace names of folders and of the machine in all texts."""
    names = {str(Path.cwd()): "/somewhere", str(Path(physgym.__file__).parents[1]): "/physgym", sys.prefix: "/venv"}
    names |= {str(HERE): "/somewhere", socket.gethostname(): "machine", platform.platform(): "Linux"}
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".yaml", ".txt"):
            text = file.read_text()
            for old, new in names.items():
                text = text.replace(old, new)
            file.write_text(text)
    for file in folder.rglob("record.json"):
        record = json.loads(file.read_text())
        for run in record["runs"]:
            run["packages"] = {name: run["packages"][name] for name in ("numpy", "torch")}
            run["environment"] = {}
        file.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Make all files."""
    torch.set_num_threads(1)
    write(Path("dataset"))
    expected = {}
    for name in ("MLP", "UNet", "FNO"):
        trainer(name, Path("dataset"), STOP, callbacks=[Checkpoints(Path("networks") / name, best=False)]).fit()
        history = trainer(name, Path("dataset"), EPOCHS).fit()
        expected[name] = [{key: values[key] for key in ("loss", "validation_loss")} for values in history.epochs]
    outcome = train(check_config(SPRING, "the script"))
    assert outcome.session is not None
    with Runner(
        "physgym/Spring-v0",
        load_network(check_config(SPRING, "the script"), outcome.session),
        seed=3,
        record="recorded",
    ) as runner:
        runner.run(6, progress=False)
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    replace(Path.cwd())
    with tarfile.open(HERE / "files.tar.xz", "w:xz") as archive:
        for name in ("dataset", "networks", "spring", "recorded", "expected.json"):
            archive.add(name, filter=anonymous)


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out curves and locks, and who made a file when."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return None if Path(info.name).name in ("stats", ".lock") else info


if __name__ == "__main__":
    main()
