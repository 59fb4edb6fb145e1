"""DEVELOPMENT ONLY: identities without proof, for conformance kits that cannot sign.

Any bearer value listed here *is* the participant it is mapped to. Nothing but a test kit's wiring imports this module.
"""

import logging
from collections.abc import Mapping

from connector.identity.errors import UnauthorizedError
from connector.identity.membership import PeerIdentity

_LOG = logging.getLogger("orchard.identity")
_WARNING = (
    "DEVELOPMENT IDENTITY: %s without any proof. Never reachable from a network you do not own; "
    "a real participant configures [identity] key, membership and authority."
)


class DevelopmentVerifier:
    """Maps the value of an Authorization header to a participant, with no proof. Warns when made."""

    def __init__(self, peers: Mapping[str, PeerIdentity], *, anyone: PeerIdentity | None = None) -> None:
        """Accept the given header values; ``anyone`` is who all other callers are taken for, if at all.

        An identity's ``address`` is the prefix that its callback addresses must have.
        """
        _LOG.warning(_WARNING, "callers are believed")
        self._peers = dict(peers)
        self._anyone = anyone

    def verify(self, header: str | None) -> PeerIdentity:
        """Return the participant that a header value stands for.

        Raises:
            UnauthorizedError: the value stands for nobody.
        """
        identity = self._peers.get((header or "").removeprefix("Bearer ")) or self._anyone
        if identity is None:
            raise UnauthorizedError("unknown-token", "no development identity has this token")
        return identity


class DevelopmentIssuer:
    """Sends the same bearer value to everyone. Warns when made."""

    def __init__(self, participant_id: str, token: str) -> None:
        """Send ``token`` as the identity of ``participant_id``."""
        _LOG.warning(_WARNING, "requests are sent")
        self.participant_id = participant_id
        self._token = token

    def authorization(self, audience: str) -> str:  # noqa: ARG002 - the shape of IdentityIssuer
        """Return the header value, whoever the audience is."""
        return f"Bearer {self._token}"
