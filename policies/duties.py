"""Duties of an agreement, followed to their fulfilment: deletion, notification, compensation, attribution, reports.

A duty comes from an obligation of the policy or from a permission's own duties. Its constraints say when: the latest
moment that ``elapsedTime`` or ``dateTime`` names is when it is due; a duty without such a moment is due before the
agreement's use is over and never overdue by itself. ``elapsedTime`` counts from the agreement, unless ``event`` names
another beginning: ``event gt orchard:jobEnd`` (or ``odrl:policyUsage``) counts from the end of each job that read rows,
``event gt orchard:agreementEnd`` from the end of the agreement; ``event lt odrl:policyUsage`` is due before any use. The
assignee holds a duty. Fulfilment is written once, with evidence, and not taken back.

Source: ODRL Information Model 2.2, section 2.6.3 (duty); ODRL Vocabulary 2.2 (event, elapsedTime); DESIGN section 8.
"""

import dataclasses
import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from policies.canonical import digest
from policies.errors import ConsentFormatError, ConsentStateError
from policies.model import ODRL, ORCHARD, Atomic, Constraint, Logical, Operator, Policy, short
from policies.operands.compare import duration, instant

ELAPSED, DATE_TIME, EVENT = ODRL + "elapsedTime", ODRL + "dateTime", ODRL + "event"
_WHEN = frozenset({ELAPSED, DATE_TIME, EVENT})
_AFTER = frozenset({Operator.GT, Operator.GTEQ, Operator.EQ})
_BEFORE = frozenset({Operator.LT, Operator.LTEQ})
_LONGEST_EVIDENCE = 2000


class Begins(enum.Enum):
    """What a duty's time counts from."""

    AGREEMENT = "agreement"
    JOB_END = "job-end"
    AGREEMENT_END = "agreement-end"


_EVENTS = {
    ODRL + "policyUsage": Begins.JOB_END,
    "policyUsage": Begins.JOB_END,
    "odrl:policyUsage": Begins.JOB_END,
    ORCHARD + "jobEnd": Begins.JOB_END,
    ORCHARD + "agreementEnd": Begins.AGREEMENT_END,
}


class DutyState(enum.Enum):
    """Where a duty stands at a moment; one that waits has not begun, because what it counts from has not come."""

    WAITING = "waiting"
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
        begins: what its time counts from.
        length: how long after that it is due; None when it names no length.
        began_at: when that was or will be; None while nobody can know.
        job_id: the job that ended, for a duty that each job brings.
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
    begins: Begins = Begins.AGREEMENT
    length: timedelta | None = None
    began_at: datetime | None = None
    job_id: str = ""

    def state_at(self, now: datetime) -> DutyState:
        """Return where the duty stands."""
        if self.fulfilled_at is not None:
            return DutyState.FULFILLED
        if self.begins is not Begins.AGREEMENT and (self.began_at is None or now < self.began_at):
            return DutyState.WAITING
        return DutyState.OVERDUE if self.due_at is not None and now >= self.due_at else DutyState.OPEN

    def __str__(self) -> str:
        """Say the duty in a few words, fit for a suspension's reason."""
        due = "" if self.due_at is None else f", due {self.due_at.date().isoformat()}"
        job = f" after job {self.job_id.removeprefix('urn:uuid:')}" if self.job_id else ""
        return f"{short(self.kind)}{job}{f' ({self.terms})' if self.terms else ''}{due}"


def duties_of(policy: Policy, agreement_id: str, holder: str, agreed_at: datetime, now: datetime) -> list[Duty]:
    """Return the duties that an agreement brings, in the order of the policy, each once.

    Args:
        policy: the agreement's policy.
        agreement_id: its id.
        holder: who must fulfil them where a rule names nobody: the assignee.
        agreed_at: when the agreement was concluded; durations count from here.
        now: when they are noted.
    """
    end = agreement_end(policy)
    rules = [*policy.obligations, *(duty for rule in policy.permissions for duty in rule.duties)]
    found: dict[str, Duty] = {}
    for rule in rules:
        atoms = [atom for part in rule.constraints for atom in _atoms(part)]
        terms = "; ".join(_words(atom) for atom in atoms)
        name = digest([agreement_id, rule.action, rule.assignee or holder, terms])
        duty = Duty(
            duty_id=name,
            agreement_id=agreement_id,
            kind=rule.action,
            holder=rule.assignee or holder,
            terms=terms[:500],
            created_at=now,
        )
        found[name] = _timed(duty, atoms, agreed_at, end)
    return list(found.values())


def agreement_end(policy: Policy) -> datetime | None:
    """Return when the last permission of a policy runs out by itself; None when one of them never does."""
    ends = []
    for rule in policy.permissions:
        moments = [
            _moment(part, None)
            for part in rule.constraints
            if isinstance(part, Atomic) and part.left == DATE_TIME and part.operator in _BEFORE
        ]
        known = [moment for moment in moments if moment is not None]
        if not known:
            return None
        ends.append(min(known))
    return max(ends) if ends else None


def begun(duty: Duty, at: datetime, job_id: str = "") -> Duty:
    """Return what is owed once that has come which a waiting duty counts from.

    Args:
        duty: as :func:`duties_of` gave it.
        at: when the job or the agreement ended.
        job_id: the job; each one brings a duty of its own, the same one the same.
    """
    if duty.begins is Begins.AGREEMENT_END and duty.began_at is not None and duty.began_at <= at:
        return duty
    name = digest([duty.duty_id, job_id]) if duty.begins is Begins.JOB_END else duty.duty_id
    due = duty.due_at if duty.length is None else at + duty.length
    return dataclasses.replace(duty, duty_id=name, began_at=at, due_at=due, job_id=job_id)


def fulfil(duty: Duty, evidence: Mapping[str, Any], now: datetime) -> Duty:
    """Return the duty as fulfilled; one that was fulfilled before stays as it was.

    Args:
        duty: the duty.
        evidence: what shows it, as JSON: a reference, a digest, who says so. Not empty.
        now: when it was shown.

    Raises:
        ConsentFormatError: no evidence, or more than 2,000 characters of it.
        ConsentStateError: nothing is owed yet.
    """
    if not evidence or len(str(evidence)) > _LONGEST_EVIDENCE:
        raise ConsentFormatError(f"evidence is a JSON object of at most {_LONGEST_EVIDENCE} characters, and not empty")
    if duty.fulfilled_at is not None:
        return duty
    if duty.state_at(now) is DutyState.WAITING:
        what = "a job" if duty.begins is Begins.JOB_END else "the agreement"
        raise ConsentStateError(f"nothing is owed yet: this duty begins with the end of {what}")
    return dataclasses.replace(duty, fulfilled_at=now, evidence=dict(evidence))


def _timed(duty: Duty, atoms: list[Atomic], agreed_at: datetime, end: datetime | None) -> Duty:
    """Return the duty with what its time counts from, and when it is due as far as that is known."""
    events = [_event(atom) for atom in atoms if atom.left == EVENT]
    if not all(events):
        # Before the use, or an event that nobody here knows: nobody can say that there is still time.
        return dataclasses.replace(duty, due_at=agreed_at)
    begins = next((event for event in events if event is not None), Begins.AGREEMENT)
    if begins is Begins.AGREEMENT:
        return dataclasses.replace(duty, due_at=_due(atoms, agreed_at))
    lengths = [length for atom in atoms if (length := _length(atom)) is not None]
    if not lengths and any(atom.left == ELAPSED for atom in atoms):
        lengths = [timedelta(0)]
    fixed = _due([atom for atom in atoms if atom.left == DATE_TIME], agreed_at)
    waiting = dataclasses.replace(duty, begins=begins, length=min(lengths, default=None), due_at=fixed)
    return waiting if begins is Begins.JOB_END or end is None else begun(waiting, end)


def _event(atom: Atomic) -> Begins | None:
    if len(atom.right) != 1 or atom.operator not in _AFTER:
        return None
    return _EVENTS.get(str(atom.right[0]))


def _due(atoms: list[Atomic], agreed_at: datetime) -> datetime | None:
    moments = [moment for moment in (_moment(atom, agreed_at) for atom in atoms) if moment is not None]
    if not moments:
        # A duty whose time cannot be read is due at once: nobody can say that there is still time.
        return agreed_at if atoms and all(atom.left in _WHEN for atom in atoms) else None
    return min(moments)


def _moment(atom: Atomic, start: datetime | None) -> datetime | None:
    if len(atom.right) != 1 or atom.operator in (None, Operator.NEQ):
        return None
    try:
        if atom.left == ELAPSED:
            length = _length(atom)
            return None if length is None or start is None else start + length
        if atom.left == DATE_TIME:
            seconds = instant(atom.right[0])
            return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return None


def _length(atom: Atomic) -> timedelta | None:
    if atom.left != ELAPSED or len(atom.right) != 1 or atom.operator in (None, Operator.NEQ):
        return None
    right = atom.right[0]
    try:
        return duration(right) if isinstance(right, str) else timedelta(seconds=float(right))
    except (OverflowError, ValueError):
        return None


def _atoms(part: Constraint) -> list[Atomic]:
    if isinstance(part, Logical):
        return [atom for inner in part.parts for atom in _atoms(inner)]
    return [part]


def _words(atom: Atomic) -> str:
    return f"{short(atom.left)} {short(atom.operator_text)} {', '.join(short(str(value)) for value in atom.right)}"[
        :200
    ]
