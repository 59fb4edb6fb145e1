"""What this side may decide in a process: values that a behaviour returns and that an operator's command becomes."""

import dataclasses
from typing import TypeAlias

from contracts.messages import Agreement, DataAddress, Offer
from contracts.states import NegotiationStep
from contracts.transfers import TransferStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class CounterRequest:
    """As consumer: ask for other terms."""

    offer: Offer
    step = NegotiationStep.REQUEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class CounterOffer:
    """As provider: offer terms (our published ones, or others)."""

    offer: Offer
    step = NegotiationStep.OFFER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accept:
    """As consumer: accept the provider's offer."""

    step = NegotiationStep.ACCEPT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agree:
    """As provider: agree to the offer on the table. The service makes and signs the agreement when none is given."""

    agreement: Agreement | None = None
    step = NegotiationStep.AGREE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """As consumer: the agreement is what we asked for."""

    step = NegotiationStep.VERIFY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finalize:
    """As provider: both sides are bound."""

    step = NegotiationStep.FINALIZE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terminate:
    """Either side: end the negotiation, saying why."""

    reasons: tuple[str, ...]
    code: str = "terminated"
    step = NegotiationStep.TERMINATE


NegotiationCommand: TypeAlias = CounterRequest | CounterOffer | Accept | Agree | Verify | Finalize | Terminate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Start or resume a transfer; as provider of a pull transfer with a data address."""

    data_address: DataAddress | None = None
    step = TransferStep.START


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspend:
    """Pause a transfer."""

    reasons: tuple[str, ...] = ()
    code: str = "suspended"
    step = TransferStep.SUSPEND


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complete:
    """Say that a transfer is done."""

    step = TransferStep.COMPLETE


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """Terminate a transfer, saying why."""

    reasons: tuple[str, ...]
    code: str = "terminated"
    step = TransferStep.TERMINATE


TransferCommand: TypeAlias = Start | Suspend | Complete | End
