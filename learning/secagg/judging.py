"""What a sketch challenge finds about one share: right, wrong and proven, or a word against a word."""

import base64
import dataclasses
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import EvidenceError
from learning.secagg.evidence import make_evidence
from learning.secagg.packing import Bytes, unpack
from learning.secagg.shares import check_share_bytes
from learning.secagg.sketch import Answer, expected_sketch, joint_coin, parts_of, read_answer, sketch


class Finding(StrEnum):
    """What is known of a share now."""

    RIGHT = "RIGHT"
    WRONG = "WRONG"
    UNPROVEN = "UNPROVEN"
    OPEN = "OPEN"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Challenge:
    """What decides the coin: the digests of the signed headers of all shares of a group, and a nonce drawn after them.

    Attributes:
        shares: hex, ascending.
        nonce: 32 bytes, hex.
    """

    shares: tuple[str, ...]
    nonce: str

    def coin(self, context: RoundContext, beacon: str) -> bytes:
        """Return the joint coin of an attempt in the group whose shares these are."""
        return joint_coin(context, self.shares, beacon=beacon, nonce=self.nonce)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """A finding, one sentence about it, and the file that convicts where it is WRONG."""

    finding: Finding
    reason: str = ""
    evidence: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Court:
    """What is common to the shares of one group.

    Attributes:
        manifest: the job's signed manifest.
        collector_key: Ed25519, base64url.
        beacon: of the job, hex.
        keys: participant -> Ed25519 public key, base64url.
        context: the attempt in the group.
        group: its seats.
        challenge: what its seats answered to.
    """

    manifest: Mapping[str, Any]
    collector_key: str
    beacon: str
    keys: Mapping[str, str]
    context: RoundContext
    group: Group
    challenge: Challenge


def judge(
    column: int, document: Mapping[str, Any], vector: Bytes, answers: Iterable[Mapping[str, Any]], court: Court
) -> Judgement:
    """Say whether a seat's first share (no seat lost) is the sum of its parts, by what the other seats signed.

    Args:
        column: whose share.
        document: its signed header, which has been verified.
        vector: its packed bytes.
        answers: signed sketches of parts; those that are malformed, of another coin or of a stranger do not count.
        court: the rest.

    Raises:
        ShareError: the bytes are not those of the header.
    """
    context, group = court.context, court.group
    accused = group.seats[column].participant
    check_share_bytes(vector, str(document["payload"]["vector"]), context=context, sender=accused)
    coin, uploads = court.challenge.coin(context, court.beacon), str(document["payload"]["uploads"])
    read = _readable(answers, court, coin, uploads)
    missing = set(parts_of(column, group)) - {answer.part for answer in read if answer.seat != accused}
    if missing:
        return Judgement(finding=Finding.OPEN, reason=f"no other seat has answered for {', '.join(sorted(missing))}")
    try:
        wanted, _ = expected_sketch(column, read, group=group, context=context)
    except EvidenceError as error:
        return Judgement(finding=Finding.UNPROVEN, reason=str(error))
    if np.array_equal(sketch(unpack(vector, context.d, context.k), coin, context.k), wanted):
        return Judgement(finding=Finding.RIGHT)
    proof = {
        "share": dict(document),
        "vector": base64.b64encode(vector).decode(),
        "context": context.document(),
        "shares": list(court.challenge.shares),
        "nonce": court.challenge.nonce,
        "answers": [answer.document for answer in read if answer.part in parts_of(column, group)],
    }
    try:
        found = make_evidence("wrong-share", manifest=court.manifest, collector_key=court.collector_key, proof=proof)
    except EvidenceError as error:
        reason = f"the share of {accused} is not what the other seats say it must be, but {error}"
        return Judgement(finding=Finding.UNPROVEN, reason=reason)
    return Judgement(finding=Finding.WRONG, reason=f"{accused} released a wrong share", evidence=found)


def _readable(answers: Iterable[Mapping[str, Any]], court: Court, coin: bytes, uploads: str) -> list[Answer]:
    seats = {seat.participant for seat in court.group.seats}
    keys = {name: key for name, key in court.keys.items() if name in seats}
    found: dict[tuple[str, str], Answer] = {}
    for document in answers:
        try:
            answer = read_answer(document, context=court.context, uploads=uploads, coin=coin, keys=keys)
        except EvidenceError:
            continue
        # One word a seat and part: a second one would only raise the number of witnesses.
        found.setdefault((answer.seat, answer.part), answer)
    return list(found.values())
