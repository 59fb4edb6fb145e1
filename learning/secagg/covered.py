"""What is in a group's sum: its leaves, its contributors, the shares that cover it."""

import functools
from collections.abc import Iterable, Mapping

from learning.secagg.collector import counting
from learning.secagg.conduct_state import GroupFacts, GroupRound
from learning.secagg.context import Group
from learning.secagg.inner import Cover, InnerHeader, InnerSet
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader
from learning.tree import TOP
from policies.canonical import digest


def leaves_in(rounds: Mapping[str, GroupRound], name: str = TOP) -> tuple[str, ...]:
    """Return the leaf groups that are in the set of a group: itself, if it is one."""
    proposed = rounds[name].proposed
    if isinstance(proposed, InnerSet):
        return tuple(leaf for child in proposed.children for leaf in leaves_in(rounds, child))
    return () if proposed is None else (name,)


def contributors_in(rounds: Mapping[str, GroupRound], name: str = TOP) -> tuple[str, ...]:
    """Return everybody who is in the sum of a group, sorted."""
    found: list[str] = []
    for leaf in leaves_in(rounds, name):
        proposed = rounds[leaf].proposed
        if isinstance(proposed, ContributorSet):
            found.extend(proposed.contributors)
    return tuple(sorted(found))


def cover_of(value: GroupRound, facts: GroupFacts, group: Group) -> Cover:
    """Return the shares that make up the sum of a complete group: (column, digest), ascending."""
    if isinstance(value.proposed, InnerSet):
        shares: Iterable[ShareHeader | InnerHeader] = inner_shares(value, facts, group).values()
    else:
        leaf = [share for share in facts.shares if isinstance(share, ShareHeader)]
        shares = counting(leaf, lost=value.lost, group=group)
    return tuple(sorted((share.column, share.digest) for share in shares))


def inner_shares(value: GroupRound, facts: GroupFacts, group: Group) -> dict[int, InnerHeader]:
    """Return the share of each present seat of an inner group over its present set: column -> header."""
    if not isinstance(value.proposed, InnerSet):
        return {}
    wanted = name_of(value.proposed)
    return {
        share.column: share
        for share in facts.shares
        if isinstance(share, InnerHeader)
        and share.children == wanted
        and group.seats[share.column].participant == share.seat
    }


@functools.lru_cache(maxsize=4096)
def name_of(proposed: ContributorSet | InnerSet) -> str:
    """Return the digest of what seats sign about a set."""
    plain = proposed.as_set() if isinstance(proposed, InnerSet) else proposed
    return digest(plain.to_json())
