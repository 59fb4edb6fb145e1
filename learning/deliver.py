"""The contributor hands its one package to every seat (in clear mode to the collector), and tells how its step went."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from learning.errors import PeerError, UnknownError
from learning.jobs import Participation, ParticipationState
from learning.members import good_answer
from learning.node import Later, Node, later
from learning.packages import Load, loads_of
from learning.placing import manifest_of
from learning.ports import Records
from learning.provide import part_of
from learning.rounds import Step, StepState
from learning.spread import change_step, spread
from learning.timeline import note
from policies.canonical import canonical_json
from policies.signing import document_digest

_RETRY_SECONDS = 0.5
_OPEN = (StepState.TRAINING, StepState.UPLOADING)
_THEIR_SIDE = 500
# How long after its deadline a step that failed, or an upload that is complete, is still worth telling.
_NEWS = timedelta(minutes=5)


def deliver(node: Node, key: str) -> Later | None:
    """Task: give the stored package to every seat (or to the collector, in clear mode), then tell the collector.

    In the last third of the round's time a seat that cannot be reached is given up, if the others make a quorum.
    """
    step = step_of(node, *parse_key(key))
    if step is None or step.state is not StepState.UPLOADING or step.package is None:
        return None
    part = part_of(node, step.job_id)
    if part.state is not ParticipationState.ACTIVE:
        fail_step(node, step, "not-taking-part", part.reason or f"this participation is {part.state}")
        return None
    placed = manifest_of(node, part.manifest, part)
    if placed.tree is None:
        step, missing = _to_collector(node, part, step)
        enough = False
    else:
        loads = loads_of(node, placed, step)
        step, missing = spread(node, step, loads)
        enough = _enough(step, loads, node.now())
    if missing and not enough:
        return _wait(node, step, missing)
    if not _tell(node, part, step, _news(step)):
        return later(node, _RETRY_SECONDS) if node.now() < step.deadline + _NEWS else None
    change_step(node, step, lambda row: dataclasses.replace(row, state=StepState.DONE))
    return None


def _to_collector(node: Node, part: Participation, step: Step) -> tuple[Step, list[PeerError]]:
    """Hand the plain contribution of a clear job to its collector."""
    package = step.package or {}
    head = base64.urlsafe_b64encode(canonical_json({"document": package["document"], "box": None})).decode()
    path = f"/jobs/{step.job_id}/rounds/{step.round}/attempts/{step.attempt}/uploads"
    vector = node.blobs.get(package["vector"])
    try:
        reply = node.peers.call(part.consumer, "POST", path, content=vector, headers={"Orchard-Upload": head})
        good_answer(node, part.consumer, reply)
    except PeerError as error:
        return step, [error]
    return change_step(node, step, lambda row: dataclasses.replace(row, delivered=(0,))), []


def _news(step: Step) -> dict[str, Any]:
    package = step.package or {}
    if "uploads" in package:
        return {"uploaded": True, "uploads": package["uploads"]}
    return {"uploaded": True, "header_digest": document_digest(package["document"])}


def _wait(node: Node, step: Step, missing: list[PeerError]) -> Later | None:
    """Try again while there is time and a seat that may still take the package."""
    if all(error.final for error in missing):
        fail_step(node, step, missing[0].code, f"an upload was refused: {missing[0]}")
    elif node.now() < step.deadline:
        return later(node, _RETRY_SECONDS)
    else:
        fail_step(node, step, "not-delivered", f"a seat could not be reached in time: {missing[0]}")
    return None


def report_failure(node: Node, key: str) -> Later | None:
    """Task: tell the collector that our step failed, and why, until it has heard."""
    step = step_of(node, *parse_key(key))
    if step is None or step.state is not StepState.FAILED or node.now() > step.deadline + _NEWS:
        return None
    body = {"uploaded": False, "code": step.code, "reason": step.reason}
    return None if _tell(node, part_of(node, step.job_id), step, body) else later(node, _RETRY_SECONDS)


def give_up(node: Node, key: str, error: str) -> None:
    """A step's work failed more often than it may: record it and let the collector know."""
    step = step_of(node, *parse_key(key))
    if step is not None:
        fail_step(node, step, "step-failed", error)


def fail_step(node: Node, step: Step, code: str, reason: str) -> None:
    """Record that a step that was under way has failed, and have the collector told; a finished one stays so."""
    now = node.now()

    def work(records: Records) -> None:
        row = records.lock(Step, step.job_id, step.round, step.attempt)
        if row is None:
            raise UnknownError("no such step")
        if row.state not in _OPEN:
            return
        records.save(dataclasses.replace(row, state=StepState.FAILED, code=code, reason=reason))
        text = f"round {step.round}, attempt {step.attempt}: {code}: {reason}"
        note(records, step.job_id, now, f"step-{step.round}", text)
        records.enqueue("learning.report_failure", step_key(step), now)

    node.store.run("step.fail", work)


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


def _enough(step: Step, loads: Sequence[Load], now: datetime) -> bool:
    """Say whether the seats that have the package can go on without the others, and we have waited for those."""
    for load in loads:
        seats = len(load.group.seats)
        served = [column for column in range(seats) if load.number * seats + column in step.delivered]
        firsts = {load.group.carriers(load.context, upload.contributor)[0] for upload in load.uploads}
        if len(served) < load.group.quorum or not {load.number * seats + first for first in firsts} <= set(
            step.carried
        ):
            return False
    return now >= step.opened_at + (step.deadline - step.opened_at) * 2 / 3


def _tell(node: Node, part: Participation, step: Step, body: Mapping[str, Any]) -> bool:
    path = f"/jobs/{step.job_id}/rounds/{step.round}/attempts/{step.attempt}/notices"
    try:
        # Any answer will do: a collector that refuses the news has no use for it.
        return node.peers.call(part.consumer, "POST", path, json=body).status < _THEIR_SIDE
    except PeerError:
        return False
