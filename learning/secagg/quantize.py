"""Real values to integers by stochastic rounding, and back.

``floor(v) + 1`` with probability ``v - floor(v)``, else ``floor(v)``: unbiased, and exact for whole numbers. The coin
is an AES-CTR stream from 32 bytes that the caller passes in, so the same inputs give the same integers on every
machine, with secure aggregation on or off.

HAZARD: the 32 bytes must differ for every vector (derive them from a secret, the job and the round); the same coins
over two updates correlate their rounding errors.
"""

import numpy as np
from numpy.typing import NDArray

from learning.secagg.errors import ValueRangeError
from learning.secagg.masking import KeyStreamWords

_INFO = b"orchard/secagg/rounding/1"
_BLOCK = 1 << 14
_COIN = 2.0**-32


class RoundingStream(KeyStreamWords):
    """The coins of one vector, in coordinate order; exact sections draw none."""

    def __init__(self, seed: bytes) -> None:
        """Start the coins of ``seed`` (32 bytes, secret, one per vector).

        Raises:
            ParameterError: the seed is not 32 bytes.
        """
        super().__init__(seed, _INFO)


def round_stochastic(
    values: NDArray[np.floating], scale: float, bound: float, coins: RoundingStream, out: NDArray[np.signedinteger]
) -> None:
    """Write ``values`` clipped to +-``bound``, times ``scale``, rounded stochastically, to ``out`` (same shape (d,)).

    Raises:
        ValueRangeError: a value is NaN or infinite.
    """
    work, whole, draw, up = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK, dtype=np.bool_)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        size = len(block)
        if not np.isfinite(block).all():
            raise ValueRangeError("a value is NaN or infinite")
        scaled, floor, coin, carry = work[:size], whole[:size], draw[:size], up[:size]
        # In double from the first step, and clipped before it is scaled: nothing overflows or loses its fraction.
        scaled[:] = block
        np.minimum(scaled, bound, out=scaled)
        np.maximum(scaled, -bound, out=scaled)
        np.multiply(scaled, scale, out=scaled)
        np.floor(scaled, out=floor)
        np.subtract(scaled, floor, out=scaled)
        np.multiply(coins.words(size), _COIN, out=coin)
        np.less(coin, scaled, out=carry)
        np.add(floor, carry, out=floor)
        out[start : start + size] = floor


def exact_integers(values: NDArray[np.generic], bound: float, out: NDArray[np.signedinteger]) -> None:
    """Write whole numbers to ``out`` unchanged.

    Raises:
        ValueRangeError: a value is not finite, not whole or beyond +-``bound``: counts are never clipped.
    """
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueRangeError("a value is NaN or infinite")
    if (numbers != np.floor(numbers)).any():
        raise ValueRangeError("an exact section holds whole numbers only")
    if (np.abs(numbers) > bound).any():
        raise ValueRangeError(f"a value of an exact section is beyond its bound {bound:g}")
    out[:] = numbers
