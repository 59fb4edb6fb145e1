"""The usage gate over 100,000 learners, and one policy decision; both must not care how long the history is.

Run: ``python -m tests.benchmarks.bench_policies``. Exits 3 when a bar is missed. Times are CPU time of this process, the
best of several runs: the database is SQLite inside it, so nothing else works for the answer.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from connector.datasets.usage import UsageGate
from connector.storage.consents import SqlConsentStore
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from connector.storage.decisions import LoggedDecision, SqlDecisionLog
from connector.storage.migrate import upgrade
from connector.storage.tables_consents import consent_events, consent_records
from connector.storage.tables_decisions import decisions
from contracts.agreement import agreement_digest
from contracts.messages import Agreement
from contracts.processes import AgreementRecord, Counterparty
from contracts.states import Role
from policies.expressions import stamp
from policies.gate import PolicyGate
from policies.scopes import Scope
from policies.templates import fill_template
from tests.benchmarks import MISSED_BAR
from tests.support.consents import DATASET, NOTICE, PURPOSE, START, consent_rig, notice

LEARNERS = 100_000
GATE_SECONDS, DECISION_SECONDS, FLAT = 0.150, 0.0002, 1.5
_AGREEMENT, _JOB = "urn:uuid:agreement", "urn:uuid:job"
_ALGORITHM = "https://w3id.org/orchard/KnowledgeTracingModel"
_RUNS, _DECISIONS, _HISTORY = 5, 300, 100_000


def main() -> int:
    """Print the table; return 3 when a bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        gate, database = _stage(Path(name))
        fresh = gate_seconds(gate, first_round=1)
        _grow(database)
        old = gate_seconds(gate, first_round=1 + _RUNS)
    decision = decision_seconds()
    print(f"gate, {LEARNERS:,} learners, check and note of the use, a round:")
    print(f"  {1000 * fresh:7.1f} ms with no history, {1000 * old:7.1f} ms behind {_HISTORY:,} events and decisions")
    print(f"policy decision from JSON (median): {1000 * decision:.3f} ms")
    print(
        f"bars: gate <= {1000 * GATE_SECONDS:.0f} ms, decision <= {1000 * DECISION_SECONDS:.1f} ms, flat within {FLAT}x"
    )
    missed = max(fresh, old) > GATE_SECONDS or decision > DECISION_SECONDS or old > FLAT * fresh
    return MISSED_BAR * missed


def gate_seconds(gate: UsageGate, *, first_round: int) -> float:
    """Return the CPU seconds of one round's gate and note of use, the best of several rounds in which nobody leaves."""

    def one(number: int) -> None:
        answer = gate.check(_AGREEMENT, PURPOSE, _ALGORITHM, 10, job_id=_JOB, round_number=number)
        assert answer.allowed, answer.reasons
        assert len(answer.subjects) == LEARNERS
        gate.used(_AGREEMENT, _JOB, number, answer.subjects)

    one(first_round)
    return min(_timed(lambda number=number: one(number)) for number in range(first_round + 1, first_round + _RUNS))


def decision_seconds() -> float:
    """Return the CPU seconds of one decision from a policy as JSON, the median of many."""
    gate = PolicyGate(now=lambda: START)
    facts = {"assignee": "did:web:ai.example", "purpose": PURPOSE, "consent": "granted", "cohort_size": 1000}
    policy = _policy()
    times = sorted(_timed(lambda: gate.decide(Scope.ROUND, policy, facts)) for _ in range(_DECISIONS))
    assert gate.decide(Scope.ROUND, policy, facts).allowed
    return times[_DECISIONS // 2]


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _policy() -> dict[str, object]:
    return fill_template(
        "training",
        {
            "offer_id": "urn:offer",
            "purpose": PURPOSE,
            "valid_from": "2026-01-01T00:00:00Z",
            "valid_until": "2027-01-01T00:00:00Z",
            "cohort_floor": 10,
        },
    )


def _stage(folder: Path) -> tuple[UsageGate, Database]:
    url = f"sqlite:///{folder / 'orchard.sqlite'}"
    upgrade(url)
    database = Database(url)
    rig = consent_rig(database)
    rig.service.publish_notice(notice())
    material = notice().material(PURPOSE)
    rows = [_record(number, material) for number in range(LEARNERS)]
    database.run("bench.records", lambda unit: unit.connection.execute(consent_records.insert(), rows))
    store = ContractStore(database)
    agreement = Agreement(
        id=_AGREEMENT,
        target=DATASET,
        assigner="did:web:school.example",
        assignee="did:web:ai.example",
        rules={"permission": _policy()["permission"]},
    )
    record = AgreementRecord(
        agreement=agreement,
        digest=agreement_digest(agreement),
        role=Role.PROVIDER,
        counterparty=Counterparty(participant_id="did:web:ai.example", address="http://ai.example/dsp/2025-1"),
        negotiation_pid="urn:uuid:negotiation",
        concluded_at=START,
    )
    store.run("bench.agreement", lambda unit: unit.add_agreement(record))
    gate = UsageGate(agreements=store, consents=rig.service, decisions=SqlDecisionLog(database), now=rig.clock)
    assert isinstance(rig.service.store, SqlConsentStore)
    return gate, database


def _record(number: int, material: str) -> dict[str, object]:
    return {
        "record_id": f"urn:uuid:{number:036d}",
        "subject_ref": hashlib.sha256(str(number).encode()).hexdigest()[:32],
        "dataset_id": DATASET,
        "purpose": PURPOSE,
        "notice_id": NOTICE,
        "notice_version": 1,
        "language": "de",
        "material": material,
        "state": "granted",
        "expires_at": "2027-11-21T09:00:00.000000Z",
        "updated_at": stamp(START),
        "relation": "self",
        "party_ref": "self",
        "verification": "",
        "evidence_ref": "",
        "revision": 1,
        "head": "0" * 64,
    }


def _grow(database: Database) -> None:
    """Put a long history behind the same present: events of the records, and decisions about the agreement."""
    events = [
        {
            "record_id": f"urn:uuid:{number % LEARNERS:036d}",
            "revision": 1 + number // LEARNERS,
            "event_id": f"event-{number}",
            "payload": "{}",
            "hash": "0" * 64,
            "signature": "",
        }
        for number in range(_HISTORY)
    ]
    line = LoggedDecision(at=START, scope="round", agreement_id=_AGREEMENT, verdict="permit", reasons=())
    lines = [
        {
            "at": stamp(line.at),
            "scope": line.scope,
            "agreement_id": line.agreement_id,
            "verdict": "permit",
            "reasons": [],
        }
        for _ in range(_HISTORY)
    ]
    database.run("bench.events", lambda unit: unit.connection.execute(consent_events.insert(), events))
    database.run("bench.decisions", lambda unit: unit.connection.execute(decisions.insert(), lines))


if __name__ == "__main__":
    sys.exit(main())
