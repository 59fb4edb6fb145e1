"""The consent endpoints: notices for everybody, one's own records for learners and guardians, imports for institutions.

A record that is not there and one that is another person's are both 404.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response, Security
from fastapi.security import HTTPBearer

from connector.http.consent_forms import (
    Answered,
    CheckedReceipt,
    CountView,
    EventView,
    ImportAnswer,
    ImportList,
    NewAnswer,
    NoticeView,
    RecordView,
    Renewal,
    UseView,
    Withdrawal,
    event_view,
    import_view,
    notice_view,
    record_view,
    use_view,
)
from connector.http.problems import ProblemError
from connector.identity.learners import LearnerIdentity
from policies.consent import ConsentAction, ConsentRecord
from policies.errors import (
    ConsentError,
    ConsentFormatError,
    ConsentRefusedError,
    ConsentStateError,
    EvidenceError,
    NoticeVersionError,
    ReplayedExpressionError,
    UnknownRecordError,
)
from policies.imports import import_rows
from policies.notices import choose_language
from policies.people import Answer, Caller
from policies.receipts import verify_receipt
from policies.service import ConsentService

T = TypeVar("T")

LearnerAuth = Callable[[str | None], LearnerIdentity]

# Only describes the header in the OpenAPI document; the verifier reads it itself.
LEARNER_BEARER = HTTPBearer(
    auto_error=False, scheme_name="learner", description="A token of the learners' OIDC issuer."
)
_STATUS: tuple[tuple[type[ConsentError], int, str], ...] = (
    (UnknownRecordError, 404, "There is no such record"),
    (EvidenceError, 422, "The receipt does not hold"),
    (ConsentFormatError, 422, "The request is not valid"),
    (ConsentStateError, 409, "The consent is in another state"),
    (ReplayedExpressionError, 409, "This was said before"),
    (NoticeVersionError, 409, "The notice needs a new version"),
    (ConsentRefusedError, 403, "This answer cannot be accepted"),
)
_PEOPLE = ("learner", "guardian")


def consent_router(service: ConsentService, learner_auth: LearnerAuth) -> APIRouter:
    """Return the routes below ``/consent``.

    Args:
        service: the consent service.
        learner_auth: from the Authorization header to a person; raises UnauthorizedError
            (``JwtLearnerVerifier.verify`` is one).
    """
    router = APIRouter(prefix="/consent", tags=["consent"])

    def anybody(request: Request, _documented: Annotated[object, Security(LEARNER_BEARER)] = None) -> LearnerIdentity:
        return learner_auth(request.headers.get("authorization"))

    def a_person(identity: Annotated[LearnerIdentity, Depends(anybody)]) -> Caller:
        identity.require(*_PEOPLE)
        return identity.caller()

    def an_institution(identity: Annotated[LearnerIdentity, Depends(anybody)]) -> LearnerIdentity:
        identity.require("consent:manage")
        return identity

    _add_notices(router, service)
    _add_answers(router, service, a_person)
    _add_views(router, service, a_person)
    _add_institution(router, service, an_institution)
    return router


def _add_notices(router: APIRouter, service: ConsentService) -> None:
    @router.get("/notices", summary="The notices in force, in the reader's language")
    def notices(
        response: Response, accept_language: Annotated[str | None, Header()] = None, lang: str | None = Query(None)
    ) -> list[NoticeView]:
        response.headers["Vary"] = "Accept-Language"
        return [notice_view(item, choose_language(item, lang or accept_language)) for item in service.notices()]

    @router.get("/notices/{notice_id:path}", summary="One notice, the current version by default")
    def notice(
        notice_id: str,
        response: Response,
        version: Annotated[int | None, Query(ge=1)] = None,
        accept_language: Annotated[str | None, Header()] = None,
        lang: str | None = Query(None),
    ) -> NoticeView:
        found = _told(lambda: service.notice(notice_id, version))
        language = choose_language(found, lang or accept_language)
        response.headers["Content-Language"] = language
        response.headers["Vary"] = "Accept-Language"
        return notice_view(found, language)


def _add_answers(router: APIRouter, service: ConsentService, a_person: Callable[..., Caller]) -> None:
    person = Depends(a_person)

    def answered(caller: Caller, record: ConsentRecord) -> Answered:
        receipt = service.receipt(caller, record.record_id)
        return Answered(record=record_view(record, service.now()), receipt=receipt)

    @router.post("/records", status_code=201, summary="Grant or refuse one purpose")
    def answer(body: NewAnswer, caller: Caller = person) -> Answered:
        said = Answer(
            event_id=body.event_id,
            action=ConsentAction(body.decision),
            notice_id=body.notice_id,
            notice_version=body.notice_version,
            language=body.language,
            purpose=body.purpose,
            subject=body.subject,
        )
        return _told(lambda: answered(caller, service.answer(caller, said)))

    @router.post("/records/{record_id}/withdraw", summary="Withdraw a consent")
    def withdraw(record_id: str, body: Withdrawal, caller: Caller = person) -> Answered:
        return _told(lambda: answered(caller, service.withdraw(caller, record_id, body.event_id)))

    @router.post("/records/{record_id}/renew", summary="Renew a consent")
    def renew(record_id: str, body: Renewal, caller: Caller = person) -> Answered:
        return _told(
            lambda: answered(
                caller, service.renew(caller, record_id, body.event_id, notice_version=body.notice_version)
            )
        )


def _add_views(router: APIRouter, service: ConsentService, a_person: Callable[..., Caller]) -> None:
    person = Depends(a_person)

    @router.get("/records", summary="One's own records and those of one's wards")
    def records(caller: Caller = person) -> list[RecordView]:
        return [record_view(record, service.now()) for record in service.records(caller)]

    @router.get("/records/{record_id}/history", summary="What happened to a consent, signed event by signed event")
    def history(record_id: str, caller: Caller = person) -> list[EventView]:
        return [event_view(event) for event in _told(lambda: service.history(caller, record_id))]

    @router.get("/export", summary="Everything kept about one's consents and those of one's wards (GDPR article 15)")
    def export(caller: Caller = person) -> dict[str, Any]:
        return {
            "records": list(service.export(service.references(caller))),
            "uses": [use_view(use).model_dump() for use in service.uses(caller)],
        }

    @router.get("/records/{record_id}/receipt", summary="A signed receipt that verifies offline")
    def receipt(record_id: str, caller: Caller = person) -> dict[str, Any]:
        return _told(lambda: service.receipt(caller, record_id))

    @router.post("/receipts/verify", summary="Whether a receipt was issued here and is unchanged; for whoever holds it")
    def verify(body: dict[str, Any]) -> CheckedReceipt:
        payload = _told(lambda: verify_receipt(body, service.signer.public_key))
        events = len(payload["record"]["hasConsentEvent"])
        return CheckedReceipt(state=payload["state"], issued_at=payload["issued_at"], events=events)

    @router.get("/uses", summary="Which rounds of which jobs read one's rows")
    def uses(caller: Caller = person) -> list[UseView]:
        return [use_view(use) for use in service.uses(caller)]


def _add_institution(
    router: APIRouter, service: ConsentService, an_institution: Callable[..., LearnerIdentity]
) -> None:
    institution = Depends(an_institution)

    @router.post("/import", summary="Import an institution's consents, each judged by itself")
    def bulk_import(body: ImportList, _caller: LearnerIdentity = institution) -> ImportAnswer:
        results = import_rows(service, body.records)
        counts = {name: sum(item.outcome == name for item in results) for name in ("recorded", "unchanged", "refused")}
        return ImportAnswer(**counts, results=[import_view(item) for item in results])

    @router.get("/counts", summary="How many consent to a purpose, small numbers suppressed")
    def counts(dataset_id: str, purpose: str, _caller: LearnerIdentity = institution) -> CountView:
        found = service.count_band(dataset_id, purpose)
        return CountView(
            dataset_id=dataset_id,
            purpose=purpose,
            lower=found.lower,
            upper=found.upper,
            floor=found.floor,
            text=str(found),
        )


def _told(work: Callable[[], T]) -> T:
    """Run ``work``; what the consent room refuses becomes a problem in the learner's words."""
    try:
        return work()
    except ConsentError as error:
        for kind, status, title in _STATUS:
            if isinstance(error, kind):
                raise ProblemError(status, error.code, title, str(error)) from error
        raise
