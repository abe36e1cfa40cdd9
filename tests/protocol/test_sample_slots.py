"""Samples of rollouts that stay in shared memory: whose a slot is, and when it is free."""

import os
import sys

import numpy as np
import pytest

from physgym.errors import ProtocolError
from physgym.protocol import sample_slots
from physgym.protocol.buffers import Layout
from physgym.protocol.sample_slots import SlotReader, SlotWriter
from physgym.spaces import Leaf
from physgym.system.shared_memory import is_shareable, make_file

pytestmark = pytest.mark.skipif(not is_shareable(), reason="no memory is shared in this way here")

LAYOUT = Layout(
    [
        Leaf("field", (300, 5), np.dtype("<f4")),
        Leaf("flag", (), np.dtype("?")),
        Leaf("nothing", (0, 3), np.dtype("<f8")),
        Leaf("text", (2,), np.dtype("<U3")),
        Leaf("number", (), np.dtype("<f8")),
    ]
)


@pytest.fixture
def file():
    made = make_file()
    yield made
    os.close(made)


def fill(columns, rows, value):
    for name, column in columns.items():
        column[:rows] = "abc" if name == "text" else value


def free(slots):
    return list(slots._states).count(sample_slots.FREE)


def test_what_a_worker_has_gathered_is_read_where_it_is(file):
    reader = SlotReader(file, 1, LAYOUT)
    writer = SlotWriter(file, 1, LAYOUT)
    number, columns = writer.take()
    rows = sample_slots.rows_of_part(LAYOUT.row)
    assert {name: column.shape[0] for name, column in columns.items()} == dict.fromkeys(columns, rows)
    fill(columns, rows, 1)
    writer.sent(number)
    found = reader.hold(number, rows - 1)
    assert list(found) == [leaf.path for leaf in LAYOUT.leaves]
    for leaf in LAYOUT.leaves:
        assert found[leaf.path].dtype == leaf.dtype
        assert np.array_equal(found[leaf.path], columns[leaf.path][: rows - 1])
    assert np.shares_memory(found["field"], reader._memory)
    found["field"][0] = 2  # as one may where it has travelled
    assert (columns["field"][0] == 2).all()


def test_workers_have_slots_of_their_own(file):
    readers = [SlotReader(file, worker, LAYOUT) for worker in (0, 1)]
    writers = [SlotWriter(file, worker, LAYOUT) for worker in (0, 1)]
    taken = [writer.take() for writer in writers]
    for value, (_, columns) in enumerate(taken):
        fill(columns, len(columns["field"]), value)
    for value, (reader, (number, _)) in enumerate(zip(readers, taken, strict=True)):
        assert (reader.hold(number, 3)["field"] == value).all()


def test_a_slot_is_free_when_nobody_refers_to_its_arrays(file):
    reader, writer = SlotReader(file, 0, LAYOUT), SlotWriter(file, 0, LAYOUT)
    every = free(writer)
    number, _ = writer.take()
    assert free(writer) == every - 1
    found = reader.hold(number, 2)
    view = found["field"][1:, 2]
    del found
    assert free(writer) == every - 1
    del view
    assert free(writer) == every


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it may have threads
def test_what_a_fork_has_as_well_is_never_free(file):
    reader, writer = SlotReader(file, 0, LAYOUT), SlotWriter(file, 0, LAYOUT)
    (first, columns), (second, _) = writer.take(), writer.take()
    fill(columns, 2, 1)
    found = {first: reader.hold(first, 2)}
    child = os.fork()
    if child == 0:
        del found
        os._exit(list(reader._states).count(sample_slots.HELD))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    del found[first]
    assert reader._states[first] == sample_slots.HELD
    found[second] = reader.hold(second, 2)  # after the fork, which knows nothing of it
    del found[second]
    assert reader._states[second] == sample_slots.FREE


def test_without_a_free_slot_there_is_none(file):
    SlotReader(file, 0, LAYOUT)
    writer = SlotWriter(file, 0, LAYOUT)
    numbers = [taken[0] for taken in iter(writer.take, None)]
    assert numbers == list(range(len(writer._states)))
    for number in numbers[:-1]:
        writer.sent(number)
    writer.begin()  # what was not sent is free again
    assert writer.take()[0] == numbers[-1]
    assert writer.take() is None


def test_a_full_memory_is_no_signal(file, monkeypatch):
    SlotReader(file, 0, LAYOUT)
    writer = SlotWriter(file, 0, LAYOUT)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert writer.take() is None
    assert writer.take()[0] == 0


def test_a_worker_needs_the_room_that_its_parent_makes(file):
    with pytest.raises(ValueError, match="size"):
        SlotWriter(file, 0, LAYOUT)
    assert os.fstat(file).st_size == 0
    SlotReader(file, 0, LAYOUT)
    SlotWriter(file, 0, LAYOUT)
    with pytest.raises(ValueError, match="size"):
        SlotWriter(file, 1, LAYOUT)
    SlotReader(file, 2, LAYOUT)
    with pytest.raises(ValueError, match="does not read"):
        SlotWriter(file, 1, LAYOUT)


def test_room_that_nobody_uses_takes_none(file):
    SlotReader(file, 7, LAYOUT)
    writer = SlotWriter(file, 7, LAYOUT)
    assert os.fstat(file).st_blocks * 512 <= 1 << 16
    writer.take()
    assert os.fstat(file).st_blocks * 512 <= 1.1 * sample_slots.PART_BYTES + (1 << 16)


def test_a_new_worker_has_what_the_one_before_it_has_not_sent(file):
    reader, writer = SlotReader(file, 0, LAYOUT), SlotWriter(file, 0, LAYOUT)
    held, lost = writer.take()[0], writer.take()[0]
    found = reader.hold(held, 1)
    again = SlotReader(file, 0, LAYOUT)
    assert [again._states[held], again._states[lost]] == [sample_slots.HELD, sample_slots.FREE]
    del found
    assert again._states[held] == sample_slots.FREE


@pytest.mark.parametrize(("number", "rows"), [(1, 1), (-1, 1), (99, 1), (0, 10**6)])
def test_a_slot_that_a_worker_cannot_give_is_refused(file, number, rows):
    reader, writer = SlotReader(file, 0, LAYOUT), SlotWriter(file, 0, LAYOUT)
    assert writer.take()[0] == 0
    with pytest.raises(ProtocolError, match=f"no {rows} samples in slot {number}"):
        reader.hold(number, rows)
    found = reader.hold(0, 1)
    with pytest.raises(ProtocolError, match="slot 0"):
        reader.hold(0, 1)
    assert found


def test_slots_are_for_large_samples(monkeypatch):
    small, huge = (Layout([Leaf("x", (count,), np.dtype("<f8"))]) for count in (500, 2 << 20))
    assert [SlotReader.pay(layout) for layout in (small, LAYOUT, huge)] == [False, True, False]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not SlotReader.pay(LAYOUT)
