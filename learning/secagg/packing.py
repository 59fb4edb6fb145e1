"""Ring vectors as bytes: k bits per value, least significant bit first, values one after the other.

For k = 32 and k = 64 this is the little-endian array itself, without a copy. For other k eight values make k bytes, so
that a vector of d values takes ceil(d * k / 8) bytes and spare bits at the end are zero.
"""

import re
from typing import TypeAlias

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from learning.secagg.errors import ParameterError, VectorError

RingVector: TypeAlias = "NDArray[np.uint32] | NDArray[np.uint64]"
Bytes: TypeAlias = bytes | bytearray | memoryview

_SMALL_RING = range(8, 33)
_BIG_RING = 64
_WORD, _GROUP, _BYTE = 32, 8, 0xFF
_DIGEST = re.compile(r"blake3:[0-9a-f]{64}")


def ring_dtype(k: int) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    """Return the word that holds one value of Z_2^k: ``<u4`` up to 32 bits, ``<u8`` for 64.

    Raises:
        ParameterError: k is neither 8..32 nor 64.
    """
    if k in _SMALL_RING:
        return np.dtype("<u4")
    if k == _BIG_RING:
        return np.dtype("<u8")
    raise ParameterError(f"a ring of {k} bits is not defined: 8 to 32, or 64")


def packed_size(d: int, k: int) -> int:
    """Return the number of bytes of a packed vector of ``d`` values."""
    ring_dtype(k)
    return (d * k + 7) // 8


def reduce(vector: RingVector, k: int) -> RingVector:
    """Bring ``vector`` into 0..2^k - 1, in place, and return it."""
    if k < _WORD:
        np.bitwise_and(vector, np.uint32((1 << k) - 1), out=vector)
    return vector


def pack(vector: RingVector, k: int) -> Bytes:
    """Return the packed bytes of ``vector`` (shape (d,), any words; only the low k bits count).

    For k = 32 and 64 the result is a view of ``vector``.
    """
    if vector.dtype != ring_dtype(k) or vector.ndim != 1:
        raise ParameterError(f"a ring vector of {k} bits is one-dimensional {ring_dtype(k)}")
    if k in (_WORD, _BIG_RING):
        return np.ascontiguousarray(vector).data.cast("B")
    groups = -(-len(vector) // _GROUP)
    values = np.zeros((_GROUP, groups), dtype="<u4")
    full = len(vector) // _GROUP
    values[:, :full] = vector[: full * _GROUP].reshape(full, _GROUP).T
    values[: len(vector) - full * _GROUP, full:] = vector[full * _GROUP :].reshape(-1, 1)
    values &= np.uint32((1 << k) - 1)
    out = np.empty((groups, k), dtype=np.uint8)
    for byte in range(k):
        first, shift = divmod(byte * 8, k)
        column = values[first] >> np.uint32(shift)
        if shift + 8 > k:
            column |= values[first + 1] << np.uint32(k - shift)
        out[:, byte] = column & np.uint32(_BYTE)
    return out.reshape(-1)[: packed_size(len(vector), k)].data


def unpack(data: Bytes, d: int, k: int) -> RingVector:
    """Return the ``d`` values in ``data``, each in 0..2^k - 1; read-only view for k = 32 and 64.

    Raises:
        VectorError: the length is not exactly that of d values, or spare bits are set.
    """
    size = packed_size(d, k)
    if len(data) != size:
        raise VectorError(f"{len(data)} bytes arrived, {d} values of {k} bits take {size}")
    if k in (_WORD, _BIG_RING):
        return np.frombuffer(data, dtype="<u4") if k == _WORD else np.frombuffer(data, dtype="<u8")
    groups = -(-d // _GROUP)
    raw = np.zeros(groups * k, dtype=np.uint8)
    raw[:size] = np.frombuffer(data, dtype=np.uint8)
    columns = np.ascontiguousarray(raw.reshape(groups, k).T).astype("<u8")
    values = np.empty((groups, _GROUP), dtype="<u4")
    for index in range(_GROUP):
        first, shift = divmod(index * k, 8)
        last = (index * k + k - 1) // 8
        word = columns[first].copy()
        for byte in range(first + 1, last + 1):
            word |= columns[byte] << np.uint64(8 * (byte - first))
        values[:, index] = (word >> np.uint64(shift)) & np.uint64((1 << k) - 1)
    flat = values.reshape(-1)
    if (spare := size * 8 - d * k) and raw[size - 1] >> (8 - spare):
        raise VectorError("the spare bits at the end are not zero")
    return flat[:d]


def vector_digest(data: Bytes) -> str:
    """Return what signed documents name a packed vector by: ``blake3:`` and its BLAKE3 of 32 bytes, hexadecimal.

    Of all that a sum costs only the ciphers cost more than hashing whole vectors, and SHA-256 takes twice as long.
    """
    return f"blake3:{blake3(data).hexdigest()}"


def is_vector_digest(value: str) -> bool:
    """Say whether ``value`` has the form of what :func:`vector_digest` returns."""
    return _DIGEST.fullmatch(value) is not None
