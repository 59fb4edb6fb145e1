"""The life of a consent: its table, its chain, its ages, its notices and its receipts."""

import copy
import dataclasses
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

import policies
from connector.ui.words import LANGUAGES
from policies.accounts import ACCOUNTS
from policies.ages import Person, check_expresser, guardian_until, youngest_age
from policies.canonical import canonical_json
from policies.codec import notice_document, parse_import_row, parse_notice
from policies.consent import (
    ACTIVE,
    TRANSITIONS,
    ConsentAction,
    ConsentEvent,
    ConsentRecord,
    ConsentState,
    Expresser,
    Relation,
    after,
    diagram,
    seal_event,
    verify_chain,
)
from policies.counts import band
from policies.errors import (
    AgeUnknownError,
    ConsentFormatError,
    ConsentStateError,
    EvidenceError,
    GuardianNeededError,
    GuardianNotAllowedError,
    NoticeError,
)
from policies.notices import choose_language
from policies.operands import REGISTRY
from policies.ports import UseSpan
from policies.receipts import issue_receipt, verify_receipt
from policies.signing import Signer, new_signer
from policies.subjects import party_ref, subject_ref
from tests.support.consents import DATASET, NOTICE, PURPOSE, START, notice, notice_body, purpose_body

NOW = datetime(2026, 11, 21, tzinfo=UTC)

_ALLOWED = """
none request requested; none grant granted; none refuse refused
requested grant granted; requested refuse refused
granted withdraw withdrawn; granted renew renewed; granted expire expired; granted invalidate invalidated
renewed withdraw withdrawn; renewed renew renewed; renewed expire expired; renewed invalidate invalidated
refused grant granted
withdrawn grant granted
expired grant granted; expired refuse refused; expired renew renewed; expired withdraw withdrawn
invalidated grant granted; invalidated refuse refused; invalidated withdraw withdrawn
"""


def test_the_table_is_exactly_this() -> None:
    """Every state and action: the listed ones lead where they say, every other one is refused."""
    wanted = {tuple(line.split()[:2]): line.split()[2] for line in _ALLOWED.strip().replace("\n", ";").split(";")}
    assert len(wanted) == len(TRANSITIONS)
    for state in (None, *ConsentState):
        for action in ConsentAction:
            target = wanted.get(("none" if state is None else state.value, action.value))
            if target is None:
                with pytest.raises(ConsentStateError):
                    after(state, action)
            else:
                assert after(state, action).value == target


def test_only_granted_and_renewed_are_active_and_both_can_be_left() -> None:
    """Whatever consents can be withdrawn, and nothing else counts as consent."""
    assert {state.value for state in ACTIVE} == {"granted", "renewed"}
    assert all(after(state, ConsentAction.WITHDRAW) is ConsentState.WITHDRAWN for state in ACTIVE)


def test_the_diagram_shows_every_transition() -> None:
    """The README's diagram is this text."""
    assert diagram().count("-->") == len(TRANSITIONS)
    assert diagram() in Path(policies.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_fact_an_operand_reads() -> None:
    """Who wires the gate finds each key of the facts in one table."""
    text = Path(policies.__file__).with_name("README.md").read_text(encoding="utf-8")
    missing = {operand.fact for operand in REGISTRY.values() if f"`{operand.fact}`" not in text}
    assert missing == set()


def chain(signer: Signer) -> list[ConsentEvent]:
    """Return a grant and its withdrawal."""
    events: list[ConsentEvent] = []
    for revision, (action, state) in enumerate([("grant", "granted"), ("withdraw", "withdrawn")], start=1):
        payload = {
            "record_id": "urn:uuid:1",
            "revision": revision,
            "event_id": f"e{revision}",
            "action": action,
            "state": state,
            "previous": events[-1].hash if events else "",
        }
        events.append(seal_event(signer, f"e{revision}", payload))
    return events


def test_a_chain_verifies_and_any_change_breaks_it() -> None:
    """Dropping, swapping, editing or re-signing an event with another key is noticed."""
    signer, stranger = new_signer("a"), new_signer("b")
    good = chain(signer)
    verify_chain(good, signer.public_key)
    forged = copy.deepcopy(good)
    forged[0].payload["action"] = "refuse"
    illegal = chain(signer)
    illegal[1] = seal_event(signer, "e2", illegal[1].payload | {"action": "grant"})
    lying = chain(signer)
    lying[1] = seal_event(signer, "e2", lying[1].payload | {"state": "granted"})
    for bad in (good[1:], good[::-1], forged, illegal, lying, chain(stranger)):
        with pytest.raises(EvidenceError):
            verify_chain(bad, signer.public_key)


def record_with_events(signer: Signer) -> tuple[ConsentRecord, list[ConsentEvent]]:
    """Return a withdrawn record and its chain."""
    events = chain(signer)
    return (
        ConsentRecord(
            record_id="urn:uuid:1",
            subject_ref="ab" * 16,
            dataset_id=DATASET,
            purpose=PURPOSE,
            notice_id=NOTICE,
            notice_version=1,
            language="en",
            material="m",
            state=ConsentState.WITHDRAWN,
            expires_at=NOW,
            updated_at=START,
            expressed_by=Expresser(relation=Relation.SELF, party_ref="ab" * 16),
            revision=2,
            head=events[-1].hash,
        ),
        events,
    )


def test_a_receipt_fails_after_one_changed_byte() -> None:
    """Every single character of the receipt's payload is covered."""
    signer = new_signer("did:web:school.example")
    record, events = record_with_events(signer)
    receipt = issue_receipt(signer, record, events, notice(), [])
    assert verify_receipt(receipt, signer.public_key)["state"] == "withdrawn"
    assert receipt["payload"]["consequences"]["cannot_be_undone"] == []
    changed = copy.deepcopy(receipt)
    changed["payload"]["record"]["hasProcess"]["hasPurpose"] = PURPOSE + "x"
    forged = new_signer(signer.kid).sign("consent-receipt", receipt["payload"])
    other_kind = signer.sign("training-plan", receipt["payload"])
    swapped = signer.sign("consent-receipt", receipt["payload"] | {"state": "granted"})
    no_events = copy.deepcopy(receipt["payload"])
    no_events["record"]["hasConsentEvent"] = []
    for bad in (changed, forged, other_kind, swapped, signer.sign("consent-receipt", no_events), {}, {"payload": 1}):
        with pytest.raises(EvidenceError):
            verify_receipt(bad, signer.public_key)
    canonical_json(receipt)


def test_accounts_say_the_same_in_every_language() -> None:
    """Every language has the same sentences, none is left in English, and the pages' languages are all there."""
    assert set(ACCOUNTS) == set(LANGUAGES)
    keys = {frozenset(words) for words in ACCOUNTS.values()}
    assert len(keys) == 1
    for key in next(iter(keys)):
        assert len({words[key] for words in ACCOUNTS.values()}) == len(ACCOUNTS)


@pytest.mark.parametrize(
    ("language", "told"), [("de", "de"), ("de-AT", "de"), ("fr", "fr"), ("es", "es"), ("en", "en"), ("pl", "en")]
)
def test_a_receipt_of_a_withdrawal_speaks_the_readers_language(language: str, told: str) -> None:
    """What cannot be undone is signed in the language of the notice that was read; another one says that it is English."""
    signer = new_signer("did:web:school.example")
    record, events = record_with_events(signer)
    use = UseSpan(job_id="urn:job", dataset_id="urn:d", purpose=PURPOSE, first_round=3, last_round=17, noise="none")
    words = {key: {"title": "t", "short": "s", "full": "f"} for key in (language, "en")}
    words = words | {language: words[language] | {"withdrawal": f"so geht es ({language})"}}
    read = notice(texts=words, withdrawal="for everybody")
    receipt = issue_receipt(signer, dataclasses.replace(record, language=language), events, read, [use])
    payload = verify_receipt(receipt, signer.public_key)
    account = payload["consequences"]
    assert (account["language"], account["code"]) == (told, "sums-remain")
    assert account["from_now_on"] == ACCOUNTS[told]["from_now_on"]
    assert account["cannot_be_undone"][0]["why"] == ACCOUNTS[told]["why"]
    assert payload["how_to_withdraw"] == f"so geht es ({language})"
    assert payload["record"]["hasWithdrawalMethod"] == payload["how_to_withdraw"]
    unused = issue_receipt(signer, record, events, read, [])
    assert unused["payload"]["consequences"]["code"] == "nothing-used"


@pytest.mark.parametrize(
    ("country", "birth_year", "relation", "error"),
    [
        ("DE", 2011, Relation.SELF, GuardianNeededError),  # may still be 14
        ("DE", 2009, Relation.SELF, None),
        ("AT", 2011, Relation.SELF, None),
        ("FR", 2011, Relation.SELF, GuardianNeededError),
        ("XX", 2011, Relation.SELF, GuardianNeededError),
        ("DE", 2011, Relation.GUARDIAN, None),
        ("DE", 2009, Relation.GUARDIAN, None),
        ("DE", 2008, Relation.GUARDIAN, None),  # may still be 17
        ("DE", 2007, Relation.GUARDIAN, GuardianNotAllowedError),
        ("DE", None, Relation.SELF, AgeUnknownError),
    ],
)
def test_ages_decide_who_answers(
    country: str, birth_year: int | None, relation: Relation, error: type[Exception] | None
) -> None:
    """The country's age of consent and the age of majority, with a birth year read to the child's protection."""
    expresser = Expresser(relation=relation, party_ref="p", verification="eid")
    person = Person(country=country, birth_year=birth_year)
    if error is None:
        check_expresser(person, expresser, NOW)
    else:
        with pytest.raises(error):
            check_expresser(person, expresser, NOW)


def test_ages_from_dates_and_attestations() -> None:
    """A date is exact, an attestation is of age, and 29 February comes of age in March."""
    assert youngest_age(Person(country="DE", birth_date=date(2008, 11, 21)), NOW.date()) == 18
    assert youngest_age(Person(country="DE", birth_date=date(2008, 11, 22)), NOW.date()) == 17
    assert youngest_age(Person(country="DE", attested_adult=True), NOW.date()) == 18
    assert guardian_until(Person(country="DE")) is None
    leap = guardian_until(Person(country="DE", birth_date=date(2012, 2, 29)))
    assert leap == datetime(2030, 3, 1, tzinfo=UTC)


def test_pseudonyms_are_pairwise() -> None:
    """Two providers never share a name, a guardian's never equals a subject's, and weak secrets are refused."""
    one, two = b"1" * 16, b"2" * 16
    assert subject_ref(one, "ada") == subject_ref(one, "ada")
    assert len({subject_ref(one, "ada"), subject_ref(two, "ada"), party_ref(one, "ada"), subject_ref(one, "bob")}) == 4
    assert len(subject_ref(one, "ada")) == 32
    with pytest.raises(ValueError, match="secret"):
        subject_ref(b"short", "ada")
    with pytest.raises(ValueError, match="empty"):
        subject_ref(one, "")


def test_a_notice_reads_back_as_written() -> None:
    """A notice survives its JSON form with the same digest, and its material ignores the words."""
    first = notice()
    assert parse_notice(notice_document(first)) == first
    reworded = notice(version=2, texts={"en": {"title": "t", "short": "s", "full": "f"}})
    assert reworded.digest() != first.digest()
    assert reworded.material(PURPOSE) == first.material(PURPOSE)
    for change in ({"retention": "P2Y"}, {"recipients": ["x"]}, {"algorithm_class": "urn:other:class"}):
        assert notice(purposes=[purpose_body(PURPOSE, **change)]).material(PURPOSE) != first.material(PURPOSE)
    with pytest.raises(NoticeError):
        first.material("urn:other:purpose")
    without = {key: value for key, value in notice_body().items() if key != "published_at"}
    assert parse_notice(without, published_at=START) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"default_language": "fr"},
        {"purposes": []},
        {"purposes": [purpose_body(PURPOSE), purpose_body(PURPOSE)]},
        {"purposes": [purpose_body(PURPOSE, retention="for ever")]},
        {"jurisdiction": "Germany"},
        {"published_at": "2026-11-21T09:00:00"},
        {"colour": "red"},
        {"texts": {"english language": {"title": "t", "short": "s"}}},
    ],
)
def test_a_malformed_notice_is_refused_without_repeating_it(changes: dict[str, Any]) -> None:
    """The problem names the place and not the value."""
    with pytest.raises(ConsentFormatError) as caught:
        parse_notice(notice_body(**changes))
    assert "for ever" not in str(caught.value)


def test_an_import_row_names_its_guardian() -> None:
    """A guardian in a row makes the guardian the expressing party."""
    row = {
        "event_id": "r1",
        "subject": "kim",
        "decision": "grant",
        "notice_id": NOTICE,
        "notice_version": 1,
        "language": "de",
        "purpose": PURPOSE,
        "expressed_at": "2026-11-21T09:00:00+01:00",
        "country": "DE",
        "birth_year": 2015,
        "guardian": "mum",
        "verification": "signed-form",
    }
    expression = parse_import_row(row)
    assert (expression.relation, expression.party) == (Relation.GUARDIAN, "mum")
    for bad in ({"birth_year": 1066}, {"expressed_at": "2026-11-21T09:00:00"}, {"event_id": "a\x00b"}, {"x": 1}):
        with pytest.raises(ConsentFormatError):
            parse_import_row(row | bad)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("DE-at", "de"),
        ("fr;q=1, de;q=0.5, en;q=0.1", "de"),
        ("de;q=0, fr", "en"),
        ("*, de", "en"),
        ("de;q=nonsense", "en"),
        (";;;,,,q=1", "en"),
        ("fr-" * 400, "en"),
    ],
)
def test_a_language_is_chosen_from_what_there_is(header: str | None, language: str) -> None:
    """Accept-Language by prefix and quality; nonsense gives the default."""
    assert choose_language(notice(), header) == language


@pytest.mark.parametrize(
    ("count", "floor", "text"),
    [
        (0, 10, "fewer than 10"),
        (9, 1, "fewer than 10"),
        (10, 10, "10 to 19"),
        (14, 15, "fewer than 15"),
        (15, 15, "15 to 19"),
        (250_000, 10, "100000 or more"),
    ],
)
def test_counts_become_bands(count: int, floor: int, text: str) -> None:
    """No floor below ten, no exact number ever."""
    assert str(band(count, floor)) == text
