"""Who sits before a learner's page, and for whom they answer: from the claims of a session."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from connector.identity.learners import LearnerIdentity, learner_identity
from connector.ui.errors import PageError
from connector.ui.words import Words
from policies.ages import AGE_OF_CONSENT, DEFAULT_AGE, MAJORITY, VERIFICATIONS, Person, youngest_age
from policies.people import Caller

_NAME = 80
_WARD = ("sub", "name", "country", "birth_year", "birthdate", "verification", "evidence_ref")
_PERSON = ("sub", "name", "scope", "country", "birth_year", "birthdate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """Somebody whose consents this session may see.

    Attributes:
        place: their number in the session: 0 for the person who signed in, then their children.
        name: as the school account says it; for the page only, never kept.
        own: whether it is the person who signed in.
    """

    place: int
    subject: str = dataclasses.field(repr=False)
    name: str
    own: bool
    person: Person | None = dataclasses.field(repr=False)
    verified: bool = True

    def obstacle(self, caller_today: Any) -> str | None:
        """Return why a yes would not be taken: ``alone``, ``adult``, ``unverified``, ``age_unknown``, or None.

        The same rules as ``policies.ages.check_expresser``, asked before the buttons are shown.
        """
        age = None if self.person is None else youngest_age(self.person, caller_today)
        if self.person is None or age is None:
            return "age_unknown"
        if self.own:
            return "alone" if age < self.age_of_consent else None
        if age >= MAJORITY:
            return "adult"
        return None if self.verified else "unverified"

    @property
    def age_of_consent(self) -> int:
        """From which age on one answers alone, by the law of the country."""
        return AGE_OF_CONSENT.get(self.country, DEFAULT_AGE)

    @property
    def country(self) -> str:
        """The country whose law applies, empty when unknown."""
        return self.person.country.upper() if self.person is not None else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class People:
    """Everybody a session may answer for, and how the consent service sees the person who signed in."""

    caller: Caller
    learners: tuple[Learner, ...]
    name: str

    def at(self, place: str | None) -> Learner:
        """Return the learner at a place of the address, the first by default.

        Raises:
            PageError: there is nobody there.
        """
        if place is None and self.learners:
            return self.learners[0]
        for learner in self.learners:
            if str(learner.place) == place:
                return learner
        raise PageError(404, "unknown_learner")

    def subject_of(self, learner: Learner) -> str | None:
        """Return what an answer names as its subject: nothing for oneself."""
        return None if learner.own else learner.subject


def session_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a session keeps of an ID token: the person, their age and their children, nothing else."""
    kept = {name: claims[name] for name in _PERSON if name in claims}
    wards = claims.get("guardian_of")
    if isinstance(wards, list):
        kept["guardian_of"] = [
            {name: item[name] for name in _WARD if name in item} if isinstance(item, Mapping) else item
            for item in wards
        ]
    return kept


def people_of(claims: Mapping[str, Any], words: Words) -> People:
    """Return who a session may answer for.

    An issuer that says nothing of scopes means a learner, and a guardian where it names children.

    Raises:
        UnauthorizedError: the claims are malformed.
    """
    scopes = None if "scope" in claims else frozenset({"learner", "guardian"})
    identity = learner_identity(claims, scopes)
    name = _name(claims, "")
    caller = identity.caller()
    own = [_own(identity, caller, name or words("page.myself"))] if "learner" in identity.scopes else []
    raw = claims.get("guardian_of", [])
    wards = [
        Learner(
            place=number,
            subject=ward.subject,
            name=_name(raw[number - 1], words("page.child", number=number)),
            own=False,
            person=ward.person,
            verified=ward.verification in VERIFICATIONS,
        )
        for number, ward in enumerate(caller.wards, start=1)
    ]
    # A parent who is no learner here signs in for the children only.
    learners = wards if wards and "scope" not in claims else [*own, *wards]
    return People(caller=caller, learners=tuple(learners), name=name)


def _own(identity: LearnerIdentity, caller: Caller, name: str) -> Learner:
    return Learner(place=0, subject=identity.subject, name=name, own=True, person=caller.person)


def _name(claims: Mapping[str, Any], otherwise: str) -> str:
    value = claims.get("name")
    return value.strip()[:_NAME] if isinstance(value, str) and value.strip() else otherwise
