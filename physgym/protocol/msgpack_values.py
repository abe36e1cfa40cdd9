"""Values of variable form as bytes: msgpack with arrays, numpy scalars, tuples, graphs, spaces, random generators.

Decoding builds these kinds of values and nothing else; it never runs what it reads.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgpack
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import GraphInstance

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol.buffers import Buffer

MAX_NESTED = 32
MAX_SPACE = 1 << 30  # bytes of one value of a space: bounds are arrays of this size
MAX_DESCRIBED = 1 << 31  # the same of all spaces in one message together
MAX_FIELDS, MAX_FIELD = 8, 32  # of a message of the handshake: how many, and bytes of a name
MAX_DIMENSIONS = 64

_ARRAY, _SCALAR, _TUPLE, _BIGINT, _COMPLEX, _OBJECTS, _GRAPH, _SPACE, _GENERATOR, _MASKED, _STRUCTURED = range(1, 12)
_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
PLAIN_KINDS = "biufcSUmM"
_VOID = re.compile(r"\|V\d{1,9}")
_DTYPE = re.compile(r"[<>|=][biufcSUmM]\d{1,9}(\[\d{0,9}\w{1,2}\])?")
_SPACE_DTYPE = re.compile(r"[<>|=][biuf](\d{1,2})")
_TEXT_DTYPE = re.compile(r"[<>|=]U(\d{1,6})")


class _Encoder:
    """An encoder of one value, nested no deeper than the other end decodes it."""

    def __init__(self) -> None:
        self._depth = 0

    def pack(self, value: Any) -> bytes:
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise ValueError(f"tuples and the like are nested deeper than {MAX_NESTED}")
        depth = self._depth
        try:
            data = self._pack(value)
        except OverflowError:  # msgpack ends at 64 bits and does not ask `default` about larger integers
            self._depth = depth
            data = self._pack(_without_big_ints(value))
        self._depth -= 1
        return data

    def _pack(self, value: Any) -> bytes:
        return bytes(msgpack.packb(value, default=self._other, strict_types=True))

    def _other(self, value: Any) -> Any:
        return _encode_other(value, self.pack)


def _encode_other(value: Any, pack: Callable[[Any], bytes]) -> Any:
    if value is np.ma.masked:  # numpy's one missing value, which has no parts
        return msgpack.ExtType(_MASKED, pack([]))
    if isinstance(value, np.ma.MaskedArray):
        parts = [np.ma.getdata(value), np.ma.getmaskarray(value), np.asarray(value.fill_value)]
        return msgpack.ExtType(_MASKED, pack([np.asarray(part) for part in parts]))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in PLAIN_KINDS:
        code = _ARRAY if isinstance(value, np.ndarray) else _SCALAR
        array = np.ascontiguousarray(value)
        if not _DTYPE.fullmatch(array.dtype.str):
            raise TypeError(f"arrays of dtype {array.dtype.str} cannot be sent between processes")
        return msgpack.ExtType(code, msgpack.packb((array.dtype.str, np.shape(value), array.tobytes())))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "V":
        described = _describe_dtype(value.dtype)
        if described is None or not value.dtype.itemsize:
            raise TypeError(
                f"a value of type numpy.{type(value).__name__} cannot be sent between processes where its dtype is "
                f"{value.dtype}; use a dictionary with an array for each of its fields"
            )
        scalar = not isinstance(value, np.ndarray)
        return msgpack.ExtType(_STRUCTURED, pack([scalar, described, list(value.shape), value.tobytes()]))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return msgpack.ExtType(_OBJECTS, pack([list(value.shape), value.ravel().tolist()]))
    if isinstance(value, GraphInstance):
        return msgpack.ExtType(_GRAPH, pack(list(value)))
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, pack(list(value)))
    if isinstance(value, spaces.Space) and not walk.is_custom(walk.to_json(value)):
        return msgpack.ExtType(_SPACE, pack(walk.to_json(value)))
    if isinstance(value, np.random.Generator) and type(value.bit_generator).__name__ in _GENERATORS:
        state = value.bit_generator.state
        return msgpack.ExtType(_GENERATOR, pack(state))
    if isinstance(value, int):
        return _big_int(value)
    if isinstance(value, complex):
        return msgpack.ExtType(_COMPLEX, struct.pack("<dd", value.real, value.imag))
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, str):
        return str(value)
    raise TypeError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be sent between processes; "
        "use numbers, strings, bytes, arrays, or lists, tuples and dictionaries of them"
    )


class _Decoder:
    """A decoder of the extension types of one value, nested no deeper than a person would nest them.

    Each level is a call of msgpack in C, which an endless nest of tuples would run out of stack.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._described = 0  # bytes of one value of each space so far

    def unpack(self, data: Buffer) -> Any:
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise ValueError(f"extension types are nested deeper than {MAX_NESTED}")
        value = msgpack.unpackb(data, ext_hook=self._extension, strict_map_key=False)
        self._depth -= 1
        return value

    def _extension(self, code: int, data: bytes) -> Any:
        if code in (_ARRAY, _SCALAR):
            text, shape, content = msgpack.unpackb(data)
            # numpy would parse a whole language of dtypes, and fail in as many ways
            if not isinstance(text, str) or not _DTYPE.fullmatch(text):
                raise ValueError(f"arrays of dtype {text!r} are not sent")
            array = np.frombuffer(content, text).reshape(_shape(shape)).copy()
            return array if code == _ARRAY else array[()]
        if code == _STRUCTURED:
            scalar, described, shape, content = self.unpack(data)
            array = np.frombuffer(content, _described_dtype(described)).reshape(_shape(shape)).copy()
            return array[()] if scalar is True else array
        if code == _TUPLE:
            return tuple(self.unpack(data))
        if code == _BIGINT:
            return int(data)
        if code == _COMPLEX:
            return complex(*struct.unpack("<dd", data))
        if code == _OBJECTS:
            shape, items = self.unpack(data)
            flat = np.empty(len(items), object)
            for i, item in enumerate(items):  # at once, numpy would look into items that are lists or arrays
                flat[i] = item
            return flat.reshape(_shape(shape))
        if code == _MASKED:
            parts = self.unpack(data)
            return _masked(*parts) if parts else np.ma.masked
        if code == _GRAPH:
            return GraphInstance(*self.unpack(data))
        if code == _SPACE:
            described = self.unpack(data)
            self._described += space_size(described)
            if self._described > MAX_DESCRIBED:
                raise ValueError(f"the spaces of a message together exceed the limit of {MAX_DESCRIBED} bytes")
            return decode_space(described)
        if code == _GENERATOR:
            state = self.unpack(data)
            _check_positions(state)
            bit_generator = _GENERATORS[state["bit_generator"]]()
            bit_generator.state = state
            return np.random.Generator(bit_generator)
        raise ValueError(f"unknown extension type {code}")


def encode_value(value: Any) -> bytes:
    """Return a value as msgpack; numpy arrays and scalars keep dtype, shape and bits, tuples stay tuples.

    Raises:
        ProtocolError: The value holds something that cannot be sent.
    """
    try:
        return _Encoder().pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        key = _culprit(value)
        raise ProtocolError(f"{key!r}: {error}" if key else str(error)) from error


def _culprit(value: Any, path: str = "", depth: int = 0) -> str:
    """Return the keys on the way to the first value that cannot be sent, joined by ``/``; empty if it has none."""
    if depth < MAX_NESTED:
        parts: Iterable[tuple[str, Any]] = ()
        if isinstance(value, dict):
            parts = ((f"{path}/{key}" if path else str(key), part) for key, part in value.items())
        elif isinstance(value, (list, tuple)):
            parts = ((f"{path}[{place}]" if path else "", part) for place, part in enumerate(value))
        for inner, part in parts:
            try:
                _Encoder().pack(part)
            except (TypeError, ValueError, OverflowError, RecursionError, AttributeError):
                return _culprit(part, inner, depth + 1)
    return path


def _big_int(value: int) -> msgpack.ExtType:
    return msgpack.ExtType(_BIGINT, str(int(value)).encode())


def _without_big_ints(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_big_ints(k): _without_big_ints(v) for k, v in value.items()}
    if isinstance(value, list):  # tuples are packed on their own
        return [_without_big_ints(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return _big_int(value)
    return value


def _shape(sides: Any) -> tuple[int, ...]:
    if not all(type(side) is int and side >= 0 for side in sides):  # numpy would guess a side of -1
        raise ValueError(f"{sides!r} is no shape")
    return tuple(sides)


def _describe_dtype(dtype: np.dtype[Any]) -> Any:
    """Return what `_described_dtype` makes a dtype from; None where a field of it is an object or the like."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        described = _describe_dtype(base)
        return None if described is None else [described, list(shape)]
    if dtype.names is None:
        return dtype.str if dtype.kind in PLAIN_KINDS or _VOID.fullmatch(dtype.str) else None
    assert dtype.fields is not None
    fields = []
    for name in dtype.names:
        inner, offset, *title = dtype.fields[name]
        described = _describe_dtype(inner)
        if described is None or not all(isinstance(text, str) for text in title):
            return None
        fields.append([name, described, offset, title[0] if title else None])
    return {"fields": fields, "size": dtype.itemsize, "aligned": dtype.isalignedstruct}


def _described_dtype(described: Any, depth: int = 0) -> np.dtype[Any]:
    """Return the dtype of a structured array that came over the wire.

    Raises:
        ValueError: It is none; numpy may raise others.
    """
    if depth > MAX_NESTED:
        raise ValueError(f"dtypes are nested deeper than {MAX_NESTED}")
    if isinstance(described, str):  # numpy would parse a whole language of dtypes, and fail in as many ways
        if not (_DTYPE.fullmatch(described) or _VOID.fullmatch(described)):
            raise ValueError(f"arrays of dtype {described!r} are not sent")
        return np.dtype(described)
    if isinstance(described, list):
        base, shape = described
        return np.dtype((_described_dtype(base, depth + 1), _shape(shape)))
    names, inner, offsets, titles = zip(*described["fields"], strict=True) if described["fields"] else ((),) * 4
    parts = {
        "names": list(names),
        "formats": [_described_dtype(part, depth + 1) for part in inner],
        "offsets": list(offsets),
        "titles": list(titles),
        "itemsize": described["size"],
    }
    return np.dtype(parts, align=described["aligned"] is True)  # type: ignore[call-overload, no-any-return]


def _masked(data: Any, mask: Any, fill: Any) -> Any:
    for part in (data, mask, fill):
        if not isinstance(part, np.ndarray):
            raise ValueError("a masked array consists of arrays")
    if mask.dtype != np.ma.make_mask_descr(data.dtype) or mask.shape != data.shape or fill.shape:
        raise ValueError(f"a mask {mask.dtype} {mask.shape} is none of an array of shape {data.shape}")
    return np.ma.MaskedArray(data, mask, fill_value=fill[()])


def _check_positions(state: dict[str, Any]) -> None:
    """Check where a generator stands in its own table: numpy believes it, and would read outside of the table."""
    for position, size in ((state["state"].get("pos", 0), 624), (state.get("buffer_pos", 0), 4)):
        if not 0 <= position <= size:
            raise ValueError(f"position {position} of a random generator is outside of its table")


def space_size(data: Any) -> int:
    """Return the bytes of one value of a described space.

    Raises:
        ValueError: As `check_size`.
    """
    return check_size(_arrays(data))


def decode_space(data: Any) -> spaces.Space[Any]:
    """Return the space of a description that came over the wire; small descriptions of huge spaces are refused unread.

    Raises:
        ValueError: An array of it has another dtype than numbers, or the space is too large. Other faults of the
            description raise what `physgym.spaces.from_json` raises, and what numpy and Gymnasium raise.
    """
    check_size(_arrays(data))
    return walk.from_json(data)


def check_size(arrays: Iterable[tuple[Any, Any]], *, texts: bool = False) -> int:
    """Check pairs of shape and dtype, as in a description, before any array of that kind is made; return their bytes.

    Raises:
        ValueError: One is no shape or no dtype of numbers, or together they are too large.
    """
    total = 0
    for shape, dtype in arrays:
        match = _SPACE_DTYPE.fullmatch(dtype) if isinstance(dtype, str) else None
        text = _TEXT_DTYPE.fullmatch(dtype) if texts and isinstance(dtype, str) else None
        if match is None and text is None:
            raise ValueError(f"{dtype!r} is no dtype of numbers")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{shape!r} is no shape")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"{shape!r} is no shape")
        total += math.prod(shape) * (int(match[1]) if match is not None else 4 * int(text[1]) if text else 0)
        if total > MAX_SPACE:
            raise ValueError(f"values of {total} bytes exceed the limit of {MAX_SPACE}")
    return total


def _arrays(data: Any) -> Iterator[tuple[Any, Any]]:
    """Give shape and dtype of all arrays of a space's description."""
    waiting = [(data, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_NESTED:
            raise ValueError(f"spaces are nested deeper than {MAX_NESTED}")
        if isinstance(item, list):
            waiting += [(part, depth) for part in item]
        elif isinstance(item, dict):
            if (array := walk.described_array(item)) is not None:
                yield array
            waiting += [(item[key], depth + 1) for key in walk.NESTED if key in item]


def decode_plain(data: Buffer) -> Any:
    """Return a value of at most a few numbers, texts, bytes and small maps of them; nothing larger is begun to be made.

    Raises:
        ProtocolError: The bytes are not such a value.
    """
    try:
        return msgpack.unpackb(
            data,
            ext_hook=_no_extension,
            strict_map_key=False,
            max_map_len=MAX_FIELDS,
            max_array_len=MAX_FIELDS,
            max_ext_len=0,
            max_str_len=MAX_FIELD,
        )
    except Exception as error:
        raise ProtocolError(f"a message holds a value that cannot be decoded: {error!r}") from error


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} does not belong into the handshake")


def decode_value(data: Buffer) -> Any:
    """Return the value that `encode_value` encoded.

    Raises:
        ProtocolError: The bytes are not such a value.
    """
    try:
        return _Decoder().unpack(data)
    except Exception as error:
        # whatever hostile bytes provoke in a parser is the peer's fault, and ends its connection alone
        raise ProtocolError(f"a message holds a value that cannot be decoded: {error!r}") from error
