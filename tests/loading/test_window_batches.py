"""Windows of a dataset are loaded, shuffled, divided and resumed as its samples are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from physgym.data import Loader, SampleDataset, SampleWriter, StackedSampler
from physgym.loading import loader as module
from physgym.loading import reading
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("state", (3,), np.dtype("f4"), "input"), Field("next_state", (3,), np.dtype("f4"), "target")])
EPISODES, STEPS = 30, 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "d"
    number = np.arange(EPISODES * STEPS)
    state = number[:, None] + np.arange(3) / 8
    with SampleWriter(path, SPEC.with_feedback("next_state -> state")) as writer:
        names = {"episode": number // STEPS, "step": number % STEPS, "seed": (number // STEPS).astype("u8")}
        writer.append({"state": state.astype("f4"), "next_state": (state + 1).astype("f4")}, **names)
    return SampleDataset(path)


@pytest.fixture(params=["whole", "part", "strides", "padded"])
def windows(dataset, request):
    if request.param == "whole":
        return dataset.windows(2, 4)
    if request.param == "part":
        return dataset.split(0.3)[0].windows(2, 4)
    if request.param == "strides":
        return dataset.windows(2, 3, stride=2, every=2)
    rows = np.flatnonzero((dataset.index("episode") % 3 > 0) | (dataset.index("step") < 4))
    return dataset.subset(rows).windows(2, 4, short="pad")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "GATHER_SIZE", 1)


def blocks_of(windows):
    """Blocks of 7 windows, of which 3 are shuffled together."""
    return {"shuffle": "window", "block": 7 * windows.row_nbytes, "window": 21 * windows.row_nbytes}


@pytest.mark.parametrize("shuffle", [False, "random", "window"])
def test_every_order_gives_every_window_once(windows, shuffle, small_chunks):
    options = blocks_of(windows) if shuffle == "window" else {"shuffle": shuffle}
    loader = Loader(windows, 16, seed=3, **options)
    assert loader.order == ("window" if shuffle == "window" else shuffle or "sequential")
    found = []
    for number, batch in enumerate(loader):
        indices = loader.indices(0, number)
        for name, values in windows.gather(indices).items():
            assert torch.equal(batch[name], torch.from_numpy(values))
        found += indices.tolist()
    assert sorted(found) == list(range(len(windows)))
    assert (found == sorted(found)) == (shuffle is False)


def test_ranks_share_the_windows(windows):
    parts = [Loader(windows, 8, seed=1, rank=rank, world_size=3, shuffle="random") for rank in range(3)]
    found = np.concatenate([np.concatenate(list(part.batch_indices(2))) for part in parts])
    assert len(set(found.tolist())) == len(found) == len(windows) // 3 * 3


@pytest.mark.parametrize("shuffle", ["random", "window"])
def test_a_resumed_loader_goes_on_to_the_bit(windows, shuffle):
    options = blocks_of(windows) if shuffle == "window" else {"shuffle": shuffle}
    loader = Loader(windows, 16, seed=5, **options)
    batches = iter(loader)
    next(batches), next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = list(batches)
    again = Loader(windows, 16, seed=5, **options)
    again.load_state_dict(state)
    for want, got in zip(rest, again, strict=True):
        assert all(torch.equal(want[name], got[name]) for name in want)


def test_the_loader_of_torch_takes_windows(windows):
    stacked = DataLoader(windows, sampler=StackedSampler(windows, 16, seed=2), batch_size=None)
    for want, got in zip(Loader(windows, 16, seed=2, shuffle="random"), stacked, strict=True):
        assert all(np.array_equal(want[name].numpy(), got[name]) for name in want)
    plain = next(iter(DataLoader(windows, batch_size=5)))
    for name, values in windows[:5].items():
        assert torch.equal(plain[name], torch.from_numpy(values))


@pytest.mark.slow
def test_workers_of_torch_give_the_same_windows(dataset):
    part = dataset.split(0.3)[0].windows(2, 4)
    workers = DataLoader(part, batch_size=50, num_workers=2, multiprocessing_context="fork")
    for number, batch in enumerate(workers):
        for name, values in part[50 * number : 50 * number + 50].items():
            assert torch.equal(batch[name], torch.from_numpy(values))


def test_the_rows_of_windows_decide_whether_they_fit_the_memory(dataset, monkeypatch):
    windows = dataset.windows(2, 4)
    assert windows.nbytes > 1.5 * dataset.nbytes
    monkeypatch.setattr(reading, "available_memory", lambda: int(1.5 * dataset.nbytes))
    assert Loader(windows, 8).order == "random"
    monkeypatch.setattr(reading, "available_memory", lambda: dataset.nbytes)
    assert Loader(windows, 8).order == "window"


def test_data_that_are_not_mapped_are_read(dataset, monkeypatch):
    from physgym.data import row_reader

    monkeypatch.setattr(row_reader.Stitched, "possible", staticmethod(lambda *_: False))
    again = SampleDataset(dataset.paths)
    assert again._reader.stitched is None
    order = np.random.default_rng(0).permutation(len(dataset.windows(2, 4)))
    for name, values in again.windows(2, 4).gather(order).items():
        np.testing.assert_array_equal(values, dataset.windows(2, 4)[order][name])


def test_a_split_of_windows_is_that_of_their_dataset(windows):
    training, validation = windows.split(0.25, seed=4)
    parts = windows.dataset.split(0.25, seed=4)
    for found, part in zip((training, validation), parts, strict=True):
        assert set(found.index("episode")) <= set(part.index("episode"))
        assert found.dataset.statistics["state"].mean.tolist() == part.statistics["state"].mean.tolist()
    assert len(training) + len(validation) == len(windows)
    assert not set(training.index("episode")) & set(validation.index("episode"))
