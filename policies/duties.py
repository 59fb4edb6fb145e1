"""Duties of an agreement, followed to their fulfilment: deletion, notification, compensation, attribution, reports.

A duty comes from an obligation of the policy or from a permission's own duties. Its constraints say when: the latest
moment that ``elapsedTime`` (since the agreement) or ``dateTime`` names is when it is due; a duty without such a moment
is due before the agreement's use is over and never overdue by itself. The assignee holds a duty. Fulfilment is written
once, with evidence, and not taken back.

Source: ODRL Information Model 2.2, section 2.6.3 (duty); DESIGN section 8.
"""

import dataclasses
import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from policies.canonical import digest
from policies.errors import ConsentFormatError
from policies.model import ODRL, Atomic, Constraint, Logical, Operator, Policy, Rule, short
from policies.operands.compare import duration, instant

ELAPSED, DATE_TIME = ODRL + "elapsedTime", ODRL + "dateTime"
_LONGEST_EVIDENCE = 2000


class DutyState(enum.Enum):
    """Where a duty stands at a moment."""

    OPEN = "open"
    OVERDUE = "overdue"
    FULFILLED = "fulfilled"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duty:
    """One thing that somebody must do under an agreement.

    Attributes:
        duty_id: digest of agreement, action and terms: the same duty is noted once.
        kind: full IRI of the action (``odrl:delete``...).
        holder: the participant that must do it.
        terms: the constraints as a person reads them.
        due_at: when it is overdue; None when no moment is named or can be read.
        evidence: what was shown for its fulfilment.
    """

    duty_id: str
    agreement_id: str
    kind: str
    holder: str
    terms: str
    created_at: datetime
    due_at: datetime | None = None
    fulfilled_at: datetime | None = None
    evidence: Mapping[str, Any] | None = None

    def state_at(self, now: datetime) -> DutyState:
        """Return where the duty stands."""
        if self.fulfilled_at is not None:
            return DutyState.FULFILLED
        return DutyState.OVERDUE if self.due_at is not None and now >= self.due_at else DutyState.OPEN

    def __str__(self) -> str:
        """Say the duty in a few words, fit for a suspension's reason."""
        due = "" if self.due_at is None else f", due {self.due_at.date().isoformat()}"
        return f"{short(self.kind)}{f' ({self.terms})' if self.terms else ''}{due}"


def duties_of(policy: Policy, agreement_id: str, holder: str, agreed_at: datetime, now: datetime) -> list[Duty]:
    """Return the duties that an agreement brings, in the order of the policy, each once.

    Args:
        policy: the agreement's policy.
        agreement_id: its id.
        holder: who must fulfil them where a rule names nobody: the assignee.
        agreed_at: when the agreement was concluded; durations count from here.
        now: when they are noted.
    """
    rules = [*policy.obligations, *(duty for rule in policy.permissions for duty in rule.duties)]
    found: dict[str, Duty] = {}
    for rule in rules:
        atoms = [atom for part in rule.constraints for atom in _atoms(part)]
        terms = "; ".join(_words(atom) for atom in atoms)
        name = digest([agreement_id, rule.action, rule.assignee or holder, terms])
        found[name] = Duty(
            duty_id=name,
            agreement_id=agreement_id,
            kind=rule.action,
            holder=rule.assignee or holder,
            terms=terms[:500],
            created_at=now,
            due_at=_due(rule, atoms, agreed_at),
        )
    return list(found.values())


def fulfil(duty: Duty, evidence: Mapping[str, Any], now: datetime) -> Duty:
    """Return the duty as fulfilled; one that was fulfilled before stays as it was.

    Args:
        duty: the duty.
        evidence: what shows it, as JSON: a reference, a digest, who says so. Not empty.
        now: when it was shown.

    Raises:
        ConsentFormatError: no evidence, or more than 2,000 characters of it.
    """
    if not evidence or len(str(evidence)) > _LONGEST_EVIDENCE:
        raise ConsentFormatError(f"evidence is a JSON object of at most {_LONGEST_EVIDENCE} characters, and not empty")
    if duty.fulfilled_at is not None:
        return duty
    return dataclasses.replace(duty, fulfilled_at=now, evidence=dict(evidence))


def _due(rule: Rule, atoms: list[Atomic], agreed_at: datetime) -> datetime | None:
    moments = [moment for moment in (_moment(atom, agreed_at) for atom in atoms) if moment is not None]
    if not moments:
        # A duty whose time cannot be read is due at once: nobody can say that there is still time.
        return agreed_at if rule.constraints and all(atom.left in (ELAPSED, DATE_TIME) for atom in atoms) else None
    return min(moments)


def _moment(atom: Atomic, agreed_at: datetime) -> datetime | None:
    if len(atom.right) != 1 or atom.operator in (None, Operator.NEQ):
        return None
    right = atom.right[0]
    try:
        if atom.left == ELAPSED:
            length = duration(right) if isinstance(right, str) else timedelta(seconds=float(right))
            return None if length is None else agreed_at + length
        if atom.left == DATE_TIME:
            seconds = instant(right)
            return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return None


def _atoms(part: Constraint) -> list[Atomic]:
    if isinstance(part, Logical):
        return [atom for inner in part.parts for atom in _atoms(inner)]
    return [part]


def _words(atom: Atomic) -> str:
    return f"{short(atom.left)} {short(atom.operator_text)} {', '.join(str(value) for value in atom.right)}"[:200]
