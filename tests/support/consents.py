"""A consent service over a real database with a clock that tests turn, and ready-made notices and people."""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.storage.consents import SqlConsentStore
from connector.storage.database import Database
from policies.ages import Person
from policies.codec import parse_notice
from policies.consent import ConsentAction
from policies.notices import Notice
from policies.people import Answer, Caller, Expression, Ward
from policies.service import ConsentService
from policies.signing import Signer, new_signer

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
PURPOSE = "https://w3id.org/orchard/KnowledgeTracing"
OTHER_PURPOSE = "https://w3id.org/dpv#AcademicResearch"
DATASET = "urn:dataset:school-1"
NOTICE = "urn:notice:school-1"


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **parts: float) -> None:
        """Move forward by a timedelta's parts."""
        self.time += timedelta(**parts)


class Ids:
    """Ids in order, each once."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"urn:uuid:00000000-0000-4000-8000-{next(self._numbers):012d}"


@dataclasses.dataclass(kw_only=True)
class ConsentRig:
    """A service and what is around it."""

    service: ConsentService
    clock: Clock
    ids: Ids
    signer: Signer
    changes: list[tuple[str, str]]


def consent_rig(database: Database) -> ConsentRig:
    """Return a consent service on ``database`` with nothing published yet."""
    clock, ids, signer, changes = Clock(), Ids(), new_signer("did:web:school.example"), []
    service = ConsentService(
        store=SqlConsentStore(database),
        signer=signer,
        secret=b"a secret of this provider only",
        now=clock,
        new_id=ids,
        on_change=lambda dataset_id, purpose: changes.append((dataset_id, purpose)),
    )
    return ConsentRig(service=service, clock=clock, ids=ids, signer=signer, changes=changes)


def notice_body(**changes: Any) -> dict[str, Any]:
    """Return a notice as a provider would write it, with parts replaced."""
    body = {
        "notice_id": NOTICE,
        "version": 1,
        "dataset_id": DATASET,
        "controller": {"party_id": "did:web:school.example", "name": "School One", "contact": "dpo@school.example"},
        "purposes": [purpose_body(PURPOSE), purpose_body(OTHER_PURPOSE)],
        "jurisdiction": "DE",
        "texts": {
            language: {"title": title, "short": title, "full": title}
            for language, title in (("en", "How we use your answers"), ("de", "Was mit deinen Antworten geschieht"))
        },
        "default_language": "en",
        "published_at": START.isoformat(),
        "withdrawal": "https://school.example/consent",
    }
    return {**body, **changes}


def purpose_body(purpose: str, **changes: Any) -> dict[str, Any]:
    """Return one purpose of a notice."""
    body = {
        "purpose": purpose,
        "recipients": ["did:web:ai.example"],
        "retention": "P1Y",
        "data_categories": ["https://w3id.org/dpv/pd#EducationalExperience"],
        "algorithm_class": "https://w3id.org/orchard/KnowledgeTracingModel",
    }
    return {**body, **changes}


def notice(**changes: Any) -> Notice:
    """Return a parsed notice."""
    return parse_notice(notice_body(**changes))


def adult(subject: str = "ada") -> Caller:
    """Return a grown-up learner."""
    return Caller(subject=subject, person=Person(country="DE", birth_year=1990))


def child(subject: str = "kim") -> Caller:
    """Return a learner of ten or eleven."""
    return Caller(subject=subject, person=Person(country="DE", birth_year=2015))


def guardian(*children: str, of_birth_year: int = 2015, verification: str = "school-register") -> Caller:
    """Return a parent of children of one age."""
    wards = tuple(
        Ward(subject=name, person=Person(country="DE", birth_year=of_birth_year), verification=verification)
        for name in children
    )
    return Caller(subject="parent", person=Person(country="DE", birth_year=1980), wards=wards)


def answer(event_id: str, **changes: Any) -> Answer:
    """Return a grant of the usual purpose, with parts replaced."""
    plain: dict[str, Any] = {
        "action": ConsentAction.GRANT,
        "notice_id": NOTICE,
        "notice_version": 1,
        "language": "en",
        "purpose": PURPOSE,
    }
    return Answer(event_id=event_id, **(plain | changes))


def imported(number: int, **changes: Any) -> Expression:
    """Return one entry of a school's bulk import."""
    plain: dict[str, Any] = {
        "event_id": f"import-{number}",
        "action": ConsentAction.GRANT,
        "subject": f"learner-{number}",
        "notice_id": NOTICE,
        "notice_version": 1,
        "language": "de",
        "purpose": PURPOSE,
        "person": Person(country="DE", birth_year=1990),
        "expressed_at": START,
        "source": "import",
    }
    return Expression(**(plain | changes))
