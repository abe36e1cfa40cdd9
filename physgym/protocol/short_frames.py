"""The short frames: a step of all environments whose actions lie in shared memory, and its answer without an info.

They say nothing but "now". Cheap environments are bound by them, so they take a short way through a connection: no body
is made or read. Which of them is legal is up to `states`, as for all other messages.
"""

from __future__ import annotations

import struct

from physgym.protocol.buffers import SLOTS
from physgym.protocol.codec import ALL, HEADER, LAST, MAGIC, ROWS, VERSION
from physgym.protocol.messages import CODES, Results, Step

STEP_ALL = tuple(Step(slot) for slot in range(SLOTS))
STEPPED_ALL = Results()
FRAME = struct.Struct(HEADER.format + ROWS.format.lstrip("<"))
STEP_CODE, RESULTS_CODE = CODES[Step], CODES[Results]


def pack_step(sequence: int, slot: int) -> bytes:
    """Return the frame of a step of all environments."""
    return FRAME.pack(MAGIC, VERSION, STEP_CODE, sequence, ROWS.size, slot, 0, 0, ALL)


def pack_stepped(sequence: int) -> bytes:
    """Return the frame of its answer."""
    return FRAME.pack(MAGIC, VERSION, RESULTS_CODE, sequence, ROWS.size, 0, LAST, 0, ALL)


def unpack(data: bytearray) -> tuple[Step | Results, int] | None:
    """Return the message at the beginning of some bytes and its sequence number, None if it is no short frame."""
    magic, version, code, sequence, length, slot, flags, unused, number = FRAME.unpack_from(data)
    if (magic, version, length, unused, number) != (MAGIC, VERSION, ROWS.size, 0, ALL):
        return None
    if code == STEP_CODE and not flags and slot < SLOTS:
        return STEP_ALL[slot], sequence
    if code == RESULTS_CODE and flags == LAST and not slot:
        return STEPPED_ALL, sequence
    return None
