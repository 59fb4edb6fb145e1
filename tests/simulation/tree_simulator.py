"""A whole attempt at a round in simulated time: the product's decisions and sums, with failures at chosen moments.

The collector runs :func:`learning.secagg.conduct.advance`, seats and contributors call the real core on vectors of a few
values; only time, network and what things cost are made up (see ``sim_clock``).
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learning.placement import Candidate
from learning.secagg.collector import add_shares
from learning.secagg.conduct import advance, contributors_in, open_groups
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
from learning.secagg.context import Group, RoundContext
from learning.secagg.context import Seat as SeatKeys
from learning.secagg.contributor import UploadPackage
from learning.secagg.inner import InnerSet, add_inner_shares, read_inner_share
from learning.secagg.keys import SealingKey
from learning.secagg.packing import RingVector, pack, ring_dtype
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import read_share
from learning.tree import TOP, ExecutionTree, deal_leaves, place_columns
from policies.signing import Signer, document_digest
from tests.simulation.sim_clock import Clock, Event, Machine, Network, Prices
from tests.simulation.sim_nodes import ENTRY_BYTES, STATEMENT_BYTES, Contributor, Order, Seat

COLLECTOR = "collector"
PING_BYTES = 64


@functools.lru_cache(maxsize=20_000)
def signer_of(name: str) -> Signer:
    """Return a node's signing key: always the same one."""
    return Signer(kid=name, private_key=Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


@functools.lru_cache(maxsize=20_000)
def sealing_key_of(name: str) -> SealingKey:
    """Return a node's sealing key: always the same one."""
    return SealingKey(private_bytes=hashlib.sha256(f"seal {name}".encode()).digest())


@functools.lru_cache(maxsize=20_000)
def _seat_keys(name: str) -> SeatKeys:
    return SeatKeys(
        participant=name,
        organisation=name,
        public_key=signer_of(name).public_key,
        sealing_key=sealing_key_of(name).public_key,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """What is simulated.

    Attributes:
        contributors: how many.
        workers: nodes that can hold seats, spares included; None: the contributors themselves hold them.
        leaves: leaf groups.
        fan_out: children of an inner group.
        shape: (m, t).
        n_min: the floor of a leaf.
        copies: seats that store each vector.
        vector_bytes: modelled size of a vector; the real ones have ``d`` values of ``k`` bits.
        deaths: node -> when it ends, in seconds.
        prices: what things cost.
        seed: of latencies, beacon and vectors.
        late_masks: masks are drawn after the local step instead of during it.
        ping: seconds between two health checks of a seat (None: none).
        k: bits of the ring.
        d: values of the real vectors.
        limit: seconds after which the attempt is given up.
    """

    contributors: int
    workers: int | None = None
    leaves: int = 1
    fan_out: int = 2
    shape: tuple[int, int] = (5, 2)
    n_min: int = 2
    copies: int | None = None
    vector_bytes: int = 1_000_000
    deaths: Mapping[str, float] = dataclasses.field(default_factory=dict)
    prices: Prices = dataclasses.field(default_factory=Prices)
    seed: int = 0
    late_masks: bool = False
    ping: float | None = 0.25
    k: int = 32
    d: int = 3
    limit: float = 600.0


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


class World:
    """Everything that exists in one attempt."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.clock = scene, Clock()
        self.network = Network(self.clock, scene.prices, scene.seed)
        self.vector_bytes, self.late_masks = scene.vector_bytes, scene.late_masks
        self.transfer = transfer = scene.vector_bytes / scene.prices.bandwidth
        self.timeout = 8 * scene.prices.latency
        # A seat holds a question for a while instead of answering "not yet".
        again = 2 * transfer + 0.2
        self.hold = again * 0.7
        self.straggle = self.timeout + 2 * transfer + 0.15
        patience = Patience(again=again, silent=2, stuck=max(40, int(400 * transfer / again)), grace=0.2)
        self.beacon = hashlib.sha256(f"beacon {scene.seed}".encode()).hexdigest()
        self.people = [f"c{number:05d}" for number in range(scene.contributors)]
        workers = self.people if scene.workers is None else [f"w{number:05d}" for number in range(scene.workers)]
        candidates = [Candidate(participant=name, organisation=name) for name in workers]
        columns = place_columns(self.beacon, candidates, seats=scene.shape[0], collector_organisation=COLLECTOR)
        self.tree = ExecutionTree.grow(scene.leaves, scene.fan_out, columns)
        self.leaf_of = deal_leaves(self.beacon, self.people, self.tree.leaves)
        self.members: dict[str, tuple[str, ...]] = {
            leaf: tuple(name for name, where in self.leaf_of.items() if where == leaf) for leaf in self.tree.leaves
        }
        self.before: dict[str, dict[int, int]] = {}
        self.keys = {name: signer_of(name).public_key for name in {*self.people, *workers}}
        words = np.random.default_rng(scene.seed).integers(0, 2**63, (len(self.people), scene.d), dtype=np.uint64)
        if scene.k < 64:
            words &= np.uint64((1 << scene.k) - 1)
        self.vectors = dict(zip(self.people, words.astype(ring_dtype(scene.k)), strict=True))
        self._machines: dict[str, Machine] = {}
        self._seats: dict[tuple[str, str], Seat] = {}
        self._groups: dict[tuple[str, tuple[tuple[int, int], ...]], Group] = {}
        self._contexts: dict[str, RoundContext] = {}
        self.contributors = {name: Contributor(self, name, self.leaf_of[name]) for name in self.people}
        self.collector = _Collector(self, patience)

    def machine(self, name: str) -> Machine:
        """Return a node's machine."""
        if name not in self._machines:
            dies = self.scene.deaths.get(name, math.inf)
            self._machines[name] = Machine(name, self.clock, self.scene.prices, dies)
        return self._machines[name]

    def seat(self, group: str, participant: str) -> Seat:
        """Return a seat; it comes to be when it is first spoken to."""
        key = (group, participant)
        if key not in self._seats:
            self._seats[key] = Seat(self, *key)
        return self._seats[key]

    def signer(self, name: str) -> Signer:
        """Return a node's signing key."""
        return signer_of(name)

    def sealing_key(self, name: str) -> SealingKey:
        """Return a node's sealing key."""
        return sealing_key_of(name)

    def digest_of(self, package: UploadPackage) -> str:
        """Return the name of an upload."""
        return document_digest(package.document)

    def context(self, group: str) -> RoundContext:
        """Return the attempt's context in a group."""
        if group not in self._contexts:
            self._contexts[group] = RoundContext(
                job="urn:uuid:job",
                manifest="00" * 32,
                plan="11" * 32,
                model="22" * 32,
                round=1,
                attempt=1,
                k=self.scene.k,
                d=self.scene.d,
                group=group,
                aggregation="tree",
            )
        return self._contexts[group]

    def group(self, name: str, replaced: Mapping[int, int]) -> Group:
        """Return a group as it is when its columns have been replaced so often."""
        key = (name, tuple(sorted(replaced.items())))
        if key not in self._groups:
            self._groups[key] = self._make_group(name, replaced)
        return self._groups[key]

    def _make_group(self, name: str, replaced: Mapping[int, int]) -> Group:
        scene, (m, t) = self.scene, self.scene.shape
        seats = tuple(_seat_keys(who) for who in self.tree.seats(name, replaced))
        if not self.tree.is_leaf(name):
            count = len(self.tree.children(name))
            return Group(seats=seats, threshold=t, n_min=1, n_max=count, copies=1, inner=True)
        opened = tuple(_seat_keys(who) for who in self.tree.seats(name, self.before.get(name, {})))
        return Group(
            seats=seats,
            threshold=t,
            n_min=scene.n_min,
            n_max=10**6,
            copies=scene.copies or m - t,
            signers=() if opened == seats else opened,
            order=self.members[name],
        )

    def replaced_now(self, group: str) -> Mapping[int, int]:
        """Return how often the columns of a group have been replaced by now."""
        return self.collector.rounds[group].replaced

    # What nodes tell the collector, and hand to each other.

    def notice(self, sender: Machine, leaf: str, name: str, digest: str) -> None:
        """Tell the collector that an upload is complete."""
        self.network.send(sender, self.collector.machine, 300, lambda: self.collector.take_notice(leaf, name, digest))

    def tell_unreachable(self, sender: Machine, group: str, seat: str) -> None:
        """Tell the collector that a seat did not answer."""
        self.network.send(sender, self.collector.machine, 100, lambda: self.collector.take_unreachable(group, seat))

    def hand_up(self, seat: Seat, document: dict[str, Any], vector: bytes, to: str | None) -> None:
        """Tell the collector of a share, while it is handed to the parent's seat."""
        parent = self.tree.parent(seat.name)
        if to is None or parent is None:
            self.network.send(
                seat.machine,
                self.collector.machine,
                self.vector_bytes,
                lambda: self.collector.take_top(seat.name, document, vector),
            )
            return
        above = self.seat(parent, to)

        def serve(answer: Event) -> None:
            above.take_child(seat.name, document, vector)
            answer()

        self.network.send(
            seat.machine, self.collector.machine, 600, lambda: self.collector.take_share(seat.name, document)
        )
        self.network.call(
            seat.machine,
            above.machine,
            self.vector_bytes,
            serve=serve,
            done=lambda: self.network.send(
                seat.machine, self.collector.machine, 100, lambda: self.collector.take_delivered(seat.name, document)
            ),
            failed=lambda: self.tell_unreachable(seat.machine, parent, to),
            patience=self.timeout,
        )

    def run(self) -> Outcome:
        """Let the attempt happen."""
        for contributor in self.contributors.values():
            contributor.start()
        self.collector.watch()
        self.clock.run(self.scene.limit)
        return self.collector.outcome()


class _Collector:
    """The collector: `conduct.advance` and what it asks for."""

    def __init__(self, world: World, patience: Patience) -> None:
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
        if isinstance(value.proposed, ContributorSet):
            header: Any = read_share(document, value.proposed, context=context, group=present)
        elif isinstance(value.proposed, InnerSet) and present.seat_of(document["payload"]["seat"]) is not None:
            header = read_inner_share(document, value.proposed, context=context, group=present)
        else:
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

        self._send(seat, self._size(proposed), lambda: seat.ask_to_sign(proposed, action.doubtful, reply))

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

        size = self._size(proposed) + group.quorum * STATEMENT_BYTES
        self._send(seat, size, lambda: seat.order(order, reply))

    def _heard_order(self, group: str, seat: Seat, missing: tuple[str, ...]) -> None:
        facts, name = self.facts[group], seat.participant
        heard = {**facts.heard, name: self.clock.now}
        self.learn(group, heard=heard, missing={**facts.missing, name: missing})

    def _digest(self, proposed: ContributorSet | InnerSet) -> str:
        plain = proposed.as_set() if isinstance(proposed, InnerSet) else proposed
        return str(plain.statement(self.world.context(TOP), "")["uploads"])

    def _size(self, proposed: ContributorSet | InnerSet) -> int:
        return 300 + ENTRY_BYTES * len(proposed.covers if isinstance(proposed, InnerSet) else proposed.uploads)

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


def clear_total(world: World, names: tuple[str, ...]) -> RingVector:
    """Return the sum that these contributors' plain vectors have."""
    total = np.zeros(world.scene.d, dtype=ring_dtype(world.scene.k))
    for name in names:
        total += world.vectors[name]
    packed = pack(total, world.scene.k)
    return np.frombuffer(bytes(packed), dtype=np.uint8)
