"""Values of variable form as bytes: msgpack with arrays, numpy scalars, tuples, graphs, spaces and random generators.

Decoding builds these kinds of values and nothing else; it never runs what it reads.
"""

from __future__ import annotations

import re
import struct
from typing import Any, TypeAlias

import msgpack
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import GraphInstance

from physgym import spaces as walk
from physgym.errors import ProtocolError

MAX_NESTED = 32

Buffer: TypeAlias = bytes | bytearray | memoryview

_ARRAY, _SCALAR, _TUPLE, _BIGINT, _COMPLEX, _OBJECTS, _GRAPH, _SPACE, _GENERATOR = range(1, 10)
_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
_PLAIN_KINDS = "biufcSUmM"
_DTYPE = re.compile(r"[<>|=][biufcSUmM]\d{1,9}(\[\d{0,3}\w{1,2}\])?")


def _encode_other(value: Any) -> msgpack.ExtType:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _PLAIN_KINDS:
        code = _ARRAY if isinstance(value, np.ndarray) else _SCALAR
        array = np.ascontiguousarray(value)
        return msgpack.ExtType(code, msgpack.packb((array.dtype.str, np.shape(value), array.tobytes())))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return msgpack.ExtType(_OBJECTS, encode_value([list(value.shape), value.ravel().tolist()]))
    if isinstance(value, GraphInstance):
        return msgpack.ExtType(_GRAPH, encode_value(list(value)))
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, encode_value(list(value)))
    if isinstance(value, spaces.Space) and not walk.is_custom(walk.to_json(value)):
        return msgpack.ExtType(_SPACE, encode_value(walk.to_json(value)))
    if isinstance(value, np.random.Generator) and type(value.bit_generator).__name__ in _GENERATORS:
        state = value.bit_generator.state
        return msgpack.ExtType(_GENERATOR, encode_value(state))
    if isinstance(value, int):
        return msgpack.ExtType(_BIGINT, str(int(value)).encode())
    if isinstance(value, complex):
        return msgpack.ExtType(_COMPLEX, struct.pack("<dd", value.real, value.imag))
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, str):
        return str(value)
    raise TypeError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot travel between processes; "
        "use numbers, strings, bytes, arrays, or lists, tuples and dictionaries of them"
    )


class _Decoder:
    """Decodes the extension types of one value, nested no deeper than a person would nest them.

    Each level is a call of msgpack in C, which an endless nest of tuples would run out of stack.
    """

    def __init__(self) -> None:
        self._depth = 0

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
                raise ValueError(f"arrays of dtype {text!r} do not travel")
            array = np.frombuffer(content, text).reshape(shape).copy()
            return array if code == _ARRAY else array[()]
        if code == _TUPLE:
            return tuple(self.unpack(data))
        if code == _BIGINT:
            return int(data)
        if code == _COMPLEX:
            return complex(*struct.unpack("<dd", data))
        if code == _OBJECTS:
            shape, items = self.unpack(data)
            flat = np.empty(len(items), object)
            flat[:] = items
            return flat.reshape(shape)
        if code == _GRAPH:
            return GraphInstance(*self.unpack(data))
        if code == _SPACE:
            return walk.from_json(self.unpack(data))
        if code == _GENERATOR:
            state = self.unpack(data)
            bit_generator = _GENERATORS[state["bit_generator"]]()
            bit_generator.state = state
            return np.random.Generator(bit_generator)
        raise ValueError(f"unknown extension type {code}")


def encode_value(value: Any) -> bytes:
    """A value as msgpack; numpy arrays and scalars keep dtype, shape and bits, tuples stay tuples.

    Raises:
        ProtocolError: The value holds something that cannot travel.
    """
    try:
        try:
            return _pack(value)
        except OverflowError:  # msgpack ends at 64 bits and does not ask `default` about larger integers
            return _pack(_without_big_ints(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(str(error)) from error


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, default=_encode_other, strict_types=True))


def _without_big_ints(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_big_ints(k): _without_big_ints(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_without_big_ints(item) for item in value])
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return _encode_other(value)
    return value


def decode_value(data: Buffer) -> Any:
    """The value that `encode_value` encoded.

    Raises:
        ProtocolError: The bytes are not such a value.
    """
    try:
        return _Decoder().unpack(data)
    except Exception as error:
        # whatever hostile bytes provoke in a parser is the peer's fault, and ends its connection alone
        raise ProtocolError(f"a message holds a value that cannot be decoded: {error!r}") from error
