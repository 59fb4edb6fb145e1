"""Who stands before the consent service: a learner, a guardian with their wards, or an institution's bulk import."""

import dataclasses
from datetime import datetime

from policies.ages import Person
from policies.consent import ConsentAction, Relation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ward:
    """A child whom a guardian answers for, and how that responsibility was verified."""

    subject: str
    person: Person
    verification: str
    evidence_ref: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caller:
    """An authenticated person.

    Attributes:
        subject: their own id at the source.
        person: what is known about their age; None allows them nothing that needs it.
        wards: the children they answer for.
    """

    subject: str
    person: Person | None = None
    wards: tuple[Ward, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a caller says on a page: to one purpose of one version of a notice.

    Attributes:
        event_id: made by the client once per answer, so that a repeat is recognised.
        subject: the ward it is about; None for the caller.
    """

    event_id: str
    action: ConsentAction
    notice_id: str
    notice_version: int
    language: str
    purpose: str
    subject: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expression:
    """A decision about consent with everything needed to judge whether it may be made.

    Attributes:
        person: None when nothing is known about the subject's age.
        party: id of whoever expressed it (the subject's, unless a guardian's).
        expressed_at: when it was said elsewhere (imports); None is now.
        source: where it came from, e.g. ``consent-page`` or ``import``.
    """

    event_id: str
    action: ConsentAction
    subject: str
    notice_id: str
    notice_version: int
    language: str
    purpose: str
    person: Person | None
    relation: Relation = Relation.SELF
    party: str = ""
    verification: str = ""
    evidence_ref: str = ""
    expressed_at: datetime | None = None
    source: str = "consent-page"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What became of one imported expression: ``recorded``, ``unchanged`` (a repeat) or ``refused`` with its reason."""

    index: int
    outcome: str
    record_id: str = ""
    code: str = ""
    detail: str = ""
