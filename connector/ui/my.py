"""Learners' and guardians' pages below ``/my``: what is asked, what was answered, what became of it.

Every page works without JavaScript and carries none. A change is a form bound to its session; its answer is a redirect,
so that going back or reloading says nothing twice.
"""

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from connector.identity.sessions import Session
from connector.ui.errors import PageError
from connector.ui.my_views import (
    NameOf,
    NoticePage,
    Reader,
    answer_rows,
    expressed,
    history,
    notice_page,
    party,
    purpose_text,
    slug,
    use_rows,
)
from connector.ui.people import Learner, People, people_of
from connector.ui.rendering import HEADERS
from connector.ui.requests import Form, require_own_form
from connector.ui.visits import Area, Visit, page_route
from policies.consent import ConsentAction, ConsentRecord
from policies.notices import Notice, choose_language
from policies.people import Answer, Caller
from policies.service import ConsentService

_DECISIONS = {
    "grant": ConsentAction.GRANT,
    "change": ConsentAction.GRANT,
    "refuse": ConsentAction.REFUSE,
    "renew": ConsentAction.RENEW,
}
_SAID = frozenset({"grant", "refuse", "renew", "withdraw"})
_OBSTACLES = {
    "alone": "guardian_needed",
    "adult": "guardian_adult",
    "unverified": "guardian_unverified",
    "age_unknown": "age_unknown",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MyPages:
    """What the pages are made of.

    Attributes:
        area: ``/my`` and its sessions.
        consents: the consent service.
        name_of: a participant's name by its id.
    """

    area: Area
    consents: ConsentService
    name_of: NameOf

    def people(self, session: Session, visit: Visit) -> People:
        """Return who the session may answer for."""
        return people_of(session.claims, visit.words)

    def records(self, learner: Learner) -> list[ConsentRecord]:
        """Return one learner's records."""
        return self.consents.records(Caller(subject=learner.subject))

    def reader(self, visit: Visit, learner: Learner) -> Reader:
        """Return who reads."""
        return Reader(words=visit.words, learner=learner, now=self.consents.now(), name_of=self.name_of)

    def notice(self, name: str) -> Notice:
        """Return the current version of a notice by its short name.

        Raises:
            PageError: there is none.
        """
        for notice in self.consents.notices():
            if slug(notice.notice_id) == name:
                return notice
        raise PageError(404, "not_found")

    def versions(self, records: list[ConsentRecord]) -> dict[tuple[str, int], Notice]:
        """Return the versions of notices that records name."""
        wanted = {(record.notice_id, record.notice_version) for record in records}
        return {key: self.consents.notice(*key) for key in wanted}

    def page(self, notice: Notice, visit: Visit, learner: Learner, records: list[ConsentRecord]) -> NoticePage:
        """Return a notice as this reader meets it."""
        own = {record.purpose: record for record in records if record.dataset_id == notice.dataset_id}
        return notice_page(notice, own, self.reader(visit, learner))

    def whose(self, record_id: str, people: People) -> tuple[ConsentRecord, Learner, list[ConsentRecord]]:
        """Return a record, whose it is, and the rest of theirs.

        Raises:
            PageError: there is none, or it is another person's.
        """
        for learner in people.learners:
            records = self.records(learner)
            for record in records:
                if record.record_id == record_id:
                    return record, learner, records
        raise PageError(404, "not_found")


def my_router(pages: MyPages) -> APIRouter:
    """Return the routes below ``/my`` for people who have signed in."""
    router = APIRouter(prefix="/my", include_in_schema=False, route_class=page_route(pages.area))
    _add_reading(router, pages)
    _add_answering(router, pages)
    _add_receipts(router, pages)
    return router


def _who(pages: MyPages, visit: Visit) -> tuple[People, Learner | None]:
    people = pages.people(visit.signed_in, visit)
    if not people.learners:
        return people, None
    return people, people.at(visit.request.query_params.get("for"))


def _shared(people: People, learner: Learner | None) -> dict[str, Any]:
    return {"learners": people.learners, "learner": learner, "name": people.name}


def _add_reading(router: APIRouter, pages: MyPages) -> None:
    @router.get("/overview")
    def overview(request: Request) -> Response:
        """Show what waits for an answer and what was answered."""
        visit = Visit.of(pages.area, request)
        people, learner = _who(pages, visit)
        if learner is None:
            return visit.page("my/nobody.html", **_shared(people, None))
        records = pages.records(learner)
        shown = [pages.page(notice, visit, learner, records) for notice in pages.consents.notices()]
        current = {
            f"{page.notice.notice_id} {card.purpose}": page.notice.material(card.purpose)
            for page in shown
            for card in page.cards
        }
        rows = answer_rows(records, pages.versions(records), current, pages.reader(visit, learner))
        return visit.page(
            "my/overview.html",
            tab="home",
            asked=[page for page in shown if page.open],
            closed=[page for page in shown if page.expired],
            rows=rows,
            obstacle=learner.obstacle(pages.consents.now().date()),
            **_shared(people, learner),
        )

    @router.get("/notices/{name}")
    def notice(request: Request, name: str) -> Response:
        """Show a notice, short form first, with a form for each purpose."""
        visit = Visit.of(pages.area, request)
        people, learner = _who(pages, visit)
        if learner is None:
            return visit.page("my/nobody.html", **_shared(people, None))
        page = pages.page(pages.notice(name), visit, learner, pages.records(learner))
        events = {card.purpose: pages.consents.new_id() for card in page.cards}
        return visit.page(
            "my/notice.html",
            page=page,
            events=events,
            obstacle=learner.obstacle(pages.consents.now().date()),
            **_shared(people, learner),
        )

    @router.get("/uses")
    def uses(request: Request) -> Response:
        """Show in which rounds of which jobs the records were."""
        visit = Visit.of(pages.area, request)
        people, learner = _who(pages, visit)
        if learner is None:
            return visit.page("my/nobody.html", **_shared(people, None))
        records = pages.records(learner)
        found = pages.consents.uses(Caller(subject=learner.subject))
        rows = use_rows(found, records, pages.versions(records), pages.reader(visit, learner))
        return visit.page("my/uses.html", tab="uses", rows=rows, **_shared(people, learner))

    @router.get("/export")
    def export(request: Request) -> Response:
        """Give everything that is kept about one learner's decisions."""
        visit = Visit.of(pages.area, request)
        _people, learner = _who(pages, visit)
        refs = {record.subject_ref for record in pages.records(learner)} if learner else set()
        return _file(list(pages.consents.export(sorted(refs))), "decisions.json")


def _add_answering(router: APIRouter, pages: MyPages) -> None:
    @router.post("/answers")
    def answer(request: Request, form: Form) -> Response:
        """Take a yes, a no or a renewal for one purpose."""
        visit = Visit.of(pages.area, request)
        require_own_form(request, visit.signed_in, form)
        people = pages.people(visit.signed_in, visit)
        learner = people.at(form.get("for"))
        notice = pages.notice(form.get("notice", ""))
        said = _answer(form, notice, people, learner)
        if notice.valid_until is not None and pages.consents.now() >= notice.valid_until:
            raise PageError(403, "expired")
        if notice.version != said.notice_version:
            raise PageError(409, "changed")
        if said.language not in notice.texts:
            raise PageError(403, "no_language")
        _require_able(learner, said.action, pages.consents.now())
        record = pages.consents.answer(people.caller, said)
        return visit.go(f"/my/receipts/{record.record_id}", said=said.action.value)

    @router.get("/consents/{record_id}/withdraw")
    def ask(request: Request, record_id: str) -> Response:
        """Say what a withdrawal does and what it cannot undo, with one button."""
        visit = Visit.of(pages.area, request)
        people = pages.people(visit.signed_in, visit)
        record, learner, records = pages.whose(record_id, people)
        reader, versions = pages.reader(visit, learner), pages.versions(records)
        found = [
            use
            for use in pages.consents.uses(Caller(subject=learner.subject))
            if (use.dataset_id, use.purpose) == (record.dataset_id, record.purpose)
        ]
        notice = versions[record.notice_id, record.notice_version]
        return visit.page(
            "my/withdraw.html",
            record=record,
            purpose=_purpose(notice, record, visit),
            controller=notice.controller.name,
            rows=use_rows(found, records, versions, reader),
            event=pages.consents.new_id(),
            **_shared(people, learner),
        )

    @router.post("/consents/{record_id}/withdraw")
    def withdraw(request: Request, record_id: str, form: Form) -> Response:
        """Withdraw a yes."""
        visit = Visit.of(pages.area, request)
        require_own_form(request, visit.signed_in, form)
        people = pages.people(visit.signed_in, visit)
        _record, learner, _records = pages.whose(record_id, people)
        _require_able(learner, ConsentAction.WITHDRAW, pages.consents.now())
        record = pages.consents.withdraw(people.caller, record_id, _event(form))
        return visit.go(f"/my/receipts/{record.record_id}", said="withdraw")


def _add_receipts(router: APIRouter, pages: MyPages) -> None:
    @router.get("/receipts/{record_id}")
    def receipt(request: Request, record_id: str, said: str = "") -> Response:
        """Show a receipt for people."""
        visit = Visit.of(pages.area, request)
        people = pages.people(visit.signed_in, visit)
        record, learner, records = pages.whose(record_id, people)
        notice = pages.consents.notice(record.notice_id, record.notice_version)
        document = pages.consents.receipt(people.caller, record_id)
        events = pages.consents.history(people.caller, record_id)
        rows = use_rows(
            pages.consents.uses(Caller(subject=learner.subject)), records, pages.versions(records),
            pages.reader(visit, learner),
        )  # fmt: skip
        current = pages.page(pages.notice(slug(record.notice_id)), visit, learner, records)
        return visit.page(
            "my/receipt.html",
            record=record,
            number=document["payload"]["receipt_id"].removeprefix("urn:orchard:receipt:"),
            state=record.state_at(pages.consents.now()).value,
            said=said if said in _SAID else "",
            notice=notice,
            controller=notice.controller.name,
            title=notice.texts[choose_language(notice, visit.words.language)].title,
            slug=slug(record.notice_id),
            purpose=_purpose(notice, record, visit),
            recipients=[party(one, pages.name_of) for one in notice.purpose(record.purpose).recipients],
            expressed=expressed(events[-1], notice.controller.name, visit.words),
            history=history(events[:-1], visit.words),
            rows=[row for row in rows if row.record_id == record_id],
            more=current.open,
            **_shared(people, learner),
        )

    @router.get("/receipts/{record_id}/download")
    def download(request: Request, record_id: str) -> Response:
        """Give the signed receipt as a file."""
        visit = Visit.of(pages.area, request)
        people = pages.people(visit.signed_in, visit)
        document = pages.consents.receipt(people.caller, record_id)
        number = document["payload"]["receipt_id"].rpartition(":")[2][:12]
        return _file(document, f"receipt-{number}.json")


def _answer(form: Mapping[str, str], notice: Notice, people: People, learner: Learner) -> Answer:
    action, version = _DECISIONS.get(form.get("decision", "")), form.get("version", "")
    if action is None or not version.isdecimal() or form.get("purpose") not in {p.purpose for p in notice.purposes}:
        raise PageError(400, "refused")
    return Answer(
        event_id=_event(form),
        action=action,
        notice_id=notice.notice_id,
        notice_version=int(version[:9]),
        language=form.get("language", ""),
        purpose=form["purpose"],
        subject=people.subject_of(learner),
    )


def _event(form: Mapping[str, str]) -> str:
    event = form.get("event", "")
    if not event.startswith("urn:uuid:") or len(event) > 100:  # noqa: PLR2004 - ours are 45 characters long
        raise PageError(400, "refused")
    return event


def _require_able(learner: Learner, action: ConsentAction, now: datetime) -> None:
    """Say in the learner's words what the consent service would refuse anyway."""
    obstacle = learner.obstacle(now.date())
    if obstacle is None or (learner.own and action in {ConsentAction.REFUSE, ConsentAction.WITHDRAW}):
        return
    raise PageError(403, _OBSTACLES[obstacle])


def _purpose(notice: Notice, record: ConsentRecord, visit: Visit) -> str:
    return purpose_text(notice, record.purpose, choose_language(notice, visit.words.language), visit.words)


def _file(document: object, name: str) -> Response:
    text = json.dumps(document, ensure_ascii=False, indent=2)
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, headers=headers, media_type="application/json; charset=utf-8")
