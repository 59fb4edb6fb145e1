"""Consent records as DPV JSON-LD, and receipts: signed copies that their holder can check without us.

Fields follow ISO/IEC TS 27560:2023 (record header, processing, events, party identification) in the terms of W3C DPV
2.3; the receipt adds its own id and, after a withdrawal, an honest account of what can no longer be undone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from policies.accounts import ACCOUNTS, account_language
from policies.canonical import CanonicalFormError
from policies.consent import ConsentEvent, ConsentRecord, ConsentState, verify_chain
from policies.errors import EvidenceError
from policies.expressions import stamp
from policies.notices import Notice
from policies.ports import UseSpan
from policies.signing import SignatureError, Signer, verify

RECEIPT_KIND = "consent-receipt"
SCHEMA = "https://w3id.org/orchard/consent-record/1"
# What the account of a withdrawal amounts to, for programs; people read its words.
SUMS_REMAIN, NOTHING_USED = "sums-remain", "nothing-used"

_CONTEXT = {
    "dpv": "https://w3id.org/dpv#",
    "dct": "http://purl.org/dc/terms/",
    "orchard": "https://w3id.org/orchard/",
    "@vocab": "https://w3id.org/dpv#",
}
_STATUS = {
    ConsentState.REQUESTED: "ConsentRequested",
    ConsentState.GRANTED: "ConsentGiven",
    ConsentState.REFUSED: "ConsentRefused",
    ConsentState.WITHDRAWN: "ConsentWithdrawn",
    ConsentState.EXPIRED: "ConsentExpired",
    ConsentState.RENEWED: "RenewedConsentGiven",
    ConsentState.INVALIDATED: "ConsentInvalidated",
}


def record_document(record: ConsentRecord, events: Sequence[ConsentEvent], notice: Notice) -> dict[str, Any]:
    """Return a record with its history as DPV JSON-LD; ``notice`` is the version the person had read."""
    purpose = notice.purpose(record.purpose)
    return {
        "@context": _CONTEXT,
        "@id": record.record_id,
        "@type": "ConsentRecord",
        "dct:conformsTo": SCHEMA,
        "hasDataSubject": f"urn:orchard:subject:{record.subject_ref}",
        "hasConsentStatus": "dpv:" + _STATUS[record.state],
        "hasJurisdiction": notice.jurisdiction,
        "hasDataController": {
            "@id": notice.controller.party_id,
            "hasName": notice.controller.name,
            "hasContact": notice.controller.contact,
            "hasAddress": notice.controller.address,
        },
        "hasDataProtectionOfficer": notice.dpo,
        "hasNotice": {
            "@id": notice.notice_id,
            "dct:hasVersion": notice.version,
            "dct:language": record.language,
            "orchard:digest": notice.digest(),
        },
        "hasProcess": {
            "hasPurpose": purpose.purpose,
            "hasPersonalData": list(purpose.data_categories),
            "hasLegalBasis": purpose.legal_basis,
            "hasRecipient": list(purpose.recipients),
            "hasStorageDuration": purpose.retention,
            "hasStorageLocation": list(notice.storage_places),
            "hasProcessingLocation": list(notice.storage_places),
            "hasCollectionMethod": "existing records of the data provider",
            "hasProcessingMethod": "training beside the data; only masked sums leave",
            "hasDataset": record.dataset_id,
            "orchard:algorithmClass": purpose.algorithm_class,
            "orchard:specialCategory": purpose.special_category,
            "orchard:optional": purpose.optional,
        },
        "hasRight": list(notice.rights),
        "hasWithdrawalMethod": notice.how_to_withdraw(record.language),
        "hasAuthority": notice.authority,
        "hasExpiry": stamp(record.expires_at),
        "hasConsentEvent": [
            {**event.payload, "orchard:hash": event.hash, "orchard:signature": event.signature} for event in events
        ],
    }


def issue_receipt(
    signer: Signer, record: ConsentRecord, events: Sequence[ConsentEvent], notice: Notice, uses: Sequence[UseSpan]
) -> dict[str, Any]:
    """Return a signed receipt for the present state of a record; the same state always gives the same bytes."""
    payload: dict[str, Any] = {
        "@type": "ConsentReceipt",
        "receipt_id": f"urn:orchard:receipt:{record.head}",
        "issued_at": stamp(record.updated_at),
        "issuer": signer.kid,
        "issuer_key": signer.public_key,
        "state": record.state.value,
        "record": record_document(record, events, notice),
        "how_to_withdraw": notice.how_to_withdraw(record.language),
    }
    if record.state in (ConsentState.WITHDRAWN, ConsentState.EXPIRED):
        payload["consequences"] = withdrawal_account(uses, record.language)
    return signer.sign(RECEIPT_KIND, payload)


def withdrawal_account(uses: Sequence[UseSpan], language: str) -> dict[str, Any]:
    """Return what a withdrawal changes from now on and what it cannot: sums that were already made.

    Args:
        uses: the rounds that read the person's rows.
        language: the one in which the person had read the notice; the account names the one that it is in.
    """
    told = account_language(language)
    words = ACCOUNTS[told]
    return {
        "code": SUMS_REMAIN if uses else NOTHING_USED,
        "language": told,
        "from_now_on": words["from_now_on"],
        "cannot_be_undone": [
            {
                "job": use.job_id,
                "purpose": use.purpose,
                "rounds": [use.first_round, use.last_round],
                "noise": use.noise,
                "why": words["why"],
            }
            for use in uses
        ],
        "still_possible": words["still_possible"],
    }


def verify_receipt(receipt: Mapping[str, Any], public_key: str) -> dict[str, Any]:
    """Return the payload of a receipt once its signature and its chain of events verify, offline.

    Args:
        receipt: the signed document as handed out.
        public_key: the provider's raw Ed25519 public key, base64url, known from somewhere else than the receipt.

    Raises:
        EvidenceError: it was changed, forged, or made by another key.
    """
    try:
        payload = verify(RECEIPT_KIND, receipt, public_key)
        events = chain_of(payload["record"])
        head = events[-1]
    except (SignatureError, CanonicalFormError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise EvidenceError("this receipt was changed, or was not issued with that key") from error
    verify_chain(events, public_key)
    if payload.get("receipt_id") != f"urn:orchard:receipt:{head.hash}" or payload.get("state") != head.payload["state"]:
        raise EvidenceError("the receipt does not say what its last event says")
    return payload


def chain_of(record: Mapping[str, Any]) -> list[ConsentEvent]:
    """Return the events in a record's document; raises KeyError or TypeError when it is not one."""
    return [_event(item) for item in record["hasConsentEvent"]]


def _event(item: Mapping[str, Any]) -> ConsentEvent:
    payload = {key: value for key, value in item.items() if not key.startswith("orchard:")}
    return ConsentEvent(
        record_id=payload["record_id"],
        revision=payload["revision"],
        event_id=payload["event_id"],
        payload=payload,
        hash=item["orchard:hash"],
        signature=item["orchard:signature"],
    )
