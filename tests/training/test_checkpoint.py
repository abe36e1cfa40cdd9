from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn

from physgym import files
from physgym.errors import CheckpointError
from physgym.nn import MLP, Optimization, Predictor, Transform, Transforms, UNet
from physgym.sample import Field, SampleSpec
from physgym.training import (
    Checkpoints,
    Trainer,
    checkpoint_files,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from physgym.training import save_checkpoint as save
from physgym.training.checkpoint_folders import TEMPORARY, delete_leftovers
from physgym.training.checkpoint_manifests import seal_of
from tests.support.memory_samples import linear_samples

SAMPLES = linear_samples(64)


def make(network=None, samples=SAMPLES, **options):
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(8,)) if network is None else network
    options.setdefault("transforms", Transforms.normalization(samples))
    return Predictor(network, samples.spec, **options)


def predict(predictor):
    return predictor.predict(SAMPLES.arrays, batched=True)["displacement"]


class Own(nn.Module):
    """A network that physgym does not know."""

    def __init__(self, width=5):
        super().__init__()
        self.inner = nn.Linear(6, width)
        self.outer = nn.Linear(width, 4)

    def forward(self, force):
        return self.outer(torch.relu(self.inner(force.flatten(1))))


@pytest.mark.parametrize(
    "network",
    [
        MLP((3, 2), 4, hidden=(8, 8), activation="tanh", residual=True, linear_skip=True, layer_norm=True, dropout=0.1),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 4)),
    ],
)
def test_round_trip_predicts_the_same_bits(tmp_path, network):
    predictor = make(network)
    path = save(tmp_path / "deep" / "one", predictor, epoch=3)
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "network.safetensors"]
    given = None if isinstance(network, MLP) else nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    loaded = load_checkpoint(path, network=given)
    np.testing.assert_array_equal(predict(loaded), predict(predictor))
    assert (loaded.inputs, loaded.outputs) == (("force",), ("displacement",))
    assert dict(loaded.spec) == dict(predictor.spec)
    assert not loaded.training
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["epoch"] == 3
    assert manifest["parameters"] == predictor.num_parameters


def test_a_unet_with_batch_statistics_comes_back(tmp_path):
    spec = SampleSpec([Field(n, (5, 6), np.dtype("f4"), r) for n, r in (("a", "input"), ("b", "target"))])
    network = UNet(2, 1, 1, depth=1, width=4, norm="batch")
    network(torch.rand(8, 5, 6))  # the running mean is a buffer
    predictor = Predictor(network, spec)
    loaded = load_checkpoint(save(tmp_path / "unet", predictor))
    field = {"a": np.random.default_rng(0).random((5, 6), np.float32)}
    np.testing.assert_array_equal(loaded.predict(field)["b"], predictor.predict(field)["b"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_built_network_has_the_precision_that_was_saved(tmp_path, dtype):
    predictor = make().to(dtype)
    loaded = load_checkpoint(save(tmp_path / "one", predictor))
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(predict(loaded), predict(predictor))


def test_half_precision_and_tied_weights_come_back(tmp_path):
    def tied():
        network = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4))
        network[2].weight = network[1].weight
        return network

    predictor = make(tied()).bfloat16()
    network = tied().bfloat16()
    loaded = load_checkpoint(save(tmp_path / "tied", predictor), network=network)
    assert loaded.network[2].weight is loaded.network[1].weight
    np.testing.assert_array_equal(predict(loaded), predict(predictor))


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    load_checkpoint(save(tmp_path / "one", make()))


# --- custom networks and transforms


def test_a_network_of_the_callers_own_is_given(tmp_path):
    predictor = make(Own())
    path = save(tmp_path / "own", predictor)
    with pytest.raises(CheckpointError, match=r"the network tests.training.test_checkpoint.Own.*Pass network=\.\.\."):
        load_checkpoint(path)
    torch.manual_seed(1)
    np.testing.assert_array_equal(predict(load_checkpoint(path, network=Own())), predict(predictor))


def test_transforms_of_the_callers_own_are_given(tmp_path):
    class Double(Transform):
        def forward(self, fields):
            return {name: 2 * value for name, value in fields.items()}

    predictor = make(transforms=Transforms(before_apply=Double()))
    path = save(tmp_path / "own", predictor)
    with pytest.raises(CheckpointError, match=r"the transforms .*Transforms.*Pass transforms=\.\.\."):
        load_checkpoint(path)
    loaded = load_checkpoint(path, transforms=Transforms(before_apply=Double()))
    np.testing.assert_array_equal(predict(loaded), predict(predictor))


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (Own(6), r"network\.inner\.weight has shape \(.*\) in the file and \(.*\) in the network"),
        (MLP((3, 2), 4), r"network\.head\.weight is missing; .* more$"),
    ],
)
def test_a_network_that_does_not_fit_is_an_error(tmp_path, network, problem):
    path = save(tmp_path / "own", make(Own()))
    with pytest.raises(CheckpointError, match=rf"(?s)do not fit the network {type(network).__name__}.*{problem}"):
        load_checkpoint(path, network=network)
    with pytest.raises(CheckpointError, match=r"(?s)do not fit.*'displacement' with shape \(5,\)"):
        load_checkpoint(path, network=MLP((3, 2), 5))


def test_a_class_that_is_no_longer_known(tmp_path):
    path = save(tmp_path / "one", make())
    replaced(path, "network", {**copy(path, "network"), "name": "Gone"})
    with pytest.raises(CheckpointError, match=r"'Gone' is not a registered module.*Or pass network=\.\.\."):
        load_checkpoint(path)


# --- damage


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")

    def damaged(action):
        path = save(tmp_path / "one", make())
        action(path)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        return str(error.value)

    def cut(file):
        file.write_bytes(file.read_bytes()[:-7])

    def flip(file):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)

    def without(file, key):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))

    assert "manifest.json is missing" in damaged(lambda p: (p / "manifest.json").unlink())
    assert "network.safetensors is missing" in damaged(lambda p: (p / "network.safetensors").unlink())
    assert "network.safetensors was changed" in damaged(lambda p: cut(p / "network.safetensors"))
    assert "network.safetensors was changed" in damaged(lambda p: flip(p / "network.safetensors"))
    assert "not a complete checkpoint: manifest.json" in damaged(lambda p: cut(p / "manifest.json"))
    assert "lacks ['fields']" in damaged(lambda p: without(p / "manifest.json", "fields"))
    assert "KeyError 'name'" in damaged(lambda p: replaced(p, "network", {}))
    assert "TypeError its transforms are a MLP" in damaged(lambda p: replaced(p, "transforms", copy(p, "network")))
    assert "SampleError" in damaged(lambda p: replaced(p, "fields", []))
    assert "is no object" in damaged(lambda p: (p / "manifest.json").write_text("[]"))
    assert "has format 99" in damaged(lambda p: replaced(p, "format", 99))


def copy(path, key):
    return json.loads((path / "manifest.json").read_text())[key]


def replaced(path, key, value):
    manifest = json.loads((path / "manifest.json").read_text()) | {key: value}
    manifest["digest"] = seal_of(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    old = make()
    path = save(tmp_path / "one", old)
    expected = predict(old)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    torch.manual_seed(5)
    other = make(MLP((3, 2), 4, hidden=(8,)))
    with torch.no_grad():
        other.network.head.bias += 1
    monkeypatch.setattr(checkpoint_files, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*one: .*No space left"):
        save(path, other)
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]
    np.testing.assert_array_equal(predict(load_checkpoint(path)), expected)
    monkeypatch.undo()
    save(path, other)
    np.testing.assert_array_equal(predict(load_checkpoint(path)), predict(other))
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_a_checkpoint_is_on_the_disk_before_it_is_renamed_into_place(tmp_path, monkeypatch):
    path, flushed = tmp_path / "one", []

    def watch(file):
        flushed.append((file.name, file.stat().st_ino, path.exists()))
        flush(file)

    flush = files.flush
    monkeypatch.setattr(files, "flush", watch)
    save(path, make())
    (weights, _, _), (manifest, _, _), (hidden, inode, _), (parent, _, _) = flushed
    assert (weights, manifest, parent) == ("network.safetensors", "manifest.json", tmp_path.name)
    assert TEMPORARY.fullmatch(hidden)
    assert [visible for _, _, visible in flushed] == [False, False, False, True]
    assert path.stat().st_ino == inode


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Stateful(Own):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(CheckpointError, match=r"'network._extra_state' of the network is a dict, .*Return a tensor"):
        save(tmp_path / "one", make(Stateful()))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_at_any_time_every_visible_checkpoint_is_whole(tmp_path):
    script = textwrap.dedent(
        """
        import itertools, sys
        from physgym.training import save_checkpoint
        from tests.training.test_checkpoint import make
        from physgym.nn import MLP

        predictor = make(MLP((3, 2), 4, hidden=(300, 300)))
        for step in itertools.count():
            save_checkpoint(f"{sys.argv[1]}/epoch-{step % 3}", predictor, step=step)
            if step == 3:
                print("ready", flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        for _ in range(5):  # what a reader sees meanwhile
            assert all(len(m["files"]) == 1 for m in list_checkpoints(tmp_path).values())
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    found = list_checkpoints(tmp_path)
    assert len(found) >= 2
    for path in found:
        load_checkpoint(path)
    delete_leftovers(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name for path in found}


# --- choosing one


def test_last_best_epoch_and_name(tmp_path):
    folder = tmp_path / "networks"
    for epoch, score in ((1, 5.0), (2, 0.5), (10, 3.0)):
        save(folder / f"epoch-{epoch:04d}", make(), epoch=epoch, batch=0, step=epoch * 7, score=score)
    save(folder / "epoch-0010-step-00000075", make(), epoch=10, batch=5, step=75)
    assert [path.name for path in list_checkpoints(folder)][-1] == "epoch-0010-step-00000075"
    for where in (folder, tmp_path):
        assert find_checkpoint(where).name == "epoch-0010-step-00000075"
        assert find_checkpoint(where, "best").name == "epoch-0002"
        assert find_checkpoint(where, 10).name == "epoch-0010"
        assert find_checkpoint(where, "epoch-0001").name == "epoch-0001"
    assert find_checkpoint(folder / "epoch-0001", "best").name == "epoch-0001"
    with pytest.raises(CheckpointError, match=r"no checkpoint 3; there are \['epoch-0001', 'epoch-0002'"):
        find_checkpoint(folder, 3)


def train(folder, epochs, losses, **options):
    """A training whose validation losses are the given ones."""

    class Scripted(Trainer):
        def evaluate(self, samples):
            return {"loss": losses[self.epoch]}

    network = MLP((3, 2), 4, hidden=(4,))
    callbacks = [Checkpoints(folder, **options)]
    run = Scripted(network, SAMPLES, epochs=epochs, batch_size=32, callbacks=callbacks, progress=False)
    run.fit()
    return run


def names(folder):
    return [path.name for path in list_checkpoints(folder)]


def test_only_the_last_and_the_best_are_kept(tmp_path):
    train(tmp_path, 5, [float("nan"), 1.0, float("nan"), 2.0, 4.0])
    assert names(tmp_path) == ["epoch-0002", "epoch-0005"]
    assert find_checkpoint(tmp_path, "best").name == "epoch-0002"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names(tmp_path)


def test_all_epochs_are_kept_on_request(tmp_path):
    train(tmp_path, 3, [1.0, 1.0, 1.0], keep=None)
    assert names(tmp_path) == ["epoch-0001", "epoch-0002", "epoch-0003"]


def test_a_second_training_in_a_folder_counts_on_and_leaves_the_first(tmp_path):
    first = train(tmp_path, 2, [1.0, 2.0])
    before = {path: (path / "network.safetensors").read_bytes() for path in list_checkpoints(tmp_path)}
    second = train(tmp_path, 3, [9.0, 9.0, 9.0])
    assert names(tmp_path) == ["epoch-0001", "epoch-0002", "epoch-0003", "epoch-0005"]  # 3: the best of the second one
    assert all((path / "network.safetensors").read_bytes() == data for path, data in before.items())
    steps = [manifest["step"] for manifest in list_checkpoints(tmp_path).values()]
    assert steps == [first.step // 2, first.step, first.step + second.step // 3, first.step + second.step]
    assert find_checkpoint(tmp_path, 5).name == "epoch-0005"


def test_the_same_trainer_continued_keeps_its_numbers(tmp_path):
    network = MLP((3, 2), 4, hidden=(4,))
    optimization = Optimization(network)
    stop = {3}

    class Stopping(Checkpoints):
        def batch_end(self, trainer, values):
            if trainer.step in stop:
                stop.clear()
                os.kill(os.getpid(), signal.SIGINT)

    run = Trainer(
        network,
        SAMPLES,
        optimization=optimization,
        epochs=2,
        batch_size=32,
        validation=0,
        callbacks=[Stopping(tmp_path, keep=None)],
        progress=False,
    )
    assert run.fit().interrupted
    assert names(tmp_path) == ["epoch-0001", "epoch-0001-step-00000003"]
    run.fit()
    assert names(tmp_path) == ["epoch-0001", "epoch-0001-step-00000003", "epoch-0002"]
