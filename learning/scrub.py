"""Erasing what rounds leave behind: boxes (which hold seeds), masked vectors, packages, models of earlier rounds."""

import dataclasses

from learning.jobs import Participation, ParticipationState
from learning.node import Node
from learning.packages import package_blobs
from learning.ports import Records
from learning.rounds import (
    ChildShare,
    ClearUpload,
    GroupAttempt,
    SeatParcel,
    SeatRound,
    SeatShare,
    SeatUpload,
    SketchAnswers,
    Step,
)
from learning.secagg.keys import SealingChain, epoch_of

_EVERY_ROUND = 2**31


def scrub(node: Node, job_id: str, before: int = _EVERY_ROUND) -> None:
    """Erase what the rounds before ``before`` left at this provider; without it, what the whole job left.

    Blobs are named by content: a contributor that carries its own vector stored it once, so that neither its package
    nor its seat may delete the blob while the round is open, and two jobs that train the same model share its blob.
    The model of round 1 stays while the job lives: what a provider reaches alone begins there.
    """

    def work(records: Records) -> set[str]:
        part = records.lock(Participation, job_id)
        if part is not None and part.sealing_key and before < _EVERY_ROUND:
            _step_keys(records, part, before)
        uploads = [upload for upload in records.select(SeatUpload, job_id) if upload.round < before]
        many = [parcel for parcel in records.select(SeatParcel, job_id) if parcel.round < before]
        below = [share for share in records.select(ChildShare, job_id) if share.round < before]
        seats = [row for row in records.select(SeatRound, job_id) if row.round < before and row.release_order]
        of_job = records.select(Step, job_id)
        steps = [step for step in of_job if step.round < before and step.package is not None]
        answers = [answer for answer in records.select(SketchAnswers, job_id) if answer.round < before]
        for old_row in (*uploads, *many, *below, *answers):
            records.delete(old_row)
        for row in seats:
            # What was signed stays: nobody signs a second set. The order names every contributor, and has done its work.
            records.save(dataclasses.replace(row, shares=(), release_order=None))
        for step in steps:
            records.save(dataclasses.replace(step, package=None))
        first = 1 if before < _EVERY_ROUND else 0
        kept = {step.model for step in of_job if step.round >= before or step.round == first}
        old = {step.model for step in of_job} - kept
        gone = old | {upload.vector for upload in uploads if upload.vector} | {parcel.blob for parcel in many}
        gone |= {share.vector for share in below} | {share["vector"] for row in seats for share in row.shares}
        gone |= {answer.blob for answer in answers}
        for step in steps:
            gone |= package_blobs(step.package or {})
        return gone - _used_elsewhere(records, job_id)

    for blob in node.store.run("scrub", work):
        node.blobs.delete(blob)


def _step_keys(records: Records, part: Participation, before: int) -> None:
    """Erase the sealing keys of the epochs that ended before round ``before``: what was sealed to them stays closed."""
    if part.approval is None or part.manifest is None:
        return
    epochs, rounds = len(part.approval["payload"]["hpke_public"]), part.manifest["payload"]["terms"]["rounds"]
    chain = SealingChain.from_text(part.sealing_key)
    epoch = epoch_of(before, rounds, epochs)
    if epoch > chain.epoch:
        records.save(dataclasses.replace(part, sealing_key=chain.at(epoch).to_text()))


def scrub_sums(node: Node, job_id: str, before: int = _EVERY_ROUND) -> None:
    """Erase at the collector the shares and plain contributions of the rounds before ``before``; the sums remain."""

    def work(records: Records) -> set[str]:
        shares, uploads = records.select(SeatShare, job_id), records.select(ClearUpload, job_id)
        rows: list[SeatShare | ClearUpload] = [*shares, *uploads]
        old = [row for row in rows if row.round < before]
        groups = [row for row in records.select(GroupAttempt, job_id) if row.round < before]
        answers = [row for row in records.select(SketchAnswers, job_id) if row.round < before]
        for gone in (*old, *groups, *answers):
            records.delete(gone)
        kept = {row.vector for row in rows if row.round >= before}
        vectors = {row.vector for row in old if row.vector is not None and row.vector not in kept}
        return vectors | {row.blob for row in answers}

    for blob in node.store.run("scrub.sums", work):
        node.blobs.delete(blob)


def _used_elsewhere(records: Records, job_id: str) -> set[str]:
    """Return the blobs of other jobs that are under way here: models, and vectors that no mask makes unlike."""
    others = [
        part.job_id
        for part in records.select(Participation)
        if part.job_id != job_id and part.state is ParticipationState.ACTIVE
    ]
    steps = [step for other in others for step in records.select(Step, other)]
    packages = [package_blobs(step.package) for step in steps if step.package]
    return {step.model for step in steps}.union(*packages)
