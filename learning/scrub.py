"""Erasing what rounds leave behind: boxes (which hold seeds), masked vectors, packages, models of earlier rounds."""

import dataclasses

from learning.node import Node
from learning.ports import Records
from learning.rounds import SeatUpload, Step

_EVERY_ROUND = 2**31


def scrub(node: Node, job_id: str, before: int = _EVERY_ROUND) -> None:
    """Erase what the rounds before ``before`` left at this provider; without it, what the whole job left.

    Blobs are named by content: a contributor that carries its own vector stored it once, so that neither its package
    nor its seat may delete the blob while the round is open.
    """

    def work(records: Records) -> set[str]:
        uploads = [upload for upload in records.select(SeatUpload, job_id) if upload.round < before]
        steps = [step for step in records.select(Step, job_id) if step.round < before and step.package is not None]
        for upload in uploads:
            records.delete(upload)
        for step in steps:
            records.save(dataclasses.replace(step, package=None))
        kept = {step.model for step in records.select(Step, job_id) if step.round >= before}
        old = {step.model for step in records.select(Step, job_id) if step.round < before} - kept
        vectors = {upload.vector for upload in uploads if upload.vector}
        return vectors | {step.package["vector"] for step in steps if step.package} | old

    for blob in node.store.run("scrub", work):
        node.blobs.delete(blob)
