"""The collector of the failure simulator: `conduct.advance`, and what it asks for, under a simulated network."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from learning.secagg.collector import add_shares
from learning.secagg.conduct import advance, open_groups
from learning.secagg.conduct_state import (
    Abort,
    Action,
    AskToSign,
    Finish,
    GroupFacts,
    OrderRelease,
    Patience,
    Replace,
    Reseal,
    Resend,
    Setting,
)
from learning.secagg.covered import contributors_in, name_of
from learning.secagg.errors import ShareError
from learning.secagg.inner import InnerSet, add_inner_shares, read_inner_share
from learning.secagg.packing import RingVector
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import read_share
from learning.tree import TOP
from policies.signing import document_digest
from tests.simulation.sim_clock import Event, Machine
from tests.simulation.sim_nodes import STATEMENT_BYTES, Contributor, Order, Seat, order_bytes, set_bytes

if TYPE_CHECKING:
    from tests.simulation.tree_simulator import World

COLLECTOR = "collector"
PING_BYTES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: when the collector had the sum, or gave up.
        included: contributors in the sum.
        reason: why there is none (None: there is one).
        total: the sum.
        bytes_sent: by all nodes together.
        dead: nodes that had ended by then.
        left_out: leaf groups without a part in the sum.
        replaced: seats that were replaced.
    """

    seconds: float
    included: tuple[str, ...]
    reason: str | None
    total: "RingVector | None"
    bytes_sent: int
    dead: int
    left_out: int
    replaced: int


class Collector:
    """The collector: `conduct.advance` and what it asks for."""

    def __init__(self, world: "World", patience: Patience) -> None:
        self.world, self.clock = world, world.clock
        self.machine = Machine(COLLECTOR, world.clock, world.scene.prices)
        self.setting = Setting(
            tree=world.tree, group=world.group, context=world.context, min_contributors=2, patience=patience
        )
        self.rounds = open_groups(world.tree, world.before)
        self.facts = {name: GroupFacts() for name in world.tree.names}
        self.notices: dict[str, dict[str, str]] = {leaf: {} for leaf in world.tree.leaves}
        self.statements: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in world.tree.names}
        self.top: dict[str, bytes] = {}
        self.ended: tuple[float, str | None] | None = None
        self.replacements = 0
        self._touched: set[str] = set()

    # Facts.

    def learn(self, group: str, **changes: Any) -> None:
        """Keep what is new about a group, and look at it."""
        self.facts[group] = dataclasses.replace(self.facts[group], **changes)
        self.touch(group)

    def touch(self, group: str) -> None:
        """Have a group looked at, at this moment and once."""
        if not self._touched:
            self.clock.at(self.clock.now, self._advance)
        self._touched.add(group)

    def take_notice(self, leaf: str, name: str, digest: str) -> None:
        """Note an upload; a leaf closes when all have spoken, or a while after half of them have."""
        spoken, everybody = self.notices[leaf], len(self.world.members[leaf])
        spoken[name] = digest
        if len(spoken) == everybody:
            self._close(leaf)
        elif len(spoken) == (everybody + 1) // 2:
            self.clock.at(self.clock.now + self.world.straggle, lambda: self._close(leaf))

    def _close(self, leaf: str) -> None:
        if self.facts[leaf].uploads is None:
            self.learn(leaf, uploads=dict(self.notices[leaf]))

    def take_unreachable(self, group: str, seat: str) -> None:
        """Note that a seat did not answer somebody."""
        self.learn(group, unreachable=self.facts[group].unreachable | {seat})

    def take_share(self, group: str, document: dict[str, Any]) -> None:
        """Note a share that has arrived above; verified as the product does, since signatures are checked above."""
        value = self.rounds[group]
        present = self.world.group(group, value.replaced)
        context = self.world.context(group)
        header: Any
        try:
            if isinstance(value.proposed, ContributorSet):
                header = read_share(document, value.proposed, context=context, group=present)
            elif isinstance(value.proposed, InnerSet) and present.seat_of(document["payload"]["seat"]) is not None:
                header = read_inner_share(document, value.proposed, context=context, group=present)
            else:
                return
        except ShareError:
            # Over a set that changed while the share was on its way.
            return
        if header.digest not in {share.digest for share in self.facts[group].shares}:
            self.learn(group, shares=(*self.facts[group].shares, header))

    def take_delivered(self, group: str, document: dict[str, Any]) -> None:
        """Note that a share has arrived at the parent's seat."""
        self.learn(group, delivered=self.facts[group].delivered | {document_digest(document)})

    def take_top(self, group: str, document: dict[str, Any], vector: bytes) -> None:
        """Take a share of the top group, with its bytes."""

        def added() -> None:
            self.top[document_digest(document)] = vector
            self.take_share(group, document)

        self.machine.heavy(self.world.vector_bytes, added)

    def watch(self) -> None:
        """Check every seat's health now and then; count the bytes, and learn of the dead when they do not answer."""
        world, every = self.world, self.world.scene.ping
        for leaf in world.tree.leaves:
            # The plan's deadline, for a leaf of which not even half can upload.
            self.clock.at(20 * world.repeat, lambda leaf=leaf: self._close(leaf))  # type: ignore[misc]
        if every is None:
            return
        seats = [(name, seat) for name in world.tree.names for seat in world.tree.seats(name)]
        for name, seat in seats:
            self._watch(name, seat, every)

        def ping() -> None:
            self.machine.transmit(PING_BYTES * len(seats))
            if self.ended is None and self.clock.now < world.scene.limit - every:
                self.clock.at(self.clock.now + every, ping)

        ping()

    def _watch(self, name: str, seat: str, every: float) -> None:
        dies = max(self.world.scene.deaths.get(seat, math.inf), self.clock.now)
        if dies < self.world.scene.limit:
            missed = math.ceil(dies / every) * every + self.world.timeout
            self.clock.at(missed, lambda: self.take_unreachable(name, seat))

    # Decisions and actions.

    def _advance(self) -> None:
        touched, self._touched = self._touched, set()
        if self.ended is not None:
            return
        found = advance(self.setting, self.rounds, self.facts, self.clock.now, touched=touched)
        self.rounds = dict(found.rounds)
        for action in found.actions:
            self._do(action)
        for name, when in found.due.items():
            self.clock.at(when, lambda name=name: self.touch(name))  # type: ignore[misc]

    def _do(self, action: Action) -> None:
        if isinstance(action, AskToSign):
            self._ask(action)
        elif isinstance(action, OrderRelease):
            self._order(action)
        elif isinstance(action, Resend):
            seat = self._seat(action.group, action.column)
            self._send(seat, 300, lambda: self._resend(action, seat))
        elif isinstance(action, Reseal):
            for name in contributors_in(self.rounds, action.group):
                person = self.world.contributors[name]
                self._send(person, 400, lambda person=person: person.reseal(action.column, action.seat))  # type: ignore[misc]
        elif isinstance(action, Finish):
            self.machine.heavy(0, lambda: self._end(None))
        elif isinstance(action, Abort):
            self._end(action.reason)
        elif isinstance(action, Replace):
            self.replacements += 1
            if self.world.scene.ping is not None:
                self._watch(action.group, action.seat, self.world.scene.ping)

    def _resend(self, action: Resend, seat: Seat) -> None:
        seat.resend(action.to)
        heard = {**self.facts[action.group].heard, seat.participant: self.clock.now}
        self.world.network.send(seat.machine, self.machine, 100, lambda: self.learn(action.group, heard=heard))

    def _ask(self, action: AskToSign) -> None:
        seat, proposed = self._seat(action.group, action.column, voice=True), self.rounds[action.group].proposed
        if proposed is None:
            return

        def reply(answer: Any) -> None:
            self.world.network.send(
                seat.machine, self.machine, STATEMENT_BYTES, lambda: self._heard_sign(action.group, seat, answer)
            )

        def holds() -> None:
            self.world.network.send(
                seat.machine, self.machine, 100, lambda: self._heard_holds(action.group, seat, name_of(proposed))
            )

        size = set_bytes(_entries(proposed))
        if action.sign:
            self._send(seat, size, lambda: seat.ask_to_sign(proposed, action.doubtful, reply))
        else:
            self._send(seat, size, lambda: seat.ask_what_is_here(proposed, holds, reply))

    def _heard_holds(self, group: str, seat: Seat, proposed: str) -> None:
        facts, name = self.facts[group], seat.participant
        heard, missing = {**facts.heard, name: self.clock.now}, {**facts.missing, name: ()}
        self.learn(group, heard=heard, missing=missing, holds={**facts.holds, name: proposed})

    def _heard_sign(self, group: str, seat: Seat, answer: Any) -> None:
        facts, name = self.facts[group], seat.participant
        heard = {**facts.heard, name: self.clock.now}
        if isinstance(answer, dict):
            # Seats check these signatures before they act on them; the collector only counts who sent one.
            self.statements[group][name] = answer
            signed = {**facts.signed, name: answer["payload"]["uploads"]}
            self.learn(group, heard=heard, signed=signed, missing={**facts.missing, name: ()})
        elif answer is None:
            self.learn(group, heard=heard, refused=facts.refused | {name})
        else:
            missing = answer if seat.inner else ()
            self.learn(group, heard=heard, missing={**facts.missing, name: missing})

    def _order(self, action: OrderRelease) -> None:
        seat, value = self._seat(action.group, action.column), self.rounds[action.group]
        proposed = value.proposed
        if proposed is None:
            return
        wanted, group = self._digest(proposed), self.world.group(action.group, value.replaced)
        voices = {seat.participant for seat in group.voices}
        signed = [found["payload"] for found in self.statements[action.group].values()]
        names = [found["seat"] for found in signed if found["uploads"] == wanted and found["seat"] in voices]
        statements = tuple(self.statements[action.group][name] for name in names[: group.quorum])
        order = Order(
            proposed=proposed,
            statements=statements,
            lost=action.lost,
            blank=action.blank,
            to=action.to,
            group=group,
        )

        def reply(answer: Any) -> None:
            self.world.network.send(
                seat.machine, self.machine, 300, lambda: self._heard_order(action.group, seat, answer)
            )

        size = order_bytes(_entries(proposed), group.quorum)
        self._send(seat, size, lambda: seat.order(order, reply))

    def _heard_order(self, group: str, seat: Seat, missing: tuple[str, ...]) -> None:
        facts, name = self.facts[group], seat.participant
        heard = {**facts.heard, name: self.clock.now}
        self.learn(group, heard=heard, missing={**facts.missing, name: missing})

    def _digest(self, proposed: ContributorSet | InnerSet) -> str:
        plain = proposed.as_set() if isinstance(proposed, InnerSet) else proposed
        return str(plain.statement(self.world.context(TOP), "")["uploads"])

    def _seat(self, group: str, column: int, *, voice: bool = False) -> Seat:
        present = self.world.group(group, self.rounds[group].replaced)
        return self.world.seat(group, (present.voices if voice else present.seats)[column].participant)

    def _send(self, to: Seat | Contributor, size: int, then: Event) -> None:
        self.world.network.send(self.machine, to.machine, size, then)

    def _end(self, reason: str | None) -> None:
        if self.ended is None:
            self.ended = (self.clock.now, reason)
            self.clock.stop()

    # The result.

    def outcome(self) -> Outcome:
        """Return what came of the attempt."""
        when, reason = self.ended or (self.clock.now, "the attempt's time is over")
        machines = [self.machine, *self.world._machines.values()]
        return Outcome(
            seconds=when,
            included=contributors_in(self.rounds) if reason is None else (),
            reason=reason,
            total=self._total() if reason is None else None,
            bytes_sent=sum(machine.sent for machine in machines),
            dead=sum(dies <= when for dies in self.world.scene.deaths.values()),
            left_out=sum(self.rounds[leaf].state == "LEFT_OUT" for leaf in self.world.tree.leaves),
            replaced=self.replacements,
        )

    def _total(self) -> RingVector:
        value, context = self.rounds[TOP], self.world.context(TOP)
        group = self.world.group(TOP, value.replaced)
        loads = [
            (share, self.top[share.digest].__bytes__) for share in self.facts[TOP].shares if share.digest in self.top
        ]
        if isinstance(value.proposed, ContributorSet):
            return add_shares(loads, value.proposed, lost=value.lost, context=context, group=group)  # type: ignore[arg-type]
        wanted = self._digest(value.proposed) if value.proposed is not None else ""
        kept = [
            pair
            for pair in loads
            if pair[0].children == wanted and group.seats[pair[0].column].participant == pair[0].seat  # type: ignore[union-attr]
        ]
        return add_inner_shares(kept, context=context, group=group)  # type: ignore[arg-type]


def _entries(proposed: ContributorSet | InnerSet) -> int:
    return len(proposed.covers if isinstance(proposed, InnerSet) else proposed.uploads)
