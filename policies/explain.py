"""A decision told as a person would say it: for the command line, the operators' pages and the API.

A *request* is what is asked, as JSON: ``{"scope": ..., "action": ..., "at": ..., "facts": {...}}``. Everything but the
facts may be left out; facts are named as ``policies.operands`` names them, and times among them are ISO 8601 texts.
"""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from policies.decision import Decision, describe
from policies.errors import PolicyFormatError
from policies.evaluate import USE, required_facts
from policies.gate import PolicyGate
from policies.model import ODRL, short
from policies.operands import REGISTRY
from policies.parse import parse_policy
from policies.scopes import Scope

_MEMBERS = frozenset({"scope", "action", "at", "facts"})
_MOMENTS = frozenset({"agreed_at", "last_used_at"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a policy."""

    scope: Scope
    action: str
    at: datetime
    facts: Mapping[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """A decision, its sentences, and which facts the policy reads at this scope that the request did not give."""

    decision: Decision
    sentences: tuple[str, ...]
    missing: tuple[str, ...]


def read_request(document: object, *, now: datetime, scope: str | None = None) -> Request:
    """Return the request that a JSON document describes.

    Args:
        document: see the module.
        now: aware UTC time, for a request that names none.
        scope: overrides the document's; ``negotiation`` where neither names one.

    Raises:
        PolicyFormatError: the document is not a request; the message names the member.
    """
    if not isinstance(document, Mapping) or set(document) - _MEMBERS:
        raise PolicyFormatError(f"a request is a JSON object with {', '.join(sorted(_MEMBERS))}")
    facts = document.get("facts", {})
    if not isinstance(facts, Mapping):
        raise PolicyFormatError("facts must be an object")
    action = document.get("action", "use")
    if not isinstance(action, str):
        raise PolicyFormatError("action must be text")
    name = scope or document.get("scope", Scope.NEGOTIATION.value)
    try:
        place = Scope(name)
    except ValueError:
        raise PolicyFormatError(f"scope must be one of {', '.join(item.value for item in Scope)}") from None
    known = {key: _moment(value, key) if key in _MOMENTS else _fact(value) for key, value in facts.items()}
    at = _moment(document["at"], "at") if "at" in document else now
    return Request(scope=place, action=action if ":" in action else ODRL + action, at=at, facts=known)


def explain(policy: Mapping[str, Any], request: Request) -> Explanation:
    """Return what a policy says to a request; a policy that cannot be read denies, and the explanation says why."""
    decision = PolicyGate(now=lambda: request.at).decide(
        request.scope, policy, request.facts, action=request.action or USE
    )
    try:
        needed = required_facts(parse_policy(policy), request.scope)
    except PolicyFormatError:
        needed = {}
    missing = sorted({key for key in needed.values() if key != "now" and key not in request.facts})
    return Explanation(decision=decision, sentences=tuple(describe(decision)), missing=tuple(missing))


def explanation_document(found: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON."""
    decision = found.decision
    return {
        "verdict": decision.verdict.value,
        "scope": decision.scope.value,
        "policy_id": decision.policy_id,
        "sentences": list(found.sentences),
        "reasons": [
            {
                "text": str(reason),
                "code": reason.code,
                "rule": reason.rule,
                "operand": reason.operand,
                "operator": reason.operator,
                "fact": reason.fact,
                "required": list(reason.required),
                "truth": reason.truth.value,
            }
            for reason in decision.reasons
        ],
        "duties": [short(duty.action) for duty in decision.duties],
        "deferred": [short(name) for name in decision.deferred],
        "missing_facts": list(found.missing),
    }


def operand_rows() -> list[dict[str, Any]]:
    """Return what the operands are: name, fact, and the scopes they bind in, by name."""
    return [
        {
            "operand": operand.iri,
            "fact": operand.fact,
            "binds": [scope.value for scope in Scope if scope in operand.binds],
        }
        for operand in sorted(REGISTRY.values(), key=lambda item: item.iri)
    ]


def _fact(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _moment(value: object, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise PolicyFormatError(f"{name} must be an ISO 8601 time with an offset from UTC")
    return moment
