"""What a shared vector is made of: named sections, each with its bound and scale, in a ring of k bits.

Weights, counts and metric histograms travel in one vector. The layout turns them into integers (``encode``), guards
the sum against wrapping round (``check``) and turns the sum back (``decode``).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.secagg.errors import ParameterError, SumRangeError, ValueRangeError, WrapGuardError
from learning.secagg.packing import RingVector, reduce, ring_dtype
from learning.secagg.quantize import RoundingStream, exact_integers, round_stochastic
from policies.canonical import digest

# Above this a float64 no longer has the fraction that stochastic rounding needs.
_LARGEST = 2.0**52


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One named part of the vector.

    Attributes:
        name: unique in the layout.
        size: number of values.
        bound: real values are clipped to +-bound before scaling; exact values beyond it are refused.
        scale_bits: real values are multiplied by 2**scale_bits and rounded stochastically; None: whole numbers, exact.
    """

    name: str
    size: int
    bound: float
    scale_bits: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or not self.name:
            raise ParameterError("a section has a name and at least one value")
        if not (math.isfinite(self.bound) and self.bound > 0) or self.bound * self.scale > _LARGEST:
            raise ParameterError(f"section {self.name}: the bound is positive, finite and below 2^52 after scaling")

    @property
    def scale(self) -> float:
        """The factor between values and integers."""
        return 1.0 if self.scale_bits is None else 2.0**self.scale_bits

    @property
    def largest(self) -> int:
        """The largest magnitude that one contribution can have after rounding."""
        return math.ceil(self.bound * self.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorLayout:
    """The sections of a vector in Z_2^k, in order.

    Raises:
        ParameterError: no sections, a name twice, or a ring that does not exist.
        WrapGuardError: a single contribution does not fit the ring.
    """

    sections: tuple[Section, ...]
    k: int = 32

    def __post_init__(self) -> None:
        ring_dtype(self.k)
        names = [section.name for section in self.sections]
        if not names or len(set(names)) != len(names):
            raise ParameterError("a layout has sections, each name once")
        self.check(1)

    @property
    def d(self) -> int:
        """The number of values in the whole vector."""
        return sum(section.size for section in self.sections)

    def check(self, n_max: int) -> None:
        """Refuse what could overflow: n_max contributions must stay inside +-2^(k-1), in every section.

        Raises:
            WrapGuardError: naming the first section that could wrap.
        """
        for section in self.sections:
            if n_max * section.largest >= 1 << (self.k - 1):
                raise WrapGuardError(
                    f"section {section.name}: {n_max} contributions of up to {section.largest} leave {self.k} bits"
                )

    def encode(self, values: Mapping[str, ArrayLike], rounding: RoundingStream) -> RingVector:
        """Return ``values`` (section name -> array of that section's size) as one ring vector, shape (d,).

        Raises:
            ValueRangeError: a section is missing, unknown or of another size; a value is NaN, infinite, not whole
                in an exact section, or beyond an exact section's bound.
        """
        if set(values) != {section.name for section in self.sections}:
            raise ValueRangeError("the values are not those of the layout's sections")
        word = ring_dtype(self.k)
        vector = np.empty(self.d, dtype=word)
        signed = vector.view(f"<i{word.itemsize}")
        start = 0
        for section in self.sections:
            array = np.asarray(values[section.name])
            if array.size != section.size or array.dtype.kind not in "fiu":
                raise ValueRangeError(f"section {section.name} takes {section.size} numbers, not {array.size}")
            target = signed[start : start + section.size]
            if section.scale_bits is None:
                exact_integers(array.reshape(-1), section.bound, target)
            else:
                round_stochastic(array.reshape(-1), section.scale, section.bound, rounding, target)
            start += section.size
        return reduce(vector, self.k)

    def decode(self, total: RingVector, n: int) -> dict[str, NDArray[np.float64]]:
        """Return the sections of the sum of ``n`` contributions as float64 arrays (sums, not means).

        Raises:
            WrapGuardError: n contributions could have wrapped.
            SumRangeError: a value is beyond what n honest contributions can reach.
        """
        self.check(n)
        if total.dtype != ring_dtype(self.k) or total.shape != (self.d,):
            raise ParameterError("the sum does not have the layout's shape and ring")
        signed = _signed(total, self.k)
        out: dict[str, NDArray[np.float64]] = {}
        start = 0
        for section in self.sections:
            part = signed[start : start + section.size]
            if int(part.max()) > n * section.largest or int(part.min()) < -n * section.largest:
                raise SumRangeError(f"section {section.name} holds more than {n} contributions can")
            out[section.name] = part.astype(np.float64) / section.scale
            start += section.size
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the layout as the JSON value that plans and manifests carry."""
        return {"k": self.k, "sections": [dataclasses.asdict(section) for section in self.sections]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ParameterError: the value is not a layout.
        """
        try:
            sections = tuple(_section(item) for item in value["sections"])
            k = value["k"]
        except (KeyError, TypeError) as error:
            raise ParameterError("the layout is malformed") from error
        if set(value) != {"k", "sections"} or type(k) is not int:
            raise ParameterError("the layout is malformed")
        return cls(sections=sections, k=k)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the layout's canonical form."""
        return digest(self.to_json())


def best_scale(bound: float, n_max: int, k: int = 32) -> int:
    """Return the largest scale_bits for which n_max contributions of +-bound stay inside k bits.

    Raises:
        WrapGuardError: not even a scale of 2^-16 fits.
    """
    for bits in range(min(k, 52) + 16, -17, -1):
        largest = math.ceil(bound * 2.0**bits)
        if largest <= _LARGEST and n_max * largest < 1 << (k - 1):
            return bits
    raise WrapGuardError(f"{n_max} contributions of +-{bound:g} do not fit {k} bits at any scale")


def _section(item: Mapping[str, Any]) -> Section:
    size, bits = item["size"], item["scale_bits"]
    if type(size) is not int or not (bits is None or type(bits) is int) or type(item["name"]) is not str:
        raise TypeError
    if set(item) != {"name", "size", "bound", "scale_bits"} or type(item["bound"]) not in (int, float):
        raise TypeError
    return Section(name=item["name"], size=size, bound=float(item["bound"]), scale_bits=bits)


def _signed(total: RingVector, k: int) -> NDArray[np.signedinteger]:
    width = total.dtype.itemsize
    if k == width * 8:
        signed: NDArray[np.signedinteger] = total.view(f"<i{width}")
        return signed
    half = np.int64(1 << (k - 1))
    return ((total.astype(np.int64) + half) & np.int64((1 << k) - 1)) - half
