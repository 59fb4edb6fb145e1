"""Duties of an agreement: when they are due, and that they are fulfilled once, with evidence."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policies.duties import DutyState, duties_of, fulfil
from policies.errors import ConsentFormatError, PolicyFormatError
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
