"""Which action a policy is asked about.

A policy permits actions. To show an offer or to agree to it, one of the actions that its permissions name must be
allowed to this consumer; to transfer, the action that the format stands for. Source: ODRL Information Model 2.2, section
2.6 (an action may be included in a broader one).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from contracts.messages import Rules
from contracts.ports import PolicyGate, PolicyVerdict
from policies.evaluate import TRAIN, USE
from policies.model import ODRL

# Formats that stand for one action. Any other hands the data over, for whatever the agreement permits.
_ACTIONS: Final[Mapping[str, str]] = {"FederatedTraining": TRAIN}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused:
    """No action was allowed; ``refusals`` say why, once each."""

    refusals: tuple[str, ...]
    allowed: bool = False


def short(name: object) -> str:
    """Return an ODRL term without its namespace or prefix; any other text as it is."""
    text = str(name)
    return text.removeprefix(ODRL).removeprefix("odrl:")


def actions(rules: Rules) -> tuple[str, ...]:
    """Return the full names of the actions that the permissions name; ``odrl:use`` where there is no permission."""
    named = (short(rule.get("action", "")) for rule in rules.get("permission", ()))
    return tuple(dict.fromkeys(name if ":" in name else ODRL + name for name in named)) or (USE,)


def actions_of(format: str, rules: Rules) -> tuple[str, ...]:  # noqa: A002 - the specification's word
    """Return the actions that a transfer in this format is for."""
    return (_ACTIONS[format],) if format in _ACTIONS else actions(rules)


def decide_any(
    gate: PolicyGate, scope: str, policy: Mapping[str, Any], facts: Mapping[str, Any], wanted: Sequence[str]
) -> PolicyVerdict:
    """Return the verdict on the first of the actions that is allowed, or every reason why none is."""
    refusals: dict[str, None] = {}
    for action in wanted:
        verdict = gate.decide(scope, policy, facts, action=action)
        if verdict.allowed:
            return verdict
        refusals.update(dict.fromkeys(verdict.refusals))
    return Refused(refusals=tuple(refusals))
