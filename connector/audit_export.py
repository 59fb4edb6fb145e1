"""Gathers an audit export from this participant's stores; see ``policies.audit`` for what it is and how it is checked."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from connector.storage.decisions import LoggedDecision, SqlDecisionLog
from connector.storage.duties import SqlDuties
from policies.audit import Period, sign_export
from policies.codec import notice_document
from policies.duties import Duty
from policies.expressions import stamp
from policies.service import ConsentService
from policies.subjects import subject_ref


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditExporter:
    """Makes signed exports for a data protection officer."""

    consents: ConsentService
    decisions: SqlDecisionLog
    duties: SqlDuties
    now: Callable[[], datetime]

    def export(self, period: Period, subject: str | None = None) -> dict[str, Any]:
        """Return the signed export.

        Args:
            period: what was said, noted or decided in it.
            subject: a subject's id at the source, for what is kept about one person; decisions are then those about
                the datasets that their records name.
        """
        reference = None if subject is None else subject_ref(self.consents.secret, subject)
        records = list(self.consents.audit(period, None if reference is None else [reference]))
        datasets = {str(record["hasProcess"]["hasDataset"]) for record in records}
        self.decisions.flush()

        def concerns(decision: LoggedDecision) -> bool:
            return reference is None or decision.target in datasets

        return sign_export(
            self.consents.signer,
            period=period,
            subject=reference,
            made_at=self.now(),
            records=records,
            notices=self._notices(records),
            uses=[] if reference is None else self._uses(reference),
            decisions=[decision_row(item) for item in self.decisions.between(period.start, period.end, keep=concerns)],
            duties=[duty_row(duty, self.now()) for duty in self.duties.all(limit=100_000)] if reference is None else [],
        )

    def _notices(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        named = {(str(item["hasNotice"]["@id"]), int(item["hasNotice"]["dct:hasVersion"])) for item in records}
        return [notice_document(self.consents.notice(*pair)) for pair in sorted(named)]

    def _uses(self, reference: str) -> list[dict[str, Any]]:
        return [dataclasses.asdict(use) for use in self.consents.store.uses_of([reference])]


def decision_row(decision: LoggedDecision) -> dict[str, Any]:
    """Return a logged decision as JSON."""
    row = dataclasses.asdict(decision)
    return {
        **row,
        "at": stamp(decision.at),
        "reasons": [dict(reason) for reason in decision.reasons],
        "duties": list(decision.duties),
        "deferred": list(decision.deferred),
    }


def duty_row(duty: Duty, now: datetime) -> dict[str, Any]:
    """Return a duty as JSON, with where it stands."""
    return {
        "duty_id": duty.duty_id,
        "agreement_id": duty.agreement_id,
        "kind": duty.kind,
        "holder": duty.holder,
        "terms": duty.terms,
        "state": duty.state_at(now).value,
        "begins": duty.begins.value,
        "job_id": duty.job_id or None,
        "created_at": stamp(duty.created_at),
        "due_at": None if duty.due_at is None else stamp(duty.due_at),
        "fulfilled_at": None if duty.fulfilled_at is None else stamp(duty.fulfilled_at),
        "evidence": None if duty.evidence is None else dict(duty.evidence),
    }
