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
from learning.secagg.conduct_state import (
    Patience,
)
from learning.secagg.context import Group, RoundContext
from learning.secagg.context import Seat as SeatKeys
from learning.secagg.contributor import UploadPackage
from learning.secagg.keys import SealingKey
from learning.secagg.packing import RingVector, pack, ring_dtype
from learning.tree import ExecutionTree, deal_leaves, place_columns
from policies.signing import Signer, document_digest
from tests.simulation.sim_clock import Clock, Event, Machine, Network, Prices
from tests.simulation.sim_collector import COLLECTOR, Collector, Outcome
from tests.simulation.sim_nodes import Contributor, Seat, order_bytes


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
        straggle: how long a leaf waits for the others when half have spoken; None: as long as one repeat takes.
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
    straggle: float | None = None


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
        self.repeat = self.timeout + 2 * transfer + 0.15
        self.straggle = self.repeat if scene.straggle is None else scene.straggle
        self.beacon = hashlib.sha256(f"beacon {scene.seed}".encode()).hexdigest()
        self.people = [f"c{number:05d}" for number in range(scene.contributors)]
        workers = self.people if scene.workers is None else [f"w{number:05d}" for number in range(scene.workers)]
        candidates = [Candidate(participant=name, organisation=name) for name in workers]
        columns = place_columns(self.beacon, candidates, seats=scene.shape[0], collector_organisation=COLLECTOR)
        self.tree = ExecutionTree.grow(scene.leaves, scene.fan_out, columns)
        # Nobody is asked again before what is said to all seats has left the collector.
        size = order_bytes(scene.contributors // scene.leaves)
        again += len(self.tree.names) * scene.shape[0] * size / scene.prices.bandwidth
        patience = Patience(again=again, silent=2, stuck=max(40, int(400 * transfer / again)), grace=0.2)
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
        self.collector = Collector(self, patience)

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
        self.report(sender, 300, lambda: self.collector.take_notice(leaf, name, digest))

    def report(self, sender: Machine, size: int, then: Event, patience: float | None = None) -> None:
        """Tell the collector something until it has heard, ever less often; it may hear it twice."""
        patience = patience or self.timeout

        def serve(answer: Event) -> None:
            then()
            answer()

        def again() -> None:
            if self.collector.ended is None:
                self.report(sender, size, then, 2 * patience)

        self.network.call(
            sender,
            self.collector.machine,
            size,
            serve=serve,
            done=lambda: None,
            failed=again,
            patience=patience,
        )

    def tell_unreachable(self, sender: Machine, group: str, seat: str) -> None:
        """Tell the collector that a seat did not answer."""
        self.report(sender, 100, lambda: self.collector.take_unreachable(group, seat))

    def hand_up(self, seat: Seat, document: dict[str, Any], vector: bytes, to: str | None) -> None:
        """Tell the collector of a share, while it is handed to the parent's seat."""
        parent = self.tree.parent(seat.name)
        if to is None or parent is None:
            self.report(seat.machine, self.vector_bytes, lambda: self.collector.take_top(seat.name, document, vector))
            return
        above = self.seat(parent, to)

        def serve(answer: Event) -> None:
            above.take_child(seat.name, document, vector)
            self.report(above.machine, 100, lambda: self.collector.take_delivered(seat.name, document))
            answer()

        self.report(seat.machine, 600, lambda: self.collector.take_share(seat.name, document))
        self.network.call(
            seat.machine,
            above.machine,
            self.vector_bytes,
            serve=serve,
            done=lambda: None,
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


def clear_total(world: World, names: tuple[str, ...]) -> RingVector:
    """Return the sum that these contributors' plain vectors have."""
    total = np.zeros(world.scene.d, dtype=ring_dtype(world.scene.k))
    for name in names:
        total += world.vectors[name]
    packed = pack(total, world.scene.k)
    return np.frombuffer(bytes(packed), dtype=np.uint8)
