"""A second sample of an episode and step is an error wherever rows enter a dataset."""

from __future__ import annotations

import random

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.names import BLOCK, TakenNames
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError, SampleError
from tests.support.datasets import SPEC, assert_rows, rows, where, write

SMALL = 1500  # bytes of rows of a partition


@pytest.fixture
def writer(tmp_path):
    write(tmp_path / "d", 40, max_file_size=SMALL)
    with SampleWriter(tmp_path / "d", SPEC, source=SampleDataset(tmp_path / "d").source, resume=True) as made:
        made.append(rows(40, 45), **where(40, 45))
        yield made
    assert len(SampleDataset(tmp_path / "d")) == made.count


@pytest.mark.parametrize("at", [0, 13, 39, 44])  # in another partition, and in the buffer
@pytest.mark.parametrize("count", [1, 3])
def test_a_name_that_is_there_is_refused(writer, at, count):
    at = min(at, 45 - count)
    repeated = {name: column[::-1] for name, column in where(at, at + count).items()}
    with pytest.raises(DatasetError, match=rf"there is a sample of episode {at // 5}, step {at % 5} already"):
        writer.append(rows(at, at + count), **repeated)
    with pytest.raises(DatasetError, match="already"):
        writer.add({name: column[0] for name, column in rows(at, at + 1).items()}, episode=at // 5, step=at % 5, seed=0)
    assert writer.count == 45
    writer.append(rows(45, 50), **where(45, 50))
    assert writer.count == 50


def test_a_name_that_is_twice_in_one_call_is_refused_and_nothing_of_it_is_stored(writer):
    with pytest.raises(DatasetError, match="episode 9, step 1 already"):
        writer.append(rows(45, 48), episode=np.array([9, 9, 9]), step=np.array([1, 2, 1]), seed=np.zeros(3, np.uint64))
    assert writer.count == 45


def test_interleaved_episodes_are_taken(tmp_path):
    order = np.arange(40).reshape(8, 5).T.ravel()  # a step of every episode, then the next
    everything, named = rows(0, 40), where(0, 40)
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        for start in range(0, 40, 8):
            i = order[start : start + 8]
            writer.append(
                {name: column[i] for name, column in everything.items()},
                **{name: column[i] for name, column in named.items()},
            )
        with pytest.raises(DatasetError, match="episode 3, step 2 already"):
            writer.append(rows(17, 18), **where(17, 18))
    assert len(SampleDataset(tmp_path / "d")) == 40


def test_names_of_samples_that_were_not_stored_are_free(tmp_path):
    with SampleWriter(tmp_path / "d", SPEC) as writer:
        bad = rows(0, 4)
        bad["energy"][2] = np.nan
        writer.append(bad, **where(0, 4))
        with pytest.raises(SampleError, match="episode 0, step 2"):
            writer.commit()
        with pytest.raises(DatasetError, match="dtype"):
            writer.append(rows(2, 4) | {"energy": np.array(["a", "b"])}, **where(2, 4))
        writer.append(rows(2, 10), **where(2, 10))
    assert_rows(SampleDataset(tmp_path / "d"), 0, 10)


def test_steps_in_the_other_byte_order_are_not_taken_for_consecutive_ones():
    stored: list = []
    taken = TakenNames(lambda: stored)
    names = np.array([4, 4]), np.array([0, 1 << 56], ">i8")  # the bytes of 0 and 1
    taken.take(*names)
    stored.append(names)
    with pytest.raises(DatasetError, match=f"step {1 << 56} already"):
        taken.take_one(4, 1 << 56)


def test_names_agree_with_a_set_of_them():
    choose = random.Random(0)
    for _ in range(300):
        stored: list[tuple[int, int]] = []

        def columns(stored=stored):
            yield np.array([e for e, _ in stored], int), np.array([s for _, s in stored], int)

        taken = TakenNames(columns)
        for _ in range(6):
            new = [(choose.randint(0, 2), choose.randint(0, 6)) for _ in range(choose.randint(0, 4))]
            new = sorted(set(new)) if choose.random() < 0.5 else new
            wrong = len(set(new)) < len(new) or bool(set(new) & set(stored))
            dtype = choose.choice(["i8", ">i8", "i4", "u1"])
            try:
                if len(new) == 1:
                    taken.take_one(*new[0])
                else:
                    taken.take(np.array([e for e, _ in new], dtype), np.array([s for _, s in new], dtype))
            except DatasetError:
                assert wrong
            else:
                assert not wrong
                stored += new
            if choose.random() < 0.1:
                taken.forget()


@pytest.mark.parametrize("first", [0, BLOCK - 6, 10**6, -4, np.iinfo(np.int64).max - 40])
def test_runs_of_steps_agree_with_a_set_of_them_wherever_they_begin(first):
    choose = random.Random(first % 1000)
    for _ in range(60):
        stored: set[tuple[int, int]] = set()
        order: list[tuple[int, int]] = []

        def columns(order=order):
            yield np.array([e for e, _ in order], int), np.array([s for _, s in order], int)

        taken, at = TakenNames(columns), 0
        for _ in range(5):
            count = choose.choice([2, 3, 7])
            steps = first + at + np.arange(count) + choose.choice([0, 0, 0, -1])
            episodes = np.full(count, choose.choice([5, 5, 5, 9]))
            if choose.random() < 0.2:
                (steps if choose.random() < 0.5 else episodes)[choose.randrange(count)] -= 1
            new = list(zip(episodes.tolist(), steps.tolist(), strict=True))
            wrong = len(set(new)) < count or bool(set(new) & stored)
            try:
                taken.take(episodes, steps)
            except DatasetError:
                assert wrong
            else:
                assert not wrong
                stored.update(new)
                order += new
                at += count


@pytest.mark.parametrize("dtype", ["<i4", "<i8", ">i8", "<u8", "<i2"])
def test_numbers_of_any_width_are_taken_for_what_they_are(dtype):
    def given(*numbers):
        return np.array(numbers, dtype)

    taken = TakenNames(lambda: iter([]))
    taken.take(np.zeros(BLOCK - 8, np.int64), np.arange(BLOCK - 8))  # whose bytes are at hand now
    # steps of half the width, the end of what is at hand: as bytes they are four consecutive ones
    taken.take(given(*[1] * 8), given(*(number for step in range(BLOCK - 4, BLOCK) for number in (step, step + 99))))
    with pytest.raises(DatasetError, match=f"episode 1, step {BLOCK - 3 + 99} already"):
        taken.take(given(1), given(BLOCK - 3 + 99))
    taken.take(given(2, 2, 2), given(5, 6, 7))
    with pytest.raises(DatasetError, match="episode 2, step 7 already"):
        taken.take(given(2, 2), given(7, 8))
    with pytest.raises(DatasetError, match="episode 3, step 4 already"):
        taken.take(given(3, 3), given(4, 4))
