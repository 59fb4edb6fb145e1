"""Contributors and seats of the failure simulator: the real core's calls, on small vectors, at simulated prices."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from learning.secagg.context import Group
from learning.secagg.contributor import UploadPackage, draw_mask, prepare_upload, reseal
from learning.secagg.errors import QuorumError, SeatsLostError, SecondSetError
from learning.secagg.header import UploadHeader
from learning.secagg.inner import InnerSet, accept_child_share, release_inner
from learning.secagg.packing import Bytes
from learning.secagg.reseals import accept_reseal
from learning.secagg.seat import accept_upload, accept_vector, open_seeds, received, release
from learning.secagg.sets import ContributorSet, sign_set
from learning.secagg.work import Parts, begin, duties, grow, own_seeds
from tests.simulation.sim_clock import Event, Machine

if TYPE_CHECKING:
    from tests.simulation.tree_simulator import World

HEADER_BYTES, BOX_BYTES, STATEMENT_BYTES, ENTRY_BYTES = 1800, 240, 500, 120


def set_bytes(entries: int) -> int:
    """Return the size of a set of so many contributors or children."""
    return 300 + ENTRY_BYTES * entries


def order_bytes(entries: int, quorum: int = 4) -> int:
    """Return the size of an order to release, with the signatures."""
    return set_bytes(entries) + quorum * STATEMENT_BYTES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """An order to release: the set, its signatures, and the group as the collector had it."""

    proposed: ContributorSet | InnerSet
    statements: tuple[dict[str, Any], ...]
    lost: frozenset[int]
    blank: frozenset[int]
    to: str | None
    group: Group

    @property
    def what(self) -> tuple[Any, ...]:
        """What makes two orders the same."""
        return (self.proposed, self.lost, self.blank, self.to)


class Contributor:
    """Speaks once: header and boxes to every seat of its leaf, its vector to the first carrier that answers."""

    def __init__(self, world: "World", name: str, leaf: str) -> None:
        self.world, self.name, self.leaf = world, name, leaf
        self.machine = world.machine(name)
        self.context, self.group = world.context(leaf), world.group(leaf, world.before.get(leaf, {}))
        self.package: UploadPackage | None = None
        self.stored = False

    def start(self) -> None:
        """Begin when the local step is over; the mask was drawn while it ran, unless masks are late."""
        world, size = self.world, self.world.vector_bytes
        late = len(self.group.table) if world.late_masks else 1
        seals = len(self.group.seats) if world.late_masks else 0
        self.machine.heavy(late * size, lambda: self.machine.light(seals + 1, self._send))

    def _send(self) -> None:
        mask = draw_mask(self.context, self.group, self.name)
        signer, vector = self.world.signer(self.name), self.world.vectors[self.name]
        self.package = prepare_upload(
            vector, context=self.context, group=self.group, signer=signer, contributor=self.name, mask=mask
        )
        for column in range(len(self.group.seats)):
            self._hand_header(column)
        self._hand_vector(self.group.carriers(self.context, self.name))

    def _hand_header(self, column: int) -> None:
        seat, package = self.world.seat(self.leaf, self.group.seats[column].participant), self.package
        if package is None:
            return

        def serve(answer: Event) -> None:
            seat.take_header(package.document, package.boxes[column])
            answer()

        def failed() -> None:
            self.world.tell_unreachable(self.machine, self.leaf, seat.machine.name)

        size = HEADER_BYTES + BOX_BYTES
        self._call(seat, size, serve, lambda: None, failed)

    def _hand_vector(self, carriers: tuple[int, ...]) -> None:
        """Give the vector to the first carrier; to the next one if that one does not answer."""
        if not carriers or self.package is None:
            return
        package, (first, *others) = self.package, carriers
        seat = self.world.seat(self.leaf, self.group.seats[first].participant)

        def serve(answer: Event) -> None:
            answer()
            seat.take_vector(self.name, package.vector, copies=tuple(others), stored=stored)

        def stored() -> None:
            # The seat reports what it holds whole: the contributor need not live to see it.
            self.world.notice(seat.machine, self.leaf, self.name, digest)
            self.world.network.send(seat.machine, self.machine, 200, told)

        def told() -> None:
            self.stored = True

        def check() -> None:
            # The carrier took the vector and died before it had copies made.
            if not self.stored and self.machine.alive:
                self._hand_vector(tuple(others))

        digest = self.world.digest_of(package)
        self._call(
            seat,
            self.world.vector_bytes,
            serve,
            lambda: self.world.clock.at(self.world.clock.now + self.world.repeat, check),
            lambda: self._hand_vector(tuple(others)),
        )

    def _call(self, seat: "Seat", size: int, serve: Callable[[Event], None], done: Event, failed: Event) -> None:
        patience = self.world.timeout
        self.world.network.call(
            self.machine, seat.machine, size, serve=serve, done=done, failed=failed, patience=patience
        )

    def reseal(self, column: int, participant: str) -> None:
        """Seal the stored seeds to a seat that replaced another."""
        package = self.package
        if package is None:
            return

        def sealed() -> None:
            seat = self.world.seat(self.leaf, participant)
            group = seat.group()
            if group.seats[column].participant != participant:
                return
            document, box = reseal(
                package.seeds,
                package.document,
                column=column,
                context=self.context,
                group=group,
                signer=self.world.signer(self.name),
            )
            size = HEADER_BYTES + STATEMENT_BYTES + BOX_BYTES
            self.world.network.send(
                self.machine, seat.machine, size, lambda: seat.take_reseal(document, package.document, box)
            )

        self.machine.light(2, sealed)


class Seat:
    """A seat of a leaf or of an inner group, on its machine."""

    def __init__(self, world: "World", group: str, participant: str) -> None:
        self.world, self.name, self.participant = world, group, participant
        self.machine: Machine = world.machine(participant)
        column = world.tree.column_of(participant)
        self.column = -1 if column is None else column
        self.context = world.context(group)
        self.inner = not world.tree.is_leaf(group)
        self.headers: dict[str, UploadHeader] = {}
        self.seeds: dict[str, tuple[bytes, ...]] = {}
        self.vectors: dict[str, Bytes] = {}
        self.whole: set[str] = set()
        self.begun = begin(self.context)
        self.children: dict[str, Bytes] = {}
        self.signed: list[dict[str, Any]] = []
        self.kept: list[tuple[dict[str, Any], Bytes]] = []
        self.released: tuple[frozenset[int], frozenset[int]] | None = None
        self.doubtful: frozenset[int] = frozenset()
        self.working: Any = None
        self.done: Any = None
        self.next: Any = None
        self.later: Any = None
        self._waiting: list[Callable[[], bool]] = []

    def group(self) -> Any:
        """Return the group as the collector has it now."""
        return self.world.group(self.name, self.world.replaced_now(self.name))

    # A leaf seat takes uploads.

    def take_header(self, document: dict[str, Any], box: bytes) -> None:
        """Check a header and a box, then expand this seat's own masks while others still upload."""

        def checked() -> None:
            header, opened = accept_upload(
                document,
                box,
                column=self.column,
                context=self.context,
                group=self.group(),
                members=self.world.keys,
                key=self.world.sealing_key(self.participant),
                known={name: found.digest for name, found in self.headers.items()},
            )
            self._hold(header, opened)

        self.machine.light(2, checked)

    def _hold(self, header: UploadHeader, opened: tuple[bytes, ...]) -> None:
        name = header.contributor
        self.headers[name], self.seeds[name] = header, opened
        own = own_seeds(self.column, self.group())
        self.machine.heavy(len(own) * self.world.vector_bytes, lambda: grow(self.begun, self.parts(), masks=[name]))
        self._add(name)
        self._look()

    def _add(self, name: str) -> None:
        """Check a vector once its header is here; add it, where this seat is the first to carry it."""
        if name not in self.headers or name not in self.vectors or name in self.whole:
            return
        accept_vector(self.headers[name], self.vectors[name], self.context)
        self.whole.add(name)
        if self.group().carriers(self.context, name)[0] == self.column:
            self.machine.heavy(self.world.vector_bytes, lambda: grow(self.begun, self.parts(), carried=[name]))

    def take_vector(self, name: str, vector: Bytes, copies: tuple[int, ...], stored: Event) -> None:
        """Store a vector, hand it to the seats that keep copies, and say when each has it or is silent."""
        self.vectors[name] = vector
        open_copies = set(copies)

        def over(column: int) -> None:
            open_copies.discard(column)
            if not open_copies:
                stored()

        for column in copies:
            other = self.world.seat(self.name, self.group().seats[column].participant)
            self.world.network.call(
                self.machine,
                other.machine,
                self.world.vector_bytes,
                serve=lambda reply, seat=other: seat.take_vector(name, vector, (), reply),  # type: ignore[misc]
                done=lambda column=column: over(column),  # type: ignore[misc]
                failed=lambda column=column: over(column),  # type: ignore[misc]
                patience=self.world.timeout,
            )
        if not copies:
            stored()
        self._add(name)
        self._look()

    def take_reseal(self, document: dict[str, Any], upload: dict[str, Any], box: bytes) -> None:
        """Take seeds that were sealed again to this seat."""

        def checked() -> None:
            group = self.group()
            found = accept_reseal(
                document, upload, column=self.column, context=self.context, group=group, members=self.world.keys
            )
            key = self.world.sealing_key(self.participant)
            opened = open_seeds(
                found.header,
                box,
                column=self.column,
                context=self.context,
                group=group,
                key=key,
                resealed=found.box,
            )
            self._hold(found.header, opened)

        if upload["payload"]["contributor"] not in self.headers:
            self.machine.light(3, checked)

    def held(self) -> dict[str, str]:
        """Return the uploads that this seat has whole."""
        known = {name: header.digest for name, header in self.headers.items()}
        return received(known, self.whole, column=self.column, context=self.context, group=self.group())

    def parts(self) -> Parts:
        """Return where this seat's seeds and vectors are."""
        return Parts(
            column=self.column,
            context=self.context,
            group=self.group(),
            seeds=self.seeds.__getitem__,
            vectors=self.vectors.__getitem__,
        )

    # Both kinds sign, release, and hand their share up.

    def ask_to_sign(
        self, proposed: ContributorSet | InnerSet, doubtful: frozenset[int], answer: Callable[[Any], None]
    ) -> None:
        """Answer with a signature as soon as everything named is here; after a while, with what is missing."""
        if isinstance(proposed, ContributorSet) and doubtful - self.doubtful and self.column not in doubtful:
            # The work of seats that seem to be gone begins before they are given up, where it could be of use.
            with contextlib.suppress(SeatsLostError):
                extra = self._extra(proposed, doubtful, frozenset())
                self.machine.heavy(extra * self.world.vector_bytes, lambda: None)
                self.doubtful = doubtful
        self.ask_what_is_here(
            proposed, lambda: self.machine.light(1, lambda: answer(self._sign_or_refuse(proposed))), answer
        )

    def ask_what_is_here(
        self, proposed: ContributorSet | InnerSet, whole: Event, answer: Callable[[tuple[str, ...]], None]
    ) -> None:
        """Do ``whole`` as soon as everything named is here; after a while, answer with what is missing."""
        answered = []

        def ready() -> bool:
            if answered:
                return True
            if self._missing(proposed):
                return False
            answered.append(True)
            whole()
            return True

        def enough() -> None:
            if not answered:
                answered.append(True)
                answer(self._missing(proposed))

        if not ready():
            self._waiting.append(ready)
            self.world.clock.at(self.world.clock.now + self.world.hold, enough)

    def _missing(self, proposed: ContributorSet | InnerSet) -> tuple[str, ...]:
        if isinstance(proposed, InnerSet):
            return proposed.missing(self.column, self.children)
        held = self.held()
        return tuple(name for name, header in proposed.uploads if held.get(name) != header)

    def _sign_or_refuse(self, proposed: ContributorSet | InnerSet) -> Any:
        if self.group().voice_of(self.participant) is None:
            # Replaced while it was asked.
            return None
        try:
            return self._sign(proposed)
        except SecondSetError:
            return None

    def _sign(self, proposed: ContributorSet | InnerSet) -> dict[str, Any]:
        inner = isinstance(proposed, InnerSet)
        document = sign_set(
            proposed.as_set() if inner else proposed,
            context=self.context,
            group=self.group(),
            signer=self.world.signer(self.participant),
            held=proposed.held(self.column, self.children) if inner else self.held(),
            signed=self.signed,
        )
        self.signed.append(document)
        return document

    def order(self, order: "Order", answer: Callable[[Any], None]) -> None:
        """Release what this seat owes, once; an order that is being carried out is only acknowledged."""
        missing = self._lacking(order.proposed)
        answer(missing)
        if order.what in (self.working, self.done) or self._stale(order):
            return
        if missing:
            # Carried out as soon as the rest is here.
            self.later = (order, answer)
        elif self.working is not None:
            # One after the other: a further share begins where the last one ended.
            self.next = order
        else:
            self.working = order.what
            self._begin(order)

    def _stale(self, order: "Order") -> bool:
        """Say whether the order was overtaken on its way by one that knew of more lost seats."""
        if self.released is None or isinstance(order.proposed, InnerSet):
            return False
        lost, blank = self.released
        return not (lost <= order.lost and blank <= order.blank)

    def _begin(self, order: "Order") -> None:
        proposed, checks = order.proposed, len(order.statements)
        if isinstance(proposed, InnerSet):
            self._work(checks, 0, lambda: self._sum(proposed, order), order.to)
        elif self.released == (order.lost, order.blank):
            self.resend(order.to)
            self._finished()
        else:
            begun = self.released is None and bool(order.lost) and order.lost <= self.doubtful
            extra = 0 if begun else self._extra(proposed, order.lost, order.blank) * self.world.vector_bytes
            self._work(checks, extra, lambda: self._share(proposed, order), order.to)

    def _work(self, checks: int, vector_bytes: float, make: Callable[[], Any], to: str | None) -> None:
        def made() -> None:
            try:
                share = make()
            except QuorumError:
                # Seats that had signed were replaced while the order was on its way; another one follows.
                self.working = None
                return
            data = bytes(share.vector)
            self.kept.append((share.document, data))
            self.machine.light(1, lambda: self._hand_up(share.document, data, to))
            self._finished()

        self.machine.light(checks, lambda: self.machine.heavy(vector_bytes, made))

    def _finished(self) -> None:
        self.working, self.done = None, self.working
        if self.next is not None:
            order, self.next = self.next, None
            self.order(order, lambda _missing: None)

    def _lacking(self, proposed: ContributorSet | InnerSet) -> tuple[str, ...]:
        if isinstance(proposed, InnerSet):
            return self._missing(proposed)
        return tuple(name for name in proposed.contributors if name not in self.seeds)

    def _extra(self, proposed: ContributorSet, lost: frozenset[int], blank: frozenset[int]) -> int:
        """Return how many vectors have to be expanded or added beyond what was begun as uploads came."""
        group = self.group()
        work = duties(self.column, proposed, lost, context=self.context, group=group, blank=blank)
        names, own = set(proposed.contributors), own_seeds(self.column, group)
        if self.released is not None:
            done = duties(
                self.column, proposed, self.released[0], context=self.context, group=group, blank=self.released[1]
            )
            return len(work.seeds - done.seeds) * len(names) + len(work.carried - done.carried)
        strangers = set(self.headers) - names
        mine = {name for name in self.whole if group.carriers(self.context, name)[0] == self.column}
        moved = len(mine ^ work.carried)
        return len(work.seeds - own) * len(names) + len(own) * len(strangers) + moved

    def _share(self, proposed: ContributorSet, order: "Order") -> Any:
        before = self.released or (None, frozenset())
        share = release(
            proposed,
            order.statements,
            column=self.column,
            context=self.context,
            group=order.group,
            signer=self.world.signer(self.participant),
            lost=order.lost,
            released=before[0],
            seeds=self.seeds.__getitem__,
            vectors=self.vectors.__getitem__,
            blank=order.blank,
            released_blank=before[1],
            begun=self.begun,
        )
        self.released = (order.lost, order.blank)
        return share

    def _sum(self, agreed: InnerSet, order: "Order") -> Any:
        return release_inner(
            agreed,
            order.statements,
            column=self.column,
            context=self.context,
            group=order.group,
            signer=self.world.signer(self.participant),
            vectors=self.children.__getitem__,
        )

    def resend(self, to: str | None) -> None:
        """Hand every share that is kept to ``to``."""
        for document, vector in self.kept:
            self._hand_up(document, vector, to)

    def _hand_up(self, document: dict[str, Any], vector: bytes, to: str | None) -> None:
        self.world.hand_up(self, document, vector, to)

    # An inner seat takes the shares of its children.

    def take_child(self, child: str, document: dict[str, Any], vector: bytes) -> None:
        """Check a share that a child's seat of our column hands up, and add it."""

        def checked() -> None:
            ring = {name: self.world.keys[name] for name in self.world.tree.columns[self.column]}
            found = accept_child_share(
                document, vector, column=self.column, context=self.world.context(child), ring=ring
            )
            if found.digest not in self.children:
                self.children[found.digest] = vector
                self.machine.heavy(self.world.vector_bytes, lambda: None)
            self._look()

        self.machine.light(1, checked)

    def _look(self) -> None:
        self._waiting = [ready for ready in self._waiting if not ready()]
        if self.later is not None and not self._lacking(self.later[0].proposed):
            (order, answer), self.later = self.later, None
            self.order(order, answer)
