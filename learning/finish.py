"""The end of a round and of a job at the collector: the sum is opened, the model moves, the report is signed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from learning.collect import abort, chase_seats, open_round, shares_of
from learning.errors import UnknownError
from learning.jobs import Job, JobEvent, JobLine, JobState, move_job
from learning.metrics import summarise
from learning.models import flatten, load_weights, parse_model, save_weights, unflatten
from learning.node import Later, Node
from learning.placing import own_manifest
from learning.plans import TrainingPlan
from learning.ports import Records
from learning.recruit import fail_job, load
from learning.report import REPORT_KIND, report_payload
from learning.rounds import ClearUpload, Round, RoundEvent, RoundKind, RoundState, move_round
from learning.secagg.collector import add_clear, add_shares
from learning.secagg.context import RoundContext
from learning.secagg.errors import SecureAggregationError, ShareError
from learning.secagg.manifest import Manifest
from learning.secagg.packing import RingVector
from learning.secagg.sets import ContributorSet
from learning.strategies import apply, initial_state, parse_strategy
from learning.timeline import note
from learning.vectors import mean_update, metric_sums
from policies.canonical import canonical_json

# Averages over fewer contributors than this are not shown.
_CLASS_FLOOR = 3


def finish_round(node: Node, key: str) -> Later | None:
    """Task (queue ``aggregate``): add the shares, decode the sum, apply the server optimiser, open the next round."""
    job_id, number, attempt = key.rsplit("|", 2)
    job, plan, _ = load(node, job_id)
    value = node.store.run("round.get", lambda records: records.get(Round, job_id, int(number), int(attempt)))
    if value is None or value.state is not RoundState.RELEASING or job.state is not JobState.RUNNING:
        return None
    manifest = own_manifest(node, job.manifest)
    context = manifest.context(round=value.round, attempt=value.attempt, model=value.model)
    proposed = ContributorSet.from_json(value.proposed)
    try:
        total = _total(node, value, proposed, manifest, context)
    except ShareError:
        answer = chase_seats(node, value, manifest, context, plan)
        if isinstance(answer, Later):
            return answer
        abort(node, job, plan, value, answer)
        return None
    try:
        sums = manifest.terms.layout.decode(total, len(proposed.contributors))
    except SecureAggregationError as error:
        abort(node, job, plan, value, f"the sum cannot be right: {error}")
        return None
    weights, state = _next_model(node, job, plan, value, sums)
    _close(node, plan, value, sums, weights=weights, state=state, context=context)
    # The next round's work row is due already; doing it here saves a trip through the broker.
    return open_round(node, job_id)


def report(node: Node, job_id: str) -> Later | None:
    """Task: assemble and sign the job's report; the job is complete when it is stored."""
    job, plan, members = load(node, job_id)
    if job.state is not JobState.REPORTING:
        return None
    rounds, lines = node.store.run(
        "report.rounds", lambda records: (records.select(Round, job_id), records.select(JobLine, job_id))
    )
    names = {member.participant_id: node.peers.name(member.participant_id) for member in members}
    manifest = own_manifest(node, job.manifest)
    payload = report_payload(job, plan, members, rounds, manifest, names, node.now(), timeline=lines)
    stored = node.blobs.put(canonical_json(node.signer.sign(REPORT_KIND, payload)))
    now = node.now()

    def work(records: Records) -> None:
        current = records.lock(Job, job_id)
        if current is None or current.state is not JobState.REPORTING:
            return
        records.save(dataclasses.replace(move_job(current, JobEvent.REPORT_SIGNED, now), report=stored))
        note(records, job_id, now, "completed", "the model and its signed report are ready")
        records.enqueue("learning.dismiss", job_id, now)

    node.store.run("job.report", work)
    return None


def give_up(node: Node, key: str, error: str) -> None:
    """A collector's task failed more often than it may: the job ends, with the reason."""
    fail_job(node, key.rsplit("|", 2)[0] if key.count("|") >= 2 else key, f"our own step failed: {error}")  # noqa: PLR2004


def _total(node: Node, value: Round, proposed: ContributorSet, manifest: Manifest, context: RoundContext) -> RingVector:
    if manifest.group is None:
        rows = node.store.run(
            "round.clear", lambda records: records.select(ClearUpload, value.job_id, value.round, value.attempt)
        )
        wanted = dict(proposed.uploads)
        vectors = {
            row.participant_id: (lambda row=row: node.blobs.get(row.vector))
            for row in rows
            if wanted.get(row.participant_id) == row.header_digest
        }
        if set(vectors) != set(wanted):
            raise ShareError("a contribution that the set names has not arrived")
        return add_clear(vectors, context=context, n_min=manifest.terms.n_min)
    shares = shares_of(node, value, proposed, context, manifest)
    return add_shares(shares, proposed, lost=frozenset(value.lost), context=context, group=manifest.group)


def _next_model(
    node: Node, job: Job, plan: TrainingPlan, value: Round, sums: Mapping[str, NDArray[np.float64]]
) -> tuple[str, str | None]:
    if value.kind is RoundKind.EVALUATE:
        return value.model, job.optimiser_state
    spec, strategy = parse_model(plan.model), parse_strategy(plan.strategy)
    before = flatten(spec, load_weights(spec, node.blobs.get(value.model)))
    state = (
        load_tensors(node.blobs.get(job.optimiser_state))
        if job.optimiser_state
        else initial_state(strategy, before.size)
    )
    after, state = apply(strategy, before, mean_update(sums), state)
    stored = node.blobs.put(save_tensors(state)) if state else None
    return node.blobs.put(save_weights(spec, unflatten(spec, after))), stored


def _close(
    node: Node,
    plan: TrainingPlan,
    value: Round,
    sums: Mapping[str, NDArray[np.float64]],
    *,
    weights: str,
    state: str | None,
    context: RoundContext,
) -> None:
    now = node.now()
    metrics = {split: _shown(summarise(found)) for split, found in metric_sums(plan, sums).items()}
    sizes = {"model": len(node.blobs.get(value.model)), "vector": context.vector_bytes, "values": context.d}
    last = value.kind is RoundKind.EVALUATE

    def work(records: Records) -> None:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        current = records.lock(Job, value.job_id)
        if row is None or current is None or row.state is not RoundState.RELEASING:
            raise UnknownError("the round has moved on")
        timing = row.timing | {"summed": (now - row.opened_at).total_seconds()}
        done = move_round(row, RoundEvent.SUMMED)
        records.save(dataclasses.replace(done, metrics=metrics, timing=timing, sizes=sizes))
        moved = dataclasses.replace(
            current, weights=weights, optimiser_state=state, round=value.round + 1, attempt=1, updated_at=now
        )
        note(records, value.job_id, now, f"round-{value.round}", _sentence(value, metrics, len(value.proposed or ())))
        if last:
            records.save(move_job(moved, JobEvent.ROUNDS_DONE, now))
            records.enqueue("learning.report", value.job_id, now)
        else:
            records.save(moved)
            records.enqueue("learning.open_round", value.job_id, now)

    node.store.run("round.finish", work)


def _shown(summary: dict[str, Any]) -> dict[str, Any]:
    shown = dict(summary)
    for count, value in (("contributors", "macro_auc"), ("small_contributors", "small_macro_auc")):
        if not shown[count] or shown[count] < _CLASS_FLOOR:
            shown[value] = None
    return shown


def _sentence(value: Round, metrics: Mapping[str, Mapping[str, Any]], contributors: int) -> str:
    test = metrics["test"]
    # A line of a terminal holds two.
    second = "accuracy" if test["auc"] is None else "auc"
    numbers = [f"{name} {test[name]:.4f}" for name in ("loss", second) if test[name] is not None]
    what = "evaluation" if value.kind is RoundKind.EVALUATE else f"round {value.round}"
    return f"{what}: {contributors} contributors; model before it: {', '.join(numbers) or 'nothing to measure'}"
