"""What learners' pages show: from notices, records and uses to words. Values only."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from connector.ui.people import Learner
from connector.ui.words import Words, language_name
from policies.ages import VERIFICATIONS
from policies.consent import ACTIVE, ConsentEvent, ConsentRecord, Relation
from policies.notices import Notice, NoticePurpose, NoticeText, choose_language
from policies.ports import UseSpan

NameOf = Callable[[str], str]
_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "none": ("grant", "refuse"),
    "requested": ("grant", "refuse"),
    "invalidated": ("grant", "refuse"),
    "expired": ("renew", "refuse"),
    "refused": ("change",),
    "withdrawn": ("change",),
    "granted": ("renew", "withdraw"),
    "renewed": ("renew", "withdraw"),
}
_NOW = {
    "granted": "now_yes",
    "renewed": "now_yes",
    "refused": "now_no",
    "withdrawn": "now_withdrawn",
    "expired": "now_expired",
}
_YES = frozenset({"grant", "renew", "change"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PurposeCard:
    """One purpose of a notice with where its answer stands and what can be said."""

    number: int
    purpose: str
    text: str
    recipients: str
    data: str
    method: str
    retention: str
    special: bool
    asked: bool
    state: str
    changed: bool
    standing: str
    record_id: str
    actions: tuple[str, ...]

    @property
    def waits(self) -> bool:
        """Whether somebody should answer it."""
        return self.asked and self.state in {"none", "requested", "expired", "invalidated"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoticePage:
    """A notice as one reader meets it, in its best language for them."""

    slug: str
    notice: Notice
    text: NoticeText
    language: str
    other_language: str
    expired: bool
    cards: tuple[PurposeCard, ...]

    @property
    def open(self) -> int:
        """How many purposes wait for an answer; none when the notice has expired."""
        return 0 if self.expired else sum(card.waits for card in self.cards)

    @property
    def changed(self) -> bool:
        """Whether an answer no longer counts because the notice says something else now."""
        return any(card.changed for card in self.cards)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One answer on the overview."""

    record_id: str
    slug: str
    title: str
    language: str
    purpose: str
    state: str
    since: datetime
    ends: datetime | None
    by_guardian: bool
    active: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseRow:
    """Rounds of a job in which the records took part."""

    job: str
    rounds: str
    purpose: str
    noise: str
    record_id: str
    active: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Who reads, when, and how others are called."""

    words: Words
    learner: Learner
    now: datetime
    name_of: NameOf


def slug(notice_id: str) -> str:
    """Return a short name of a notice for an address."""
    return hashlib.sha256(notice_id.encode()).hexdigest()[:16]


def party(identifier: str, name_of: NameOf) -> str:
    """Return how a participant is called: its name, else the host of its id."""
    name = name_of(identifier)
    return name if name != identifier else unquote(identifier.removeprefix("did:web:"))


def notice_page(notice: Notice, records: Mapping[str, ConsentRecord], reader: Reader) -> NoticePage:
    """Return a notice for a reader; ``records`` are theirs about its dataset, by purpose."""
    language = choose_language(notice, reader.words.language)
    text = notice.texts[language]
    expired = notice.valid_until is not None and reader.now >= notice.valid_until
    cards = tuple(
        _card(notice, item, number, text, records.get(item.purpose), reader, expired=expired)
        for number, item in enumerate(notice.purposes, start=1)
    )
    known = language.partition("-")[0].lower() == reader.words.language
    return NoticePage(
        slug=slug(notice.notice_id),
        notice=notice,
        text=text,
        language=language,
        other_language="" if known else language_name(language),
        expired=expired,
        cards=cards,
    )


def purpose_text(notice: Notice | None, purpose: str, language: str, words: Words) -> str:
    """Return a purpose as its notice words it, else as we do."""
    if notice is not None and language in notice.texts:
        own = notice.texts[language].purposes.get(purpose)
        if own:
            return own
    return words.term("purpose", purpose)


def answer_rows(
    records: Sequence[ConsentRecord],
    notices: Mapping[tuple[str, int], Notice],
    current: Mapping[str, str],
    reader: Reader,
) -> list[AnswerRow]:
    """Return the answers for the overview; ``current`` maps notice ids and purposes to what counts now."""
    rows = []
    for record in records:
        notice = notices.get((record.notice_id, record.notice_version))
        material = current.get(f"{record.notice_id} {record.purpose}")
        state = _state(record, material, reader.now)
        language = choose_language(notice, reader.words.language) if notice else reader.words.language
        active = state in {"granted", "renewed"}
        rows.append(
            AnswerRow(
                record_id=record.record_id,
                slug=slug(record.notice_id),
                title=notice.texts[language].title if notice else record.notice_id,
                language=language,
                purpose=purpose_text(notice, record.purpose, language, reader.words),
                state=state,
                since=record.updated_at,
                ends=record.expires_at if active or state == "expired" else None,
                by_guardian=record.expressed_by.relation is Relation.GUARDIAN,
                active=active,
            )
        )
    return rows


def use_rows(
    uses: Sequence[UseSpan], records: Sequence[ConsentRecord], notices: Mapping[tuple[str, int], Notice], reader: Reader
) -> list[UseRow]:
    """Return what the records were used for, newest last."""
    rows, t = [], reader.words
    for use in uses:
        record = next(
            (item for item in records if (item.dataset_id, item.purpose) == (use.dataset_id, use.purpose)), None
        )
        notice = notices.get((record.notice_id, record.notice_version)) if record else None
        language = choose_language(notice, t.language) if notice else t.language
        many = use.first_round != use.last_round
        key = "uses.rounds_many" if many else "uses.rounds_one"
        plain = use.noise in {"", "none"}
        rows.append(
            UseRow(
                job=use.job_id.removeprefix("urn:uuid:"),
                rounds=t(key, first=use.first_round, last=use.last_round),
                purpose=purpose_text(notice, use.purpose, language, t),
                noise=t("uses.noise_none") if plain else t("uses.noise_some", noise=use.noise),
                record_id=record.record_id if record else "",
                active=record is not None and record.state_at(reader.now) in ACTIVE,
            )
        )
    return rows


def history(events: Sequence[ConsentEvent], words: Words) -> list[dict[str, str]]:
    """Return a record's events as lines, newest first."""
    return [
        {
            "what": words(f"event.{event.payload['action']}"),
            "when": words.time(datetime.fromisoformat(str(event.payload["at"]))),
        }
        for event in reversed(events)
    ]


def expressed(event: ConsentEvent, controller: str, words: Words) -> str:
    """Return who said what an event records."""
    by: Mapping[str, Any] = event.payload["expressed_by"]
    relation = str(by["relation"])
    how = str(by["verification"])
    shown = words(f"verification.{how}") if how in VERIFICATIONS else how
    return words(f"receipt.{relation}", how=shown, controller=controller)


def _card(
    notice: Notice,
    item: NoticePurpose,
    number: int,
    text: NoticeText,
    record: ConsentRecord | None,
    reader: Reader,
    *,
    expired: bool,
) -> PurposeCard:
    t = reader.words
    state = _state(record, notice.material(item.purpose), reader.now)
    changed = state == "invalidated"
    actions = _actions(state, reader, expired=expired) if item.optional else ()
    standing = ""
    if record is not None and state in _NOW:
        standing = t(
            f"answer.{_NOW[state]}",
            date=t.date(record.expires_at if state == "expired" else record.updated_at),
            date_end=t.date(record.expires_at),
        )
    return PurposeCard(
        number=number,
        purpose=item.purpose,
        text=text.purposes.get(item.purpose) or t.term("purpose", item.purpose),
        recipients=t.join([party(one, reader.name_of) for one in item.recipients]),
        data=t.join([t.term("data", one) for one in item.data_categories]),
        method=t.term("algorithm", item.algorithm_class),
        retention=t.duration(item.retention),
        special=item.special_category,
        asked=item.optional,
        state=state,
        changed=changed,
        standing=standing,
        record_id=record.record_id if record is not None else "",
        actions=actions,
    )


def _actions(state: str, reader: Reader, *, expired: bool) -> tuple[str, ...]:
    """What may be said now: an expired notice takes no answer, and nobody is offered a yes that would be refused."""
    offered = _ACTIONS[state]
    if expired:
        return tuple(action for action in offered if action == "withdraw")
    obstacle = reader.learner.obstacle(reader.now.date())
    if obstacle is None:
        return offered
    if obstacle in {"adult", "unverified"}:
        return ()
    return tuple(action for action in offered if action not in _YES)


def _state(record: ConsentRecord | None, material: str | None, now: datetime) -> str:
    if record is None:
        return "none"
    state = record.state_at(now)
    if state in ACTIVE and material is not None and record.material != material:
        return "invalidated"
    return state.value
