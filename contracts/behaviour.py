"""What this side does next by itself: the automatic and the manual behaviour.

Automatic agrees to what equals a published offer (and its policy allows), refuses everything else with the reason, and
as consumer accepts an offer that equals what it asked for. Manual leaves every decision that binds us to an operator;
what follows from one (agreeing to our own offer once it is accepted, verifying, finalising) and refusals that the rules
demand happen by themselves.
"""

import dataclasses
from collections.abc import Callable

from contracts.commands import (
    Accept,
    Agree,
    End,
    Finalize,
    NegotiationCommand,
    Start,
    Terminate,
    TransferCommand,
    Verify,
)
from contracts.errors import TransferRefusedError
from contracts.messages import DataAddress
from contracts.ports import Assessment, Later
from contracts.processes import AgreementRecord, Negotiation, Transfer
from contracts.states import NegotiationState, Role
from contracts.transfers import TransferState


def _refusal(assessment: Assessment) -> Terminate:
    return Terminate(reasons=assessment.reasons, code="terms-refused")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutomaticBehaviour:
    """Acts at once wherever the published terms settle the matter."""

    def next(
        self,
        negotiation: Negotiation,
        assessment: Assessment,
        *,
        waited: bool,  # noqa: ARG002 - the port's signature
    ) -> NegotiationCommand | Later | None:
        """Return the step that the assessment settles, or ``None`` when it is the peer's or an operator's turn."""
        if negotiation.role is Role.PROVIDER:
            return _provide(negotiation, assessment, decide=True)
        return _consume(negotiation, assessment, decide=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManualBehaviour:
    """Waits for an operator wherever we would bind ourselves."""

    def next(
        self,
        negotiation: Negotiation,
        assessment: Assessment,
        *,
        waited: bool,  # noqa: ARG002 - the port's signature
    ) -> NegotiationCommand | Later | None:
        """Return a step that is not an operator's to decide, or ``None``."""
        if negotiation.role is Role.PROVIDER:
            return _provide(negotiation, assessment, decide=False)
        return _consume(negotiation, assessment, decide=False)


def _provide(negotiation: Negotiation, assessment: Assessment, *, decide: bool) -> NegotiationCommand | None:
    match negotiation.state:
        case NegotiationState.REQUESTED:
            if not decide:
                return None
            return Agree() if assessment.acceptable else _refusal(assessment)
        case NegotiationState.ACCEPTED:
            return Agree() if assessment.acceptable else _refusal(assessment)
        case NegotiationState.VERIFIED:
            return Finalize()
        case _:
            return None


def _consume(negotiation: Negotiation, assessment: Assessment, *, decide: bool) -> NegotiationCommand | None:
    match negotiation.state:
        case NegotiationState.OFFERED:
            # An offer that differs from what we asked is not refused: an operator may like it.
            return Accept() if decide and assessment.acceptable else None
        case NegotiationState.AGREED:
            return Verify() if assessment.acceptable else _refusal(assessment)
        case _:
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutomaticTransfers:
    """Starts what a provider can start, and tells a listener of every state.

    Attributes:
        start_address: the data address of a transfer we provide, ``None`` while it cannot start yet. For
            FederatedTraining the learning side answers. A raised ``TransferRefusedError`` ends the transfer.
        on_transfer_state: told of every state a transfer comes to (at least once; it must be idempotent).
        retry_seconds: how long until a transfer that could not start is asked about again.
    """

    start_address: Callable[[AgreementRecord, Transfer], DataAddress | None]
    on_transfer_state: Callable[[AgreementRecord, Transfer], None]
    retry_seconds: float = 5.0

    def next(
        self,
        transfer: Transfer,
        agreement: AgreementRecord,
        *,
        waited: bool,  # noqa: ARG002 - the port's signature
    ) -> TransferCommand | Later | None:
        """Return Start with an address, a later question, or ``None``."""
        self.on_transfer_state(agreement, transfer)
        if transfer.role is not Role.PROVIDER or transfer.state is not TransferState.REQUESTED:
            return None
        if transfer.data_address is not None:
            return Start()
        try:
            address = self.start_address(agreement, transfer)
        except TransferRefusedError as error:
            return End(reasons=(str(error),), code="refused")
        return Later(seconds=self.retry_seconds) if address is None else Start(data_address=address)
