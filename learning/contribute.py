"""The contributor: asked into a round, it checks everything anew, trains beside the data, and packs one upload."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from learning.deliver import deliver, fail_step, parse_key, step_key, step_of
from learning.errors import RefusedError, StepFailedError
from learning.jobs import Participation, ParticipationState
from learning.local import run_learners_step, run_round_steps
from learning.models import initial_weights, parse_model, save_weights
from learning.node import Later, Node
from learning.packages import pack_learners, pack_provider, package_blobs
from learning.placing import manifest_of
from learning.plans import TrainingPlan
from learning.ports import GateAnswer, Records
from learning.provide import part_of, plan_of
from learning.rounds import OPENING_KIND, RELEASE_DENIED, RoundKind, Step, StepState
from learning.scrub import scrub
from learning.secagg.errors import SecureAggregationError
from learning.tree import parse_replaced
from policies.canonical import sha256_hex
from policies.signing import SignatureError, document_digest, verify

_DELIVER_AGAIN_SECONDS = 3.0
# An average over fewer would tell one of them what another one scored.
_CLASS_FLOOR = 3


def open_round(
    node: Node, consumer: str, consumer_key: str, job_id: str, document: Mapping[str, Any], weights: bytes
) -> Step:
    """Take a signed round opening and the model it names; local work begins after the commit.

    Raises:
        RefusedError: unsigned, another manifest, a model that is not the one named, or a round that is over.
    """
    part = part_of(node, job_id, consumer)
    try:
        opening = verify(OPENING_KIND, document, consumer_key)
        number, attempt, kind = int(opening["round"]), int(opening["attempt"]), RoundKind(opening["kind"])
        deadline = datetime.fromisoformat(opening["deadline"])
    except (SignatureError, KeyError, ValueError) as error:
        raise RefusedError("bad-opening", "the round opening is malformed or not signed by the collector") from error
    _check_opening(node, part, job_id, opening)
    model = sha256_hex(weights)
    if model != opening["model"]:
        raise RefusedError("wrong-model", "the model does not have the digest that the opening names")
    now = node.now()
    step = Step(
        job_id=job_id,
        round=number,
        attempt=attempt,
        kind=kind,
        state=StepState.TRAINING,
        model=model,
        opening=dict(document),
        opened_at=now,
        deadline=deadline,
    )

    def work(records: Records) -> Step:
        # Openings of one job come one after the other: two at once must not both find no earlier one.
        current = records.lock(Participation, job_id)
        if current is None or current.state is not ParticipationState.ACTIVE:
            raise RefusedError("not-taking-part", "this participation is over")
        steps = records.select(Step, job_id)
        _check_order(steps, step)
        if records.add(step):
            # Only now: an opening that is refused leaves no model behind, and takes away nobody's.
            node.blobs.put(weights, model)
            records.enqueue("learning.contribute", step_key(step), now)
            return step
        return records.get(Step, job_id, number, attempt) or step

    opened = node.store.run("step.open", work)
    # Another job that used the same model may have erased it between our first put and the row that claims it.
    node.blobs.put(weights, model)
    return opened


def contribute(node: Node, key: str) -> Later | None:
    """Task (queue ``train``): gate, snapshot, sandboxed step, mask, store the package; then deliver it."""
    job_id, number, attempt = parse_key(key)
    step = step_of(node, job_id, number, attempt)
    if step is None or step.state is not StepState.TRAINING:
        return None
    try:
        part, plan, answer = _allowed(node, step)
        stored, card, cost = _packed(node, part, plan, step, answer)
    except StepFailedError as error:
        if not error.final:
            raise
        fail_step(node, step, error.code, str(error))
        scrub(node, job_id, before=number)
        return None
    seconds = cost.get("wall_seconds", 0.0)
    node.gate.used(part.agreement_id, job_id, number, answer.subjects, seconds=seconds, epsilon=answer.epsilon)
    _keep(node, step, stored, card, cost)
    _hand_on(node, key)
    # Nobody waits for us any more.
    scrub(node, job_id, before=number)
    return None


def _allowed(node: Node, step: Step) -> tuple[Participation, TrainingPlan, GateAnswer]:
    """Check everything anew: our part, the time, contract, policy and consent.

    Raises:
        StepFailedError: the step may not run.
    """
    part = part_of(node, step.job_id)
    if part.state is not ParticipationState.ACTIVE:
        raise StepFailedError("not-taking-part", part.reason or f"this participation is {part.state}")
    if node.now() >= step.deadline:
        raise StepFailedError("too-late", "the round's deadline passed before the step was done")
    plan = plan_of(node, part)
    answer = node.gate.check(
        part.agreement_id,
        plan.purpose,
        plan.algorithm_class,
        plan.cohort_floor,
        job_id=step.job_id,
        round_number=step.round,
    )
    if not answer.allowed:
        raise StepFailedError("not-allowed", "; ".join(answer.reasons) or "the usage gate says no")
    if step.kind is RoundKind.EVALUATE:
        # The sums of the last round are what the model leaves the job with: whoever may not let it go says so now.
        release = node.gate.release(
            part.agreement_id,
            plan.purpose,
            plan.algorithm_class,
            len(answer.subjects),
            job_id=step.job_id,
            round_number=step.round,
        )
        if not release.allowed:
            raise StepFailedError(RELEASE_DENIED, "; ".join(release.reasons) or "the policy does not release the model")
    return part, plan, answer


def _hand_on(node: Node, key: str) -> None:
    """Deliver at once; what could not be delivered is the business of ``learning.deliver``, not of training."""
    answer = deliver(node, key)
    if answer is not None:
        node.store.run("step.again", lambda records: records.enqueue("learning.deliver", key, answer.due_at))


def _check_order(steps: Sequence[Step], step: Step) -> None:
    """Refuse a round that is over, and a second model for one that is open."""
    for earlier in steps:
        # One model a round: a second one would single a contributor out by the difference of two answers.
        if earlier.round == step.round and (earlier.model, earlier.kind) != (step.model, step.kind):
            raise RefusedError("second-model", f"round {step.round} was opened before with another model")
        if not _goes_on(earlier, step):
            raise RefusedError("wrong-seats", "a replaced seat does not come back, and none changes within a round")
    mine = (step.round, step.attempt)
    if any((earlier.round, earlier.attempt) > mine for earlier in steps) and all(
        (earlier.round, earlier.attempt) != mine for earlier in steps
    ):
        raise RefusedError("round-over", f"round {step.round}, attempt {step.attempt} is over")


def _goes_on(earlier: Step, step: Step) -> bool:
    """Say whether the seats that an opening calls replaced agree with an earlier opening's."""
    before, after = (one.opening["payload"].get("replaced", {}) for one in (earlier, step))
    if earlier.round == step.round:
        return bool(before == after)
    if earlier.round > step.round:
        return True
    return all(
        after.get(group, {}).get(column, 0) >= times
        for group, columns in before.items()
        for column, times in columns.items()
    )


def _check_opening(node: Node, part: Participation, job_id: str, opening: Mapping[str, Any]) -> None:
    if part.manifest is None or part.state is not ParticipationState.ACTIVE:
        raise RefusedError("not-taking-part", f"this participation is {part.state}")
    if opening.get("job") != job_id or opening.get("manifest") != document_digest(part.manifest):
        raise RefusedError("wrong-manifest", "the round opening is for another job or manifest")
    plan = plan_of(node, part)
    last = plan.rounds + 1
    if not 1 <= int(opening["round"]) <= last or not 1 <= int(opening["attempt"]) <= plan.round_attempts:
        raise RefusedError("no-such-round", "the plan has no such round or attempt")
    if int(opening["round"]) == 1 and plan.initial_weights not in (None, opening["model"]):
        raise RefusedError("wrong-model", "round 1 does not begin with the weights that the plan names")
    tree = manifest_of(node, part.manifest, part).tree
    try:
        if (replaced := opening.get("replaced")) is not None and (tree is None or not parse_replaced(replaced, tree)):
            raise RefusedError("wrong-seats", "the round opening replaces seats that there are not")
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    expected = RoundKind.EVALUATE if int(opening["round"]) == last else RoundKind.TRAIN
    if RoundKind(opening["kind"]) is not expected:
        raise RefusedError("wrong-kind", f"round {opening['round']} of this plan is a {expected} round")


def _packed(
    node: Node, part: Participation, plan: TrainingPlan, step: Step, answer: GateAnswer
) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, float]]:
    """Train, mask and store; return the package, the provider's own card, and what it cost."""
    snapshot = node.snapshots.prepare(part.dataset_id, part.job_id, answer.subjects)
    if snapshot.train_rows == 0:
        raise StepFailedError("no-rows", "the consenting learners have no row to train on")
    weights, own, small = node.blobs.get(step.model), node.participant_id, _small(node, part)
    if plan.granularity == "learner":
        each = run_learners_step(node.trainer, plan, step.kind, step.round, own, weights, snapshot, small=small)
        return pack_learners(node, part, plan, step, each, snapshot.learners), each.card, each.cost
    outcome = run_round_steps(
        node.trainer,
        plan,
        step.kind,
        step.round,
        own,
        weights,
        snapshot,
        first=partial(_first_weights, node, part.job_id, plan),
        small=small,
    )
    return pack_provider(node, part, plan, step, outcome), outcome.card, outcome.cost


def _first_weights(node: Node, job_id: str, plan: TrainingPlan) -> bytes:
    """Return the weights that the job began with: where a provider alone would begin."""
    if plan.initial_weights is not None:
        # They came as the model of round 1, and are kept while the job lives.
        if not node.store.run("step.first", lambda records: records.select(Step, job_id, 1)):
            raise StepFailedError("no-first-model", "the model that the job began with never reached this provider")
        return node.blobs.get(plan.initial_weights)
    spec = parse_model(plan.model)
    return save_weights(spec, initial_weights(spec, seed=plan.seed))


def _small(node: Node, part: Participation) -> bool:
    """Say whether we are averaged among the small: only where both classes have three members, or nobody is large."""
    placed = part.manifest["payload"]["members"] if part.manifest else []
    flags = {m["approval"]["payload"]["participant"]: bool(m["approval"]["payload"].get("small")) for m in placed}
    small, large = sum(flags.values()), len(flags) - sum(flags.values())
    return flags.get(node.participant_id, False) and small >= _CLASS_FLOOR and (large >= _CLASS_FLOOR or not large)


def _keep(node: Node, step: Step, stored: dict[str, Any], card: dict[str, Any], cost: Mapping[str, float]) -> None:
    """Store the package before a byte of it leaves: masks are fresh, and a second package would be a second upload."""
    now = node.now()

    def work(records: Records) -> bool:
        current = records.lock(Step, step.job_id, step.round, step.attempt)
        if current is None or current.state is not StepState.TRAINING:
            # Another worker was first, and its package is the one.
            return current is not None and current.package == stored
        kept = dataclasses.replace(current, state=StepState.UPLOADING, package=stored, local=card, cost=dict(cost))
        records.save(kept)
        records.enqueue("learning.deliver", step_key(step), now + timedelta(seconds=_DELIVER_AGAIN_SECONDS))
        return True

    if not node.store.run("step.keep", work):
        for blob in package_blobs(stored):
            node.blobs.delete(blob)
