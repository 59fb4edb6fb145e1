"""Where a message belongs: the round, and the group of seats that sums it.

Every signature, box and mask of a round is bound to the digest of its :class:`RoundContext`; a message of another job,
plan, model, round, attempt or ring is therefore refused, and masks of mixed cohorts do not cancel.
"""

import dataclasses
import functools
import hashlib
from typing import Any, Literal

from learning.secagg.errors import ParameterError
from learning.secagg.packing import packed_size
from learning.secagg.seeds import SeedTable, quorum, threshold_table
from policies.canonical import digest

Aggregation = Literal["star", "tree", "clear"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundContext:
    """One attempt at one round in one group.

    Attributes:
        job: job id.
        manifest: digest (hex) of the job's manifest.
        plan: digest (hex) of the training plan.
        model: digest (hex) of the model that this round trains.
        round: round number, from 1.
        attempt: attempt number, from 1.
        group: name of the group of seats; a star has one.
        k: bits of the ring.
        d: values in the vector.
        aggregation: ``star``, ``tree`` or ``clear``, so that a clear vector is never taken for a masked one.
        replaced: (column, times) of the seats that were replaced before this round, ascending; part of what everything
            is bound to, so that no two seats of one column can be shown to different members in one round.
    """

    job: str
    manifest: str
    plan: str
    model: str
    round: int
    attempt: int
    k: int
    d: int
    group: str = "0"
    aggregation: Aggregation = "star"
    replaced: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        packed_size(self.d, self.k)
        if self.d < 1 or self.round < 0 or self.attempt < 0:
            raise ParameterError("rounds, attempts and sizes are not negative, and a vector is not empty")

    def document(self) -> dict[str, Any]:
        """Return the JSON value that headers carry; ``replaced`` is left out while nobody is."""
        value = {name: getattr(self, name) for name in _FIELDS if name != "replaced"}
        return value | {"replaced": [list(pair) for pair in self.replaced]} if self.replaced else value

    @functools.cached_property
    def digest_bytes(self) -> bytes:
        """What :attr:`digest` names, as 32 bytes."""
        return bytes.fromhex(self.digest)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form."""
        return digest(self.document())

    @property
    def vector_bytes(self) -> int:
        """Length of a packed vector of this round."""
        return packed_size(self.d, self.k)

    def mask_info(self, index: int) -> bytes:
        """Return the HKDF info of the mask of seed ``index``: domain, NUL, context digest, index as two bytes."""
        return b"orchard/secagg/mask/1\0" + self.digest_bytes + index.to_bytes(2, "big")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seat:
    """One aggregator: whose it is, and its keys (raw, base64url)."""

    participant: str
    organisation: str
    public_key: str
    sealing_key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """m seats of distinct organisations, of which ``threshold`` may collude.

    Attributes:
        seats: in column order, as they are now.
        threshold: t.
        n_min: a set of fewer contributors is never summed.
        n_max: a set of more could leave the ring.
        copies: seats that store each masked vector; m - t survives every loss that the seeds survive.
        inner: whether it sums the shares of other groups, instead of contributors.
        signers: the seats as they were when the round opened, where one was replaced since; only they sign the
            contributor set, so that a column never speaks with two voices about it.
        order: the contributors of a leaf whose members are fixed, in dealing order; carriers are then dealt in turn.
    """

    seats: tuple[Seat, ...]
    threshold: int
    n_min: int
    n_max: int
    copies: int
    inner: bool = False
    signers: tuple[Seat, ...] = ()
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        participants = {seat.participant for seat in self.seats}
        organisations = {seat.organisation for seat in self.seats}
        if not len(participants) == len(organisations) == len(self.seats):
            raise ParameterError("the seats of a group belong to distinct participants and organisations")
        if not (1 if self.inner else 2) <= self.n_min <= self.n_max:
            # The sum of one contributor is that contributor; the sum of one group is a sum.
            raise ParameterError("a group sums at least two contributors and at most n_max")
        if self.signers and len(self.signers) != len(self.seats):
            raise ParameterError("every column had one seat when the round opened")
        if not 1 <= self.copies <= len(self.seats):
            raise ParameterError("a masked vector is stored by at least one seat")
        _ = self.table

    @property
    def table(self) -> SeedTable:
        """Which seat holds which seed."""
        return threshold_table(len(self.seats), self.threshold)

    @property
    def quorum(self) -> int:
        """Signatures that make a set final."""
        return quorum(len(self.seats), self.threshold)

    def seat_of(self, participant: str) -> int | None:
        """Return the column of ``participant``, or None when it has no seat here."""
        for column, seat in enumerate(self.seats):
            if seat.participant == participant:
                return column
        return None

    @property
    def voices(self) -> tuple[Seat, ...]:
        """The seats that sign this round's set, in column order."""
        return self.signers or self.seats

    def voice_of(self, participant: str) -> int | None:
        """Return the column for which ``participant`` signs this round's set, or None."""
        for column, seat in enumerate(self.voices):
            if seat.participant == participant:
                return column
        return None

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.order)}

    def carriers(self, context: RoundContext, contributor: str) -> tuple[int, ...]:
        """Return the seats that store ``contributor``'s masked vector; the first that lives adds it."""
        start = self._places.get(contributor)
        if start is None:
            word = hashlib.sha256(f"{context.digest}|{contributor}".encode()).digest()[:8]
            start = int.from_bytes(word, "big")
        return self._turns[start % len(self.seats)]

    @functools.cached_property
    def _turns(self) -> tuple[tuple[int, ...], ...]:
        columns = range(len(self.seats))
        return tuple(tuple((first + step) % len(columns) for step in range(self.copies)) for first in columns)


_FIELDS = tuple(field.name for field in dataclasses.fields(RoundContext))
