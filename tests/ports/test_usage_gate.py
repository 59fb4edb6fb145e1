"""The usage gate over real stores: contract, policy and consent decide, and what leaves is never a small number."""

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from connector.datasets.usage import UsageGate, approved_plan_facts
from connector.datasets.usage_facts import TransferFacts, UseFacts
from connector.policy_log import LoggedPolicyGate
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from connector.storage.decisions import SqlDecisionLog
from connector.storage.duties import SqlDuties
from connector.storage.learning import SqlLearningStore
from contracts.agreement import agreement_digest
from contracts.agreement import payload as payload_of
from contracts.messages import Agreement
from contracts.processes import AgreementRecord, Counterparty
from contracts.states import Role
from learning.errors import StepFailedError
from learning.jobs import PlanState, ReceivedPlan
from policies.consent import ConsentAction
from policies.gate import PolicyGate
from policies.ports import UseSpan
from policies.subjects import subject_ref
from policies.templates import fill_template, template_names
from tests.support.consents import DATASET, PURPOSE, START, ConsentRig, consent_rig, imported, notice

AI_PROVIDER = "did:web:ai.example"
SCHOOL = "did:web:school.example"
AGREEMENT = "urn:uuid:agreement-1"
ALGORITHM = "https://w3id.org/orchard/KnowledgeTracingModel"


@dataclasses.dataclass(kw_only=True)
class Rig:
    """A gate and what it asks."""

    gate: UsageGate
    consents: ConsentRig
    log: SqlDecisionLog
    store: ContractStore
    database: Database

    def check(self, **changes: Any) -> Any:
        """Ask for a round."""
        plain = {"agreement_id": AGREEMENT, "purpose": PURPOSE, "algorithm_class": ALGORITHM, "floor": 10}
        return self.gate.check(**(plain | changes))

    def conclude(self, rules: Mapping[str, Any], *, role: Role = Role.PROVIDER, id: str = AGREEMENT) -> None:  # noqa: A002 - the specification's word
        """Record an agreement."""
        agreement = Agreement(id=id, target=DATASET, assigner=SCHOOL, assignee=AI_PROVIDER, rules=rules)
        record = AgreementRecord(
            agreement=agreement,
            digest=agreement_digest(agreement),
            role=role,
            counterparty=Counterparty(participant_id=AI_PROVIDER, address="http://ai.example/dsp/2025-1"),
            negotiation_pid=f"urn:uuid:negotiation-of-{id}",
            concluded_at=START,
        )
        self.store.run("test.agreement", lambda unit: unit.add_agreement(record))


def rules(template: str = "training", **values: Any) -> dict[str, Any]:
    """Return a template's rules for the usual purpose."""
    plain = {
        "offer_id": "urn:offer",
        "purpose": PURPOSE,
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "cohort_floor": 10,
    }
    filled = fill_template(template, plain | values)
    return {kind: filled[kind] for kind in ("permission", "prohibition") if kind in filled}


@pytest.fixture
def rig(database: Database) -> Rig:
    """Give a gate with one agreement and twelve learners who consent."""
    consents = consent_rig(database)
    consents.service.publish_notice(notice())
    consents.service.import_expressions([imported(number) for number in range(12)])
    store, log = ContractStore(database), SqlDecisionLog(database)
    gate = UsageGate(agreements=store, consents=consents.service, decisions=log, now=consents.clock)
    rig = Rig(gate=gate, consents=consents, log=log, store=store, database=database)
    rig.conclude(rules())
    return rig


def use_facts(rig: Rig) -> UseFacts:
    """Return the facts about earlier uses over the rig's stores."""
    seconds = rig.consents.service.store.seconds_used
    return UseFacts(decisions=rig.log, duties=SqlDuties(rig.database), seconds_used=seconds)


def leave(rig: Rig, *numbers: int) -> None:
    """Withdraw the consent of some learners."""
    rig.consents.clock.advance(minutes=1)
    said = [
        imported(number, event_id=f"leave-{number}", action=ConsentAction.WITHDRAW, expressed_at=rig.consents.clock())
        for number in numbers
    ]
    assert all(result.outcome == "recorded" for result in rig.consents.service.import_expressions(said))


def test_a_round_reads_who_consents_now(rig: Rig) -> None:
    """A permitted round names exactly the consenting learners; who withdrew is not among them the next time."""
    first = rig.check()
    assert first.allowed
    assert len(first.subjects) == 12
    leave(rig, 3)
    second = rig.check()
    assert first.subjects - second.subjects == {subject_ref(rig.consents.service.secret, "learner-3")}


def test_too_few_learners_stop_the_round_without_saying_how_many(rig: Rig) -> None:
    """Below the agreed floor the answer is no, and neither the reasons nor the log say how many there are."""
    leave(rig, 0, 1, 2)
    answer = rig.check()
    assert not answer.allowed
    assert answer.subjects == frozenset()
    assert answer.reasons == ("cohortFloor: asked fewer than 10, the offer allows only at least 10",)
    assert " 9" not in repr(rig.log.of_agreement(AGREEMENT)[0].reasons)
    assert not rig.gate.floor_met(AGREEMENT, 5, PURPOSE)


def test_the_plans_floor_counts_beside_the_agreements(rig: Rig) -> None:
    """The stricter of the two floors decides, here and while the job waits for consents."""
    assert rig.gate.floor_met(AGREEMENT, 12, PURPOSE)
    assert not rig.gate.floor_met(AGREEMENT, 13, PURPOSE)
    answer = rig.check(floor=13)
    assert (answer.allowed, answer.reasons) == (
        False,
        ("cohortFloor: fewer learners consent now than the plan asks for",),
    )


@pytest.mark.parametrize("purpose", ["", "https://w3id.org/dpv#Marketing", "https://w3id.org/dpv#AcademicResearch"])
def test_another_purpose_is_denied(rig: Rig, purpose: str) -> None:
    """No purpose, or one that was not agreed, reads nobody's rows; the log says so."""
    answer = rig.check(purpose=purpose)
    assert not answer.allowed
    assert answer.reasons[0].startswith("purpose: asked ")
    assert rig.log.of_agreement(AGREEMENT)[0].verdict == "deny"
    assert not rig.gate.floor_met(AGREEMENT, 1, purpose)


def test_what_the_agreement_no_longer_allows_is_denied(rig: Rig) -> None:
    """After the agreed period there is no round."""
    rig.consents.service.import_expressions(
        [imported(number, event_id=f"later-{number}", subject=f"late-{number}") for number in range(20, 32)]
    )
    rig.consents.clock.time = START + timedelta(days=60)
    answer = rig.check()
    assert not answer.allowed
    assert any(reason.startswith("dateTime: ") for reason in answer.reasons)


def test_an_unknown_agreement_is_denied(rig: Rig) -> None:
    """No agreement here, or one in which we are the consumer, reads nobody's rows."""
    rig.conclude(rules(), role=Role.CONSUMER, id="urn:uuid:ours")
    for agreement_id in ("urn:uuid:none", "urn:uuid:ours"):
        assert not rig.check(agreement_id=agreement_id).allowed
        assert not rig.gate.floor_met(agreement_id, 1, PURPOSE)
        with pytest.raises(StepFailedError):
            rig.gate.used(agreement_id, "job", 1, frozenset())


def test_what_is_not_known_denies(rig: Rig) -> None:
    """A policy that constrains the aggregation denies until the plan's own is known."""
    rig.conclude(rules("training-secure", algorithm_classes=[ALGORITHM]), id="urn:uuid:secure")
    assert not rig.check(agreement_id="urn:uuid:secure").allowed
    knowing = dataclasses.replace(rig.gate, plan_facts=lambda _agreement: {"aggregation": "star"})
    assert knowing.check("urn:uuid:secure", PURPOSE, ALGORITHM, 10).allowed
    assert not knowing.check("urn:uuid:secure", PURPOSE, "https://w3id.org/orchard/Other", 10).allowed


def test_metered_time_counts_the_training_that_was_done(rig: Rig) -> None:
    """Seconds add up over rounds, second attempts included, and over jobs; at the limit the next round is denied."""
    limited = rules()
    limited["permission"][0]["constraint"].append(
        {"leftOperand": "meteredTime", "operator": "lt", "rightOperand": "PT1M"}
    )
    rig.conclude(limited, id="urn:uuid:metered")
    gate = dataclasses.replace(rig.gate, use_facts=use_facts(rig).read)

    def check(job: str, number: int) -> Any:
        return gate.check("urn:uuid:metered", PURPOSE, ALGORITHM, 10, job_id=job, round_number=number)

    for job, number in (("urn:a", 1), ("urn:a", 2), ("urn:a", 2), ("urn:b", 1)):
        answer = check(job, number)
        assert answer.allowed
        gate.used("urn:uuid:metered", job, number, answer.subjects, seconds=15.0)
    late = check("urn:b", 2)
    assert late.reasons == ("meteredTime: asked 60.0, the offer allows only less than PT1M",)
    assert rig.check().allowed, "another agreement has its own time"


def test_a_privacy_budget_refuses_what_has_no_bound_and_ends_when_it_is_spent(rig: Rig) -> None:
    """Without noise a plan spends more than any budget; with noise attempts add up over the dataset."""
    rig.conclude(rules("training-with-privacy-budget", epsilon=2), id="urn:uuid:budget")
    plain = rig.gate.check("urn:uuid:budget", PURPOSE, ALGORITHM, 10)
    assert plain.reasons == (
        "privacyBudget: asked more than any budget (the plan adds no noise), the offer allows only at most 2",
    )
    assert not rig.gate.release("urn:uuid:budget", PURPOSE, ALGORITHM, 12).allowed
    rig.gate.used(AGREEMENT, "urn:plain", 1, rig.check().subjects, seconds=1.0)
    ledger = rig.consents.service.store
    assert ledger.epsilon_spent(DATASET) == 0
    noisy = dataclasses.replace(rig.gate, plan_facts=lambda _agreement: {"epsilon": 0.75})
    for number in (1, 1):
        answer = noisy.check("urn:uuid:budget", PURPOSE, ALGORITHM, 10, job_id="urn:noisy", round_number=number)
        assert (answer.allowed, answer.epsilon) == (True, 0.75)
        noisy.used("urn:uuid:budget", "urn:noisy", number, answer.subjects, epsilon=answer.epsilon)
    assert ledger.epsilon_spent(DATASET) == 1.5
    third = noisy.check("urn:uuid:budget", PURPOSE, ALGORITHM, 10, job_id="urn:noisy", round_number=2)
    assert third.reasons == ("privacyBudget: asked 2.25, the offer allows only at most 2",)
    assert noisy.release("urn:uuid:budget", PURPOSE, ALGORITHM, 12).allowed


@pytest.mark.parametrize("template", template_names())
def test_no_template_is_denied_for_want_of_a_source(rig: Rig, template: str) -> None:
    """Every template's policy is decided at transfer and at a round from what this connector knows by itself."""
    values: dict[str, dict[str, Any]] = {
        "training-secure": {"algorithm_classes": [ALGORITHM]},
        "training-with-deletion": {"delete_after": "P90D"},
        "training-deletion-after-job": {"delete_after": "P90D"},
        "training-with-privacy-budget": {"epsilon": 8},
        "training-for-named-recipients": {"recipients": [AI_PROVIDER]},
        "training-counted": {"uses": 3},
    }
    agreement = f"urn:uuid:{template}"
    given = rules(template, **values.get(template, {}))
    metered = {"leftOperand": "meteredTime", "operator": "lteq", "rightOperand": "PT1H"}
    granularity = {"leftOperand": "https://w3id.org/orchard/granularity", "operator": "eq", "rightOperand": "provider"}
    given["permission"][0]["constraint"] += [metered, granularity]
    rig.conclude(given, id=agreement)
    store = SqlLearningStore(rig.database, lambda _task, _key: None, rig.consents.clock)
    payload = {
        "aggregation": {"mode": "star"},
        "algorithm_class": ALGORITHM,
        "granularity": "provider",
        "epsilon": 0.5,
    }
    plan = ReceivedPlan(
        plan_digest="digest",
        agreement_id=agreement,
        consumer=AI_PROVIDER,
        document={"payload": payload},
        state=PlanState.APPROVED,
        received_at=START,
    )
    store.run("test.plan", lambda records: records.add(plan))
    uses = use_facts(rig)
    facts = TransferFacts(
        agreements=rig.store, plan_facts=approved_plan_facts(store), uses=uses, consents=rig.consents.service
    )
    clock = rig.consents.clock
    door = LoggedPolicyGate(gate=PolicyGate(now=clock), log=rig.log, now=clock, more=facts.read)
    record = rig.store.agreement(agreement)
    assert record is not None
    asked = {"assignee": AI_PROVIDER, "purpose": PURPOSE}
    assert door.decide("transfer", payload_of(record.agreement), asked).refusals == ()
    gate = dataclasses.replace(rig.gate, plan_facts=facts.plan_facts, use_facts=uses.read)
    assert gate.check(agreement, PURPOSE, ALGORITHM, 10, job_id="urn:job", round_number=1).reasons == ()


def test_the_approved_plan_says_what_is_computed(rig: Rig) -> None:
    """What a policy asks of a plan is known from the newest one that this provider approved under the agreement."""
    store = SqlLearningStore(rig.database, lambda _task, _key: None, rig.consents.clock)
    facts = approved_plan_facts(store)
    for number, state in enumerate((PlanState.APPROVED, PlanState.REFUSED)):
        plan = ReceivedPlan(
            plan_digest=f"digest-{number}",
            agreement_id=AGREEMENT,
            consumer=AI_PROVIDER,
            document={"payload": {"aggregation": {"mode": "star"}, "algorithm_class": ALGORITHM}},
            state=state,
            received_at=START + timedelta(minutes=number),
        )
        assert store.run("test.plan", lambda records, plan=plan: records.add(plan))
    assert facts(AGREEMENT) == {
        "algorithm_class": ALGORITHM,
        "algorithm_digest": "digest-0",
        "aggregation": "star",
        "output_kind": "model",
    }
    assert facts("urn:uuid:other") == {}


def test_emotion_inference_is_denied_whatever_was_agreed(rig: Rig) -> None:
    """The law comes before the agreement."""
    assert not rig.check(algorithm_class="https://w3id.org/orchard/EmotionRecognition").allowed


def test_every_decision_is_a_row_without_people(rig: Rig) -> None:
    """The log keeps what was asked, when, and why it was answered so; no pseudonym is in it."""
    allowed = rig.check(job_id="urn:job", round_number=4)
    leave(rig, 0, 1, 2)
    rig.check()
    newest, oldest = rig.log.of_agreement(AGREEMENT)
    assert (oldest.verdict, oldest.scope, oldest.job_id, oldest.round_number) == ("permit", "round", "urn:job", 4)
    assert (newest.verdict, newest.at) == ("deny", rig.consents.clock())
    assert all(reason["text"] for reason in newest.reasons)
    text = repr((newest, oldest))
    assert not any(subject in text for subject in allowed.subjects)


def test_uses_are_spans(rig: Rig) -> None:
    """26,000 learners over many rounds make a row each, not one a round."""
    crowd = frozenset(f"{number:032x}" for number in range(26_000))
    rig.gate.used(AGREEMENT, "urn:job", 1, crowd)
    for number in range(2, 6):
        rig.gate.used(AGREEMENT, "urn:job", number, frozenset(list(crowd)))
    one = f"{7:032x}"
    assert rig.consents.service.store.uses_of([one]) == [
        UseSpan(job_id="urn:job", dataset_id=DATASET, purpose=PURPOSE, first_round=1, last_round=5, noise="none")
    ]


def test_an_agreement_that_was_ended_beats_every_consent(rig: Rig) -> None:
    """Twelve learners consent, and still nothing is read: not at a round, not at the start, not at release."""
    ended = dataclasses.replace(rig.gate, standing=lambda _agreement: ("agreement: it was ended: enough",))
    answer = ended.check(AGREEMENT, PURPOSE, ALGORITHM, 10)
    assert (answer.allowed, answer.subjects, answer.reasons) == (
        False,
        frozenset(),
        ("agreement: it was ended: enough",),
    )
    assert not ended.floor_met(AGREEMENT, 10, PURPOSE)
    assert not ended.release(AGREEMENT, PURPOSE, ALGORITHM, 12).allowed


def test_another_kind_of_computing_than_consented_to_is_denied(rig: Rig) -> None:
    """The learners read of one algorithm class; a plan of another one reads nobody, though no policy forbids it."""
    answer = rig.check(algorithm_class="https://w3id.org/orchard/EssayGrading")
    assert not answer.allowed
    assert answer.reasons == (
        "algorithmClass: asked https://w3id.org/orchard/EssayGrading, the learners consented to another one",
    )


def test_whoever_another_service_does_not_confirm_is_left_out(rig: Rig) -> None:
    """Its people are read only while it says yes, and nobody can be added by it."""
    (first, *_rest) = sorted(rig.check().subjects)
    strict = dataclasses.replace(rig.gate, confirm=lambda _dataset, _purpose, subjects: subjects - {first} | {"0" * 32})
    answer = strict.check(AGREEMENT, PURPOSE, ALGORITHM, 10)
    assert answer.subjects == rig.check().subjects - {first}


def test_a_model_of_too_few_is_not_released_and_the_log_says_so(rig: Rig) -> None:
    """The cohort floor binds at release with the size of the last cohort; the decision is logged at that scope."""
    assert rig.gate.release(AGREEMENT, PURPOSE, ALGORITHM, 12, job_id="urn:job", round_number=4).allowed
    few = rig.gate.release(AGREEMENT, PURPOSE, ALGORITHM, 9, job_id="urn:job", round_number=4)
    assert few.reasons == ("cohortFloor: asked fewer than 10, the offer allows only at least 10",)
    assert [line.scope for line in rig.log.of_agreement(AGREEMENT)] == ["release", "release"]


def test_a_provider_that_left_decides_by_the_cohort_that_it_noted(rig: Rig) -> None:
    """Asked after it left, it remembers how many were in; a job that read nobody is of too few; an ended agreement denies."""
    rig.gate.used(AGREEMENT, "urn:job", 1, rig.check().subjects)
    leave(rig, 1, 2)
    assert rig.gate.release(AGREEMENT, PURPOSE, ALGORITHM, None, job_id="urn:job", round_number=4).allowed
    assert not rig.gate.release(AGREEMENT, PURPOSE, ALGORITHM, None, job_id="urn:other", round_number=4).allowed
    ended = dataclasses.replace(rig.gate, standing=lambda _agreement: ("agreement: it was ended: enough",))
    word = ended.release(AGREEMENT, PURPOSE, ALGORITHM, None, job_id="urn:job", round_number=4)
    assert word.reasons[0] == "agreement: it was ended: enough"


def test_a_counted_use_is_a_round_once(rig: Rig) -> None:
    """A policy that allows two uses allows two rounds, a second attempt at one of them included, and no third."""
    rig.conclude(rules("training-counted", uses=2), id="urn:uuid:counted")
    facts = use_facts(rig)
    gate = dataclasses.replace(rig.gate, use_facts=facts.read)
    allowed = [
        gate.check("urn:uuid:counted", PURPOSE, ALGORITHM, 10, job_id="urn:job", round_number=number).allowed
        for number in (1, 2, 2, 3)
    ]
    assert allowed == [True, True, True, False]
