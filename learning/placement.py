"""Who sits where: a commit-reveal beacon, and seats in the order it gives.

Every member commits to 32 random bytes, and opens them when all commitments are fixed. Nobody controls the hash of all
reveals if one member's bytes are random. A member that commits and does not reveal is left out, and everybody else
commits afresh in the next epoch: it can refuse one outcome that it has seen, never choose between two. Seats go to the
first members in hash order whose organisations differ, so that anyone can recompute the placement (after SEP2P, EDBT
2019).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from learning.secagg.errors import BeaconError, PlacementError
from learning.secagg.seeds import SUPPORTED
from policies.canonical import digest
from policies.signing import SignatureError, decode

REVEAL_BYTES = 32
# A collector that keeps dropping members to redraw the seats is stopped here.
LAST_EPOCH = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A member that could hold a seat."""

    participant: str
    organisation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """The seats of a star.

    Attributes:
        seats: participants in column order.
        threshold: seats that may collude without learning anything.
        warnings: sentences for the operator; empty when nothing is weak.
    """

    seats: tuple[str, ...]
    threshold: int
    warnings: tuple[str, ...] = ()


def commitment(*, job: str, epoch: int, participant: str, reveal: str) -> str:
    """Return the beacon commitment (hex) to ``reveal`` (32 bytes, base64url).

    Raises:
        BeaconError: the reveal is not 32 bytes.
    """
    try:
        size = len(decode(reveal))
    except SignatureError as error:
        raise BeaconError("the reveal is not base64url", sender=participant) from error
    if size != REVEAL_BYTES:
        raise BeaconError(f"the reveal has {size} bytes, not {REVEAL_BYTES}", sender=participant)
    return digest({"domain": "beacon-commitment", "job": job, "epoch": epoch, "by": participant, "reveal": reveal})


def beacon(*, job: str, epoch: int, commitments: Mapping[str, str], reveals: Mapping[str, str]) -> str:
    """Return the beacon (hex) of all members' reveals.

    Args:
        job: job id.
        epoch: 0, or the number of times that a member failed to reveal.
        commitments: participant -> commitment, fixed before the first reveal.
        reveals: participant -> reveal, of exactly the same participants.

    Raises:
        BeaconError: someone is missing, or a reveal does not open its commitment; or there were too many epochs.
    """
    if not 0 <= epoch <= LAST_EPOCH:
        raise BeaconError(f"the beacon was drawn {epoch + 1} times; after {LAST_EPOCH + 1} the job ends")
    for participant in sorted(set(commitments) ^ set(reveals)):
        raise BeaconError("committed or revealed, but not both", sender=participant)
    for participant, reveal in sorted(reveals.items()):
        expected = commitment(job=job, epoch=epoch, participant=participant, reveal=reveal)
        if commitments[participant] != expected:
            raise BeaconError("the reveal does not open the commitment", sender=participant)
    opened = [[participant, commitments[participant], reveals[participant]] for participant in sorted(reveals)]
    return digest({"domain": "beacon", "job": job, "epoch": epoch, "opened": opened})


def place_seats(
    beacon_value: str,
    candidates: Sequence[Candidate],
    *,
    collector_organisation: str,
    shape: tuple[int, int] | None = None,
) -> Placement:
    """Return the seats of a star: hash order of (beacon, participant), one per organisation.

    Args:
        beacon_value: the beacon, hex.
        candidates: the members.
        collector_organisation: never holds a seat, since the collector sees every share.
        shape: (m, t) asked for; None takes (3, 1), or (2, 1) with a warning where there are two organisations.

    Raises:
        PlacementError: too few organisations, or an (m, t) that is not supported.
    """
    organisations = {member.participant: organisation_name(member.organisation) for member in candidates}
    taken = {organisation_name(collector_organisation)}
    seats = []
    for participant in in_hash_order(beacon_value, sorted(organisations), "placement"):
        if (name := organisations[participant]) not in taken:
            taken.add(name)
            seats.append(participant)
    seats_wanted, threshold = shape or ((3, 1) if len(seats) > SUPPORTED[0][0] else SUPPORTED[0])
    if (seats_wanted, threshold) not in SUPPORTED:
        raise PlacementError(f"{seats_wanted} seats with threshold {threshold} are not supported")
    if len(seats) < seats_wanted:
        raise PlacementError(f"{seats_wanted} seats need as many organisations beside the collector's: {len(seats)}")
    warnings = shape_warnings(seats_wanted, threshold)
    return Placement(seats=tuple(seats[:seats_wanted]), threshold=threshold, warnings=warnings)


def shape_warnings(seats: int, threshold: int) -> tuple[str, ...]:
    """Return what an operator should know about a group of so many seats (empty: nothing is weak)."""
    if seats == SUPPORTED[0][0]:
        return ("two seats: the loss of either ends the round",)
    if seats - threshold == 1:
        return ("every seed has one holder: the loss of any seat ends the round",)
    return ()


def in_hash_order(beacon_value: str, names: Iterable[str], domain: str) -> list[str]:
    """Return ``names`` in the order of their hashes under the beacon; ``domain`` keeps two orders apart."""
    ranks = {name: digest({"domain": domain, "beacon": beacon_value, "participant": name}) for name in names}
    return sorted(ranks, key=lambda name: (ranks[name], name))


def organisation_name(name: str) -> str:
    """Return an organisation's name as it is compared: without regard to case and spacing."""
    return " ".join(name.split()).casefold()
