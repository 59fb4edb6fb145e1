"""Consents for systems that speak the Prometheus-X consent manager's shapes. Scope ``consent:manage``.

``validate`` answers by the status and the expiry of the consent; a token proves nothing here.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Security
from pydantic import BaseModel, ConfigDict, Field

from connector.consent_services import ExternalConsents
from connector.http.consent_forms import ImportAnswer, import_view
from connector.http.consents import LEARNER_BEARER
from connector.http.problems import ProblemError
from connector.identity.learners import LearnerIdentity
from policies.consent import ConsentRecord
from policies.prometheus_x import consent_document
from policies.service import ConsentService
from policies.subjects import subject_ref

LearnerAuth = Callable[[str | None], LearnerIdentity]


class ExternalList(BaseModel):
    """Consents of another service with what their shape has no place for (notice, language, age, guardian)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    consents: list[dict[str, Any]] = Field(max_length=1000)


class Validation(BaseModel):
    """Whether a consent holds now; ``reason`` says why not."""

    verified: bool
    status: str
    reason: str = ""


def prometheus_x_router(service: ConsentService, external: ExternalConsents, learner_auth: LearnerAuth) -> APIRouter:
    """Return the routes below ``/consent/prometheus-x``."""
    router = APIRouter(prefix="/consent/prometheus-x", tags=["prometheus-x"])

    def an_institution(
        request: Request, _documented: Annotated[object, Security(LEARNER_BEARER)] = None
    ) -> LearnerIdentity:
        identity = learner_auth(request.headers.get("authorization"))
        identity.require("consent:manage")
        return identity

    institution = Depends(an_institution)

    def document(record: ConsentRecord) -> dict[str, Any]:
        notice = service.notice(record.notice_id)
        if not any(item.purpose == record.purpose for item in notice.purposes):
            notice = service.notice(record.notice_id, record.notice_version)
        return consent_document(record, service.store.events_of(record.record_id), notice, service.now())

    @router.post("/consents", summary="Import consents of another service; each is asked about again at each round")
    def take(body: ExternalList, _caller: LearnerIdentity = institution) -> ImportAnswer:
        results = external.take(service, body.consents)
        counts = {name: sum(item.outcome == name for item in results) for name in ("recorded", "unchanged", "refused")}
        return ImportAnswer(**counts, results=[import_view(item) for item in results])

    @router.get("/consents", summary="The consents of one learner, by their id at the source")
    def listed(
        user: Annotated[str, Query(min_length=1, max_length=500)], _caller: LearnerIdentity = institution
    ) -> list[dict[str, Any]]:
        return [document(record) for record in service.store.records_of([subject_ref(service.secret, user)])]

    @router.get("/consents/{record_id}", summary="One consent")
    def one(record_id: str, _caller: LearnerIdentity = institution) -> dict[str, Any]:
        return document(_record(service, record_id))

    @router.post("/consents/{record_id}/validate", summary="Whether a consent holds now, by its status")
    def validate(record_id: str, _caller: LearnerIdentity = institution) -> Validation:
        record = _record(service, record_id)
        status = str(document(record)["status"])
        held = service.consenting(record.dataset_id, record.purpose)
        confirmed = external.confirm(record.dataset_id, record.purpose, held & {record.subject_ref})
        if record.subject_ref in confirmed:
            return Validation(verified=True, status=status)
        unconfirmed = record.subject_ref in held
        reason = "the service that keeps it does not confirm it" if unconfirmed else f"the consent is {status}"
        return Validation(verified=False, status=status, reason=reason)

    return router


def _record(service: ConsentService, record_id: str) -> ConsentRecord:
    found = service.store.run("consent.record", lambda unit: unit.record(record_id))
    if found is None:
        raise ProblemError(404, "not-found", "There is no such record", "there is no such record")
    return found
