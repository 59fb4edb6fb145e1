"""Real values to integers by stochastic rounding, and back.

``floor(v) + 1`` with probability ``v - floor(v)``, else ``floor(v)``: unbiased, and exact for whole numbers. The coin
is an AES-CTR stream from 32 bytes that the caller passes in, so the same inputs give the same integers on every
machine, with secure aggregation on or off.

HAZARD: the 32 bytes must differ for every vector (derive them from a secret, the job and the round); the same coins
over two updates correlate their rounding errors.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from learning.secagg.errors import ValueRangeError
from learning.secagg.masking import KeyStreamWords

_INFO = b"orchard/secagg/rounding/1"
_BLOCK = 1 << 14
_COIN_BITS = 32
_COIN = 2.0**-_COIN_BITS
_WORD = 4
# How math.frexp gives a power of two; and the largest one that a float32 holds.
_HALF, _LARGEST_FLOAT = 0.5, 2.0**127
_Rounder: TypeAlias = "Callable[[NDArray[np.floating], NDArray[np.signedinteger]], None]"


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

    A coin has 32 bits: a value is rounded up when its coin, as a fraction, is less than the value's.

    Raises:
        ValueRangeError: a value is NaN or infinite.
    """
    # One 64-bit word holds number and fraction while the number has 32 bits, and one addition then rounds it.
    round_block = _rounder(scale, coins) if bound * scale < 1 << 31 and out.itemsize == _WORD else _wide(scale, coins)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        # NaN fails both comparisons.
        if not (float(np.minimum.reduce(block)) >= -bound and float(np.maximum.reduce(block)) <= bound):
            if not np.isfinite(block).all():
                raise ValueRangeError("a value is NaN or infinite")
            # In double, and clipped before it is scaled: nothing overflows or loses its fraction.
            block = np.clip(block.astype(np.float64), -bound, bound)
        round_block(block, out[start : start + _BLOCK])


def _rounder(scale: float, coins: RoundingStream) -> _Rounder:
    """Return the function that rounds a block in fixed point: 32 bits of number, 32 of fraction."""
    narrow, double, fixed = np.empty(_BLOCK, dtype="<f4"), np.empty(_BLOCK), np.empty(_BLOCK, dtype="<i8")
    whole = scale * 2.0**_COIN_BITS
    # By a power of two no bit of a float32 is lost, so that it need not become a double first.
    exact = math.frexp(whole)[0] == _HALF and 1.0 <= whole <= _LARGEST_FLOAT

    def round_block(block: NDArray[np.floating], out: NDArray[np.signedinteger]) -> None:
        size = len(block)
        number = fixed[:size]
        scaled: NDArray[np.floating] = (narrow if exact and block.dtype == narrow.dtype else double)[:size]
        if scaled.dtype == block.dtype:
            np.multiply(block, scaled.dtype.type(whole), out=scaled)
        else:
            scaled[:] = block
            np.multiply(scaled, whole, out=scaled)
        # A coin is a whole number, and so is less than a fraction exactly when it is less than the next whole number.
        np.ceil(scaled, out=scaled)
        number[:] = scaled
        # coin < fraction exactly when fraction + (2^32 - 1 - coin) carries; the complement is as cheap to draw.
        np.add(number, coins.complements(size), out=number)
        out[:] = number.view("<i4")[1::2]

    return round_block


def _wide(scale: float, coins: RoundingStream) -> _Rounder:
    """Return the function that rounds a block of numbers of up to 52 bits."""

    def round_block(block: NDArray[np.floating], out: NDArray[np.signedinteger]) -> None:
        scaled = block.astype(np.float64) * scale
        floor = np.floor(scaled)
        out[:] = floor + (coins.words(len(block)) * _COIN < scaled - floor)

    return round_block


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
