"""The bytes of messages: the header of a frame, bodies with a fixed layout, and bodies that are a map in msgpack.

A frame is a header of 16 bytes and a body::

    offset  size  field
    0       2     magic, b"PG"
    2       1     version of the protocol
    3       1     type of the message
    4       4     sequence number, little-endian; a reply carries that of its request
    8       8     length of the body in bytes, little-endian, bounded

Arrays of steps, resets and rollouts have the fixed layout that follows from the spaces, or lie in shared memory;
everything variable is msgpack. Nothing in a frame is ever executed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from physgym.errors import ProtocolError
from physgym.protocol.agreement import Agreement
from physgym.protocol.batched_infos import check_infos
from physgym.protocol.buffers import Buffer, Layout
from physgym.protocol.contents import check_fields, check_indices, is_change
from physgym.protocol.messages import (
    CODES,
    Challenge,
    Failure,
    Hello,
    Message,
    Parameters,
    Rejected,
    Results,
    RolloutResult,
    Step,
    Welcome,
    fields,
)
from physgym.protocol.msgpack_values import decode_plain, decode_value, encode_value
from physgym.protocol.step_reports import StepReports
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array, Leaf

MAGIC = b"PG"
VERSION = 7
HEADER = struct.Struct("<2sBBIQ")
MAX_BODY = 1 << 30
MAX_BODY_BEFORE_READY = 1 << 24  # descriptions of spaces may list bounds
MAX_BODY_BEFORE_WELCOME = 1 << 10
ROWS = struct.Struct("<BBHI")  # head of Step and of its replies: slot, flags, unused, number of rows
ALL = 0xFFFFFFFF  # number of rows: every environment of the worker
STREAM, LAST, INLINE = 1, 2, 4
_INDEX = np.dtype("<u4")
_ENDINGS = ("terminated", "truncated", "cut")
NO_REPORTS = f"RolloutResult.reports must be a list of {', '.join(StepReports.__slots__)}, the last if there are some"
_UNPROVED = frozenset({Challenge, Hello, Welcome})
_KINDS = {code: kind for kind, code in CODES.items()}


def pack_header(kind: type[Any], sequence: int, length: int) -> bytes:
    """Return the header of a frame."""
    return HEADER.pack(MAGIC, VERSION, CODES[kind], sequence, length)


def unpack_header(data: bytearray | memoryview, start: int) -> tuple[type[Any], int, int]:
    """Return the kind of message, sequence number and length of the body from a header.

    Raises:
        ProtocolError: It is none of this version.
    """
    magic, version, code, sequence, length = HEADER.unpack_from(data, start)
    if magic != MAGIC:
        raise ProtocolError(f"not a physgym frame: it starts with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise ProtocolError(f"peer speaks version {version} of the protocol, this end {VERSION}; update one of them")
    kind = _KINDS.get(code)
    if kind is None:
        raise ProtocolError(f"unknown message type {code}")
    return kind, sequence, length


def nbytes(part: Buffer) -> int:
    """Return the bytes of a buffer."""
    return part.nbytes if isinstance(part, memoryview) else len(part)


def _encode_rows(first: int, flags: int, rows: list[int] | None) -> bytes:
    if rows is None:
        return ROWS.pack(first, flags, 0, ALL)
    return ROWS.pack(first, flags, 0, len(rows)) + np.array(rows, _INDEX).tobytes()


def _decode_rows(body: memoryview, count: int, known: int) -> tuple[int, int, list[int] | None, memoryview]:
    """Return slot, flags, row indices and the rest of a body."""
    if len(body) < ROWS.size:
        raise ProtocolError("a message ends before its head")
    slot, flags, unused, number = ROWS.unpack_from(body)
    if unused or flags & ~known:
        raise ProtocolError(f"a message has flags {flags} and {unused}, which mean nothing in it")
    if number == ALL:
        return slot, flags, None, body[ROWS.size :]
    end = ROWS.size + number * _INDEX.itemsize
    if number > count or len(body) < end:
        raise ProtocolError(f"a message names {number} of {count} environments in {len(body)} bytes")
    rows: list[int] = np.frombuffer(body[ROWS.size : end], _INDEX).tolist()
    if (rows and max(rows) >= count) or len(set(rows)) != len(rows):
        raise ProtocolError(f"a message names environments {rows} of {count}")
    return slot, flags, rows, body[end:]


def _decode_objects(objects: Any, leaves: int, number: int) -> list[list[Any]]:
    ok = isinstance(objects, list) and len(objects) in (0, leaves)
    if not ok or not all(isinstance(values, list) and len(values) == number for values in objects):
        raise ProtocolError(f"expected {leaves} lists of {number} values of variable size")
    return objects  # type: ignore[no-any-return]


def _decode_actions(objects: Any, leaves: list[Leaf], number: int) -> list[Any]:
    if not isinstance(objects, list) or len(objects) != len(leaves):
        raise ProtocolError(f"expected values of {len(leaves)} leaves of the action space")
    for leaf, values in zip(leaves, objects, strict=True):
        fits = values is None and not leaf.variable
        if isinstance(values, list):
            fits = len(values) == number
        elif not leaf.variable and isinstance(values, np.ndarray):
            fits = values.shape == (number, *leaf.shape)
        if not fits:
            raise ProtocolError(f"expected {number} actions {leaf.path!r}, got {type(values).__name__}")
    return objects


def pack(layout: Layout, arrays: list[Array], number: int) -> list[Buffer]:
    """Return the buffers of arrays that have as many rows as they must.

    Raises:
        ProtocolError: They have another number.
    """
    parts = layout.pack(arrays)
    if sum(map(nbytes, parts)) != number * layout.row:
        raise ProtocolError(f"arrays of {sum(map(nbytes, parts))} bytes do not belong to {number} environments")
    return parts


def _encode_step(message: Step, agreed: Agreement) -> list[Buffer]:
    flags = (STREAM if message.stream else 0) | (0 if message.actions is None else INLINE)
    body: list[Buffer] = [_encode_rows(message.slot, flags, message.rows)]
    if message.actions is not None:
        body += pack(agreed.actions, message.actions, agreed.count if message.rows is None else len(message.rows))
    if message.objects:
        body.append(encode_value(message.objects))
    return body


def _decode_step(body: memoryview, agreed: Agreement) -> Step:
    slot, flags, rows, rest = _decode_rows(body, agreed.count, STREAM | INLINE)
    number = agreed.count if rows is None else len(rows)
    actions = None
    if flags & INLINE:
        end = number * agreed.actions.row
        actions, rest = agreed.actions.unpack(rest[:end], number), rest[end:]
    objects = _decode_actions(decode_value(rest), agreed.action_leaves, number) if rest else []
    return Step(slot, rows, actions, objects, bool(flags & STREAM))


def _encode_results(message: Results, agreed: Agreement) -> list[Buffer]:
    flags = (LAST if message.last else 0) | (0 if message.arrays is None else INLINE)
    body: list[Buffer] = [_encode_rows(0, flags, message.rows)]
    if message.arrays is not None:
        body += pack(agreed.results, message.arrays, agreed.count if message.rows is None else len(message.rows))
    if message.infos or message.objects or message.failures or message.cut:
        failures = [fields(failure) for failure in message.failures]
        body.append(encode_value([message.infos, message.objects, failures, message.cut]))
    return body


def _decode_results(body: memoryview, agreed: Agreement) -> Results:
    slot, flags, rows, rest = _decode_rows(body, agreed.count, LAST | INLINE)
    if slot:
        raise ProtocolError("a Results names a slot")
    last = bool(flags & LAST)
    arrays = None
    if flags & INLINE:
        number = agreed.count if rows is None else len(rows)
        end = number * agreed.results.row
        arrays, rest = agreed.results.unpack(rest[:end], number), rest[end:]
    if not rest:
        return Results(rows, arrays, last=last)
    tail = decode_value(rest)
    if not isinstance(tail, list) or len(tail) != 4 or not isinstance(tail[2], list):
        raise ProtocolError("the tail of a Results is wrong")
    number = agreed.count if rows is None else len(rows)
    return Results(
        rows,
        arrays,
        check_infos(tail[0], agreed.count),
        _decode_objects(tail[1], agreed.variable_observations, number),
        [Failure(**check_fields(Failure, failure)) for failure in tail[2]],
        check_indices(tail[3], agreed.count),
        last,
    )


def _encode_rollout(message: RolloutResult, agreed: Agreement) -> list[Buffer]:
    parameters, rejected, reports = message.parameters, message.rejected, message.reports
    extra: list[Any] = [
        None if parameters is None else parameters.episodes,
        None if rejected is None else [rejected.episodes, rejected.steps, rejected.reasons],
        None if reports is None else _report_columns(reports),
    ]
    if message.snapshots is not None or message.slot is not None:
        extra.append(message.snapshots)
    if message.slot is not None:
        extra.append(message.slot)
    number = len(message.steps) - (0 if reports is None else len(reports.rejected))
    meta = encode_value([message.episodes, message.steps, message.ended, message.last, *extra])
    body: list[Buffer] = [struct.pack("<I", len(meta)), meta]
    if message.slot is None:
        body += _pack_columns(agreed.samples, agreed.sample_spec, message.samples, number)
    if parameters is not None:
        body += _pack_columns(agreed.parameters, agreed.parameter_spec, parameters.values, len(parameters.episodes))
    if rejected is not None:
        body += _pack_columns(agreed.samples, agreed.sample_spec, rejected.samples, len(rejected.steps))
    return body


def _report_columns(reports: StepReports) -> list[Any]:
    """Return the columns of reports; the inputs of a person, which most have not, only where there are some."""
    columns = [getattr(reports, name) for name in StepReports.__slots__]
    return columns if reports.inputs else columns[:-1]


def _pack_columns(layout: Layout, spec: SampleSpec | None, columns: Sample, number: int) -> list[Buffer]:
    return pack(layout, [] if spec is None else [columns[name] for name in spec], number)


def _decode_rollout(body: memoryview, agreed: Agreement) -> RolloutResult:
    if len(body) < 4:
        raise ProtocolError("a RolloutResult ends before its head")
    end = 4 + int.from_bytes(body[:4], "little")
    if end > len(body):
        raise ProtocolError("a RolloutResult ends within its head")
    head = decode_value(body[4:end])
    slotted = isinstance(head, list) and len(head) == 9 and type(head[8]) is int
    whole = slotted or (isinstance(head, list) and (len(head) == 7 or (len(head) == 8 and bool(head[7]))))
    if not whole or not isinstance(head[2], list) or type(head[3]) is not bool:
        raise ProtocolError("the head of a RolloutResult is wrong")
    episodes, steps, ended, last, begun, rejected, reported = head[:7]
    snapshots = head[7] if len(head) > 7 else None
    if snapshots is not None and not (isinstance(snapshots, list) and all(map(_is_snapshot, snapshots))):
        raise ProtocolError("RolloutResult.snapshots is wrong")
    if not _are_names(episodes, steps):
        raise ProtocolError("episodes and steps of a RolloutResult must be equally long columns of int64")
    if rejected is not None and not (
        isinstance(rejected, list) and len(rejected) == 3 and _are_names(*rejected[:2]) and _are_texts(*rejected[1:])
    ):
        raise ProtocolError("RolloutResult.rejected is wrong")
    if not all(isinstance(entry, list) and len(entry) in (5, 6) and _outcome_fits(*entry) for entry in ended):
        raise ProtocolError("RolloutResult.ended is wrong")
    if begun is not None and (not _is_column(begun) or len(set(begun.tolist())) != len(begun)):
        raise ProtocolError("RolloutResult.parameters is wrong")
    reports = None if reported is None else _decode_reports(reported, len(steps))
    if reports is not None:
        _check_ends(episodes, steps, ended)
    rest, number = body[end:], len(steps) - (0 if reports is None else len(reports.rejected))
    samples: Sample = {}
    if not slotted:
        samples, rest = _unpack_columns(agreed.samples, agreed.sample_spec, rest, number)
    parameters = kept = None
    if begun is not None:
        values, rest = _unpack_columns(agreed.parameters, agreed.parameter_spec, rest, len(begun))
        parameters = Parameters(begun, values)
    if rejected is not None:
        fields, rest = _unpack_columns(agreed.samples, agreed.sample_spec, rest, len(rejected[1]))
        kept = Rejected(rejected[0], rejected[1], rejected[2], fields)
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes of arrays are left over")
    return RolloutResult(
        episodes, steps, samples, ended, last, parameters, kept, reports, snapshots, head[8] if slotted else None
    )


def _decode_reports(columns: Any, number: int) -> StepReports:
    """Return the reports of so many steps.

    Raises:
        ProtocolError: They are not.
    """
    names = StepReports.__slots__[:-1]
    if not isinstance(columns, list) or len(columns) not in (len(names), len(names) + 1):
        raise ProtocolError(NO_REPORTS)
    *measured, rejected, reasons = columns[: len(names)]
    given = columns[len(names)] if len(columns) > len(names) else []
    if not isinstance(given, list):
        raise ProtocolError(NO_REPORTS)
    if not all(_is_input(entry, number) for entry in given):
        raise ProtocolError(
            f"RolloutResult.reports.inputs must be places of {number} steps with a name and a value each"
        )
    for name, column in zip(names[:-2], measured, strict=True):
        if not _is_column(column, np.float64) or len(column) != number:
            raise ProtocolError(f"RolloutResult.reports.{name} must be a column of float64 for {number} steps")
    if not _is_column(rejected) or not _are_texts(rejected, reasons):
        raise ProtocolError("RolloutResult.reports.rejected must be a column of int64 with a reason for each")
    if len(rejected) and (rejected[0] < 0 or rejected[-1] >= number or not (np.diff(rejected) > 0).all()):
        raise ProtocolError(f"RolloutResult.reports.rejected are not ascending places of {number} steps")
    return StepReports(*columns)


def _is_input(entry: Any, number: int) -> bool:
    return isinstance(entry, list) and is_change(entry[1:]) and type(entry[0]) is int and 0 <= entry[0] < number


def _check_ends(episodes: Array, steps: Array, ended: list[Any]) -> None:
    """Check that episodes end with the last one of their steps, where these are reported."""
    latest = dict(zip(episodes.tolist(), steps.tolist(), strict=True))
    for episode, length, *_, how in ended:
        if not isinstance(how, str) or (length and latest.get(episode) != length - 1):
            raise ProtocolError(
                f"RolloutResult.ended must say how episode {episode} ends, in the part that names its last step"
            )


def _unpack_columns(
    layout: Layout, spec: SampleSpec | None, data: memoryview, number: int
) -> tuple[Sample, memoryview]:
    """Return the columns at the beginning of some bytes, and the rest of these."""
    end = number * layout.row
    names = [] if spec is None else list(spec)
    return dict(zip(names, layout.unpack(data[:end], number), strict=True)), data[end:]


def _is_column(value: Any, dtype: type[np.generic] = np.int64) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.ndim == 1


def _are_names(episodes: Any, steps: Any) -> bool:
    return _is_column(episodes) and _is_column(steps) and len(episodes) == len(steps)


def _are_texts(steps: Array, reasons: Any) -> bool:
    return isinstance(reasons, list) and len(reasons) == len(steps) and all(isinstance(why, str) for why in reasons)


def _is_snapshot(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], dict):
        return False
    named = type(entry[0]) is type(entry[1]) is int and min(entry[:2]) >= 0
    return named and all(isinstance(name, str) and isinstance(x, np.ndarray) for name, x in entry[2].items())


def _outcome_fits(episode: Any, steps: Any, kept: Any, reward: Any, rejected: Any, how: Any = _ENDINGS[0]) -> bool:
    numbers = type(episode) is type(steps) is type(kept) is int and min(episode, steps, kept) >= 0
    return numbers and isinstance(reward, (float, np.floating)) and isinstance(rejected, dict) and how in _ENDINGS


_ENCODERS: dict[type[Any], Callable[[Any, Any], list[Buffer]]] = {
    Step: _encode_step,
    Results: _encode_results,
    RolloutResult: _encode_rollout,
}
_DECODERS: dict[type[Any], Callable[[memoryview, Agreement], Any]] = {
    Step: _decode_step,
    Results: _decode_results,
    RolloutResult: _decode_rollout,
}


def encode(message: Message, agreement: Agreement | None) -> list[Buffer]:
    """Return the body of a message as buffers to be sent one after another.

    Raises:
        Exception: It holds what cannot be sent; numpy, struct and msgpack refuse it in many ways.
    """
    encoder = _ENCODERS.get(type(message))
    return [encode_value(fields(message))] if encoder is None else encoder(message, agreement)


def decode(kind: type[Any], body: memoryview, agreement: Agreement | None) -> Message:
    """Return the message of a kind with this body; its arrays are views of the body.

    Raises:
        ProtocolError: The body is wrong.
    """
    decoder = _DECODERS.get(kind)
    message: Message
    try:
        if decoder is not None:
            assert agreement is not None
            message = decoder(body, agreement)
        else:
            # who has not proved itself is given no work but to read a few numbers and bytes
            content = decode_plain(body) if kind in _UNPROVED else decode_value(body)
            message = kind(**check_fields(kind, content))
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"the body of a {kind.__name__} is wrong: {error}") from error
    return message
