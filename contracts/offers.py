"""Requested terms against published ones: what differs, in words that name the constraint.

A consumer must ask for exactly what was published. One thing may differ: a purpose it states itself, when the
published policy allows that purpose (a narrower one); everything else that was changed, added or left out is refused.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from contracts.actions import actions, decide_any, short
from contracts.messages import Offer, Rules
from contracts.ports import Assessment, PolicyGate
from contracts.processes import Dataset
from policies.canonical import canonical_json

_LOGICAL = ("and", "andSequence", "or", "xone")
_STATED = frozenset({"eq", "isA"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clause:
    """One constraint of one rule, normalised: short names, plain right operand."""

    rule: str
    action: str
    name: str
    operator: str
    value: str

    @property
    def same_place(self) -> tuple[str, str, str]:
        """What two versions of one constraint share."""
        return self.rule, self.action, self.name


def assess_request(offer: Offer, published: Dataset | None, gate: PolicyGate, facts: Mapping[str, Any]) -> Assessment:
    """Judge a consumer's offer against the published one and the policy.

    Args:
        offer: the terms the consumer asks for.
        published: the dataset that ``offer.target`` names, ``None`` when there is none (or none for this peer).
        gate: evaluates the published policy at the scope of negotiation.
        facts: what is known of the consumer (see ``PolicyGate``); the stated purpose is added here.
    """
    if published is None:
        return Assessment(acceptable=False, reasons=("target: there is no such dataset for you",))
    if offer.id != published.offer.id:
        return Assessment(
            acceptable=False, reasons=("offer: this offer id is not published for the dataset; read the catalog again",)
        )
    stated = purpose(offer.rules)
    known = {**facts, "purpose": stated} if stated else dict(facts)
    verdict = decide_any(gate, "negotiation", published.offer.document(), known, actions(offer.rules))
    changed = changes(offer.rules, published.offer.rules, purpose_is_free=verdict.allowed and stated is not None)
    if verdict.allowed and not changed:
        return Assessment(acceptable=True)
    named = {reason.split(":", 1)[0] for reason in changed}
    refusals = tuple(reason for reason in verdict.refusals if reason.split(":", 1)[0] not in named)
    return Assessment(
        acceptable=False, reasons=changed + refusals or ("policy: the published policy does not allow it",)
    )


def purpose(rules: Rules) -> str | None:
    """Return the one purpose that the permissions state (``purpose eq X`` or ``isA X``), or ``None``."""
    found = {
        clause.value
        for clause in clauses({"permission": rules.get("permission", ())})
        if clause.name == "purpose" and clause.operator in _STATED
    }
    return found.pop() if len(found) == 1 else None


def changes(asked: Rules, published: Rules, *, purpose_is_free: bool = False) -> tuple[str, ...]:
    """Return one sentence per difference between asked and published rules; empty when they say the same."""
    if _written_alike(asked, published):
        return ()
    wanted, given = set(clauses(asked)), set(clauses(published))
    added, missing = wanted - given, given - wanted
    sentences: list[str] = []
    freed = False
    for clause in sorted(added, key=repr):
        counterpart = next((other for other in missing if other.same_place == clause.same_place), None)
        if counterpart is None:
            sentences.append(f"{clause.name}: asked {clause.value}, the offer says nothing of it")
            continue
        missing.discard(counterpart)
        if purpose_is_free and clause.name == "purpose" and clause.operator in _STATED and clause.rule == "permission":
            freed = True
            continue
        asked_text = f"{clause.name}: asked {_worded(clause, counterpart)}"
        sentences.append(f"{asked_text}, the offer allows only {counterpart.value}")
    sentences += [
        f"{clause.name}: the offer requires {clause.operator} {clause.value}, the request leaves it out"
        for clause in sorted(missing, key=repr)
    ]
    if not sentences and not freed and _shape(asked) != _shape(published):
        sentences.append("rules: the request arranges the published rules in another way")
    return tuple(sentences)


def same_terms(left: Rules, right: Rules) -> bool:
    """Return whether two sets of rules say the same, whatever the order and the way names are written."""
    return _written_alike(left, right) or _shape(left) == _shape(right)


def _written_alike(left: Rules, right: Rules) -> bool:
    # Nearly always: a consumer copies what was published, a provider what was asked. JSON's true is not its 1, here too.
    return repr(left) == repr(right)


def clauses(rules: Rules) -> tuple[Clause, ...]:
    """Return every constraint of every rule; a rule without any is one clause named after its action."""
    found: list[Clause] = []
    for kind, entries in rules.items():
        for rule in entries:
            action = short(rule.get("action", ""))
            parts = list(_atoms(rule.get("constraint", ())))
            found += [Clause(rule=kind, action=action, name=n, operator=o, value=v) for n, o, v in parts]
            if not parts:
                found.append(Clause(rule=kind, action=action, name=action, operator=kind, value="without limits"))
    return tuple(found)


def _atoms(constraints: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    for constraint in constraints:
        logical = next((name for name in _LOGICAL if name in constraint), None)
        if logical:
            yield from _atoms(constraint[logical])
        else:
            name, operator = short(constraint.get("leftOperand")), short(constraint.get("operator"))
            yield name, operator, _text(_plain(constraint.get("rightOperand")))


def _worded(clause: Clause, counterpart: Clause) -> str:
    return clause.value if clause.operator == counterpart.operator else f"{clause.operator} {clause.value}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " or ".join(_text(entry) for entry in value)
    return canonical_json(value).decode()  # type: ignore[arg-type] # JSON by construction


def _plain(value: object) -> object:
    """A value without the ways JSON-LD has of writing it: {"@id"}, {"@value"}, a list of one."""
    if isinstance(value, Mapping):
        for key in ("@id", "@value"):
            if key in value:
                return _plain(value[key])
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [_plain(entry) for entry in value]
        return entries[0] if len(entries) == 1 else sorted(entries, key=_text)
    return value


def _shape(rules: Rules) -> bytes:
    shaped = {
        kind: sorted((_rule_shape(rule) for rule in entries), key=_text) for kind, entries in rules.items() if entries
    }
    return canonical_json(shaped)


def _rule_shape(rule: Mapping[str, Any]) -> dict[str, Any]:
    shaped = {key: _plain(value) for key, value in rule.items() if key not in ("@type", "constraint", "action")}
    shaped["action"] = short(rule.get("action"))
    shaped["constraint"] = sorted((_constraint_shape(entry) for entry in rule.get("constraint", ())), key=_text)
    return shaped


def _constraint_shape(constraint: Mapping[str, Any]) -> dict[str, Any]:
    logical = next((name for name in _LOGICAL if name in constraint), None)
    if logical:
        parts = [_constraint_shape(entry) for entry in constraint[logical]]
        return {logical: parts if logical == "andSequence" else sorted(parts, key=_text)}
    return {
        "leftOperand": short(constraint.get("leftOperand")),
        "operator": short(constraint.get("operator")),
        "rightOperand": _plain(constraint.get("rightOperand")),
        **{key: _plain(value) for key, value in constraint.items() if key in ("unit", "dataType")},
    }
