"""Duties of an agreement: when they are due, and that they are fulfilled once, with evidence."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policies.duties import Begins, DutyState, agreement_end, begun, duties_of, fulfil
from policies.errors import ConsentFormatError, ConsentStateError, PolicyFormatError
from policies.parse import parse_policy

AGREED = datetime(2026, 11, 21, tzinfo=UTC)


def policy(*duties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an agreement's policy whose permission brings these duties."""
    return {"@id": "urn:a", "@type": "Agreement", "permission": [{"action": "use", "duty": list(duties)}], **more}


def atom(left: str, operator: str, right: object) -> dict[str, Any]:
    """Return an atomic constraint."""
    return {"leftOperand": left, "operator": operator, "rightOperand": right}


def noted(document: dict[str, Any]) -> list[Any]:
    """Return the duties of a policy."""
    return duties_of(parse_policy(document), "urn:a", "did:web:ai.example", AGREED, AGREED)


@pytest.mark.parametrize(
    ("constraint", "due"),
    [
        (atom("elapsedTime", "gteq", "P30D"), AGREED + timedelta(days=30)),
        (atom("dateTime", "lteq", "2026-12-24T00:00:00Z"), datetime(2026, 12, 24, tzinfo=UTC)),
        (atom("elapsedTime", "lteq", "no duration"), AGREED),
        (atom("payAmount", "eq", 10), None),
    ],
)
def test_a_duty_is_due_when_its_terms_say(constraint: dict[str, Any], due: datetime | None) -> None:
    """Lengths count from the agreement; a time that cannot be read is due at once; no time is never overdue."""
    (duty,) = noted(policy({"action": "delete", "constraint": [constraint]}))
    assert (duty.due_at, duty.holder) == (due, "did:web:ai.example")
    if due is not None:
        assert duty.state_at(due) is DutyState.OVERDUE
        assert duty.state_at(due - timedelta(seconds=1)) is DutyState.OPEN


JOB_END, AGREEMENT_END = "https://w3id.org/orchard/jobEnd", "https://w3id.org/orchard/agreementEnd"


@pytest.mark.parametrize("event", [JOB_END, "odrl:policyUsage", {"@id": "http://www.w3.org/ns/odrl/2/policyUsage"}])
def test_a_duty_after_a_job_waits_for_its_end_and_each_job_brings_its_own(event: object) -> None:
    """Nothing is owed before a job has ended; then the length counts from that end, once for each job."""
    terms = [atom("event", "gt", event), atom("elapsedTime", "lteq", "P30D")]
    (duty,) = noted(policy({"action": "delete", "constraint": terms}))
    assert (duty.begins, duty.due_at) == (Begins.JOB_END, None)
    assert duty.state_at(AGREED + timedelta(days=900)) is DutyState.WAITING
    with pytest.raises(ConsentStateError, match="end of a job"):
        fulfil(duty, {"log": 1}, AGREED)
    end = AGREED + timedelta(days=100)
    first, again, other = begun(duty, end, "job-1"), begun(duty, end, "job-1"), begun(duty, end, "job-2")
    assert first.duty_id == again.duty_id != other.duty_id
    assert first.due_at == end + timedelta(days=30)
    assert first.state_at(end) is DutyState.OPEN
    assert first.state_at(end + timedelta(days=30)) is DutyState.OVERDUE
    assert "after job job-1" in str(first)


def test_a_duty_after_the_agreement_counts_from_its_end_whichever_comes_first() -> None:
    """The policy's own end is known from the start; an agreement that is ended before brings the moment forward."""
    until = AGREED + timedelta(days=365)
    terms = [atom("event", "gt", AGREEMENT_END), atom("elapsedTime", "lteq", "P10D")]
    document = policy({"action": "delete", "constraint": terms})
    document["permission"][0]["constraint"] = [atom("dateTime", "lteq", until.isoformat())]
    assert agreement_end(parse_policy(document)) == until
    (duty,) = noted(document)
    assert duty.due_at == until + timedelta(days=10)
    assert duty.state_at(until - timedelta(days=1)) is DutyState.WAITING
    assert duty.state_at(until) is DutyState.OPEN
    early = begun(duty, AGREED + timedelta(days=5))
    assert (early.duty_id, early.due_at) == (duty.duty_id, AGREED + timedelta(days=15))
    assert begun(early, until) == early
    (endless,) = noted(policy({"action": "delete", "constraint": terms}))
    assert (endless.due_at, endless.state_at(until)) == (None, DutyState.WAITING)


@pytest.mark.parametrize(
    "terms",
    [
        [atom("event", "lt", "odrl:policyUsage")],
        [atom("event", "gt", "https://example.org/festival"), atom("elapsedTime", "lteq", "P30D")],
        [atom("event", "gt", [JOB_END, AGREEMENT_END])],
    ],
)
def test_a_duty_before_the_use_or_after_an_unknown_event_is_due_at_once(terms: list[dict[str, Any]]) -> None:
    """Nobody can say that there is still time, so nothing may be done before it is fulfilled."""
    (duty,) = noted(policy({"action": "inform", "constraint": terms}))
    assert duty.due_at == AGREED


def test_obligations_are_duties_too_and_each_is_noted_once() -> None:
    """A policy's obligations stand beside the permission's duties; the same one twice is one."""
    attribute = {"action": "attribute"}
    found = noted(policy(attribute, attribute, obligation=[{"action": "compensate"}]))
    assert [duty.kind.rpartition("/")[2] for duty in found] == ["compensate", "attribute"]


def test_fulfilment_needs_evidence_and_is_not_taken_back() -> None:
    """Without evidence a duty stays open; the first evidence stays."""
    (duty,) = noted(policy({"action": "delete", "constraint": [atom("elapsedTime", "gteq", "P1D")]}))
    with pytest.raises(ConsentFormatError):
        fulfil(duty, {}, AGREED)
    done = fulfil(duty, {"log": "sha256:1"}, AGREED)
    assert done.state_at(AGREED + timedelta(days=9)) is DutyState.FULFILLED
    assert fulfil(done, {"log": "sha256:2"}, AGREED + timedelta(days=9)).evidence == {"log": "sha256:1"}


@pytest.mark.parametrize(
    "document",
    [
        policy(inheritFrom="urn:other"),
        policy(conflict="perm"),
        {"permission": [{"action": {"@id": "use", "refinement": [atom("count", "lt", 1)]}}]},
        {"permission": [{"action": [{"@id": "use", "odrl:refinement": []}]}]},
        {"permission": [{"action": "use", "constraint": [atom("payAmount", "lteq", 5) | {"unit": "urn:eur"}]}]},
        {"prohibition": [{"action": "use", "remedy": [{"action": "delete"}]}]},
        {"target": "urn:a", "permission": [{"action": "use", "target": "urn:b"}]},
    ],
)
def test_what_the_profile_does_not_know_is_refused_and_not_read_over(document: dict[str, Any]) -> None:
    """Terms of ODRL that change a rule's meaning make the policy unreadable, which denies."""
    with pytest.raises(PolicyFormatError):
        parse_policy(document)
