"""Who may answer for whom: the age of consent per country, and the age at which a guardian's word ends.

Below the age of consent only a holder of parental responsibility may answer (GDPR article 8); from 18 on only the
person. Between the two either may. A year of birth counts as its last day, so that nobody is taken for older than they
may be; an unknown age allows nothing. Ages: national laws under GDPR article 8(1); 16 where we hold no other number.
"""

import dataclasses
from datetime import UTC, date, datetime

from policies.consent import Expresser, Relation
from policies.errors import AgeUnknownError, GuardianNeededError, GuardianNotAllowedError

MAJORITY = 18
DEFAULT_AGE = 16
AGE_OF_CONSENT = {
    **dict.fromkeys(["BE", "DK", "EE", "FI", "GB", "IS", "LV", "MT", "NO", "PT", "SE"], 13),
    **dict.fromkeys(["AT", "BG", "CY", "ES", "IT", "LT"], 14),
    **dict.fromkeys(["CZ", "FR", "GR", "SI"], 15),
    **dict.fromkeys(["DE", "HR", "HU", "IE", "LI", "LU", "NL", "PL", "RO", "SK"], 16),
}
# How a guardian's responsibility can have been checked; anything else is no verification.
VERIFICATIONS = frozenset({"school-register", "eid", "signed-form", "in-person", "video-identification"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Person:
    """What is known about a subject's age; used for the decision and not kept.

    Attributes:
        country: ISO 3166 code whose law applies.
        birth_year: year of birth, if known.
        birth_date: date of birth, if known (wins over the year).
        attested_adult: an institution vouches that the subject is of age, without a date.
    """

    country: str
    birth_year: int | None = None
    birth_date: date | None = None
    attested_adult: bool = False


def youngest_age(person: Person, today: date) -> int | None:
    """Return the age the person has at least, in years; None when nothing is known."""
    born = _born(person)
    if born is None:
        return MAJORITY if person.attested_adult else None
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def check_expresser(person: Person, expresser: Expresser, now: datetime) -> None:
    """Refuse an answer by somebody who may not give it.

    Raises:
        AgeUnknownError: no birth date, year or attestation.
        GuardianNeededError: a minor below the country's age of consent answered alone.
        GuardianNotAllowedError: a guardian answered for an adult, or without a known verification.
    """
    age = youngest_age(person, now.date())
    if age is None:
        raise AgeUnknownError("nothing says whether the learner is of age; a birth year or an attestation is needed")
    limit = AGE_OF_CONSENT.get(person.country.upper(), DEFAULT_AGE)
    if expresser.relation is Relation.SELF and age < limit:
        raise GuardianNeededError(f"below {limit} in {person.country.upper()} a parent or guardian answers")
    if expresser.relation is not Relation.GUARDIAN:
        return
    if age >= MAJORITY:
        raise GuardianNotAllowedError("the learner is an adult and answers alone")
    if expresser.verification not in VERIFICATIONS:
        raise GuardianNotAllowedError(
            "how the guardian was verified must be one of " + ", ".join(sorted(VERIFICATIONS))
        )


def guardian_until(person: Person) -> datetime | None:
    """Return when a guardian's answer ends (the earliest possible 18th birthday), None when no birth is known."""
    if person.birth_date is None and person.birth_year is None:
        return None
    if person.birth_date is None:
        return datetime((person.birth_year or 0) + MAJORITY, 1, 1, tzinfo=UTC)
    born = person.birth_date
    # 29 February comes of age on 1 March where there is none.
    day = (3, 1) if (born.month, born.day) == (2, 29) else (born.month, born.day)
    return datetime(born.year + MAJORITY, *day, tzinfo=UTC)


def _born(person: Person) -> date | None:
    if person.birth_date is not None:
        return person.birth_date
    return None if person.birth_year is None else date(person.birth_year, 12, 31)
