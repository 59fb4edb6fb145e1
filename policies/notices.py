"""Privacy notices: versioned, in several languages, short form first.

A version is immutable. What a learner agreed to for a purpose is its *material*: recipients, retention, data
categories, algorithm class, legal basis and controller. A later version that changes the material of a purpose leaves
earlier consents for that purpose behind (the learner is asked again); one that only says it better does not.
Sources: GDPR articles 7, 12 and 13; ISO/IEC TS 27560 (notice version, language); ISO/IEC 29184.
"""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from policies.canonical import digest
from policies.errors import NoticeError, NoticeVersionError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Party:
    """An organisation named in a notice."""

    party_id: str
    name: str
    contact: str = ""
    address: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoticePurpose:
    """One purpose that can be granted or refused by itself.

    Attributes:
        purpose: IRI (DPV or ours).
        recipients: ids of those who get the result (never the data, which stays).
        retention: how long the data is used for this purpose, ISO 8601 duration.
        data_categories: DPV-PD or other IRIs.
        algorithm_class: what kind of computing, an IRI.
        legal_basis: IRI, consent by default.
        optional: False when the service cannot be given without it; then it is not asked as consent.
        special_category: data of GDPR article 9.
    """

    purpose: str
    recipients: tuple[str, ...]
    retention: str
    data_categories: tuple[str, ...]
    algorithm_class: str
    legal_basis: str = "https://w3id.org/dpv/legal/eu/gdpr#A6-1-a"
    optional: bool = True
    special_category: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoticeText:
    """The words of a notice in one language; ``withdrawal`` says how to withdraw, the notice's own words without."""

    title: str
    short: str
    full: str
    withdrawal: str = ""
    purposes: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notice:
    """One version of a notice about one dataset.

    Attributes:
        consent_days: how long a grant under this notice lasts.
        valid_until: from then on nobody can consent under it.
        texts: language tag -> words; ``default_language`` is one of them.
    """

    notice_id: str
    version: int
    dataset_id: str
    controller: Party
    purposes: tuple[NoticePurpose, ...]
    jurisdiction: str
    texts: Mapping[str, NoticeText]
    default_language: str
    published_at: datetime
    valid_until: datetime | None = None
    consent_days: int = 365
    storage_places: tuple[str, ...] = ()
    withdrawal: str = ""
    authority: str = ""
    dpo: str = ""
    rights: tuple[str, ...] = ("access", "rectification", "erasure", "restriction", "withdrawal", "complaint")

    def purpose(self, iri: str) -> NoticePurpose:
        """Return what the notice says about a purpose.

        Raises:
            NoticeError: it does not name that purpose.
        """
        for item in self.purposes:
            if item.purpose == iri:
                return item
        raise NoticeError("the notice does not name this purpose")

    def how_to_withdraw(self, language: str) -> str:
        """Return the way to withdraw in a language, else as the notice says it for everybody."""
        text = self.texts.get(language)
        return text.withdrawal if text is not None and text.withdrawal else self.withdrawal

    def material(self, iri: str) -> str:
        """Return the digest of what a learner agrees to for one purpose."""
        return digest({"controller": self.controller.party_id, **dataclasses.asdict(self.purpose(iri))})

    def content(self) -> dict[str, Any]:
        """Return everything the notice says as JSON, without the moment it was published."""
        body = dataclasses.asdict(
            dataclasses.replace(self, texts={}), dict_factory=lambda pairs: {k: _json(v) for k, v in pairs}
        )
        body["texts"] = {language: _text(text) for language, text in sorted(self.texts.items())}
        del body["published_at"]
        return body

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the content."""
        return digest(self.content())


def check_successor(old: Notice | None, new: Notice) -> bool:
    """Check that ``new`` may be published after ``old``; return False when it is the same notice again.

    Raises:
        NoticeVersionError: the version does not grow while the content changes, or the dataset changes.
    """
    if old is None:
        return True
    if old.version == new.version and old.digest() == new.digest():
        return False
    if new.dataset_id != old.dataset_id:
        raise NoticeVersionError("a notice stays with its dataset; give the new one another id")
    if new.version <= old.version:
        raise NoticeVersionError(f"the notice changed: publish it as version {old.version + 1}, not {new.version}")
    return True


def choose_language(notice: Notice, accept_language: str | None) -> str:
    """Return the language of ``notice`` that suits an Accept-Language header best, else its default.

    A malformed header counts as none. Source: RFC 9110, section 12.5.4 (prefix match of RFC 4647).
    """
    wanted: list[tuple[float, int, str]] = []
    for place, item in enumerate((accept_language or "")[:1000].split(",")):
        tag, _, rest = item.strip().partition(";")
        quality = _quality(rest)
        if tag and quality > 0:
            wanted.append((-quality, place, tag.strip().casefold()))
    offered = {language.casefold(): language for language in notice.texts}
    for _minus_quality, _place, tag in sorted(wanted):
        if tag == "*":
            break
        prefix = tag
        while prefix:
            if prefix in offered:
                return offered[prefix]
            prefix = prefix.rpartition("-")[0]
    return notice.default_language


def _quality(text: str) -> float:
    text = text.strip()
    if not text:
        return 1.0
    try:
        return min(1.0, max(0.0, float(text.removeprefix("q=")))) if text.startswith("q=") else 1.0
    except ValueError:
        return 0.0


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def _text(text: NoticeText) -> dict[str, Any]:
    said = {"title": text.title, "short": text.short, "full": text.full, "purposes": dict(text.purposes)}
    # Left out where it is empty: what was signed before there was such a place keeps its digest.
    return said | ({"withdrawal": text.withdrawal} if text.withdrawal else {})
