"""The contract negotiation's transition table: (sender, state, step) → state.

This table is the only law: receiving and sending both ask it, and the diagram in the README is printed from it. It does
not know which side we are; the sender of a step is either role. Source: Dataspace Protocol 2025-1, "Contract
Negotiation Protocol", section "State Machine"; its prose lets either side terminate wherever the end is not reached.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from contracts.errors import IllegalTransitionError


class Role(StrEnum):
    """A side of a negotiation or transfer."""

    CONSUMER = "consumer"
    PROVIDER = "provider"

    @property
    def other(self) -> "Role":
        """The counterparty's role."""
        return Role.PROVIDER if self is Role.CONSUMER else Role.CONSUMER


class NegotiationState(StrEnum):
    """The seven states of a contract negotiation, as written on the wire."""

    REQUESTED = "REQUESTED"
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    AGREED = "AGREED"
    VERIFIED = "VERIFIED"
    FINALIZED = "FINALIZED"
    TERMINATED = "TERMINATED"


class NegotiationStep(StrEnum):
    """What moves a negotiation: a message type, with the event type where the message alone does not say."""

    REQUEST = "ContractRequestMessage"
    OFFER = "ContractOfferMessage"
    ACCEPT = "ContractNegotiationEventMessage:ACCEPTED"
    AGREE = "ContractAgreementMessage"
    VERIFY = "ContractAgreementVerificationMessage"
    FINALIZE = "ContractNegotiationEventMessage:FINALIZED"
    TERMINATE = "ContractNegotiationTerminationMessage"


_S, _T = NegotiationState, NegotiationStep

TABLE: Final[Mapping[Role, Mapping[NegotiationState | None, Mapping[NegotiationStep, NegotiationState]]]] = {
    Role.CONSUMER: {
        None: {_T.REQUEST: _S.REQUESTED},
        _S.REQUESTED: {_T.TERMINATE: _S.TERMINATED},
        _S.OFFERED: {_T.REQUEST: _S.REQUESTED, _T.ACCEPT: _S.ACCEPTED, _T.TERMINATE: _S.TERMINATED},
        _S.ACCEPTED: {_T.TERMINATE: _S.TERMINATED},
        _S.AGREED: {_T.VERIFY: _S.VERIFIED, _T.TERMINATE: _S.TERMINATED},
        _S.VERIFIED: {_T.TERMINATE: _S.TERMINATED},
    },
    Role.PROVIDER: {
        None: {_T.OFFER: _S.OFFERED},
        _S.REQUESTED: {_T.OFFER: _S.OFFERED, _T.AGREE: _S.AGREED, _T.TERMINATE: _S.TERMINATED},
        _S.OFFERED: {_T.TERMINATE: _S.TERMINATED},
        _S.ACCEPTED: {_T.AGREE: _S.AGREED, _T.TERMINATE: _S.TERMINATED},
        _S.AGREED: {_T.TERMINATE: _S.TERMINATED},
        _S.VERIFIED: {_T.FINALIZE: _S.FINALIZED, _T.TERMINATE: _S.TERMINATED},
    },
}

FINAL: Final = frozenset({_S.FINALIZED, _S.TERMINATED})

# Every step leads to one state only, whoever sends it from wherever it is legal; a repeat's answer is read off here.
RESULT: Final[Mapping[NegotiationStep, NegotiationState]] = {
    step: state for rows in TABLE.values() for moves in rows.values() for step, state in moves.items()
}


def is_legal(sender: Role, state: NegotiationState | None, step: NegotiationStep) -> bool:
    """Return whether ``sender`` may take ``step`` in ``state`` (``None``: the negotiation does not exist yet)."""
    return step in TABLE[sender].get(state, {})


def after(sender: Role, state: NegotiationState | None, step: NegotiationStep) -> NegotiationState:
    """Return the state that ``step`` by ``sender`` leads to.

    Raises:
        IllegalTransitionError: the table has no such step.
    """
    try:
        return TABLE[sender][state][step]
    except KeyError:
        raise IllegalTransitionError(
            f"{step} by the {sender} is not allowed in {state or 'a new negotiation'}"
        ) from None


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for sender, states in TABLE.items():
        for state, moves in states.items():
            for step, target in moves.items():
                rows.setdefault((state or "[*]", target, step), []).append(sender)
    lines = [f"    {a} --> {b}: {step} ({', '.join(senders)})" for (a, b, step), senders in rows.items()]
    return "\n".join(["stateDiagram-v2", *lines, *(f"    {state} --> [*]" for state in sorted(FINAL))])
