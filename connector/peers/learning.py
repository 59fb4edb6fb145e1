"""The learning API of other participants (``learning.ports.Peers``)."""

from collections.abc import Mapping
from typing import Any

from connector.peers.client import PeerClient, PeerUnreachableError
from connector.peers.directory import PeerDirectory
from learning.errors import PeerError
from learning.ports import Reply

_SECONDS = 60.0


class HttpLearningPeers:
    """Calls peers at the addresses that their memberships name."""

    def __init__(self, client: PeerClient, directory: PeerDirectory) -> None:
        """Send through ``client``; ``directory`` knows addresses and names."""
        self._client = client
        self._directory = directory

    def call(
        self,
        participant_id: str,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Call ``{address}/learning{path}``.

        Raises:
            PeerError: the participant is not known, did not answer, or answered with something other than JSON.
        """
        peer = self._directory.get(participant_id)
        if peer is None:
            raise PeerError(f"no membership of {participant_id} is known here", code="unknown-peer")
        # A body without a type passes for JSON, whose texts are looked at.
        sent = {} if content is None else {"content-type": "application/octet-stream"}
        sent |= dict(headers or {})
        if token is not None:
            sent["orchard-transfer"] = token
        try:
            answer = self._client.request(
                method,
                f"{peer.address}/learning{path}",
                audience=participant_id,
                json=json,
                content=content,
                headers=sent,
                timeout=_SECONDS,
            )
            body = answer.json() if answer.body else {}
        except PeerUnreachableError as error:
            raise PeerError(f"{peer.name}: {error}", code=error.code) from error
        return Reply(status=answer.status, body=body if isinstance(body, Mapping) else {})

    def name(self, participant_id: str) -> str:
        """Return a participant's name for people; its id where none is known."""
        peer = self._directory.get(participant_id)
        return peer.name if peer is not None else participant_id
