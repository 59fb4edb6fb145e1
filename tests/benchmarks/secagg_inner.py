"""The groups above the leaves in a run: inner seats add shares column by column, the collector adds the top's."""

import dataclasses
from functools import partial

from learning.secagg.context import Group, RoundContext
from learning.secagg.inner import InnerSet, accept_child_share, add_inner_shares, read_inner_share, release_inner
from learning.secagg.packing import Bytes, RingVector
from learning.secagg.sets import sign_set
from learning.secagg.shares import Share
from tests.benchmarks.secagg_clock import Stopwatch
from tests.benchmarks.secagg_seats import ADD, COLLECT, HASH, INNER, OTHER
from tests.support.secagg_star import member_signer


@dataclasses.dataclass(kw_only=True)
class InnerGroup:
    """The seats of one inner group in one round."""

    context: RoundContext
    group: Group
    watch: Stopwatch
    covers: dict[str, list[tuple[int, str]]] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, Bytes]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """Give every seat a place for what it is handed."""
        self.rows = [{} for _ in self.group.seats]

    def take(self, child: str, context: RoundContext, shares: list[Share]) -> None:
        """Let every seat take the share that the child's seat of its column hands up."""
        for column, share in enumerate(shares):
            with self.watch.role(INNER, HASH):
                seat = self.group.seats[column]
                found = accept_child_share(
                    share.document,
                    share.vector,
                    column=column,
                    context=context,
                    ring={seat.participant: seat.public_key},
                )
            self.rows[column][found.digest] = share.vector
            self.covers.setdefault(child, []).append((column, found.digest))

    def release(self) -> tuple[InnerSet, list[Share]]:
        """Let the seats agree on all children, and give their shares."""
        agreed, columns = InnerSet.of(self.covers), range(len(self.rows))
        with self.watch.role(INNER, OTHER):
            statements = [
                sign_set(
                    agreed.as_set(),
                    context=self.context,
                    group=self.group,
                    signer=member_signer(column),
                    held=agreed.held(column, self.rows[column]),
                    signed=(),
                )
                for column in columns
            ]
        shares = []
        for column in columns:
            with self.watch.role(INNER, HASH):
                share = release_inner(
                    agreed,
                    statements,
                    column=column,
                    context=self.context,
                    group=self.group,
                    signer=member_signer(column),
                    vectors=self.rows[column].__getitem__,
                )
            self.rows[column].clear()
            shares.append(share)
        return agreed, shares

    def collect(self, agreed: InnerSet, shares: list[Share]) -> RingVector:
        """Add the shares of the top group: what the collector does."""
        with self.watch.role(COLLECT, ADD):
            loads = [
                (
                    read_inner_share(share.document, agreed, context=self.context, group=self.group),
                    partial(_vector_of, share),
                )
                for share in shares
            ]
            return add_inner_shares(loads, context=self.context, group=self.group)


def _vector_of(share: Share) -> Bytes:
    return share.vector
