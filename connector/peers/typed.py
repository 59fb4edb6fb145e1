"""A client for addresses that an operator has typed into this participant's own configuration: no participant's, no token."""

from collections.abc import Callable
from pathlib import Path

from connector.peers.client import PeerClient, PeerUnreachableError


class _NoParticipant:
    """Signs nothing: what is called here is not a peer."""

    def authorization(self, audience: str) -> str:
        """Refuse."""
        raise PeerUnreachableError("ours", f"this request is not one between participants (asked for {audience})")


def typed_client(permits: Callable[[str], bool], connect_seconds: float, ca_file: Path | None) -> PeerClient:
    """Return a client that calls what ``permits`` allows and never says who we are by itself."""
    return PeerClient(issuer=_NoParticipant(), permits=permits, connect_seconds=connect_seconds, ca_file=ca_file)
