"""The consent store and service on both databases."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from connector.storage.database import Database
from policies.consent import ConsentAction, ConsentState, Relation, verify_chain
from policies.errors import (
    AgeUnknownError,
    ConsentStateError,
    GuardianNeededError,
    GuardianNotAllowedError,
    NoticeError,
    NoticeVersionError,
    ReplayedExpressionError,
    UnknownRecordError,
)
from policies.people import Caller
from policies.ports import UseSpan
from policies.receipts import verify_receipt
from policies.subjects import subject_ref
from tests.support.consents import (
    DATASET,
    OTHER_PURPOSE,
    PURPOSE,
    START,
    ConsentRig,
    adult,
    answer,
    child,
    consent_rig,
    guardian,
    imported,
    notice,
    purpose_body,
)


@pytest.fixture
def rig(database: Database) -> Iterator[ConsentRig]:
    """Give a service with one notice published."""
    rig = consent_rig(database)
    rig.service.publish_notice(notice())
    rig.changes.clear()
    return rig


def ref(rig: ConsentRig, name: str) -> str:
    """Return a learner's pseudonym."""
    return subject_ref(rig.service.secret, name)


def test_a_grant_makes_the_subject_consent_and_tells_others_after_the_commit(rig: ConsentRig) -> None:
    """After a grant the subject is among those who consent to that purpose and to no other."""
    record = rig.service.grant(adult(), answer("e1"))
    assert record.state is ConsentState.GRANTED
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, "ada")}
    assert rig.service.consenting(DATASET, OTHER_PURPOSE) == frozenset()
    assert rig.service.consenting(DATASET, "") == frozenset()
    assert rig.changes == [(DATASET, PURPOSE)]


def test_a_refusal_and_a_withdrawal_exclude(rig: ConsentRig) -> None:
    """Who refuses never counts, who withdraws counts no longer."""
    rig.service.refuse(adult("bob"), answer("e1"))
    record = rig.service.grant(adult(), answer("e2"))
    withdrawn = rig.service.withdraw(adult(), record.record_id, "e3")
    assert withdrawn.state is ConsentState.WITHDRAWN
    assert rig.service.consenting(DATASET, PURPOSE) == frozenset()
    with pytest.raises(ConsentStateError):
        rig.service.withdraw(adult(), record.record_id, "e4")


def test_the_same_answer_twice_is_one_and_its_id_cannot_say_something_else(rig: ConsentRig) -> None:
    """A repeat gives the same record; the id with another content is refused, also after a withdrawal."""
    first = rig.service.grant(adult(), answer("e1"))
    assert rig.service.grant(adult(), answer("e1")) == first
    rig.service.withdraw(adult(), first.record_id, "e2")
    assert rig.service.grant(adult(), answer("e1")).state is ConsentState.WITHDRAWN
    assert rig.service.withdraw(adult(), first.record_id, "e2").revision == 2
    with pytest.raises(ReplayedExpressionError):
        rig.service.refuse(adult(), answer("e1"))
    with pytest.raises(ReplayedExpressionError):
        rig.service.grant(adult("eve"), answer("e1"))


def test_expiry_is_enforced_whether_or_not_it_was_noted(rig: ConsentRig) -> None:
    """A consent ends at its time; noting it and renewing it keep the chain whole."""
    record = rig.service.grant(adult(), answer("e1"))
    rig.clock.advance(days=365)
    assert rig.service.consenting(DATASET, PURPOSE) == frozenset()
    assert rig.service.expire_due() == 1
    assert rig.service.expire_due() == 0
    renewed = rig.service.renew(adult(), record.record_id, "e2", notice_version=1)
    assert renewed.state is ConsentState.RENEWED
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, "ada")}
    history = rig.service.history(adult(), record.record_id)
    assert [event.payload["action"] for event in history] == ["grant", "expire", "renew"]
    verify_chain(history, rig.signer.public_key)


def test_a_grant_after_an_unnoted_expiry_writes_both_events(rig: ConsentRig) -> None:
    """Nobody has to sweep before a learner may answer again."""
    record = rig.service.grant(adult(), answer("e1"))
    rig.clock.advance(days=400)
    assert rig.service.grant(adult(), answer("e2")).revision == 3
    verify_chain(rig.service.history(adult(), record.record_id), rig.signer.public_key)


def test_who_may_answer_for_whom(rig: ConsentRig) -> None:
    """A child needs a guardian, an adult must not have one, and an unknown age allows nothing."""
    with pytest.raises(GuardianNeededError):
        rig.service.grant(child(), answer("e1"))
    with pytest.raises(GuardianNotAllowedError):
        rig.service.grant(guardian("kim", of_birth_year=1999), answer("e2", subject="kim"))
    with pytest.raises(GuardianNotAllowedError):
        rig.service.grant(guardian("kim", verification="she said so"), answer("e3", subject="kim"))
    with pytest.raises(GuardianNotAllowedError):
        rig.service.grant(guardian("kim"), answer("e4", subject="somebody-else"))
    with pytest.raises(AgeUnknownError):
        rig.service.grant(Caller(subject="x"), answer("e5"))
    record = rig.service.grant(guardian("kim"), answer("e6", subject="kim"))
    assert record.expressed_by.relation is Relation.GUARDIAN
    assert record.expressed_by.party_ref != record.subject_ref
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, "kim")}


def test_a_child_may_withdraw_what_a_guardian_granted(rig: ConsentRig) -> None:
    """Leaving needs nobody's permission."""
    record = rig.service.grant(guardian("kim"), answer("e1", subject="kim"))
    assert rig.service.withdraw(child(), record.record_id, "e2").state is ConsentState.WITHDRAWN


def test_a_guardians_word_ends_at_majority(rig: ConsentRig) -> None:
    """A guardian's grant for a seventeen-year-old ends no later than the eighteenth birthday."""
    record = rig.service.grant(guardian("kim", of_birth_year=2009), answer("e1", subject="kim"))
    assert record.expires_at.year == 2027
    assert (record.expires_at.month, record.expires_at.day) == (1, 1)


def test_notices_that_cannot_be_agreed_to(rig: ConsentRig) -> None:
    """An old version, an expired notice, an unknown purpose, language or notice: each is refused."""
    for changes in (
        {"notice_version": 2},
        {"purpose": "https://w3id.org/dpv#Marketing"},
        {"language": "fr"},
        {"notice_id": "urn:notice:of-another-school"},
    ):
        with pytest.raises(NoticeError):
            rig.service.grant(adult(), answer("e1", **changes))
    rig.service.publish_notice(notice(version=2, valid_until="2026-11-22T00:00:00Z"))
    rig.clock.advance(days=2)
    with pytest.raises(NoticeError, match="expired"):
        rig.service.grant(adult(), answer("e2", notice_version=2))


def test_a_notice_that_changes_what_was_agreed_asks_again(rig: ConsentRig) -> None:
    """Other recipients leave old grants behind for that purpose only; better words do not."""
    record = rig.service.grant(adult(), answer("e1"))
    rig.service.grant(adult(), answer("e2", purpose=OTHER_PURPOSE))
    with pytest.raises(NoticeVersionError):
        rig.service.publish_notice(notice(dpo="someone new"))
    rig.service.publish_notice(notice(version=2, dpo="someone new"))
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, "ada")}
    wider = [purpose_body(PURPOSE, recipients=["did:web:ai.example", "did:web:b.example"]), purpose_body(OTHER_PURPOSE)]
    rig.service.publish_notice(notice(version=3, purposes=wider))
    assert rig.service.consenting(DATASET, PURPOSE) == frozenset()
    assert rig.service.consenting(DATASET, OTHER_PURPOSE) == {ref(rig, "ada")}
    again = rig.service.grant(adult(), answer("e3", notice_version=3))
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, "ada")}
    assert again.record_id == record.record_id
    actions = [event.payload["action"] for event in rig.service.history(adult(), record.record_id)]
    assert actions == ["grant", "invalidate", "grant"]


def test_publishing_the_same_notice_twice_changes_nothing(rig: ConsentRig) -> None:
    """A provider that starts again publishes its notices again."""
    assert rig.service.publish_notice(notice()).version == 1
    assert rig.changes == []
    assert [item.version for item in rig.service.notices()] == [1]


def test_another_persons_record_does_not_exist(rig: ConsentRig) -> None:
    """Reading, withdrawing or renewing somebody else's record fails as for one that is not there."""
    record = rig.service.grant(adult(), answer("e1"))
    eve = adult("eve")
    for attempt in (
        lambda: rig.service.receipt(eve, record.record_id),
        lambda: rig.service.history(eve, record.record_id),
        lambda: rig.service.withdraw(eve, record.record_id, "e2"),
        lambda: rig.service.renew(eve, record.record_id, "e3", notice_version=1),
        lambda: rig.service.receipt(adult(), "urn:uuid:not-there"),
    ):
        with pytest.raises(UnknownRecordError):
            attempt()
    assert rig.service.records(eve) == []


def test_a_receipt_verifies_offline_and_tells_what_cannot_be_undone(rig: ConsentRig) -> None:
    """The receipt of a withdrawal names the rounds whose sums stay."""
    record = rig.service.grant(adult(), answer("e1"))
    for number in (1, 2, 3):
        use = UseSpan(
            job_id="job-1",
            dataset_id=DATASET,
            purpose=PURPOSE,
            first_round=number,
            last_round=number,
            noise="epsilon 4",
        )
        rig.service.record_use(use, frozenset({ref(rig, "ada"), ref(rig, "bob")}))
    rig.service.withdraw(adult(), record.record_id, "e2")
    receipt = rig.service.receipt(adult(), record.record_id)
    payload = verify_receipt(receipt, rig.signer.public_key)
    assert payload["record"]["hasConsentStatus"] == "dpv:ConsentWithdrawn"
    assert payload["consequences"]["cannot_be_undone"][0]["rounds"] == [1, 3]
    assert receipt == rig.service.receipt(adult(), record.record_id)
    assert "ada" not in str(receipt)


def test_uses_follow_who_was_in(rig: ConsentRig) -> None:
    """Spans close when a subject leaves, open again when they return, and a repeated round changes nothing."""

    def use(number: int, *names: str) -> None:
        span = UseSpan(
            job_id="job-1", dataset_id=DATASET, purpose=PURPOSE, first_round=number, last_round=number, noise="none"
        )
        rig.service.record_use(span, frozenset(ref(rig, name) for name in names))

    use(1, "ada", "bob")
    use(2, "ada", "bob")
    use(3, "bob")
    use(3, "bob")
    use(2, "ada", "bob", "eve")
    use(4, "ada", "bob")
    spans = [(span.first_round, span.last_round) for span in rig.service.uses(adult("ada"))]
    assert spans == [(1, 2), (4, 4)]
    assert [(span.first_round, span.last_round) for span in rig.service.uses(adult("bob"))] == [(1, 4)]
    assert rig.service.uses(adult("eve")) == []


def test_small_counts_are_never_told(rig: ConsentRig) -> None:
    """Below the floor nobody learns more than that; above it a band."""
    rig.service.import_expressions([imported(number) for number in range(9)])
    assert rig.service.count_band(DATASET, PURPOSE).suppressed
    assert not rig.service.floor_met(DATASET, PURPOSE, 10)
    rig.service.import_expressions([imported(number) for number in range(9, 25)])
    assert str(rig.service.count_band(DATASET, PURPOSE)) == "20 to 49"
    assert rig.service.floor_met(DATASET, PURPOSE, 25)
    assert not rig.service.floor_met(DATASET, "", 0)


def test_an_import_judges_each_entry_by_itself(rig: ConsentRig) -> None:
    """Refused entries say why, repeats are unchanged, and the rest is recorded, in the order given."""
    entries = [
        imported(1),
        imported(2, action=ConsentAction.REFUSE),
        imported(3, person=child().person),
        imported(4, person=child().person, relation=Relation.GUARDIAN, party="mum", verification="school-register"),
        imported(1),
        imported(5, purpose="https://w3id.org/dpv#Marketing"),
        imported(6, expressed_at=START.replace(year=2030)),
        imported(7, subject="learner-1", action=ConsentAction.WITHDRAW),
        imported(8, subject=""),
    ]
    results = rig.service.import_expressions(entries)
    outcomes = [(item.outcome, item.code) for item in results]
    assert outcomes == [
        ("recorded", ""),
        ("recorded", ""),
        ("refused", "guardian-needed"),
        ("recorded", ""),
        ("unchanged", ""),
        ("refused", "notice"),
        ("refused", "consent-format"),
        ("recorded", ""),
        ("refused", "consent-format"),
    ]
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, "learner-4")}
    assert [item.outcome for item in rig.service.import_expressions(entries[:2])] == ["unchanged", "unchanged"]


def test_a_late_import_does_not_undo_a_withdrawal(rig: ConsentRig) -> None:
    """An entry said before what we already know is refused as a replay."""
    rig.clock.advance(hours=1)
    record = rig.service.grant(adult("learner-1"), answer("e1"))
    rig.service.withdraw(adult("learner-1"), record.record_id, "e2")
    result = rig.service.import_expressions([imported(1)])
    assert [(item.outcome, item.code) for item in result] == [("refused", "consent-replayed")]


def test_an_export_holds_every_record_of_a_subject(rig: ConsentRig) -> None:
    """A data access request gives each record with its history."""
    rig.service.grant(adult(), answer("e1"))
    rig.service.refuse(adult(), answer("e2", purpose=OTHER_PURPOSE))
    documents = list(rig.service.export([ref(rig, "ada")]))
    assert {document["hasProcess"]["hasPurpose"] for document in documents} == {PURPOSE, OTHER_PURPOSE}
    assert all(document["hasConsentEvent"] for document in documents)


def test_ten_thousand_consents_are_imported_and_found(rig: ConsentRig) -> None:
    """A school's whole list is recorded in one call, and the gate finds all of them."""
    entries = [imported(number) for number in range(10_000)]
    results = rig.service.import_expressions(entries)
    assert all(item.outcome == "recorded" for item in results)
    assert len(rig.service.consenting(DATASET, PURPOSE)) == 10_000


def test_two_first_answers_at_once_are_one_after_the_other(rig: ConsentRig) -> None:
    """Many threads that answer for one learner leave one record and one whole chain."""

    def say(number: int) -> str:
        try:
            rig.service.grant(adult(), answer(f"e{number}"))
        except ConsentStateError:
            return "already"
        return "granted"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(say, range(16)))
    assert sorted(set(said)) == ["already", "granted"]
    assert said.count("granted") == 1
    record = rig.service.records(adult())[0]
    verify_chain(rig.service.history(adult(), record.record_id), rig.signer.public_key)


def test_the_gates_question_does_not_grow_with_history(rig: ConsentRig) -> None:
    """A round is noted by what changed: the second costs no new row for a cohort that stayed."""
    refs = frozenset(ref(rig, f"learner-{number}") for number in range(2000))
    for number in (1, 2, 3):
        use = UseSpan(
            job_id="job-1", dataset_id=DATASET, purpose=PURPOSE, first_round=number, last_round=number, noise=""
        )
        rig.service.record_use(use, refs)
    spans = rig.service.store.uses_of(sorted(refs))
    assert len(spans) == 2000
    assert {(span.first_round, span.last_round) for span in spans} == {(1, 3)}


def test_random_answers_keep_gate_and_chains_true(rig: ConsentRig) -> None:
    """Whatever people say in whatever order, exactly those whose last word is yes consent, and every chain verifies."""
    yes: dict[str, bool] = {}
    for turn in range(300):
        dice = hashlib.sha256(str(turn).encode()).digest()
        name = f"learner-{dice[0] % 25}"
        rig.clock.advance(minutes=1)
        records = rig.service.records(adult(name))
        word = ["grant", "refuse", "withdraw", "renew"][dice[1] % 4]
        try:
            if word == "withdraw" and records:
                rig.service.withdraw(adult(name), records[0].record_id, f"e{turn}")
                yes[name] = False
            elif word == "renew" and records:
                rig.service.renew(adult(name), records[0].record_id, f"e{turn}", notice_version=1)
                yes[name] = True
            elif word == "grant":
                rig.service.grant(adult(name), answer(f"e{turn}"))
                yes[name] = True
            elif word == "refuse":
                rig.service.refuse(adult(name), answer(f"e{turn}"))
                yes[name] = False
        except ConsentStateError:
            continue
    assert rig.service.consenting(DATASET, PURPOSE) == {ref(rig, name) for name, said in yes.items() if said}
    for name in yes:
        record = rig.service.records(adult(name))[0]
        verify_chain(rig.service.history(adult(name), record.record_id), rig.signer.public_key)
