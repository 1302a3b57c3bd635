"""Encoding for process borders: msgpack of typed structs, with numpy arrays as an extension type. No pickle.

An array travels as ``dtype string, rank, dimensions, bytes`` in an extension of code 1; arrays come back read-only views
of the received message.
"""

from __future__ import annotations

import struct
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

_ARRAY = 1
T = TypeVar("T")


def _encode_other(value: object) -> Any:
    if isinstance(value, np.ndarray):
        kind = value.dtype.str.encode()
        head = struct.pack(f"<BB{value.ndim}q", len(kind), value.ndim, *value.shape)
        return msgspec.msgpack.Ext(_ARRAY, head + kind + np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    raise NotImplementedError(f"a {type(value).__name__} cannot cross a process border")


def _decode_extension(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise ValueError(f"unknown extension {code} in a message")
    kind_size, rank = struct.unpack_from("<BB", data)
    shape = struct.unpack_from(f"<{rank}q", data, 2)
    start = 2 + 8 * rank
    dtype = np.dtype(bytes(data[start : start + kind_size]).decode())
    if dtype.hasobject:
        raise ValueError("an array of objects cannot cross a process border")
    return np.frombuffer(data, dtype, offset=start + kind_size).reshape(shape)


def _decode_other(kind: type, value: Any) -> Any:
    origin = getattr(kind, "__origin__", kind)
    if isinstance(origin, type) and isinstance(value, origin):
        return value
    raise ValueError(f"expected {kind} in a message, found {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_other)


def encode(message: object) -> bytes:
    """Return ``message`` (structs, dataclasses, numpy arrays, plain data) as msgpack."""
    return _encoder.encode(message)


class Decoder(Generic[T]):
    """Decodes and checks messages of one type (possibly a union of tagged structs).

    Raises (from ``decode``):
        msgspec.ValidationError: when the bytes are not such a message.
    """

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind, dec_hook=_decode_other, ext_hook=_decode_extension)

    def decode(self, data: bytes | memoryview) -> T:
        """Return the message in ``data``."""
        message: T = self._decoder.decode(data)
        return message
