"""Copies of batches to a GPU, made while it computes on the batch before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from physgym.nn.transforms import Fields


def moved_ahead(
    batches: Iterable[Mapping[str, Any]], move: Callable[[Mapping[str, Any]], Fields], device: torch.device
) -> Iterator[Fields]:
    """Yield batches on a device; to a GPU the next one is on its way meanwhile, on a stream of its own.

    Args:
        batches: Batches in pinned memory, for a GPU; copies from other memory wait for each other.
        move: Copies one.
        device: The device.
    """
    if device.type != "cuda":
        yield from map(move, batches)
        return
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Fields, Any] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = move(batch), stream.record_event()
        if waiting is not None:
            yield _ready(*waiting, device)
        waiting = copied
    if waiting is not None:
        yield _ready(*waiting, device)


def _ready(fields: Fields, copied: Any, device: torch.device) -> Fields:
    """Return fields whose copies were begun; what is computed from now on waits for them, on the device."""
    current = torch.cuda.current_stream(device)  # of several GPUs the current one may be another
    current.wait_event(copied)
    for value in fields.values():
        value.record_stream(current)  # so that its memory is not given to a copy before the computation is done
    return fields
