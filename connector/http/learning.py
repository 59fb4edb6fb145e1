"""The learning API between participants: plans, jobs, rounds, uploads, shares. Vectors travel as raw bytes.

Every call carries the caller's request token; calls of a consumer to a provider about a job also carry the token of
the started transfer process (``Orchard-Transfer``). Refusals are problem details whose ``code`` is stable.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse

from connector.http.access import Peer
from connector.http.learning_route import JsonBody, LearningRoute, Raw
from connector.http.problems import ProblemError, problem_response
from connector.identity.membership import PeerIdentity
from connector.identity.transfers import TransferGrant, TransferTokens
from learning import aggregate, challenges, collect, contribute, handing, pledge, provide, release, sketches, uploads
from learning.errors import (
    ConflictError,
    LearningError,
    NotYetError,
    PlanError,
    RefusedError,
    UnknownError,
)
from learning.jobs import Job, Participation, ReceivedPlan
from learning.node import MemberFacts, Node

TRANSFER_HEADER = "Orchard-Transfer"
_ATTEMPT = "/jobs/{job_id}/rounds/{number}/attempts/{attempt}"
_LONGEST_HEADER = 48 * 1024
_LONGEST_PART = 20
_STATUS: dict[type[LearningError], int] = {
    UnknownError: 404,
    ConflictError: 409,
    NotYetError: 425,
    PlanError: 400,
    RefusedError: 403,
}


def as_problem(error: LearningError) -> ProblemError:
    """Return the HTTP problem of an error of the learning room."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return ProblemError(status, error.code, "The learning node refused the request", str(error))


def learning_router(node: Node, tokens: TransferTokens, transfer_state: Callable[[str], str | None]) -> APIRouter:
    """Return the routes under ``/learning``.

    Args:
        node: this participant.
        tokens: issues and checks transfer tokens.
        transfer_state: state of a transfer process by our own pid, None when there is none.
    """
    router = APIRouter(prefix="/learning", route_class=LearningRoute, tags=["learning"])
    allowed = Depends(_granted(tokens, transfer_state))
    _plan_routes(router, node)
    _token_routes(router, tokens, transfer_state)
    _job_routes(router, node, allowed)
    _round_routes(router, node, allowed)
    _seat_routes(router, node, allowed)
    _column_routes(router, node)
    _challenge_routes(router, node)
    _collector_routes(router, node)
    return router


def _granted(tokens: TransferTokens, transfer_state: Callable[[str], str | None]) -> Callable[..., TransferGrant]:
    """Return the check of a transfer token and of the transfer process that it was given for."""

    def grant(peer: Peer, orchard_transfer: Annotated[str | None, Header()] = None) -> TransferGrant:
        found = tokens.check(orchard_transfer, peer.participant_id)
        _require_started(transfer_state(found.transfer_pid))
        return found

    return grant


def _plan_routes(router: APIRouter, node: Node) -> None:
    """Routes of a provider for the consumers of its agreements."""

    @router.post("/plans")
    def register_plan(peer: Peer, body: JsonBody) -> dict[str, Any]:
        """Register a signed training plan under an agreement; answers with the provider's decision so far."""
        return _plan(provide.receive_plan(node, peer.participant_id, peer.public_key, body))

    @router.get("/plans/{digest}/agreements/{agreement_id:path}")
    def plan_state(peer: Peer, digest: str, agreement_id: str) -> dict[str, Any]:
        """Return what the provider decided about a plan."""
        return _plan(provide.plan_state(node, peer.participant_id, digest, agreement_id))


def _token_routes(router: APIRouter, tokens: TransferTokens, transfer_state: Callable[[str], str | None]) -> None:
    @router.post("/tokens")
    def renew_token(peer: Peer, orchard_transfer: Annotated[str | None, Header()] = None) -> dict[str, str]:
        """Renew the token of a transfer process that is still running."""
        found = tokens.check(orchard_transfer, peer.participant_id, expired=True)
        _require_started(transfer_state(found.transfer_pid))
        return {"token": tokens.issue(found)}


def _job_routes(router: APIRouter, node: Node, allowed: Any) -> None:
    """Routes of a provider for a job's collector, before and after training."""

    @router.post("/jobs")
    def join(peer: Peer, found: Annotated[TransferGrant, allowed], body: JsonBody) -> dict[str, Any]:
        """Open the provider's part in a job; it is READY with a signed approval once enough learners consent."""
        if body.get("plan_digest") != found.plan_digest:
            raise RefusedError("wrong-plan", "the transfer process is for another plan")
        return _part(provide.join(node, facts_of(peer), found.transfer_pid, found.agreement_id, body))

    @router.get("/jobs/{job_id}")
    def read_job(found: Annotated[TransferGrant, allowed], job_id: str) -> dict[str, Any]:
        """Return the provider's part in a job, with its approval once it is signed."""
        return _part(provide.part_of(node, job_id, found.consumer))

    @router.post("/jobs/{job_id}/reveal")
    def reveal(found: Annotated[TransferGrant, allowed], job_id: str, body: JsonBody) -> dict[str, str]:
        """Open the provider's beacon commitment of an epoch, after showing the digest of everybody's commitments."""
        return {"nonce": pledge.reveal(node, provide.part_of(node, job_id, found.consumer), body)}

    @router.post("/jobs/{job_id}/commit")
    def commit(found: Annotated[TransferGrant, allowed], job_id: str, body: JsonBody) -> dict[str, Any]:
        """Commit afresh, in the next beacon epoch: a member that committed did not reveal, and is left out."""
        part = provide.part_of(node, job_id, found.consumer)
        return _part(pledge.commit_afresh(node, provide.plan_of(node, part), part, body))

    @router.post("/jobs/{job_id}/manifest")
    def manifest(found: Annotated[TransferGrant, allowed], job_id: str, body: JsonBody) -> dict[str, str]:
        """Hand over the job's signed manifest; the provider recomputes all of it before it accepts."""
        return {"state": provide.accept_manifest(node, found.consumer, job_id, body)}

    @router.post("/jobs/{job_id}/release")
    def release_model(peer: Peer, job_id: str) -> dict[str, Any]:
        """Say whether the job's model may leave it; asked of providers that contributed and left before the end."""
        return release.say(node, peer.participant_id, job_id)

    @router.post("/jobs/{job_id}/end")
    def end(peer: Peer, job_id: str, body: JsonBody) -> dict[str, str]:
        """Say that a job has ended, and why."""
        provide.end(node, peer.participant_id, job_id, str(body.get("reason"))[:500])
        return {"state": "ENDED"}


def _round_routes(router: APIRouter, node: Node, allowed: Any) -> None:
    """The route of a contributor for its collector; and uploads, which a seat and a clear collector both take."""

    @router.post("/jobs/{job_id}/rounds", status_code=202)
    def open_round(
        peer: Peer,
        found: Annotated[TransferGrant, allowed],
        job_id: str,
        weights: Raw,
        orchard_opening: Annotated[str, Header()],
    ) -> dict[str, str]:
        """Open a round: the signed opening in the header ``Orchard-Opening`` (base64url JSON), the model as body."""
        document = _header(orchard_opening)
        step = contribute.open_round(node, found.consumer, peer.public_key, job_id, document, weights)
        return {"state": step.state}

    @router.post(_ATTEMPT + "/uploads", status_code=202)
    def upload(
        peer: Peer,
        job_id: str,
        number: int,
        attempt: int,
        vector: Raw,
        orchard_upload: Annotated[str | None, Header()] = None,
        orchard_group: Annotated[str | None, Header()] = None,
    ) -> dict[str, Any]:
        """Give a seat (or, in clear mode, the collector) a contribution: header and box in ``Orchard-Upload``.

        A provider that hosts many contributors sends those of the leaf group ``Orchard-Group`` in one body
        (``application/vnd.orchard.uploads``). The first carrier of a vector is given ``copies``, the boxes of the other
        seats that store it by column, and hands header, box and vector to them; ``copied`` names the seats that the receiver has handed copies to.
        """
        if orchard_upload is None:
            return _parcel(node, peer, job_id, number, attempt, orchard_group, vector)
        envelope = _header(orchard_upload)
        if node.store.run("job.known", lambda records: records.get(Job, job_id)) is not None:
            collect.receive_clear(node, peer.participant_id, job_id, number, attempt, envelope, vector)
            return {"state": "ACCEPTED"}
        copied = uploads.receive_upload(node, job_id, number, attempt, envelope, vector)
        return {"state": "ACCEPTED", "copied": copied}

    @router.post(_ATTEMPT + "/reseal", status_code=202)
    def reseal(
        found: Annotated[TransferGrant, allowed], job_id: str, number: int, attempt: int, body: JsonBody
    ) -> dict[str, str]:
        """Ask a contributor to seal its seeds to the seat that replaced another; its vector does not travel again."""
        handing.reseal_to(node, found.consumer, job_id, number, attempt, body)
        return {"state": "ACCEPTED"}


def _parcel(
    node: Node, peer: PeerIdentity, job_id: str, number: int, attempt: int, group: str | None, body: bytes
) -> dict[str, Any]:
    if group is None:
        raise RefusedError("bad-upload", "an upload is described in Orchard-Upload, many of them by Orchard-Group")
    copied, refused = uploads.receive_parcel(node, peer.participant_id, job_id, number, attempt, group, body)
    return {"state": "ACCEPTED", "copied": copied, "refused": refused}


def _seat_routes(router: APIRouter, node: Node, allowed: Any) -> None:
    """Routes of a seat for its collector."""

    @router.post(_ATTEMPT + "/set")
    def sign_set(
        found: Annotated[TransferGrant, allowed], job_id: str, number: int, attempt: int, body: JsonBody
    ) -> dict[str, Any]:
        """Ask a seat to sign its group's set; it signs one set of contributors a round, ever.

        An inner group's seat that lacks a listed share of a child answers with ``missing`` instead; with ``sign: false``
        it says what is missing, which may be nothing, and signs nothing.
        """
        return aggregate.sign(node, found.consumer, job_id, number, attempt, body)

    @router.post(_ATTEMPT + "/release", status_code=202)
    def release(
        found: Annotated[TransferGrant, allowed], job_id: str, number: int, attempt: int, body: JsonBody
    ) -> dict[str, Any]:
        """Order a seat to release its share, showing a quorum of signatures on the set, and where the share goes."""
        return aggregate.order_release(node, found.consumer, job_id, number, attempt, body)

    @router.post(_ATTEMPT + "/resend", status_code=202)
    def resend(
        found: Annotated[TransferGrant, allowed], job_id: str, number: int, attempt: int, body: JsonBody
    ) -> dict[str, str]:
        """Order a seat to hand the shares that it keeps to another seat above it: the one before is gone."""
        aggregate.resend(node, found.consumer, job_id, number, attempt, body)
        return {"state": "ACCEPTED"}

    @router.post(_ATTEMPT + "/challenge", status_code=202)
    def challenge(
        found: Annotated[TransferGrant, allowed], job_id: str, number: int, attempt: int, body: JsonBody
    ) -> dict[str, str]:
        """Challenge a leaf's seat to answer for what the other seats' shares are made of.

        ``shares`` are the digests of all seats' signed share headers, ``nonce`` was drawn after them (hex, 32 bytes);
        ``holders`` says who holds the share of which column, in a tree. One coin an attempt.
        """
        return sketches.take_challenge(node, found.consumer, job_id, number, attempt, body)


def _column_routes(router: APIRouter, node: Node) -> None:
    """Routes between seats of one column, and from providers to a seat that replaced another."""

    @router.post(_ATTEMPT + "/groups/{group}/shares", status_code=202)
    def child_share(
        _peer: Peer,
        job_id: str,
        number: int,
        attempt: int,
        group: str,
        vector: Raw,
        orchard_share: Annotated[str, Header()],
    ) -> dict[str, str]:
        """Hand a group's share up to the seat above: signed header in ``Orchard-Share``, the packed vector as body."""
        handing.receive_child_share(node, job_id, number, attempt, group, _share_document(orchard_share), vector)
        return {"state": "ACCEPTED"}

    @router.post(_ATTEMPT + "/reseals", status_code=202)
    def reseals(
        _peer: Peer,
        job_id: str,
        number: int,
        attempt: int,
        body: Raw,
        orchard_group: Annotated[str, Header()],
        orchard_replaced: Annotated[str, Header()],
    ) -> dict[str, Any]:
        """Hand seeds, sealed again, to a seat that replaced another (``application/vnd.orchard.uploads``).

        ``Orchard-Replaced`` says how often which column of the group has been replaced: ``2=1,4=2``.
        """
        replaced = _replaced(orchard_replaced)
        refused = handing.receive_reseals(node, job_id, number, attempt, orchard_group, replaced, body)
        return {"state": "ACCEPTED", "refused": refused}


def _challenge_routes(router: APIRouter, node: Node) -> None:
    """Routes by which a challenge is answered: seats to whoever holds the shares, and from there to the collector."""

    @router.post(_ATTEMPT + "/groups/{group}/sketches", status_code=202)
    def answers(peer: Peer, job_id: str, number: int, attempt: int, group: str, body: JsonBody) -> dict[str, str]:
        """Answer a challenge: ``answers`` lists signed sketches by the column whose share they are about."""
        ours = node.store.run("job.known", lambda records: records.get(Job, job_id)) is not None
        take = challenges.receive_answers if ours else sketches.receive_answers
        take(node, peer.participant_id, job_id, number, attempt, group, body)
        return {"state": "ACCEPTED"}

    @router.post(_ATTEMPT + "/groups/{group}/findings", status_code=202)
    def finding(peer: Peer, job_id: str, number: int, attempt: int, group: str, body: JsonBody) -> dict[str, str]:
        """Tell the collector what the answers say of the share that the caller holds: RIGHT, WRONG, UNPROVEN or OPEN.

        WRONG comes with ``evidence``, a file that convicts its seat by itself.
        """
        challenges.receive_finding(node, peer.participant_id, job_id, number, attempt, group, body)
        return {"state": "ACCEPTED"}


def _collector_routes(router: APIRouter, node: Node) -> None:
    """Routes of a collector for the members of its jobs."""

    @router.post(_ATTEMPT + "/notices", status_code=202)
    def notice(peer: Peer, job_id: str, number: int, attempt: int, body: JsonBody) -> dict[str, str]:
        """Tell the collector that this contributor has uploaded, or why it cannot."""
        collect.receive_notice(node, peer.participant_id, job_id, number, attempt, body)
        return {"state": "ACCEPTED"}

    @router.post(_ATTEMPT + "/shares", status_code=202)
    def share(
        peer: Peer, job_id: str, number: int, attempt: int, vector: Raw, orchard_share: Annotated[str, Header()]
    ) -> dict[str, str]:
        """Give the collector a seat's share: signed header in ``Orchard-Share``, the packed vector as body."""
        document = _share_document(orchard_share)
        collect.receive_share(node, peer.participant_id, job_id, number, attempt, document, vector)
        return {"state": "ACCEPTED"}

    @router.post(_ATTEMPT + "/groups/{group}/receipts", status_code=202)
    def receipt(peer: Peer, job_id: str, number: int, attempt: int, group: str, body: JsonBody) -> dict[str, str]:
        """Tell the collector that a share was handed up: its signed header, never the share."""
        document = body.get("document")
        if not isinstance(document, Mapping):
            raise RefusedError("bad-share", "the receipt has no header document")
        collect.receive_receipt(node, peer.participant_id, job_id, number, attempt, group, document)
        return {"state": "ACCEPTED"}


def _share_document(text: str) -> Mapping[str, Any]:
    document = _header(text).get("document")
    if not isinstance(document, Mapping):
        raise RefusedError("bad-share", "the share has no header document")
    return document


def _replaced(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        column, _, times = part.partition("=")
        if not column.isdecimal() or not times.isdecimal() or len(part) > _LONGEST_PART:
            raise RefusedError("bad-header", "replaced seats are written as column=times")
        found[column] = int(times)
    return found


def facts_of(peer: PeerIdentity) -> MemberFacts:
    """Return a peer as the learning room knows it."""
    return MemberFacts(
        participant_id=peer.participant_id,
        name=peer.name,
        organisation=peer.organisation,
        address=peer.address,
        public_key=peer.public_key,
    )


def learning_problem(_request: Request, error: Exception) -> JSONResponse:
    """Exception handler: an error of the learning room as problem details."""
    if not isinstance(error, LearningError):
        raise error
    return problem_response(as_problem(error))


def _require_started(state: str | None) -> None:
    if state == "SUSPENDED":
        raise NotYetError("the transfer process is suspended")
    if state != "STARTED":
        raise RefusedError("transfer-ended", f"the transfer process is {state or 'unknown'}")


def _header(text: str) -> Mapping[str, Any]:
    if len(text) > _LONGEST_HEADER:
        raise RefusedError("bad-header", "the header is too long")
    try:
        value = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (ValueError, RecursionError) as error:
        raise RefusedError("bad-header", "the header is not base64url JSON") from error
    if not isinstance(value, Mapping):
        raise RefusedError("bad-header", "the header holds no JSON object")
    return value


def _plan(received: ReceivedPlan) -> dict[str, Any]:
    return {"plan_digest": received.plan_digest, "state": received.state, "reason": received.reason}


def _part(part: Participation) -> dict[str, Any]:
    return {"job_id": part.job_id, "state": part.state, "reason": part.reason, "approval": part.approval}
