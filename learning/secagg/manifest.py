"""The manifest of a job: who contributes, who sums, under which parameters; signed, and recomputable by anyone.

It holds the members' signed approvals with their beacon commitments and reveals, so that a member takes the inputs out
of it, computes everything else again and compares byte for byte, before it uploads anything.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from learning.placement import Candidate, Placement, beacon, place_seats, shape_warnings
from learning.secagg.context import Aggregation, Group, RoundContext, Seat
from learning.secagg.errors import ManifestError, ParameterError, PlacementError, UnknownContributorError
from learning.secagg.keys import LAST_EPOCHS, check_public_key, epoch_of
from learning.secagg.layout import VectorLayout
from learning.secagg.seeds import SUPPORTED
from learning.tree import TOP, ExecutionTree, Granularity, deal_leaves, hashed_leaf, place_columns
from policies.canonical import CanonicalFormError, canonical_json
from policies.signing import SignatureError, Signer, document_digest, verify

KIND = "secagg-manifest"
APPROVAL_KIND = "learning-approval"
VERSION = 1
_APPROVAL_TEXTS = ("job", "plan_digest", "participant", "beacon_commitment")
_NOBODY: Mapping[int, int] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What a verified membership credential says about a member."""

    participant: str
    organisation: str
    public_key: str


Identify = Callable[[Mapping[str, Any]], Identity]
"""From an approval's payload, whose ``membership`` it checks, to the member; raises when it does not verify."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """The form of an execution tree, as `learning.shape` chose it: leaf groups, and children per inner group."""

    leaves: int
    fan_out: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What the collector chooses when it builds a manifest.

    Attributes:
        job: job id.
        plan: digest (hex) of the training plan.
        collector: the collector's participant id.
        collector_organisation: its organisation; holds no seat.
        layout: sections and ring of the shared vector.
        n_min: fewest contributors in a sum, at least 2; in a tree, in a leaf group's sum.
        n_max: most contributors in a sum; the wrap guard holds for it.
        expires: aware UTC time after which nobody acts on the manifest.
        round_seconds: deadline of a round.
        aggregation: ``star``, ``tree`` or ``clear``.
        shape: (m, t) asked for; None lets placement choose.
        copies: seats that store each masked vector; None takes m - t, which survives what the seeds survive.
        epoch: beacon epoch.
        rounds: rounds of the job, over which the members' sealing keys are spread.
        granularity: ``provider``: a member is one contributor; ``learner``: it hosts many, named ``<member>#<part>``.
        topology: the form of the tree (None unless the aggregation is ``tree``).
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
    rounds: int = 1
    granularity: Granularity = "provider"
    topology: Topology | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A member as the manifest fixes it.

    Attributes:
        participant: its id.
        organisation: whose it is.
        public_key: Ed25519, base64url.
        sealing_keys: its public sealing keys, one per epoch.
        approval: digest (hex) of its signed approval.
    """

    participant: str
    organisation: str
    public_key: str
    sealing_keys: tuple[str, ...]
    approval: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that has been built or verified.

    Attributes:
        digest: SHA-256 (hex) of its payload.
        terms: the collector's terms.
        members: all members, sorted by participant.
        placement: the seats of the top group (empty in clear mode).
        tree: the groups and columns (None in clear mode).
        group: the top group with its keys of round 1 (None in clear mode).
        beacon: the beacon, hex.
    """

    digest: str
    terms: Terms
    members: tuple[Member, ...]
    placement: Placement
    tree: ExecutionTree | None
    group: Group | None
    beacon: str

    @property
    def keys(self) -> dict[str, str]:
        """Participant id -> Ed25519 public key of every member."""
        return {member.participant: member.public_key for member in self.members}

    @functools.cached_property
    def _members(self) -> dict[str, Member]:
        return {member.participant: member for member in self.members}

    @functools.cached_property
    def _leaves(self) -> dict[str, str]:
        names = [member.participant for member in self.members]
        return deal_leaves(self.beacon, names, self._tree().leaves)

    def _tree(self) -> ExecutionTree:
        if self.tree is None:
            raise ParameterError("in clear mode there are no groups")
        return self.tree

    def leaf_of(self, contributor: str) -> str:
        """Return the leaf group to which the contributor uploads.

        Raises:
            UnknownContributorError: no contributor of this job.
        """
        participant, mark, part = contributor.partition("#")
        hosted = self.terms.granularity == "learner"
        if participant not in self._members or hosted is not bool(mark) or hosted is not bool(part):
            raise UnknownContributorError("is not a contributor of this job", sender=contributor)
        if hosted:
            return hashed_leaf(self.beacon, contributor, self._tree().leaves)
        return self._leaves[participant]

    def leaf_members(self, name: str) -> tuple[str, ...]:
        """Return the contributors dealt to a leaf, in dealing order; none at learner granularity, where all are hashed."""
        if self.terms.granularity == "learner":
            return ()
        return tuple(member for member, leaf in self._leaves.items() if leaf == name)

    def group_of(
        self,
        name: str,
        *,
        round: int = 1,  # noqa: A002 - the protocol's word
        replaced: Mapping[int, int] = _NOBODY,
        now: Mapping[int, int] | None = None,
    ) -> Group:
        """Return a group as it is in a round.

        Args:
            name: the group.
            round: the round, which decides the sealing keys.
            replaced: column -> times its seat was replaced before the round opened.
            now: the same as of now, where a seat was replaced since the round opened.

        Raises:
            PlacementError: no such group, or a ring that has nobody left.
        """
        tree, terms = self._tree(), self.terms
        opened = self._seats(tree.seats(name, replaced), round)
        present = opened if now is None else self._seats(tree.seats(name, now), round)
        threshold = self.placement.threshold
        if tree.is_leaf(name):
            wanted = terms.copies or len(opened) - threshold
            return Group(
                seats=present,
                threshold=threshold,
                n_min=terms.n_min,
                n_max=terms.n_max,
                copies=min(wanted, len(opened)),
                signers=() if present == opened else opened,
                order=self.leaf_members(name) if terms.aggregation == "tree" else (),
            )
        children = len(tree.children(name))
        return Group(seats=present, threshold=threshold, n_min=1, n_max=children, copies=1, inner=True)

    def _seats(self, participants: Sequence[str], round_number: int) -> tuple[Seat, ...]:
        found = []
        for member in (self._members[name] for name in participants):
            keys = member.sealing_keys
            key = keys[epoch_of(round_number, self.terms.rounds, len(keys))]
            found.append(
                Seat(
                    participant=member.participant,
                    organisation=member.organisation,
                    public_key=member.public_key,
                    sealing_key=key,
                )
            )
        return tuple(found)

    def context(
        self,
        *,
        round: int,  # noqa: A002 - the protocol's word
        attempt: int,
        model: str,
        group: str = TOP,
        replaced: Mapping[int, int] = _NOBODY,
    ) -> RoundContext:
        """Return the context of one attempt at one round that trains ``model`` (digest, hex) in one group.

        ``replaced`` says how often the seat of which column was replaced before the round opened; it stays the same in
        all attempts at the round.
        """
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
            group=group,
            aggregation=terms.aggregation,
            replaced=tuple(sorted(replaced.items())),
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
    payload, members, placement, tree = _compute(terms, approvals, reveals, identify)
    document = signer.sign(KIND, payload)
    return document, _value(terms, document_digest(document), payload["beacon"], members, placement, tree)


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
    expected, members, placement, tree = _compute(terms, approvals, reveals, identify)
    if canonical_json(expected) != canonical_json(payload):
        raise ManifestError("the manifest is not what its inputs give", sender=collector.participant)
    return _value(terms, digest, expected["beacon"], members, placement, tree)


def _compute(
    terms: Terms, approvals: Sequence[Mapping[str, Any]], reveals: Mapping[str, str], identify: Identify
) -> tuple[dict[str, Any], tuple[Member, ...], Placement, ExecutionTree | None]:
    members = tuple(sorted((_member(doc, terms, identify) for doc in approvals), key=lambda item: item.participant))
    if len({member.participant for member in members}) != len(members):
        raise ManifestError("a member approved twice")
    keys = [key for member in members for key in member.sealing_keys]
    if len(set(keys)) != len(keys):
        raise ManifestError("a sealing key is used for two epochs or by two members")
    if not 2 <= terms.n_min <= terms.n_max:  # noqa: PLR2004 - the sum of one is that one
        raise ManifestError("the floor is at least two contributors and at most n_max")
    if not (terms.copies is None or (type(terms.copies) is int and terms.copies >= 1)):
        raise ManifestError("a masked vector is stored by at least one seat")
    terms.layout.check(terms.n_max)
    documents = {doc["payload"]["participant"]: doc for doc in approvals}
    commitments = {name: doc["payload"]["beacon_commitment"] for name, doc in documents.items()}
    value = beacon(job=terms.job, epoch=terms.epoch, commitments=commitments, reveals=reveals)
    placement, tree = _place(terms, members, value)
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
    if tree is not None and terms.topology is not None:
        payload["tree"] = tree.to_json()
    return payload, members, placement, tree


def _place(terms: Terms, members: Sequence[Member], value: str) -> tuple[Placement, ExecutionTree | None]:
    if (terms.aggregation == "tree") is not (terms.topology is not None):
        raise ManifestError("a tree, and only a tree, has a topology")
    if terms.aggregation == "clear":
        warning = "clear aggregation: the collector sees each contribution"
        return Placement(seats=(), threshold=0, warnings=(warning,)), None
    candidates = [Candidate(participant=item.participant, organisation=item.organisation) for item in members]
    owner = terms.collector_organisation
    if terms.topology is None:
        placement = place_seats(value, candidates, collector_organisation=owner, shape=terms.shape)
        return placement, ExecutionTree.star(placement.seats)
    if terms.shape not in SUPPORTED or terms.shape is None:
        raise PlacementError("a tree's groups have a supported number of seats and a threshold")
    seats, threshold = terms.shape
    columns = place_columns(value, candidates, seats=seats, collector_organisation=owner)
    form = terms.topology
    if terms.granularity == "provider" and form.leaves * terms.n_min > len(members):
        raise PlacementError(f"{len(members)} members do not fill {form.leaves} leaf groups of {terms.n_min}")
    tree = ExecutionTree.grow(form.leaves, form.fan_out, columns)
    warnings = shape_warnings(seats, threshold)
    return Placement(seats=tree.seats(TOP), threshold=threshold, warnings=warnings), tree


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
    keys = payload.get("hpke_public")
    if not isinstance(keys, list) or not 1 <= len(keys) <= LAST_EPOCHS or not all(isinstance(key, str) for key in keys):
        raise ManifestError("an approval lists one sealing key per epoch", sender=sender)
    try:
        for key in keys:
            check_public_key(key)
    except ParameterError as error:
        raise ManifestError("the approval holds no sealing key", sender=sender) from error
    return Member(
        participant=sender,
        organisation=identity.organisation,
        public_key=identity.public_key,
        sealing_keys=tuple(keys),
        approval=document_digest(document),
    )


def _value(
    terms: Terms,
    digest: str,
    value: str,
    members: tuple[Member, ...],
    placement: Placement,
    tree: ExecutionTree | None,
) -> Manifest:
    found = Manifest(
        digest=digest, terms=terms, members=members, placement=placement, tree=tree, group=None, beacon=value
    )
    return found if tree is None else dataclasses.replace(found, group=found.group_of(TOP))


def _terms_json(terms: Terms) -> dict[str, Any]:
    value = {field.name: getattr(terms, field.name) for field in dataclasses.fields(terms)}
    shape = None if terms.shape is None else list(terms.shape)
    topology = None if terms.topology is None else dataclasses.asdict(terms.topology)
    return value | {
        "layout": terms.layout.to_json(),
        "expires": terms.expires.isoformat(),
        "shape": shape,
        "topology": topology,
    }


def _inputs(payload: Mapping[str, Any]) -> tuple[Terms, list[Mapping[str, Any]], dict[str, str]]:
    if type(payload["version"]) is not int or payload["version"] != VERSION:
        raise ParameterError("this version of the manifest is not known")
    value = dict(payload["terms"])
    shape = value["shape"]
    value["shape"] = None if shape is None else (int(shape[0]), int(shape[1]))
    form = value["topology"]
    value["topology"] = (
        None if form is None else Topology(leaves=_whole(form["leaves"]), fan_out=_whole(form["fan_out"]))
    )
    value["layout"] = VectorLayout.from_json(value["layout"])
    value["expires"] = datetime.fromisoformat(value["expires"])
    if value["expires"].tzinfo is None or value["aggregation"] not in ("star", "tree", "clear"):
        raise ParameterError("the manifest's terms are malformed")
    if value["granularity"] not in ("provider", "learner"):
        raise ParameterError("the manifest's terms are malformed")
    for name in ("n_min", "n_max", "round_seconds", "epoch", "rounds"):
        _whole(value[name])
    approvals = [member["approval"] for member in payload["members"]]
    reveals = {member["approval"]["payload"]["participant"]: member["reveal"] for member in payload["members"]}
    return Terms(**value), approvals, reveals


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ParameterError("a number in the manifest's terms is not whole")
    return value
