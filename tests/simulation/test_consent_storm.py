"""10,000 learners grant and withdraw at random while a job runs: nobody's row is read who does not consent."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.datasets.snapshots import ParticipantSnapshots
from connector.datasets.usage import UsageGate
from connector.sources.admission import Admission
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from connector.storage.decisions import SqlDecisionLog
from contracts.agreement import agreement_digest
from contracts.messages import Agreement
from contracts.processes import AgreementRecord, Counterparty
from contracts.states import Role
from policies.consent import ConsentAction
from policies.people import Caller
from policies.receipts import verify_receipt
from policies.subjects import subject_ref
from policies.templates import fill_template
from tests.support.consents import PURPOSE, ConsentRig, consent_rig, imported, notice, purpose_body
from tests.support.participants import enrol

LEARNERS, ROUNDS, RESTLESS = 10_000, 8, 120
AGREEMENT, JOB = "urn:uuid:agreement-of-the-storm", "urn:uuid:job-of-the-storm"
ALGORITHM = "https://w3id.org/orchard/KnowledgeTracingModel"
VIEW = """\
name = "storm"
title = "Marks"
shape = "outcomes"
subject = "pupil"

[source]
kind = "csv"

[source.tables.marks]
files = "marks.csv"
subject = "pupil"

[[features]]
column = "age"
fill = 0

[label]
name = "fails"
expression = "mark < 10"

[split]
by = "hash"
"""
DATASET_FILE = f"""\
title = "Marks"
description = "Marks of one school"
keywords = []
view = "storm.view"

[location]
folder = "../source"

[policy]
purpose = "{PURPOSE}"
valid_from = 2026-01-01T00:00:00Z
valid_until = 2036-01-01T00:00:00Z

[notice]
recipients = ["did:web:ai.example"]
algorithm_class = "{ALGORITHM}"

[notice.texts.en]
title = "Marks"
short = "A model learns from your marks; they stay here."
"""


@dataclasses.dataclass(kw_only=True)
class Storm:
    """A provider with everything real but the training, and an account of its own of who consents."""

    rig: ConsentRig
    gate: UsageGate
    snapshots: ParticipantSnapshots
    dataset_id: str
    granted: set[int] = dataclasses.field(default_factory=set)
    records: dict[int, str] = dataclasses.field(default_factory=dict)
    said: int = 0

    def say(self, numbers: list[int], action: ConsentAction) -> None:
        """Let learners answer, and keep account."""
        self.rig.clock.advance(seconds=1)
        self.said += 1
        answers = [
            imported(
                number,
                event_id=f"{self.said}-{number}",
                action=action,
                notice_id=f"{self.dataset_id}/notice",
                language="en",
                expressed_at=self.rig.clock(),
            )
            for number in numbers
        ]
        results = self.rig.service.import_expressions(answers)
        assert {result.outcome for result in results} <= {"recorded"}
        self.records.update(zip(numbers, (result.record_id for result in results), strict=True))
        if action is ConsentAction.WITHDRAW:
            self.granted -= set(numbers)
        else:
            self.granted |= set(numbers)

    def refs(self, numbers: set[int]) -> frozenset[str]:
        """Return pseudonyms."""
        return frozenset(subject_ref(self.rig.service.secret, f"learner-{number}") for number in numbers)


@pytest.fixture
def storm(tmp_path: Path) -> Storm:
    """Give a school of 10,000 with a published notice and an agreement."""
    settings = enrol(tmp_path / "elm", tmp_path / "authority", name="Elm School", port=8471)
    source = settings.folder / "source"
    source.mkdir()
    lines = [f"learner-{number},{10 + number % 9},{number % 20}" for number in range(LEARNERS)]
    (source / "marks.csv").write_text("\n".join(["pupil,age,mark", *lines]) + "\n", encoding="utf-8")
    (settings.catalog.datasets / "storm.view").write_text(VIEW, encoding="utf-8")
    (settings.catalog.datasets / "storm.toml").write_text(DATASET_FILE, encoding="utf-8")
    dataset_id = f"{settings.server.public_url}/datasets/storm"
    database = Database(settings.storage.database_url)
    rig = consent_rig(database)
    purposes = [purpose_body(PURPOSE)]
    rig.service.publish_notice(notice(notice_id=f"{dataset_id}/notice", dataset_id=dataset_id, purposes=purposes))
    store = ContractStore(database)
    policy = fill_template(
        "training",
        {
            "offer_id": "urn:offer",
            "purpose": PURPOSE,
            "valid_from": "2026-01-01T00:00:00Z",
            "valid_until": "2036-01-01T00:00:00Z",
            "cohort_floor": 10,
        },
    )
    agreement = Agreement(
        id=AGREEMENT,
        target=dataset_id,
        assigner="did:web:school.example",
        assignee="did:web:ai.example",
        rules={"permission": policy["permission"]},
    )
    record = AgreementRecord(
        agreement=agreement,
        digest=agreement_digest(agreement),
        role=Role.PROVIDER,
        counterparty=Counterparty(participant_id="did:web:ai.example", address="http://ai.example/dsp/2025-1"),
        negotiation_pid="urn:uuid:negotiation",
        concluded_at=rig.clock(),
    )
    store.run("test.agreement", lambda unit: unit.add_agreement(record))
    gate = UsageGate(agreements=store, consents=rig.service, decisions=SqlDecisionLog(database), now=rig.clock)
    return Storm(
        rig=rig, gate=gate, snapshots=ParticipantSnapshots(settings, rig.service.secret), dataset_id=dataset_id
    )


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the subjects whose rows any source adapter hands on, as its admission lets them through."""
    seen: list[str] = []
    admitted = Admission.filter

    def watched(self: Admission, table: Any, column: str, *, count: bool = True) -> Any:
        kept = admitted(self, table, column, count=count)
        seen.extend(kept.column(column).to_pylist())
        return kept

    monkeypatch.setattr(Admission, "filter", watched)
    return seen


@pytest.mark.slow
def test_nobody_is_read_who_does_not_consent(storm: Storm, read: list[str]) -> None:
    """In each round the rows read are exactly those of who consented as it began; every exclusion has its receipt."""
    chance = np.random.default_rng(7)
    storm.say(list(range(0, LEARNERS, 2)), ConsentAction.GRANT)
    before: set[int] = set()
    for number in range(1, ROUNDS + 1):
        leaving = _some(chance, storm.granted, RESTLESS)
        joining = _some(chance, set(range(LEARNERS)) - storm.granted, RESTLESS)
        storm.say(leaving, ConsentAction.WITHDRAW)
        storm.say(joining, ConsentAction.GRANT)
        expected = set(storm.granted)
        answer = storm.gate.check(AGREEMENT, PURPOSE, ALGORITHM, 10, job_id=JOB, round_number=number)
        assert answer.allowed, answer.reasons
        # Whoever leaves now is left out of the next round; this one has begun.
        storm.say(_some(chance, storm.granted, 10), ConsentAction.WITHDRAW)
        read.clear()
        snapshot = storm.snapshots.prepare(storm.dataset_id, JOB, answer.subjects)
        storm.gate.used(AGREEMENT, JOB, number, answer.subjects)
        assert {int(subject.removeprefix("learner-")) for subject in read} == expected
        assert answer.subjects == storm.refs(expected)
        assert snapshot.subjects == len(expected)
        for gone in before - expected:
            _check_receipt(storm, gone, last_round=number - 1)
        before = expected


def test_an_expired_consent_is_not_read_either(storm: Storm, read: list[str]) -> None:
    """A consent that ran out before the round is left out, whether or not anybody has noted its expiry."""
    storm.say(list(range(20)), ConsentAction.GRANT)
    storm.rig.clock.advance(days=300)
    storm.say(list(range(20, 40)), ConsentAction.GRANT)
    storm.rig.clock.time += timedelta(days=70)
    answer = storm.gate.check(AGREEMENT, PURPOSE, ALGORITHM, 10, job_id=JOB, round_number=1)
    storm.snapshots.prepare(storm.dataset_id, JOB, answer.subjects)
    assert {int(subject.removeprefix("learner-")) for subject in read} == set(range(20, 40))
    assert storm.rig.service.expire_due() == 20


def _some(chance: np.random.Generator, of: set[int], count: int) -> list[int]:
    return [int(number) for number in chance.choice(sorted(of), count, replace=False)]


def _check_receipt(storm: Storm, number: int, *, last_round: int) -> None:
    receipt = storm.rig.service.receipt(Caller(subject=f"learner-{number}"), storm.records[number])
    payload = verify_receipt(receipt, storm.rig.signer.public_key)
    assert payload["state"] == "withdrawn"
    rounds = [use["rounds"] for use in payload["consequences"]["cannot_be_undone"] if use["job"] == JOB]
    assert rounds[-1][1] == last_round
