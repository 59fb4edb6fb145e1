"""Proof that somebody cheated, which anyone can check from the file alone.

A document names what was done, carries the job's manifest and the signed documents that contradict each other, and
nothing that its reader has to fetch or believe: a member's key is the one with which it signed its own approval in that
manifest, the collector's the one that signed the manifest. Whose organisation a key belongs to is said by the membership
credentials inside the approvals, which the data space's authority signed.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from learning.secagg.context import Group, RoundContext, Seat
from learning.secagg.errors import EvidenceError, ParameterError, SecureAggregationError
from learning.secagg.exchange import open_with_exchange
from learning.secagg.header import KIND as UPLOAD_KIND
from learning.secagg.header import seed_commitment
from learning.secagg.inner import KIND as INNER_KIND
from learning.secagg.keys import box_info, epoch_of
from learning.secagg.manifest import APPROVAL_KIND
from learning.secagg.manifest import KIND as MANIFEST_KIND
from learning.secagg.masking import SEED_BYTES
from learning.secagg.packing import unpack, vector_digest
from learning.secagg.seeds import threshold_table
from learning.secagg.sets import KIND as SET_KIND
from learning.secagg.shares import KIND as SHARE_KIND
from learning.secagg.sketch import expected_sketch, joint_coin, read_answer, sketch
from policies.canonical import CanonicalFormError, digest
from policies.signing import SignatureError, decode, document_digest, verify

OPENING_KIND = "round-opening"
FORM = "orchard-evidence/1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a document proves.

    Attributes:
        kind: what was done.
        culprit: the participant (or contributor) that did it.
        job: in which job.
        text: one sentence.
    """

    kind: str
    culprit: str
    job: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Case:
    """The file, with the keys that its manifest fixes."""

    proof: Mapping[str, Any]
    payload: Mapping[str, Any]
    manifest: str
    collector: str
    keys: Mapping[str, str]

    def signed(self, kind: str, name: str, place: int | None = None) -> tuple[dict[str, Any], str]:
        """Return a document's payload and its signer, once a member or the collector has signed it."""
        value = self.proof.get(name)
        if place is not None:
            value = value[place] if isinstance(value, list) and place < len(value) else None
        document = value if isinstance(value, Mapping) else {}
        signature = document.get("signature")
        kid = signature.get("kid") if isinstance(signature, Mapping) else None
        if not isinstance(kid, str) or kid not in self.keys:
            raise EvidenceError(f"{name} is not signed by anybody in the manifest")
        try:
            return verify(kind, document, self.keys[kid]), kid
        except (SignatureError, CanonicalFormError) as error:
            raise EvidenceError(f"{name}: the signature does not verify", sender=kid) from error

    def pair(self, kind: str) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return the payloads of two documents of one signer."""
        (first, who), (second, other) = self.signed(kind, "documents", 0), self.signed(kind, "documents", 1)
        if who != other:
            raise EvidenceError("the two documents have two signers")
        return first, second, who


def make_evidence(
    kind: str, *, manifest: Mapping[str, Any], collector_key: str, proof: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an evidence document; it is checked before it is given out.

    Args:
        kind: one of :data:`KINDS`.
        manifest: the job's signed manifest.
        collector_key: the collector's Ed25519 public key, base64url.
        proof: what that kind needs, see the functions below.

    Raises:
        EvidenceError: it proves nothing.
    """
    document = {
        "form": FORM,
        "kind": kind,
        "collector_key": collector_key,
        "manifest": dict(manifest),
        "proof": dict(proof),
    }
    check_evidence(document)
    return document


def check_evidence(document: Mapping[str, Any]) -> Verdict:
    """Return what ``document`` proves, from itself alone.

    Raises:
        EvidenceError: it proves nothing; the text says why.
    """
    kind = document.get("kind")
    if document.get("form") != FORM or not isinstance(kind, str) or kind not in KINDS:
        raise EvidenceError("the file is not evidence of a kind that is known")
    case = _case(document)
    try:
        culprit, text = KINDS[kind](case)
    except EvidenceError:
        raise
    except (SecureAggregationError, SignatureError, CanonicalFormError) as error:
        raise EvidenceError(f"the documents are malformed: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise EvidenceError("the documents are malformed") from error
    return Verdict(kind=kind, culprit=culprit, job=str(case.payload["terms"]["job"]), text=text)


def _case(document: Mapping[str, Any]) -> _Case:
    try:
        manifest, key = document["manifest"], document["collector_key"]
        payload = verify(MANIFEST_KIND, manifest, key)
        collector = payload["terms"]["collector"]
        keys = {collector: key}
        for member in payload["members"]:
            approval = verify(APPROVAL_KIND, member["approval"], member["public_key"])
            if approval["job"] != payload["terms"]["job"]:
                raise EvidenceError("an approval in the manifest is of another job")
            keys.setdefault(approval["participant"], member["public_key"])
        return _Case(
            proof=document["proof"],
            payload=payload,
            manifest=document_digest(manifest),
            collector=collector,
            keys=keys,
        )
    except (SignatureError, CanonicalFormError, KeyError, TypeError) as error:
        raise EvidenceError("the manifest is malformed, or not signed as it says") from error


def _split_view(case: _Case) -> tuple[str, str]:
    """``documents``: two set signatures of one seat, one round and one group, over different contributors."""
    first, second, who = case.pair(SET_KIND)
    if any(first.get(name) != second.get(name) for name in ("job", "round", "group")) or first["seat"] != who:
        raise EvidenceError("the two signatures are of different rounds or groups")
    _same_job(case, first)
    inner = bool(_children(case, str(first.get("group", "0"))))
    same_attempt = first["attempt"] == second["attempt"] and first["uploads"] != second["uploads"]
    if first["members"] == second["members"] and (inner or not same_attempt):
        raise EvidenceError("both signatures are over the same contributors")
    return who, f"{who} signed two different sets in round {first['round']}"


def _double_release(case: _Case) -> tuple[str, str]:
    """``documents``: two share headers of one seat for one context and the same losses, over other sets or bytes."""
    kind = INNER_KIND if case.proof.get("inner") is True else SHARE_KIND
    first, second, who = case.pair(kind)
    same = ("context", "seat", *(("children",) if kind == INNER_KIND else ("lost", "blank", "released")))
    if any(first.get(name) != second.get(name) for name in same):
        raise EvidenceError("the two shares are of different rounds, or of different losses")
    if (first["vector"], first.get("uploads")) == (second["vector"], second.get("uploads")):
        raise EvidenceError("both shares are the same")
    _context(case, case.proof["context"], str(first["context"]))
    return who, f"{who} released two different shares of one sum"


def _two_uploads(case: _Case) -> tuple[str, str]:
    """``documents``: two upload headers of one contributor in one context."""
    first, second, who = case.pair(UPLOAD_KIND)
    if first["context"] != second["context"] or first["contributor"] != second["contributor"]:
        raise EvidenceError("the two uploads are of different contributors or attempts")
    if digest(first) == digest(second):
        raise EvidenceError("both uploads are the same")
    _context(case, first["context"], digest(first["context"]))
    return str(first["contributor"]), f"{who} uploaded twice as {first['contributor']} in one attempt"


def _two_openings(case: _Case) -> tuple[str, str]:
    """``documents``: two openings by the collector of one round, with different models, or of one attempt at all."""
    first, second, who = case.pair(OPENING_KIND)
    if who != case.collector or any(first[name] != second[name] for name in ("job", "manifest", "round")):
        raise EvidenceError("the two openings are of different rounds")
    if first["manifest"] != case.manifest:
        raise EvidenceError("the openings are of another manifest")
    if first["model"] == second["model"] and first.get("replaced") == second.get("replaced"):
        raise EvidenceError("both openings have the same model and the same seats")
    return who, f"{who} opened round {first['round']} with two models, or with two sets of seats"


def _equivocated_seeds(case: _Case) -> tuple[str, str]:
    """``header``, ``column``, ``box`` and ``exchange`` (base64url): a box whose seeds are not the committed ones.

    ``exchange`` is the Diffie-Hellman value of the box, which opens this box and no other. A false one would have to
    pass the box's authentication by chance (2^-128), since the box is fixed by the contributor's signature.
    """
    payload, who = case.signed(UPLOAD_KIND, "header")
    context = _context(case, payload["context"], digest(payload["context"]))
    column, box = int(case.proof["column"]), decode(case.proof["box"])
    if hashlib.sha256(box).hexdigest() != payload["boxes"][column]:
        raise EvidenceError("the box is not the one that the contributor signed")
    seat = _seats(case, context)[column]
    info = box_info(context.digest, payload["contributor"], seat.participant)
    plain = open_with_exchange(box, decode(case.proof["exchange"]), seat.sealing_key, info)
    table = threshold_table(len(payload["boxes"]), int(case.payload["threshold"]))
    held = table.held_by(column)
    seeds = [plain[at : at + SEED_BYTES] for at in range(0, len(plain), SEED_BYTES)]
    if len(seeds) == len(held) and all(
        seed_commitment(context, index, seed) == payload["seeds"][index]
        for index, seed in zip(held, seeds, strict=True)
    ):
        raise EvidenceError("the seeds in the box are the committed ones")
    name = str(payload["contributor"])
    return name, f"{who} sealed other seeds to {seat.participant} than it committed to, as {name}"


def _wrong_share(case: _Case) -> tuple[str, str]:
    """``share``, ``vector`` (base64), ``context``, ``shares``, ``nonce``, ``answers``: two others contradict a seat."""
    payload, who = case.signed(SHARE_KIND, "share")
    context = _context(case, case.proof["context"], str(payload["context"]))
    if payload["lost"] or payload["released"] is not None:
        raise EvidenceError("only a seat's first share, with no seat lost, can be checked by sketches")
    seats = _seats(case, context)
    column = [seat.participant for seat in seats].index(who)
    listed = list(case.proof["shares"])
    if document_digest(case.proof["share"]) not in listed:
        raise EvidenceError("the coin does not cover the share")
    coin = joint_coin(context, listed, beacon=str(case.payload["beacon"]), nonce=str(case.proof["nonce"]))
    threshold = int(case.payload["threshold"])
    group = Group(seats=seats, threshold=threshold, n_min=2, n_max=1 << 52, copies=len(seats) - threshold)
    answers = [
        read_answer(item, context=context, uploads=str(payload["uploads"]), coin=coin, keys=case.keys)
        for item in case.proof["answers"]
    ]
    wanted, witnesses = expected_sketch(column, answers, group=group, context=context)
    if witnesses < 2:  # noqa: PLR2004 - one word against one
        raise EvidenceError("for some part only one seat stands against the accused one")
    data = base64.b64decode(case.proof["vector"], validate=True)
    if vector_digest(data) != payload["vector"]:
        raise EvidenceError("the bytes are not those of the signed share")
    if np.array_equal(sketch(unpack(data, context.d, context.k), coin, context.k), wanted):
        raise EvidenceError("the share is what the other seats say it must be")
    return who, f"{who} released a share that is not the sum of its parts; two other seats vouch for each part"


KINDS: Mapping[str, Callable[[_Case], tuple[str, str]]] = {
    "split-view": _split_view,
    "double-release": _double_release,
    "two-uploads": _two_uploads,
    "two-openings": _two_openings,
    "equivocated-seeds": _equivocated_seeds,
    "wrong-share": _wrong_share,
}


def _same_job(case: _Case, payload: Mapping[str, Any]) -> None:
    if payload.get("job") != case.payload["terms"]["job"]:
        raise EvidenceError("the documents are of another job")


def _context(case: _Case, value: Any, name: str) -> RoundContext:
    """Return the context in ``value`` once it has the digest ``name`` and belongs to the manifest."""
    fields = dict(value)
    fields["replaced"] = tuple((pair[0], pair[1]) for pair in fields.get("replaced", []))
    try:
        found = RoundContext(**fields)
    except ParameterError as error:
        raise EvidenceError("the documents have no valid context") from error
    if found.digest != name or found.manifest != case.manifest:
        raise EvidenceError("the documents are not of this manifest's job")
    return found


def _children(case: _Case, group: str) -> list[str]:
    groups = case.payload.get("tree", {"groups": []})["groups"]
    return [item["name"] for item in groups if item["parent"] == group]


def _seats(case: _Case, context: RoundContext) -> tuple[Seat, ...]:
    if context.replaced:
        raise EvidenceError("seats that were replaced before the round are not looked up here")
    groups = {item["name"]: item["seats"] for item in case.payload.get("tree", {"groups": []})["groups"]}
    names = groups.get(context.group) or case.payload["seats"]
    found = []
    for name in names:
        member = next(m for m in case.payload["members"] if m["approval"]["payload"]["participant"] == name)
        keys = member["approval"]["payload"]["hpke_public"]
        place = epoch_of(context.round, int(case.payload["terms"]["rounds"]), len(keys))
        found.append(
            Seat(
                participant=name,
                organisation=member["organisation"],
                public_key=member["public_key"],
                sealing_key=keys[place],
            )
        )
    return tuple(found)
