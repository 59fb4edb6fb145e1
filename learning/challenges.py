"""The collector challenges a leaf group's seats: is each share the sum of what the other seats also hold?

A challenge comes where the sum cannot be right, and in a share of the rounds that the plan names (`Aggregation.challenges`),
drawn so that no seat can know which before its share is signed. Who is convicted ends the job by name; the file that
convicts is kept. A word against a word ends the attempt. A seat that says nothing holds up nobody for long.

Not checked by it: groups in which a seat was lost or replaced, and the sums of inner groups.
"""

import copy
import dataclasses
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from learning.agree import Summed, each
from learning.attempts import Attempt, abort, read_attempt
from learning.ending import fail_job
from learning.errors import PeerError, RefusedError, UnknownError
from learning.groups import seconds, setting_of, tree_of
from learning.members import call
from learning.node import Later, Node, later
from learning.ports import Records
from learning.rounds import Round, RoundState, SketchAnswers
from learning.secagg.errors import EvidenceError
from learning.secagg.evidence import check_evidence
from learning.secagg.judging import Challenge, Court, Finding, Judgement, judge
from learning.secagg.shares import ShareHeader
from learning.sketches import answers_about, answers_row
from learning.timeline import note
from learning.tree import TOP
from policies.canonical import canonical_json

_AGAIN_SECONDS = 0.5
# Answers cost a seat a few times what its share did: the longer the round took, the longer they are waited for.
_LEAST_SECONDS, _TIMES_THE_ROUND = 30.0, 2.0
_LONGEST_REASON = 500
_DRAWS = 2**64


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldUp:
    """The sum is not to be opened now; ``again`` says when to look, None that the attempt or the job has ended."""

    again: Later | None


def doubted(node: Node, summed: Summed, doubt: str) -> bool:
    """Challenge every seat because the sum cannot be right; False where that was done, or there is nobody to ask."""
    return summed.attempt.row.challenge is None and _begin(node, summed, doubt) is not None


def challenged(node: Node, summed: Summed) -> HeldUp | None:
    """Return None where the sum may be opened: there is no challenge, or it found nothing."""
    attempt = summed.attempt
    challenge = attempt.row.challenge
    if challenge is None and _drawn(node, attempt):
        challenge = _begin(node, summed, None)
    if challenge is None:
        return None
    now = seconds(attempt.row, node.now())
    if _awaited(challenge) and now < challenge["until"]:
        challenge = _tell(node, attempt, challenge)
    if _awaited(challenge) and TOP in challenge["groups"]:
        challenge = _judge_star(node, summed, challenge, late=now >= challenge["until"])
    if _awaited(challenge) and now < challenge["until"]:
        told = all(len(group["told"]) == len(group["shares"]) for group in challenge["groups"].values())
        left = challenge["until"] - now
        return HeldUp(again=later(node, left if told else min(_AGAIN_SECONDS, left)))
    return _decided(node, attempt, challenge)


def receive_answers(
    node: Node, sender: str, job_id: str, number: int, attempt: int, name: str, body: Mapping[str, Any]
) -> None:
    """Take a seat's answers about the shares of a star, which are here; the last one has them judged.

    Raises:
        UnknownError: no such challenge, or the sender has no seat in that group.
        RefusedError: the answers are malformed.
    """
    found = read_attempt(node, job_id, number, attempt)
    group = (found.row.challenge or {"groups": {}})["groups"].get(name)
    if group is None or name != TOP or found.manifest.placement.seats.count(sender) != 1:
        raise UnknownError("no such challenge")
    row, data = answers_row(node, sender, (job_id, number, attempt, name), body, len(group["shares"]))

    def work(records: Records) -> None:
        # Held, so that of two last answers at once one sees the other.
        records.lock(Round, job_id, number, attempt)
        if not records.add(row):
            return
        node.blobs.put(data, row.blob)
        if len(records.select(SketchAnswers, job_id, number, attempt, name)) == len(group["shares"]):
            records.enqueue("learning.finish_round", found.key, node.now())

    node.store.run("round.answers", work)


def receive_finding(
    node: Node, sender: str, job_id: str, number: int, attempt: int, name: str, body: Mapping[str, Any]
) -> None:
    """Take what the holder of a group's share in one column found; who is said to cheat is so by the file alone.

    Raises:
        UnknownError: no such challenge, or the sender does not hold that share.
        RefusedError: the finding is malformed.
    """
    found = read_attempt(node, job_id, number, attempt)
    column = str(body.get("column"))
    columns = (found.row.challenge or {"groups": {}})["groups"].get(name, {"columns": {}})["columns"]
    if name == TOP or columns.get(column, {}).get("holder") != sender:
        raise UnknownError("no such challenge")
    try:
        finding = Finding(str(body.get("finding")))
    except ValueError as error:
        raise RefusedError("bad-finding", "a finding is RIGHT, WRONG, UNPROVEN or OPEN") from error
    evidence, reason = body.get("evidence"), str(body.get("reason", ""))[:_LONGEST_REASON]
    if finding is Finding.WRONG and not _convicts(evidence, job_id, columns[column]["seat"]):
        finding, reason = Finding.UNPROVEN, f"{sender} calls a share wrong and shows nothing that proves it"
    judgement = Judgement(
        finding=finding, reason=reason, evidence=evidence if finding is Finding.WRONG and evidence else None
    )
    _keep(node, found, {(name, int(column)): judgement}, ring=True)


def evidence_of(node: Node, job_id: str) -> list[dict[str, Any]]:
    """Return the files that convict somebody in a job of ours, in the order of the rounds: round, attempt, seat, file."""
    rows = node.store.run("job.evidence", lambda records: records.select(Round, job_id))
    return [
        {
            "round": row.round,
            "attempt": row.attempt,
            "seat": column["seat"],
            "document": json.loads(node.blobs.get(column["evidence"])),
        }
        for row in rows
        for group in (row.challenge or {"groups": {}})["groups"].values()
        for column in group["columns"].values()
        if column["evidence"] is not None
    ]


def _drawn(node: Node, attempt: Attempt) -> bool:
    """Say whether this attempt is one of those that are challenged anyway; the same whenever it is asked."""
    mark = hmac.digest(node.secret, b"orchard/challenge/1\0" + attempt.key.encode(), "sha256")
    return int.from_bytes(mark[:8], "big") < attempt.plan.aggregation.challenges * _DRAWS


def _begin(node: Node, summed: Summed, doubt: str | None) -> dict[str, Any] | None:
    """Write down the coin and whom it is for; None where no group can be challenged."""
    attempt = summed.attempt
    groups = {name: group for name in summed.leaves if (group := _group(summed, name)) is not None}
    if not groups:
        return None
    now = seconds(attempt.row, node.now())
    fresh = {
        "nonce": secrets.token_hex(32),
        "doubt": doubt,
        "until": now + max(_LEAST_SECONDS, _TIMES_THE_ROUND * now),
        "groups": groups,
    }

    def work(records: Records) -> dict[str, Any] | None:
        row = records.lock(Round, attempt.row.job_id, attempt.row.round, attempt.row.attempt)
        if row is None or row.state is not RoundState.RELEASING:
            return None
        if row.challenge is None:
            records.save(dataclasses.replace(row, challenge=fresh))
            return fresh
        return row.challenge

    return node.store.run("round.challenge", work)


def _group(summed: Summed, name: str) -> dict[str, Any] | None:
    """Return the shares of a leaf and who holds them; None where a seat was lost or replaced."""
    value, tree = summed.groups.rounds[name], tree_of(summed.attempt)
    if value.lost or value.blank or value.replaced:
        return None
    shares = {share.column: share for share in summed.groups.shares.get(name, ()) if isinstance(share, ShareHeader)}
    parent = tree.parent(name)
    above = {} if parent is None else summed.groups.rounds[parent].replaced
    columns = {}
    for column, share in sorted(shares.items()):
        holder = (
            summed.attempt.manifest.terms.collector
            if parent is None
            else tree.seat(parent, column, above.get(column, 0))
        )
        # Who summed the share and holds it as well would judge itself.
        own = holder == share.seat
        columns[str(column)] = {
            "seat": share.seat,
            "holder": holder,
            "finding": Finding.OPEN if own else None,
            "reason": f"{share.seat} holds the seat above it as well" if own else "",
            "evidence": None,
        }
    return {"shares": sorted(share.digest for share in shares.values()), "told": [], "columns": columns}


def _awaited(challenge: Mapping[str, Any]) -> bool:
    return any(
        column["finding"] is None for group in challenge["groups"].values() for column in group["columns"].values()
    )


def _tell(node: Node, attempt: Attempt, challenge: dict[str, Any]) -> dict[str, Any]:
    """Give the challenge to the seats that have not taken it yet."""
    asked = [
        (name, int(column), value["seat"])
        for name, group in challenge["groups"].items()
        for column, value in group["columns"].items()
        if int(column) not in group["told"]
    ]

    def ask(item: tuple[str, int, str]) -> bool:
        name, _, seat = item
        group = challenge["groups"][name]
        holders = {column: value["holder"] for column, value in group["columns"].items() if value["finding"] is None}
        body = {"group": name, "shares": group["shares"], "nonce": challenge["nonce"], "holders": holders}
        try:
            call(node, attempt.members[seat], "POST", attempt.path("challenge"), json=body)
        except PeerError as error:
            return error.final
        return True

    heard = [item for item, taken in zip(asked, each(asked, ask), strict=True) if taken]
    if not heard:
        return challenge

    def change(found: dict[str, Any]) -> dict[str, Any]:
        for name, column, _ in heard:
            group = found["groups"][name]
            group["told"] = sorted({*group["told"], column})
        return found

    return _change(node, attempt, change)


def _judge_star(node: Node, summed: Summed, challenge: dict[str, Any], *, late: bool) -> dict[str, Any]:
    """Judge the shares that are here, once every seat has answered, or with what there is when it is ``late``."""
    attempt, group = summed.attempt, challenge["groups"][TOP]
    rows = node.store.run(
        "round.answers",
        lambda records: records.select(SketchAnswers, attempt.row.job_id, attempt.row.round, attempt.row.attempt, TOP),
    )
    if len(rows) < len(group["shares"]) and not late:
        return challenge
    setting = setting_of(attempt, signing=False)
    court = Court(
        manifest=attempt.job.manifest or {},
        collector_key=node.signer.public_key,
        beacon=attempt.manifest.beacon,
        keys=attempt.manifest.keys,
        context=setting.context(TOP),
        group=setting.group(TOP, {}),
        challenge=Challenge(shares=tuple(group["shares"]), nonce=challenge["nonce"]),
    )
    found = {}
    for share in summed.groups.shares.get(TOP, ()):
        stored = summed.groups.stored[share.digest]
        told = answers_about(node, rows, court.challenge, share.column)
        vector = node.blobs.get(stored.vector or "")
        found[TOP, share.column] = judge(share.column, stored.document, vector, told, court)
    return _keep(node, attempt, found)


def _keep(
    node: Node, attempt: Attempt, found: Mapping[tuple[str, int], Judgement], *, ring: bool = False
) -> dict[str, Any]:
    """Write findings down, each one once."""

    def change(challenge: dict[str, Any]) -> dict[str, Any]:
        for (name, column), judgement in found.items():
            value = challenge["groups"][name]["columns"][str(column)]
            if value["finding"] is None:
                value |= {
                    "finding": judgement.finding.value,
                    "reason": judgement.reason,
                    "evidence": judgement.evidence and node.blobs.put(canonical_json(dict(judgement.evidence))),
                }
        return challenge

    return _change(node, attempt, change, ring=ring)


def _change(
    node: Node, attempt: Attempt, change: Callable[[dict[str, Any]], dict[str, Any]], *, ring: bool = False
) -> dict[str, Any]:
    """Change the challenge as it is stored now; ``ring`` when nothing more is awaited."""

    def work(records: Records) -> dict[str, Any]:
        row = records.lock(Round, attempt.row.job_id, attempt.row.round, attempt.row.attempt)
        if row is None or row.challenge is None:
            raise UnknownError("no such challenge")
        changed = change(copy.deepcopy(row.challenge))
        if changed != row.challenge:
            records.save(dataclasses.replace(row, challenge=changed))
            if ring and not _awaited(changed):
                records.enqueue("learning.finish_round", attempt.key, node.now())
        return changed

    return node.store.run("round.finding", work)


def _decided(node: Node, attempt: Attempt, challenge: Mapping[str, Any]) -> HeldUp | None:
    """Return None where the sum may be opened; end the job or the attempt otherwise."""
    columns = [column for group in challenge["groups"].values() for column in group["columns"].values()]
    number = attempt.row.round
    for column in columns:
        if column["finding"] == Finding.WRONG:
            name = node.peers.name(column["seat"])
            fail_job(
                node,
                attempt.row.job_id,
                f"round {number}: {name} released a share that is not the sum of what it holds; "
                "the file that proves it is kept",
            )
            return HeldUp(again=None)
    against = [column["reason"] for column in columns if column["finding"] == Finding.UNPROVEN]
    if against or challenge["doubt"]:
        reason = against[0] if against else f"{challenge['doubt']}; no share could be shown to be wrong"
        abort(node, attempt, f"the sum cannot be trusted: {reason}")
        return HeldUp(again=None)
    right = sum(column["finding"] == Finding.RIGHT for column in columns)
    text = f"round {number}: {right} of {len(columns)} shares challenged are what the other seats say they must be"
    node.store.run(
        "round.challenged",
        lambda records: note(records, attempt.row.job_id, node.now(), f"challenge-{number}", text),
    )
    return None


def _convicts(document: object, job_id: str, seat: str) -> bool:
    if not isinstance(document, Mapping):
        return False
    try:
        verdict = check_evidence(document)
    except EvidenceError:
        return False
    return (verdict.culprit, verdict.job) == (seat, job_id)
