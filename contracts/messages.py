"""The Dataspace Protocol's messages and the policies inside them, as values; names are the specification's.

Source: Dataspace Protocol 2025-1, sections "Catalog Protocol", "Contract Negotiation Protocol" and "Transfer Process
Protocol". A pid is a process id (an IRI): ``consumer_pid`` is the consumer's, ``provider_pid`` the provider's; it is
``None`` while that side has not yet told it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from contracts.states import NegotiationStep
from contracts.transfers import TransferStep

# permission, prohibition, obligation → ODRL rules, in the compact JSON form of the specification's ODRL profile.
Rules: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """An ODRL offer: the rules under which ``target`` may be used."""

    id: str
    rules: Rules
    target: str | None = None
    assigner: str | None = None
    assignee: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the offer as it stands in a message (with ``target``) or a catalog (without)."""
        extra = {"target": self.target, "assigner": self.assigner, "assignee": self.assignee}
        return {"@id": self.id, "@type": "Offer", **{k: v for k, v in extra.items() if v}, **self.rules}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """What both sides agreed: immutable, named by its digest, signed by the provider.

    ``timestamp`` is ISO 8601 text as the provider wrote it; ``signature`` is absent when a provider does not sign.
    """

    id: str
    target: str
    assigner: str
    assignee: str
    rules: Rules
    timestamp: str | None = None
    signature: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataAddress:
    """Where data (or, for FederatedTraining, the learning API) is reached. ``properties`` may hold a token."""

    endpoint_type: str
    endpoint: str | None = None
    properties: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    def property(self, name: str) -> str | None:
        """Return the value of an endpoint property, or ``None``."""
        return next((value for key, value in self.properties if key == name), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogRequestMessage:
    """Asks for the catalog; ``filter`` holds zero or more filter objects."""

    filter: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractRequestMessage:
    """The consumer asks for an agreement; first (with a callback address) or as a counter-offer."""

    consumer_pid: str
    offer: Offer
    provider_pid: str | None = None
    callback_address: str | None = None
    step = NegotiationStep.REQUEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractOfferMessage:
    """The provider offers; first (with a callback address) or as a counter-offer."""

    provider_pid: str
    offer: Offer
    consumer_pid: str | None = None
    callback_address: str | None = None
    step = NegotiationStep.OFFER


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractAgreementMessage:
    """The provider sends the agreement."""

    consumer_pid: str | None
    provider_pid: str
    agreement: Agreement
    step = NegotiationStep.AGREE


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractAgreementVerificationMessage:
    """The consumer has checked the agreement."""

    consumer_pid: str
    provider_pid: str | None
    step = NegotiationStep.VERIFY


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractNegotiationEventMessage:
    """ACCEPTED (from the consumer) or FINALIZED (from the provider)."""

    consumer_pid: str | None
    provider_pid: str | None
    event_type: str

    @property
    def step(self) -> NegotiationStep:
        """ACCEPT or FINALIZE, by the event type."""
        return NegotiationStep.ACCEPT if self.event_type == "ACCEPTED" else NegotiationStep.FINALIZE


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractNegotiationTerminationMessage:
    """Either side ends the negotiation; ``reason`` is for people."""

    consumer_pid: str | None
    provider_pid: str | None
    code: str | None = None
    reason: tuple[str, ...] = ()
    step = NegotiationStep.TERMINATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferRequestMessage:
    """The consumer asks for a transfer under an agreement; a data address means push."""

    consumer_pid: str
    agreement_id: str
    format: str
    callback_address: str
    data_address: DataAddress | None = None
    step = TransferStep.REQUEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferStartMessage:
    """The transfer runs (again); a data address means pull."""

    consumer_pid: str | None
    provider_pid: str | None
    data_address: DataAddress | None = None
    step = TransferStep.START


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferSuspensionMessage:
    """Either side pauses the transfer."""

    consumer_pid: str | None
    provider_pid: str | None
    code: str | None = None
    reason: tuple[str, ...] = ()
    step = TransferStep.SUSPEND


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferCompletionMessage:
    """Either side says that the transfer is done."""

    consumer_pid: str | None
    provider_pid: str | None
    step = TransferStep.COMPLETE


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferTerminationMessage:
    """Either side ends the transfer."""

    consumer_pid: str | None
    provider_pid: str | None
    code: str | None = None
    reason: tuple[str, ...] = ()
    step = TransferStep.TERMINATE


NegotiationMessage: TypeAlias = (
    ContractRequestMessage
    | ContractOfferMessage
    | ContractAgreementMessage
    | ContractAgreementVerificationMessage
    | ContractNegotiationEventMessage
    | ContractNegotiationTerminationMessage
)
TransferMessage: TypeAlias = (
    TransferRequestMessage
    | TransferStartMessage
    | TransferSuspensionMessage
    | TransferCompletionMessage
    | TransferTerminationMessage
)
Message: TypeAlias = CatalogRequestMessage | NegotiationMessage | TransferMessage
