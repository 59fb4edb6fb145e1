"""The consent service: what learners, guardians and institutions may say, one transaction each.

It knows subjects only by pairwise pseudonyms; the ids of the source come in, are turned into pseudonyms with the
provider's secret, and are forgotten. A change wakes ``on_change`` after the commit. Sources: GDPR articles 7 and 8;
ISO/IEC TS 27560; DESIGN section 8.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from policies.audit import Period
from policies.consent import ConsentAction, ConsentEvent, ConsentRecord, Relation
from policies.counts import DEFAULT_FLOOR, Band, band
from policies.errors import ConsentError, ConsentFormatError, GuardianNotAllowedError, UnknownRecordError
from policies.expressions import Ledger
from policies.notices import Notice, check_successor
from policies.people import Answer, Caller, Expression, ImportResult
from policies.ports import ConsentedTerms, ConsentStore, ConsentUnit, UseCost, UseSpan
from policies.receipts import issue_receipt, record_document
from policies.signing import Signer
from policies.subjects import subject_ref

_CHUNK = 1000
MAX_IMPORT = 100_000
_ANSWERS = frozenset({ConsentAction.GRANT, ConsentAction.REFUSE, ConsentAction.RENEW})


def _nothing(_dataset_id: str, _purpose: str) -> None:
    """Wake nobody."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentService:
    """Commands and questions about consent at one provider.

    Attributes:
        store: where notices, records and uses live.
        signer: the provider's key; its ``kid`` is the participant id.
        secret: the provider's pseudonym secret (at least 16 bytes).
        now: aware UTC time.
        new_id: a fresh ``urn:uuid:...``.
        on_change: called after the commit of anything that changes who consents, with (dataset_id, purpose).
    """

    store: ConsentStore
    signer: Signer
    secret: bytes = dataclasses.field(repr=False)
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    on_change: Callable[[str, str], None] = _nothing

    # Notices

    def publish_notice(self, notice: Notice) -> Notice:
        """Publish a version of a notice and make it the current one; the same again changes nothing.

        Raises:
            NoticeVersionError: the content changed and the version did not grow.
        """

        def work(unit: ConsentUnit) -> Notice:
            current = unit.notice(notice.notice_id)
            if not check_successor(current, notice):
                return current or notice
            unit.add_notice(notice)
            for purpose in notice.purposes:
                self._announce(unit, notice.dataset_id, purpose.purpose)
            return notice

        return self.store.run("consent.publish_notice", work)

    def notices(self) -> list[Notice]:
        """Return the current version of every notice."""
        return self.store.run("consent.notices", lambda unit: unit.notices())

    def notice(self, notice_id: str, version: int | None = None) -> Notice:
        """Return one version of a notice, the current one by default.

        Raises:
            UnknownRecordError: there is none.
        """
        found = self.store.run("consent.notice", lambda unit: unit.notice(notice_id, version))
        if found is None:
            raise UnknownRecordError("there is no such notice")
        return found

    # What people say

    def answer(self, caller: Caller, answer: Answer) -> ConsentRecord:
        """Grant, refuse or renew one purpose, for oneself or for a ward.

        Raises:
            ConsentError: refused; the class says why.
        """
        if answer.action not in _ANSWERS:
            raise ConsentFormatError("an answer is grant, refuse or renew")
        return self.express(_expression(caller, answer))

    def grant(self, caller: Caller, answer: Answer) -> ConsentRecord:
        """Grant one purpose (see :meth:`answer`)."""
        return self.answer(caller, dataclasses.replace(answer, action=ConsentAction.GRANT))

    def refuse(self, caller: Caller, answer: Answer) -> ConsentRecord:
        """Refuse one purpose (see :meth:`answer`)."""
        return self.answer(caller, dataclasses.replace(answer, action=ConsentAction.REFUSE))

    def renew(self, caller: Caller, record_id: str, event_id: str, *, notice_version: int) -> ConsentRecord:
        """Renew a record under the version of its notice that the caller has just read.

        Raises:
            UnknownRecordError: there is no such record, or it is another person's.
            ConsentError: refused; the class says why.
        """
        record, subject = self._own(caller, record_id)
        return self.answer(
            caller,
            Answer(
                event_id=event_id,
                action=ConsentAction.RENEW,
                notice_id=record.notice_id,
                notice_version=notice_version,
                language=record.language,
                purpose=record.purpose,
                subject=None if subject == caller.subject else subject,
            ),
        )

    def withdraw(self, caller: Caller, record_id: str, event_id: str) -> ConsentRecord:
        """Withdraw a consent; takes effect for every round that has not started.

        Raises:
            UnknownRecordError: there is no such record, or it is another person's.
            ConsentError: refused (nothing to withdraw, a guardian of an adult).
        """
        record, subject = self._own(caller, record_id)
        answer = Answer(
            event_id=event_id,
            action=ConsentAction.WITHDRAW,
            notice_id=record.notice_id,
            notice_version=record.notice_version,
            language=record.language,
            purpose=record.purpose,
            subject=None if subject == caller.subject else subject,
        )
        expression = _expression(caller, answer)

        def work(unit: ConsentUnit) -> ConsentRecord:
            ledger = self._ledger(unit, [expression])
            current = unit.record(record_id)
            if current is None:
                raise UnknownRecordError("there is no such record")
            ledger.known[current.subject_ref, current.dataset_id, current.purpose] = current
            moved, _changed = ledger.withdraw(current, expression)
            self._save(unit, ledger)
            return moved

        return self.store.run("consent.withdraw", work)

    def express(self, expression: Expression) -> ConsentRecord:
        """Apply one expression and return its record.

        Raises:
            ConsentError: refused; the class says why.
        """

        def work(unit: ConsentUnit) -> ConsentRecord:
            ledger = self._ledger(unit, [expression])
            record, _changed = ledger.apply(expression)
            self._save(unit, ledger)
            return record

        return self.store.run(f"consent.{expression.action.value}", work)

    def import_expressions(self, expressions: Sequence[Expression]) -> list[ImportResult]:
        """Apply an institution's list, each entry by itself: one that is refused does not stop the others.

        Raises:
            ConsentFormatError: more than 100,000 entries.
        """
        if len(expressions) > MAX_IMPORT:
            raise ConsentFormatError(f"more than {MAX_IMPORT} entries; send several lists")
        results: list[ImportResult] = []
        for start in range(0, len(expressions), _CHUNK):
            chunk = expressions[start : start + _CHUNK]
            results += self.store.run("consent.import", self._importing(chunk, start))
        return results

    def expire_due(self, limit: int = _CHUNK) -> int:
        """Note the expiry of overdue consents (they no longer count either way); return how many were noted."""
        overdue = self.store.due(self.now(), limit)

        def work(unit: ConsentUnit) -> int:
            ledger = self._ledger(unit, [])
            for item in overdue:
                record = unit.record(item.record_id)
                if record is not None and record.state_at(ledger.now) is not record.state:
                    ledger.expire(record)
            self._save(unit, ledger)
            return len(ledger.events)

        return self.store.run("consent.expire", work) if overdue else 0

    # What people see

    def records(self, caller: Caller) -> list[ConsentRecord]:
        """Return the caller's own records and those of their wards."""
        return self.store.records_of(list(self._refs(caller)))

    def references(self, caller: Caller) -> list[str]:
        """Return the caller's pseudonym and those of their wards."""
        return list(self._refs(caller))

    def history(self, caller: Caller, record_id: str) -> list[ConsentEvent]:
        """Return a record's events; raises UnknownRecordError unless it is the caller's or a ward's."""
        self._own(caller, record_id)
        return self.store.events_of(record_id)

    def receipt(self, caller: Caller, record_id: str) -> dict[str, Any]:
        """Return a signed receipt; raises UnknownRecordError unless the record is the caller's or a ward's."""
        record, _subject = self._own(caller, record_id)
        uses = [
            use
            for use in self.store.uses_of([record.subject_ref])
            if (use.dataset_id, use.purpose) == (record.dataset_id, record.purpose)
        ]
        notice = self.notice(record.notice_id, record.notice_version)
        return issue_receipt(self.signer, record, self.store.events_of(record_id), notice, uses)

    def uses(self, caller: Caller) -> list[UseSpan]:
        """Return in which rounds of which jobs the caller's or their wards' rows were read."""
        return self.store.uses_of(list(self._refs(caller)))

    def export(self, subject_refs: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the full records of subjects as DPV JSON-LD, for a DPO or for a data access request."""
        for record in self.store.records_of(subject_refs):
            notice = self.notice(record.notice_id, record.notice_version)
            yield record_document(record, self.store.events_of(record.record_id), notice)

    def audit(self, period: Period, subjects: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the full records that have an event in ``period`` as DPV JSON-LD, for an audit export.

        Args:
            period: when something was said or noted.
            subjects: pseudonyms; None is everybody.
        """
        notices: dict[tuple[str, int], Notice] = {}
        for part in self._pages(subjects):
            chains = self.store.events_of_many([record.record_id for record in part])
            for record in part:
                events = chains[record.record_id]
                if any(period.holds(str(event.payload["recorded_at"])) for event in events):
                    named = (record.notice_id, record.notice_version)
                    if named not in notices:
                        notices[named] = self.notice(*named)
                    yield record_document(record, events, notices[named])

    def _pages(self, subjects: Sequence[str] | None) -> Iterator[list[ConsentRecord]]:
        if subjects is not None:
            yield self.store.records_of(subjects)
            return
        last = ""
        while part := self.store.records_after(last, _CHUNK):
            yield part
            last = part[-1].record_id

    # What the gate asks

    def consenting(self, dataset_id: str, purpose: str, now: datetime | None = None) -> frozenset[str]:
        """Return the pseudonyms of the subjects whose rows may be read for ``purpose``, in one query.

        No purpose, no subject: an empty purpose or one that the current notice does not name gives the empty set.
        """
        if not purpose:
            return frozenset()
        return self.store.consenting(dataset_id, purpose, now or self.now())

    def terms(self, dataset_id: str, purpose: str) -> ConsentedTerms:
        """Return what everybody who consents to ``purpose`` has agreed to; empty where no notice names it."""
        return self.store.terms(dataset_id, purpose) if purpose else ConsentedTerms()

    def floor_met(self, dataset_id: str, purpose: str, floor: int) -> bool:
        """Say whether at least ``floor`` subjects consent."""
        return bool(purpose) and self.store.count(dataset_id, purpose, self.now()) >= floor

    def count_band(self, dataset_id: str, purpose: str, floor: int = DEFAULT_FLOOR) -> Band:
        """Return how many consent as a band; below the floor only that it is below."""
        return band(self.store.count(dataset_id, purpose, self.now()) if purpose else 0, floor)

    def record_use(self, use: UseSpan, subjects: frozenset[str], cost: UseCost | None = None) -> None:
        """Note that round ``use.last_round`` of a job read these subjects' rows, and what that cost (our own note)."""
        self.store.run("consent.record_use", lambda unit: unit.record_use(use, subjects, cost))

    # Inside

    def _importing(self, chunk: Sequence[Expression], start: int) -> Callable[[ConsentUnit], list[ImportResult]]:
        def work(unit: ConsentUnit) -> list[ImportResult]:
            ledger = self._ledger(unit, chunk)
            results = [_imported(ledger, expression, start + place) for place, expression in enumerate(chunk)]
            self._save(unit, ledger)
            return results

        return work

    def _ledger(self, unit: ConsentUnit, expressions: Sequence[Expression]) -> Ledger:
        notices = {}
        for notice_id in {expression.notice_id for expression in expressions}:
            found = unit.notice(notice_id)
            if found is not None:
                notices[notice_id] = found
        keys = [
            (subject_ref(self.secret, item.subject), notices[item.notice_id].dataset_id, item.purpose)
            for item in expressions
            if item.notice_id in notices and item.subject
        ]
        return Ledger(
            signer=self.signer,
            secret=self.secret,
            now=self.now(),
            new_id=self.new_id,
            notices=notices,
            known=unit.records_for(keys),
            seen=unit.known_events([expression.event_id for expression in expressions]),
        )

    def _save(self, unit: ConsentUnit, ledger: Ledger) -> None:
        if not ledger.events:
            return
        unit.save(list(ledger.records.values()), ledger.events)
        for dataset_id, purpose in sorted({(key[1], key[2]) for key in ledger.records}):
            self._announce(unit, dataset_id, purpose)

    def _announce(self, unit: ConsentUnit, dataset_id: str, purpose: str) -> None:
        unit.on_commit(lambda: self.on_change(dataset_id, purpose))

    def _refs(self, caller: Caller) -> dict[str, str]:
        """The caller's and their wards' pseudonyms, and whose they are."""
        names = [caller.subject, *(ward.subject for ward in caller.wards)]
        return {subject_ref(self.secret, name): name for name in names}

    def _own(self, caller: Caller, record_id: str) -> tuple[ConsentRecord, str]:
        record = self.store.run("consent.record", lambda unit: unit.record(record_id))
        subject = None if record is None else self._refs(caller).get(record.subject_ref)
        if record is None or subject is None:
            raise UnknownRecordError("there is no such record")
        return record, subject


def _expression(caller: Caller, answer: Answer) -> Expression:
    """What a caller's answer amounts to; a subject who is not theirs is refused."""
    common = {
        "event_id": answer.event_id,
        "action": answer.action,
        "notice_id": answer.notice_id,
        "notice_version": answer.notice_version,
        "language": answer.language,
        "purpose": answer.purpose,
    }
    if answer.subject is None or answer.subject == caller.subject:
        return Expression(subject=caller.subject, party=caller.subject, person=caller.person, **common)  # type: ignore[arg-type]
    for ward in caller.wards:
        if ward.subject == answer.subject:
            return Expression(
                subject=ward.subject,
                person=ward.person,
                relation=Relation.GUARDIAN,
                party=caller.subject,
                verification=ward.verification,
                evidence_ref=ward.evidence_ref,
                **common,  # type: ignore[arg-type]
            )
    raise GuardianNotAllowedError("nobody has confirmed that you answer for this learner")


def _imported(ledger: Ledger, expression: Expression, index: int) -> ImportResult:
    try:
        record, changed = ledger.apply(expression)
    except ConsentError as error:
        return ImportResult(index=index, outcome="refused", code=error.code, detail=str(error))
    return ImportResult(index=index, outcome="recorded" if changed else "unchanged", record_id=record.record_id)
