"""Counts that may be shown: bands, and below the floor nothing but that it is below."""

import dataclasses

DEFAULT_FLOOR = 10
_STEPS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
    """A range that a count lies in.

    Attributes:
        lower: the smallest count of the band; None when it is suppressed.
        upper: the largest count; None for the last band and when suppressed.
        floor: below this number nothing is said.
    """

    lower: int | None
    upper: int | None
    floor: int

    @property
    def suppressed(self) -> bool:
        """Whether the count is too small to say anything."""
        return self.lower is None

    def __str__(self) -> str:
        """Say it as on a page: ``fewer than 10``, ``20 to 49``, ``100000 or more``."""
        if self.lower is None:
            return f"fewer than {self.floor}"
        return f"{self.lower} or more" if self.upper is None else f"{self.lower} to {self.upper}"


def band(count: int, floor: int = DEFAULT_FLOOR) -> Band:
    """Return the band of a count; floors below the default count as the default."""
    limit = max(floor, DEFAULT_FLOOR)
    if count < limit:
        return Band(lower=None, upper=None, floor=limit)
    edges = sorted({limit, *(step for step in _STEPS if step > limit)})
    lower = max(edge for edge in edges if edge <= count)
    above = [edge for edge in edges if edge > count]
    return Band(lower=lower, upper=above[0] - 1 if above else None, floor=limit)
