from __future__ import annotations

import gc
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import physgym
from physgym.data import Loader, StackedSampler
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.loading import loader, reading
from physgym.loading import prefetch as gathering
from physgym.loading import shuffling as order
from physgym.system.memory import available_memory
from tests.support.memory_samples import MemorySamples, spec_of


class Stored(MemorySamples):
    """Samples that know their number, in memory, that can be read block by block as well."""

    random_access = True

    def __init__(self, n=100, width=3, **arrays):
        arrays = {
            "number": np.arange(n),
            "x": np.arange(n * width, dtype=np.float32).reshape(n, width),
            **arrays,
        }
        super().__init__(arrays, spec_of(arrays, {}))
        self.runs = []  # what was read

    def read(self, start, stop, fields, out):
        self.runs.append((start, stop))
        for name in fields:
            out[name][...] = self.arrays[name][start:stop]


ROW = 8 + 3 * 4  # bytes of a sample
BY_WINDOW = {"shuffle": "window", "block": 5 * ROW, "window": 15 * ROW}  # blocks of 5, windows of 15
ORDERS = [{"shuffle": False}, {"shuffle": "random"}, BY_WINDOW]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    if threads():
        gc.collect()
    assert threads() == []


@pytest.fixture
def small_chunks(monkeypatch):
    """Every batch is gathered for itself."""
    monkeypatch.setattr(loader, "GATHER_SIZE", 1)


@pytest.fixture(params=[0.0, float("inf")], ids=["computes", "quick"])
def consumer(request, monkeypatch):
    """The consumer counts as one that computes between batches, or as one that asks for the next one at once."""
    monkeypatch.setattr(gathering, "HAND_OVER", request.param)
    monkeypatch.setattr(gathering, "TRIED", 1000)  # without a trial of the other way


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "physgym-loader"]


def numbers(batches):
    return [batch["number"].tolist() for batch in batches]


def flat(batches):
    return [number for batch in numbers(batches) for number in batch]


# --- orders


sizes = st.integers(1, 200)


def whole_order(length, **options):
    """Return the indices of an epoch."""
    made = order.EpochOrder(length, **options)
    return made.indices(0, len(made))


@given(
    length=sizes, world_size=st.integers(1, 5), seed=st.integers(0, 9), epoch=st.integers(0, 3), shuffle=st.booleans()
)
def test_the_ranks_share_the_order_equally(length, world_size, seed, epoch, shuffle):
    made = {"seed": seed, "epoch": epoch, "shuffle": shuffle}
    parts = [whole_order(length, **made, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {length // world_size}
    whole = whole_order(length, **made)
    assert sorted(whole) == list(range(length))
    together = np.stack(parts, 1).ravel()  # batches of all ranks hold what a larger batch of one holds
    assert (together == whole[: len(together)]).all()


@given(length=st.integers(0, 3000), seed=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_permutation_has_every_number_once(length, seed):
    got = order.permutation(length, seed)
    assert got.dtype == np.int64
    assert sorted(got) == list(range(length))


@pytest.mark.slow
def test_all_permutations_are_equally_likely():
    drawn = [tuple(order.permutation(4, (0, i))) for i in range(24 * 500)]
    counts = np.array([drawn.count(every) for every in itertools.permutations(range(4))])
    assert ((counts - 500) ** 2 / 500).sum() < 49.7  # chi-squared with 23 degrees of freedom: 0.1 % lie above


@given(
    length=sizes,
    world_size=st.integers(1, 5),
    block=st.integers(1, 40),
    window=st.integers(1, 6),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_the_ranks_share_the_blocks_equally(length, world_size, block, window, epoch, shuffle):
    made = {"seed": 3, "epoch": epoch, "shuffle": shuffle, "block": block, "window": window, "world_size": world_size}
    read = []
    for rank in range(world_size):
        parts = order.windows(length, rank=rank, **made)
        assert all(len(runs) <= window for runs in parts)
        runs = np.concatenate(parts)
        rows = [row for start, stop in runs for row in range(start, stop)]
        assert len(rows) == length // world_size
        # a run lies in one block, and is cut only where a rank's part begins or ends
        assert all(start // block == (stop - 1) // block for start, stop in runs)
        assert all(start % block == 0 and (stop % block == 0 or stop == length) for start, stop in runs[1:-1])
        read += rows
    assert len(set(read)) == len(read) == length // world_size * world_size


def test_orders_differ_between_epochs_and_seeds_and_are_the_same_again():
    for options in ORDERS[1:]:
        one = Loader(Stored(), 7, **options)
        first, second = flat(one), flat(one)
        assert sorted(first) == sorted(second) == list(range(100))
        assert first != second
        again = Loader(Stored(), 7, **options)
        assert [flat(again), flat(again)] == [first, second]
        assert flat(Loader(Stored(), 7, **options, epoch=1)) == second
        assert flat(Loader(Stored(), 7, **options, seed=1)) != first


@pytest.mark.parametrize("options", ORDERS)
def test_the_order_depends_on_nothing_else(options, monkeypatch):
    expected = numbers(Loader(Stored(), 7, **options))
    for prefetch in (0, 1, 5):
        assert numbers(Loader(Stored(), 7, prefetch=prefetch, **options)) == expected
        assert numbers(Loader(Stored(), 7, prefetch=prefetch, fields=["number"], **options))[0] == expected[0] or (
            options is BY_WINDOW  # whose blocks are of so many bytes
        )
    monkeypatch.setattr(loader, "GATHER_SIZE", 1)
    assert numbers(Loader(Stored(), 7, **options)) == expected
    together = [number for batch in expected for number in batch]
    for batch_size in (1, 100, 1000):
        assert flat(Loader(Stored(), batch_size, **options)) == together


def test_arrays_and_tensors_come_in_the_same_order():
    dataset = Stored()
    arrays = [dataset.gather(indices) for indices in StackedSampler(dataset, 8, seed=3, epoch=2)]
    tensors = list(Loader(dataset, 8, shuffle="random", seed=3, epoch=2))
    assert len(arrays) == len(tensors) == 13
    for array, tensor in zip(arrays, tensors, strict=True):
        assert list(array) == list(tensor) == ["number", "x"]
        for name in array:
            assert isinstance(tensor[name], torch.Tensor)
            np.testing.assert_array_equal(array[name], tensor[name].numpy(), strict=True)


@pytest.mark.parametrize("options", ORDERS)
def test_ranks_load_disjoint_equal_parts(options):
    dataset = Stored(101)
    parts = [flat(Loader(dataset, 8, rank=rank, world_size=3, **options)) for rank in range(3)]
    assert [len(part) for part in parts] == [33, 33, 33]
    assert len({number for part in parts for number in part}) == 99
    assert len(Loader(dataset, 8, rank=1, world_size=3, **options)) == 5


@pytest.mark.parametrize("options", ORDERS)
def test_the_last_batch_is_smaller_or_left_out(options):
    assert [len(batch) for batch in numbers(Loader(Stored(10), 4, **options))] == [4, 4, 2]
    dropping = Loader(Stored(10), 4, drop_last=True, **options)
    assert [len(batch) for batch in numbers(dropping)] == [4, 4]
    assert len(dropping) == 2


# --- window shuffle


def test_window_shuffle_reads_whole_blocks_each_once():
    dataset = Stored(103)
    assert sorted(flat(Loader(dataset, 8, **BY_WINDOW))) == list(range(103))
    assert dataset.gathered == []
    assert sorted(dataset.runs) == [(start, min(start + 5, 103)) for start in range(0, 103, 5)]
    assert dataset.runs != sorted(dataset.runs)


def test_window_shuffle_mixes():
    n, block, window = 20_000, 50, 1000
    dataset = Stored(n)
    got = np.array(flat(Loader(dataset, 100, shuffle="window", block=block * ROW, window=window * ROW)))
    # neighbours of the dataset are as far apart as places drawn at random from a window: a third of it in the mean
    place = np.empty(n, int)
    place[got] = np.arange(n)
    inside = np.abs(np.diff(place)).reshape(-1)[np.arange(n - 1) % block != block - 1]
    assert abs(inside.mean() / (window / 3) - 1) < 0.05
    # a batch has samples from about as many blocks as one drawn from its window at random: 20 (1 - (19 / 20)^100)
    blocks = [len(set(batch // block)) for batch in got.reshape(-1, 100)]
    assert abs(np.mean(blocks) / (20 * (1 - 0.95**100)) - 1) < 0.02
    # and the place in the dataset tells nothing about the place in the epoch
    assert abs(np.corrcoef(got, np.arange(n))[0, 1]) < 0.1


def test_samples_larger_than_a_block_and_one_window_of_everything():
    assert sorted(flat(Loader(Stored(20), 3, shuffle="window", block=1, window=2))) == list(range(20))
    whole = flat(Loader(Stored(100), 3, shuffle="window"))
    assert sorted(whole) == list(range(100))
    assert np.mean(np.abs(np.diff(whole)) == 1) < 0.1


def test_the_next_window_is_read_bit_by_bit(small_chunks):
    dataset = Stored(60)
    batches = iter(Loader(dataset, 5, prefetch=0, **BY_WINDOW))
    read = []
    for _ in batches:
        read.append(len(dataset.runs))
    # one window at once, then a block for each that is handed out, until all 12 are read
    assert read == [4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12]


def test_memory_is_bounded_by_two_windows():
    class Endless(Stored):
        """Reads numbers that are stored nowhere."""

        def __init__(self):
            super().__init__(1, 256)
            self.length = 200_000  # 200 MB

        def __len__(self):
            return self.length if hasattr(self, "length") else 1

        def read(self, start, stop, fields, out):
            out["number"][...], out["x"][...] = np.arange(start, stop), start

    window, block = 8 << 20, 1 << 20
    tracemalloc.start()
    try:
        total, peaks = 0, []
        for batch in Loader(Endless(), 256, shuffle="window", window=window, block=block):
            total += len(batch["number"])
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert total == 200_000
    assert 2 * window < max(peaks) < 2 * window + 5 * (2 << 20)  # with the chunks gathered ahead


# --- what is chosen


def memory(monkeypatch, available):
    monkeypatch.setattr(reading, "available_memory", lambda: available)


def test_the_shuffle_follows_the_memory_and_says_so(monkeypatch, caplog):
    dataset = Stored(1000)  # 20 kB
    with caplog.at_level("INFO", logger="physgym"):
        memory(monkeypatch, 30_000)
        fits = Loader(dataset, 10)
        memory(monkeypatch, 20_000)
        exceeds = Loader(dataset, 10)
    assert (fits.order, fits.blockwise) == ("random", False)
    assert (exceeds.order, exceeds.blockwise) == ("window", True)
    assert exceeds.reason == "the samples take 2e-05 GB, more than 1.4e-05 GB, 70% of the available memory"
    assert [record.getMessage() for record in caplog.records] == [
        f"random shuffle of 1000 samples: {fits.reason}",
        f"window shuffle of 1000 samples: {exceeds.reason}",
    ]
    assert exceeds.reason in repr(exceeds)
    # only the fields that are read count
    assert Loader(dataset, 10, fields=["number"]).order == "random"
    sequential = Loader(dataset, 10, shuffle=False)
    assert (sequential.order, sequential.blockwise) == ("sequential", True)
    assert flat(sequential) == list(range(1000))
    assert dataset.gathered == []


def test_ranks_do_not_choose_by_their_own_memory(monkeypatch):
    memory(monkeypatch, 1)
    assert Loader(Stored(), 10, world_size=2).order == "random"
    monkeypatch.setattr(reading, "FITS_ANYWHERE", 1000)
    assert Loader(Stored(), 10, world_size=2).order == "window"
    memory(monkeypatch, None)
    assert "memory is unknown" in Loader(Stored(), 10).reason


def test_an_archive_is_read_by_blocks(monkeypatch):
    dataset = Stored()
    dataset.random_access = False
    assert Loader(dataset, 10).order == "window"
    assert Loader(dataset, 10).reason == "an archive can only be read block by block"
    assert flat(Loader(dataset, 10, shuffle=False)) == list(range(100))
    assert dataset.gathered == []
    with pytest.raises(ConfigError, match="archive"):
        Loader(dataset, 10, shuffle="random")


def test_samples_that_cannot_be_read_by_blocks_are_gathered(monkeypatch):
    memory(monkeypatch, 1)
    plain = MemorySamples(Stored().arrays, Stored().spec)
    assert Loader(plain, 10).order == "random"
    with pytest.raises(ConfigError, match=r"MemorySamples has no method read\(start, stop, fields, out\)"):
        Loader(plain, 10, shuffle="window")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 8 kB\nHugePages_Total: 0\n"}, 8192),
        (
            {
                "proc/meminfo": "MemAvailable: 8 kB\n",
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "5000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 1000\nfile 3000\n",
            },
            4000,
        ),
        (
            {  # as inside of a container
                "proc/meminfo": "MemAvailable: 8 kB\n",
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/123\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
                "sys/fs/cgroup/memory/memory.stat": "total_rss 7000\n",
            },
            0,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 8 kB\n",
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8192,
        ),
    ],
)
def test_available_memory(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_available_memory_of_this_machine():
    assert 0 < available_memory() < 1 << 50


# --- position


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("options", ORDERS)
def test_a_state_restores_the_position_at_every_batch(options, prefetch, small_chunks):
    options = {**options, "seed": 4, "prefetch": prefetch}
    whole = Loader(Stored(50), 8, **options)
    states, batches = [whole.state_dict()], []
    for _ in range(2):
        for batch in whole:
            batches.append(batch["number"].tolist())
            states.append(whole.state_dict())
    assert len(batches) == 14
    for done, state in enumerate(states[:-1]):
        assert (state["epoch"], state["batch"]) == divmod(done, 7)
        restored = Loader(Stored(50), 8, **options)
        restored.load_state_dict(json.loads(json.dumps(state)))
        assert restored.state_dict() == state
        rest = []
        while restored.epoch < 2:
            rest += numbers(restored)
        assert rest == batches[done:]


def test_the_state_is_what_was_handed_out_not_what_was_gathered(small_chunks):
    dataset = Stored()
    one = Loader(dataset, 10, shuffle="random", prefetch=5)
    batches = iter(one)
    next(batches)
    wait_for(lambda: len(dataset.gathered) >= 6)
    assert (one.epoch, one.batch) == (0, 1)
    batches.close()
    assert one.state_dict()["batch"] == 1


def test_gathers_ahead_as_many_as_said(small_chunks):
    dataset = Stored()
    batches = iter(Loader(dataset, 10, shuffle="random", prefetch=3))
    next(batches)
    wait_for(lambda: len(dataset.gathered) == 4)
    time.sleep(0.05)
    assert len(dataset.gathered) == 4
    batches.close()


def test_the_state_of_one_rank_serves_all():
    options = {"world_size": 2, "shuffle": "random"}
    batches = iter(one := Loader(Stored(), 10, rank=0, **options))
    next(batches)
    other = Loader(Stored(), 10, rank=1, **options)
    expected = numbers(Loader(Stored(), 10, rank=1, **options))
    other.load_state_dict(one.state_dict())
    assert numbers(other) == expected[1:]


def test_an_iterator_that_was_left_is_followed_by_the_next_epoch():
    one = Loader(Stored(), 10, shuffle="random")
    for _ in zip(one, range(3), strict=False):
        pass
    assert (one.epoch, one.batch) == (0, 4)  # zip has taken one more
    assert flat(one) == whole_order(100, shuffle=True, seed=0, epoch=1).tolist()
    one.set_epoch(7, 9)
    assert flat(one) == whole_order(100, shuffle=True, seed=0, epoch=7)[90:].tolist()
    one.set_epoch(7, 10)  # none is left of it
    assert flat(one) == whole_order(100, shuffle=True, seed=0, epoch=8).tolist()
    with pytest.raises(ConfigError, match="there is no batch 11 in epoch 0; an epoch has 10"):
        one.set_epoch(0, 11)


def test_a_state_of_something_else_is_refused():
    made = {"shuffle": "random", "world_size": 1, "seed": 0}
    state = Loader(Stored(), 10, **made).state_dict()
    for difference, text in [
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"batch_size": 11}, "batch_size was 10, now it is 11"),
        ({"dataset": Stored(99)}, "length was 100, now it is 99"),
        ({"world_size": 2}, "world_size was 1, now it is 2"),
        ({"drop_last": True}, "drop_last was False, now it is True"),
        ({"shuffle": "window"}, "order was 'random', now it is 'window'; block was 0"),
        ({"shuffle": False}, "order was 'random', now it is 'sequential'"),
    ]:
        other = Loader(**{"dataset": Stored(), "batch_size": 10, **made, **difference})
        with pytest.raises(ConfigError, match=f"does not fit this loader: {text}"):
            other.load_state_dict(state)
    with pytest.raises(ConfigError, match="no state of a Loader"):
        Loader(Stored(), 10).load_state_dict({"epoch": 1})
    by_window = Loader(Stored(), 10, **BY_WINDOW).state_dict()
    with pytest.raises(ConfigError, match="block was 5, now it is 10; window was 3, now it is 2"):
        Loader(Stored(), 10, shuffle="window", block=10 * ROW, window=20 * ROW).load_state_dict(by_window)


@pytest.mark.parametrize(("then", "now"), [(30, 30_000), (30_000, 30)])
def test_a_restored_loader_shuffles_as_before_whatever_the_memory(monkeypatch, then, now):
    sizes = {"block": 5 * ROW, "window": 15 * ROW}
    memory(monkeypatch, then)
    expected = numbers(Loader(Stored(), 10, **sizes))
    batches = iter(first := Loader(Stored(), 10, **sizes))
    next(batches)
    memory(monkeypatch, now)
    second = Loader(Stored(), 10)
    assert second.order != first.order
    second.load_state_dict(first.state_dict())
    assert second.order == first.order
    assert second.reason == "as in the state that was loaded"
    assert numbers(second) == expected[1:]
    batches.close()


def test_samples_that_were_added_come_in_the_next_epoch():
    dataset = Stored(10)
    one = Loader(dataset, 4)
    batches = iter(one)
    next(batches)
    grown = Stored(20).arrays
    dataset.arrays = grown
    assert sum(len(batch["number"]) for batch in batches) == 6
    assert sorted(flat(one)) == list(range(20))
    assert len(one) == 5


def test_a_pickled_loader_continues():
    batches = iter(one := Loader(Stored(), 10))
    expected = numbers(Loader(Stored(), 10))
    next(batches)
    copy = pickle.loads(pickle.dumps(one))  # noqa: S301
    assert copy.state_dict() == one.state_dict()
    copy.load_state_dict(copy.state_dict())
    assert numbers(copy) == expected[1:]


# --- tensors


def test_tensors_share_the_memory_of_what_was_gathered(small_chunks):
    kept = []

    class Keeping(Stored):
        def gather(self, indices, fields=None, out=None):
            kept.append(super().gather(indices, fields, out))
            return kept[-1]

    for batch, arrays in zip(Loader(Keeping(), 10, pin_memory=False), kept, strict=True):
        assert all(np.shares_memory(batch[name].numpy(), arrays[name]) for name in batch)


def test_changing_a_batch_in_place_spares_the_gradients_of_another():
    batches = iter(Loader(Stored(), 10))
    first, second = next(batches), next(batches)
    weight = torch.ones(3, requires_grad=True)
    loss = (first["x"] * weight).sum()
    second["x"] += 1
    loss.backward()
    assert torch.equal(weight.grad, first["x"].sum(0))


def test_every_dtype_that_torch_knows():
    arrays = {
        name: np.arange(20).astype(dtype).reshape(10, 2)
        for name, dtype in {
            "flag": "?",
            "byte": "u1",
            "half": "f2",
            "double": "f8",
            "complex": "c8",
            "big": ">f4",
        }.items()
    }
    for options in ORDERS:
        batch = next(iter(Loader(Stored(10, **arrays), 10, **{**options, "block": 1000, "window": 1000})))
        for name, value in arrays.items():
            np.testing.assert_array_equal(batch[name].numpy(), value[batch["number"].numpy()])
    text = Stored(10, label=np.full(10, b"abc"))
    with pytest.raises(ConfigError, match=r"field 'label' has dtype \|S3, which torch does not know"):
        Loader(text, 5)
    assert len(flat(Loader(text, 5, fields=["number", "x"]))) == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", ORDERS)
def test_pinned_memory(options):
    dataset = Stored(10_000, big=np.arange(10_000).astype(">f8"))
    for fields in (["number", "x"], ["number", "big"]):
        got = []
        for batch in Loader(dataset, 64, fields=fields, **{**options, "block": 40_000, "window": 100_000}):
            assert all(value.is_pinned() for value in batch.values())
            got.append({name: value.to("cuda", non_blocking=True) for name, value in batch.items()})
        index = torch.cat([batch["number"] for batch in got]).cpu().numpy()
        assert sorted(index) == list(range(10_000))
        other = torch.cat([batch[fields[1]] for batch in got]).cpu().numpy()
        np.testing.assert_array_equal(other, dataset.arrays[fields[1]][index])


# --- the thread


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("options", ORDERS)
def test_no_thread_outlives_its_epoch(options, small_chunks):
    one = Loader(Stored(), 10, **options)
    batches = iter(one)
    assert threads() == []  # none before the first batch
    next(batches)
    assert len(threads()) == 1
    del batches
    assert threads() == []
    for _ in one:
        break
    assert threads() == []
    assert len(list(one)) == 10
    assert threads() == []
    batches = iter(one)
    next(batches)
    batches.close()
    batches.close()
    assert threads() == []
    assert list(batches) == []
    with pytest.raises(ValueError, match="of the loop"):
        fail_at_the_first(one)
    assert threads() == []


def fail_at_the_first(batches):
    for _ in batches:
        raise ValueError("of the loop")


def test_without_anything_to_gather_ahead_there_is_no_thread(monkeypatch):
    for _ in Loader(Stored(), 10):  # less than a chunk
        assert threads() == []
    monkeypatch.setattr(loader, "GATHER_SIZE", 1)
    for _ in Loader(Stored(), 10, prefetch=0):
        assert threads() == []


class Watched(Stored):
    """Notes the threads that gather."""

    def __init__(self, n=100):
        super().__init__(n)
        self.by_consumer = []

    def gather(self, *args):
        self.by_consumer.append(threading.current_thread() is threading.main_thread())
        return super().gather(*args)


def test_a_consumer_that_asks_at_once_gathers_itself(small_chunks, monkeypatch):
    monkeypatch.setattr(gathering, "HAND_OVER", float("inf"))
    expected = numbers(Loader(Stored(), 10, shuffle="random", prefetch=0))
    samples = Watched()
    one = Loader(samples, 10, shuffle="random")
    assert numbers(one) == expected
    assert samples.by_consumer[0] is False  # nothing is known of the consumer yet
    assert samples.by_consumer[4:] == [True] * 6
    samples.by_consumer.clear()
    batches = iter(one)
    assert next(batches)["number"].tolist() != expected[0]  # of the second epoch
    assert threads() == []
    assert len(list(batches)) == 9
    assert samples.by_consumer == [True] * 10


def test_for_a_consumer_that_computes_the_thread_gathers(small_chunks, monkeypatch):
    monkeypatch.setattr(gathering, "HAND_OVER", 0.0)
    monkeypatch.setattr(gathering, "TRIED", 1000)
    samples = Watched()
    one = Loader(samples, 10, shuffle="random")
    expected = numbers(Loader(Stored(), 10, shuffle="random", prefetch=0))
    assert numbers(one) == expected
    assert samples.by_consumer == [False] * 10


def test_the_thread_gathers_again_where_the_consumer_computes_again(small_chunks, monkeypatch):
    monkeypatch.setattr(gathering, "TRIED", 1)
    samples = Watched()
    one = Loader(samples, 10, shuffle="random", prefetch=2)
    expected = numbers(Loader(Stored(), 10, shuffle="random", prefetch=0))
    monkeypatch.setattr(gathering, "HAND_OVER", float("inf"))
    batches = iter(one)
    got = [next(batches)["number"].tolist() for _ in range(5)]
    assert len(samples.by_consumer) == 5  # nothing ahead
    monkeypatch.setattr(gathering, "HAND_OVER", 0.0)
    got += [next(batches)["number"].tolist() for _ in range(2)]  # a trial alone, and the thread
    wait_for(lambda: len(samples.by_consumer) == 9)
    assert samples.by_consumer[5:] == [True, False, False, False]  # the last two ahead
    assert got + numbers(batches) == expected


def times_of(pace, *, alone, thread, computed, chunks):
    """Let a consumer take chunks, whose waits last so many seconds in either way; return the ways that were taken."""
    ways = []
    for _ in range(chunks):
        ways.append(pace.alone)
        pace.note(computed, alone if pace.alone else thread, 1)
    return ways


@pytest.mark.parametrize(("thread", "faster"), [(3e-3, True), (1e-3, False)])
def test_a_consumer_that_waits_tries_both_ways_and_keeps_the_faster_one(thread, faster):
    pace, tried = gathering.Pace(), gathering.TRIED
    ways = times_of(pace, alone=2e-3, thread=thread, computed=1e-3, chunks=gathering.HOLDS)
    assert ways == [False] * tried + [True] * tried + [faster] * (gathering.HOLDS - 2 * tried)
    times_of(pace, alone=2e-3, thread=0.0, computed=1.0, chunks=tried)  # it computes longer now: another trial
    assert times_of(pace, alone=2e-3, thread=0.0, computed=1.0, chunks=20) == [False] * 20


def test_a_consumer_that_never_waits_keeps_its_thread():
    assert not any(times_of(gathering.Pace(), alone=1.0, thread=1e-5, computed=1e-3, chunks=1000))


def test_the_first_chunks_of_an_epoch_are_small(monkeypatch):
    monkeypatch.setattr(loader, "GATHER_SIZE", 16 * ROW)
    one = Loader(Stored(400), 1, shuffle=False, prefetch=0)
    starts = [batches.first for batches in one._chunks(one._position)]
    assert starts[:6] == [0, 2, 6, 14, 30, 46]


class Failing(Stored):
    """Fails at the gathers or reads of the given numbers, from 0."""

    def __init__(self, *bad, **options):
        super().__init__(**options)
        self.calls, self.bad = itertools.count(), bad

    def _count(self):
        if next(self.calls) in self.bad:
            raise OSError("the disk is gone")

    def gather(self, *args):
        self._count()
        return super().gather(*args)

    def read(self, *args):
        self._count()
        return super().read(*args)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("options", ORDERS)
def test_an_error_reaches_the_consumer_after_the_batches_before_it(options, prefetch, small_chunks, consumer):
    expected = numbers(Loader(Stored(), 10, **options))
    one = Loader(Failing(7), 10, prefetch=prefetch, **options)
    got, batches = [], iter(one)
    with pytest.raises(OSError, match="the disk is gone") as raised:
        got.extend(batch["number"].tolist() for batch in batches)
    assert any(entry.name in ("gather", "read") for entry in raised.traceback)
    got = [list(batch) for batch in got]
    assert got == expected[: one.batch]
    assert got
    assert threads() == []
    got += numbers(batches)  # it was a passing failure
    assert got == expected


def test_ctrl_c_interrupts_waiting_and_loses_no_batch(small_chunks, consumer):
    class Slow(Stored):
        slow = True

        def gather(self, *args):
            if self.slow and len(self.gathered) == 3:
                self.slow = False
                wait_for(lambda: len(got) == 3)
                time.sleep(0.1)  # which it waits for
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.4)
            return super().gather(*args)

    expected = numbers(Loader(Stored(), 10, shuffle="random"))
    batches, got = iter(Loader(Slow(), 10, shuffle="random", prefetch=1)), []
    with pytest.raises(KeyboardInterrupt):
        got.extend(batch["number"].tolist() for batch in batches)
    assert len(got) == 3
    assert got + numbers(batches) == expected


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_iterator_continues_on_both_sides_of_a_fork(prefetch, small_chunks, consumer):
    expected = numbers(Loader(Stored(), 10, shuffle="random"))
    batches = iter(Loader(Stored(), 10, shuffle="random", prefetch=prefetch))
    got = [next(batches)["number"].tolist()]
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what Python says of threads and forks is the point here
        pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        try:
            os.write(writing, json.dumps([got[0], *numbers(batches)]).encode())
            del batches
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert json.loads(pipe.read()) == expected
    os.waitpid(pid, 0)
    assert got + numbers(batches) == expected


@pytest.mark.slow
def test_the_interpreter_ends_in_the_middle_of_an_epoch():
    code = """
import sys, threading
from tests.loading.test_loader import Stored
from physgym.data import Loader
batches = iter(Loader(Stored(1_000_000), 10))
next(batches)
assert any(thread.name == "physgym-loader" for thread in threading.enumerate())
print("end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=True)
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_two_epochs_at_the_same_time():
    one = Loader(Stored(), 10, shuffle="random")
    pairs = list(zip(one, one, strict=True))
    for epoch in (0, 1):
        got = [number for pair in pairs for number in pair[epoch]["number"].tolist()]
        assert got == whole_order(100, shuffle=True, seed=0, epoch=epoch).tolist()


# --- stored samples


def store(path, start, stop, **options):
    i = np.arange(start, stop)
    with SampleWriter(path, Stored().spec, max_file_size=30 * (ROW + 28), **options) as writer:
        samples = {name: value[start:] for name, value in Stored(stop).arrays.items()}
        writer.append(samples, episode=i // 5, step=i % 5, seed=(i // 5).astype("u8"))


@pytest.mark.parametrize("options", ORDERS)
def test_stored_samples_are_loaded_as_those_in_memory(options, tmp_path):
    store(tmp_path / "d", 0, 100)
    dataset = SampleDataset(tmp_path / "d")
    assert len(dataset.partitions) == 4
    for got, want in zip(Loader(dataset, 8, **options), Loader(Stored(), 8, **options), strict=True):
        assert all(torch.equal(got[name], want[name]) for name in want)
    # selected rows: blocks of the part's own order
    part = dataset.split(0.4)[0]
    numbers_there = part[:]["number"]
    places = flat(Loader(Stored(len(part)), 8, **options))
    assert flat(Loader(part, 8, **options)) == numbers_there[places].tolist()
    assert [list(batch) for batch in Loader(part, 30, fields=["x"], **options)] == [["x"], ["x"]]


@pytest.mark.parametrize("options", ORDERS)
def test_a_stored_dataset_may_grow_between_epochs(options, tmp_path):
    store(tmp_path / "d", 0, 50)
    dataset = SampleDataset(tmp_path / "d")
    one = Loader(dataset, 8, **options)
    assert sorted(flat(one)) == list(range(50))
    store(tmp_path / "d", 50, 90, resume=True)
    assert sorted(flat(one)) == list(range(50))
    assert dataset.refresh() == 40
    assert sorted(flat(one)) == list(range(90))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stacked_sampler_of_stored_samples(workers, tmp_path):
    store(tmp_path / "d", 0, 100)
    dataset = SampleDataset(tmp_path / "d")
    batches = DataLoader(dataset, sampler=StackedSampler(dataset, 8), batch_size=None, num_workers=workers)
    for got, want in zip(batches, Loader(dataset, 8, shuffle="random"), strict=True):
        assert all(torch.equal(got[name], want[name]) for name in want)


# --- torch's DataLoader


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stacked_sampler_hands_out_whole_batches(workers):
    dataset = Stored()
    sampler = StackedSampler(dataset, 8, seed=3)
    batches = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers)
    assert len(batches) == 13
    one = Loader(dataset, 8, shuffle="random", seed=3)
    for _ in range(2):
        expected = list(one)
        for got, want in zip(batches, expected, strict=True):
            assert all(torch.equal(got[name], want[name]) for name in want)
    sampler.set_epoch(0)
    assert next(iter(sampler)).tolist() == whole_order(100, shuffle=True, seed=3, epoch=0)[:8].tolist()
    if not workers:
        assert [len(indices) for indices in dataset.gathered[-13:]] == [8] * 12 + [4]


def test_the_stacked_sampler_knows_ranks():
    options = {"world_size": 2, "drop_last": True, "shuffle": False}
    parts = [list(StackedSampler(range(21), 4, rank=rank, **options)) for rank in range(2)]
    assert np.concatenate(parts[0]).tolist() == list(range(0, 16, 2))
    assert np.concatenate(parts[1]).tolist() == list(range(1, 17, 2))
    assert len(StackedSampler(range(21), 4, **options)) == 2


# --- wrong arguments


@pytest.mark.parametrize("make", [Loader, StackedSampler])
def test_arguments_out_of_range(make):
    for wrong, text in [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"world_size": 0}, "world_size must be at least 1, not 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"epoch": -1}, "epoch must not be negative, got -1"),
        ({"rank": 1}, "rank must lie between 0 and 0, not 1"),
    ]:
        with pytest.raises(ConfigError, match=text):
            make(**{"dataset": Stored(), "batch_size": 10, **wrong})
    with pytest.raises(ConfigError, match="a rank has 50 samples, a batch 51"):
        len(make(Stored(), 51, world_size=2, drop_last=True))
    with pytest.raises(DatasetError, match="3 samples cannot be shared among 4 ranks"):
        len(make(Stored(3), 1, world_size=4))


def test_arguments_of_the_loader_out_of_range():
    for wrong, text in [
        ({"window": 0}, "window must be at least 1"),
        ({"block": 0}, "block must be at least 1"),
        ({"prefetch": -1}, "prefetch must not be negative"),
        ({"fields": ["z"]}, r"fields \['z'\] are not in the dataset, which has \['number', 'x'\]"),
        ({"shuffle": "blocks"}, 'shuffle must be True, False, "random" or "window"'),
    ]:
        with pytest.raises(ConfigError, match=text):
            Loader(Stored(), 10, **wrong)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="needs a CUDA device"):
            Loader(Stored(), 10, pin_memory=True)


def test_the_loader_is_there_without_importing_torch():
    assert physgym.Loader is Loader
    code = "import sys, physgym.data; physgym.data.Loader; assert 'torch' not in sys.modules; physgym.Loader"
    subprocess.run([sys.executable, "-c", code], timeout=110, check=True)


@pytest.mark.parametrize("kind", [Loader, StackedSampler])
def test_the_figures_of_the_division_are_attributes(kind):
    loader = kind(Stored(), 4, rank=1, world_size=2, drop_last=True)
    assert (loader.batch_size, loader.rank, loader.world_size, loader.drop_last) == (4, 1, 2, True)
