"""The contributor: asked into a round, it checks everything anew, trains beside the data, and uploads once."""

import base64
import dataclasses
import hmac
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from learning import aggregate
from learning.errors import PeerError, RefusedError, StepFailedError, UnknownError
from learning.jobs import Participation, ParticipationState
from learning.local import StepOutcome, run_round_steps
from learning.models import initial_weights, parse_model, save_weights
from learning.node import Later, Node, later
from learning.placing import manifest_of
from learning.plans import TrainingPlan
from learning.ports import GateAnswer, Records
from learning.provide import part_of, plan_of
from learning.rounds import RoundKind, Step, StepState
from learning.scrub import scrub
from learning.secagg.context import RoundContext
from learning.secagg.contributor import UploadPackage, prepare_clear, prepare_upload
from learning.secagg.manifest import Manifest
from learning.secagg.quantize import RoundingStream
from learning.timeline import note
from learning.vectors import contribution
from policies.canonical import canonical_json
from policies.signing import SignatureError, document_digest, verify

OPENING_KIND = "round-opening"
_RETRY_SECONDS = 0.5
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
    model = node.blobs.put(weights)
    if model != opening["model"]:
        node.blobs.delete(model)
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
        for earlier in records.select(Step, job_id, number):
            # One model a round: a second one would single a contributor out by the difference of two answers.
            if earlier.model != model or earlier.kind is not kind:
                raise RefusedError("second-model", f"round {number} was opened before with another model")
        if records.add(step):
            records.enqueue("learning.contribute", step_key(step), now)
            return step
        return records.get(Step, job_id, number, attempt) or step

    opened = node.store.run("step.open", work)
    # Another job that used the same model may have erased it between our first put and the row that claims it.
    node.blobs.put(weights)
    scrub(node, job_id, before=number)
    return opened


def contribute(node: Node, key: str) -> Later | None:
    """Task (queue ``train``): gate, snapshot, sandboxed step, mask, store the package; then deliver it."""
    job_id, number, attempt = parse_key(key)
    step = step_of(node, job_id, number, attempt)
    if step is None or step.state is not StepState.TRAINING:
        return None
    part = part_of(node, job_id)
    if part.state is not ParticipationState.ACTIVE:
        return _fail(node, step, "not-taking-part", part.reason or f"this participation is {part.state}")
    if node.now() >= step.deadline:
        return _fail(node, step, "too-late", "the round's deadline passed before the step was done")
    plan = plan_of(node, part)
    answer = node.gate.check(
        part.agreement_id,
        plan.purpose,
        plan.algorithm_class,
        plan.cohort_floor,
        job_id=job_id,
        round_number=number,
    )
    if not answer.allowed:
        return _fail(node, step, "not-allowed", "; ".join(answer.reasons) or "the usage gate says no")
    try:
        outcome = _train(node, part, plan, step, answer)
    except StepFailedError as error:
        if error.final:
            return _fail(node, step, error.code, str(error))
        raise
    node.gate.used(part.agreement_id, job_id, number, answer.subjects)
    _keep(node, step, _package(node, part, plan, step, outcome), outcome)
    return deliver(node, key)


def deliver(node: Node, key: str) -> Later | None:
    """Task: give the stored package to every seat (or to the collector, in clear mode), then tell the collector."""
    job_id, number, attempt = parse_key(key)
    step = step_of(node, job_id, number, attempt)
    if step is None or step.state is not StepState.UPLOADING or step.package is None:
        return None
    part, package = part_of(node, job_id), step.package
    placed = manifest_of(node, part.manifest, part)
    targets = [column for column in _targets(placed) if column not in step.delivered]
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(partial(_hand_over, node, placed, part, step), targets))
    refused = [error for error in answers if error is not None and error.final]
    if refused:
        return _fail(node, step, refused[0].code, f"an upload was refused: {refused[0]}")
    done = [column for column, error in zip(targets, answers, strict=True) if error is None]
    step = dataclasses.replace(step, delivered=(*step.delivered, *done))
    waiting = [error for error in answers if error is not None]
    if waiting and node.now() < step.deadline:
        node.store.run("step.delivered", lambda records: records.save(step))
        return later(node, _RETRY_SECONDS)
    if waiting:
        return _fail(node, step, "not-delivered", f"a seat could not be reached in time: {waiting[0]}")
    if not _tell(node, part, step, {"uploaded": True, "header_digest": document_digest(package["document"])}):
        return later(node, _RETRY_SECONDS)
    _finish(node, step, StepState.DONE)
    return None


def report_failure(node: Node, key: str) -> Later | None:
    """Task: tell the collector that our step failed, and why, until it has heard."""
    step = step_of(node, *parse_key(key))
    if step is None or step.state is not StepState.FAILED or node.now() > step.deadline + timedelta(minutes=1):
        return None
    body = {"uploaded": False, "code": step.code, "reason": step.reason}
    return None if _tell(node, part_of(node, step.job_id), step, body) else later(node, _RETRY_SECONDS)


def give_up(node: Node, key: str, error: str) -> None:
    """A step failed more often than it may: record it and let the collector know."""
    step = step_of(node, *parse_key(key))
    if step is not None and step.state is StepState.TRAINING:
        _fail(node, step, "step-failed", error)


def step_key(step: Step) -> str:
    """Return the work key of a step."""
    return f"{step.job_id}|{step.round}|{step.attempt}"


def parse_key(key: str) -> tuple[str, int, int]:
    """Return job id, round and attempt of a work key."""
    job_id, number, attempt = key.rsplit("|", 2)
    return job_id, int(number), int(attempt)


def step_of(node: Node, job_id: str, number: int, attempt: int) -> Step | None:
    """Return our step in a round attempt."""
    return node.store.run("step.get", lambda records: records.get(Step, job_id, number, attempt))


def rounding_seed(node: Node, plan: TrainingPlan, number: int) -> bytes:
    """Return the 32-byte seed of a round's stochastic rounding: the same plan and round round alike, secure or clear."""
    return hmac.digest(node.secret, b"orchard/rounding/1\0" + canonical_json([plan.seed, number]), "sha256")


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
    expected = RoundKind.EVALUATE if int(opening["round"]) == last else RoundKind.TRAIN
    if RoundKind(opening["kind"]) is not expected:
        raise RefusedError("wrong-kind", f"round {opening['round']} of this plan is a {expected} round")


def _train(node: Node, part: Participation, plan: TrainingPlan, step: Step, answer: GateAnswer) -> StepOutcome:
    snapshot = node.snapshots.prepare(part.dataset_id, part.job_id, answer.subjects)
    if snapshot.train_rows == 0:
        raise StepFailedError("no-rows", "the consenting learners have no row to train on")
    return run_round_steps(
        node.trainer,
        plan,
        step.kind,
        step.round,
        node.participant_id,
        node.blobs.get(step.model),
        snapshot,
        first=partial(_first_weights, node, part.job_id, plan),
        small=_small(node, part),
    )


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


def _package(node: Node, part: Participation, plan: TrainingPlan, step: Step, outcome: StepOutcome) -> UploadPackage:
    placed = manifest_of(node, part.manifest, part)
    values = contribution(plan, delta=outcome.delta, train_rows=outcome.train_rows, metrics=outcome.metrics)
    vector = placed.terms.layout.encode(values, RoundingStream(rounding_seed(node, plan, step.round)))
    context = _context(placed, step)
    if placed.group is None:
        return prepare_clear(vector, context=context, signer=node.signer, contributor=node.participant_id)
    return prepare_upload(
        vector, context=context, group=placed.group, signer=node.signer, contributor=node.participant_id
    )


def _context(placed: Manifest, step: Step) -> RoundContext:
    return placed.context(round=step.round, attempt=step.attempt, model=step.model)


def _keep(node: Node, step: Step, package: UploadPackage, outcome: StepOutcome) -> None:
    """Store the package before a byte of it leaves: masks are fresh, and a second package would be a second upload."""
    stored = {
        "document": package.document,
        "boxes": [base64.b64encode(box).decode() for box in package.boxes],
        "vector": node.blobs.put(bytes(package.vector)),
    }
    now = node.now()

    def work(records: Records) -> None:
        current = records.lock(Step, step.job_id, step.round, step.attempt)
        if current is None or current.state is not StepState.TRAINING:
            return
        records.save(
            dataclasses.replace(
                current, state=StepState.UPLOADING, package=stored, local=outcome.card, cost=dict(outcome.cost)
            )
        )
        records.enqueue("learning.deliver", step_key(step), now + timedelta(seconds=_DELIVER_AGAIN_SECONDS))

    node.store.run("step.keep", work)


def _targets(placed: Manifest) -> range:
    return range(1 if placed.group is None else len(placed.group.seats))


def _hand_over(node: Node, placed: Manifest, part: Participation, step: Step, column: int) -> PeerError | None:
    """Give one seat its part of the package; return what went wrong, if anything."""
    package = step.package or {}
    if placed.group is None:
        target, box, carries = part.consumer, None, True
    else:
        target, box = placed.group.seats[column].participant, package["boxes"][column]
        carries = column in placed.group.carriers(_context(placed, step), node.participant_id)
    vector = node.blobs.get(package["vector"]) if carries else b""
    if target == node.participant_id:
        aggregate.receive_upload(
            node, step.job_id, step.round, step.attempt, {"document": package["document"], "box": box}, vector
        )
        return None
    head = base64.urlsafe_b64encode(canonical_json({"document": package["document"], "box": box})).decode()
    path = f"/jobs/{step.job_id}/rounds/{step.round}/attempts/{step.attempt}/uploads"
    try:
        reply = node.peers.call(target, "POST", path, content=vector, headers={"Orchard-Upload": head})
    except PeerError as error:
        return error
    if reply.status < 300:  # noqa: PLR2004
        return None
    passing = reply.status in (404, 425, 429) or reply.status >= 500  # noqa: PLR2004
    detail = str(reply.body.get("detail", "no reason given"))
    return PeerError(
        f"{node.peers.name(target)}: {detail}", code=str(reply.body.get("code", "refused")), final=not passing
    )


def _tell(node: Node, part: Participation, step: Step, body: Mapping[str, Any]) -> bool:
    path = f"/jobs/{step.job_id}/rounds/{step.round}/attempts/{step.attempt}/notices"
    try:
        # Any answer will do: a collector that refuses the news has no use for it.
        return node.peers.call(part.consumer, "POST", path, json=body).status < 500  # noqa: PLR2004
    except PeerError:
        return False


def _finish(node: Node, step: Step, state: StepState) -> None:
    finished = dataclasses.replace(step, state=state)
    node.store.run("step.finish", lambda records: records.save(finished))


def _fail(node: Node, step: Step, code: str, reason: str) -> Later | None:
    now = node.now()
    failed = dataclasses.replace(step, state=StepState.FAILED, code=code, reason=reason)

    def work(records: Records) -> None:
        if records.lock(Step, step.job_id, step.round, step.attempt) is None:
            raise UnknownError("no such step")
        records.save(failed)
        note(
            records,
            step.job_id,
            now,
            f"step-{step.round}",
            f"round {step.round}, attempt {step.attempt}: {code}: {reason}",
        )
        records.enqueue("learning.report_failure", step_key(step), now)

    node.store.run("step.fail", work)
    return None
