"""The manifest of a job: who contributes, who sums, under which parameters; signed, and recomputable by anyone.

It holds the members' signed approvals with their beacon commitments and reveals, so that a member takes the inputs out
of it, computes everything else again and compares byte for byte, before it uploads anything.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from learning.placement import Candidate, Placement, beacon, place_seats
from learning.secagg.context import Aggregation, Group, RoundContext, Seat
from learning.secagg.errors import ManifestError, ParameterError
from learning.secagg.keys import check_public_key
from learning.secagg.layout import VectorLayout
from policies.canonical import CanonicalFormError, canonical_json
from policies.signing import SignatureError, Signer, document_digest, verify

KIND = "secagg-manifest"
APPROVAL_KIND = "learning-approval"
VERSION = 1
_APPROVAL_TEXTS = ("job", "plan_digest", "participant", "hpke_public", "beacon_commitment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What a verified membership credential says about a member."""

    participant: str
    organisation: str
    public_key: str


Identify = Callable[[Mapping[str, Any]], Identity]
"""From an approval's payload, whose ``membership`` it checks, to the member; raises when it does not verify."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What the collector chooses when it builds a manifest.

    Attributes:
        job: job id.
        plan: digest (hex) of the training plan.
        collector: the collector's participant id.
        collector_organisation: its organisation; holds no seat.
        layout: sections and ring of the shared vector.
        n_min: fewest contributors in a sum, at least 2.
        n_max: most contributors in a sum; the wrap guard holds for it.
        expires: aware UTC time after which nobody acts on the manifest.
        round_seconds: deadline of a round.
        aggregation: ``star`` or ``clear``.
        shape: (m, t) asked for; None lets placement choose.
        copies: seats that store each masked vector; None takes m - t, which survives what the seeds survive.
        epoch: beacon epoch.
    """

    job: str
    plan: str
    collector: str
    collector_organisation: str
    layout: VectorLayout
    n_min: int
    n_max: int
    expires: datetime
    round_seconds: int
    aggregation: Aggregation = "star"
    shape: tuple[int, int] | None = None
    copies: int | None = None
    epoch: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A member as the manifest fixes it; ``approval`` is the digest (hex) of its signed approval."""

    participant: str
    organisation: str
    public_key: str
    sealing_key: str
    approval: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that has been built or verified.

    Attributes:
        digest: SHA-256 (hex) of its payload.
        terms: the collector's terms.
        members: all members, sorted by participant.
        placement: the seats (empty in clear mode).
        group: the seats with their keys (None in clear mode).
        beacon: the beacon, hex.
    """

    digest: str
    terms: Terms
    members: tuple[Member, ...]
    placement: Placement
    group: Group | None
    beacon: str

    @property
    def keys(self) -> dict[str, str]:
        """Participant id -> Ed25519 public key of every member."""
        return {member.participant: member.public_key for member in self.members}

    def context(self, *, round: int, attempt: int, model: str) -> RoundContext:  # noqa: A002 - the protocol's word
        """Return the context of one attempt at one round that trains ``model`` (digest, hex)."""
        terms = self.terms
        return RoundContext(
            job=terms.job,
            manifest=self.digest,
            plan=terms.plan,
            model=model,
            round=round,
            attempt=attempt,
            k=terms.layout.k,
            d=terms.layout.d,
            aggregation=terms.aggregation,
        )


def build_manifest(
    terms: Terms,
    approvals: Sequence[Mapping[str, Any]],
    reveals: Mapping[str, str],
    *,
    identify: Identify,
    signer: Signer,
) -> tuple[dict[str, Any], Manifest]:
    """Return the signed manifest and its value.

    Args:
        terms: the collector's choices.
        approvals: the members' signed approvals.
        reveals: participant -> beacon reveal (32 bytes, base64url).
        identify: checks an approval's membership.
        signer: the collector's key; its kid is ``terms.collector``.

    Raises:
        ManifestError: an approval does not verify or is for another job or plan; a floor that cannot be met.
        BeaconError: a reveal is missing or does not open its commitment.
        PlacementError: the seats cannot be placed.
        WrapGuardError: n_max contributions could leave the ring.
    """
    if signer.kid != terms.collector:
        raise ManifestError("a manifest is signed by its collector")
    payload, members, placement = _compute(terms, approvals, reveals, identify)
    document = signer.sign(KIND, payload)
    return document, _value(terms, document_digest(document), payload["beacon"], members, placement)


def verify_manifest(document: Mapping[str, Any], *, collector: Identity, identify: Identify, now: datetime) -> Manifest:
    """Return the manifest once it is signed by ``collector``, in force, and recomputes byte for byte.

    A member then checks that ``manifest.members`` holds the digest of its own approval, and acts on no second manifest
    of the same job.

    Raises:
        ManifestError: unsigned, malformed, expired, or not what its inputs give.
        BeaconError: a reveal does not open its commitment.
        PlacementError: the seats cannot be placed.
        WrapGuardError: the layout could wrap.
    """
    try:
        payload = verify(KIND, document, collector.public_key)
        terms, approvals, reveals = _inputs(payload)
        digest = document_digest(document)
    except (SignatureError, CanonicalFormError, ParameterError, LookupError, TypeError, ValueError) as error:
        raise ManifestError("the manifest is malformed or not signed", sender=collector.participant) from error
    if (terms.collector, terms.collector_organisation) != (collector.participant, collector.organisation):
        raise ManifestError("the manifest names another collector", sender=collector.participant)
    if now >= terms.expires:
        raise ManifestError("the manifest has expired", sender=collector.participant)
    expected, members, placement = _compute(terms, approvals, reveals, identify)
    if canonical_json(expected) != canonical_json(payload):
        raise ManifestError("the manifest is not what its inputs give", sender=collector.participant)
    return _value(terms, digest, expected["beacon"], members, placement)


def _compute(
    terms: Terms, approvals: Sequence[Mapping[str, Any]], reveals: Mapping[str, str], identify: Identify
) -> tuple[dict[str, Any], tuple[Member, ...], Placement]:
    members = tuple(sorted((_member(doc, terms, identify) for doc in approvals), key=lambda item: item.participant))
    if len({member.participant for member in members}) != len(members):
        raise ManifestError("a member approved twice")
    if not 2 <= terms.n_min <= terms.n_max:  # noqa: PLR2004 - the sum of one is that one
        raise ManifestError("the floor is at least two contributors and at most n_max")
    if not (terms.copies is None or (type(terms.copies) is int and terms.copies >= 1)):
        raise ManifestError("a masked vector is stored by at least one seat")
    terms.layout.check(terms.n_max)
    documents = {doc["payload"]["participant"]: doc for doc in approvals}
    commitments = {name: doc["payload"]["beacon_commitment"] for name, doc in documents.items()}
    value = beacon(job=terms.job, epoch=terms.epoch, commitments=commitments, reveals=reveals)
    placement = _place(terms, members, value)
    payload = {
        "version": VERSION,
        "terms": _terms_json(terms),
        "members": [
            {
                "approval": documents[member.participant],
                "reveal": reveals[member.participant],
                "organisation": member.organisation,
                "public_key": member.public_key,
            }
            for member in members
        ],
        "beacon": value,
        "seats": list(placement.seats),
        "threshold": placement.threshold,
    }
    return payload, members, placement


def _place(terms: Terms, members: Sequence[Member], value: str) -> Placement:
    if terms.aggregation == "clear":
        return Placement(seats=(), threshold=0, warnings=("clear aggregation: the collector sees each contribution",))
    candidates = [Candidate(participant=item.participant, organisation=item.organisation) for item in members]
    return place_seats(value, candidates, collector_organisation=terms.collector_organisation, shape=terms.shape)


def _member(document: Mapping[str, Any], terms: Terms, identify: Identify) -> Member:
    payload = document.get("payload")
    if not isinstance(payload, Mapping) or not all(isinstance(payload.get(name), str) for name in _APPROVAL_TEXTS):
        raise ManifestError("an approval is malformed")
    sender = payload["participant"]
    identity = identify(payload)
    try:
        verify(APPROVAL_KIND, document, identity.public_key)
    except (SignatureError, CanonicalFormError) as error:
        raise ManifestError("the approval is not signed by its member", sender=sender) from error
    if identity.participant != sender or (payload["job"], payload["plan_digest"]) != (terms.job, terms.plan):
        raise ManifestError("the approval is for another member, job or plan", sender=sender)
    try:
        check_public_key(payload["hpke_public"])
    except ParameterError as error:
        raise ManifestError("the approval holds no sealing key", sender=sender) from error
    return Member(
        participant=sender,
        organisation=identity.organisation,
        public_key=identity.public_key,
        sealing_key=payload["hpke_public"],
        approval=document_digest(document),
    )


def _value(terms: Terms, digest: str, value: str, members: tuple[Member, ...], placement: Placement) -> Manifest:
    group = None
    if placement.seats:
        by_id = {member.participant: member for member in members}
        seats = tuple(
            Seat(
                participant=name,
                organisation=by_id[name].organisation,
                public_key=by_id[name].public_key,
                sealing_key=by_id[name].sealing_key,
            )
            for name in placement.seats
        )
        copies = min(terms.copies or len(seats) - placement.threshold, len(seats))
        group = Group(seats=seats, threshold=placement.threshold, n_min=terms.n_min, n_max=terms.n_max, copies=copies)
    return Manifest(digest=digest, terms=terms, members=members, placement=placement, group=group, beacon=value)


def _terms_json(terms: Terms) -> dict[str, Any]:
    value = {field.name: getattr(terms, field.name) for field in dataclasses.fields(terms)}
    shape = None if terms.shape is None else list(terms.shape)
    return value | {"layout": terms.layout.to_json(), "expires": terms.expires.isoformat(), "shape": shape}


def _inputs(payload: Mapping[str, Any]) -> tuple[Terms, list[Mapping[str, Any]], dict[str, str]]:
    if type(payload["version"]) is not int or payload["version"] != VERSION:
        raise ParameterError("this version of the manifest is not known")
    value = dict(payload["terms"])
    shape = value["shape"]
    value["shape"] = None if shape is None else (int(shape[0]), int(shape[1]))
    value["layout"] = VectorLayout.from_json(value["layout"])
    value["expires"] = datetime.fromisoformat(value["expires"])
    if value["expires"].tzinfo is None or value["aggregation"] not in ("star", "clear"):
        raise ParameterError("the manifest's terms are malformed")
    for name in ("n_min", "n_max", "round_seconds", "epoch"):
        if type(value[name]) is not int:
            raise ParameterError(f"{name} is a whole number")
    approvals = [member["approval"] for member in payload["members"]]
    reveals = {member["approval"]["payload"]["participant"]: member["reveal"] for member in payload["members"]}
    return Terms(**value), approvals, reveals
