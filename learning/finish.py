"""The end of a round and of a job at the collector: the sum is opened, the model moves, the report is signed."""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from learning.agree import GivenUp, Summed, Waiting, drive
from learning.announce import open_round
from learning.attempts import Attempt, abort, parse_round_key, read_attempt
from learning.challenges import HeldUp, challenged, doubted
from learning.ending import fail_job
from learning.groups import seconds, setting_of, tree_of
from learning.jobs import Job, JobEvent, JobLine, JobState, move_job
from learning.members import load
from learning.metrics import summarise
from learning.models import flatten, load_weights, parse_model, save_weights, unflatten
from learning.node import Later, Node, later
from learning.placing import own_manifest
from learning.plans import TrainingPlan
from learning.ports import Records
from learning.release import ask_who_left
from learning.report import REPORT_KIND, report_payload
from learning.rounds import (
    RELEASE_DENIED,
    ClearUpload,
    Notice,
    Round,
    RoundEvent,
    RoundKind,
    RoundState,
    move_round,
)
from learning.scrub import scrub_sums
from learning.secagg.collector import add_clear, add_shares
from learning.secagg.conduct import next_replaced
from learning.secagg.conduct_state import GroupFacts
from learning.secagg.covered import contributors_in, inner_shares
from learning.secagg.errors import SecureAggregationError, ShareError, SumRangeError
from learning.secagg.inner import InnerSet, add_inner_shares
from learning.secagg.packing import RingVector
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader
from learning.strategies import apply, initial_state, parse_strategy
from learning.timeline import note
from learning.tree import TOP, replaced_json
from learning.vectors import mean_update, metric_sums
from policies.canonical import canonical_json

# Averages over fewer contributors than this are not shown.
_CLASS_FLOOR = 3
_TAKEN_OVER = timedelta(seconds=2)
_ASK_AGAIN_SECONDS = 1.0


def finish_round(node: Node, key: str) -> Later | None:
    """Task (queue ``aggregate``): add the shares, decode the sum, apply the server optimiser, open the next round."""
    attempt = read_attempt(node, *parse_round_key(key))
    row = attempt.row
    if row.state not in (RoundState.AGREEING, RoundState.RELEASING) or attempt.job.state is not JobState.RUNNING:
        return None
    outcome = _shares(node, attempt) if attempt.manifest.tree is not None else None
    if isinstance(outcome, HeldUp):
        return outcome.again
    try:
        total, count = _clear_sum(node, attempt) if outcome is None else _sum(node, outcome)
        sums = attempt.manifest.terms.layout.decode(total, count)
    except SecureAggregationError as error:
        if isinstance(error, SumRangeError) and outcome is not None and doubted(node, outcome, str(error)):
            return later(node, 0.0)
        abort(node, attempt, f"the sum cannot be right: {error}")
        return None
    weights, state = _next_model(node, attempt.job, attempt.plan, row, sums)
    _close(node, attempt, outcome, sums, weights=weights, state=state)
    _open_next(node, attempt.job.job_id)
    # Nobody waits for us any more.
    scrub_sums(node, attempt.job.job_id, before=row.round + 1)
    return None


def _shares(node: Node, attempt: Attempt) -> Summed | HeldUp:
    """Return the shares of the top once all are there and none is in question."""
    outcome = drive(node, attempt)
    if isinstance(outcome, Waiting):
        return HeldUp(again=outcome.again)
    if isinstance(outcome, GivenUp):
        abort(node, attempt, outcome.reason)
        return HeldUp(again=None)
    return challenged(node, outcome) or outcome


def _open_next(node: Node, job_id: str) -> None:
    """Open the next round here, which saves a trip through the broker; what waits becomes the work row's business."""
    answer = open_round(node, job_id)
    if answer is not None:
        node.store.run("round.wait", lambda records: records.enqueue("learning.open_round", job_id, answer.due_at))


def report(node: Node, job_id: str) -> Later | None:
    """Task: assemble and sign the job's report; the job is complete when it is stored."""
    job, plan, members = load(node, job_id)
    if job.state is not JobState.REPORTING:
        return None
    rounds, lines, notices = node.store.run(
        "report.rounds",
        lambda records: (
            records.select(Round, job_id),
            records.select(JobLine, job_id),
            records.select(Notice, job_id),
        ),
    )
    denied = [notice for notice in notices if notice.code == RELEASE_DENIED]
    if denied:
        who = "; ".join(f"{node.peers.name(notice.participant_id)}: {notice.reason}" for notice in denied)
        fail_job(node, job_id, f"the model may not be released: {who}")
        return None
    left = ask_who_left(node, job, members, rounds)
    if left.denied:
        who = "; ".join(f"{node.peers.name(name)}: {reason}" for name, reason in left.denied.items())
        fail_job(node, job_id, f"the model may not be released: {who}")
        return None
    if left.silent and left.patient:
        return later(node, _ASK_AGAIN_SECONDS)
    names = {member.participant_id: node.peers.name(member.participant_id) for member in members}
    manifest = own_manifest(node, job.manifest)
    payload = report_payload(job, plan, members, rounds, manifest, names, node.now(), timeline=lines, left=left)
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


def _sum(node: Node, summed: Summed) -> tuple[RingVector, int]:
    """Return the exact sum of the top's shares, and how many contributions it is of."""
    groups, setting = summed.groups, setting_of(summed.attempt, signing=False)
    value = groups.rounds[TOP]
    group, context = setting.group(TOP, value.replaced), setting.context(TOP)
    count = len(contributors_in(groups.rounds))
    loads = {name: partial(node.blobs.get, share.vector or "") for name, share in groups.stored.items()}
    headers = groups.shares.get(TOP, ())
    if isinstance(value.proposed, InnerSet):
        facts = GroupFacts(shares=headers)
        inner = inner_shares(value, facts, group).values()
        total = add_inner_shares([(one, loads[one.digest]) for one in inner], context=context, group=group)
        return total, count
    leaf = [(header, loads[header.digest]) for header in headers if isinstance(header, ShareHeader)]
    proposed = value.proposed or ContributorSet.of({})
    return add_shares(leaf, proposed, lost=value.lost, context=context, group=group), count


def _clear_sum(node: Node, attempt: Attempt) -> tuple[RingVector, int]:
    proposed = ContributorSet.from_json(attempt.row.proposed)
    vectors = _clear_vectors(node, attempt.row, proposed)
    return add_clear(vectors, context=attempt.context, n_min=attempt.manifest.terms.n_min), len(vectors)


def _clear_vectors(node: Node, row: Round, proposed: ContributorSet) -> dict[str, Callable[[], bytes]]:
    wanted = dict(proposed.uploads)
    uploads = node.store.run(
        "round.clear", lambda records: records.select(ClearUpload, row.job_id, row.round, row.attempt)
    )
    found: dict[str, Callable[[], bytes]] = {
        upload.participant_id: partial(node.blobs.get, upload.vector)
        for upload in uploads
        if wanted.get(upload.participant_id) == upload.header_digest
    }
    if set(found) != set(wanted):
        raise ShareError("a contribution that the set names has not arrived")
    return found


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
    attempt: Attempt,
    summed: Summed | None,
    sums: Mapping[str, NDArray[np.float64]],
    *,
    weights: str,
    state: str | None,
) -> None:
    now, value = node.now(), attempt.row
    metrics = {split: _shown(summarise(found)) for split, found in metric_sums(attempt.plan, sums).items()}
    sizes = {
        "model": len(node.blobs.get(value.model)),
        "vector": attempt.context.vector_bytes,
        "values": attempt.context.d,
    }
    last = value.kind is RoundKind.EVALUATE

    def work(records: Records) -> None:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        current = records.lock(Job, value.job_id)
        if row is None or current is None or row.state is not RoundState.RELEASING:
            return
        timing = row.timing | {"summed": (now - row.opened_at).total_seconds()}
        done = dataclasses.replace(move_round(row, RoundEvent.SUMMED), metrics=metrics, timing=timing, sizes=sizes)
        records.save(done if summed is None else dataclasses.replace(done, **_in_the_sum(summed)))
        if attempt.plan.granularity == "learner":
            _forget_learners(records, value)
        note(records, value.job_id, now, f"round-{value.round}", _sentence(value, metrics, value.counted))
        if current.state is not JobState.RUNNING:
            return
        moved = dataclasses.replace(
            current, weights=weights, optimiser_state=state, round=value.round + 1, attempt=1, updated_at=now
        )
        if summed is not None and attempt.manifest.terms.aggregation == "tree":
            replaced = next_replaced(tree_of(attempt), summed.groups.rounds)
            moved = dataclasses.replace(moved, replaced=replaced_json(replaced))
        records.save(move_job(moved, JobEvent.ROUNDS_DONE, now) if last else moved)
        if last:
            records.enqueue("learning.report", value.job_id, now)
        else:
            # We open the next round ourselves; this is for the one who takes over should we end before that.
            records.enqueue("learning.open_round", value.job_id, now + _TAKEN_OVER)

    node.store.run("round.finish", work)


def _forget_learners(records: Records, value: Round) -> None:
    """Forget which learner uploaded what: the sum is made."""
    for notice in records.select(Notice, value.job_id, value.round, value.attempt):
        records.save(dataclasses.replace(notice, uploads={}))


def _in_the_sum(summed: Summed) -> dict[str, Any]:
    """Return what the round keeps of its groups: who is in the sum, and what became of every seat."""
    attempt, rounds = summed.attempt, summed.groups.rounds
    inside = contributors_in(rounds)
    owners = {name.partition("#")[0] for name in inside}
    tree = tree_of(attempt)
    return {
        "proposed": [pair for pair in attempt.row.proposed or [] if pair[0] in owners],
        "counted": len(inside),
        "groups": []
        if attempt.manifest.terms.aggregation != "tree"
        else [_group_facts(attempt, summed, name, inside=name in summed.leaves) for name in tree.names],
    }


def _group_facts(attempt: Attempt, summed: Summed, name: str, *, inside: bool) -> dict[str, Any]:
    value, tree = summed.groups.rounds[name], tree_of(attempt)
    shares = [summed.groups.stored[header.digest] for header in summed.groups.shares.get(name, ())]
    proposed = value.proposed
    members = proposed.contributors if isinstance(proposed, ContributorSet) else ()
    return {
        "group": name,
        "state": value.state.value,
        "inside": inside or not tree.is_leaf(name),
        "reason": value.reason,
        "seats": list(tree.seats(name, value.replaced)),
        "lost": sorted(value.lost),
        "replaced": {str(column): times for column, times in sorted(value.replaced.items())},
        "in_this_round": sorted(value.blank),
        "contributors": len(members),
        "providers": sorted({member.partition("#")[0] for member in members}),
        "shares": len(shares),
        "bytes": len(shares) * attempt.context.vector_bytes,
        "seconds": max((seconds(attempt.row, share.at) for share in shares), default=None),
    }


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
