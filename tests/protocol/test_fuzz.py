"""Mutated frames and corrupted sessions: a peer's faults end its connection, and nothing else happens."""

from __future__ import annotations

import random
import resource
import struct
import time
import tracemalloc
from collections import Counter
from typing import Any

import psutil
import pytest

from physgym.errors import ProtocolError
from physgym.protocol import codec
from physgym.protocol.connection import INPUT_SIZE, Connection
from physgym.protocol.messages import MESSAGE_TYPES, Call, CallResult, Ready, Results, Role, Step
from tests.support.conversation import (
    EXAMPLES,
    LEGAL,
    SESSION,
    assert_same,
    brought_to,
    copy_of,
    feed,
    joined,
    other_than,
)

FRAMES = 100_000
SECONDS_PER_FRAME = 0.5  # of this process; a frame takes some 50 microseconds
GROWTH = 64 << 20


# --- mutations


def flipped(data: bytearray, rng: random.Random, _: bytes) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def replaced(data: bytearray, rng: random.Random, _: bytes) -> None:
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xC1, 0xC7, 0xC9, 0xDD, 0xDF, 0xFF))


def flipped_in_the_body(data: bytearray, rng: random.Random, other: bytes) -> None:
    body = data[16:]
    if body:
        flipped(body, rng, other)
        data[16:] = body


def truncated(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def shortened(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[rng.randrange(16, len(data) + 1) :]
    data[8:16] = struct.pack("<Q", len(data) - 16)


def spliced(data: bytearray, rng: random.Random, other: bytes) -> None:
    begin = rng.randrange(len(other))
    at = rng.randrange(16, len(data) + 1)
    data[at : at + rng.randrange(9)] = other[begin : begin + rng.randrange(40)]
    data[8:16] = struct.pack("<Q", len(data) - 16)


def repeated(data: bytearray, rng: random.Random, _: bytes) -> None:
    begin = rng.randrange(16, len(data) + 1)
    data[begin:begin] = data[begin : begin + rng.randrange(20)] * rng.choice((1, 2, 50))
    data[8:16] = struct.pack("<Q", len(data) - 16)


def relengthed(data: bytearray, rng: random.Random, _: bytes) -> None:
    length = len(data) - 16
    new = rng.choice((length - 1, length + 1, 0, 2**10, 2**16, 2**24, 2**30, 2**30 + 1, 2**63, rng.getrandbits(64)))
    data[8:16] = struct.pack("<Q", max(0, new))


def redirected(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[:16] = other[:8] + data[8:16]  # the header of another message over this body


MUTATIONS = [
    flipped, replaced, flipped_in_the_body, flipped_in_the_body, truncated, shortened, spliced, repeated, relengthed,
    redirected,
]  # fmt: skip


def targets() -> list[tuple[Connection, list[bytes]]]:
    """Ends in all states, each with frames that it may get next."""
    found = []
    for name, (_, _, by_parent, by_worker) in LEGAL.items():
        for sender, legal in ((Role.PARENT, by_parent), (Role.WORKER, by_worker)):
            ends = brought_to(name)
            frames = []
            # those of the session are richer than the examples
            for message in [message for _, message in SESSION] + list(EXAMPLES.values()):
                if type(message) in legal:
                    try:
                        frames.append(joined(copy_of(ends[sender]).send(message)))
                    except ProtocolError:
                        continue  # it belongs to another request
            if frames:
                found.append((ends[other_than(sender)], frames))
    return found


def attack(connection: Connection, data: bytes, chunk: int) -> str:
    """What a frame leads to."""
    begun = time.process_time()
    try:
        messages = feed(connection, data, [chunk])
    except ProtocolError:
        outcome = "refused"
    else:
        assert all(type(message) in MESSAGE_TYPES for message in messages)
        assert len(connection.get_buffer()) > 0
        outcome = "taken" if messages else "incomplete"
    assert time.process_time() - begun < SECONDS_PER_FRAME
    return outcome


def campaign(count: int, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    ends = targets()
    everything = [data for _, frames in ends for data in frames]
    slow = [end for end in ends if end[0].state == "building"]  # descriptions of spaces take milliseconds
    fast = [end for end in ends if end not in slow]
    outcomes: Counter[str] = Counter()
    for turn in range(count):
        connection, frames = rng.choice(slow if turn % 50 == 0 else fast)
        data = bytearray(rng.choice(frames))
        for _ in range(rng.choice((1, 1, 2))):
            if len(data) >= 16:
                rng.choice(MUTATIONS)(data, rng, rng.choice(everything))
        outcomes[attack(copy_of(connection), bytes(data), rng.choice((1 << 20, 1 << 20, 17, 5)))] += 1
    return outcomes


@pytest.mark.slow
def test_100000_mutated_frames_end_their_connections_and_nothing_else():
    campaign(2000, 0)  # caches fill
    process = psutil.Process()
    before, peak = process.memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = campaign(FRAMES, 1)
    assert outcomes.total() == FRAMES
    assert min(outcomes["refused"], outcomes["taken"], outcomes["incomplete"]) > FRAMES // 50
    assert process.memory_info().rss - before < GROWTH
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < GROWTH


@pytest.mark.slow
def test_mutated_frames_leave_nothing_in_memory():
    campaign(500, 2)
    tracemalloc.start()
    try:
        campaign(500, 3)
        before = tracemalloc.get_traced_memory()[0]
        campaign(2000, 4)
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["ready", "stepping", "asking", "hello", "challenge"])
def test_random_bytes_are_refused_in_every_state(name):
    rng = random.Random(5)
    ends = brought_to(name)
    for _ in range(1000):
        data = rng.randbytes(rng.randrange(16, 200))
        for role in Role:
            assert attack(copy_of(ends[role]), data, 1 << 20) == "refused"


@pytest.mark.parametrize("role", Role)
def test_a_legal_header_with_random_bodies_breaks_nothing(role):
    rng = random.Random(6)
    outcomes: Counter[str] = Counter()
    for connection, frames in targets():
        if connection.role is role:
            for _ in range(200):
                body = rng.randbytes(rng.randrange(60))
                data = rng.choice(frames)[:8] + struct.pack("<Q", len(body)) + body
                outcomes[attack(copy_of(connection), data, 1 << 20)] += 1
    assert outcomes["refused"] > 0.9 * outcomes.total()
    assert not outcomes["incomplete"]


def test_a_connection_that_was_attacked_is_the_only_one_that_ends():
    attacked, other = brought_to("stepping"), brought_to("stepping")
    with pytest.raises(ProtocolError):
        feed(attacked[Role.PARENT], b"garbage, and more of it")
    (got,) = feed(other[Role.PARENT], joined(other[Role.WORKER].send(EXAMPLES[Results])))
    assert_same(got, EXAMPLES[Results])


# --- a recorded session with one wrong byte


class Recording:
    """What one end gets in the session, frame by frame, and its state before each frame."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.script: list[Any] = []  # bytes that arrive, or a message of its own
        self.before: list[Connection] = []
        ends = {end: Connection(end) for end in Role}
        for sender, message in SESSION:
            data = joined(ends[sender].send(message))
            self.before.append(copy_of(ends[role]))
            self.script.append(message if sender is role else data)
            feed(ends[other_than(sender)], data)

    def played(self, start: int, changed: bytes | None = None) -> tuple[list[Any], bool]:
        """Messages received from a frame on, and whether the end waits for more of the last one."""
        connection = copy_of(self.before[start])
        messages: list[Any] = []
        for turn, item in enumerate(self.script[start:]):
            if not isinstance(item, bytes):
                if connection._head is not None:
                    return messages, True  # it waits for the rest of a frame, and would not answer
                connection.send(item)
            else:
                messages += feed(connection, item if turn or changed is None else changed)
        return messages, connection._head is not None


def substitutes(offset: int, byte: int) -> set[int]:
    flips = {byte ^ 1 << bit for bit in range(8)}
    if offset < 16:
        return flips
    return ({byte ^ 1, byte ^ 0x80, byte ^ 0x20, 0, 0xFF, 0xC1}) - {byte}


def is_same(a: Any, b: Any) -> bool:
    try:
        assert_same(a, b)
    except AssertionError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("role", Role)
def test_every_wrong_byte_of_a_session_is_refused_or_changes_one_message(role):
    recording = Recording(role)
    outcomes: Counter[str] = Counter()
    unnoticed = []
    for start, data in enumerate(recording.script):
        if not isinstance(data, bytes):
            continue
        expected, _ = recording.played(start)
        # the last of the results is a space, whose bounds are rounded to its dtype
        rounded = data.index(b"\xa3low") if isinstance(expected[0], CallResult) else len(data)
        for offset, byte in enumerate(data):
            for value in substitutes(offset, byte):
                changed = bytearray(data)
                changed[offset] = value
                begun = time.process_time()
                try:
                    messages, waits = recording.played(start, bytes(changed))
                except ProtocolError:
                    outcomes["refused"] += 1
                    continue
                finally:
                    assert time.process_time() - begun < SECONDS_PER_FRAME
                if waits:
                    # until the peer closes or its time is over
                    assert 8 <= offset < 16
                    outcomes["waits"] += 1
                    continue
                assert len(messages) == len(expected)
                if not isinstance(expected[0], Ready):  # which says how to read the rest
                    assert is_same(messages[1:], expected[1:])
                if is_same(messages[0], expected[0]) and offset < rounded:
                    unnoticed.append((start, offset, byte, value))
                outcomes["changed"] += 1
    # "=" and "|" in place of "<" name the same dtype, and are all that may pass unseen
    assert {(byte, value) for _, _, byte, value in unnoticed} <= {(b, v) for b in b"<|=>" for v in b"<|=>"}
    assert outcomes["refused"] > outcomes["changed"] > 100
    assert outcomes["waits"] > 10


def test_a_wrong_length_never_makes_one_message_of_two():
    recording = Recording(Role.WORKER)
    for start, data in enumerate(recording.script):
        if isinstance(data, bytes):
            for wrong in (len(data) - 17, len(data) - 15, 0 if len(data) > 16 else 1):
                if wrong >= 0:
                    with_length = data[:8] + struct.pack("<Q", wrong) + data[16:]
                    try:
                        messages, waits = recording.played(start, with_length)
                    except ProtocolError:
                        continue
                    assert waits
                    assert not messages


# --- declared sizes that nobody sends


def test_half_open_frames_cost_no_memory():
    process = psutil.Process()
    worker = brought_to("ready")[Role.WORKER]
    before = process.memory_info().rss
    header = codec.HEADER.pack(b"PG", codec.VERSION, MESSAGE_TYPES.index(Call), 1, 1 << 24)
    held = []
    for _ in range(300):
        connection = copy_of(worker)
        feed(connection, header + b"\x00" * 100)
        held.append(connection)
    assert process.memory_info().rss - before < 300 * (INPUT_SIZE + 20_000) + (8 << 20)


def test_lists_that_announce_more_than_they_hold_are_refused_soon():
    body = struct.pack("<BBHI", 0, 0, 0, 0xFFFFFFFF) + b"\xdd\x00\x0f\xff\xff" * 900
    for size in (5000, 1 << 20):
        data = body + bytes(size - len(body))
        worker = brought_to("ready")[Role.WORKER]
        frame = codec.HEADER.pack(b"PG", codec.VERSION, MESSAGE_TYPES.index(Step), 1, len(data)) + data
        begun = time.process_time()
        with pytest.raises(ProtocolError, match="cannot be decoded"):
            feed(worker, frame)
        assert time.process_time() - begun < 5
