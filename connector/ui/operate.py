"""Operators' pages below ``/operate``: what waits, what runs, what is owed, what is stuck, and what policies say and said."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from connector.identity.errors import ForbiddenError
from connector.ui.errors import PageError
from connector.ui.operate_facts import DECISIONS, Desk
from connector.ui.operate_sign_in import operator_of
from connector.ui.rendering import HEADERS, render
from connector.ui.requests import Form, require_own_form
from connector.ui.visits import Area, Visit, page_route
from learning.errors import LearningError
from learning.provide import decide_plan
from policies.decision import Verdict
from policies.scopes import Scope

_LOOK_SECONDS = 1.0
# A browser asks again by itself; an open stream must not outlive its session's renewal for ever.
_LOOKS = 600
_LONGEST_REASON = 500
_MOST_PAID = 1e12
_SAID_OF_WEBHOOKS = frozenset({"again", "pause", "resume"})
_ASKED = ("scope", "assignee", "purpose", "algorithm_class", "consent", "aggregation", "cohort_size")


def operate_routers(area: Area, desk: Desk) -> tuple[APIRouter, ...]:
    """Return the routes for operators who have signed in."""
    pages = APIRouter(prefix="/operate", include_in_schema=False, route_class=page_route(area))
    _add_reading(pages, area, desk)
    _add_policies(pages, area, desk)
    _add_plans(pages, area, desk)
    _add_duties(pages, area, desk)
    _add_decisions(pages, area, desk)
    _add_webhooks(pages, area, desk)
    _add_jobs(pages, area, desk)
    return (pages,)


def _operator(area: Area, request: Request, scope: str = "read") -> Visit:
    visit = Visit.of(area, request)
    try:
        operator_of(visit.signed_in.claims).require(scope)
    except ForbiddenError as error:
        raise PageError(403, "refused") from error
    return visit


def _add_reading(router: APIRouter, area: Area, desk: Desk) -> None:
    @router.get("/board")
    def board(request: Request) -> Response:
        """Show what waits for an operator, at a glance."""
        visit = _operator(area, request)
        pending = sum(row.pending for row in desk.plans())
        return visit.page(
            "operate/board.html",
            tab="board",
            pending=pending,
            running=desk.running(),
            stuck=len(desk.stuck_now()),
            overdue=desk.overdue(),
            given_up=desk.given_up(),
            denied=desk.denied(),
            counts=desk.counts(),
        )

    @router.get("/notices")
    def notices(request: Request) -> Response:
        """Show the notices in force with their versions and languages, and how many consent."""
        visit = _operator(area, request)
        found = [(row, desk.notice(row.notice, None)) for row in desk.counts()]
        return visit.page("operate/notices.html", tab="notices", rows=found)

    @router.get("/notices/{name}")
    def notice(request: Request, name: str, version: int | None = None) -> Response:
        """Show one version of a notice in all its languages."""
        visit = _operator(area, request)
        current, shown = desk.notice(name, None), desk.notice(name, version)
        if current is None or shown is None:
            raise PageError(404, "not_found")
        return visit.page("operate/notice.html", tab="notices", notice=shown, current=current, slug=name)

    @router.get("/stuck")
    def stuck(request: Request) -> Response:
        """Show messages that peers have not taken: the last attempt, the peer's answer, the next try."""
        visit = _operator(area, request)
        rows = [(row, desk.name_of(row.counterparty)) for row in desk.stuck_now()]
        return visit.page("operate/stuck.html", tab="stuck", rows=rows)


def _add_policies(router: APIRouter, area: Area, desk: Desk) -> None:
    @router.get("/policies")
    def policies(request: Request, dataset: str = "") -> Response:
        """Show the policies of the catalog, and what one of them says to a request."""
        visit = _operator(area, request)
        datasets = list(desk.datasets())
        chosen = next((one for one in datasets if one.id == dataset), None)
        asked = {name: request.query_params.get(name, "")[:_LONGEST_REASON] for name in _ASKED}
        return visit.page(
            "operate/policies.html",
            tab="policies",
            datasets=datasets,
            chosen=chosen,
            asked=asked,
            scopes=[scope.value for scope in Scope],
            said=desk.explain(chosen, asked) if chosen is not None and asked["scope"] else [],
        )


def _add_plans(router: APIRouter, area: Area, desk: Desk) -> None:
    @router.get("/plans")
    def plans(request: Request, said: str = "") -> Response:
        """Show the plans that consumers registered, those first that wait for a decision."""
        visit = _operator(area, request)
        shown = said if said in {"approved", "refused"} else ""
        return visit.page("operate/plans.html", tab="plans", rows=desk.plans(), said=shown)

    @router.post("/plans")
    def decide(request: Request, form: Form) -> Response:
        """Approve or refuse a plan; a refusal needs a reason, which its author will see."""
        visit = _operator(area, request, "write")
        require_own_form(request, visit.signed_in, form)
        decision, reason = form.get("decision"), form.get("reason", "").strip()[:_LONGEST_REASON]
        if decision not in {"approve", "refuse"}:
            raise PageError(400, "refused")
        if decision == "refuse" and not reason:
            rows = desk.plans()
            missing = (form.get("digest"), form.get("agreement"))
            return visit.page("operate/plans.html", status=422, tab="plans", rows=rows, said="", missing=missing)
        try:
            decide_plan(
                desk.node,
                form.get("digest", ""),
                form.get("agreement", ""),
                approve=decision == "approve",
                reason=reason or None,
            )
        except LearningError as error:
            raise PageError(409, "state") from error
        return visit.go("/operate/plans", said="approved" if decision == "approve" else "refused")


def _add_duties(router: APIRouter, area: Area, desk: Desk) -> None:
    @router.get("/duties")
    def duties(request: Request, said: str = "") -> Response:
        """Show what is owed under agreements, the overdue first, with a form for the proof."""
        visit = _operator(area, request)
        return visit.page("operate/duties.html", tab="duties", rows=desk.duty_rows(), said=said == "fulfilled")

    @router.post("/duties")
    def fulfil(request: Request, form: Form) -> Response:
        """Write a duty's fulfilment with its proof; nothing is taken back."""
        visit = _operator(area, request, "write")
        require_own_form(request, visit.signed_in, form)
        duty, proof = form.get("duty", ""), form.get("proof", "").strip()[:_LONGEST_REASON]
        if not proof:
            rows = desk.duty_rows()
            return visit.page("operate/duties.html", status=422, tab="duties", rows=rows, said=False, missing=duty)
        evidence: dict[str, object] = {"proof": proof}
        if form.get("amount", "").strip():
            evidence["amount"] = _amount(form["amount"])
        desk.duties.fulfil(duty, evidence, desk.now())
        return visit.go("/operate/duties", said="fulfilled")


def _amount(text: str) -> float:
    try:
        found = float(text.strip().replace(",", "."))
    except ValueError:
        found = -1.0
    if not 0 <= found < _MOST_PAID:
        raise PageError(422, "amount")
    return found


def _add_decisions(router: APIRouter, area: Area, desk: Desk) -> None:
    @router.get("/decisions")
    def decisions(request: Request, scope: str = "", verdict: str = "", before: str = "") -> Response:
        """Show who was allowed or denied what, and why; the newest first."""
        visit = _operator(area, request, "audit")
        wanted = scope if scope in {one.value for one in Scope} else ""
        answer = verdict if verdict in {one.value for one in Verdict} else ""
        rows = desk.decision_rows(wanted or None, answer or None, int(before[:18]) if before.isdecimal() else None)
        return visit.page(
            "operate/decisions.html",
            tab="decisions",
            rows=rows,
            scope=wanted,
            verdict=answer,
            scopes=[one.value for one in Scope],
            verdicts=[one.value for one in Verdict],
            older=rows[-1].number if len(rows) == DECISIONS else None,
        )


def _add_webhooks(router: APIRouter, area: Area, desk: Desk) -> None:
    @router.get("/webhooks")
    def webhooks(request: Request, said: str = "") -> Response:
        """Show who hears of consents, and what became of what they were told."""
        visit = _operator(area, request)
        shown = said if said in _SAID_OF_WEBHOOKS else ""
        return visit.page("operate/webhooks.html", tab="webhooks", rows=desk.webhook_rows(), said=shown)

    @router.post("/webhooks")
    def change(request: Request, form: Form) -> Response:
        """Try again what was given up, pause a subscription, or go on with it."""
        visit = _operator(area, request, "write")
        require_own_form(request, visit.signed_in, form)
        webhook, wish = form.get("webhook", ""), form.get("wish", "")
        if wish == "again":
            desk.webhooks.again(webhook, desk.now())
        elif wish in {"pause", "resume"}:
            desk.webhooks.pause(webhook, desk.now() if wish == "pause" else None)
        else:
            raise PageError(400, "refused")
        return visit.go("/operate/webhooks", said=wish)


def _add_jobs(router: APIRouter, area: Area, desk: Desk) -> None:
    def fragment(visit: Visit) -> str:
        return render("operate/jobs_table.html", {"rows": desk.jobs(), "t": visit.words})

    @router.get("/jobs")
    def jobs(request: Request) -> Response:
        """Show the jobs board; with scripts it follows by itself."""
        visit = _operator(area, request)
        return visit.page("operate/jobs.html", tab="jobs", rows=desk.jobs())

    @router.get("/jobs/stream")
    def stream(request: Request) -> Response:
        """Follow the jobs board as server-sent events: the table again whenever it changed."""
        visit = _operator(area, request)
        events = _board(request, lambda: fragment(visit))
        return StreamingResponse(events, media_type="text/event-stream", headers=dict(HEADERS))


async def _board(request: Request, table: Callable[[], str]) -> AsyncIterator[str]:
    seen = ""
    for _look in range(_LOOKS):
        if await request.is_disconnected():
            return
        text = await run_in_threadpool(table)
        mark = hashlib.sha256(text.encode()).hexdigest()
        if mark != seen:
            seen = mark
            yield "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
        await asyncio.sleep(_LOOK_SECONDS)
