"""Masks: seeds expanded to ring vectors with AES-128 in counter mode, added up block by block.

Key and first counter block are the two halves of HKDF-SHA256 (RFC 5869, no salt) over the seed, with the whole context
of the mask as info; the words are the key stream (SP 800-38A, 6.5) read little-endian. Working memory is one block: all
streams pass over a block while it stays in the second-level cache, so the cost is that of AES alone plus one addition.
"""

import hmac
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from learning.secagg.errors import ParameterError
from learning.secagg.packing import RingVector

SEED_BYTES = 32
_BLOCK_BYTES = 1 << 18
_WORDS_BYTES = 1 << 17
_ZERO_VIEW = memoryview(bytes(_BLOCK_BYTES))
_ONES_VIEW = memoryview(b"\xff" * _WORDS_BYTES)
# update_into wants room for one AES block beyond the input.
_SLACK = 16
# Contexts kept open at once: bounds memory when there are very many contributors.
_STREAMS = 512


def hkdf(seed: bytes, info: bytes, length: int = 32) -> bytes:
    """Return HKDF-SHA256 of ``seed`` with an empty salt (RFC 5869), at most 8160 bytes."""
    key = hmac.digest(bytes(32), seed, "sha256")
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out += block
    return out[:length]


def key_stream(seed: bytes, info: bytes) -> CipherContext:
    """Return the AES-128-CTR stream of ``seed`` for the context ``info``.

    Raises:
        ParameterError: the seed is not 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise ParameterError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    material = hkdf(seed, info)
    return Cipher(AES(material[:16]), CTR(material[16:])).encryptor()


class KeyStreamWords:
    """The key stream of one seed as little-endian words, for callers that draw piece by piece."""

    def __init__(self, seed: bytes, info: bytes) -> None:
        """Start the stream of ``seed`` (32 bytes) for the context ``info``."""
        self._stream = key_stream(seed, info)
        self._buffer = bytearray(_WORDS_BYTES + _SLACK)
        self._words = np.frombuffer(self._buffer, dtype="<u4", count=_WORDS_BYTES // 4)

    def words(self, count: int) -> NDArray[np.uint32]:
        """Return the next ``count`` uniform 32-bit words, at most 32768; the next call overwrites them."""
        self._stream.update_into(_ZERO_VIEW[: 4 * count], self._buffer)
        return self._words[:count]

    def complements(self, count: int) -> NDArray[np.uint32]:
        """Return 2^32 - 1 minus each of the next ``count`` words: counter mode turns the bits of ones for nothing."""
        self._stream.update_into(_ONES_VIEW[: 4 * count], self._buffer)
        return self._words[:count]


def accumulate(vector: RingVector, streams: Iterable[tuple[bytes, bytes]], *, subtract: bool = False) -> None:
    """Add (or subtract) the masks of ``streams``, pairs of (seed, info), to ``vector`` in place.

    Arithmetic wraps at the word, which is a multiple of every ring that the word carries.
    """
    if not vector.flags.c_contiguous or vector.ndim != 1:
        raise ParameterError("masks are added to a contiguous one-dimensional vector")
    operation = np.subtract if subtract else np.add
    size = _BLOCK_BYTES // vector.itemsize
    buffer = bytearray(min(_BLOCK_BYTES, vector.nbytes) + _SLACK)
    words: Any = np.frombuffer(buffer, dtype=vector.dtype, count=min(size, len(vector)))
    for batch in _batches(streams):
        for start in range(0, len(vector), size):
            block = vector[start : start + size]
            zeros = _ZERO_VIEW[: block.nbytes]
            mask = words[: len(block)]
            for stream in batch:
                stream.update_into(zeros, buffer)
                operation(block, mask, block)


def _batches(streams: Iterable[tuple[bytes, bytes]]) -> Iterator[list[CipherContext]]:
    pairs = iter(streams)
    while batch := [key_stream(seed, info) for seed, info in islice(pairs, _STREAMS)]:
        yield batch
