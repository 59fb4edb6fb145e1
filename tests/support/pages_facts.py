"""What a school has lived through before somebody opens its pages: consents, uses, plans, jobs, duties, a silent peer."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.drivers.outbox import Senders
from connector.foundation import lay_foundation, utc_now
from connector.rooms import NoTrainer, Rooms, lay_rooms
from connector.settings import Settings
from connector.storage.database import Database, Transaction
from connector.storage.decisions import LoggedDecision
from connector.storage.tables_contracts import outbox, processes
from connector.storage.tables_webhooks import webhook_deliveries
from connector.storage.webhooks import SqlWebhooks, Webhook
from contracts.messages import Offer
from contracts.processes import Dataset
from learning.jobs import Job, JobLine, JobState, Participation, ParticipationState, PlanState, ReceivedPlan
from learning.ports import Records
from policies.ages import Person
from policies.duties import Begins, Duty
from policies.expressions import stamp
from policies.notices import Notice
from policies.ports import UseSpan
from policies.subjects import subject_ref
from policies.templates import fill_template
from tests.support.consents import OTHER_PURPOSE, PURPOSE, imported

AGREEMENT = "urn:uuid:00000000-0000-4000-8000-00000000a9ee"
JOB = "urn:uuid:00000000-0000-4000-8000-000000000b0b"
OWN_JOB = "urn:uuid:00000000-0000-4000-8000-000000000c0c"
CONSUMER = "did:web:ai.example"


def fill(settings: Settings, notices: Sequence[Notice], used: Sequence[str]) -> None:
    """Write a school's past into its database; the rows of ``used`` learners were in rounds 3 to 17 of a job."""
    foundation = lay_foundation(settings)
    try:
        rooms = lay_rooms(foundation, ring=_no_ring, doorbell=Senders(clock=utc_now), trainer=NoTrainer())
        for notice in notices:
            _publish(rooms, notice)
        _consents(rooms, notices[0])
        _uses(rooms, notices[0], used)
        _dataset(rooms, notices[0])
        rooms.node.store.run("test.jobs", _jobs)
        _silent_peer(foundation.database)
        _duties(rooms)
        _decisions(rooms)
        _webhooks(foundation.database)
    finally:
        foundation.close()


def plan_payload(title: str) -> dict[str, object]:
    """Return a plan as an operator sees it."""
    return {
        "title": title,
        "purpose": PURPOSE,
        "algorithm_class": "https://w3id.org/orchard/KnowledgeTracingModel",
        "model": {"kind": "dkt", "hidden": 32},
        "rounds": 20,
        "aggregation": {"mode": "star", "seats": 3, "threshold": 1},
        "cohort_floor": 10,
        "min_contributors": 2,
        "clip": 10.0,
    }


def say(settings: Settings, number: int) -> None:
    """Add a line to the timeline of the job that runs, as a worker would."""
    foundation = lay_foundation(settings)
    try:
        rooms = lay_rooms(foundation, ring=_no_ring, doorbell=Senders(clock=utc_now), trainer=NoTrainer())
        line = JobLine(job_id=JOB, number=number, at=utc_now(), code="round", text=f"round {number} opened")
        rooms.node.store.run("test.line", lambda records: records.add(line))
    finally:
        foundation.close()


def replace_notice(settings: Settings, notice: Notice) -> None:
    """Publish the next version of a notice, with another retention: what people agreed to is no longer what it says."""
    foundation = lay_foundation(settings)
    try:
        rooms = lay_rooms(foundation, ring=_no_ring, doorbell=Senders(clock=utc_now), trainer=NoTrainer())
        purposes = tuple(dataclasses.replace(item, retention="P2Y") for item in notice.purposes)
        _publish(rooms, dataclasses.replace(notice, version=notice.version + 1, purposes=purposes))
    finally:
        foundation.close()


def _no_ring(_task: str, _key: str) -> None:
    """Wake nobody."""


def _publish(rooms: Rooms, notice: Notice) -> None:
    rooms.consents.publish_notice(notice)


def _consents(rooms: Rooms, notice: Notice) -> None:
    person = Person(country="DE", birth_year=1990)
    common = {"notice_id": notice.notice_id, "language": "de", "person": person, "expressed_at": None}
    rooms.consents.import_expressions([imported(number, purpose=PURPOSE, **common) for number in range(34)])
    rooms.consents.import_expressions([imported(number, purpose=OTHER_PURPOSE, **common) for number in range(100, 104)])


def _uses(rooms: Rooms, notice: Notice, used: Sequence[str]) -> None:
    refs = frozenset(subject_ref(rooms.consents.secret, subject) for subject in used)
    for number in range(3, 18):
        span = UseSpan(
            job_id=JOB,
            dataset_id=notice.dataset_id,
            purpose=PURPOSE,
            first_round=number,
            last_round=number,
            noise="none",
        )
        rooms.consents.record_use(span, refs)


def _dataset(rooms: Rooms, notice: Notice) -> None:
    now = utc_now()
    rules = fill_template(
        "training",
        {
            "offer_id": "urn:offer:answers",
            "purpose": PURPOSE,
            "valid_from": (now - timedelta(days=1)).isoformat(),
            "valid_until": (now + timedelta(days=300)).isoformat(),
            "cohort_floor": 10,
        },
    )
    offer = Offer(
        id="urn:offer:answers",
        target=notice.dataset_id,
        rules={name: rules[name] for name in ("permission", "prohibition", "obligation") if name in rules},
    )
    dataset = Dataset(
        id=notice.dataset_id, title="Answers of North School", offer=offer, formats=("FederatedTraining",)
    )
    rooms.contracts.store.run("test.dataset", lambda unit: unit.put_dataset(dataset, now=now))


def _jobs(records: Records) -> None:
    now = datetime.now(UTC)
    for digest, title, state, reason in (
        ("a" * 64, "Knowledge tracing for spring", PlanState.PENDING, None),
        ("b" * 64, "Knowledge tracing for autumn", PlanState.APPROVED, None),
        ("c" * 64, "Reading moods", PlanState.REFUSED, "not what the notice says"),
        ("d" * 64, "Knowledge tracing, once more", PlanState.PENDING, None),
    ):
        records.add(
            ReceivedPlan(
                plan_digest=digest,
                agreement_id=AGREEMENT,
                consumer=CONSUMER,
                document={"payload": plan_payload(title)},
                state=state,
                received_at=now,
                reason=reason,
            )
        )
    records.add(
        Participation(
            job_id=JOB,
            plan_digest="b" * 64,
            agreement_id=AGREEMENT,
            dataset_id="urn:dataset:answers",
            transfer_pid="urn:uuid:t",
            consumer=CONSUMER,
            consumer_organisation="AI",
            consumer_key="",
            state=ParticipationState.ACTIVE,
            created_at=now,
            updated_at=now,
        )
    )
    records.add(JobLine(job_id=JOB, number=1, at=now, code="joined", text="joined; enough learners consent"))
    records.add(
        Job(
            job_id=OWN_JOB,
            plan_digest="e" * 64,
            state=JobState.FAILED,
            created_at=now,
            updated_at=now,
            reason="too few providers came",
        )
    )


def _duties(rooms: Rooms) -> None:
    now = utc_now()

    def duty(name: str, kind: str, **more: Any) -> Duty:
        return Duty(
            duty_id=name * 64,
            agreement_id=AGREEMENT,
            kind=f"http://www.w3.org/ns/odrl/2/{kind}",
            holder=CONSUMER,
            created_at=now - timedelta(days=60),
            **{"terms": "", **more},
        )

    listed = [
        duty("1", "compensate", due_at=now - timedelta(days=2), terms="payAmount eq 100"),
        duty("2", "attribute"),
        duty("3", "delete", begins=Begins.JOB_END, length=timedelta(days=30), terms="elapsedTime lteq P30D"),
        duty("4", "inform", due_at=now - timedelta(days=9)),
    ]
    rooms.duties.note({AGREEMENT: listed}, now)
    rooms.duties.fulfil("4" * 64, {"proof": "letter of 12 November"}, now - timedelta(days=10))


def _decisions(rooms: Rooms) -> None:
    for number in range(60):
        denied = number % 20 == 7
        text = "purpose: asked https://w3id.org/dpv#Marketing, the offer allows only kinds of KnowledgeTracing"
        line = LoggedDecision(
            at=utc_now() - timedelta(hours=60 - number),
            scope="negotiation" if denied else "round",
            agreement_id="" if denied else AGREEMENT,
            verdict="deny" if denied else "permit",
            reasons=[{"text": text if denied else "consent: asked granted, the offer allows only granted"}],
            job_id=None if denied else JOB,
            round_number=None if denied else number + 1,
            policy_id="urn:offer:answers" if denied else AGREEMENT,
            assignee=CONSUMER,
            target="urn:dataset:answers",
            duties=[] if denied else ["delete"],
        )
        rooms.decisions.add(line)


def _webhooks(database: Database) -> None:
    now = utc_now()
    store = SqlWebhooks(database)
    # Nobody listens there: what is sent again is still waiting when somebody looks.
    store.add(Webhook(webhook_id="lms", url="http://127.0.0.1:9/consents", events=("invalidated",), created_at=now))
    store.add(Webhook(webhook_id="archive", url="http://127.0.0.1:9/archive", events=("expired",), created_at=now))
    common = {"webhook_id": "lms", "body": "{}", "created_at": stamp(now)}
    rows = [
        {"event_id": "urn:uuid:sent", "status": "sent", "attempts": 1, "due_at": stamp(now), "last_status": 204},
        {"event_id": "urn:uuid:dead", "status": "dead", "attempts": 12, "due_at": stamp(now), "last_status": 503},
        {
            "event_id": "urn:uuid:waits",
            "status": "queued",
            "attempts": 3,
            "due_at": stamp(now + timedelta(hours=6)),
            "last_status": None,
        },
    ]

    def work(unit: Transaction) -> None:
        unit.connection.execute(webhook_deliveries.insert(), [common | row for row in rows])

    database.run("test.webhooks", work)


def _silent_peer(database: Database) -> None:
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    pid = "urn:uuid:00000000-0000-4000-8000-00000000dead"
    hour = 3_600_000_000
    process = {
        "pid": pid,
        "kind": "negotiation",
        "role": "consumer",
        "state": "REQUESTED",
        "counterparty_id": CONSUMER,
        "counterparty_address": "http://127.0.0.1:9/dsp",
        "dataset_id": "urn:dataset:far",
        "details": "{}",
        "created_at": now,
        "updated_at": now,
    }
    row = {
        "pid": pid,
        "kind": "negotiation",
        "step": "ContractRequestMessage",
        "message_id": "urn:uuid:m",
        "audience": CONSUMER,
        "url": "http://127.0.0.1:9/dsp/negotiations/request",
        "body": "{}",
        "status": "queued",
        "attempts": 4,
        # Far enough away that the running school does not try it meanwhile.
        "due_at": now + 6 * hour,
        "created_at": now,
        "last_attempt_at": now,
        "last_status": 503,
        "last_answer": "try again later",
    }

    def work(unit: object) -> None:
        connection = unit.connection  # type: ignore[attr-defined]
        connection.execute(processes.insert(), process)
        connection.execute(outbox.insert(), row)

    database.run("test.stuck", work)
