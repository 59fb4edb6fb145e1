"""A job's members at its collector: read, changed field by field, and called with the token of their transfer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from learning.errors import PeerError, UnknownError
from learning.jobs import Job, Member, OwnPlan
from learning.node import Node
from learning.plans import TrainingPlan, parse_plan
from learning.ports import Records, Reply

_UNAUTHORISED = 401
# 404, 425, 429 and 5xx may pass; any other refusal is an answer.
_MAY_PASS = frozenset({404, 425, 429})
_OUR_SIDE, _THEIR_SIDE = 300, 500
_CALLS_AT_ONCE = 16
T = TypeVar("T")


def load(node: Node, job_id: str) -> tuple[Job, TrainingPlan, list[Member]]:
    """Return a job of ours, its plan and its members.

    Raises:
        UnknownError: no such job.
    """

    def work(records: Records) -> tuple[Job, OwnPlan, list[Member]]:
        job = records.get(Job, job_id)
        own = records.get(OwnPlan, job.plan_digest) if job else None
        if job is None or own is None:
            raise UnknownError("no such job")
        return job, own, records.select(Member, job_id)

    job, own, members = node.store.run("job.load", work)
    return job, parse_plan(own.document["payload"]), members


def change_member(node: Node, member: Member, change: Callable[[Member], Member]) -> Member:
    """Change a member as it is stored now, not as it was when somebody read it.

    Raises:
        UnknownError: no such member.
    """

    def work(records: Records) -> Member:
        row = records.lock(Member, member.job_id, member.participant_id)
        if row is None:
            raise UnknownError("no such job")
        changed = change(row)
        records.save(changed)
        return changed

    return node.store.run("member.change", work)


def call(
    node: Node,
    member: Member,
    method: str,
    path: str,
    *,
    json: Mapping[str, Any] | None = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    """Call a member's learning API with its token, renewed where it has expired; return the body of a good answer.

    Raises:
        PeerError: no answer, or one that says no; ``final`` when asking again cannot help.
    """

    def send(token: str | None) -> Reply:
        return node.peers.call(
            member.participant_id, method, path, token=token, json=json, content=content, headers=headers
        )

    reply = send(member.token)
    if reply.status == _UNAUTHORISED and member.transfer_pid is not None:
        renewed = _renew(node, member)
        reply = reply if renewed is None else send(renewed)
    return good_answer(node, member.participant_id, reply)


def good_answer(node: Node, participant_id: str, reply: Reply) -> Mapping[str, Any]:
    """Return the body of an answer that says yes.

    Raises:
        PeerError: the answer says no; ``final`` when asking again cannot help.
    """
    if reply.status < _OUR_SIDE:
        return reply.body
    code = str(reply.body.get("code", f"http-{reply.status}"))
    detail = str(reply.body.get("detail", "no reason given"))
    raise PeerError(f"{node.peers.name(participant_id)}: {detail}", code=code, final=not may_pass(reply), answered=True)


def may_pass(reply: Reply) -> bool:
    """Say whether a refusal may turn into a yes when we ask again."""
    return reply.status in _MAY_PASS or reply.status >= _THEIR_SIDE


def call_each(members: Sequence[Member], work: Callable[[Member], T]) -> list[T]:
    """Return ``work(member)`` for every member, in order, done at the same time."""
    if len(members) <= 1:
        return [work(member) for member in members]
    with ThreadPoolExecutor(max_workers=min(_CALLS_AT_ONCE, len(members))) as pool:
        return list(pool.map(work, members))


def _renew(node: Node, member: Member) -> str | None:
    reply = node.peers.call(member.participant_id, "POST", "/tokens", token=member.token, json={})
    token = reply.body.get("token")
    if reply.status >= _OUR_SIDE or not isinstance(token, str):
        return None
    change_member(node, member, lambda row: dataclasses.replace(row, token=token))
    return token
