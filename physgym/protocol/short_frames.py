"""The short frames: a step of all environments whose actions lie in shared memory, and its answer without an info.

They say nothing but "now". Cheap environments are bound by them, so they take a short way through a connection: all
bytes but the sequence number are constant, and no body is made or read. Which of them is legal is up to `states`,
as for all other messages.
"""

from __future__ import annotations

import struct

from physgym.protocol.buffers import SLOTS
from physgym.protocol.codec import ALL, HEADER, LAST, ROWS, pack_header
from physgym.protocol.messages import Results, Step

STEP_ALL = tuple(Step(slot) for slot in range(SLOTS))
STEPPED_ALL = Results()
FRAME = struct.Struct("<4sI16s")  # what stands before the sequence number, this, and what stands after it
assert FRAME.size == HEADER.size + ROWS.size


def _constant(message: Step | Results, slot: int, flags: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after the sequence number."""
    begin, _, end = FRAME.unpack(pack_header(type(message), 0, ROWS.size) + ROWS.pack(slot, flags, 0, ALL))
    return begin, end


STEP_BYTES = tuple(_constant(step, step.slot, 0) for step in STEP_ALL)  # by slot
STEPPED_BYTES = _constant(STEPPED_ALL, 0, LAST)
MESSAGES: dict[tuple[bytes, bytes], Step | Results] = {
    **dict(zip(STEP_BYTES, STEP_ALL, strict=True)),
    STEPPED_BYTES: STEPPED_ALL,
}
