"""kombu's Redis transport, for messages that are doorbells.

What a message rang for is in the database, and the sweep rings again. So the broker need not remember what is being
worked on, which is half of what kombu asks of it, and there is nothing to acknowledge or to give back over a connection
that is gone; kombu 5.7 tries both on the closed channel, and the AttributeError that comes of it ends the worker.
"""

from typing import Any

from kombu.transport import redis, virtual


class QoS(virtual.QoS):
    """Counts unacknowledged messages in this process alone, for the prefetch limit."""

    restore_at_shutdown = False

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Restore nothing: a message whose worker went away is rung again by the sweep."""


class Channel(redis.Channel):
    """A channel that says nothing about its messages once it is closed."""

    QoS = QoS  # type: ignore[assignment] # kombu asks only for the virtual one
    do_restore = False

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Acknowledge a message while the channel is open."""
        if not self.closed:
            super().basic_ack(delivery_tag, multiple=multiple)  # type: ignore[no-untyped-call] # kombu has no types

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Reject a message while the channel is open."""
        if not self.closed:
            super().basic_reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call] # kombu has no types


class Transport(redis.Transport):
    """Redis and Valkey with such channels."""

    Channel = Channel
