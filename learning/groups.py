"""The groups of one attempt at its collector: what is stored and known of them, as `learning.secagg.conduct` takes it."""

import dataclasses
import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from learning.attempts import Attempt
from learning.errors import UnknownError
from learning.ports import Records
from learning.rounds import GroupAttempt, Round, SeatShare
from learning.secagg.conduct import open_groups
from learning.secagg.conduct_state import GroupFacts, GroupRound, GroupState, Patience, Setting
from learning.secagg.context import Group, RoundContext
from learning.secagg.inner import InnerHeader, InnerSet
from learning.secagg.shares import ShareHeader, parse_share
from learning.tree import ExecutionTree, parse_replaced
from policies.canonical import digest

# While signatures are awaited, an upload may be a moment behind, and a seat that lives need not lose its place for that;
# shares take as long as they take.
_SIGNING = Patience(again=0.5, silent=40, stuck=240, grace=1.0)
_RELEASING = Patience(again=2.0, silent=10, stuck=90, grace=0.0)
# Contributions that seats get through in a second, on a busy machine.
_CHECKED, _SUMMED = 5000, 2000


class OvertakenError(Exception):
    """Somebody else has moved these groups on meanwhile: what was decided here counts for nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of an attempt as they are stored.

    Attributes:
        rounds: every group's state.
        rows: the records behind it; empty before the sets are proposed.
        shares: the signed headers that have arrived, by group.
        stored: the records of those shares, by the digest of the header.
    """

    rounds: Mapping[str, GroupRound]
    rows: Mapping[str, GroupAttempt]
    shares: Mapping[str, tuple[ShareHeader | InnerHeader, ...]]
    stored: Mapping[str, SeatShare]


def tree_of(attempt: Attempt) -> ExecutionTree:
    """Return the tree of an attempt that has one.

    Raises:
        UnknownError: a clear job.
    """
    if attempt.manifest.tree is None:
        raise UnknownError("a clear job has no groups")
    return attempt.manifest.tree


def opened(attempt: Attempt) -> dict[str, dict[int, int]]:
    """Return the seats that were replaced before the round opened."""
    return parse_replaced(attempt.row.replaced, tree_of(attempt))


def setting_of(attempt: Attempt, *, signing: bool) -> Setting:
    """Return what does not change while an attempt lasts; ``signing`` decides how long a seat is waited for."""
    manifest, row, replaced = attempt.manifest, attempt.row, opened(attempt)

    @functools.lru_cache(maxsize=4096)
    def group(name: str, now: tuple[tuple[int, int], ...]) -> Group:
        return manifest.group_of(name, round=row.round, replaced=replaced.get(name, {}), now=dict(now))

    @functools.lru_cache(maxsize=4096)
    def context(name: str) -> RoundContext:
        return manifest.context(
            round=row.round, attempt=row.attempt, model=row.model, group=name, replaced=replaced.get(name, {})
        )

    return Setting(
        tree=tree_of(attempt),
        group=lambda name, now: group(name, tuple(sorted(now.items()))),
        context=context,
        min_contributors=attempt.plan.min_contributors,
        patience=_patience(attempt.row.counted, signing=signing),
    )


def _patience(counted: int, *, signing: bool) -> Patience:
    """Return when seats are given up: a set of very many takes them longer to check and to sum, and us to send."""
    usual = _SIGNING if signing else _RELEASING
    return dataclasses.replace(usual, again=max(usual.again, counted / (_CHECKED if signing else _SUMMED)))


def no_groups(attempt: Attempt) -> Groups:
    """Return the groups of an attempt whose sets have not been proposed."""
    return Groups(rounds=open_groups(tree_of(attempt), opened(attempt)), rows={}, shares={}, stored={})


def read_groups(records: Records, attempt: Attempt) -> Groups:
    """Return the groups of an attempt as they are stored now."""
    where = (attempt.row.job_id, attempt.row.round, attempt.row.attempt)
    rows = {row.group: row for row in records.select(GroupAttempt, *where)}
    rounds = open_groups(tree_of(attempt), opened(attempt))
    rounds |= {name: GroupRound.from_json(row.value) for name, row in rows.items()}
    stored = records.select(SeatShare, *where)
    shares: dict[str, list[ShareHeader | InnerHeader]] = {}
    for share in stored:
        shares.setdefault(share.group, []).append(_header(tree_of(attempt), share))
    return Groups(
        rounds=rounds,
        rows=rows,
        shares={name: tuple(found) for name, found in shares.items()},
        stored={share.digest: share for share in stored},
    )


def facts_of(
    attempt: Attempt, groups: Groups, uploads: Mapping[str, Mapping[str, str]] | None
) -> dict[str, GroupFacts]:
    """Return what is known about each group; ``uploads`` by leaf, once no more are waited for."""
    tree, found = tree_of(attempt), {}
    for name in tree.names:
        row = groups.rows.get(name)
        heard = dict(row.heard) if row is not None else {}
        for header in groups.shares.get(name, ()):
            at = seconds(attempt.row, groups.stored[header.digest].at)
            heard[header.seat] = max(heard.get(header.seat, at), at)
        statements = {} if row is None else row.statements
        found[name] = GroupFacts(
            uploads=None if uploads is None or not tree.is_leaf(name) else dict(uploads.get(name, {})),
            signed={seat: str(document["payload"]["uploads"]) for seat, document in statements.items()},
            refused=frozenset() if row is None else frozenset(row.refused),
            shares=groups.shares.get(name, ()),
            heard=heard,
            holds={} if row is None else dict(row.holds),
            missing={} if row is None else dict(row.missing),
        )
    return found


def save_groups(records: Records, groups: Groups, changed: Mapping[str, GroupAttempt]) -> dict[str, GroupAttempt]:
    """Write groups that have changed; the caller holds the attempt's row.

    Raises:
        OvertakenError: one of them is not as it was when it was read.
    """
    for name, row in changed.items():
        before = groups.rows.get(name)
        current = records.get(GroupAttempt, row.job_id, row.round, row.attempt, name)
        if current != before:
            raise OvertakenError
        if before is None:
            records.add(row)
        else:
            records.save(row)
    return {**groups.rows, **changed}


def row_of(attempt: Attempt, groups: Groups, value: GroupRound, **changes: Any) -> GroupAttempt:
    """Return the record of a group with a new state."""
    before = groups.rows.get(value.group)
    fields = {"state": value.state.value, "value": value.to_json(), **changes}
    if before is not None:
        return dataclasses.replace(before, **fields)
    row = attempt.row
    return GroupAttempt(job_id=row.job_id, round=row.round, attempt=row.attempt, group=value.group, **fields)


def seconds(row: Round, at: datetime) -> float:
    """Return a time as the groups count it."""
    return (at - row.opened_at).total_seconds()


def still_signing(rounds: Mapping[str, GroupRound]) -> bool:
    """Say whether a group waits for signatures, or for what its seats must hold before they give them."""
    return any(value.state in (GroupState.GATHERING, GroupState.SIGNING) for value in rounds.values())


def signable(value: GroupRound) -> Any:
    """Return the set that a group's seats sign, as `sign_set` takes it."""
    return value.proposed.as_set() if isinstance(value.proposed, InnerSet) else value.proposed


def _header(tree: ExecutionTree, share: SeatShare) -> ShareHeader | InnerHeader:
    """Return the header of a stored share, which was verified when it arrived."""
    payload = share.document["payload"]
    column = tree.column_of(share.seat) or 0
    if "children" in payload:
        return InnerHeader(
            column=column,
            seat=share.seat,
            children=payload["children"],
            vector=payload["vector"],
            digest=digest(payload),
        )
    return parse_share(payload, column=column, seats=len(tree.columns))
