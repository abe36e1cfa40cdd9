"""Samples that are held on the device: the batches, and the training, are the same."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from physgym import SampleDataset
from physgym.data import Loader, SampleWriter
from physgym.errors import ConfigError
from physgym.nn import MLP
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, resident
from physgym.training.resident import ResidentSamples, resident_samples
from physgym.training.transfer import moved_ahead
from tests.support.memory_samples import linear_samples
from tests.support.weights import flat_weights

CPU = torch.device("cpu")


@pytest.fixture
def dataset(tmp_path):
    """A hundred samples in episodes of ten, of some dtypes, in several partitions."""
    spec = SampleSpec(
        [
            Field("x", (3,), np.dtype("f4"), "input"),
            Field("y", (2,), np.dtype("f8"), "target"),
            Field("kind", (), np.dtype("u1"), "additional"),
        ]
    )
    rng, at = np.random.default_rng(0), np.arange(100)
    with SampleWriter(tmp_path / "data", spec, max_file_size=1000) as writer:
        names = {"episode": at // 10, "step": at % 10, "seed": at.astype("u8")}
        values = {"x": rng.standard_normal((100, 3)).astype("f4"), "y": rng.standard_normal((100, 2)), "kind": at}
        writer.append(values, **names)
    return SampleDataset(tmp_path / "data")


@pytest.mark.parametrize("shuffle", [True, False, "window"])
@pytest.mark.parametrize("part", [{}, {"rank": 1, "world_size": 2}, {"drop_last": True}, {"min_batch": 16}], ids=str)
def test_batches_are_those_of_the_loader(monkeypatch, dataset, shuffle, part):
    monkeypatch.setattr(resident, "INDICES", 40)
    monkeypatch.setattr(resident, "COPIED", 300)
    loader = Loader(dataset, 16, shuffle=shuffle, block=500, window=1500, seed=3, **part)
    held = ResidentSamples(dataset, loader.fields, CPU)
    for epoch, first in ((0, 0), (4, 2)):
        loader.set_epoch(epoch, first)
        got = list(held.batches(loader, epoch, first))
        for batch, want in zip(got, loader, strict=True):
            assert list(batch) == list(want)
            for name, value in want.items():
                assert batch[name].dtype == value.dtype
                assert torch.equal(batch[name], value)


@pytest.mark.parametrize("kind", ["stored", "memory"])
def test_a_training_ends_in_the_same_bits(dataset, kind, tmp_path):
    samples = dataset if kind == "stored" else linear_samples(100)

    def weights(epochs=3, **options):
        torch.manual_seed(0)
        network = MLP.from_spec(samples.spec, hidden=(16,))
        run = Trainer(network, samples, epochs=epochs, batch_size=16, progress=False, **options)
        run.fit()
        return flat_weights(run.predictor)

    want = weights()
    assert torch.equal(weights(device_resident=True), want)
    weights(epochs=2, device_resident=True, session=tmp_path / "session")
    assert torch.equal(weights(session=tmp_path / "session", resume=True), want)  # as if nothing were there


def test_auto_holds_stored_samples_on_a_gpu_where_they_are_small(monkeypatch, dataset):
    made = []
    monkeypatch.setattr(resident, "ResidentSamples", lambda *arguments: made.append(arguments) or "held")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * 29 * 4, 10**9))
    gpu, loader = torch.device("cuda"), Loader(dataset, 16, pin_memory=False)
    assert resident_samples(dataset, loader, gpu, "auto", 0) == "held"
    assert resident_samples(dataset, loader, gpu, "auto", 2) is None  # gathering computes something
    assert resident_samples(dataset, loader, CPU, "auto", 0) is None
    assert resident_samples(dataset, loader, gpu, False, 0) is None
    assert resident_samples(dataset, loader, CPU, True, 0) == "held"
    others = linear_samples(10)  # which may be others whenever they are read
    assert resident_samples(others, Loader(others, 2, pin_memory=False), gpu, "auto", 0) is None
    blocks = Loader(dataset, 16, shuffle="window", pin_memory=False)
    assert resident_samples(dataset, blocks, gpu, "auto", 0) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * 29 * 4 - 1, 10**9))
    assert resident_samples(dataset, loader, gpu, "auto", 0) is None
    assert len(made) == 2


def test_what_has_no_room_is_said(monkeypatch, dataset):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ConfigError, match=r"the samples take 2\.9e-06 GB, for which cpu has no room"):
        ResidentSamples(dataset, list(dataset.spec), CPU)


def test_another_value_is_refused(dataset):
    with pytest.raises(ConfigError, match=r"device_resident must be one of \(True, False, 'auto'\), not 'yes'"):
        Trainer(MLP(3, 2), dataset, epochs=1, device_resident="yes")


def test_without_a_gpu_batches_are_moved_one_by_one():
    moved = []
    batches = moved_ahead(({"x": number} for number in range(3)), lambda batch: moved.append(batch) or batch, CPU)
    assert next(batches) == {"x": 0}
    assert len(moved) == 1
    assert [batch["x"] for batch in batches] == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("held", [True, False])
def test_a_gpu_gets_the_same_batches(dataset, held):
    seen = {}
    for device, device_resident in (("cpu", False), ("cuda", held)):
        run = Trainer(
            MLP(3, 2), dataset, epochs=1, batch_size=7, device=device, progress=False, device_resident=device_resident
        )
        batches = run._supply.batches(run._progress)
        seen[device] = [{name: value.cpu() for name, value in batch.items()} for batch in batches]
    for one, other in zip(*seen.values(), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_what_computes_waits_for_the_copies_on_their_own_device(monkeypatch, name):
    done = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def record_event(self):
            return f"copied on {self.device}"

        def wait_event(self, event):
            done.append((self.device, "waits", event))

    class Copy:
        def record_stream(self, stream):
            done.append((stream.device, "keeps"))

    device = torch.device(name)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device="the current one": Stream(device))
    moved = moved_ahead([{"x": 1}, {"x": 2}], lambda batch: done.append(batch) or {"x": Copy()}, device)
    assert len(next(moved)) == 1
    handed_out = [(device, "waits", f"copied on {device}"), (device, "keeps")]
    assert done == [{"x": 1}, {"x": 2}, *handed_out]  # the second copy is on its way before the first is used
    assert len(list(moved)) == 1
    assert done[4:] == handed_out
