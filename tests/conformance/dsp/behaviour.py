"""The scripted behaviour: what the kit expects of a connector by itself, per dataset and per agreement.

The kit's sequences need steps that no real participant takes (offer what was asked, then terminate unprompted). This is
the only behaviour that waits before it acts: the kit registers its handlers stage by stage, and a message that comes
before its stage finds none. Nothing in production imports this package.
"""

import dataclasses
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from contracts.commands import (
    Accept,
    Agree,
    Complete,
    CounterOffer,
    CounterRequest,
    End,
    Finalize,
    NegotiationCommand,
    Start,
    Suspend,
    Terminate,
    TransferCommand,
    Verify,
)
from contracts.ports import Assessment, Later
from contracts.processes import AgreementRecord, Negotiation, Transfer

WAIT_SECONDS: Final = 0.3

# dataset → what to do in which state, in order; a state that comes again takes its next line. Not named: nothing.
NEGOTIATIONS: Final[Mapping[str, str]] = {
    "ACN0101": "REQUESTED offer",
    "ACN0102": "REQUESTED offer, REQUESTED terminate",
    "ACN0103": "REQUESTED offer, ACCEPTED agree, VERIFIED finalize",
    "ACN0104": "REQUESTED agree, VERIFIED finalize",
    "ACN0201": "REQUESTED terminate",
    "ACN0203": "REQUESTED agree",
    "ACN0204": "REQUESTED offer",
    "ACN0205": "REQUESTED offer, OFFERED terminate",
    "ACN0206": "REQUESTED offer, ACCEPTED terminate",
    "ACN0207": "REQUESTED agree, VERIFIED terminate",
    "ACN0301": "REQUESTED agree, VERIFIED finalize",
    "ACN0302": "REQUESTED offer",
    "ACN0303": "REQUESTED offer",
    "ACN0304": "REQUESTED offer",
    "ACNC0101": "OFFERED accept, AGREED verify",
    "ACNC0102": "OFFERED request",
    "ACNC0103": "OFFERED terminate",
    "ACNC0104": "AGREED verify",
    "ACNC0202": "REQUESTED terminate",
    "ACNC0203": "AGREED terminate",
    "ACNC0205": "OFFERED accept",
    "ACNC0206": "AGREED verify",
    "ACNC0304": "OFFERED accept",
    "ACNC0305": "OFFERED accept",
    "ACNC0306": "OFFERED accept",
}

# agreement → the same.
TRANSFERS: Final[Mapping[str, str]] = {
    "ATP0101": "REQUESTED start, STARTED terminate",
    "ATP0102": "REQUESTED start, STARTED complete",
    "ATP0103": "REQUESTED start, STARTED suspend, SUSPENDED terminate",
    "ATP0104": "REQUESTED start, STARTED suspend, SUSPENDED start, STARTED complete",
    "ATP0105": "REQUESTED terminate",
    "ATP0201": "REQUESTED start",
    "ATP0202": "REQUESTED start",
    "ATP0203": "REQUESTED start",
    "ATP0204": "REQUESTED start",
    "ATP0303": "REQUESTED start",
    "ATP0304": "REQUESTED start",
    "ATP0305": "REQUESTED start",
    "ATP0306": "REQUESTED start",
    "ATPC0201": "STARTED terminate",
    "ATPC0202": "STARTED complete",
    "ATPC0203": "STARTED suspend, SUSPENDED terminate",
    "ATPC0204": "STARTED suspend, SUSPENDED start, STARTED complete",
    "ATPC0205": "REQUESTED terminate",
}


class _Scripts:
    """Reads the next word of a script; remembers how often each process has come to each state."""

    def __init__(self, scripts: Mapping[str, str]) -> None:
        self._scripts = {
            name: [(state, word) for state, word in (part.split() for part in script.split(", "))]
            for name, script in scripts.items()
        }
        self._seen: dict[tuple[str, str], list[datetime]] = {}
        self._lock = threading.Lock()

    def words(self, name: str, state: str) -> list[str]:
        """Return everything that is said for a state."""
        return [word for where, word in self._scripts.get(name, ()) if where == state]

    def word(self, name: str, state: str, pid: str, at: datetime) -> str | None:
        """Return what to do now that ``pid`` is in ``state`` since ``at``; the same whenever it is asked again."""
        with self._lock:
            seen = self._seen.setdefault((pid, state), [])
            if at not in seen:
                seen.append(at)
            turn = seen.index(at)
        words = self.words(name, state)
        return words[turn] if turn < len(words) else None


class ScriptedNegotiations:
    """Acts in negotiations by the table above (port: ``contracts.ports.Behaviour``)."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        """Wait so long before each step."""
        self._scripts = _Scripts(NEGOTIATIONS)
        self._later = Later(seconds=wait_seconds)

    def next(
        self, negotiation: Negotiation, assessment: Assessment, *, waited: bool
    ) -> NegotiationCommand | Later | None:
        """See the port."""
        name, state = negotiation.dataset_id, negotiation.state
        if not self._scripts.words(name, state):
            return None
        if not waited:
            return self._later
        word = self._scripts.word(name, state, negotiation.pid, negotiation.updated_at)
        return None if word is None else _negotiation_command(word, negotiation)


class ScriptedTransfers:
    """Acts in transfers by the table above (port: ``contracts.ports.TransferBehaviour``)."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        """Wait so long before each step."""
        self._scripts = _Scripts(TRANSFERS)
        self._later = Later(seconds=wait_seconds)

    def next(self, transfer: Transfer, agreement: AgreementRecord, *, waited: bool) -> TransferCommand | Later | None:
        """See the port."""
        name, state = transfer.agreement_id, transfer.state
        if not self._scripts.words(name, state):
            return None
        if not waited:
            return self._later
        word = self._scripts.word(name, state, transfer.pid, transfer.updated_at)
        return None if word is None else _TRANSFER_COMMANDS[word]


_REASONS: Final = ("the kit's script says so",)
_TRANSFER_COMMANDS: Final[Mapping[str, TransferCommand]] = {
    "start": Start(),
    "suspend": Suspend(reasons=_REASONS),
    "complete": Complete(),
    "terminate": End(reasons=_REASONS),
}
_NEGOTIATION_COMMANDS: Final[Mapping[str, NegotiationCommand]] = {
    "accept": Accept(),
    "agree": Agree(),
    "verify": Verify(),
    "finalize": Finalize(),
    "terminate": Terminate(reasons=_REASONS),
}


def _negotiation_command(word: str, negotiation: Negotiation) -> NegotiationCommand:
    terms = dataclasses.replace(negotiation.offer, target=negotiation.dataset_id)
    match word:
        case "offer":
            return CounterOffer(offer=terms)
        case "request":
            return CounterRequest(offer=terms)
        case _:
            return _NEGOTIATION_COMMANDS[word]
