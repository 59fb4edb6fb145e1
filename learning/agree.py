"""The collector moves an attempt's groups on: asks seats to sign, orders shares, replaces who is gone, until it can add up.

What happens next is decided by `learning.secagg.conduct` alone; here it is carried out and written down. Proposed sets
and replacements are stored before anybody hears of them.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from learning.attempts import Attempt, round_key
from learning.errors import PeerError, UnknownError
from learning.groups import (
    Groups,
    OvertakenError,
    facts_of,
    no_groups,
    read_groups,
    row_of,
    save_groups,
    seconds,
    setting_of,
    signable,
    still_signing,
    tree_of,
)
from learning.jobs import Member
from learning.members import call
from learning.node import Later, Node, later
from learning.ports import Records
from learning.rounds import GroupAttempt, Round, RoundEvent, RoundState, move_round
from learning.secagg.conduct import advance
from learning.secagg.conduct_state import (
    UNSIGNED,
    Abort,
    Action,
    AskToSign,
    Finish,
    GroupFacts,
    GroupRound,
    LeaveOut,
    OrderRelease,
    Replace,
    Reseal,
    Resend,
    Setting,
)
from learning.secagg.covered import name_of
from learning.secagg.inner import InnerSet
from learning.secagg.sets import KIND as SET_KIND
from learning.secagg.sets import ContributorSet
from learning.timeline import note
from policies.canonical import CanonicalFormError, digest
from policies.signing import SignatureError, verify

_CALLS_AT_ONCE = 16
_OVERTAKEN_SECONDS = 0.05
_CHASE_SECONDS = 2.0
# One look: sets are signed, orders go out; more than that waits for what arrives.
_STEPS = 4
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summed:
    """The shares of the top are there."""

    attempt: Attempt
    groups: Groups
    leaves: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting:
    """Nothing can be done just now; ``signing`` says that a set is not signed yet."""

    again: Later
    signing: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenUp:
    """The attempt cannot be completed."""

    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Heard:
    """What a seat answered: its signature, which set it holds, what it lacks, or that it will not; nothing if silent."""

    group: str
    seat: str
    answered: bool = False
    document: Mapping[str, Any] | None = None
    holds: str | None = None
    missing: tuple[str, ...] = ()
    refused: bool = False


def drive(
    node: Node, attempt: Attempt, uploads: Mapping[str, Mapping[str, str]] | None = None
) -> Waiting | Summed | GivenUp:
    """Take an attempt's groups as far as they go now.

    Args:
        node: the collector.
        attempt: the attempt.
        uploads: leaf -> contributor -> header digest, when no more uploads are waited for; None before and after that.

    Returns:
        when to look again, or how it ended.
    """
    fresh = attempt.row.state is RoundState.TRAINING
    groups = (
        no_groups(attempt) if fresh else node.store.run("groups.read", lambda records: read_groups(records, attempt))
    )
    facts, due = facts_of(attempt, groups, uploads), None
    rounds, extra = dict(groups.rounds), dict[str, dict[str, Any]]()
    for _ in range(_STEPS):
        setting = setting_of(attempt, signing=still_signing(rounds) or not groups.rows)
        now = node.now()
        progress = advance(setting, rounds, facts, seconds(attempt.row, now))
        changed = {name: value for name, value in progress.rounds.items() if value != rounds[name] or name in extra}
        rounds = dict(progress.rounds)
        due = min(progress.due.values(), default=None)
        end = next((one for one in progress.actions if isinstance(one, Finish | Abort)), None)
        if isinstance(end, Finish):
            return Summed(attempt=attempt, groups=dataclasses.replace(groups, rounds=rounds), leaves=end.leaves)
        if changed:
            rows = {name: row_of(attempt, groups, value, **extra.pop(name, {})) for name, value in changed.items()}
            try:
                attempt, saved = _save(node, attempt, groups, rounds, rows, progress.actions, due)
            except OvertakenError:
                return Waiting(again=later(node, _OVERTAKEN_SECONDS), signing=True)
            groups = dataclasses.replace(groups, rounds=rounds, rows=saved)
        if isinstance(end, Abort):
            return GivenUp(reason=end.reason)
        asked = [one for one in progress.actions if not isinstance(one, LeaveOut | Replace)]
        if not asked:
            break
        answers = _perform(node, attempt, setting, rounds, groups, asked)
        facts, extra = _learn(rounds, groups, facts, answers, seconds(attempt.row, node.now()))
        if not any(answer.document or answer.holds or answer.refused or answer.missing for answer in answers):
            break
    # What was heard is written down; what arrived meanwhile is read by whoever looks next.
    if extra:
        rows = {name: row_of(attempt, groups, rounds[name], **changes) for name, changes in extra.items()}
        with contextlib.suppress(OvertakenError):
            attempt, _ = _save(node, attempt, groups, rounds, rows, (), due)
    return Waiting(again=_later(node, attempt, due), signing=attempt.row.state is RoundState.AGREEING)


def _later(node: Node, attempt: Attempt, due: float | None) -> Later:
    wait = 1.0 if due is None else max(due - seconds(attempt.row, node.now()), 0.0)
    return later(node, wait)


def _save(
    node: Node,
    attempt: Attempt,
    groups: Groups,
    rounds: Mapping[str, GroupRound],
    rows: Mapping[str, GroupAttempt],
    actions: Sequence[Action],
    due: float | None,
) -> tuple[Attempt, dict[str, GroupAttempt]]:
    now, value = node.now(), attempt.row
    tree = tree_of(attempt)
    signed = all(rounds[leaf].state not in UNSIGNED for leaf in tree.leaves)

    def work(records: Records) -> tuple[Round, dict[str, GroupAttempt]]:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        if row is None:
            raise UnknownError("no such round")
        if row.state in (RoundState.DONE, RoundState.ABORTED):
            raise OvertakenError
        saved = save_groups(records, groups, rows)
        moved = row
        if row.state is RoundState.TRAINING:
            timing = row.timing | {"trained": seconds(row, now)}
            moved = dataclasses.replace(
                move_round(row, RoundEvent.SET_FIXED), proposed=value.proposed, counted=value.counted, timing=timing
            )
        if moved.state is RoundState.AGREEING and signed:
            timing = moved.timing | {"signed": seconds(row, now)}
            moved = dataclasses.replace(move_round(moved, RoundEvent.SET_SIGNED), timing=timing)
        if len(tree.names) == 1:
            moved = dataclasses.replace(moved, lost=tuple(sorted(rounds[tree.names[0]].lost)))
        if moved != row:
            records.save(moved)
        for text in _told(node, value, actions):
            note(records, value.job_id, now, f"round-{value.round}", text)
        if due is not None and moved.state is RoundState.RELEASING:
            # The shares ring for this task; the timer chases seats that do not send theirs.
            least = 0.0 if still_signing(rounds) else _CHASE_SECONDS
            wait = timedelta(seconds=max(due - seconds(row, now), least))
            records.enqueue("learning.finish_round", round_key(row), now + wait)
        return moved, saved

    row, saved = node.store.run("round.groups", work)
    return dataclasses.replace(attempt, row=row), saved


def _told(node: Node, row: Round, actions: Sequence[Action]) -> list[str]:
    lines = []
    for action in actions:
        if isinstance(action, LeaveOut) and action.group != "0":
            lines.append(f"round {row.round}: left out: {action.reason}")
        elif isinstance(action, Replace):
            who = node.peers.name(action.seat)
            lines.append(
                f"round {row.round}: {who} takes the seat of column {action.column + 1} in group {action.group}"
            )
    return lines


def _perform(
    node: Node,
    attempt: Attempt,
    setting: Setting,
    rounds: Mapping[str, GroupRound],
    groups: Groups,
    actions: Sequence[Action],
) -> list[_Heard]:
    """Carry actions out, seeds for a new seat before anything is asked of it; return what was answered."""
    first = [one for one in actions if isinstance(one, Reseal)]
    for one in first:
        _reseal(node, attempt, rounds[one.group], groups.rows[one.group], one)
    rest = [one for one in actions if not isinstance(one, Reseal)]
    return each(rest, lambda action: _ask(node, attempt, setting, rounds, groups, action))


def _ask(
    node: Node,
    attempt: Attempt,
    setting: Setting,
    rounds: Mapping[str, GroupRound],
    groups: Groups,
    action: Action,
) -> _Heard:
    if not isinstance(action, AskToSign | OrderRelease | Resend):
        return _Heard(group="", seat="")
    value = rounds[action.group]
    group = setting.group(value.group, value.replaced)
    signs = isinstance(action, AskToSign) and not group.inner
    seat = (group.voices if signs else group.seats)[action.column].participant
    body, what = _where(attempt, value), "resend"
    match action:
        case AskToSign():
            what, body = "set", body | _proposal(value) | ({} if action.sign else {"sign": False})
        case OrderRelease():
            row = groups.rows.get(value.group)
            statements = [] if row is None else [row.statements[name] for name in sorted(row.statements)]
            what = "release"
            body |= _proposal(value) | {"statements": _counting(statements, value), "lost": sorted(action.lost)}
            if action.blank:
                body["blank"] = sorted(action.blank)
            if action.to is not None:
                body["to"] = action.to
        case Resend():
            body |= {"to": action.to}
    return _heard(attempt, value, setting, seat, _call(node, attempt, seat, what, body))


def _heard(
    attempt: Attempt, value: GroupRound, setting: Setting, seat: str, answer: Mapping[str, Any] | PeerError
) -> _Heard:
    heard = _Heard(group=value.group, seat=seat, answered=True)
    if isinstance(answer, PeerError):
        return dataclasses.replace(heard, answered=answer.answered, refused=answer.final)
    missing = answer.get("missing")
    if isinstance(missing, list):
        whole = name_of(value.proposed) if value.proposed is not None and not missing else None
        return dataclasses.replace(heard, holds=whole, missing=tuple(str(name) for name in missing))
    if "payload" not in answer:
        return heard
    try:
        found = verify(SET_KIND, answer, attempt.manifest.keys[seat])
    except (SignatureError, CanonicalFormError):
        return dataclasses.replace(heard, refused=True)
    if found != signable(value).statement(setting.context(value.group), seat):
        return dataclasses.replace(heard, refused=True)
    return dataclasses.replace(heard, document=answer)


def _learn(
    rounds: Mapping[str, GroupRound],
    groups: Groups,
    facts: Mapping[str, GroupFacts],
    answers: Iterable[_Heard],
    now: float,
) -> tuple[dict[str, GroupFacts], dict[str, dict[str, Any]]]:
    """Return the facts with what was answered, and what of it is to be stored."""
    found, stored = dict(facts), dict[str, dict[str, Any]]()
    statements: dict[str, dict[str, Any]] = {}
    for answer in answers:
        if not answer.group:
            continue
        before = found[answer.group]
        changes: dict[str, Any] = {}
        if answer.answered:
            changes["heard"] = {**before.heard, answer.seat: now}
            changes["missing"] = {**before.missing, answer.seat: answer.missing}
        if answer.holds is not None:
            changes["holds"] = {**before.holds, answer.seat: answer.holds}
        if answer.refused:
            changes["refused"] = before.refused | {answer.seat}
        if answer.document is not None:
            row = groups.rows.get(answer.group)
            known = statements.setdefault(answer.group, dict(row.statements) if row is not None else {})
            known[answer.seat] = dict(answer.document)
            changes["signed"] = {**before.signed, answer.seat: str(answer.document["payload"]["uploads"])}
        found[answer.group] = after = dataclasses.replace(before, **changes)
        asked = max((ask.times for ask in rounds[answer.group].asked.values()), default=0)
        if asked > 1 or answer.holds or answer.missing or answer.refused or answer.document is not None:
            stored[answer.group] = {
                "heard": dict(after.heard),
                "refused": tuple(sorted(after.refused)),
                "holds": dict(after.holds),
                "missing": {seat: names for seat, names in after.missing.items() if names},
                **({"statements": statements[answer.group]} if answer.group in statements else {}),
            }
    return found, stored


def _reseal(node: Node, attempt: Attempt, value: GroupRound, row: GroupAttempt, action: Reseal) -> None:
    """Ask the providers of the set's contributors to seal their seeds to the new seat; the silent are asked again."""
    if not isinstance(value.proposed, ContributorSet):
        return
    owners = sorted({name.partition("#")[0] for name in value.proposed.contributors})
    statements = [row.statements[name] for name in sorted(row.statements)]
    body = _where(attempt, value) | _proposal(value)
    body |= {"group": action.group, "column": action.column, "statements": _counting(statements, value)}
    body["replaced"] = {str(column): times for column, times in sorted(value.replaced.items())}
    each(owners, lambda owner: _call(node, attempt, owner, "reseal", body))


def _where(attempt: Attempt, value: GroupRound) -> dict[str, Any]:
    """Return which group a body is about; a star's has no name."""
    if attempt.manifest.terms.aggregation != "tree":
        return {}
    replaced = {str(column): times for column, times in sorted(value.replaced.items())}
    return {"group": value.group, **({"replaced": replaced} if replaced else {})}


def _proposal(value: GroupRound) -> dict[str, Any]:
    if value.proposed is None:
        return {}
    return {"children" if isinstance(value.proposed, InnerSet) else "uploads": value.proposed.to_json()}


def _counting(statements: Sequence[Mapping[str, Any]], value: GroupRound) -> list[dict[str, Any]]:
    """Return the statements that are on the set as it is now."""
    if value.proposed is None:
        return []
    wanted = digest(signable(value).to_json())
    return [dict(document) for document in statements if document["payload"]["uploads"] == wanted]


def _call(
    node: Node, attempt: Attempt, participant: str, what: str, body: Mapping[str, Any]
) -> Mapping[str, Any] | PeerError:
    member: Member = attempt.members[participant]
    try:
        return call(node, member, "POST", attempt.path(what), json=body)
    except PeerError as error:
        return error


def each(items: Sequence[Any], work: Callable[[Any], T]) -> list[T]:
    """Return ``work(item)`` for every item, in order, done at the same time."""
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(_CALLS_AT_ONCE, len(items))) as pool:
        return list(pool.map(work, items))
