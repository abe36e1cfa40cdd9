"""Memory of batches that is used again, and never as long as somebody refers to it."""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch

from physgym.loading import reused_memory
from physgym.loading.epoch_reader import Chunk
from physgym.loading.loader import Loader
from physgym.loading.prefetch import Ahead, Pace
from physgym.loading.reused_memory import ALIGNED, ReusedMemory
from physgym.sample import Field

F4 = np.dtype("f4")


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", ["f4", ">i2", "?", "c16"])
@pytest.mark.parametrize("shape", [(7, 3), (0, 4), (5,), ()])
def test_arrays_are_like_others(shape, dtype):
    memory = ReusedMemory(2)
    for _ in range(2):  # new and used again
        found = memory.empty(shape, np.dtype(dtype))
        assert (found.shape, found.dtype) == (shape, np.dtype(dtype))
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert not found.size or address(found) % ALIGNED == 0
        del found


HOLDERS = {
    "view": lambda array: array[10:20, 1],
    "reshaped": lambda array: array.reshape(-1)[::-1],
    "other dtype": lambda array: array.view("u1"),
    "memoryview": memoryview,
    "base": lambda array: array.base,
    "iterator": lambda array: array.flat,
    "ctypes": lambda array: array.ctypes,
    "tensor": torch.from_numpy,
    "part of a tensor": lambda array: torch.from_numpy(array[50:]).view(-1)[4:8],
    "array of a tensor": lambda array: torch.from_numpy(array)[1:].numpy(),
    "storage": lambda array: torch.from_numpy(array).untyped_storage(),
    "detached": lambda array: torch.from_numpy(array).requires_grad_().detach(),
    "graph": lambda array: (torch.ones((100, 3), requires_grad=True) * torch.from_numpy(array)).sum(),
    "capsule": lambda array: torch.utils.dlpack.to_dlpack(torch.from_numpy(array)),
    "imported capsule": lambda array: np.from_dlpack(torch.from_numpy(array)),
    "parameter": lambda array: torch.nn.Parameter(torch.from_numpy(array)),
    "cycle": lambda array: [cycle := [array], cycle.append(cycle)],
}


@pytest.mark.parametrize("name", HOLDERS)
def test_whatever_shows_memory_keeps_it(name):
    memory = ReusedMemory(2)
    array = memory.empty((100, 3), F4)
    array[:] = 1
    place = array.__array_interface__["data"][0]
    held = HOLDERS[name](array)
    del array
    others = [memory.empty((100, 3), F4) for _ in range(3)]
    assert place not in map(address, others)
    del held
    gc.collect()
    assert address(memory.empty((300,), F4)) == place  # of the same size in bytes


def test_what_comes_back_to_life_keeps_its_memory():
    memory, kept = ReusedMemory(2), []

    class Revived:
        def __init__(self):
            self.me, self.array = self, memory.empty((100,), F4)

        def __del__(self):
            kept.append(self.array)

    place = address(Revived().array)
    gc.collect()
    assert address(kept[0]) == place
    assert address(memory.empty((100,), F4)) != place


def test_an_error_in_the_middle_gives_memory_back_with_its_traceback():
    memory = ReusedMemory(2)

    def fail():
        array = memory.empty((100,), F4)
        raise RuntimeError(address(array))

    with pytest.raises(RuntimeError) as caught:
        fail()
    place = caught.value.args[0]
    assert address(memory.empty((100,), F4)) != place  # a debugger may still look at it
    del caught
    gc.collect()
    assert address(memory.empty((100,), F4)) == place


def test_not_much_is_kept(monkeypatch):
    monkeypatch.setattr(reused_memory, "LARGEST", 4000 + ALIGNED)
    memory = ReusedMemory(3)
    several = [memory.empty((10,), F4) for _ in range(8)]
    large = memory.empty((1001,), F4)
    del several, large
    assert [len(piece) for piece in memory._free] == [40 + ALIGNED] * 3
    largest = memory.empty((1000,), F4)
    place = address(largest)
    del largest
    assert len(memory._free) == 3
    small = memory.empty((10,), F4)  # it does not wait at the end of the others
    assert address(small) != place
    assert address(memory.empty((1000,), F4)) == place


def test_arrays_outlive_what_made_them():
    memory = ReusedMemory(2)
    array = memory.empty((1000,), F4)
    array[:] = 3
    del memory
    gc.collect()
    other = np.full(1000, 5, "f4")
    assert (array == 3).all()
    assert (other == 5).all()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_memory_of_its_own(copied):
    memory = ReusedMemory(2)
    memory.empty((1000,), F4)
    other = copied(memory)
    assert (len(memory._free), len(other._free), other._free.maxlen) == (1, 0, 2)


def test_threads_never_get_the_same_memory():
    memory, wrong = ReusedMemory(2), []

    def use(number):
        for turn in range(300):
            array = memory.empty((257 + turn % 2,), F4)
            array[:] = number
            held = array[3:]
            del array
            if not (held == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- batches of a loader


class Numbered:
    """Samples that are their numbers; from one of them on, gathering fails once."""

    def __init__(self, fails=()):
        self.spec = {"x": Field("x", (1000,), np.dtype("f8"), "input"), "n": Field("n", (), np.dtype("i8"), "target")}
        self.fails = list(fails)

    def __len__(self):
        return 2000

    def gather(self, indices, fields=None, out=None):
        out["n"][:] = indices
        out["x"][: len(indices) // 2] = indices[: len(indices) // 2, None]
        if self.fails and self.fails[0] in indices:
            self.fails.pop()
            raise OSError("a disk that is gone for a moment")
        out["x"][:] = indices[:, None]
        return out


def whole(batch):
    return bool((batch["x"] == batch["n"][:, None]).all())


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_that_are_dropped_give_their_memory_to_others(prefetch):
    loader = Loader(Numbered(), 400, prefetch=prefetch, pin_memory=False)  # 3 MB each, which are gathered one by one
    places = []
    for _ in range(4):
        for batch in loader:
            assert whole(batch)
            places.append(batch["x"].data_ptr())
            del batch
    assert len(places) == 20
    assert len(set(places)) <= 1 + prefetch


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_that_are_kept_stay_as_they_are(prefetch):
    loader = Loader(Numbered(), 100, prefetch=prefetch, pin_memory=False)
    kept, slices, values = [], [], []
    for epoch in range(3):
        for number, batch in enumerate(loader):
            if number % 3 == epoch:
                kept.append(batch)
            elif number % 3 == 2:  # a view is enough
                slices.append(batch["x"].numpy()[5:7, 3])
                values.append(batch["n"][5:7].tolist())
    assert all(whole(batch) for batch in kept)
    assert [part.tolist() for part in slices] == values
    pointers = [batch["x"].data_ptr() for batch in kept]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_after_an_error_the_batches_are_those_of_a_run_without_one(prefetch):
    def run(samples):
        epoch, found = iter(Loader(samples, 100, prefetch=prefetch, pin_memory=False)), []
        while len(found) < 20:
            try:
                found.append(next(epoch))
            except OSError:
                assert not samples.fails
        return found

    found = run(Numbered(fails=[1234]))
    assert all(whole(batch) for batch in found)
    for batch, other in zip(found, run(Numbered()), strict=True):
        assert torch.equal(batch["n"], other["n"])


def test_the_thread_lets_go_of_batches_before_it_gathers_others():
    made, gone = [], []

    def make(number):
        chunk = Chunk(number, 1, 1, {})
        made.append(weakref.ref(chunk, lambda _: dropped.set()))
        return chunk

    def source():
        yield make(0)
        gone.append(dropped.wait(60))
        yield make(1)

    dropped = threading.Event()
    ahead = Ahead(source(), 1, Pace())
    try:
        assert [ahead.get(number).first for number in (0, 1)] == [0, 1]
        assert gone == [True]
    finally:
        ahead.stop()


def test_epochs_of_one_loader_side_by_side_do_not_share_memory():
    loader = Loader(Numbered(), 100, pin_memory=False)
    pairs = list(zip(loader, loader, strict=True))
    assert all(whole(batch) for pair in pairs for batch in pair)


def test_a_gradient_that_waits_for_a_batch_finds_it_unchanged():
    weight = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    losses, expected = [], 0.0
    for batch in Loader(Numbered(), 100, pin_memory=False):
        losses.append((batch["x"] @ weight).sum())
        expected += float(batch["n"].sum())
    torch.stack(losses).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == expected).all()
