"""What this machine can do at best: AES-CTR expansion, addition, and the floor of a sum that they set."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from learning.secagg.keys import new_sealing_key, seal

_BLOCK = 1 << 17
_WORD = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor:
    """Rates of one core, in bytes a second, and the seconds that one HPKE box takes to open.

    Attributes:
        aes: AES-128-CTR alone, block in cache.
        fused: the same with the addition.
        add: addition of vectors that are not in cache.
        opening: seconds to open one box.
    """

    aes: float
    fused: float
    add: float
    opening: float

    def seconds(self, n: int, d: int, seeds: int, seats: int) -> float:
        """Return the least CPU seconds that seats and collector need for n vectors of d 32-bit values.

        Every seed of every contributor is expanded once, every vector added once, every box opened once.
        """
        return _WORD * n * d * (seeds / self.fused + 1 / self.add) + self.opening * n * seats


def measure_floor(d: int = 1_000_000) -> Floor:
    """Measure the rates, each the best of several."""
    zeros, buffer = bytes(_BLOCK), bytearray(_BLOCK + 16)
    words = np.frombuffer(buffer, dtype="<u4", count=_BLOCK // _WORD)
    total = np.zeros(_BLOCK // _WORD, dtype="<u4")
    stream = Cipher(AES(bytes(16)), CTR(bytes(16))).encryptor()
    vectors, into = np.ones((16, d), dtype="<u4"), np.zeros(d, dtype="<u4")
    key = new_sealing_key()
    box = seal(bytes(192), key.public_key, b"floor")

    def expand() -> None:
        for _ in range(256):
            stream.update_into(zeros, buffer)

    def expand_and_add() -> None:
        for _ in range(256):
            stream.update_into(zeros, buffer)
            np.add(total, words, out=total)

    def add() -> None:
        for vector in vectors:
            np.add(into, vector, out=into)

    def open_boxes() -> None:
        for _ in range(50):
            key.open(box, b"floor")

    return Floor(
        aes=256 * _BLOCK / _best(expand),
        fused=256 * _BLOCK / _best(expand_and_add),
        add=vectors.nbytes / _best(add),
        opening=_best(open_boxes) / 50,
    )


def _best(work: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(9):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best
