"""The room's calls to peers over the peers client (port: ``contracts.ports.PeerCalls``)."""

from collections.abc import Mapping
from typing import Protocol

from connector.identity.membership import PeerIdentity
from connector.peers.client import MAX_ANSWER, PeerClient, PeerUnreachableError
from contracts.errors import PeerUnavailableError
from contracts.ports import Peer, PeerAnswer
from contracts.processes import Caller

DSP_PATH = "/dsp/2025-1"
_JSON: Mapping[str, str] = {"Content-Type": "application/json"}


class PeerWire:
    """Sends DSP bodies with our identity; any HTTP status is an answer, no answer is a PeerUnavailableError."""

    def __init__(self, client: PeerClient, *, seconds: float = 10.0) -> None:
        """Send through ``client``; a whole exchange takes at most ``seconds``, well within a lease."""
        self._client = client
        self._seconds = seconds

    def call(
        self,
        method: str,
        url: str,
        *,
        audience: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> PeerAnswer:
        """See the port."""
        given = {**_JSON, **(headers or {})} if body is not None else headers
        try:
            answer = self._client.request(
                method,
                url,
                audience=audience,
                content=body,
                headers=given,
                timeout=self._seconds,
                max_bytes=max_bytes or MAX_ANSWER,
                # Whoever gets a message twice knows it by its id.
                again=True,
            )
        except PeerUnreachableError as error:
            raise PeerUnavailableError(str(error)) from error
        return PeerAnswer(status=answer.status, body=answer.body, headers=answer.headers)


class _KnownMembership(Protocol):
    @property
    def identity(self) -> PeerIdentity: ...


class _Memberships(Protocol):
    def get(self, participant_id: str) -> _KnownMembership | None: ...


class MembershipPeers:
    """Peers by the address in their stored membership (port: ``contracts.ports.PeerDirectory``)."""

    def __init__(self, store: _Memberships) -> None:
        """Look in ``store`` (``connector.storage.peers.SqlPeerStore``)."""
        self._store = store

    def find(self, participant_id: str) -> Peer | None:
        """See the port."""
        known = self._store.get(participant_id)
        if known is None:
            return None
        address = known.identity.address.rstrip("/")
        return Peer(participant_id=known.identity.participant_id, dsp_url=address + DSP_PATH)


def caller_of(identity: PeerIdentity) -> Caller:
    """Return an authenticated peer as the contracts room knows it."""
    return Caller(
        participant_id=identity.participant_id,
        address=identity.address,
        public_key=identity.public_key,
        roles=tuple(identity.roles),
    )
