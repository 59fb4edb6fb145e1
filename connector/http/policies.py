"""Management routes for policies: explain a decision, follow duties, end an agreement, subscribe to consent events."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from connector.audit_export import duty_row
from connector.http.access import Admin, Reader, Writer
from connector.http.problems import ProblemError
from connector.settings import BaseUrl
from connector.storage.duties import SqlDuties, Standing
from connector.storage.webhooks import SqlWebhooks, Webhook
from policies.consent import ConsentState
from policies.errors import ConsentFormatError, ConsentStateError, PolicyFormatError, UnknownRecordError
from policies.explain import explain, explanation_document, operand_rows, read_request
from policies.templates import template_names

T = TypeVar("T")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExplainRequest(_Form):
    """A policy and what is asked of it; facts are named as ``GET /management/policies/operands`` lists them."""

    policy: dict[str, Any]
    scope: Literal["catalog", "negotiation", "transfer", "round", "release"] = "negotiation"
    action: str = Field(default="use", max_length=500)
    at: datetime | None = None
    facts: dict[str, Any] = Field(default_factory=dict, max_length=100)


class ReasonView(BaseModel):
    """One comparison."""

    text: str
    code: str
    rule: str
    operand: str
    operator: str
    fact: str | None
    required: list[str | float | bool]
    truth: str


class Explanation(BaseModel):
    """A decision as a person would say it, and what it was made of."""

    verdict: Literal["permit", "deny"]
    scope: str
    policy_id: str
    sentences: list[str]
    reasons: list[ReasonView]
    duties: list[str]
    deferred: list[str]
    missing_facts: list[str]


class OperandView(BaseModel):
    """A left operand that this connector understands."""

    operand: str
    fact: str
    binds: list[str]


class DutyView(BaseModel):
    """A duty under an agreement, and where it stands."""

    duty_id: str
    agreement_id: str
    kind: str
    holder: str
    terms: str
    state: Literal["waiting", "open", "overdue", "fulfilled"]
    begins: Literal["agreement", "job-end", "agreement-end"]
    job_id: str | None
    created_at: str
    due_at: str | None
    fulfilled_at: str | None
    evidence: dict[str, Any] | None


class Fulfilment(_Form):
    """What shows that a duty is fulfilled: a reference, a digest, an amount; no personal data."""

    evidence: dict[str, Any] = Field(min_length=1, max_length=20)


class Ending(_Form):
    """An agreement to end for good."""

    agreement_id: str = Field(min_length=1, max_length=500)
    reason: str = Field(min_length=1, max_length=300)


class StandingView(BaseModel):
    """How an agreement stands: ``refusals`` say why nothing may be done under it now."""

    agreement_id: str
    cancelled: bool
    reason: str
    overdue: list[str]
    refusals: list[str]


class WebhookRequest(_Form):
    """Who wants to hear of consents; ``events`` are states of consents, all of them when empty."""

    url: BaseUrl = Field(max_length=1000)
    events: list[ConsentState] = Field(default_factory=list, max_length=10)


class WebhookView(BaseModel):
    """A subscription."""

    webhook_id: str
    url: str
    events: list[str]
    created_at: datetime
    paused_at: datetime | None


class DeliveryView(BaseModel):
    """What became of one event."""

    event_id: str
    status: Literal["queued", "sent", "dead"]
    attempts: int
    created_at: datetime
    due_at: datetime
    last_status: int | None
    last_error: str | None


def policies_router(
    duties: SqlDuties,
    webhooks: SqlWebhooks,
    known: Callable[[str], bool],
    now: Callable[[], datetime],
    ids: Callable[[], str],
) -> APIRouter:
    """Return the routes; ``known`` says whether an agreement is one of ours."""
    router = APIRouter(prefix="/management", tags=["policies"])
    _add_policies(router, now)
    _add_duties(router, duties, now)
    _add_standings(router, duties, known, now)
    _add_webhooks(router, webhooks, now, ids)
    return router


def _add_policies(router: APIRouter, now: Callable[[], datetime]) -> None:
    @router.post("/policies/explain", summary="What a policy says to a request, and why")
    def explained(_operator: Reader, body: ExplainRequest) -> Explanation:
        document = body.model_dump(mode="json", exclude={"policy"}, exclude_none=True)
        request = _told(lambda: read_request(document, now=now()))
        return Explanation(**explanation_document(explain(body.policy, request)))

    @router.get("/policies/operands", summary="The left operands that this connector understands")
    def operands(_operator: Reader) -> list[OperandView]:
        return [OperandView(**row) for row in operand_rows()]

    @router.get("/policies/templates", summary="The policy templates that come with this version")
    def templates(_operator: Reader) -> list[str]:
        return template_names()


def _add_duties(router: APIRouter, duties: SqlDuties, now: Callable[[], datetime]) -> None:
    @router.get("/duties", summary="Duties under agreements, the most urgent first")
    def listed(
        _operator: Reader, agreement_id: str | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> list[DutyView]:
        return [DutyView(**duty_row(duty, now())) for duty in duties.all(agreement_id, limit)]

    @router.post("/duties/{duty_id}/fulfilment", summary="Write a duty's fulfilment with its evidence")
    def fulfilled(_operator: Writer, duty_id: str, body: Fulfilment) -> DutyView:
        done = _told(lambda: duties.fulfil(duty_id, body.evidence, now()))
        return DutyView(**duty_row(done, now()))


def _add_standings(
    router: APIRouter, duties: SqlDuties, known: Callable[[str], bool], now: Callable[[], datetime]
) -> None:
    def ours(agreement_id: str) -> None:
        if not known(agreement_id):
            raise ProblemError(404, "not-found", "Not found", "There is no such agreement here.")

    @router.get("/agreement-standing", summary="How an agreement stands")
    def standing(_operator: Reader, agreement_id: str) -> StandingView:
        ours(agreement_id)
        return _standing(agreement_id, duties.standing(agreement_id, now()))

    @router.post("/agreement-endings", status_code=201, summary="End an agreement for good; this beats every consent")
    def end(_operator: Admin, body: Ending) -> StandingView:
        ours(body.agreement_id)
        return _standing(body.agreement_id, duties.cancel(body.agreement_id, body.reason, now()))


def _add_webhooks(
    router: APIRouter, webhooks: SqlWebhooks, now: Callable[[], datetime], ids: Callable[[], str]
) -> None:
    @router.get("/webhooks", summary="Who hears of consents")
    def listed(_operator: Reader) -> list[WebhookView]:
        return [_webhook(item) for item in webhooks.all()]

    # Admin: what is told names this provider's learners, if only by pseudonym.
    @router.post("/webhooks", status_code=201, summary="Let one of your own systems hear of consents, signed")
    def subscribe(_operator: Admin, body: WebhookRequest) -> WebhookView:
        events = tuple(state.value for state in body.events)
        made = Webhook(webhook_id=ids().rpartition(":")[2], url=body.url, events=events, created_at=now())
        return _webhook(webhooks.add(made))

    @router.delete("/webhooks/{webhook_id}", status_code=204, summary="Tell it nothing more")
    def remove(_operator: Admin, webhook_id: str) -> None:
        _told(lambda: webhooks.remove(webhook_id))

    @router.post("/webhooks/{webhook_id}/pause", status_code=204, summary="Send nothing for now; what happens waits")
    def pause(_operator: Writer, webhook_id: str) -> None:
        _told(lambda: webhooks.pause(webhook_id, now()))

    @router.post("/webhooks/{webhook_id}/resume", status_code=204, summary="Go on with what has waited")
    def resume(_operator: Writer, webhook_id: str) -> None:
        _told(lambda: webhooks.pause(webhook_id, None))

    @router.get("/webhooks/{webhook_id}/deliveries", summary="What was told, what waits, what was given up")
    def deliveries(
        _operator: Reader,
        webhook_id: str,
        status: Literal["queued", "sent", "dead"] | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> list[DeliveryView]:
        found = webhooks.deliveries(webhook_id, status, limit)
        return [DeliveryView.model_validate(item, from_attributes=True) for item in found]

    @router.post("/webhooks/{webhook_id}/again", summary="Try what was given up once more; how many that are")
    def again(_operator: Writer, webhook_id: str) -> int:
        return webhooks.again(webhook_id, now())


def _standing(agreement_id: str, found: Standing) -> StandingView:
    return StandingView(
        agreement_id=agreement_id,
        cancelled=found.cancelled,
        reason=found.reason,
        overdue=list(found.overdue),
        refusals=list(found.refusals),
    )


def _webhook(found: Webhook) -> WebhookView:
    return WebhookView(
        webhook_id=found.webhook_id,
        url=found.url,
        events=list(found.events),
        created_at=found.created_at,
        paused_at=found.paused_at,
    )


def _told(work: Callable[[], T]) -> T:
    try:
        return work()
    except (PolicyFormatError, ConsentFormatError) as error:
        raise ProblemError(422, error.code, "The request is not valid", str(error)) from error
    except UnknownRecordError as error:
        raise ProblemError(404, error.code, "Not found", str(error)) from error
    except ConsentStateError as error:
        raise ProblemError(409, error.code, "It is in another state", str(error)) from error
