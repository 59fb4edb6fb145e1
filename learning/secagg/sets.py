"""Agreement on who is in: the contributor set U, signed once by each seat and final with a quorum.

Two quorums of floor((m + t) / 2) + 1 share an honest seat, and an honest seat signs one set per round; so no two sets
of a round can both be released, and no difference of two sums can single out a person.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import CohortFloorError, QuorumError, SecondSetError, SetError, WrapGuardError
from policies.canonical import CanonicalFormError, digest
from policies.signing import SignatureError, Signer, verify

KIND = "secagg-set"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContributorSet:
    """U: contributor id and header digest of everyone in it, sorted by contributor."""

    uploads: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, uploads: Mapping[str, str]) -> Self:
        """Return the set of ``uploads`` (contributor -> header digest)."""
        return cls(uploads=tuple(sorted(uploads.items())))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SetError: not a sorted list of distinct pairs.
        """
        if not isinstance(value, list) or not all(_is_pair(item) for item in value):
            raise SetError("a contributor set is a list of [contributor, header digest]")
        names = [item[0] for item in value]
        if names != sorted(set(names)):
            raise SetError("a contributor set is sorted and names nobody twice")
        return cls(uploads=tuple((item[0], item[1]) for item in value))

    def to_json(self) -> list[list[str]]:
        """Return the JSON value that proposals carry."""
        return [list(pair) for pair in self.uploads]

    @property
    def contributors(self) -> tuple[str, ...]:
        """The ids alone."""
        return tuple(name for name, _ in self.uploads)

    def statement(self, context: RoundContext, seat: str) -> dict[str, Any]:
        """Return what the participant ``seat`` signs about this set; a tree's statements also name their group."""
        named = {"group": context.group} if context.aggregation == "tree" else {}
        return named | {
            "job": context.job,
            "round": context.round,
            "attempt": context.attempt,
            "context": context.digest,
            "members": digest(list(self.contributors)),
            "uploads": digest(self.to_json()),
            "count": len(self.uploads),
            "seat": seat,
        }


def propose_set(received: Mapping[str, Mapping[str, str]], group: Group) -> ContributorSet:
    """Return the set that every reporting seat can serve.

    Args:
        received: seat participant -> (contributor -> header digest), from the seats that reported.
        group: the seats.

    Raises:
        QuorumError: fewer seats than the quorum reported.
        CohortFloorError: fewer than n_min contributors reached every reporting seat with the same header.
    """
    reports = [report for seat, report in received.items() if group.voice_of(seat) is not None]
    if len(reports) < group.quorum:
        raise QuorumError(f"{len(reports)} seats reported what they received, {group.quorum} must")
    first, *others = reports
    chosen = {name: header for name, header in first.items() if all(o.get(name) == header for o in others)}
    proposed = ContributorSet.of(chosen)
    check_size(proposed, group)
    return proposed


def equivocations(received: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the contributors that showed different headers to different seats: contributor -> seat -> digest."""
    shown: dict[str, dict[str, str]] = {}
    for seat, report in received.items():
        for name, header in report.items():
            shown.setdefault(name, {})[seat] = header
    return {name: seats for name, seats in shown.items() if len(set(seats.values())) > 1}


def sign_set(
    proposed: ContributorSet,
    *,
    context: RoundContext,
    group: Group,
    signer: Signer,
    held: Mapping[str, str],
    signed: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return this seat's signature on ``proposed``; the same set gives the same bytes again.

    Args:
        proposed: the collector's proposal.
        context: the attempt that is open.
        group: the seats.
        signer: this seat's key; its kid is the participant id.
        held: contributor -> header digest of every upload that this seat holds whole.
        signed: every set document that this seat signed in this job and round, whatever the attempt.

    Raises:
        CohortFloorError: fewer than n_min contributors.
        WrapGuardError: more than n_max contributors.
        SetError: the set names an upload that this seat does not hold.
        SecondSetError: this seat has signed other contributors for this round. A later attempt may only repeat the
            same contributors: another set would let the collector subtract one sum from the other. An inner group may
            sign other shares of the same children: they add up to the same sums.
    """
    if group.voice_of(signer.kid) is None:
        raise SetError("this participant has no seat that signs in this group")
    check_size(proposed, group)
    for name, header in proposed.uploads:
        if held.get(name) != header:
            raise SetError("the set names an upload that this seat does not hold", sender=name)
    statement = proposed.statement(context, signer.kid)
    for earlier in signed:
        _check_repeat(earlier["payload"], statement, inner=group.inner)
    return signer.sign(KIND, statement)


def check_size(proposed: ContributorSet, group: Group) -> None:
    """Refuse a set below the floor or above what the ring holds.

    Raises:
        CohortFloorError: fewer than n_min.
        WrapGuardError: more than n_max.
    """
    if len(proposed.uploads) < group.n_min:
        raise CohortFloorError(f"{len(proposed.uploads)} contributors are fewer than the floor of {group.n_min}")
    if len(proposed.uploads) > group.n_max:
        raise WrapGuardError(f"{len(proposed.uploads)} contributors are more than the ring holds: {group.n_max}")


def verify_quorum(
    proposed: ContributorSet, statements: Sequence[Mapping[str, Any]], *, context: RoundContext, group: Group
) -> frozenset[int]:
    """Return the columns of the seats that signed ``proposed``.

    Raises:
        QuorumError: a signature is not a seat's or not on this set, or there are too few.
    """
    columns = set()
    for document in statements:
        payload = document.get("payload")
        seat = payload.get("seat") if isinstance(payload, Mapping) else None
        column = group.voice_of(seat) if isinstance(seat, str) else None
        if column is None or seat is None:
            raise QuorumError("a signature on the set is not a seat's")
        try:
            found = verify(KIND, document, group.voices[column].public_key)
        except (SignatureError, CanonicalFormError) as error:
            raise QuorumError("its signature on the set does not verify", sender=seat) from error
        if found != proposed.statement(context, seat):
            raise QuorumError("signed another set", sender=seat)
        columns.add(column)
    if len(columns) < group.quorum:
        raise QuorumError(f"{len(columns)} seats signed the set, {group.quorum} must")
    return frozenset(columns)


def _check_repeat(earlier: Mapping[str, Any], statement: Mapping[str, Any], *, inner: bool) -> None:
    if any(earlier.get(name) != statement.get(name) for name in ("job", "round", "group")):
        return
    if earlier["members"] != statement["members"]:
        raise SecondSetError(f"round {statement['round']} already has a signed set of other contributors")
    if not inner and earlier["attempt"] == statement["attempt"] and earlier != statement:
        raise SecondSetError(f"round {statement['round']} already has a signed set in this attempt")


def _is_pair(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)  # noqa: PLR2004
