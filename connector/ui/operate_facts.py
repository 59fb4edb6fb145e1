"""What operators' pages read: counts as bands, notices, policies, plans, jobs, duties, decisions, webhooks, what is stuck.

No subject, no secret.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from connector.storage.decisions import LoggedDecision, SqlDecisionLog
from connector.storage.duties import SqlDuties
from connector.storage.stuck import StuckMessage
from connector.storage.webhooks import DEAD, QUEUED, SENT, Delivery, SqlWebhooks, Webhook
from connector.ui.my_views import NameOf, party, slug
from contracts.ports import CatalogQuery, Store
from contracts.processes import Dataset
from learning.jobs import (
    JOB_ENDS,
    Job,
    JobLine,
    JobState,
    Member,
    OwnPlan,
    Participation,
    ParticipationState,
    PlanState,
    ReceivedPlan,
)
from learning.node import Node
from learning.ports import Records
from learning.rounds import Round, RoundState, Step, StepState
from policies.counts import Band
from policies.decision import describe
from policies.duties import Duty, DutyState
from policies.gate import PolicyGate
from policies.model import short
from policies.notices import Notice
from policies.scopes import Scope
from policies.service import ConsentService

_STUCK = 100
_DATASETS = 200
_RECENT = 30
_DUTIES = 500
DECISIONS = 25
_DELIVERIES = 20
_FACTS = ("assignee", "purpose", "algorithm_class", "consent", "aggregation")
_UNDER_WAY = frozenset(
    {
        *(set(JobState) - JOB_ENDS),
        ParticipationState.WAITING_FOR_CONSENT,
        ParticipationState.READY,
        ParticipationState.ACTIVE,
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PurposeCount:
    """How many consent to one purpose of a dataset, as a band."""

    notice: str
    title: str
    purpose: str
    count: Band


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A training plan that a consumer registered here, for an operator to judge."""

    digest: str
    agreement_id: str
    consumer: str
    state: str
    reason: str
    received_at: datetime
    plan: Mapping[str, Any]

    @property
    def pending(self) -> bool:
        """Whether it waits for a decision."""
        return self.state == PlanState.PENDING

    @property
    def aggregation(self) -> str:
        """How updates are summed, in a sentence."""
        found = self.plan["aggregation"]
        if found["mode"] == "clear":
            return "in clear: the AI provider sees each update"
        return f"secure sums over {found['seats']} seats, of which {found['threshold']} may collude"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job of ours, or our part in somebody's."""

    job_id: str
    title: str
    ours: bool
    state: str
    reason: str
    counterparty: str
    done: int
    rounds: int
    last: str
    updated_at: datetime

    @property
    def tone(self) -> str:
        """How its state is coloured; the word stands beside it."""
        if self.state in {"FAILED", "STOPPED", "CANCELLED"}:
            return "bad"
        completed = self.state == "ENDED" and self.reason == JobState.COMPLETED
        return "good" if completed or self.state in {"RUNNING", "ACTIVE", "COMPLETED"} else "warn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DutyRow:
    """A duty and how it stands now."""

    duty: Duty
    what: str
    state: str
    holder: str

    @property
    def tone(self) -> str:
        """How its state is coloured; the word stands beside it."""
        return {"overdue": "bad", "fulfilled": "good", "open": "warn"}.get(self.state, "")

    @property
    def can_be_fulfilled(self) -> bool:
        """Whether somebody may write its proof now."""
        return self.state in {"open", "overdue"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebhookRow:
    """A subscription with what became of its deliveries."""

    webhook: Webhook
    waiting: int
    sent: int
    dead: int
    deliveries: Sequence[Delivery]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionRow:
    """A logged decision with its place in the log."""

    number: int
    decision: LoggedDecision
    assignee: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Desk:
    """What operators' pages stand on.

    Attributes:
        consents: the consent service.
        contracts: the contracts part of the database.
        node: this participant's part in training.
        stuck: messages that peers have not taken, at most so many.
        duties: what is owed under agreements, and how these stand.
        webhooks: who hears of consents.
        decisions: the decision log.
        name_of: a participant's name by its id.
        now: aware UTC time.
    """

    consents: ConsentService
    contracts: Store
    node: Node
    stuck: Callable[[int], Sequence[StuckMessage]]
    duties: SqlDuties
    webhooks: SqlWebhooks
    decisions: SqlDecisionLog
    name_of: NameOf
    now: Callable[[], datetime]

    def counts(self) -> list[PurposeCount]:
        """Return how many consent to each purpose; small numbers are suppressed."""
        return [
            PurposeCount(
                notice=slug(notice.notice_id),
                title=notice.texts[notice.default_language].title,
                purpose=short(item.purpose),
                count=self.consents.count_band(notice.dataset_id, item.purpose),
            )
            for notice in self.consents.notices()
            for item in notice.purposes
        ]

    def notice(self, name: str, version: int | None) -> Notice | None:
        """Return a version of a notice by its short name, the current one by default."""
        for notice in self.consents.notices():
            if slug(notice.notice_id) == name:
                return notice if version is None else self.consents.notice(notice.notice_id, version)
        return None

    def datasets(self) -> Sequence[Dataset]:
        """Return the datasets of the catalog with their offers."""
        return self.contracts.datasets(CatalogQuery(limit=_DATASETS))

    def explain(self, dataset: Dataset, asked: Mapping[str, str]) -> list[str]:
        """Return what the dataset's policy says to a request with these facts; an empty one is unknown."""
        facts: dict[str, object] = {name: value for name in _FACTS if (value := asked.get(name, "").strip())}
        facts["target"] = dataset.id
        if asked.get("cohort_size", "").isdecimal():
            facts["cohort_size"] = int(asked["cohort_size"][:9])
        scope = asked.get("scope", "")
        chosen = Scope(scope) if scope in {one.value for one in Scope} else Scope.ROUND
        return describe(PolicyGate(now=self.now).decide(chosen, dataset.offer.document(), facts))

    def plans(self) -> list[PlanRow]:
        """Return the plans that were registered here, those that wait first."""
        found = self.node.store.run("plan.list", lambda records: records.select(ReceivedPlan))
        found.sort(key=lambda plan: plan.received_at, reverse=True)
        rows = [
            PlanRow(
                digest=plan.plan_digest,
                agreement_id=plan.agreement_id,
                consumer=party(plan.consumer, self.name_of),
                state=plan.state,
                reason=plan.reason or "",
                received_at=plan.received_at,
                plan=plan.document["payload"],
            )
            for plan in found
        ]
        return [row for row in rows if row.pending] + [row for row in rows if not row.pending][:_RECENT]

    def jobs(self) -> list[JobRow]:
        """Return our jobs and our parts in others' jobs, those that run first, then the newest."""

        def work(records: Records) -> list[JobRow]:
            own = sorted(records.select(Job), key=lambda job: job.updated_at, reverse=True)
            parts = sorted(records.select(Participation), key=lambda part: part.updated_at, reverse=True)
            return [
                *(self._own(records, job) for job in own[:_RECENT]),
                *(self._part(records, part) for part in parts[:_RECENT]),
            ]

        rows = self.node.store.run("job.board", work)
        return sorted(rows, key=lambda row: row.state not in _UNDER_WAY)

    def running(self) -> int:
        """Return how many jobs are under way here."""
        return sum(row.state in _UNDER_WAY for row in self.jobs())

    def duty_rows(self) -> list[DutyRow]:
        """Return the duties under our agreements, the overdue ones first."""
        now = self.now()
        return [
            DutyRow(
                duty=duty,
                what=short(duty.kind),
                state=duty.state_at(now).value,
                holder=party(duty.holder, self.name_of),
            )
            for duty in self.duties.all(limit=_DUTIES)
        ]

    def overdue(self) -> int:
        """Return how many duties are overdue."""
        return sum(duty.state_at(self.now()) is DutyState.OVERDUE for duty in self.duties.overdue(self.now()))

    def webhook_rows(self) -> list[WebhookRow]:
        """Return the subscriptions with their newest deliveries."""
        counts = self.webhooks.counts()
        return [
            WebhookRow(
                webhook=one,
                waiting=counts.get(one.webhook_id, {}).get(QUEUED, 0),
                sent=counts.get(one.webhook_id, {}).get(SENT, 0),
                dead=counts.get(one.webhook_id, {}).get(DEAD, 0),
                deliveries=self.webhooks.deliveries(one.webhook_id, limit=_DELIVERIES),
            )
            for one in self.webhooks.all()
        ]

    def given_up(self) -> int:
        """Return how many deliveries were given up."""
        return sum(counts.get(DEAD, 0) for counts in self.webhooks.counts().values())

    def decision_rows(self, scope: str | None, verdict: str | None, before: int | None) -> list[DecisionRow]:
        """Return the newest decisions of a kind; ``before`` is the number to go on from."""
        self.decisions.flush()
        return [
            DecisionRow(number=number, decision=decision, assignee=party(decision.assignee or "", self.name_of))
            for number, decision in self.decisions.page(DECISIONS, None, scope, verdict, before)
        ]

    def denied(self) -> int:
        """Return how many uses were denied in the last 24 hours."""
        self.decisions.flush()
        return self.decisions.count("deny", self.now() - timedelta(hours=24))

    def stuck_now(self) -> Sequence[StuckMessage]:
        """Return what peers have not taken."""
        return self.stuck(_STUCK)

    def _own(self, records: Records, job: Job) -> JobRow:
        plan = records.get(OwnPlan, job.plan_digest)
        payload: Mapping[str, Any] = plan.document["payload"] if plan else {}
        done = {value.round for value in records.select(Round, job.job_id) if value.state is RoundState.DONE}
        members = len(records.select(Member, job.job_id))
        rounds = int(payload.get("rounds", 0))
        return JobRow(
            job_id=job.job_id,
            title=str(payload.get("title", "")),
            ours=True,
            state=job.state,
            reason=job.reason or "",
            counterparty=f"{members} providers",
            done=min(len(done), rounds) if job.state not in JOB_ENDS or job.report is None else rounds,
            rounds=rounds,
            last=_last(records, job.job_id),
            updated_at=job.updated_at,
        )

    def _part(self, records: Records, part: Participation) -> JobRow:
        plan = records.get(ReceivedPlan, part.plan_digest, part.agreement_id)
        payload: Mapping[str, Any] = plan.document["payload"] if plan else {}
        rounds = int(payload.get("rounds", 0))
        return JobRow(
            job_id=part.job_id,
            title=str(payload.get("title", "")),
            ours=False,
            state=part.state,
            reason=part.reason or "",
            counterparty=party(part.consumer, self.name_of),
            done=min(len(_rounds_seen(records, part.job_id)), rounds),
            rounds=rounds,
            last=_last(records, part.job_id),
            updated_at=part.updated_at,
        )


def _rounds_seen(records: Records, job_id: str) -> set[int]:
    return {step.round for step in records.select(Step, job_id) if step.state is StepState.DONE}


def _last(records: Records, job_id: str) -> str:
    lines = records.select(JobLine, job_id)
    return max(lines, key=lambda line: line.number).text if lines else ""
