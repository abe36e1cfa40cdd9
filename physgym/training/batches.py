"""Division of an epoch into batches, with a last one that is smaller, or too small for the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from physgym.checks import one_of
from physgym.errors import ConfigError
from physgym.loading.batching import EpochDivision
from physgym.nn.predictor import Predictor
from physgym.training.random_state import generator_states, set_generator_states

LastBatch = Literal["auto", "keep", "join", "drop"]


@dataclass(frozen=True)
class Batches:
    """Division of samples into batches.

    Attributes:
        drop_last: Whether a last batch that is smaller is left out.
        min_batch: A last batch of fewer samples than this joins the one before it.
        least: Samples that the network needs at least, also in the parts in which a gradient is computed.
    """

    drop_last: bool = False
    min_batch: int = 1
    least: int = 1

    def count(self, samples: int, batch_size: int, ranks: int, at_most: int | None) -> int:
        """Return the number of batches in an epoch of one process."""
        available = EpochDivision(batch_size, 0, ranks, self.drop_last, self.min_batch).count(samples)
        return min(available, at_most or available)


def check_last_batch(last_batch: Any) -> None:
    """Raise ConfigError unless it is one of the ways to treat a last batch."""
    one_of("last_batch", last_batch, get_args(LastBatch))


def divide(
    predictor: Predictor,
    samples: int,
    batch_size: int,
    *,
    last_batch: LastBatch = "auto",
    ranks: int = 1,
    accumulate: int = 1,
    at_most: int | None = None,
) -> Batches:
    """Return how training samples are divided into batches.

    Args:
        predictor: The network; it is tried on a single sample of zeros where there may be such a batch.
        samples: How many there are.
        batch_size: Samples per batch.
        last_batch: "keep" trains on a smaller last batch, "drop" leaves it out, "join" makes the one before it larger;
            "auto" keeps it, unless it is one sample and the network needs more: that joins the batch before.
        ranks: Processes that share the samples.
        accumulate: Parts in which a gradient is computed.
        at_most: Batches in an epoch at most.

    Raises:
        ConfigError: There is a batch of one sample, the network cannot be trained on it, and it can join none.
    """
    share = samples // ranks
    whole, rest = divmod(share, batch_size)
    joined = last_batch == "join"
    used = rest > 0 and last_batch in ("auto", "keep") and (at_most is None or at_most > whole)
    sizes = ([batch_size] if whole else []) + ([rest] if used or (joined and not whole) else [])
    least = 1
    if any(size // accumulate < 2 for size in sizes) and (error := refusal(predictor, training=True)) is not None:
        least = 2
        lone = {"batches of one sample": 1 in sizes[:1], "a last batch of one sample": used and rest == 1}
        movable = last_batch == "auto" and whole > 0 and batch_size > 1
        if which := [name for name, there in lone.items() if there and not (movable and name.startswith("a "))]:
            if batch_size == 1 or not whole:
                remedy = "Choose a larger batch_size, or more samples"
            else:
                remedy = 'Choose another batch_size, or leave last_batch at "auto", which joins it to the batch before'
            each = f" on each of {ranks} processes" if ranks > 1 else ""
            raise ConfigError(
                f"the network cannot be trained on a batch of one sample, as batch normalization cannot: {error}. "
                f"{samples} samples with batch_size={batch_size}{each} give {which[0]}. {remedy}"
            )
    min_batch = batch_size if joined else 2 if used and rest == 1 and least == 2 else 1
    return Batches(last_batch == "drop", min_batch, least)


def refusal(predictor: Predictor, *, training: bool) -> str | None:
    """Return with which words a network refuses a batch of a single sample, None if it takes it.

    A copy is tried on zeros, because in training mode a network may note what it has seen.
    """
    try:
        tried = copy.deepcopy(predictor)
    except Exception as error:  # noqa: BLE001 - not every network can be copied
        batch_norm = any(isinstance(part, nn.BatchNorm1d) for part in predictor.modules())
        return str(error) if batch_norm else None
    tried.train(training)
    before = generator_states()
    try:
        one, two = (_failure(lambda n=n: tried(_zeros(tried, n))) for n in (1, 2))  # type: ignore[misc]
    finally:
        set_generator_states(before)
    return one if two is None else None


@torch.no_grad()
def _failure(call: Callable[[], object]) -> str | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever a network has to say
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


def _zeros(predictor: Predictor, count: int) -> dict[str, torch.Tensor]:
    fields = (predictor.spec[name] for name in predictor.inputs)
    return predictor.tensors({field.name: np.zeros((count, *field.shape), field.dtype) for field in fields})
