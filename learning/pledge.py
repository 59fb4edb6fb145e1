"""A provider's pledge to a job: its signed approval with a beacon commitment, opened once, made afresh where one is lost.

A collector shows a digest of all commitments before anybody opens one. Whoever has opened its own accepts a manifest over
exactly those commitments and no other: dropping a member after seeing reveals takes a new epoch, in which everybody
commits afresh, and the epochs are few.
"""

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

from learning.errors import NotYetError, RefusedError, UnknownError
from learning.jobs import Participation, ParticipationState
from learning.node import Node
from learning.placement import LAST_EPOCH, REVEAL_BYTES, commitment
from learning.plans import TrainingPlan
from learning.ports import Records
from learning.secagg.keys import LAST_EPOCHS, SealingChain
from learning.secagg.manifest import APPROVAL_KIND
from policies.canonical import digest
from policies.signing import encode

_BANDS = (10, 100, 1_000, 10_000, 100_000)


def fresh_nonce() -> str:
    """Return a nonce for the beacon, base64url."""
    return encode(secrets.token_bytes(REVEAL_BYTES))


def sealing_epochs(plan: TrainingPlan) -> int:
    """Return how many sealing keys a member of a job has: one a round, as far as that is allowed."""
    return min(rounds_of(plan), LAST_EPOCHS)


def rounds_of(plan: TrainingPlan) -> int:
    """Return the rounds of a job: those that train, and the evaluation of the final model."""
    return plan.rounds + 1


def sign_approval(node: Node, part: Participation, plan: TrainingPlan) -> dict[str, Any]:
    """Return the signed approval of our part in a job, with the commitment of its beacon epoch."""
    facts = node.snapshots.facts(part.dataset_id)
    band = {} if plan.granularity == "provider" else {"learners_from": _learners_from(node, part, plan)}
    chain = SealingChain.from_text(part.sealing_key)
    payload = {
        "job": part.job_id,
        "plan_digest": part.plan_digest,
        "agreement_id": part.agreement_id,
        "participant": node.participant_id,
        "membership": node.membership,
        "hpke_public": list(chain.public_keys(sealing_epochs(plan))),
        "beacon_commitment": commitment(
            job=part.job_id, epoch=part.beacon_epoch, participant=node.participant_id, reveal=part.beacon_reveal
        ),
        "small": bool(facts.get("train_rows", 0) < plan.evaluation.small_rows),
        **band,
    }
    return node.signer.sign(APPROVAL_KIND, payload)


def _learners_from(node: Node, part: Participation, plan: TrainingPlan) -> int:
    """Return the power of ten that our consenting learners are at least; the tree's form needs to know no better."""
    met = [floor for floor in _BANDS if node.gate.floor_met(part.agreement_id, floor, plan.purpose)]
    return max(met, default=1)


def commit_afresh(node: Node, plan: TrainingPlan, part: Participation, body: Mapping[str, Any]) -> Participation:
    """Commit to a new nonce in the next beacon epoch: a member did not reveal in this one, and is left out.

    Raises:
        NotYetError: our approval is not signed yet.
        RefusedError: not the next epoch, too many of them, or the manifest is accepted already.
    """
    epoch = body.get("epoch")
    if part.approval is None:
        raise NotYetError("the cohort floor is not met yet")
    fresh = dataclasses.replace(
        part, beacon_epoch=part.beacon_epoch + 1, beacon_reveal=fresh_nonce(), beacon_fixed=None, approval=None
    )
    fresh = dataclasses.replace(fresh, approval=sign_approval(node, fresh, plan))

    def work(records: Records) -> Participation:
        current = records.lock(Participation, part.job_id)
        if current is None:
            raise UnknownError("no such job")
        if epoch == current.beacon_epoch:
            return current
        if current.state is not ParticipationState.READY or current.manifest is not None:
            raise RefusedError("not-taking-part", f"this participation is {current.state}")
        if epoch != fresh.beacon_epoch or current.beacon_epoch != part.beacon_epoch or fresh.beacon_epoch > LAST_EPOCH:
            raise RefusedError("wrong-epoch", f"this participation is in beacon epoch {current.beacon_epoch}")
        records.save(fresh)
        return fresh

    return node.store.run("beacon.commit", work)


def reveal(node: Node, part: Participation, body: Mapping[str, Any]) -> str:
    """Open our beacon commitment, once all commitments are fixed, and note which ones they are.

    Raises:
        NotYetError: our approval is not signed yet.
        RefusedError: another epoch, or other commitments than those we opened ours for.
    """
    fixed = body.get("commitments")
    if not isinstance(fixed, str) or not fixed:
        raise RefusedError("no-commitments", "a commitment is opened when all of them are fixed, and shown")

    def work(records: Records) -> str:
        current = records.lock(Participation, part.job_id)
        if current is None or current.approval is None:
            raise NotYetError("the cohort floor is not met yet")
        if body.get("epoch") != current.beacon_epoch:
            raise RefusedError("wrong-epoch", f"this participation is in beacon epoch {current.beacon_epoch}")
        if current.beacon_fixed not in (None, fixed):
            raise RefusedError("other-commitments", "the commitment was opened for another set of members")
        if current.beacon_fixed is None:
            records.save(dataclasses.replace(current, beacon_fixed=fixed))
        return current.beacon_reveal

    return node.store.run("beacon.reveal", work)


def commitments_digest(job_id: str, epoch: int, commitments: Mapping[str, str]) -> str:
    """Return the digest (hex) of all members' commitments in a beacon epoch: participant -> commitment."""
    return digest({"domain": "beacon-commitments", "job": job_id, "epoch": epoch, "commitments": dict(commitments)})


def check_commitments(part: Participation, epoch: int, approvals: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a manifest is over the commitments that we opened ours for.

    Raises:
        RefusedError: it is over others: somebody was dropped or added after reveals were seen.
    """
    found = {name: str(payload["beacon_commitment"]) for name, payload in approvals.items()}
    fixed = commitments_digest(part.job_id, part.beacon_epoch, found)
    if epoch != part.beacon_epoch or part.beacon_fixed != fixed:
        raise RefusedError("other-commitments", "the manifest is not over the members whose commitments were shown")
