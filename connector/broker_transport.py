"""kombu's Redis transport, for workers whose broker may go away in the middle of a task.

A message is a doorbell: what it rang for is in the database, and the sweep rings again. So there is nothing to
acknowledge or to give back over a connection that is gone; kombu 5.7 tries both on the closed channel, and the
AttributeError that comes of it ends the worker.
"""

from typing import Any

from kombu.transport import redis


class Channel(redis.Channel):
    """A channel that says nothing about its messages once it is closed."""

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
