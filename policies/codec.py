"""Bytes become values here: notices as JSON or TOML, and the rows of an institution's bulk import.

What is refused names the place and the kind of problem and never repeats the value: it may be personal data.
"""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from policies.ages import Person
from policies.consent import ConsentAction, Relation
from policies.errors import ConsentFormatError
from policies.notices import Notice, NoticePurpose, NoticeText, Party
from policies.operands.compare import duration
from policies.people import Expression

# No control characters: PostgreSQL stores no NUL, and logs and pages need none of the others.
Name = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
Iri = Annotated[str, Field(min_length=3, max_length=500, pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:\S+$")]
Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
BirthYear = Annotated[int, Field(ge=1900, le=2100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Party(_Strict):
    party_id: Name
    name: Name
    contact: str = Field(default="", max_length=500)
    address: str = Field(default="", max_length=500)


class _Purpose(_Strict):
    purpose: Iri
    recipients: tuple[Name, ...] = Field(min_length=1, max_length=100)
    retention: str = Field(max_length=40)
    data_categories: tuple[Iri, ...] = Field(min_length=1, max_length=100)
    algorithm_class: Iri
    legal_basis: Iri = "https://w3id.org/dpv/legal/eu/gdpr#A6-1-a"
    optional: bool = True
    special_category: bool = False

    @field_validator("retention")
    @classmethod
    def _is_a_duration(cls, value: str) -> str:
        if duration(value) is None:
            raise ValueError("not an ISO 8601 duration such as P1Y")
        return value


class _Text(_Strict):
    title: Name
    short: str = Field(min_length=1, max_length=4000)
    full: str = Field(default="", max_length=100_000)
    withdrawal: str = Field(default="", max_length=500)
    purposes: dict[str, str] = Field(default_factory=dict, max_length=100)


class _Notice(_Strict):
    notice_id: Iri
    version: int = Field(ge=1)
    dataset_id: Name
    controller: _Party
    purposes: tuple[_Purpose, ...] = Field(min_length=1, max_length=50)
    jurisdiction: Country
    texts: dict[Language, _Text] = Field(min_length=1, max_length=50)
    default_language: Language
    published_at: AwareDatetime
    valid_until: AwareDatetime | None = None
    consent_days: int = Field(default=365, ge=1, le=3650)
    storage_places: tuple[Name, ...] = ()
    withdrawal: str = Field(default="", max_length=500)
    authority: str = Field(default="", max_length=500)
    dpo: str = Field(default="", max_length=500)
    rights: tuple[Name, ...] = ("access", "rectification", "erasure", "restriction", "withdrawal", "complaint")

    @model_validator(mode="after")
    def _holds_together(self) -> "_Notice":
        if self.default_language not in self.texts:
            raise ValueError("the default language has no text")
        if len({item.purpose for item in self.purposes}) != len(self.purposes):
            raise ValueError("a purpose is named twice")
        return self


class _Row(_Strict):
    event_id: Name
    subject: Name
    decision: Literal["grant", "refuse", "withdraw", "renew"]
    notice_id: Iri
    notice_version: int = Field(ge=1)
    language: Language
    purpose: Iri
    expressed_at: AwareDatetime
    country: Country
    birth_year: BirthYear | None = None
    birth_date: date | None = None
    attested_adult: bool = False
    guardian: Name | None = None
    verification: str = Field(default="", max_length=100)
    evidence_ref: str = Field(default="", max_length=500)


def parse_notice(document: object, *, published_at: datetime | None = None) -> Notice:
    """Return the notice that a JSON (or TOML) document describes.

    Args:
        document: the notice; ``published_at`` may be left out when it is given here.
        published_at: aware UTC time to use when the document has none.

    Raises:
        ConsentFormatError: it is not a notice; the message names the places that are wrong.
    """
    if isinstance(document, dict) and published_at is not None:
        document = {"published_at": published_at, **document}
    try:
        found = _Notice.model_validate(document)
    except ValidationError as error:
        raise ConsentFormatError("the notice is not valid: " + problems(error)) from error
    plain = {name: getattr(found, name) for name in _Notice.model_fields}
    return Notice(
        **plain
        | {
            "controller": Party(**found.controller.model_dump()),
            "purposes": tuple(NoticePurpose(**dict(item)) for item in found.purposes),
            "texts": {language: NoticeText(**dict(text)) for language, text in found.texts.items()},
        }
    )


def notice_document(notice: Notice) -> dict[str, Any]:
    """Return a notice as the JSON that :func:`parse_notice` reads."""
    return {**notice.content(), "published_at": notice.published_at.isoformat()}


def parse_import_row(row: object) -> Expression:
    """Return the expression that one row of a bulk import describes.

    Raises:
        ConsentFormatError: the row is malformed; the message never repeats its values.
    """
    try:
        found = _Row.model_validate(row)
    except ValidationError as error:
        raise ConsentFormatError(problems(error)) from error
    return Expression(
        event_id=found.event_id,
        action=ConsentAction(found.decision),
        subject=found.subject,
        notice_id=found.notice_id,
        notice_version=found.notice_version,
        language=found.language,
        purpose=found.purpose,
        person=Person(
            country=found.country,
            birth_year=found.birth_year,
            birth_date=found.birth_date,
            attested_adult=found.attested_adult,
        ),
        relation=Relation.GUARDIAN if found.guardian else Relation.SELF,
        party=found.guardian or found.subject,
        verification=found.verification,
        evidence_ref=found.evidence_ref,
        expressed_at=found.expressed_at,
        source="import",
    )


def problems(error: ValidationError) -> str:
    """Return where a document is wrong and how, without any of its values."""
    found = [
        f"{'.'.join(str(part) for part in item['loc'])[:80] or 'document'}: {item['type'].replace('_', ' ')}"
        for item in error.errors(include_url=False, include_input=False, include_context=False)[:5]
    ]
    return "; ".join(found)
