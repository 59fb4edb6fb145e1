"""Agreements: made and signed by the provider, checked by the consumer, named by their digest, never changed."""

import dataclasses
from datetime import datetime
from typing import Any, Final

from contracts import offers
from contracts.codec import SIGNATURE, agreement_document
from contracts.messages import Agreement
from contracts.ports import Assessment
from contracts.processes import AgreementRecord, Negotiation
from contracts.states import Role
from policies.canonical import digest
from policies.signing import SignatureError, Signer, verify

KIND: Final = "agreement"


def conclude(negotiation: Negotiation, *, id: str, provider: str, signer: Signer | None, now: datetime) -> Agreement:  # noqa: A002 - the specification's word
    """Return the agreement to the offer on the table, signed if there is a signer."""
    agreement = Agreement(
        id=id,
        target=negotiation.dataset_id,
        assigner=provider,
        assignee=negotiation.counterparty.participant_id,
        rules=negotiation.offer.rules,
        timestamp=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )
    if signer is None:
        return agreement
    return dataclasses.replace(agreement, signature=signer.sign(KIND, payload(agreement))["signature"])


def payload(agreement: Agreement) -> dict[str, Any]:
    """Return what is signed and digested: the agreement as in a message, without its signature."""
    document = agreement_document(agreement)
    document.pop(SIGNATURE, None)
    return document


def agreement_digest(agreement: Agreement) -> str:
    """Return the agreement's name: the SHA-256 (hex) of its canonical form without the signature."""
    return digest(payload(agreement))


def assess_agreement(negotiation: Negotiation, *, consumer: str, public_key: str | None) -> Assessment:
    """Judge, as consumer, whether the agreement is what was asked for and is signed by the provider.

    A provider that does not sign is accepted (the specification knows no signatures); a signature that does not
    verify, or that cannot be checked because no key of the provider is known, is not.
    """
    agreement = negotiation.agreement
    if agreement is None:
        return Assessment(acceptable=False, reasons=("agreement: there is none",))
    problems: list[str] = []
    if agreement.target != negotiation.dataset_id:
        problems.append("target: the agreement is about another dataset than was asked for")
    if agreement.assigner != negotiation.counterparty.participant_id:
        problems.append("assigner: the agreement names another provider")
    if agreement.assignee != consumer:
        problems.append("assignee: the agreement names another consumer")
    if not offers.same_terms(agreement.rules, negotiation.offer.rules):
        found = offers.changes(agreement.rules, negotiation.offer.rules) or ("rules: they are arranged in another way",)
        problems += [f"agreement differs from what was asked; {sentence}" for sentence in found]
    if agreement.signature is not None and not is_signed(agreement, public_key):
        problems.append("signature: the provider's signature on the agreement does not verify")
    return Assessment(acceptable=not problems, reasons=tuple(problems))


def is_signed(agreement: Agreement, public_key: str | None) -> bool:
    """Return whether the agreement carries a signature that verifies with the provider's key (base64url)."""
    if agreement.signature is None or public_key is None:
        return False
    document = {"payload": payload(agreement), "signature": dict(agreement.signature)}
    try:
        verify(KIND, document, public_key)
    except SignatureError:
        return False
    return True


def record(negotiation: Negotiation, agreement: Agreement, *, now: datetime) -> AgreementRecord:
    """Return the record of an agreement that has just been FINALIZED."""
    return AgreementRecord(
        agreement=agreement,
        digest=agreement_digest(agreement),
        role=negotiation.role,
        counterparty=negotiation.counterparty,
        negotiation_pid=negotiation.pid,
        concluded_at=now,
    )


def consumer_of(record_: AgreementRecord) -> bool:
    """Return whether we are the consumer of an agreement."""
    return record_.role is Role.CONSUMER
