"""What an auditor or a data protection officer reads: the decision log, and signed exports. Scope ``audit``."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel

from connector.audit_export import AuditExporter, decision_row
from connector.http.access import Auditor
from policies.audit import Period
from policies.canonical import canonical_json


class DecisionView(BaseModel):
    """One logged decision; ``number`` is its place in the log."""

    number: int
    at: datetime
    scope: str
    verdict: Literal["permit", "deny"]
    policy_id: str | None
    agreement_id: str
    assignee: str | None
    target: str | None
    job_id: str | None
    round_number: int | None
    reasons: list[dict[str, Any]]
    duties: list[str]
    deferred: list[str]


class DecisionPage(BaseModel):
    """Decisions, newest first; ``next`` is the ``before`` of the following page, if there may be one."""

    decisions: list[DecisionView]
    next: int | None = None


def audit_router(exporter: AuditExporter) -> APIRouter:
    """Return the routes under ``/management/audit``."""
    router = APIRouter(prefix="/management/audit", tags=["audit"])

    @router.get("/decisions", summary="Who allowed or denied what, and why")
    def decisions(
        _auditor: Auditor,
        agreement_id: str | None = None,
        scope: Literal["catalog", "negotiation", "transfer", "round", "release"] | None = None,
        verdict: Literal["permit", "deny"] | None = None,
        before: Annotated[int | None, Query(ge=1)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> DecisionPage:
        found = exporter.decisions.page(limit, agreement_id, scope, verdict, before)
        rows = [DecisionView(number=number, **decision_row(decision)) for number, decision in found]
        return DecisionPage(decisions=rows, next=rows[-1].number if len(rows) == limit else None)

    @router.get("/export", summary="Consents and decisions of a period or a subject, signed, verifiable offline")
    def export(
        _auditor: Auditor,
        start: Annotated[AwareDatetime | None, Query(alias="from")] = None,
        end: Annotated[AwareDatetime | None, Query(alias="to")] = None,
        subject: Annotated[str | None, Query(max_length=500, description="A learner's id at the source.")] = None,
    ) -> Response:
        document = exporter.export(Period(start=start, end=end), subject)
        return Response(canonical_json(document), media_type="application/json")

    return router
