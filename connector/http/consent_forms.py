"""Request and response bodies of the consent endpoints."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.codec import Iri, Language, Name
from policies.consent import ConsentEvent, ConsentRecord
from policies.notices import Notice
from policies.people import ImportResult
from policies.ports import UseSpan


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewAnswer(_Form):
    """A grant or a refusal of one purpose; ``event_id`` is made by the client once per answer."""

    event_id: Name
    decision: Literal["grant", "refuse"]
    notice_id: Iri
    notice_version: int = Field(ge=1)
    language: Language
    purpose: Iri
    subject: Name | None = Field(default=None, description="The child a guardian answers for; left out for oneself.")


class Withdrawal(_Form):
    """A withdrawal; ``event_id`` is made by the client once."""

    event_id: Name


class Renewal(_Form):
    """A renewal under the version of the notice that was just read."""

    event_id: Name
    notice_version: int = Field(ge=1)


class ImportList(_Form):
    """An institution's list. Each row is judged by itself; a malformed row does not stop the others."""

    records: list[dict[str, Any]] = Field(max_length=20_000)


class PurposeView(BaseModel):
    """One purpose of a notice."""

    purpose: str
    text: str
    recipients: list[str]
    retention: str
    data_categories: list[str]
    algorithm_class: str
    legal_basis: str
    optional: bool
    special_category: bool


class NoticeView(BaseModel):
    """A notice in one language."""

    notice_id: str
    version: int
    dataset_id: str
    language: str
    languages: list[str]
    title: str
    short: str
    full: str
    controller: dict[str, str]
    purposes: list[PurposeView]
    jurisdiction: str
    storage_places: list[str]
    rights: list[str]
    withdrawal: str
    authority: str
    dpo: str
    consent_days: int
    published_at: datetime
    valid_until: datetime | None
    digest: str


class RecordView(BaseModel):
    """One's own consent record; ``subject`` tells a guardian whose it is (a pseudonym)."""

    record_id: str
    subject: str
    dataset_id: str
    purpose: str
    state: str
    notice_id: str
    notice_version: int
    language: str
    expressed_by: str
    expires_at: datetime
    updated_at: datetime


class Answered(BaseModel):
    """A record after an answer, with its signed receipt."""

    record: RecordView
    receipt: dict[str, Any]


class CheckedReceipt(BaseModel):
    """A receipt that holds: what it says, not what was said since."""

    state: str
    issued_at: datetime
    events: int


class UseView(BaseModel):
    """Rounds of a job in which one's rows were read."""

    job_id: str
    dataset_id: str
    purpose: str
    first_round: int
    last_round: int
    noise: str


class EventView(BaseModel):
    """One signed link of a record's chain; ``expressed_by`` tells the person from a guardian and the provider."""

    event_id: str
    revision: int
    action: str
    state: str
    at: datetime
    recorded_at: datetime
    expressed_by: str
    source: str
    notice_version: int
    hash: str


class ImportView(BaseModel):
    """What became of one row."""

    index: int
    outcome: str
    record_id: str
    code: str
    detail: str


class ImportAnswer(BaseModel):
    """What became of an import."""

    recorded: int
    unchanged: int
    refused: int
    results: list[ImportView]


class CountView(BaseModel):
    """How many consent, as a band; both bounds are null below the floor."""

    dataset_id: str
    purpose: str
    lower: int | None
    upper: int | None
    floor: int
    text: str


def notice_view(notice: Notice, language: str) -> NoticeView:
    """Return a notice in one of its languages."""
    text = notice.texts[language]
    return NoticeView(
        notice_id=notice.notice_id,
        version=notice.version,
        dataset_id=notice.dataset_id,
        language=language,
        languages=sorted(notice.texts),
        title=text.title,
        short=text.short,
        full=text.full,
        controller={
            "id": notice.controller.party_id,
            "name": notice.controller.name,
            "contact": notice.controller.contact,
            "address": notice.controller.address,
        },
        purposes=[
            PurposeView(
                purpose=item.purpose,
                text=text.purposes.get(item.purpose, ""),
                recipients=list(item.recipients),
                retention=item.retention,
                data_categories=list(item.data_categories),
                algorithm_class=item.algorithm_class,
                legal_basis=item.legal_basis,
                optional=item.optional,
                special_category=item.special_category,
            )
            for item in notice.purposes
        ],
        jurisdiction=notice.jurisdiction,
        storage_places=list(notice.storage_places),
        rights=list(notice.rights),
        withdrawal=notice.how_to_withdraw(language),
        authority=notice.authority,
        dpo=notice.dpo,
        consent_days=notice.consent_days,
        published_at=notice.published_at,
        valid_until=notice.valid_until,
        digest=notice.digest(),
    )


def record_view(record: ConsentRecord, now: datetime) -> RecordView:
    """Return a record as its subject sees it; overdue consents show as expired."""
    return RecordView(
        record_id=record.record_id,
        subject=record.subject_ref,
        dataset_id=record.dataset_id,
        purpose=record.purpose,
        state=record.state_at(now).value,
        notice_id=record.notice_id,
        notice_version=record.notice_version,
        language=record.language,
        expressed_by=record.expressed_by.relation.value,
        expires_at=record.expires_at,
        updated_at=record.updated_at,
    )


def use_view(use: UseSpan) -> UseView:
    """Return a use as its subject sees it."""
    return UseView(
        job_id=use.job_id,
        dataset_id=use.dataset_id,
        purpose=use.purpose,
        first_round=use.first_round,
        last_round=use.last_round,
        noise=use.noise,
    )


def event_view(event: ConsentEvent) -> EventView:
    """Return an event as its subject sees it."""
    payload = event.payload
    return EventView(
        event_id=event.event_id,
        revision=event.revision,
        action=payload["action"],
        state=payload["state"],
        at=payload["at"],
        recorded_at=payload["recorded_at"],
        expressed_by=payload["expressed_by"]["relation"],
        source=payload["source"],
        notice_version=payload["notice"]["version"],
        hash=event.hash,
    )


def import_view(result: ImportResult) -> ImportView:
    """Return the outcome of a row."""
    return ImportView(
        index=result.index,
        outcome=result.outcome,
        record_id=result.record_id,
        code=result.code,
        detail=result.detail,
    )
