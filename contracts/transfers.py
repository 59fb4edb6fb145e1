"""The transfer process's transition table: (sender, state, step) → state; same shape as ``states``.

Source: Dataspace Protocol 2025-1, "Transfer Process Protocol", section "State Machine".
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from contracts.errors import IllegalTransitionError
from contracts.states import Role


class TransferState(StrEnum):
    """The five states of a transfer process, as written on the wire."""

    REQUESTED = "REQUESTED"
    STARTED = "STARTED"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    TERMINATED = "TERMINATED"


class TransferStep(StrEnum):
    """What moves a transfer process: one message type each."""

    REQUEST = "TransferRequestMessage"
    START = "TransferStartMessage"
    SUSPEND = "TransferSuspensionMessage"
    COMPLETE = "TransferCompletionMessage"
    TERMINATE = "TransferTerminationMessage"


_S, _T = TransferState, TransferStep
_STARTED = {_T.SUSPEND: _S.SUSPENDED, _T.COMPLETE: _S.COMPLETED, _T.TERMINATE: _S.TERMINATED}
_SUSPENDED = {_T.START: _S.STARTED, _T.TERMINATE: _S.TERMINATED}

TABLE: Final[Mapping[Role, Mapping[TransferState | None, Mapping[TransferStep, TransferState]]]] = {
    Role.CONSUMER: {
        None: {_T.REQUEST: _S.REQUESTED},
        _S.REQUESTED: {_T.TERMINATE: _S.TERMINATED},
        _S.STARTED: _STARTED,
        _S.SUSPENDED: _SUSPENDED,
    },
    Role.PROVIDER: {
        _S.REQUESTED: {_T.START: _S.STARTED, _T.TERMINATE: _S.TERMINATED},
        _S.STARTED: _STARTED,
        _S.SUSPENDED: _SUSPENDED,
    },
}

FINAL: Final = frozenset({_S.COMPLETED, _S.TERMINATED})

RESULT: Final[Mapping[TransferStep, TransferState]] = {
    step: state for rows in TABLE.values() for moves in rows.values() for step, state in moves.items()
}


def is_legal(sender: Role, state: TransferState | None, step: TransferStep) -> bool:
    """Return whether ``sender`` may take ``step`` in ``state`` (``None``: the process does not exist yet)."""
    return step in TABLE[sender].get(state, {})


def after(sender: Role, state: TransferState | None, step: TransferStep) -> TransferState:
    """Return the state that ``step`` by ``sender`` leads to.

    Raises:
        IllegalTransitionError: the table has no such step.
    """
    try:
        return TABLE[sender][state][step]
    except KeyError:
        raise IllegalTransitionError(f"{step} by the {sender} is not allowed in {state or 'a new transfer'}") from None


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for sender, states in TABLE.items():
        for state, moves in states.items():
            for step, target in moves.items():
                rows.setdefault((state or "[*]", target, step), []).append(sender)
    lines = [f"    {a} --> {b}: {step} ({', '.join(senders)})" for (a, b, step), senders in rows.items()]
    return "\n".join(["stateDiagram-v2", *lines, *(f"    {state} --> [*]" for state in sorted(FINAL))])
