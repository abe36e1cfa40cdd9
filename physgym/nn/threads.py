"""Threads of a prediction: one, where several save no time and give the same bits.

Threads of torch wait for each other at every operation. That costs more than it saves for a small network, most of all
where something else computes on the same cores: a thread that waits for its core keeps the others waiting.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physgym.nn.export.samples import drawn_samples
from physgym.nn.predictor import Predictor, around_single_predictions
from physgym.nn.undisturbed import undisturbed
from physgym.nn.wrapped import unwrapped
from physgym.sample import Sample

log = logging.getLogger(__name__)

SMALL = 1e-3  # seconds of a prediction below which threads are not waited for
LARGE = 0.01  # seconds of one that is left to torch
LARGE_BYTES = 1 << 26  # of weights, or of a batch, above which nothing is measured
GAIN = 1.3  # by which several threads must be faster
TRIES = 4  # batches whose bits are compared
MOST, BUDGET = 20, 0.01  # predictions that are timed, and seconds for them
OFTEN = 3  # predictions one by one from which on a measurement is worth its time


class OneThread:
    """A block in which torch computes in one thread; the number of its threads is as before at the end.

    A thread of the program that calls torch for the first time ever within such a block stays at one thread itself.

    Args:
        active: Whether it does so; else it does nothing.
    """

    __slots__ = ("_active", "_before")

    def __init__(self, *, active: bool = True) -> None:
        self._active = active

    def __enter__(self) -> None:
        self._before = torch.get_num_threads() if self._active else 1
        if self._before != 1:
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if self._before != 1:
            torch.set_num_threads(self._before)


@dataclass(frozen=True)
class ThreadChoice:
    """The threads in which a prediction is made, and what it took when that was measured.

    Attributes:
        alone: Whether it is made in one thread, for any number of torch's threads.
        seconds: Median time of a prediction, one after the other; NaN where it was not measured.
        reason: A clause for people.
    """

    alone: bool
    seconds: float
    reason: str


_chosen: weakref.WeakKeyDictionary[Predictor, dict[Any, ThreadChoice]] = weakref.WeakKeyDictionary()
_calls: weakref.WeakKeyDictionary[Predictor, int] = weakref.WeakKeyDictionary()


@around_single_predictions
def often_alone(predictor: Predictor) -> OneThread:
    """Return the block for a prediction of a single sample: from the third one on as `chosen_threads` says.

    Args:
        predictor: The network.
    """
    count = _calls[predictor] = _calls.get(predictor, 0) + 1
    return OneThread(active=count >= OFTEN and chosen_threads(predictor, 1).alone)


def chosen_threads(predictor: Predictor, count: int) -> ThreadChoice:
    """Return how predictions for so many samples at once are to be made; measured once for a network.

    One thread is taken where predictions of random samples have the same bits as with torch's number of threads, and
    where a prediction is short, or not much longer than with that number. The network itself is not called: a copy is.
    Random generators are left as they were.

    Args:
        predictor: The network.
        count: The samples that are predicted at once.
    """
    key = (count, torch.get_num_threads(), predictor.device, predictor.dtype, id(predictor.network))
    known = _chosen.setdefault(predictor, {})
    if key not in known:
        known[key] = _measured(predictor, count)
        log.info("predictions for %d at once: %s", count, known[key].reason)
    return known[key]


def _measured(predictor: Predictor, count: int) -> ThreadChoice:
    if reason := _left_alone(predictor, count):
        return ThreadChoice(False, float("nan"), reason)
    try:
        with torch.no_grad(), undisturbed():
            copied = copy.deepcopy(predictor, {id(predictor.learned): predictor.learned}).eval()
            copied.chooses_threads = False  # since its threads are what is measured
            drawn = drawn_samples(copied, count * TRIES)
            batches = [{n: v[i * count : (i + 1) * count] for n, v in drawn.items()} for i in range(TRIES)]
            return _compared(copied, batches)
    except Exception as error:  # noqa: BLE001 - of whatever a network is made; the run itself says what is wrong
        return ThreadChoice(False, float("nan"), f"torch's threads, since a copy of it fails: {error}")


def _left_alone(predictor: Predictor, count: int) -> str:
    """Return why a network is left to torch's threads without a measurement; empty where it is not."""
    if predictor.device.type != "cpu":
        return f"on the device {predictor.device}"
    if any(unwrapped(part) is not part for part in predictor.modules()):
        return "torch's threads, since it has been compiled or replicated"
    if any(part._forward_hooks or part._forward_pre_hooks for part in predictor.modules()):
        return "torch's threads, since it has hooks, which would hear of a measurement"
    weights, batch = (sum(one.nbytes for one in part) for part in (predictor.parameters(), predictor.spec.values()))
    if weights > LARGE_BYTES or count * batch > LARGE_BYTES:
        return "torch's threads, since it is large"
    return ""


def _compared(predictor: Predictor, batches: Sequence[Sample]) -> ThreadChoice:
    """Compare one thread with torch's threads."""
    threads, first = torch.get_num_threads(), batches[0]

    def predict() -> None:
        predictor.predict(first, batched=True)

    predict()  # for the first time, what is made once
    several = timed(predict, 1)
    if several > LARGE:  # of which waiting for each other may be most
        with OneThread():
            one = timed(predict, 1)
        if one > LARGE:
            return ThreadChoice(False, several, f"torch's {threads} threads, since it takes {several:.2g} s")
    if threads == 1:
        return ThreadChoice(False, timed(predict), "torch's one thread")
    bits = [_bits(predictor, batch) for batch in batches]
    with OneThread():
        same = [_bits(predictor, batch) for batch in batches] == bits
        one = timed(predict) if same else float("nan")
    if not same:
        reason = f"torch's {threads} threads, since one thread gives other bits"
        return ThreadChoice(False, timed(predict), reason)
    if one > SMALL and one > GAIN * (several := timed(predict)):
        return ThreadChoice(False, several, f"torch's {threads} threads, {one / several:.2g} times as fast as one")
    return ThreadChoice(True, one, f"one thread in place of torch's {threads}, with the same bits")


def timed(predict: Callable[[], object], most: int = MOST) -> float:
    """Return the median time of a prediction, one after the other."""
    times: list[float] = []
    while len(times) < most and sum(times) < BUDGET:
        start = time.perf_counter()
        predict()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _bits(predictor: Predictor, batch: Sample) -> list[bytes]:
    """Return what a network gives for a batch, before and after the transforms and not rounded, as bytes."""
    with undisturbed():
        tensors = predictor.tensors(batch)
        prediction, _ = predictor.advance(tensors)
        applied = predictor.applied(prediction, tensors)
        return [
            _as_bytes(given[name]) for given in (prediction, applied) for name in predictor.outputs if name in given
        ]


def _as_bytes(value: Tensor) -> bytes:
    found: bytes = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return found
