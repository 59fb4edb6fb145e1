"""The life of a consent: one table of (state, event) -> state, and the values that live in it.

Nothing else decides what may follow what; tests enumerate the table and the README's diagram is printed from it.
States follow the statuses of W3C DPV 2.3 (requested, given, refused, withdrawn, expired, renewed, invalidated).
"""

import dataclasses
import enum
from datetime import datetime
from types import MappingProxyType
from typing import Any

from policies.canonical import canonical_json, sha256_hex
from policies.errors import ConsentStateError, EvidenceError
from policies.signing import SignatureError, Signer, decode, encode, verify_bytes

EVENT_KIND = "consent-event"


class ConsentState(enum.Enum):
    """Where one subject stands towards one purpose of one dataset."""

    REQUESTED = "requested"
    GRANTED = "granted"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    RENEWED = "renewed"
    INVALIDATED = "invalidated"


class ConsentAction(enum.Enum):
    """What can happen to a consent."""

    REQUEST = "request"
    GRANT = "grant"
    REFUSE = "refuse"
    WITHDRAW = "withdraw"
    RENEW = "renew"
    EXPIRE = "expire"
    INVALIDATE = "invalidate"


_S, _A = ConsentState, ConsentAction
_ANSWERS = {_A.GRANT: _S.GRANTED, _A.REFUSE: _S.REFUSED}
_STANDING = {
    _A.WITHDRAW: _S.WITHDRAWN,
    _A.RENEW: _S.RENEWED,
    _A.EXPIRE: _S.EXPIRED,
    _A.INVALIDATE: _S.INVALIDATED,
}

TRANSITIONS: MappingProxyType[tuple[ConsentState | None, ConsentAction], ConsentState] = MappingProxyType(
    {
        (state, action): after
        for state, row in {
            None: {_A.REQUEST: _S.REQUESTED, **_ANSWERS},
            _S.REQUESTED: _ANSWERS,
            _S.GRANTED: _STANDING,
            _S.RENEWED: _STANDING,
            _S.REFUSED: {_A.GRANT: _S.GRANTED},
            _S.WITHDRAWN: {_A.GRANT: _S.GRANTED},
            _S.EXPIRED: {**_ANSWERS, _A.RENEW: _S.RENEWED, _A.WITHDRAW: _S.WITHDRAWN},
            _S.INVALIDATED: {**_ANSWERS, _A.WITHDRAW: _S.WITHDRAWN},
        }.items()
        for action, after in row.items()
    }
)

ACTIVE = frozenset({ConsentState.GRANTED, ConsentState.RENEWED})


def after(state: ConsentState | None, action: ConsentAction) -> ConsentState:
    """Return the state that ``action`` leads to.

    Raises:
        ConsentStateError: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, action]
    except KeyError:
        name = "not asked" if state is None else state.value
        raise ConsentStateError(f"a consent that is {name} cannot be answered with {action.value}") from None


def diagram() -> str:
    """Return the table as a Mermaid state diagram, in a stable order."""
    lines = ["stateDiagram-v2"]
    for (state, action), target in TRANSITIONS.items():
        lines.append(f"    {'[*]' if state is None else state.value} --> {target.value}: {action.value}")
    return "\n".join(lines)


class Relation(enum.Enum):
    """Who expressed a consent, seen from the subject."""

    SELF = "self"
    GUARDIAN = "guardian"
    PROVIDER = "provider"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expresser:
    """The entity that expressed a decision (ISO/IEC TS 27560: may differ from the subject).

    Attributes:
        relation: the subject, a guardian, or the provider itself (expiry, a notice that changed).
        party_ref: pairwise pseudonym of the person; the participant id for the provider.
        verification: how a guardian's responsibility was verified, empty for the subject.
        evidence_ref: a reference to the evidence kept elsewhere.
    """

    relation: Relation
    party_ref: str
    verification: str = ""
    evidence_ref: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentRecord:
    """The present state of one subject's consent for one purpose of one dataset.

    Attributes:
        record_id: ``urn:uuid:...``.
        subject_ref: pairwise pseudonym (see :mod:`policies.subjects`), never an address or a name.
        dataset_id, purpose: what it is about.
        notice_id, notice_version, language: what the person had read.
        material: digest of what the notice said about this purpose; a notice that says something else asks again.
        state: the state after the last event.
        expires_at: when it ends by itself; only meaningful while active.
        revision: number of events so far, from 1.
        head: SHA-256 (hex) of the last event.
    """

    record_id: str
    subject_ref: str
    dataset_id: str
    purpose: str
    notice_id: str
    notice_version: int
    language: str
    material: str
    state: ConsentState
    expires_at: datetime
    updated_at: datetime
    expressed_by: Expresser
    revision: int
    head: str

    def state_at(self, now: datetime) -> ConsentState:
        """Return the state, an overdue consent counting as expired whether or not somebody has noted it."""
        if self.state in ACTIVE and now >= self.expires_at:
            return ConsentState.EXPIRED
        return self.state


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentEvent:
    """One link of a record's chain: a payload, its hash (which covers the hash before it), and our signature."""

    record_id: str
    revision: int
    event_id: str
    payload: dict[str, Any]
    hash: str
    signature: str


def seal_event(signer: Signer, event_id: str, payload: dict[str, Any]) -> ConsentEvent:
    """Return the payload as a signed link; it must name ``record_id``, ``revision`` and ``previous``."""
    data = canonical_json(payload)
    return ConsentEvent(
        record_id=payload["record_id"],
        revision=payload["revision"],
        event_id=event_id,
        payload=payload,
        hash=sha256_hex(data),
        signature=encode(signer.sign_bytes(EVENT_KIND, data)),
    )


def verify_chain(events: "list[ConsentEvent]", public_key: str) -> None:
    """Check a record's whole history offline: order, hashes, links and signatures.

    Raises:
        EvidenceError: an event is missing, moved, changed, or was not signed with ``public_key``.
    """
    previous, state = "", None
    for number, event in enumerate(events, start=1):
        data = canonical_json(event.payload)
        if event.payload.get("revision") != number or event.payload.get("previous") != previous:
            raise EvidenceError(f"event {number} does not follow the one before it")
        if sha256_hex(data) != event.hash:
            raise EvidenceError(f"event {number} was changed")
        try:
            verify_bytes(EVENT_KIND, data, decode(event.signature), public_key)
            state = after(state, ConsentAction(event.payload.get("action")))
        except (SignatureError, ConsentStateError, ValueError) as error:
            raise EvidenceError(f"event {number}: {error}") from error
        if event.payload.get("state") != state.value:
            raise EvidenceError(f"event {number} claims a state that does not follow")
        previous = event.hash
