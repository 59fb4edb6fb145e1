"""A simulated clock, network and processors, for the failure simulator: events in order, nothing real passes.

The prices are those under which Mirval's strategies were published (SSDBM 2021, 2023): one-way latency Rayleigh with
mean 33 ms, cut off at ten times that; 6 MB/s on the sender's line, transfers one after the other, small messages
between them; 50 us per kB for anything done to a vector; 10 ms for an asymmetric operation.
"""

import dataclasses
import heapq
import math
from collections.abc import Callable

import numpy as np

SMALL = 16_000
Event = Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What things cost, in seconds and bytes."""

    latency: float = 0.033
    cap: float = 10.0
    bandwidth: float = 6e6
    per_byte: float = 50e-6 / 1000
    asymmetric: float = 0.010
    receive_limited: bool = False


class Clock:
    """Events in the order of their time; equal times in the order in which they were set."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._count = 0

    def at(self, when: float, event: Event) -> None:
        """Have ``event`` happen at ``when``."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, event))

    def run(self, until: float) -> None:
        """Let everything happen up to ``until``, or until nothing is left."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()

    def stop(self) -> None:
        """Forget what was still to come."""
        self._events.clear()


class Machine:
    """One node: a line out, a processor with a short queue for signatures and a long one for vectors, and its end."""

    def __init__(self, name: str, clock: Clock, prices: Prices, dies: float = math.inf) -> None:
        self.name, self.clock, self.prices, self.dies = name, clock, prices, dies
        self._line = self._small = self._inbound = 0.0
        self._light = self._heavy = 0.0
        self.sent = self.received = 0

    @property
    def alive(self) -> bool:
        """Whether the node has not ended yet."""
        return self.clock.now < self.dies

    def light(self, operations: int, then: Event) -> None:
        """Do signatures and boxes; what is done to vectors meanwhile takes so much longer."""
        took = operations * self.prices.asymmetric
        self._light = max(self._light, self.clock.now) + took
        self._heavy = max(self._heavy, self.clock.now) + took
        self._later(self._light, then)

    def heavy(self, vector_bytes: float, then: Event) -> None:
        """Do something to so many bytes of vectors, after what was begun before."""
        self._heavy = max(self._heavy, self.clock.now) + vector_bytes * self.prices.per_byte
        self._later(self._heavy, then)

    def transmit(self, size: int) -> float:
        """Return when ``size`` bytes have left the node; one after the other, small messages between them."""
        took = size / self.prices.bandwidth
        self.sent += size
        if size <= SMALL:
            self._small = max(self._small, self.clock.now) + took
            self._line = max(self._line, self.clock.now) + took
            return self._small
        self._line = max(self._line, self.clock.now) + took
        return self._line

    def arrive(self, when: float, size: int) -> float:
        """Return when ``size`` bytes have arrived whose last could arrive at ``when``."""
        self.received += size
        if not self.prices.receive_limited or size <= SMALL:
            return when
        self._inbound = max(self._inbound, when - size / self.prices.bandwidth) + size / self.prices.bandwidth
        return self._inbound

    def _later(self, when: float, then: Event) -> None:
        if when < self.dies:
            self.clock.at(when, then)


class Network:
    """Messages between machines: late by chance, lost where an end has died or the two cannot reach each other."""

    def __init__(self, clock: Clock, prices: Prices, seed: int) -> None:
        self.clock, self.prices = clock, prices
        self._draws = np.random.default_rng(seed)
        self.cut: Callable[[str, str, float], bool] = lambda _a, _b, _now: False

    def latency(self) -> float:
        """Return one message's latency."""
        mean = self.prices.latency
        return float(min(self._draws.rayleigh(mean / math.sqrt(math.pi / 2)), mean * self.prices.cap)) if mean else 0.0

    def send(self, sender: Machine, receiver: Machine, size: int, then: Event) -> None:
        """Send ``size`` bytes; ``then`` happens at the receiver, if both live long enough."""
        if not sender.alive:
            return
        left = sender.transmit(size)
        if left >= sender.dies or self.cut(sender.name, receiver.name, self.clock.now):
            return
        when = receiver.arrive(left + self.latency(), size)
        if when < receiver.dies:
            self.clock.at(when, then)

    def call(
        self,
        sender: Machine,
        receiver: Machine,
        size: int,
        *,
        serve: Callable[[Event], None],
        done: Event,
        failed: Event,
        patience: float,
    ) -> None:
        """Send ``size`` bytes and wait for the answer: ``serve`` runs there and is given what sends the answer back.

        ``failed`` happens here when no answer has come ``patience`` seconds after the message has left.
        """
        open_calls = [True]

        def answer() -> None:
            self.send(receiver, sender, 200, arrived)

        def arrived() -> None:
            if open_calls and sender.alive:
                open_calls.clear()
                done()

        def give_up() -> None:
            if open_calls and sender.alive:
                open_calls.clear()
                failed()

        self.send(sender, receiver, size, lambda: serve(answer))
        self.clock.at(max(sender._line if size > SMALL else sender._small, self.clock.now) + patience, give_up)
