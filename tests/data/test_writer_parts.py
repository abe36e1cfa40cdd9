"""The objects of a writer, each by itself."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from physgym.data.description import LOCK
from physgym.data.fault import WriterFault
from physgym.data.folder_claim import FolderClaim
from physgym.data.layout import ENDINGS, EPISODES, PartitionLayout
from physgym.data.side_tables import SideTables
from physgym.data.transaction import Transaction
from physgym.data.upkeep import Upkeep
from physgym.errors import DatasetError, SampleError
from physgym.files import try_lock
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), np.dtype("f4"), "input")])


class Counter:
    def __init__(self):
        self.count = 0

    def snapshot(self):
        return self.count

    def restore(self, state):
        self.count = state


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_transaction_that_breaks_off_has_not_happened(error):
    parts = Counter(), Counter()

    def change(raised=None):
        with Transaction(parts):
            parts[0].count += 1
            if raised is not None:
                parts[1].count += 1
                raise raised

    change()
    with pytest.raises(error):
        change(error)
    assert [part.count for part in parts] == [1, 0]


def test_a_fault_of_one_sample_is_raised_once_any_other_always():
    fault = WriterFault()
    fault.check()
    fault.set(SampleError("one"))
    with pytest.raises(SampleError):
        fault.check()
    fault.check()
    fault.set(DatasetError("all"))
    for _ in range(2):
        with pytest.raises(DatasetError):
            fault.check()
    assert fault.raised


def test_a_claim_keeps_others_out_and_leaves_nothing(tmp_path):
    claim = FolderClaim(tmp_path / "a" / "b")
    with pytest.raises(DatasetError, match=r"is being written by this process: close the writer .* restart it"):
        FolderClaim(tmp_path / "a" / "b")
    claim.release()
    assert claim.given_up
    with try_lock(tmp_path / LOCK), pytest.raises(DatasetError, match="is being written by another process; wait"):
        FolderClaim(tmp_path)  # a lock that is not of a claim is of a process elsewhere
    assert not (tmp_path / "a" / "b").exists()
    claim = FolderClaim(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    with pytest.raises(OSError, match="was moved away, replaced or removed"):
        claim.check()
    claim.release()
    claim.release()
    assert (tmp_path / "moved" / LOCK).exists()


def test_rows_of_side_tables_wait_for_their_samples():
    sides = SideTables(PartitionLayout(SPEC, SPEC, endings=True), [])
    assert list(sides) == [EPISODES, ENDINGS]
    sides[EPISODES].add({"episodes/episode": np.arange(3), "parameters/x": np.zeros(3)})
    sides[ENDINGS].add({"endings/episode": np.arange(2), "endings/steps": np.array([4, 4])})
    assert sides.waiting
    assert sides[EPISODES].until(1, 0) == 2
    assert sides[EPISODES].before_next(np.array([0, 0]), np.array([0, 1])) == 0
    assert [sides[ENDINGS].until(1, step) for step in (2, 3)] == [1, 2]
    state = sides[EPISODES].snapshot()
    assert len(sides[EPISODES].take(3)["parameters/x"]) == 3
    sides[EPISODES].restore(state)
    sides[EPISODES].add({"episodes/episode": np.arange(3), "parameters/x": np.zeros(3)})  # repeated
    assert sides[EPISODES].waiting == 3
    with pytest.raises(DatasetError, match="ascending order"):
        sides[EPISODES].add({"episodes/episode": np.array([5, 4]), "parameters/x": np.zeros(2)})


def test_upkeep_goes_on_after_an_error_and_ends_when_stopped():
    worked, failures = threading.Semaphore(0), []

    def work():
        worked.release()
        raise OSError("again")

    upkeep = Upkeep("upkeep", float("inf"), work, failures.append)
    upkeep.start()
    for _ in range(3):
        upkeep.wake()
        assert worked.acquire(timeout=30)
    assert not upkeep.current
    upkeep.stop()
    upkeep.join()
    assert upkeep.stopping
    assert not upkeep.alive
    assert len(failures) >= 2
