"""Whether an agreement may be used now; asked anew at every use, because policies end and are ended."""

from typing import Any

from contracts import offers
from contracts.actions import actions_of, decide_any
from contracts.agreement import payload
from contracts.ports import Participant, PolicyGate
from contracts.processes import AgreementRecord, Caller, Counterparty
from contracts.states import Role


def consumer_facts(consumer: Counterparty | Caller) -> dict[str, Any]:
    """Return what is known of a consumer, by the names that the policy gate reads."""
    facts: dict[str, Any] = {"assignee": consumer.participant_id}
    return {**facts, "roles": list(consumer.roles)} if consumer.roles else facts


def refusals(
    gate: PolicyGate,
    record: AgreementRecord,
    format: str,  # noqa: A002 - the specification's word
    *,
    own: Participant,
    counterparty: Counterparty,
) -> tuple[str, ...]:
    """Return why an agreement may not be used now, in sentences; empty when it may.

    The provider asks at the scope of the transfer, with all it knows. The consumer knows less: it asks for what always
    binds (time, party, role), so that it does not begin or go on with what it can see is over.

    Args:
        gate: evaluates policies.
        record: the agreement, with our role in it.
        format: what the transfer is for.
        own: this participant.
        counterparty: the other side as it last called.
    """
    stated = offers.purpose(record.agreement.rules)
    facts: dict[str, Any] = {"target": record.agreement.target}
    if stated:
        facts["purpose"] = stated
    if record.role is Role.PROVIDER:
        scope, facts = "transfer", facts | consumer_facts(counterparty)
    else:
        scope, facts = "catalog", facts | {"assignee": own.id, "roles": list(own.roles)}
    wanted = actions_of(format, record.agreement.rules)
    verdict = decide_any(gate, scope, payload(record.agreement), facts, wanted)
    if verdict.allowed:
        return ()
    return tuple(verdict.refusals) or ("policy: the agreement does not allow this use now",)
