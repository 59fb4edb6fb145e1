"""From expressions to records and events: the rules, over values only.

:class:`Ledger` holds what a transaction has read (notices, records, known events) and applies expressions to it one
after the other; what it leaves in ``records`` and ``events`` is what must be saved.
"""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from policies.ages import check_expresser, guardian_until
from policies.canonical import digest
from policies.consent import (
    ACTIVE,
    ConsentAction,
    ConsentEvent,
    ConsentRecord,
    ConsentState,
    Expresser,
    Relation,
    after,
    seal_event,
)
from policies.errors import AgeUnknownError, ConsentFormatError, ConsentStateError, NoticeError, ReplayedExpressionError
from policies.notices import Notice
from policies.people import Expression
from policies.signing import Signer
from policies.subjects import party_ref, subject_ref

CLOCK_SKEW = timedelta(minutes=5)

Key = tuple[str, str, str]


def stamp(moment: datetime) -> str:
    """Return an instant as fixed-width UTC text, so that it sorts as it reads."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclasses.dataclass(kw_only=True)
class Ledger:
    """The working set of one transaction."""

    signer: Signer
    secret: bytes
    now: datetime
    new_id: Callable[[], str]
    notices: dict[str, Notice]
    known: dict[Key, ConsentRecord]
    seen: dict[str, ConsentEvent]
    records: dict[Key, ConsentRecord] = dataclasses.field(default_factory=dict)
    events: list[ConsentEvent] = dataclasses.field(default_factory=list)
    materials: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def apply(self, expression: Expression) -> tuple[ConsentRecord, bool]:
        """Apply one expression; return its record and whether anything changed (False for an exact repeat).

        Raises:
            ConsentError: the expression is refused; nothing of it is kept.
        """
        if not expression.subject:
            raise ConsentFormatError("an expression names its subject")
        subject = subject_ref(self.secret, expression.subject)
        identity = _identity(expression, subject)
        repeat = self._repeat(expression, identity)
        if repeat is not None:
            return repeat, False
        if expression.action is ConsentAction.WITHDRAW:
            return self.withdraw(self._withdrawn(expression, subject), expression)
        notice = self._notice(expression)
        expresser = self._expresser(expression, subject)
        at = self._moment(expression)
        key = (subject, notice.dataset_id, expression.purpose)
        record = self.records.get(key) or self.known.get(key)
        if record is not None and at < record.updated_at:
            raise ReplayedExpressionError("a later decision of this learner is already recorded")
        material = self._material(notice, expression.purpose)
        ending = _ending(record, material, at)
        state = ending[1] if ending else (record.state if record else None)
        target = after(state, expression.action)
        if record is not None and ending is not None:
            record = self._end(record, ending[0], ending[1])
        moved = self._write(
            key=key,
            record=record,
            notice=notice,
            expression=expression,
            expresser=expresser,
            target=target,
            at=at,
            identity=identity,
        )
        return moved, True

    def withdraw(self, record: ConsentRecord, expression: Expression) -> tuple[ConsentRecord, bool]:
        """Withdraw a record as its subject or guardian; needs no notice, because leaving must never need one."""
        subject = subject_ref(self.secret, expression.subject)
        identity = _identity(expression, subject)
        repeat = self._repeat(expression, identity)
        if repeat is not None:
            return repeat, False
        expresser = self._expresser(expression, subject)
        if self._moment(expression) < record.updated_at:
            raise ReplayedExpressionError("a later decision of this learner is already recorded")
        target = after(record.state, ConsentAction.WITHDRAW)
        moved = self._append(
            record,
            ConsentAction.WITHDRAW,
            state=target,
            expresser=expresser,
            identity=identity,
            expression=expression,
        )
        return moved, True

    def expire(self, record: ConsentRecord) -> ConsentRecord:
        """Note that a record's time has run out."""
        return self._end(record, ConsentAction.EXPIRE, ConsentState.EXPIRED)

    def _repeat(self, expression: Expression, identity: str) -> ConsentRecord | None:
        event = self.seen.get(expression.event_id)
        if event is None:
            return None
        if event.payload.get("expression") != identity:
            raise ReplayedExpressionError("this expression id was used for something else")
        payload = event.payload
        key = (payload["subject_ref"], payload["dataset_id"], payload["purpose"])
        return self.records.get(key) or self.known.get(key)

    def _withdrawn(self, expression: Expression, subject: str) -> ConsentRecord:
        """The record that an imported withdrawal is about; whatever version of the notice it names."""
        notice = self.notices.get(expression.notice_id)
        if notice is None:
            raise NoticeError("there is no such notice here")
        key = (subject, notice.dataset_id, expression.purpose)
        record = self.records.get(key) or self.known.get(key)
        if record is None:
            raise ConsentStateError("there is no consent to withdraw")
        return record

    def _notice(self, expression: Expression) -> Notice:
        notice = self.notices.get(expression.notice_id)
        if notice is None:
            raise NoticeError("there is no such notice here")
        if notice.version != expression.notice_version:
            raise NoticeError(f"the current version of this notice is {notice.version}; please read it first")
        if notice.valid_until is not None and self.now >= notice.valid_until:
            raise NoticeError("this notice has expired; the provider must publish a new one")
        if expression.language not in notice.texts:
            raise NoticeError("the notice is not available in this language: " + ", ".join(sorted(notice.texts)))
        purpose = notice.purpose(expression.purpose)
        if not purpose.optional:
            raise NoticeError("this purpose does not rest on consent and is not asked")
        return notice

    def _expresser(self, expression: Expression, subject: str) -> Expresser:
        own = expression.relation is Relation.SELF
        expresser = Expresser(
            relation=expression.relation,
            party_ref=subject if own else party_ref(self.secret, expression.party),
            verification="" if own else expression.verification,
            evidence_ref="" if own else expression.evidence_ref,
        )
        # Saying no needs no age; saying yes does, and so does speaking for another person.
        if own and expression.action in (ConsentAction.REFUSE, ConsentAction.WITHDRAW):
            return expresser
        if expression.person is None:
            raise AgeUnknownError("nothing says whether the learner is of age; a birth year is needed")
        check_expresser(expression.person, expresser, self.now)
        return expresser

    def _moment(self, expression: Expression) -> datetime:
        at = expression.expressed_at or self.now
        if at.tzinfo is None:
            raise ConsentFormatError("the time of an expression needs an offset from UTC")
        if at > self.now + CLOCK_SKEW:
            raise ConsentFormatError("the expression lies in the future; check the clock it was taken with")
        return min(at, self.now)

    def _material(self, notice: Notice, purpose: str) -> str:
        """The notice's material for a purpose, computed once per transaction."""
        key = (notice.notice_id, purpose)
        if key not in self.materials:
            self.materials[key] = notice.material(purpose)
        return self.materials[key]

    def _write(
        self,
        *,
        key: Key,
        record: ConsentRecord | None,
        notice: Notice,
        expression: Expression,
        expresser: Expresser,
        target: ConsentState,
        at: datetime,
        identity: str,
    ) -> ConsentRecord:
        expires = at + timedelta(days=notice.consent_days)
        if expresser.relation is Relation.GUARDIAN and expression.person is not None:
            # Asked again at majority: a guardian's word ends there (EDPB guidelines 05/2020, section 7.1.5).
            majority = guardian_until(expression.person)
            expires = min(expires, majority) if majority else expires
        base = ConsentRecord(
            record_id=record.record_id if record else self.new_id(),
            subject_ref=key[0],
            dataset_id=key[1],
            purpose=key[2],
            notice_id=notice.notice_id,
            notice_version=notice.version,
            language=expression.language,
            material=self._material(notice, expression.purpose),
            state=target,
            expires_at=expires,
            updated_at=at,
            expressed_by=expresser,
            revision=record.revision if record else 0,
            head=record.head if record else "",
        )
        return self._append(
            base, expression.action, state=target, expresser=expresser, identity=identity, expression=expression
        )

    def _end(self, record: ConsentRecord, action: ConsentAction, state: ConsentState) -> ConsentRecord:
        provider = Expresser(relation=Relation.PROVIDER, party_ref=self.signer.kid)
        return self._append(record, action, state=state, expresser=provider, identity="", expression=None)

    def _append(
        self,
        record: ConsentRecord,
        action: ConsentAction,
        *,
        state: ConsentState,
        expresser: Expresser,
        identity: str,
        expression: Expression | None,
    ) -> ConsentRecord:
        event_id = expression.event_id if expression else self.new_id()
        at = self.now if expression is None or expression.expressed_at is None else self._moment(expression)
        moved = dataclasses.replace(
            record, state=state, updated_at=at, expressed_by=expresser, revision=record.revision + 1
        )
        payload = _payload(moved, action, event_id, previous=record.head)
        payload["expression"] = identity
        payload["source"] = expression.source if expression else "provider"
        payload["recorded_at"] = stamp(self.now)
        event = seal_event(self.signer, event_id, payload)
        moved = dataclasses.replace(moved, head=event.hash)
        self.records[record.subject_ref, record.dataset_id, record.purpose] = moved
        self.events.append(event)
        self.seen[event_id] = event
        return moved


def _ending(record: ConsentRecord | None, material: str, at: datetime) -> tuple[ConsentAction, ConsentState] | None:
    """What has ended a standing consent without anybody noting it: its time, or a notice that says something else."""
    if record is None or record.state not in ACTIVE:
        return None
    if at >= record.expires_at:
        return ConsentAction.EXPIRE, ConsentState.EXPIRED
    if record.material != material:
        return ConsentAction.INVALIDATE, ConsentState.INVALIDATED
    return None


def _identity(expression: Expression, subject: str) -> str:
    """The digest of what an expression says, by which a repeat is told from a reuse of its id."""
    return digest(
        {
            "action": expression.action.value,
            "subject": subject,
            "notice": [expression.notice_id, expression.notice_version, expression.language],
            "purpose": expression.purpose,
            "relation": expression.relation.value,
        }
    )


def _payload(record: ConsentRecord, action: ConsentAction, event_id: str, *, previous: str) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "record_id": record.record_id,
        "revision": record.revision,
        "previous": previous,
        "action": action.value,
        "state": record.state.value,
        "at": stamp(record.updated_at),
        "expires_at": stamp(record.expires_at),
        "subject_ref": record.subject_ref,
        "dataset_id": record.dataset_id,
        "purpose": record.purpose,
        "notice": {"id": record.notice_id, "version": record.notice_version, "language": record.language},
        "material": record.material,
        "expressed_by": {
            "relation": record.expressed_by.relation.value,
            "party": record.expressed_by.party_ref,
            "verification": record.expressed_by.verification,
            "evidence": record.expressed_by.evidence_ref,
        },
    }
